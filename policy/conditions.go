package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// when are Conditions, compiled. A nil one always holds.
type when struct {
	environments []string
	cidrs        []netip.Prefix
	windows      windows
	zone         *time.Location // nil: at any time
	broken       bool           // the conditions are not valid: it never holds
	why          [8]string      // by what is not met, a sum of the constants below
}

const (
	unmetEnvironment = 1 << iota
	unmetAddress
	unmetTime
)

// always tells whether nothing is asked. An empty list asks for what nobody has:
// it is refused by Validate, and met by nothing.
func (c Conditions) always() bool {
	return c.Environments == nil && c.CIDRs == nil && c.Time == "" && c.TimeZone == ""
}

// Sometime returns p for whoever meets all that its grants ask of a caller's address and of
// the time, and nothing that its denials do: what that refuses, p refuses always.
func (p Policy) Sometime() Policy {
	p.Rules = slices.Clone(p.Rules)
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.Conditions.CIDRs == nil && r.Conditions.Time == "" && r.Conditions.TimeZone == "" {
			continue
		}
		if slices.Contains(r.Capabilities, Deny) {
			r.Capabilities = nil // the path decides all the same
		}
		r.Conditions = Conditions{Environments: r.Conditions.Environments}
	}
	return p
}

// key is the same for the same conditions only.
func (c Conditions) key() string {
	return fmt.Sprintf("%t%q%t%v %q%q", c.Environments == nil, c.Environments, c.CIDRs == nil, c.CIDRs, c.Time, c.TimeZone)
}

func newWhen(c Conditions) *when {
	w := &when{environments: c.Environments, cidrs: c.CIDRs}
	var texts [3]string
	if c.Environments != nil {
		texts[0] = "the secret's environment is not " + strings.Join(c.Environments, ", ")
	}
	if c.CIDRs != nil {
		texts[1] = "the address is not in " + join(c.CIDRs)
	}
	if c.Time != "" || c.TimeZone != "" {
		var timeProblem, zoneProblem string
		w.windows, timeProblem, _ = parseWindows(c.Time)
		w.zone, zoneProblem, _ = loadZone(c.TimeZone)
		w.broken = timeProblem != "" || zoneProblem != ""
		texts[2] = fmt.Sprintf("outside %s (%s)", c.Time, w.zone)
	}
	w.explain(texts)
	return w
}

// explain prepares the texts for everything that may be not met together, so that
// a decision need not put them together.
func (w *when) explain(texts [3]string) {
	for unmet := 1; unmet < len(w.why); unmet++ {
		var parts []string
		for i, text := range texts {
			if unmet&(1<<i) != 0 && text != "" {
				parts = append(parts, text)
			}
		}
		w.why[unmet] = strings.Join(parts, ", and ")
	}
}

// unmet says why the conditions do not hold; it is empty if they do.
func (w *when) unmet(f Facts) string {
	switch {
	case w == nil:
		return ""
	case w.broken:
		return "the conditions of the rule cannot be read"
	}
	missing := 0
	if w.environments != nil && (f.Environment == "" || !slices.Contains(w.environments, f.Environment)) {
		missing |= unmetEnvironment
	}
	if w.cidrs != nil && !within(w.cidrs, f.Address) {
		missing |= unmetAddress
	}
	if w.zone != nil && (f.At.IsZero() || !w.windows.contain(f.At.In(w.zone))) {
		missing |= unmetTime
	}
	return w.why[missing]
}

// within tells whether an address is in one of the ranges. IPv4 is IPv4, however it
// is written, and a zone ("%eth0") says nothing of where somebody is.
func within(ranges []netip.Prefix, address netip.Addr) bool {
	address = address.Unmap().WithZone("")
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(address) })
}

func join(ranges []netip.Prefix) string {
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = r.String()
	}
	return strings.Join(texts, ", ")
}

// loadZone finds a time zone by its IANA name; problem is empty if there is one.
// "Local" is none: it would mean something else on each host.
func loadZone(name string) (zone *time.Location, problem, suggestion string) {
	if name == "" {
		return time.UTC, "", ""
	}
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return time.UTC, fmt.Sprintf("there is no time zone %q", name), `write an IANA name such as "Europe/Berlin"`
	}
	return zone, "", ""
}

const maxConditions = 64 // environments, ranges of addresses, and times, each

// conditionProblems returns every mistake in the conditions of a rule. Attribute
// is "conditions.environments", "conditions.cidrs", "conditions.time" or
// "conditions.time_zone".
func conditionProblems(rule int, c Conditions) []Problem {
	found := conditionChecker{rule: rule}
	found.count("environments", c.Environments != nil, len(c.Environments))
	for _, e := range c.Environments {
		if e == "" || len(e) > maxName || strings.ContainsAny(e, " \t\r\n") {
			found.report("environments", fmt.Sprintf("%q is no environment", e),
				fmt.Sprintf("write what the secrets' label environment says, at most %d bytes without white space", maxName))
		}
	}
	found.count("cidrs", c.CIDRs != nil, len(c.CIDRs))
	for _, p := range c.CIDRs {
		text, suggestion := rangeProblem(p)
		found.report("cidrs", text, suggestion)
	}
	if c.Time == "" && c.TimeZone != "" {
		found.report("time_zone", "a time zone without a time says nothing", `add time = "Mon-Fri 08:00-18:00", or leave time_zone out`)
	}
	if c.Time != "" {
		_, text, suggestion := parseWindows(c.Time)
		found.report("time", text, suggestion)
	}
	_, text, suggestion := loadZone(c.TimeZone)
	found.report("time_zone", text, suggestion)
	return found.problems
}

type conditionChecker struct {
	rule     int
	problems []Problem
}

// report notes a problem, unless its text is empty.
func (c *conditionChecker) report(attribute, text, suggestion string) {
	if text != "" {
		c.problems = append(c.problems, Problem{Rule: c.rule, Attribute: "conditions." + attribute, Text: text, Suggestion: suggestion})
	}
}

// count judges how long a list is, if it is set.
func (c *conditionChecker) count(attribute string, set bool, n int) {
	switch {
	case set && n == 0:
		c.report(attribute, attribute+" is empty, so the rule never holds", "leave it out if the rule holds for all")
	case n > maxConditions:
		c.report(attribute, fmt.Sprintf("%s has %d elements, the limit is %d", attribute, n, maxConditions), "")
	}
}

func rangeProblem(p netip.Prefix) (text, suggestion string) {
	switch {
	case !p.IsValid():
		return "this is no range of addresses", `write for instance "10.20.0.0/16" or "2001:db8::/32"`
	case p.Addr().Is4In6():
		return fmt.Sprintf("%s is an IPv4 address in the form of IPv6, which nobody calls from", p), "write it as IPv4"
	case p != p.Masked():
		return fmt.Sprintf("%s names an address and a range at once", p),
			fmt.Sprintf("write %q for the range or %q for the address", p.Masked().String(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()).String())
	}
	return "", ""
}
