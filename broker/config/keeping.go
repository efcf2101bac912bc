package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// keeper is a vault that a secret is kept in, and where the secret's block says so.
type keeper struct {
	*Backend
	path string // "backend", "mirrors.0"
}

func (k keeper) primary() bool { return k.path == "backend" }

// keepers returns the vaults of s that are known, the primary before the mirrors.
func (c *Config) keepers(s *Secret) []keeper {
	var found []keeper
	for i, name := range append([]string{s.Backend}, s.Mirrors...) {
		if v, ok := c.backends[name]; ok && !v.broken {
			found = append(found, keeper{v, keptAt(i)})
		}
	}
	return found
}

// keptAt is the path of what names the i-th vault of a secret, of which the
// primary is the first.
func keptAt(i int) string {
	if i == 0 {
		return "backend"
	}
	return fmt.Sprintf("mirrors.%d", i-1)
}

// vaults checks the names of the vaults of s, and whether s may be kept there.
func (l *loader) vaults(b *hclsyntax.Block, s *Secret) {
	names := append([]string{s.Backend}, s.Mirrors...)
	for i, name := range names {
		where := at(b, keptAt(i))
		switch first := slices.Index(names, name); {
		case i == 0 && name == "": // it is missing
		case first == 0 && i > 0:
			l.mistake(where, fmt.Sprintf("The mirror %q is the secret's backend", name), "A mirror is another vault: remove it, or name another one.")
		case first < i:
			l.mistake(where, fmt.Sprintf("The mirror %q is listed twice", name), "Remove one.")
		case l.refer("backend", name, where):
			l.within("backend", name, where, b)
			if v, ok := l.cfg.backends[name]; ok && !v.broken {
				l.environment(s, keeper{v, keptAt(i)})
				l.apart(s, keeper{v, keptAt(i)})
				l.spelled(s, keeper{v, keptAt(i)})
			}
		}
	}
}

func (l *loader) environment(s *Secret, v keeper) {
	env := s.Labels[EnvironmentLabel]
	if l.walled && env != "" && len(v.Environments) == 0 && !l.unlabelled(s) && !l.obscure(v.Range) {
		l.mistake(v.Range, fmt.Sprintf("The backend %q declares no environments, but holds secrets that belong to one, and roles are bound to environments", v.Name),
			`Write environments = ["…"] in its block: whoever is bound to one reaches only what is kept in a backend that declares it.`)
		return
	}
	if l.unlabelled(s) || len(v.Environments) == 0 || slices.Contains(v.Environments, env) {
		return
	}
	l.mistake(at(s.block, v.path), fmt.Sprintf("The backend %q does not hold secrets of the environment %q", v.Name, env),
		fmt.Sprintf("It is for %s: set the label %q, or name another backend.", strings.Join(v.Environments, ", "), EnvironmentLabel))
}

// apart refuses a name that stands for another secret in a vault that knows names
// only, be it another tenant's or through another block: they would be one there.
func (l *loader) apart(s *Secret, v keeper) {
	if v.Capabilities.Tenants {
		return
	}
	where := v.where(s.Ref.Name)
	first, ok := l.held[where]
	if !ok {
		l.held[where] = s
	}
	switch {
	case !ok || first == s:
		return
	case first.Ref.Name != s.Ref.Name:
		l.mistake(nameAt(s, v), fmt.Sprintf("The backend %q leads to the secret %q of the tenant %q under this name", v.Name, first.Ref.Name, first.Ref.Tenant),
			fmt.Sprintf("Both would be one secret in the vault: rename one, or name another backend; the first is at %s.", place(first.Range)))
		return
	}
	l.mistake(nameAt(s, v), fmt.Sprintf("The backend %q holds a secret %q of the tenant %q already", v.Name, s.Ref.Name, first.Ref.Tenant),
		fmt.Sprintf("It does not keep tenants apart, so both would be one secret there: rename one, or name another backend; the first is at %s.", place(first.Range)))
}

// nameAt is where a mistake about the name of s in that vault stands.
func nameAt(s *Secret, v keeper) hcl.Range {
	if v.primary() {
		return s.block.LabelRanges[0]
	}
	return at(s.block, v.path)
}

// spelled refuses a name that the vault has no place for. One that it only makes no
// secret of may be there already, to be imported: it is refused for a mirror, which
// is made, and warned of for what is rotated.
func (l *loader) spelled(s *Secret, v keeper) {
	err := v.checkName(s.Ref.Name)
	if err == nil || backends.ParseName(s.Ref.Name) != nil {
		return
	}
	_, text, _ := strings.Cut(err.Error(), ": ") // after its class
	wrong, mend, ok := strings.Cut(text, ": ")
	if !ok {
		mend = "choose another one, or name another backend"
	}
	switch {
	case !errors.Is(err, backends.ErrUnsupported):
		l.mistake(nameAt(s, v), fmt.Sprintf("The backend %q has no place for this name: %s", v.Name, wrong), sentence(mend))
	case !v.primary():
		l.mistake(nameAt(s, v), fmt.Sprintf("The mirror %q makes no secret of this name: %s", v.Name, wrong), sentence(mend))
	case s.Issuer != "":
		l.warn(nameAt(s, v), fmt.Sprintf("The backend %q makes no secret of this name: %s", v.Name, wrong), sentence(mend+", unless the secret is there already"))
	}
}

