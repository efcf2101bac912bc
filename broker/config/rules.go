package config

import (
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// RuleRange returns the header of the rule that an access policy has for path, as it
// is written there. There is none of a built-in policy.
func (c *Config) RuleRange(policy, path string) (hcl.Range, bool) {
	b, ok := c.policies[policy]
	if !ok {
		return hcl.Range{}, false
	}
	i := slices.IndexFunc(b.Body.Blocks, func(rule *hclsyntax.Block) bool {
		return rule.Type == "path" && slices.Equal(rule.Labels, []string{path})
	})
	if i < 0 {
		return hcl.Range{}, false
	}
	return b.Body.Blocks[i].DefRange(), true
}

// AssertionsSuffix is how the names of files end that say what policies must come
// to (`keybroker policy test`). They stand beside the configuration and are no part
// of it.
const AssertionsSuffix = ".test.hcl"
