package vault_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

// The rights that docs/backends.md names are enough for every operation.
func TestDocumentedRightsSuffice(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	p := strings.ReplaceAll(documented(t, "", `path "secret/data/`), `"secret/`, `"`+mount+`/`)
	run := func(policy string) backends.Driver {
		roleID, secretID := s.AppRole(t, vaultserver.AppRole{Policy: policy})
		cfg := config(s.Addr, "", mount)
		cfg.Conn.Auth = []vaultconn.Auth{{Method: "approle", RoleID: backends.SecretString(roleID), SecretID: backends.SecretString(secretID)}}
		return open(t, cfg)
	}
	d := run(p)
	if err := d.Check(t.Context()); err != nil {
		t.Error(err)
	}
	first := publish(t, d, 1, "")
	second := publish(t, d, 2, first)
	third := publish(t, d, 3, second)
	if err := errors.Join(d.Retire(t.Context(), ref, first), d.Destroy(t.Context(), ref, first), d.Retire(t.Context(), ref, second)); err != nil {
		t.Error(err)
	}
	desc, err := d.Describe(t.Context(), ref)
	if err != nil || desc.Note.Version != 3 || desc.Current != third {
		t.Errorf("described as %+v, %v", desc, err)
	}
	if _, _, err := d.Read(t.Context(), ref, third); err != nil {
		t.Error(err)
	}
	if names, _, err := d.List(t.Context(), ref.Tenant, "", 10); err != nil || len(names) != 1 {
		t.Errorf("listed %q, %v", names, err)
	}
	for _, tree := range []string{"data", "metadata", "delete", "destroy"} { // and each of them is needed
		i := strings.Index(p, `path "`+mount+`/`+tree)
		j := i + strings.Index(p[i:], "\n}\n") + 3
		d := run(p[:i] + p[j:])
		_, _, err := d.Read(t.Context(), ref, "")
		_, described := d.Describe(t.Context(), ref)
		err = errors.Join(err, described, d.Retire(t.Context(), ref, second), d.Destroy(t.Context(), ref, second))
		if !errors.Is(err, backends.ErrDenied) {
			t.Errorf("without the rights on %s everything goes on: %v", tree, err)
		}
	}
}

// documented returns the policy of docs/backends.md that mentions what, in the block of
// a language.
func documented(t *testing.T, language, what string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/backends.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(text), "```") { // every second one stands between two marks
		if body, ok := strings.CutPrefix(block, language+"\n"); ok && i%2 == 1 && strings.Contains(body, what) {
			return body
		}
	}
	t.Fatalf("docs/backends.md shows no %s block with %s", language, what)
	return ""
}