// keeping checks whether the vaults of s can do what is asked of them.
func (l *loader) keeping(s *Secret, r *policy.Resolved) {
	i := l.cfg.issuers[s.Issuer]
	if blockOf(s.block, "issuer") != nil && (i == nil || i.broken) {
		i = &Issuer{} // nobody knows what it can do
	}
	mistakes, warnings := keepingProblems(r.Rotation, s, i, l.cfg.keepers(s))
	for _, p := range mistakes {
		if !l.guessed(s, r, p.Attribute) {
			l.problem(l.origin(s, r, p.Attribute), p)
		}
	}
	for _, p := range warnings {
		if !l.guessed(s, r, p.Attribute) {
			l.warn(l.origin(s, r, p.Attribute), summary(p.Text), sentence(p.Suggestion))
		}
	}
}

// keepingProblems returns what is wrong with keeping s in these vaults, rotated by
// r with the issuer i (nil: by nobody; without a name: one that nothing is known
// of), and what is right but may not be meant.
func keepingProblems(r policy.Rotation, s *Secret, i *Issuer, vaults []keeper) (mistakes, warnings []policy.Problem) {
	c := &keepingCheck{r: r, secret: s, issuer: i, vaults: vaults}
	for n, v := range vaults {
		c.written(v)
		c.elsewhere(v, vaults[:n])
		c.layout(v)
	}
	c.drift()
	c.waiting()
	return c.mistakes, c.warnings
}

type keepingCheck struct {
	r      policy.Rotation
	secret *Secret
	issuer *Issuer
	vaults []keeper

	mistakes, warnings []policy.Problem
}

func (c *keepingCheck) mistake(attribute, suggestion, format string, args ...any) {
	c.mistakes = append(c.mistakes, problem(attribute, suggestion, format, args...))
}

func (c *keepingCheck) warn(attribute, suggestion, format string, args ...any) {
	c.warnings = append(c.warnings, problem(attribute, suggestion, format, args...))
}

func problem(attribute, suggestion, format string, args ...any) policy.Problem {
	return policy.Problem{Rule: -1, Attribute: attribute, Text: fmt.Sprintf(format, args...), Suggestion: suggestion}
}

// written refuses a vault that the broker would have to write to and cannot.
func (c *keepingCheck) written(v keeper) {
	mend := "name another one"
	if v.ReadOnly {
		mend = "remove read_only from its block, or name another one"
	}
	switch {
	case !v.Capabilities.ReadOnly:
	case !v.primary():
		c.mistake(v.path, mend, "the mirror %q is read-only: nothing could be mirrored there", v.Name)
	case c.issuer != nil:
		c.mistake(v.path, mend+"; without an issuer the secret is only served from it",
			"the backend %q is read-only, and the secret rotates: no new version could be published there", v.Name)
	}
}

// elsewhere refuses two blocks that are about one vault: a mirror there would be
// the primary itself.
func (c *keepingCheck) elsewhere(v keeper, before []keeper) {
	for _, other := range before {
		if v.same(other.Backend) && v.Name != other.Name {
			c.mistake(v.path, "a mirror is another vault: remove it, or change where one of the two leads",
				"the mirror %q is the same vault as the backend %q", v.Name, other.Name)
		}
	}
}

// layout tells which values would have no place in v.
func (c *keepingCheck) layout(v keeper) {
	c.size(v)
	if raw := c.vaults[0].Capabilities; c.issuer == nil && raw.Field != "" && raw.Binary && !v.Capabilities.Binary { // a layout for bytes
		c.warn(v.path, "name one that keeps bytes, if there are such values", "a value that is not UTF-8 text cannot be mirrored to the backend %q", v.Name)
	}
	fields, giver := c.fields()
	switch only := v.Capabilities.Field; {
	case only == "":
	case fields == nil && !v.primary() && (c.issuer == nil || c.issuer.Name != ""):
		c.warn(v.path, "choose a layout of several fields in its block, if the values have others",
			"the backend %q keeps the one field %q: a value with other fields cannot be mirrored there", v.Name, only)
	case len(fields) == 1 && fields[0] != only:
		c.mistake(v.path, fmt.Sprintf("say in its block that the field is %q, or choose a layout of several fields", fields[0]),
			"the backend %q keeps the one field %q, but %s gives %q", v.Name, only, giver, fields[0])
	case len(fields) > 1:
		c.mistake(v.path, "choose a layout of several fields in its block, or name another backend",
			"the backend %q keeps the one field %q, but %s gives %s", v.Name, only, giver, strings.Join(fields, ", "))
	}
}

