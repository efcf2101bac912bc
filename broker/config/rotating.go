package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/policy"
)

// plan checks how the secret would rotate, and reports at the place where what is
// wrong was written.
func (l *loader) plan(s *Secret, r *policy.Resolved) {
	if s.Pair != "" && !identifier.MatchString(s.Pair) {
		l.mistake(at(s.block, "pair"), fmt.Sprintf("%q is no name for a pair", s.Pair), identifierRule)
	}
	if blockOf(s.block, "issuer") == nil {
		l.neverRotates(s)
		return
	}
	issuer := l.cfg.issuers[s.Issuer]
	if issuer != nil && issuer.broken {
		issuer = nil // nobody knows what it can do
	}
	for _, p := range rotationProblems(r.Rotation, s, issuer, l.cfg.timings) {
		if !l.guessed(s, r, p.Attribute) {
			l.problem(l.origin(s, r, p.Attribute), p)
		}
	}
	l.limited(s, r, issuer)
	if issuer != nil && !s.unsettled {
		l.shared(s, issuer)
	}
	unsure := func(setting string) bool { return l.guessed(s, r, setting) }
	if !slices.ContainsFunc([]string{"schedule", "overlap", "verify.successes", "verify.interval"}, unsure) {
		l.doubts(s, r, issuer)
	}
}

// neverRotates warns of what says how a secret rotates that nobody does.
func (l *loader) neverRotates(s *Secret) {
	if l.unknown[s.Range] {
		return
	}
	if rotation := blockOf(s.block, "rotation"); rotation != nil {
		l.warn(rotation.DefRange(), "The rotation settings are without effect: the secret has no issuer", `Add issuer "NAME" {}.`)
	}
	if s.Pair != "" {
		l.warn(at(s.block, "pair"), "The pair is without effect: the secret has no issuer", `Add issuer "NAME" {}.`)
	}
}

// limited refuses what goes beyond a limit, with the places of both.
func (l *loader) limited(s *Secret, r *policy.Resolved, issuer *Issuer) {
	made := *r
	made.Key, _ = issuer.complete(r.Key)
	for _, e := range made.Excesses() {
		if !l.guessed(s, r, e.Attribute) {
			l.excess(l.origin(s, r, e.Attribute), e)
		}
	}
}

// excess reports a setting that is said (or left to a default) at where.
func (l *loader) excess(where hcl.Range, e policy.Excess) {
	limit := limitAt(l.declared["rotation_policy"][e.Bound.Policy], e.Bound.Limit)
	if l.spoilt(limit) {
		return
	}
	source := l.sources[limit.Filename]
	l.mistake(where, summary(e.Text), fmt.Sprintf("The limit stands at %s: %s. %s", place(limit), limit.SliceBytes(source), sentence(e.Suggestion)))
}

// limitAt returns where a rotation policy says one of its limits, with its name.
func limitAt(b *hclsyntax.Block, limit string) hcl.Range {
	if limits := blockOf(b, "limits"); limits != nil && limits.Body.Attributes[limit] != nil {
		return limits.Body.Attributes[limit].SrcRange
	}
	return b.DefRange()
}

