package daemon_test

import (
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// Whose key a leaked text is, and who has had it, by reading or by delivery, is
// asked of the audit log by its hash.
func TestWhoHasHadALeakedKeyIsInTheLog(t *testing.T) {
	t.Parallel()
	secret := newSigningSecret()
	s := newSite(t, withConsumer(embedded, newConsumer(t, secret)))
	s.env["SIGNING_SECRET"] = secret.Reveal()
	n := s.start()
	ctx := t.Context()
	n.done(t, "app/key")
	v := n.value(t, "app/key")
	hash, err := n.AuditHash(ctx, client.SecretText(v.Fields["key"]))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]client.AuditRecord{}
	eventually(t, "the log has all of it", func() bool {
		found, err := n.Audit(ctx, client.AuditQuery{Hash: hash.Hash})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range found.Items {
			seen[r.Action] = r
		}
		return len(seen) >= 3
	})
	for _, action := range []string{"rotation.mint", "delivery.attempt", "secret.read"} {
		r, ok := seen[action]
		if !ok || r.Version != v.Version || !strings.HasSuffix(r.Secret, "app/key") || r.Hashes["field.1"] != hash.Hash {
			t.Errorf("%s: %+v (found: %v)", action, r, ok)
		}
	}
	if d := seen["delivery.attempt"].Detail["consumer"]; d == "" {
		t.Errorf("the delivery does not say to whom: %+v", seen["delivery.attempt"])
	}
}