// size refuses a key that v has no place for.
func (c *keepingCheck) size(v keeper) {
	made, wrong := c.issuer.complete(c.r.Key)
	limit, length := v.Capabilities.MaxValueSize, made.Length
	if limit == 0 || length == 0 || c.issuer == nil || c.issuer.Name != "" && c.issuer.keys == nil || len(wrong) > 0 {
		return
	}
	around := c.around(v)
	if length <= limit-around {
		return
	}
	beside := ""
	if around > 0 {
		beside = fmt.Sprintf(", %d of them around the key", around)
	}
	c.mistake("key.length", "shorten it, or name another backend", "a key of %d characters does not fit into the backend %q, which takes values of %d bytes%s",
		length, v.Name, limit, beside)
}

// around is how many bytes at least a value takes in v beside its key, in whichever of
// its fields that is.
func (c *keepingCheck) around(v keeper) int {
	if v.Capabilities.Field != "" {
		return 0
	}
	names, _ := c.fields()
	if len(names) == 0 {
		names = []string{""} // one of any name
	}
	fields := map[string]string{}
	for _, name := range names {
		fields[name] = ""
	}
	object, _ := backends.NewLayout(backends.LayoutJSON, "", backends.LayoutJSON)
	empty, _ := object.Encode(backends.NewValue(fields)) // strings cannot fail
	return len(empty)
}

// fields returns the names of the fields that every value of the secret has, as far
// as they are known, and who gives them.
func (c *keepingCheck) fields() (names []string, giver string) {
	if c.issuer != nil {
		return c.issuer.For(c.secret.Settings).Fields, fmt.Sprintf("the issuer %q", c.issuer.Name)
	}
	if primary := c.vaults[0]; primary.primary() && primary.Capabilities.Field != "" {
		return []string{primary.Capabilities.Field}, fmt.Sprintf("the backend %q", primary.Name)
	}
	return nil, ""
}

// drift checks what is to be done where a vault holds something else.
func (c *keepingCheck) drift() {
	rule := c.secret.OnDrift
	rules := []rotation.DriftRule{rotation.DriftReport, rotation.DriftRestore, rotation.DriftAdopt}
	if rule == "" {
		return
	}
	if !slices.Contains(rules, rule) {
		var known []string
		for _, r := range rules {
			known = append(known, string(r))
		}
		c.mistake("on_drift", strings.TrimSuffix(suggest(string(rule), known), "."), "%q is no value of on_drift", string(rule))
		return
	}
	if rule == rotation.DriftAdopt && c.secret.Probe == "" {
		c.mistake("on_drift", `name a probe, or write on_drift = "report"`, "the secret has no probe: nothing could tell whether a value that was found works")
	}
	for _, v := range c.vaults {
		if rule != rotation.DriftReport && v.primary() && v.Capabilities.ReadOnly {
			c.mistake("on_drift", `write on_drift = "report"`, "the backend %q is read-only: on_drift = %q would write to it", v.Name, string(rule))
		}
		if v.DriftCheck == 0 {
			c.warn("on_drift", "give its block a drift_check, or leave on_drift out", `nobody looks for drift in the backend %q: it has drift_check = "0s"`, v.Name)
		}
	}
}

// waiting warns of a wait for mirrors that is none.
func (c *keepingCheck) waiting() {
	switch wait := c.secret.Rotation.WaitForMirrors; {
	case c.issuer == nil: // of settings without an issuer is warned elsewhere
	case len(c.secret.Mirrors) == 0 && wait != nil:
		c.warn("wait_for_mirrors", "leave it out, or name mirrors", "wait_for_mirrors is without effect: the secret has no mirrors")
	case len(c.secret.Mirrors) > 0 && c.r.WaitForMirrors && c.r.MaxOverlap <= c.r.Overlap:
		c.warn("overlap", "raise max_overlap, or accept that with wait_for_mirrors = false",
			"max_overlap leaves no time to wait for a mirror that is behind: it may go on giving out a credential that was revoked")
	}
}

// unguarded warns of vaults that cannot compare when they write, where somebody
// could come in between. It is asked only where there is no mistake.
func (l *loader) unguarded() {
	rotated, written := map[string]bool{}, map[string]bool{}
	for _, s := range l.cfg.Secrets {
		rotated[s.Backend] = rotated[s.Backend] || s.Issuer != ""
		for _, name := range append([]string{s.Backend}, s.Mirrors...) {
			written[name] = written[name] || name != s.Backend || s.Issuer != ""
		}
	}
	for _, v := range l.cfg.Backends {
		switch {
		case v.Capabilities.CompareSwap:
		case rotated[v.Name]:
			l.warn(v.Range, fmt.Sprintf("The backend %q cannot guard its writes, and secrets are rotated in it", v.Name),
				"What somebody else writes in the moment between the broker's look and its own write is lost unnoticed. See to it that nobody else writes there; or make it a mirror, with a backend that compares when it writes as the primary.")
		case written[v.Name] && l.cfg.Storage.Type == PostgreSQL:
			l.warn(v.Range, fmt.Sprintf("The backend %q cannot guard its writes, and several nodes may write to it", v.Name),
				"A node that was held up may write an older version over a newer one, which stays until a drift check finds it. Keep its drift_check short; a backend that compares when it writes has no such gap.")
		}
	}
}
