package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// ValidateRotation returns every mistake in p: in its name, what it matches, its
// limits, and its settings as they would be for a secret that overrides nothing.
// Schedule and time zone are text here; package schedule parses them. What goes beyond
// limits is in Excesses.
func ValidateRotation(p RotationPolicy) []Problem {
	var c checker
	if text := nameProblem(p.Name); text != "" {
		c.report("name", text, "")
	}
	for _, path := range p.Match.Paths {
		if text, suggestion := pathProblem(path); text != "" {
			c.report("match.paths", text, suggestion)
		} else if strings.Contains(path, "{{") {
			c.report("match.paths", fmt.Sprintf("the path %q has a template, but a rotation is nobody's: nothing fills it in", path), "write the name out, or match labels")
		} else if system(path) {
			c.report("match.paths", fmt.Sprintf("the path %q matches no secret", path), "below sys/ there is none")
		}
	}
	c.limits(p.Limits)
	if n := p.Settings.MaxConcurrent; n != nil && *n == 0 {
		c.report("max_concurrent", "no secret of the policy could ever rotate", "leave it out for any number at once")
	}
	m := merge{policy: p.Settings}
	return append(c.problems, Check(m.run().Rotation)...)
}

// Check returns every mistake in the effective settings of a secret. Attribute
// names the setting as Origin.Setting does, which leads to where it was written.
func Check(r Rotation) []Problem {
	var c checker
	c.durations(r)
	c.window(r)
	c.age(r)
	if r.MaxConcurrent < 0 {
		c.report("max_concurrent", "max_concurrent is negative", "leave it out for any number at once")
	}
	c.verify(r.Verify)
	c.confirm(r.Confirm)
	c.key(r.Key)
	oneOf(&c, "acknowledgement.require", r.Acknowledgement.Require, RequireNone, RequireReceived, RequireFetched, RequireApplied)
	oneOf(&c, "acknowledgement.on_timeout", r.Acknowledgement.OnTimeout, Proceed, Hold)
	oneOf(&c, "emergency.contain", r.Emergency.Contain, ReplaceFirst, RevokeFirst)
	if r.Proof != ProofByProbe {
		oneOf(&c, "proof", r.Proof, ProofNone)
	}
	return c.problems
}

type checker struct{ problems []Problem }

func (c *checker) report(attribute, text, suggestion string) {
	c.problems = append(c.problems, Problem{Rule: -1, Attribute: attribute, Text: text, Suggestion: suggestion})
}

func (c *checker) durations(r Rotation) {
	for _, d := range []struct {
		setting string
		value   time.Duration
	}{
		{"jitter", r.Jitter},
		{"max_age", r.MaxAge},
		{"notice_before", r.NoticeBefore},
		{"overlap", r.Overlap},
		{"min_interval", r.MinInterval},
		{"verify.interval", r.Verify.Interval},
		{"verify.timeout", r.Verify.Timeout},
		{"confirm.window", r.Confirm.Window},
		{"acknowledgement.timeout", r.Acknowledgement.Timeout},
		{"emergency.replace_within", r.Emergency.ReplaceWithin},
	} {
		if d.value < 0 {
			c.report(d.setting, fmt.Sprintf("%s is negative: %s", d.setting, d.value), "")
		}
	}
}

// window judges the times; the zone is the schedule's as well, and judged with that.
func (c *checker) window(r Rotation) {
	if r.Window == "" {
		return
	}
	if _, wrong, suggestion := parseWindows(r.Window); wrong != "" {
		c.report("window", wrong, suggestion)
	}
}

// age refuses a maximum age that a rotation in time could not keep.
func (c *checker) age(r Rotation) {
	if r.MaxAge <= 0 {
		return
	}
	if r.Overlap >= r.MaxAge {
		c.report("max_age", fmt.Sprintf("a max_age of %s is not longer than the overlap, %s: the next rotation would be due before this one is over", r.MaxAge, r.Overlap),
			"shorten the overlap or raise max_age")
	}
	if r.MinInterval > r.MaxAge {
		c.report("max_age", fmt.Sprintf("a max_age of %s is shorter than min_interval, %s: it could not be kept", r.MaxAge, r.MinInterval),
			"lower min_interval or raise max_age")
	}
	times, wrong, _ := parseWindows(r.Window)
	if r.Window == "" || wrong != "" {
		return
	}
	if closed := times.longestClosed(); closed+r.Verify.Timeout > r.MaxAge {
		c.report("max_age", fmt.Sprintf("a max_age of %s could not be kept: the window %q stays closed for up to %s, and verification may take %s", r.MaxAge, r.Window, closed, r.Verify.Timeout),
			fmt.Sprintf("write %q or more, or open the window more often", closed+r.Verify.Timeout))
	}
}

func (c *checker) limits(l Limits) {
	if d := l.MaxOverlap; d != nil && *d < 0 {
		c.report("limits.max_overlap", fmt.Sprintf("max_overlap is negative: %s", *d), `to allow no overlap write "0s"`)
	}
	if d := l.MaxAge; d != nil && *d <= 0 {
		c.report("limits.max_age", fmt.Sprintf("no credential is younger than %s", *d), `write for instance "90d"`)
	}
	if n := l.MinLength; n != nil && *n < 1 {
		c.report("limits.min_length", fmt.Sprintf("a min_length of %d limits nothing", *n), "ask for at least 1, or leave it out")
	}
}

// key judges what can be told without the issuer, who knows which keys it can make.
func (c *checker) key(k KeySpec) {
	if k.Length < 0 {
		c.report("key.length", "a key cannot have a negative length", "")
	}
	for i, class := range k.Classes {
		known := []string{ClassLower, ClassUpper, ClassDigit, ClassSymbol}
		switch {
		case i == len(known): // one of them is there twice, or is none: that was said
			return
		case !slices.Contains(known, class):
			c.report("key.classes", fmt.Sprintf("%q is no class of characters", class), suggest(class, known))
		case slices.Contains(k.Classes[:i], class):
			c.report("key.classes", fmt.Sprintf("the class %q is given twice", class), "remove one")
		}
	}
}

func (c *checker) verify(v Verify) {
	gaps := int64(v.Successes - 1)
	switch {
	case v.Successes < 1:
		c.report("verify.successes", fmt.Sprintf("%d successes verify nothing", v.Successes), "ask for at least 1")
	case v.Timeout == 0:
		c.report("verify.timeout", "without time no verification can succeed", `write for instance "5m"`)
	case v.Timeout < 0: // reported with the other durations
	case gaps > 0 && int64(v.Timeout)/gaps < int64(v.Interval): // a product could overflow
		c.report("verify.timeout", fmt.Sprintf("%d successes %s apart do not fit into %s", v.Successes, v.Interval, v.Timeout),
			"raise timeout or shorten interval")
	}
}

func (c *checker) confirm(k Confirm) {
	if k.Rejections < 1 {
		c.report("confirm.rejections", fmt.Sprintf("%d rejections prove nothing", k.Rejections),
			`ask for at least 1; a secret that has no probe says proof = "none"`)
	}
	for _, d := range k.Recheck {
		if d <= 0 {
			c.report("confirm.recheck", fmt.Sprintf("a re-check after %s is none", d), "write durations after the proof, such as 1h")
		}
	}
	if !slices.IsSorted(k.Recheck) {
		c.report("confirm.recheck", "the re-checks are not in ascending order", "sort them")
	}
}

func oneOf[T ~string](c *checker, attribute string, given T, known ...T) {
	if !slices.Contains(known, given) {
		c.report(attribute, fmt.Sprintf("%q is no value of %s", string(given), attribute), suggest(string(given), known))
	}
}
