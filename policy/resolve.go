package policy

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// RotationPolicy says how the secrets that it matches rotate.
type RotationPolicy struct {
	Name     string
	Match    Match
	Settings Settings // of the secrets of which no other policy is more specific
	Limits   Limits   // of all that it matches
}

// Match selects secrets: those whose name matches one of Paths (none given: all)
// and whose labels contain all of Labels.
type Match struct {
	Paths  []string
	Labels map[string]string
}

// Settings are the same as those of Rotation, each optional: nil leaves it to
// whoever comes next in the order of Resolve.
type Settings struct {
	Schedule        *string
	TimeZone        *string
	Jitter          *time.Duration
	Window          *string
	MaxAge          *time.Duration
	MaxConcurrent   *int
	NoticeBefore    *time.Duration
	Overlap         *time.Duration
	MinInterval     *time.Duration
	WaitForMirrors  *bool
	Approval        *bool
	Verify          VerifySettings
	Confirm         ConfirmSettings
	Acknowledgement AcknowledgementSettings
	Key             KeySettings
	Emergency       EmergencySettings
	Proof           *Proof
}

// VerifySettings are the optional form of Verify.
type VerifySettings struct {
	Successes         *int
	Interval, Timeout *time.Duration
}

// ConfirmSettings are the optional form of Confirm. An empty Recheck asks for no
// re-check at all.
type ConfirmSettings struct {
	Rejections *int
	Window     *time.Duration
	Recheck    *[]time.Duration
}

// AcknowledgementSettings are the optional form of Acknowledgement.
type AcknowledgementSettings struct {
	Require   *Requirement
	Timeout   *time.Duration
	OnTimeout *OnTimeout
}

// KeySettings are the optional form of KeySpec.
type KeySettings struct {
	Length           *int
	Alphabet, Prefix *string
	Classes          *[]string
	Checksum         *bool
}

// EmergencySettings are the optional form of Containment.
type EmergencySettings struct {
	Contain       *Order
	ReplaceWithin *time.Duration
}

// Source is who gave a setting its value.
type Source string

// The sources.
const (
	FromDefault Source = "default"
	FromPolicy  Source = "policy"
	FromSecret  Source = "secret"
)

// Origin tells where the value of one setting comes from.
type Origin struct {
	Setting string // as in the configuration: "overlap", "verify.successes"
	Source  Source
	Policy  string // the policy's name where Source is FromPolicy
}

// Resolved is how one secret rotates, and who says so.
type Resolved struct {
	Rotation
	Policy  string   // the most specific policy that matches; empty: none does
	Origins []Origin // of each setting once, in the order of the fields of Rotation
	Bounds  []Bound  // the limits that hold, in the order of the fields of Limits
}

// Origin returns where a setting comes from.
func (r Resolved) Origin(setting string) Origin {
	i := slices.IndexFunc(r.Origins, func(o Origin) bool { return o.Setting == setting })
	if i < 0 {
		return Origin{Setting: setting, Source: FromDefault}
	}
	return r.Origins[i]
}

// Resolve merges the settings of the secret called name. What the secret itself
// says (overrides) goes before the most specific policy that matches it, and that
// before the defaults. Settings of policies do not add up: only those of one apply,
// the one whose path is most specific (see the package comment; without paths it
// counts as "*"), then the one with the most labels, then the one whose name comes
// first. Limits do: those of every policy that matches hold.
//
// The maximum overlap is the strictest limit of it, or else twice the overlap.
func Resolve(policies []RotationPolicy, name string, labels map[string]string, overrides Settings) Resolved {
	m := merge{secret: overrides}
	var bounds strictest
	var best *RotationPolicy
	var bestPath pattern
	for i := range policies {
		p := &policies[i]
		path, ok := p.Match.matches(name, labels)
		if !ok {
			continue
		}
		bounds.add(p)
		if best == nil || p.goesBefore(path, best, bestPath) {
			best, bestPath = p, path
		}
	}
	if best != nil {
		m.policy, m.policyName = best.Settings, best.Name
	}
	m.bounds = bounds.list()
	return m.run()
}

// goesBefore tells whether p, which matches by path, is more specific than other.
func (p *RotationPolicy) goesBefore(path pattern, other *RotationPolicy, otherPath pattern) bool {
	return cmp.Or(
		path.compare(otherPath),
		cmp.Compare(len(p.Match.Labels), len(other.Match.Labels)),
		cmp.Compare(other.Name, p.Name),
	) > 0
}

// matches returns the most specific of the patterns by which the secret matches.
func (m Match) matches(name string, labels map[string]string) (pattern, bool) {
	for k, v := range m.Labels {
		if have, ok := labels[k]; !ok || have != v {
			return pattern{}, false
		}
	}
	if len(m.Paths) == 0 {
		all := parsePattern("*")
		return all, all.matches(name)
	}
	var best pattern
	found := false
	for _, text := range m.Paths {
		if p := parsePattern(text); p.matches(name) && (!found || p.compare(best) > 0) {
			best, found = p, true
		}
	}
	return best, found
}

