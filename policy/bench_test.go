package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/policy"
)

// many is how many policies the figures are about.
const many = 10_000

// estate is a set of policies with paths to ask for.
type estate struct {
	policies []policy.Policy
	paths    []string
}

func (e *estate) add(name string, paths []string, rules ...policy.Rule) {
	e.policies = append(e.policies, grant(name, rules...))
	e.paths = append(e.paths, paths...)
}

var (
	office = policy.Conditions{Time: "Mon-Fri 08:00-18:00", TimeZone: "Europe/Berlin"}
	inside = policy.Conditions{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("2001:db8::/32")}}
	strict = policy.Conditions{Environments: []string{"staging", "production"}, CIDRs: inside.CIDRs, Time: "Mon-Thu 08:00-18:00, Fri 08:00-16:00, Sat 22:00-02:00", TimeZone: "America/New_York"}
	someID = policy.Identity{Tenant: "acme", Role: "deployer", Name: "ci", Environment: "production"}
)

func when(c policy.Conditions, r policy.Rule) policy.Rule {
	r.Conditions = c
	return r
}

// teams have folders of their own, with exceptions in them.
func teams(e *estate, n int) {
	for i := range n {
		team := fmt.Sprintf("team-%d", i)
		e.add(team, []string{team + "/db/orders", team + "/stripe/key-1", team + "/root", "other/" + team, team + "/acme/deployer/x"},
			rule(team+"/*", policy.Read, policy.List),
			when(strict, rule(team+"/+/key*", policy.Read, policy.Rotate)),
			when(office, rule(team+"/root", policy.Deny)),
			when(inside, rule(team+"/{{identity.tenant}}/{{identity.role}}/*", policy.Read)),
			rule("sys/"+team+"/+", policy.Read),
		)
	}
}

// lengths has literals of all lengths that begin with one another.
func lengths(e *estate, n int) {
	for i := range n {
		text := strings.Repeat("ab/cd", i%40+1) + fmt.Sprint(i/40)
		e.add(text, []string{text + "/x", text[:len(text)/2] + "/y"}, rule(text[:len(text)-1]+"*", policy.Read), when(strict, rule(text, policy.Read)))
	}
}

// pluses has many patterns behind the same literal, and none.
func pluses(e *estate, n int) {
	for i := range n {
		app := fmt.Sprintf("app-%d", i)
		e.add(app, []string{"shared/db/" + app, "blue/shared/" + app, "shared/a/b/" + app, "shared/a/b/c", "no/shared/x"},
			rule("shared/+/"+app, policy.Read), when(strict, rule("+/shared/"+app, policy.Read)), when(office, rule("shared/+/+/"+app+"*", policy.Read)))
	}
}

// crowd has patterns of few words in which "+" stands anywhere, so that most paths
// are matched by many, and some by none although nearly all begins as they do.
func crowd(e *estate, n int) {
	r := rand.New(rand.NewPCG(3, 4))
	word := func(plus int) string {
		if r.IntN(100) < plus {
			return "+"
		}
		return fmt.Sprint("w", r.IntN(12))
	}
	text := func(plus int) string {
		segments := make([]string, 2+r.IntN(5))
		for i := range segments {
			segments[i] = word(plus)
		}
		return strings.Join(segments, "/")
	}
	for i := range n {
		e.add(fmt.Sprint("crowd", i), []string{text(0), text(0) + "/no", text(0)},
			rule(text(33), policy.Read), when(strict, rule(text(33), policy.Read)), rule(text(33)+"/x*", policy.Read))
	}
}

// thicket has every mix of "+" and a literal, at most four "+" in a path, so that
// a path made of that literal alone leads everywhere.
func thicket(e *estate, n int) {
	for i := range n {
		segments := make([]string, 14)
		for s := range segments {
			if segments[s] = "a"; i>>s&1 == 1 {
				segments[s] = "+"
			}
		}
		segments[13] = "z"
		if path := strings.Join(segments, "/"); strings.Count(path, "+") <= 4 {
			e.add("thicket", nil, rule(path, policy.Read))
		}
	}
	e.paths = append(e.paths, strings.Repeat("a/", 13)+"z", "x/"+strings.Repeat("a/", 12)+"z", strings.Repeat("a/", 13)+"x")
}

// BenchmarkPolicyEvaluate is the figure: one decision among all kinds of policies,
// of paths in a random order, so that little of what it needs is at hand.
func BenchmarkPolicyEvaluate(b *testing.B) {
	var e estate
	teams(&e, many/2)
	lengths(&e, many/4)
	pluses(&e, many/4)
	decisions(b, e, "policy.evaluate")
}

func BenchmarkPolicyEvaluateTeams(b *testing.B)   { shape(b, teams) }
func BenchmarkPolicyEvaluateLengths(b *testing.B) { shape(b, lengths) }
func BenchmarkPolicyEvaluatePluses(b *testing.B)  { shape(b, pluses) }

func BenchmarkPolicyEvaluateCrowd(b *testing.B) { shape(b, crowd) }

// BenchmarkPolicyEvaluateThicket is the worst that can be written: nobody does.
func BenchmarkPolicyEvaluateThicket(b *testing.B) { shape(b, thicket) }

func shape(b *testing.B, of func(*estate, int)) {
	var e estate
	of(&e, many)
	decisions(b, e, "policy.evaluate_"+strings.ToLower(strings.TrimPrefix(b.Name(), "BenchmarkPolicyEvaluate")))
}

// BenchmarkPolicyCompile is what the first request of an identity, and a reload, pay.
func BenchmarkPolicyCompile(b *testing.B) {
	var e estate
	teams(&e, many)
	for b.Loop() {
		policy.Compile(e.policies, someID)
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "policy.compile_ms/ms")
}

// decisions reports the 99th percentile of single decisions, and what they
// allocate. Reading the clock, some 50 ns, is part of it.
func decisions(b *testing.B, e estate, figure string) {
	acl := policy.Compile(e.policies, someID)
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(e.paths), func(i, j int) { e.paths[i], e.paths[j] = e.paths[j], e.paths[i] })
	facts := policy.Facts{Environment: "production", Address: netip.MustParseAddr("192.168.7.7"), At: time.Date(2026, 8, 3, 15, 4, 5, 0, time.UTC)}
	took := make([]time.Duration, 0, 1<<23)
	for n := 0; b.Loop(); n++ {
		path := strings.ToLower(e.paths[n%len(e.paths)]) // reads it, as whoever authenticated the request did
		start := time.Now()
		acl.Decide(path, policy.Read, facts)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), figure+"_p99_ns/ns")
	n := 0
	allocated := testing.AllocsPerRun(10_000, func() {
		acl.Decide(e.paths[n%len(e.paths)], policy.Read, facts)
		n++
	})
	b.ReportMetric(allocated, figure+"_allocs/allocs")
}
