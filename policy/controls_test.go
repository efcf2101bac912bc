package policy_test

import (
	"strings"
	"testing"

	"github.com/keybroker/keybroker/policy"
)

// TestIdleBelowWhatIsNamed: triggers and consumers are each below their path by name, and
// for each other things are asked.
func TestIdleBelowWhatIsNamed(t *testing.T) {
	for path, want := range map[string]string{
		"sys/consumers/shop": "nobody ever asks for create", "sys/consumers/*": "nobody ever asks for create", "sys/consumers/sh*": "nobody ever asks for create",
		"sys/events/ci": "nobody ever asks for list", "sys/consumer/shop": "there is nothing at", "sys/*": "",
	} {
		var all []string
		for _, p := range policy.Idle(policy.Policy{Name: "p", Rules: []policy.Rule{{Path: path, Capabilities: []policy.Capability{policy.List, policy.Create}}}}) {
			all = append(all, p.Text)
		}
		if got := strings.Join(all, "; "); want == "" && got != "" || !strings.HasPrefix(got, want) || len(all) > 1 {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
