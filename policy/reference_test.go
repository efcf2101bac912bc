package policy_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/keybroker/keybroker/policy"
)

// reference decides by the written rules: it tries every rule with a regular
// expression, sorts those that match, and shares nothing with the code under test.
type reference struct {
	policies []policy.Policy
	id       policy.Identity
}

// verdict is what must be said of a request, save which of several rules that say
// the same is named.
type verdict struct {
	allowed bool
	unmet   bool            // a rule grants it, but does not hold
	named   map[string]bool // "policy path" of the rules that may be named; empty: no rule matches
}

func (ref reference) decide(path string, c policy.Capability, f policy.Facts) verdict {
	type said struct {
		name string
		rule policy.Rule
	}
	matching := map[string][]said{}
	for _, p := range ref.policies {
		for _, r := range p.Rules {
			if filled, ok := referenceFill(r.Path, ref.id); ok && referenceMatches(filled, path) {
				matching[filled] = append(matching[filled], said{p.Name + " " + r.Path, r})
			}
		}
	}
	var paths []string
	for p := range matching {
		paths = append(paths, p)
	}
	if len(paths) == 0 {
		return verdict{}
	}
	deciding := matching[slices.MaxFunc(paths, referenceCompare)]
	granting, denying, waiting := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, s := range deciding {
		holds := referenceHolds(s.rule.Conditions, f)
		grants := c != policy.Deny && slices.Contains(s.rule.Capabilities, c)
		switch {
		case slices.Contains(s.rule.Capabilities, policy.Deny) && holds:
			denying[s.name] = true
		case grants && holds:
			granting[s.name] = true
		case grants:
			waiting[s.name] = true
		}
	}
	switch {
	case len(denying) > 0:
		return verdict{named: denying}
	case len(granting) > 0:
		return verdict{allowed: true, named: granting}
	case len(waiting) > 0:
		return verdict{unmet: true, named: waiting}
	}
	return verdict{named: map[string]bool{deciding[0].name: true}}
}

// agrees tells whether a decision is one that the reference allows for.
func (v verdict) agrees(d policy.Decision) bool {
	if len(v.named) == 0 {
		return d == policy.Decision{}
	}
	return d.Allowed == v.allowed && (d.Unmet != "") == v.unmet && v.named[d.Policy+" "+d.Path]
}

var (
	referenceTemplate = regexp.MustCompile(`\{\{identity\.(tenant|role|name|environment)\}\}`)
	noValue           = regexp.MustCompile(`[/+*{}\s\pC]`)
	below             = regexp.MustCompile(`^sys(/|$)`)
	once              sync.Map // expression → *regexp.Regexp
)

func compiledOnce(expr string) *regexp.Regexp {
	re, ok := once.Load(expr)
	if !ok {
		re, _ = once.LoadOrStore(expr, regexp.MustCompile(expr))
	}
	return re.(*regexp.Regexp)
}

func referenceFill(path string, id policy.Identity) (string, bool) {
	ok := true
	filled := referenceTemplate.ReplaceAllStringFunc(path, func(m string) string {
		v := map[string]string{"tenant": id.Tenant, "role": id.Role, "name": id.Name, "environment": id.Environment}[referenceTemplate.FindStringSubmatch(m)[1]]
		ok = ok && v != "" && !noValue.MatchString(v)
		return v
	})
	inSys := func(p string) bool { return below.MatchString(p) }
	return filled, ok && inSys(filled) == inSys(path)
}

func referenceMatches(pattern, path string) bool {
	inSys := path == "sys" || strings.HasPrefix(path, "sys/")
	if inSys && pattern != "sys" && !strings.HasPrefix(pattern, "sys/") {
		return false
	}
	expr := regexp.QuoteMeta(strings.TrimSuffix(pattern, "*"))
	expr = strings.ReplaceAll(expr, `\+`, `[^/]*`)
	if strings.HasSuffix(pattern, "*") {
		expr += `.*`
	}
	return compiledOnce(`\A(?s:` + expr + `)\z`).MatchString(path)
}

func referenceCompare(a, b string) int {
	key := func(p string) []int {
		first := strings.IndexAny(p, "+*")
		exact, noGlob := 0, 1
		if first < 0 {
			exact, first = 1, len(p)
		}
		if strings.HasSuffix(p, "*") {
			noGlob = 0
		}
		return []int{exact, first, noGlob, -strings.Count(p, "+"), len(p)}
	}
	return cmp.Or(slices.Compare(key(a), key(b)), cmp.Compare(a, b))
}

