package daemon_test

import (
	"database/sql"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
)

// TestAnotherProbeBeginsTheSeriesAnew: rounds made by two configurations of a probe
// are no proof together.
func TestAnotherProbeBeginsTheSeriesAnew(t *testing.T) {
	t.Parallel()
	const window = 4 * time.Second
	s := newSite(t, replaced(t, withConsumer(embedded, nil), `overlap = "2s"`, `overlap = "100ms"`, `window     = "2s"`, `window     = "4s"`))
	n := s.start()
	n.done(t, "app/key")
	id := n.begin(t, "app/key", client.RotationRetiring)
	var first client.Retirement
	eventually(t, "the first round of a series", func() bool {
		list := must(n.Retirements(t.Context(), client.RetirementQuery{Secret: "app/key"}))(t).Items
		if len(list) == 1 {
			first = list[0]
		}
		return first.State == client.Rejecting
	})
	s.hcl = replaced(t, s.hcl, `{ Authorization = "Bearer ${field.key}" }`, `{ Authorization = "Bearer ${field.key}", X-Asked-By = "keybroker" }`)
	reloaded := time.Now()
	if got := changesOf(n.reload(t)); got != "changed probe internal" {
		t.Fatalf("it did: %s", got)
	}
	_, retirements := n.follow(t, id)
	last := retirements[1]
	if last.State != client.ProvenDead || first.Scope == nil || last.Scope == nil {
		t.Fatalf("version 1 is %s, its scope was %+v and is %+v", last.State, first.Scope, last.Scope)
	}
	if first.Scope.Config == "" || last.Scope.Config == first.Scope.Config {
		t.Errorf("the scope's configuration was %q and is %q", first.Scope.Config, last.Scope.Config)
	}
	if took := last.ProvenAt.Sub(reloaded); took < window {
		t.Errorf("it was proven %s after the reload, within the window of %s", took, window)
	}
}

// TestARetirementThatIsToBeginNeedsItsBackend: the vault is asked first whether it
// serves the version.
func TestARetirementThatIsToBeginNeedsItsBackend(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	o.done(t, mailer)
	id := o.begin(t, mailer, client.RotationOverlap)
	o.api.Override(tried, http.StatusServiceUnavailable, always) // so that nothing is revoked for an hour
	o.waitsFor(t, id, "proof")
	o.hcl = strings.ReplaceAll(replaced(t, o.hcl, `backend "local" "prod" {}`, `backend "local" "other" {}`), `"prod"`, `"other"`)
	if got := o.refused(t, false); !strings.Contains(got, `of mail/sender version 1 is requested and needs backend "prod", which is not in the configuration`) {
		t.Errorf("refused for: %s", got)
	}
}

// TestAConsumerIsTakenOutWhileARotationRuns, which would have told it: that rotation
// goes on, and tells the others.
func TestAConsumerIsTakenOutWhileARotationRuns(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	o.done(t, mailer)
	o.api.Override(minted, http.StatusServiceUnavailable, always)
	id := o.begin(t, mailer, client.RotationMinting)
	o.hcl = replaced(t, o.hcl, `  consumers = ["app"]`, "")
	from := strings.Index(o.hcl, `consumer "app"`)
	o.hcl = o.hcl[:from] + o.hcl[from+strings.Index(o.hcl[from:], "\n}\n")+3:]
	o.reload(t)
	o.api.Override(minted, http.StatusServiceUnavailable, 0)
	if r, _ := o.follow(t, id); r.State != client.RotationDone {
		t.Errorf("the rotation is %s: %s", r.State, r.Error)
	}
	for _, d := range must(o.Deliveries(t.Context(), client.DeliveryQuery{Consumer: "app"}))(t).Items {
		if d.Version > 1 {
			t.Errorf("app was told of version %d: %s", d.Version, d.Event)
		}
	}
}

// TestAReloadKeepsWhatIsUnchanged: a vault that lets its broker log in only once is
// not logged into again.
func TestAReloadKeepsWhatIsUnchanged(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.loginOnce(t)
	n := s.start()
	n.done(t, mailer)
	for range 2 {
		s.hcl = replaced(t, s.hcl, `overlap = "2s"`, `overlap = "2s" # the same`) + `
policy "more" {
  path "mail/*" {
    capabilities = ["list"]
  }
}
`
		s.hcl = strings.ReplaceAll(s.hcl, `policy "more"`, `policy "even-more"`)
		n.reload(t)
		if _, ready := s.get("GET", "/readyz", ""); strings.Contains(ready, "prod") {
			t.Errorf("after a reload: %s", ready)
		}
		n.done(t, mailer) // which writes to the vault
		s.hcl = s.hcl[:strings.Index(s.hcl, `policy "even-more"`)]
	}
	if s.direct(t) != n.value(t, mailer).Fields["key"] {
		t.Error("the vault does not hold the current value")
	}
}

// loginOnce gives the site an AppRole whose secret_id can be used once.
func (s *vaultSite) loginOnce(t *testing.T) {
	t.Helper()
	c, ctx := s.vault.Client(t), t.Context()
	if err := c.Sys().PutPolicyWithContext(ctx, "once", vaultserver.Everything); err != nil {
		t.Fatal(err)
	}
	const role = "auth/approle/role/once"
	if _, err := c.Logical().WriteWithContext(ctx, role, map[string]any{"secret_id_num_uses": 1, "token_policies": "once"}); err != nil {
		t.Fatal(err)
	}
	id, err := c.Logical().ReadWithContext(ctx, role+"/role-id")
	if err != nil {
		t.Fatal(err)
	}
	secret, err := c.Logical().WriteWithContext(ctx, role+"/secret-id", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.env["VAULT_ROLE_ID"], s.env["VAULT_SECRET_ID"] = id.Data["role_id"].(string), secret.Data["secret_id"].(string)
}

// TestARefusedReloadMakesNoSigningKey, nor does a dry run; one that is made does. Where
// that is a notifier's, it is a secret in a file.
func TestARefusedReloadMakesNoSigningKey(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.done(t, "app/key")
	path := filepath.Join(s.dir, "data", "notifiers", "late.whsec")
	made := func() (made int) {
		if _, err := os.Stat(path); err == nil {
			made++
		}
		return made + len(must(n.WebhookKeys(t.Context(), "late"))(t).Keys)
	}
	db, err := sql.Open("sqlite", "file:"+s.config().Storage.Path+"?_pragma=busy_timeout(20000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	exec(t, db, `CREATE TRIGGER refuse BEFORE INSERT ON secrets WHEN NEW.name = 'app/second' BEGIN SELECT RAISE(ABORT, 'no more rows'); END`)
	s.hcl += secondSecret + `
consumer "late" {
  webhook {
    url                   = "http://127.0.0.1:1"
    allow_private_network = true
  }
}
notifier "webhook" "late" {
  url                   = "http://127.0.0.1:1"
  allow_private_network = true
}
`
	if n.refused(t, false); made() != 0 {
		t.Error("a refused reload has made one")
	}
	exec(t, db, `DROP TRIGGER refuse`)
	if must(n.Client.Reload(t.Context(), client.ReloadRequest{DryRun: true}))(t); made() != 0 {
		t.Error("a dry run has made one")
	}
	if n.reload(t); made() != 2 {
		t.Errorf("%d were made, want 2", made())
	}
	if got := n.reload(t); len(got.Changes) > 0 {
		t.Errorf("the next reload changes %s", changesOf(got))
	}
}