// doubts warns of what can be done and is hardly meant.
func (l *loader) doubts(s *Secret, r *policy.Resolved, issuer *Issuer) {
	unsure := func(setting string) bool { return l.guessed(s, r, setting) }
	warn := func(p policy.Problem) { l.warn(l.origin(s, r, p.Attribute), summary(p.Text), sentence(p.Suggestion)) }
	if p, ok := l.cfg.timings.crowded(r.Rotation); ok {
		warn(p)
	}
	if p, ok := l.cfg.timings.shut(r.Rotation); ok && !unsure("window") && !unsure("jitter") {
		warn(p)
	}
	if p, ok := l.cfg.timings.early(r.Rotation); ok && len(s.Consumers) > 0 && !unsure("max_age") && !unsure("notice_before") {
		warn(p)
	}
	if ack, longest := r.Acknowledgement, max(r.MaxOverlap, r.Overlap); ack.Require != policy.RequireNone && ack.Timeout > longest && !unsure("acknowledgement.timeout") && !unsure("max_overlap") {
		l.warn(l.origin(s, r, "acknowledgement.timeout"), fmt.Sprintf("The timeout of %s is longer than max_overlap, %s: the old credential is revoked by then", ack.Timeout, longest),
			"A consumer cannot hold an overlap beyond limits.max_overlap: raise that, or shorten the timeout.")
	}
	if ack := r.Acknowledgement; ack.Require != policy.RequireNone && ack.Timeout == 0 && ack.OnTimeout == policy.Proceed && !unsure("acknowledgement.timeout") && !unsure("acknowledgement.on_timeout") {
		l.warn(l.origin(s, r, "acknowledgement.timeout"), "The timeout of 0s waits for nobody: the overlap ends when it ends, and an alert names who has not acknowledged",
			"Write how long after its publication a new version is waited for, longer than the overlap.")
	}
	if issuer == nil {
		return
	}
	if window, budget := r.Confirm.Window, issuer.of(s).RevocationBudget; window > 0 && window < budget && !unsure("confirm.window") {
		l.warn(l.origin(s, r, "confirm.window"), fmt.Sprintf("The window of %s is shorter than the revocation_budget of %s of issuer %q", window, budget, issuer.Name),
			"Some servers may still accept a credential that was rejected so long: such a proof can be false. Leave the window out, or declare a shorter budget.")
	}
	if p, ok := l.cfg.timings.soaking(r.Rotation, issuer.of(s)); ok && !unsure("max_age") {
		warn(p)
	}
	if rotation := blockOf(s.block, "rotation"); issuer.keys == nil && rotation != nil && blockOf(rotation, "key") != nil {
		l.warn(blockOf(rotation, "key").DefRange(), fmt.Sprintf("The key settings are without effect: the issuer %q says itself what its credentials are like", issuer.Name), "Leave the block out.")
	}
}

// guessed tells whether a secret's setting, or what it is judged by, was reported
// where it is written, or may be written where nobody could read it.
func (l *loader) guessed(s *Secret, r *policy.Resolved, setting string) bool {
	if l.doubtful(setting, func(name string) hcl.Range { return l.origin(s, r, name) }) {
		return true
	}
	if slices.Contains([]string{"backend", "on_drift", "probe", "proof", "issuer"}, setting) || strings.HasPrefix(setting, "mirrors.") {
		return l.unknown[s.Range] || l.spoilt(at(s.block, "probe"), at(s.block, "proof"))
	}
	rotation := blockOf(s.block, "rotation")
	if !l.obscured && !l.unlabelled(s) && (rotation == nil || !l.unknown[rotation.DefRange()]) {
		return false
	}
	return r.Origin(setting).Source != policy.FromSecret
}

// unlabelled tells whether nobody knows the labels of s.
func (l *loader) unlabelled(s *Secret) bool {
	return l.spoilt(at(s.block, "labels")) || l.unknown[s.Range]
}

// origin returns where the value of a secret's setting was written, or else where the
// secret's block begins.
func (l *loader) origin(s *Secret, r *policy.Resolved, setting string) hcl.Range {
	if where, ok := said(s, r.Origin(setting), l.declared["rotation_policy"]); ok {
		return where
	}
	return at(s.block, setting)
}

// said returns where a setting of s was written, given the blocks of the policies.
func said(s *Secret, o policy.Origin, policies map[string]*hclsyntax.Block) (hcl.Range, bool) {
	switch {
	case o.Source == policy.FromPolicy && policies[o.Policy] != nil:
		return settingAt(policies[o.Policy], o.Setting), true
	case o.Source != policy.FromSecret || s.block == nil:
		return hcl.Range{}, false
	}
	if rotation := blockOf(s.block, "rotation"); rotation != nil && o.Setting != "proof" {
		return settingAt(rotation, o.Setting), true
	}
	return at(s.block, o.Setting), true
}

// Resolve returns how s rotates, and who says so. s need not stand in the configuration.
func (c *Config) Resolve(s *Secret) policy.Resolved {
	return policy.Resolve(c.RotationPolicies, s.Ref.Name, s.Labels, s.Rotation)
}
