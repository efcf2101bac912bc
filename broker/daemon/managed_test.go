package daemon_test

import (
	"bytes"
	"database/sql"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// ownLogin has the secret id that the broker logs in to a Vault with managed by the
// broker, which keeps another secret in that Vault.
const ownLogin = `
listener "tcp" {
  address = "ADDR"
}
backend "vault" "prod" {
  address     = "VAULT"
  path_prefix = "keybroker/"
  auth "approle" {
    role_id   = env("VAULT_ROLE_ID")
    secret_id = secret("infra/vault").secret_id
  }
}
backend "local" "embedded" {}
issuer "http" "vault-login" {
  base_url              = "VAULT"
  allow_private_network = true
  auth "header" {
    name  = "X-Vault-Token"
    value = env("VAULT_ADMIN")
  }
  create {
    method = "POST"
    path   = "/v1/auth/approle/role/keybroker/secret-id"
    body   = jsonencode({ metadata = jsonencode({ tag = rotation.tag }) })
    handle = { accessor = "$.data.secret_id_accessor" }
    fields = { secret_id = "$.data.secret_id" }
  }
  revoke {
    method = "POST"
    path   = "/v1/auth/approle/role/keybroker/secret-id-accessor/destroy"
    body   = jsonencode({ secret_id_accessor = handle.accessor })
  }
  show_once         = true
  revocation_budget = "1s"
}
probe "http" "vault-login" {
  method                = "POST"
  url                   = "VAULT/v1/auth/approle/login"
  body                  = jsonencode({ role_id = "ROLE_ID", secret_id = field.secret_id })
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [400]
  }
}
issuer "api_key" "internal" {}
probe "http" "internal" {
  method                = "POST"
  url                   = "http://ADDR/api/v1/keys/check"
  headers               = { Authorization = "Bearer ${field.key}" }
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}
rotation_policy "quick" {
  match {
    paths = ["*"]
  }
  overlap = "2s"
  verify {
    successes = 1
    interval  = "50ms"
  }
  confirm {
    rejections = 2
    window     = "1s"
  }
}
secret "infra/vault" {
  backend = "embedded"
  probe   = "vault-login"
  issuer "vault-login" {}
}
secret "app/key" {
  backend = "prod"
  probe   = "internal"
  issuer "internal" {}
}
`

// newOwnLogin makes a site of ownLogin with a Vault of its own.
func newOwnLogin(t *testing.T) (*site, *vaultserver.Server) {
	t.Helper()
	vault := vaultserver.Start(t)
	c := vault.Client(t)
	if err := c.Sys().PutPolicyWithContext(t.Context(), "keybroker", vaultserver.Everything); err != nil {
		t.Fatal(err)
	}
	const role = "auth/approle/role/keybroker"
	if _, err := c.Logical().WriteWithContext(t.Context(), role, map[string]any{"token_policies": []string{"keybroker"}}); err != nil {
		t.Fatal(err)
	}
	id := must(c.Logical().ReadWithContext(t.Context(), role+"/role-id"))(t).Data["role_id"].(string)
	s := newSite(t, strings.NewReplacer("VAULT_ROLE_ID", "VAULT_ROLE_ID", "VAULT_ADMIN", "VAULT_ADMIN", "VAULT", vault.Addr, "ROLE_ID", id).Replace(ownLogin))
	s.env = map[string]string{"VAULT_ROLE_ID": id, "VAULT_ADMIN": vault.RootToken}
	return s, vault
}

// logsIn tells whether Vault lets a secret id in.
func logsIn(t *testing.T, vault *api.Client, role, secretID string) bool {
	t.Helper()
	_, err := vault.Logical().WriteWithContext(t.Context(), "auth/approle/login", map[string]any{"role_id": role, "secret_id": secretID})
	return err == nil
}

// tookUp counts how often a component is said to have taken up a version.
func (s *site) tookUp(component string) int {
	return strings.Count(s.log.String(), `took up the current version of a managed secret: component="`+component)
}

// TestAVaultThatTheBrokerLogsInToWithAManagedSecret: until there is one, what needs the
// Vault waits and says why; from then on each new one is taken up before the old one is
// proven dead, also after a restart.
func TestAVaultThatTheBrokerLogsInToWithAManagedSecret(t *testing.T) {
	t.Parallel()
	s, vault := newOwnLogin(t)
	n := s.start()
	eventually(t, "readiness", func() bool { status, _ := s.get("GET", "/readyz", ""); return status == http.StatusOK })
	if _, body := s.get("GET", "/readyz", ""); !strings.Contains(body, "waiting: one of the backends, issuers and probes for a secret that has no version yet") {
		t.Errorf("readiness: %s", body)
	}
	waiting := must(n.Rotate(t.Context(), "app/key", client.RotateRequest{}))(t)
	eventually(t, "a rotation that says what it waits for", func() bool {
		r, err := n.Rotation(t.Context(), waiting.ID)
		return err == nil && r.WaitingFor == "backend" && strings.Contains(r.Error, `backend "prod" waits for infra/vault, which has no version yet`)
	})
	n.done(t, "infra/vault")
	if rot, _ := n.follow(t, waiting.ID); rot.State != client.RotationDone {
		t.Fatalf("what waited: %s: %s", rot.State, rot.Error)
	}
	if _, body := s.get("GET", "/readyz", ""); strings.Contains(body, "waiting") {
		t.Errorf("readiness: %s", body)
	}
	role, seen := s.env["VAULT_ROLE_ID"], []string{n.value(t, "infra/vault").Fields["secret_id"]}
	for range 2 {
		rot, retirements := n.rotate(t, "infra/vault")
		proof := retirements[rot.FromVersion]
		if rot.State != client.RotationDone || proof.State != client.ProvenDead {
			t.Fatalf("%s: %s; the old one is %s", rot.State, rot.Error, proof.State)
		}
		old, current := seen[len(seen)-1], n.value(t, "infra/vault").Fields["secret_id"]
		if logsIn(t, vault.Client(t), role, old) || !logsIn(t, vault.Client(t), role, current) {
			t.Error("the old secret id works, or the new one does not")
		}
		seen = append(seen, current)
		n.done(t, "app/key") // by the new login
	}
	if got := s.tookUp("backend \\\"prod"); got != 3 {
		t.Errorf("versions were taken up %d times, want 3\n%s", got, s.log)
	}
	n.stop()
	s.env["VAULT_ADMIN"] = "another-admin-token"
	n = s.start()
	n.done(t, "app/key")
	if key := n.value(t, "app/key").Fields["key"]; key == "" {
		t.Error("nothing can be read after a restart")
	}
	n.stop()
	traces := s.log.String() + s.read("data/audit.jsonl") + s.read("data/keybroker.db")
	for _, secret := range append(seen, vault.RootToken) {
		if strings.Contains(traces, secret) {
			t.Error("what the broker logs in with was logged, or is in its database")
		}
	}
}

// TestAManagedSecretIsReadFromItsVault: where the broker has no copy of its own, the
// vault that holds the secret is opened first, in whatever order the blocks are written.
func TestAManagedSecretIsReadFromItsVault(t *testing.T) {
	t.Parallel()
	s, _ := newOwnLogin(t)
	keeper := vaultserver.Start(t)
	s.env["KEEPER"] = keeper.RootToken
	s.hcl = replaced(t, s.hcl, `backend "local" "embedded" {}`, `backend "vault" "keeper" {
  address = "`+keeper.Addr+`"
  auth "token" {
    token = env("KEEPER")
  }
}`, `backend = "embedded"`, `backend = "keeper"`)
	n := s.start()
	n.done(t, "infra/vault", "app/key")
	key := n.value(t, "app/key").Fields["key"]
	n.stop()
	db := must(sql.Open("sqlite", "file:"+s.config().Storage.Path))(t)
	exec(t, db, "UPDATE versions SET sealed = NULL")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	n = s.start()
	if got := n.value(t, "app/key").Fields["key"]; got != key || key == "" {
		t.Error("the vault cannot be used after a restart")
	}
	n.stop()
	kept := s.hcl
	s.hcl = replaced(t, s.hcl, `  backend = "keeper"`, `  backend = "elsewhere"`) + "backend \"local\" \"elsewhere\" {}\n" // where the version is not yet
	n = s.start()
	if got := n.value(t, "app/key").Fields["key"]; got != key {
		t.Error("the vault cannot be used after what it takes is to be kept elsewhere")
	}
	n.stop()
	s.hcl = kept
	keeper.Stop()
	n = s.start()
	eventually(t, "a notice", func() bool {
		_, body := s.get("GET", "/readyz", "")
		return strings.Contains(body, `"problems":["a backend cannot be used"]`) && strings.Contains(body, `"notices":["one of the backends, issuers and probes cannot take up a secret"]`)
	})
	if _, err := n.Value(t.Context(), "app/key", 0); client.Status(err) != http.StatusServiceUnavailable {
		t.Errorf("what needs it: %v", err)
	}
}

// adminOf is an API whose admin tokens are keys that another one gives out, and the admin
// token of that: in front of the real one, it lets in whom that accepts.
func adminOf(t *testing.T, behind, keys *keyserver.Server) string {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(must(url.Parse(behind.URL))(t))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/keys") {
			token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if token != keys.AdminToken && !keys.Works(token) {
				http.Error(w, "no admin: "+token, http.StatusUnauthorized)
				return
			}
			r.Header.Set("Authorization", "Bearer "+behind.AdminToken)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// administered is a mailer whose admin token is a managed secret, minted by another API.
func administered(t *testing.T, mailerURL, adminsURL string) string {
	t.Helper()
	mailer := inVault[strings.Index(inVault, `issuer "http"`):strings.Index(inVault, "rotation_policy")]
	admins := strings.NewReplacer(`"mailer"`, `"admins"`, "secret.issuer.scopes", `["admin"]`, "API_URL", adminsURL).Replace(mailer)
	mailer = replaced(t, strings.ReplaceAll(mailer, "API_URL", mailerURL), `env("MAILER_ADMIN")`, `secret("infra/mailer").key`)
	return `
listener "tcp" {
  address = "ADDR"
}
backend "local" "embedded" {}
` + mailer + admins + `
rotation_policy "quick" {
  match {
    paths = ["*"]
  }
  overlap = "3s"
  verify {
    successes = 1
    interval  = "50ms"
  }
  confirm {
    rejections = 2
    window     = "1s"
  }
}
secret "infra/mailer" {
  backend = "embedded"
  probe   = "admins"
  issuer "admins" {}
}
secret "mail/sender" {
  backend = "embedded"
  probe   = "mailer"
  issuer "mailer" {
    scopes = ["send"]
  }
}
`
}

// TestNodesTakeUpAManagedAdminToken: on PostgreSQL every node does, whichever rotated it.
func TestNodesTakeUpAManagedAdminToken(t *testing.T) {
	t.Parallel()
	mailer, admins := keyserver.Start(t), keyserver.Start(t)
	hcl := onPostgres(administered(t, adminOf(t, mailer, admins), admins.URL), filepath.Join(t.TempDir(), "seal.key"))
	db, token := postgresserver.Start(t).URL, ""
	var sites []*site
	var nodes []*node
	for range 2 {
		s := newSite(t, hcl)
		s.env, s.token = map[string]string{"DATABASE_URL": db, "MAILER_ADMIN": admins.AdminToken}, token
		nodes, sites = append(nodes, s.start()), append(sites, s)
		token = s.rootToken()
	}
	taken := func(times int) {
		t.Helper()
		for _, s := range sites {
			eventually(t, "a node that takes the admin token up", func() bool { return s.tookUp(`issuer \"mailer`) == times })
		}
	}
	nodes[0].done(t, "infra/mailer")
	taken(1)
	nodes[1].done(t, "mail/sender")
	for i := range 2 {
		rot, retirements := nodes[i].rotate(t, "infra/mailer")
		if rot.State != client.RotationDone || retirements[rot.FromVersion].State != client.ProvenDead {
			t.Fatalf("%s: %s", rot.State, rot.Error)
		}
		taken(i + 2)
		for _, n := range nodes {
			n.done(t, "mail/sender")
		}
	}
	if live := mailer.Live(); len(live) != 1 {
		t.Errorf("the mailer holds %d live keys, want 1", len(live))
	}
	for _, s := range sites {
		for _, secret := range admins.Secrets() {
			if strings.Contains(s.log.String(), secret) {
				t.Error("an admin token was logged")
			}
		}
	}
}

// TestAnAdminTokenThatCannotBeTakenUp: the node goes on with the one of before, says so
// wherever somebody looks, and takes the next good one.
func TestAnAdminTokenThatCannotBeTakenUp(t *testing.T) {
	t.Parallel()
	mailer, admins := keyserver.Start(t), keyserver.Start(t)
	var spoilt atomic.Bool // the API gives tokens with a line break, which no header takes
	proxy := httputil.NewSingleHostReverseProxy(must(url.Parse(admins.URL))(t))
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method != http.MethodPost || !spoilt.Load() {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		body = bytes.Replace(body, []byte(`"secret":"`), []byte(`"secret":"\n`), 1)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Del("Content-Length")
		return err
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	hcl := replaced(t, administered(t, adminOf(t, mailer, admins), front.URL), `  probe   = "admins"
  issuer "admins" {}`, `  proof   = "none"
  issuer "admins" {}
  rotation {
    overlap = "1h"
  }`)
	s := newSite(t, hcl)
	s.adjust = func(o *daemon.Options) { o.LookForAlerts(50 * time.Millisecond) }
	s.env = map[string]string{"MAILER_ADMIN": admins.AdminToken}
	n := s.start()
	n.done(t, "infra/mailer", "mail/sender")
	spoilt.Store(true)
	id := n.begin(t, "infra/mailer", "overlap")
	eventually(t, "a notice of a node that is ready", func() bool {
		status, body := s.get("GET", "/readyz", "")
		return status == http.StatusOK && strings.Contains(body, `"notices":["one of the backends, issuers and probes cannot take up a secret"]`)
	})
	open := func() []client.Alert {
		list := must(n.Alerts(t.Context(), client.AlertQuery{}))(t)
		var found []client.Alert
		for _, a := range list.Items {
			if a.Kind == "stale_credential" && a.ResolvedAt.IsZero() {
				found = append(found, a)
			}
		}
		return found
	}
	eventually(t, "an alert", func() bool { return len(open()) == 1 })
	if a := open()[0]; !strings.Contains(a.Text, `issuer "mailer" cannot be set up: invalid: Invalid credential`) || !strings.Contains(a.Text, "it works with the version of before") {
		t.Errorf("the alert: %s", a.Text)
	}
	if !strings.Contains(s.log.String(), "a component cannot take up the current version of a managed secret; it is tried again") {
		t.Error("the log does not tell")
	}
	n.done(t, "mail/sender") // by the token of before
	n.stop()
	n = s.start() // which now is not known any more
	r := must(n.Rotate(t.Context(), "mail/sender", client.RotateRequest{}))(t)
	eventually(t, "a rotation that says what it waits for", func() bool {
		r, err := n.Rotation(t.Context(), r.ID)
		return err == nil && strings.Contains(r.Error, `issuer "mailer" cannot be set up: invalid: Invalid credential`)
	})
	must(n.RollBack(t.Context(), id, client.InterventionRequest{Reason: "test"}))(t)
	eventually(t, "the end of the alert", func() bool { return len(open()) == 0 })
	if rot, _ := n.follow(t, r.ID); rot.State != client.RotationDone {
		t.Errorf("what waited: %s: %s", rot.State, rot.Error)
	}
	eventually(t, "readiness", func() bool { status, _ := s.get("GET", "/readyz", ""); return status == http.StatusOK })
	for _, secret := range admins.Secrets() {
		if strings.Contains(s.log.String()+s.read("data/audit.jsonl"), secret) {
			t.Error("an admin token was logged")
		}
	}
}

// TestReloadToAManagedSecret: until the secret has a version, what works goes on with what
// it had, and that is said; what could never be set up is refused, and so is a round.
func TestReloadToAManagedSecret(t *testing.T) {
	t.Parallel()
	mailer, admins := keyserver.Start(t), keyserver.Start(t)
	managed := administered(t, adminOf(t, mailer, admins), admins.URL)
	s := newSite(t, replaced(t, managed, `secret("infra/mailer").key`, `env("MAILER_ADMIN")`))
	s.env = map[string]string{"MAILER_ADMIN": admins.AdminToken}
	managed = strings.ReplaceAll(managed, "ADDR", s.addr)
	n := s.start()
	s.hcl = managed
	const waits = `issuer "mailer" waits for infra/mailer, which has no version yet; until then, or a restart, it works as it was configured before`
	warned := func(r client.Reload) bool {
		return slices.ContainsFunc(r.Warnings, func(f client.ConfigFinding) bool {
			return f.What == waits && strings.Contains(f.Remedy, "keybroker secret rotate infra/mailer")
		})
	}
	if r := n.reload(t); changesOf(r) != "changed issuer mailer" || !warned(r) {
		t.Errorf("%s, %+v", changesOf(r), r.Warnings)
	}
	n.done(t, "mail/sender")
	if r := n.reload(t); changesOf(r) != "" || !warned(r) {
		t.Errorf("nothing was changed: %s, %+v", changesOf(r), r.Warnings)
	}
	if n.done(t, "mail/sender"); s.tookUp(`issuer \"mailer`) != 0 {
		t.Error("there was nothing to take up")
	}
	n.done(t, "infra/mailer", "mail/sender")
	if got := s.tookUp(`issuer \"mailer`); got != 1 {
		t.Errorf("it was taken up %d times", got)
	}
	if r := n.reload(t); changesOf(r) != "" || warned(r) {
		t.Errorf("nothing was changed: %s, %+v", changesOf(r), r.Warnings)
	}
	took := s.tookUp(`issuer \"mailer`)
	s.hcl = strings.Replace(strings.ReplaceAll(managed, `fields = { key = "$.secret" }`, `fields = { token = "$.secret" }`), `secret("infra/mailer").key`, `secret("infra/mailer").token`, 1)
	s.hcl = strings.ReplaceAll(s.hcl, "field.key", "field.token")
	if got := n.refused(t, false); !strings.Contains(got, `the secret infra/mailer has no field "token", or an empty one`) {
		t.Errorf("refused for %s", got)
	}
	s.hcl = replaced(t, managed, `issuer "admins" {}`, `issuer "mailer" { scopes = [] }`)
	if got := n.refused(t, false); !strings.Contains(got, `The issuer "mailer" needs itself`) || !strings.Contains(got, "which is minted by issuer \"mailer\" (config.hcl:") {
		t.Errorf("refused for %s", got)
	}
	n.done(t, "mail/sender")
	if got := s.tookUp(`issuer \"mailer`); got != took {
		t.Errorf("it was made anew %d times for nothing", got-took)
	}
}