const aboutSettings = 32 // how many there are, about

// merge lays the layers of settings over the defaults and notes their origin.
type merge struct {
	secret, policy Settings
	policyName     string
	bounds         []Bound
	origins        []Origin
}

func (m *merge) run() Resolved {
	m.origins = make([]Origin, 0, aboutSettings)
	r, s, p := Default(), &m.secret, &m.policy
	pick(m, "schedule", &r.Schedule, s.Schedule, p.Schedule)
	pick(m, "time_zone", &r.TimeZone, s.TimeZone, p.TimeZone)
	pick(m, "jitter", &r.Jitter, s.Jitter, p.Jitter)
	pick(m, "window", &r.Window, s.Window, p.Window)
	pick(m, "max_age", &r.MaxAge, s.MaxAge, p.MaxAge)
	pick(m, "max_concurrent", &r.MaxConcurrent, s.MaxConcurrent, p.MaxConcurrent)
	pick(m, "notice_before", &r.NoticeBefore, s.NoticeBefore, p.NoticeBefore)
	pick(m, "overlap", &r.Overlap, s.Overlap, p.Overlap)
	m.maxOverlap(&r)
	pick(m, "min_interval", &r.MinInterval, s.MinInterval, p.MinInterval)
	pick(m, "wait_for_mirrors", &r.WaitForMirrors, s.WaitForMirrors, p.WaitForMirrors)
	pick(m, "approval", &r.Approval, s.Approval, p.Approval)
	pick(m, "verify.successes", &r.Verify.Successes, s.Verify.Successes, p.Verify.Successes)
	pick(m, "verify.interval", &r.Verify.Interval, s.Verify.Interval, p.Verify.Interval)
	pick(m, "verify.timeout", &r.Verify.Timeout, s.Verify.Timeout, p.Verify.Timeout)
	pick(m, "confirm.rejections", &r.Confirm.Rejections, s.Confirm.Rejections, p.Confirm.Rejections)
	pick(m, "confirm.window", &r.Confirm.Window, s.Confirm.Window, p.Confirm.Window)
	pick(m, "confirm.recheck", &r.Confirm.Recheck, s.Confirm.Recheck, p.Confirm.Recheck)
	pick(m, "acknowledgement.require", &r.Acknowledgement.Require, s.Acknowledgement.Require, p.Acknowledgement.Require)
	pick(m, "acknowledgement.timeout", &r.Acknowledgement.Timeout, s.Acknowledgement.Timeout, p.Acknowledgement.Timeout)
	pick(m, "acknowledgement.on_timeout", &r.Acknowledgement.OnTimeout, s.Acknowledgement.OnTimeout, p.Acknowledgement.OnTimeout)
	pick(m, "key.length", &r.Key.Length, s.Key.Length, p.Key.Length)
	pick(m, "key.alphabet", &r.Key.Alphabet, s.Key.Alphabet, p.Key.Alphabet)
	pick(m, "key.classes", &r.Key.Classes, s.Key.Classes, p.Key.Classes)
	pick(m, "key.prefix", &r.Key.Prefix, s.Key.Prefix, p.Key.Prefix)
	pick(m, "key.checksum", &r.Key.Checksum, s.Key.Checksum, p.Key.Checksum)
	pick(m, "emergency.contain", &r.Emergency.Contain, s.Emergency.Contain, p.Emergency.Contain)
	pick(m, "emergency.replace_within", &r.Emergency.ReplaceWithin, s.Emergency.ReplaceWithin, p.Emergency.ReplaceWithin)
	pick(m, "proof", &r.Proof, s.Proof, p.Proof)
	r.Confirm.Recheck = slices.Clone(r.Confirm.Recheck) // the policy's list is not shared
	return Resolved{Rotation: r, Policy: m.policyName, Origins: m.origins, Bounds: m.bounds}
}

// maxOverlap sets what nobody sets, but a limit may.
func (m *merge) maxOverlap(r *Rotation) {
	r.MaxOverlap = twice(r.Overlap)
	o := Origin{Setting: "max_overlap", Source: FromDefault}
	for _, b := range m.bounds {
		if b.Limit == LimitOverlap {
			r.MaxOverlap, o.Source, o.Policy = b.Longest, FromPolicy, b.Policy
		}
	}
	m.origins = append(m.origins, o)
}

// twice doubles an overlap. One that is negative or too long to be doubled is a
// mistake of the overlap alone: what follows from it is in order.
func twice(overlap time.Duration) time.Duration {
	return 2 * min(max(overlap, 0), math.MaxInt64/2)
}

// pick sets dst to what the secret says, or else the policy, or leaves the default.
func pick[T any](m *merge, setting string, dst, secret, policy *T) {
	o := Origin{Setting: setting, Source: FromDefault}
	switch {
	case secret != nil:
		*dst, o.Source = *secret, FromSecret
	case policy != nil:
		*dst, o.Source, o.Policy = *policy, FromPolicy, m.policyName
	}
	m.origins = append(m.origins, o)
}
