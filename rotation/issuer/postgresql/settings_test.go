package postgresql_test

import (
	"strings"
	"testing"

	"github.com/keybroker/keybroker/rotation/issuer/postgresql"
)

// TestTheIssuersOwnRole is refused where both are read, not after three versions.
func TestTheIssuersOwnRole(t *testing.T) {
	is := postgresql.Describe(postgresql.Config{Username: "keybroker"})
	for settings, wrong := range map[string]bool{
		`{"role":"keybroker"}`: true, `{"roles":["orders_a","keybroker"]}`: true, `{"role":"keybroker_app"}`: false, `{"roles":["orders_a","orders_b"]}`: false,
	} {
		problems := is.CheckSettings([]byte(settings))
		if wrong != (len(problems) == 1 && strings.Contains(problems[0], `"keybroker" is the role that the issuer itself logs in as`)) || !wrong && len(problems) > 0 {
			t.Errorf("%s: %q", settings, problems)
		}
	}
	if problems := postgresql.Describe(postgresql.Config{}).CheckSettings([]byte(`{"role":"orders"}`)); len(problems) > 0 {
		t.Errorf("while nobody knows as whom it logs in: %q", problems)
	}
}