func referenceHolds(c policy.Conditions, f policy.Facts) bool {
	if c.Environments != nil && (f.Environment == "" || !slices.Contains(c.Environments, f.Environment)) {
		return false
	}
	if c.CIDRs != nil {
		address := net.IP(f.Address.AsSlice())
		if !slices.ContainsFunc(c.CIDRs, func(p netip.Prefix) bool {
			_, n, err := net.ParseCIDR(p.String())
			return err == nil && n.Contains(address)
		}) {
			return false
		}
	}
	if c.Time == "" {
		return true
	}
	zone, err := time.LoadLocation(c.TimeZone)
	if err != nil || f.At.IsZero() {
		return false
	}
	return referenceWindows(c.Time, f.At.In(zone))
}

func referenceWindows(text string, local time.Time) bool {
	return slices.ContainsFunc(strings.Split(text, ","), func(w string) bool {
		return referenceWindow(strings.TrimSpace(w), local.Format("Mon"), local.Format("15:04"))
	})
}

// referenceWindow compares names of days and readings of clocks as text.
func referenceWindow(window, day, clock string) bool {
	const week = "Sun Mon Tue Wed Thu Fri Sat Sun Mon Tue Wed Thu Fri Sat"
	fields := strings.Fields(window)
	allowed := "Sun Mon Tue Wed Thu Fri Sat"
	if len(fields) == 2 {
		first, last, isRange := strings.Cut(fields[0], "-")
		if allowed = first; isRange {
			from := strings.Index(week, first)
			allowed = week[from : from+strings.Index(week[from:], last)+3]
		}
	}
	from, to, _ := strings.Cut(fields[len(fields)-1], "-")
	yesterday := week[strings.LastIndex(week, day)-4:][:3]
	if from < to {
		return strings.Contains(allowed, day) && from <= clock && clock < to
	}
	return strings.Contains(allowed, day) && from <= clock || strings.Contains(allowed, yesterday) && clock < to
}

// dice makes policies, requests and facts out of few words, so that many meet.
type dice struct{ *rand.Rand }

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

func (d dice) pattern() string {
	for {
		var segments []string
		for range 1 + d.IntN(4) {
			switch d.IntN(12) {
			case 0, 1, 2, 3:
				segments = append(segments, "+")
			case 4:
				segments = append(segments, pick(d, "", "a", "s")+pick(d, "{{identity.tenant}}", "{{identity.role}}", "{{identity.name}}", "{{identity.environment}}"))
			default:
				segments = append(segments, d.word())
			}
		}
		p := strings.Join(segments, "/")
		if d.IntN(2) == 0 {
			p += "*"
		}
		if len(policy.Validate(grant("p", rule(p, policy.Read)))) == 0 {
			return p
		}
	}
}

func (d dice) word() string { return pick(d, "a", "b", "ab", "sys", "s", "") }

func (d dice) path() string {
	var segments []string
	for range 1 + d.IntN(4) {
		segments = append(segments, d.word())
	}
	return strings.Join(segments, "/")
}

func (d dice) identity() policy.Identity {
	value := func() string {
		return pick(d, "a", "b", "ab", "sys", "ys", "", "a/b", "+", "*", "a b", "{{identity.role}}")
	}
	return policy.Identity{Tenant: value(), Role: value(), Name: value(), Environment: value()}
}

func (d dice) conditions() policy.Conditions {
	var c policy.Conditions
	if d.IntN(3) == 0 {
		c.Environments = pick(d, []string{"production"}, []string{"staging", "dev"})
	}
	if d.IntN(3) == 0 {
		c.CIDRs = pick(d, prefixes("10.0.0.0/8"), prefixes("2001:db8::/32", "192.0.2.128/25"), prefixes("::/0"))
	}
	if d.IntN(3) == 0 {
		c.Time, c.TimeZone = d.windows(), pick(d, "", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")
	}
	return c
}

func (d dice) windows() string {
	var all []string
	day := func() string { return pick(d, "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat") }
	for range 1 + d.IntN(3) {
		w := pick(d, "", day()+" ", day()+"-"+day()+" ")
		from := fmt.Sprintf("%02d:%02d", d.IntN(24), d.IntN(60))
		to := pick(d, "24:00", "00:00", fmt.Sprintf("%02d:%02d", d.IntN(24), d.IntN(60)))
		if from == to {
			to = "24:00"
		}
		all = append(all, w+from+"-"+to)
	}
	return strings.Join(all, pick(d, ",", ", "))
}

func (d dice) facts() policy.Facts {
	f := policy.Facts{Environment: pick(d, "", "production", "staging", "dev", "prod")}
	f.Address, _ = netip.ParseAddr(pick(d, "", "10.1.2.3", "::ffff:10.1.2.3", "192.0.2.1", "192.0.2.200", "2001:db8::1%eth0", "::1"))
	if d.IntN(5) > 0 {
		// A third of the times are around a change of the clocks.
		f.At = time.Date(2026, 1, 1, 0, d.IntN(365*24*60), 0, 0, time.UTC)
		if d.IntN(3) == 0 {
			day := pick(d, time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 8, 6, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC))
			f.At = day.Add(time.Duration(d.IntN(180)) * time.Minute)
		}
	}
	return f
}

