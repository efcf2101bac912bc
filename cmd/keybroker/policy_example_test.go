package main

import (
	"strings"
	"testing"
)

// TestTheAccessExample: what its README says comes of it, comes of it.
func TestTheAccessExample(t *testing.T) {
	s := serve(t, nil)
	const config = "--config ../../examples/access/config.hcl"
	for args, want := range map[string]string{
		"validate --offline " + config:                     "8 roles",
		"policy test " + config + " ../../examples/access": "assertions hold",
		"policy check " + config + " --role newsletter-app --path mail/sender --capability read --address 10.20.3.4": `policy "newsletter-app", by its path "mail/sender", grants it`,
	} {
		if r := s.keybroker(strings.Fields(args)...); r.code != 0 || !strings.Contains(r.out, want) || r.err != "" {
			t.Errorf("%s: exit %d, out %s, err %s", args, r.code, r.out, r.err)
		}
	}
}
