package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// ValidateRotation returns every mistake in p: in its name, what it matches, and
// its settings as they would be for a secret that overrides nothing. Schedule and
// time zone are text here; package schedule parses them.
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
	m := merge{policy: p.Settings}
	effective, _ := m.run()
	return append(c.problems, Check(effective)...)
}

// Check returns every mistake in the effective settings of a secret. Attribute
// names the setting as Origin.Setting does, which leads to where it was written.
func Check(r Rotation) []Problem {
	var c checker
	c.durations(r)
	c.overlap(r)
	c.verify(r.Verify)
	c.confirm(r.Confirm)
	if r.Key.Length < 0 {
		c.report("key.length", "a key cannot have a negative length", "")
	}
	oneOf(&c, "acknowledgement.require", r.Acknowledgement.Require, RequireNone, RequireReceived, RequireApplied)
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
		{"overlap", r.Overlap},
		{"max_overlap", r.MaxOverlap},
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

func (c *checker) overlap(r Rotation) {
	if r.Overlap >= 0 && r.MaxOverlap >= 0 && r.Overlap > r.MaxOverlap {
		c.report("overlap", fmt.Sprintf("an overlap of %s is longer than max_overlap, %s", r.Overlap, r.MaxOverlap),
			"shorten overlap or raise max_overlap")
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