func (d dice) policies() []policy.Policy {
	all := policy.Capabilities()
	var policies []policy.Policy
	for i := range 1 + d.IntN(4) {
		p := policy.Policy{Name: fmt.Sprint("p", i)}
		for range 1 + d.IntN(6) {
			r := rule(d.pattern(), all[d.IntN(len(all)-1)])
			if r.Capabilities[0] != policy.Read {
				r.Capabilities = append(r.Capabilities, policy.Read)
			}
			if d.IntN(6) == 0 {
				r.Capabilities = []policy.Capability{policy.Deny}
			}
			if d.IntN(2) == 0 {
				r.Conditions = d.conditions()
			}
			if slices.ContainsFunc(p.Rules, func(other policy.Rule) bool { return other.Path == r.Path }) {
				continue
			}
			p.Rules = append(p.Rules, r)
		}
		policies = append(policies, p)
	}
	return policies
}

func TestDecideAgreesWithReference(t *testing.T) {
	allowed, unmet := 0, 0
	for seed := range uint64(500) {
		d := dice{rand.New(rand.NewPCG(seed, 0))}
		ref := reference{d.policies(), d.identity()}
		for _, p := range ref.policies {
			if problems := policy.Validate(p); len(problems) > 0 {
				t.Fatalf("seed %d: %v", seed, problems)
			}
		}
		acl := policy.Compile(ref.policies, ref.id)
		for range 40 {
			path, c, f := d.path(), pick(d, policy.Capabilities()...), d.facts()
			got, want := acl.Decide(path, c, f), ref.decide(path, c, f)
			if !want.agrees(got) {
				t.Fatalf("seed %d: %s on %q for %+v with %+v: got %+v, reference %+v, of %+v", seed, c, path, ref.id, f, got, want, ref.policies)
			}
			if want.allowed {
				allowed++
			} else if want.unmet {
				unmet++
			}
		}
	}
	if allowed < 500 || unmet < 100 {
		t.Errorf("the dice are loaded: %d allowed, %d unmet", allowed, unmet)
	}
}

// FuzzDecide compares arbitrary patterns, conditions and requests with the
// reference. A policy that Validate refuses is left out, as it is never compiled,
// and so is what is no UTF-8, which the reference cannot express.
func FuzzDecide(f *testing.F) {
	f.Add("*", "a/+/c*", "a/b/c", "acme", "production", "Mon-Fri 08:00-18:00", "Europe/Berlin", int64(1774746000))
	f.Add("sys/*", "+/audit", "sys/audit", "sys", "", "22:00-06:00, Sat 00:00-24:00", "", int64(0))
	f.Add("+/+", "a/*", "a/", "", "dev", "", "", int64(1))
	f.Add("{{identity.tenant}}/*", "x{{identity.name}}/+", "sys/tokens", "sys", "a", "Fri-Mon 23:59-00:00", "Australia/Lord_Howe", int64(1792800000))
	f.Fuzz(func(t *testing.T, first, second, path, identity, environment, window, zone string, at int64) {
		for _, text := range []string{first, second, path, identity, environment} {
			if !utf8.ValidString(text) {
				return
			}
		}
		timed, placed := policy.Conditions{Time: window, TimeZone: zone}, policy.Conditions{Environments: []string{environment}}
		ref := reference{[]policy.Policy{
			grant("one", when(timed, rule(first, policy.Read, policy.Rotate))),
			grant("two", when(placed, rule(second, policy.Read, policy.List))),
			grant("three", when(timed, rule(second, policy.Deny))),
		}, policy.Identity{Tenant: identity, Role: "a", Name: identity, Environment: environment}}
		for _, p := range ref.policies {
			if len(policy.Validate(p)) > 0 {
				return
			}
		}
		acl := policy.Compile(ref.policies, ref.id)
		for _, c := range []policy.Capability{policy.Read, policy.List, policy.Rotate} {
			for _, facts := range []policy.Facts{{Environment: environment, At: time.Unix(at, 0)}, {Environment: identity, At: time.Unix(at, 0)}, {}} {
				if got, want := acl.Decide(path, c, facts), ref.decide(path, c, facts); !want.agrees(got) {
					t.Fatalf("%s on %q of %+v with %+v: got %+v, reference %+v", c, path, ref, facts, got, want)
				}
			}
		}
	})
}
