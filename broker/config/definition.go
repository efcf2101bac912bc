package config

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Definition resolves how a secret is kept and rotated: its own settings, the
// rotation policy that matches it, the defaults, and what its issuer needs. The
// secret need not stand in the configuration. ErrInvalid if its issuer does not,
// or cannot rotate as is asked; the error names every reason.
func (c *Config) Definition(s *Secret) (rotation.Definition, error) {
	d := rotation.Definition{
		Backend:   s.Backend,
		Mirrors:   s.Mirrors,
		OnDrift:   cmp.Or(s.OnDrift, rotation.DriftReport),
		Issuer:    s.Issuer,
		Settings:  s.Settings,
		Probe:     s.Probe,
		Consumers: s.Consumers,
		Labels:    s.Labels,
	}
	r := c.Resolve(s)
	i, ok := c.issuers[s.Issuer]
	if !ok && s.Issuer != "" {
		return rotation.Definition{}, fmt.Errorf("%w: secret %s: there is no issuer %q", backends.ErrInvalid, s.Ref, s.Issuer)
	}
	var errs []error
	wrong, _ := keepingProblems(r.Rotation, s, i, c.keepers(s))
	for _, p := range c.tellingProblems(s, &r) {
		wrong = append(wrong, p.Problem)
	}
	if i != nil {
		for _, text := range settingsProblems(i, s.Settings) {
			errs = append(errs, fmt.Errorf("%w: secret %s: issuer %s: %s", backends.ErrInvalid, s.Ref, s.Issuer, text))
		}
		wrong = append(wrong, rotationProblems(r.Rotation, s, i, c.timings)...)
		made := r
		made.Key, _ = i.complete(r.Key)
		for _, e := range made.Excesses() {
			wrong = append(wrong, e.Problem)
		}
	}
	for _, p := range wrong {
		errs = append(errs, fmt.Errorf("%w: secret %s: %s", backends.ErrInvalid, s.Ref, p))
	}
	if len(errs) > 0 {
		return rotation.Definition{}, errors.Join(errs...)
	}
	if i == nil {
		d.Plan = plan(r.Rotation, issuer.Traits{})
		return d, nil
	}
	d.Schedule, d.TimeZone, d.Jitter = r.Schedule, r.TimeZone, r.Jitter
	d.MinInterval, d.MaxAge, d.Window, d.NoticeBefore = r.MinInterval, r.MaxAge, r.Window, r.NoticeBefore
	d.Policy, d.MaxConcurrent, d.Pair = r.Policy, r.MaxConcurrent, s.Pair
	d.Plan = plan(r.Rotation, i.of(s))
	d.Plan.MinLength = r.Least()
	return d, nil
}

// plan is how r is carried out with an issuer of these traits.
func plan(r policy.Rotation, traits issuer.Traits) rotation.Plan {
	window := r.Confirm.Window
	if window == 0 {
		window = traits.RevocationBudget
	}
	return rotation.Plan{
		Overlap:    r.Overlap,
		MaxOverlap: max(r.MaxOverlap, r.Overlap),
		Verify:     rotation.Verify(r.Verify),
		Confirm: rotation.Confirm{
			None:       r.Proof == policy.ProofNone,
			Rejections: r.Confirm.Rejections,
			Window:     window,
			Budget:     traits.RevocationBudget,
			Recheck:    r.Confirm.Recheck,
		},
		Acknowledgement: rotation.Acknowledgement{
			Require: rotation.Requirement(r.Acknowledgement.Require),
			Timeout: r.Acknowledgement.Timeout,
			Hold:    r.Acknowledgement.OnTimeout == policy.Hold,
		},
		Emergency: rotation.Emergency{
			RevokeFirst:   r.Emergency.Contain == policy.RevokeFirst,
			ReplaceWithin: r.Emergency.ReplaceWithin,
		},
		Key:            rotation.KeySpec(r.Key),
		WaitForMirrors: r.WaitForMirrors,
		Approval:       r.Approval,
	}
}

// rotationProblems returns what is wrong with rotating s by r with that issuer, of
// which nothing is known if it is nil.
func rotationProblems(r policy.Rotation, s *Secret, i *Issuer, timing *timings) []policy.Problem {
	problems := append(policy.Check(r), timing.of(r).problems...)
	report := func(attribute, suggestion, format string, args ...any) {
		problems = append(problems, policy.Problem{
			Rule: -1, Attribute: attribute, Text: fmt.Sprintf(format, args...), Suggestion: suggestion,
		})
	}
	if s.Probe == "" && r.Proof == policy.ProofByProbe {
		report("probe", `name a probe, or forgo the proof with proof = "none"`,
			"the secret rotates without a probe: nothing could prove that a revoked credential fails")
	}
	if r.Proof != policy.ProofNone && r.Confirm.Rejections == 1 {
		report("confirm.rejections", "ask for at least 2: some servers reject while others still accept",
			"one rejection proves nothing")
	}
	if i == nil {
		return problems
	}
	_, wrong := i.complete(r.Key)
	problems = append(problems, wrong...)
	switch t := i.of(s); {
	case t.Kind == issuer.Mint && t.MaxLive == 1:
		report("issuer", "have the limit raised and write max_live = 2",
			"the issuer %q allows one live credential, but a rotation needs two: the old one works until the new one is published", i.Name)
	case r.Overlap <= 0:
	case t.InPlace():
		report("overlap", `write overlap = "0s", or give the secret a second account to take turns with`,
			"the issuer %q cannot give an overlap: it has one account for the secret, whose old credential ends when the new one begins", i.Name)
	case t.MaxOverlap < 0:
		report("overlap", `write overlap = "0s"`, "the issuer %q cannot give an overlap: its old credential ends when the new one begins", i.Name)
	case t.MaxOverlap > 0 && r.Overlap > t.MaxOverlap:
		report("overlap", "shorten it", "the issuer %q cannot give an overlap of %s, only of %s", i.Name, r.Overlap, t.MaxOverlap)
	case t.MaxLive == 1:
		report("overlap", `write overlap = "0s"`, "the issuer %q allows one live credential, so it cannot give an overlap", i.Name)
	}
	return problems
}

// of returns the traits of i for s, as far as its settings are right.
func (i *Issuer) of(s *Secret) issuer.Traits {
	if s.unsettled {
		return i.Traits
	}
	return i.For(s.Settings)
}

// complete fills in what key settings leave to an issuer that makes values by them, and
// returns what it cannot make. The issuer may be nil: nothing is known of it.
func (i *Issuer) complete(k policy.KeySpec) (policy.KeySpec, []policy.Problem) {
	if i == nil || i.keys == nil {
		return k, nil
	}
	made, err := i.keys.CheckKey(issuer.KeySpec(k))
	if err == nil {
		return policy.KeySpec(made), nil
	}
	var problems []policy.Problem
	for _, line := range strings.Split(err.Error(), "\n") {
		where, text, ok := strings.Cut(strings.TrimPrefix(line, backends.ErrInvalid.Error()+": "), ": ")
		if !ok || !strings.HasPrefix(where, "key.") {
			where, text = "key", strings.TrimPrefix(line, backends.ErrInvalid.Error()+": ")
		}
		wrong, mend, _ := strings.Cut(text, ": ")
		problems = append(problems, problem(where, mend, "the issuer %q cannot make such a key: %s", i.Name, wrong))
	}
	return k, problems
}
