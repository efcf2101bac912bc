package policy_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/policy"
)

// BenchmarkPolicyEvaluate times one decision among 3,000 rules of 1,000 teams:
// allowed by a prefix, by a pattern, denied, and met by no rule, in turn.
func BenchmarkPolicyEvaluate(b *testing.B) {
	var policies []policy.Policy
	var paths []string
	for i := range 1000 {
		team := fmt.Sprintf("team%d", i)
		policies = append(policies, grant(team,
			rule(team+"/*", policy.Read, policy.List),
			rule(team+"/+/key*", policy.Read, policy.Rotate),
			rule(team+"/root", policy.Deny),
		))
		paths = append(paths, team+"/db", team+"/stripe/key-1", team+"/root", "other/"+team)
	}
	decisions(b, policies, paths, "policy.evaluate_p99_ns/ns")
}

// BenchmarkPolicyEvaluateLeadingPlus times the costly shape: 1,000 rules that
// begin with a wildcard, each of which has to be tried.
func BenchmarkPolicyEvaluateLeadingPlus(b *testing.B) {
	var policies []policy.Policy
	var paths []string
	for i := range 1000 {
		app := fmt.Sprintf("app%d", i)
		policies = append(policies, grant(app, rule("+/shared/"+app, policy.Read)))
		paths = append(paths, "team/shared/"+app, "other/"+app)
	}
	decisions(b, policies, paths, "policy.evaluate_leading_plus_p99_ns/ns")
}

// decisions reports the 99th percentile of single decisions on paths in turn.
// Reading the clock, some 50 ns, is part of it.
func decisions(b *testing.B, policies []policy.Policy, paths []string, figure string) {
	acl := policy.Compile(policies)
	took := make([]time.Duration, 0, 1<<22)
	for n := 0; b.Loop(); n++ {
		path := paths[n%len(paths)]
		start := time.Now()
		acl.Decide(path, policy.Read)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), figure)
}
