package vaultdb_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// documented returns the block of docs/issuers/vault_database.md that begins with what.
func documented(t *testing.T, what string) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/issuers/vault_database.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(text), "```") { // every second one stands between two marks
		if block = strings.TrimSpace(block); i%2 == 1 && strings.HasPrefix(block, what) {
			return block
		}
	}
	t.Fatalf("the page shows no block that begins with %s", what)
	return ""
}

var oneRight = regexp.MustCompile(`(?s)path "([^"]*)" \{[^}]*\}[^\n]*\n?`)

// The rights and statements on the page are enough for everything, and each right is
// needed.
func TestDocumentedRightsSuffice(t *testing.T) {
	s := newSite(t, vaultserver.Shared(t))
	s.role("orders-ro", map[string]any{
		"default_ttl": "24h", "max_ttl": "24h",
		"creation_statements":   []string{strings.Replace(documented(t, "CREATE ROLE"), "IN ROLE readers", "IN ROLE "+s.readers, 1)},
		"revocation_statements": []string{documented(t, "SELECT pg_terminate_backend")},
	})
	policy := strings.ReplaceAll(documented(t, `path "database/creds`), "database/", s.mount+"/")
	check := func(policy string) (problems []string) {
		is := s.open(s.config(s.appRole(vaultserver.AppRole{Policy: policy, TokenTTL: 24 * time.Hour})))
		for _, f := range is.(issuer.Checker).Check(t.Context(), subject("acme", "orders-ro")) {
			if f.Problem != "" {
				problems = append(problems, f.What+": "+f.Problem)
			}
		}
		return problems
	}
	if problems := check(policy); len(problems) != 0 {
		t.Errorf("with what the page says: %q", problems)
	}
	is := s.open(s.config(s.appRole(vaultserver.AppRole{Policy: policy, TokenTTL: 24 * time.Hour})))
	cred := s.mustIssue(is, "rot-1")
	alive := s.session(cred.Value)
	if handles, err := is.(issuer.Lister).List(t.Context(), subject("acme", "orders-ro")); err != nil || len(handles) != 1 {
		t.Errorf("listed are %v, %v", handles, err)
	}
	if err := is.Revoke(t.Context(), subject("acme", "orders-ro"), cred.Handle); err != nil || s.works(cred.Value) || alive() {
		t.Errorf("after revoking the credential works, or a session lives on: %v", err)
	}
	rights := oneRight.FindAllStringIndex(policy, -1)
	if len(rights) != 4 {
		t.Fatalf("the page names %d rights", len(rights))
	}
	for _, r := range rights {
		if problems := check(policy[:r[0]] + policy[r[1]:]); len(problems) == 0 {
			t.Errorf("nobody misses %s", policy[r[0]:r[1]])
		}
	}
}
