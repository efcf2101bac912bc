package daemon_test

import (
	"database/sql"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// replaced is a text with replacements, each of which must be possible.
func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("there is no %q", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

// reload must succeed.
func (n *node) reload(t *testing.T) client.Reload {
	t.Helper()
	r, err := n.Client.Reload(t.Context(), client.ReloadRequest{})
	if err != nil {
		t.Fatalf("reloading: %v %s", err, problemsOf(err))
	}
	return r
}

// refused must fail, and gives all its reasons.
func (n *node) refused(t *testing.T, dryRun bool) string {
	t.Helper()
	_, err := n.Client.Reload(t.Context(), client.ReloadRequest{DryRun: dryRun})
	if err == nil {
		t.Fatal("the reload was not refused")
	}
	return problemsOf(err)
}

func problemsOf(err error) string {
	var b strings.Builder
	if p, ok := errors.AsType[*client.Problem](err); ok {
		for _, f := range p.Problems {
			b.WriteString(f.What + " => " + f.Remedy + "\n")
		}
	}
	return b.String()
}

func changesOf(r client.Reload) string {
	var all []string
	for _, c := range r.Changes {
		all = append(all, c.Change+" "+c.Kind+" "+c.Name)
	}
	return strings.Join(all, ", ")
}

const secondSecret = `
secret "app/second" {
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
}
`

func TestReloadTakesAChangedConfigurationIntoUse(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.done(t, "app/key")
	reader, err := n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "app", Policies: []string{"reader"}})
	if err != nil {
		t.Fatal(err)
	}
	app := s.client(reader.Token.Reveal(), n.addr)
	before := s.hcl

	if r := n.reload(t); len(r.Changes)+len(r.Warnings) > 0 {
		t.Errorf("nothing was changed, and the reload says %+v", r)
	}
	s.hcl = replaced(t, before, `capabilities = ["read"]`, `capabilities = ["list"] # less`, "overlap = \"2s\"", "overlap = \"3s\"") + secondSecret
	const want = "changed secret app/key, added secret app/second, changed policy reader, changed rotation_policy quick"
	dry, err := n.Client.Reload(t.Context(), client.ReloadRequest{DryRun: true})
	if err != nil || changesOf(dry) != want || !dry.DryRun {
		t.Errorf("it would do: %s (%v)", changesOf(dry), err)
	}
	if _, err := n.Secret(t.Context(), "app/second"); client.Status(err) != http.StatusNotFound {
		t.Errorf("a dry run made a secret: %v", err)
	}
	if _, err := app.Value(t.Context(), "app/key", 0); err != nil {
		t.Errorf("a dry run changed a policy: %v", err)
	}
	if got := changesOf(n.reload(t)); got != want {
		t.Errorf("it did: %s", got)
	}
	if _, err := app.Value(t.Context(), "app/key", 0); client.Status(err) != http.StatusForbidden {
		t.Errorf("a capability that was taken away: %v", err)
	}
	n.done(t, "app/second")

	s.hcl = before
	const back = "changed secret app/key, unmanaged secret app/second, changed policy reader, changed rotation_policy quick"
	if got := changesOf(n.reload(t)); got != back {
		t.Errorf("it did: %s", got)
	}
	if got, err := n.Secret(t.Context(), "app/second"); err != nil || got.State != client.SecretUnmanaged {
		t.Errorf("the secret without a block: %+v %v", got, err)
	}
	conf, err := n.Configuration(t.Context())
	if err != nil || conf.LastReload == nil || !conf.LastReload.OK || len(conf.Conflicts) > 0 || time.Since(conf.LoadedAt) > time.Minute {
		t.Errorf("the configuration: %+v %v", conf, err)
	}
	eventually(t, "the audit log", func() bool { return strings.Contains(s.read("data/audit.jsonl"), `"action":"config.apply"`) })
}

// TestReloadIsTheOperatorsAlone: for whoever may update sys/config, and is bound
// to no tenant.
func TestReloadIsTheOperatorsAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil)+`
policy "operator" {
  path "sys/config" {
    capabilities = ["read", "update"]
  }
}
policy "viewer" {
  path "sys/config" {
    capabilities = ["read"]
  }
}
`)
	n := s.start()
	for _, c := range []struct {
		tenant, policy string
		reload, show   int
	}{{"", "operator", 0, 0}, {"", "viewer", 403, 0}, {"", "reader", 403, 403}, {"acme", "operator", 403, 403}} {
		token, err := n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "who", Tenant: c.tenant, Policies: []string{c.policy}})
		if err != nil {
			t.Fatal(err)
		}
		who := s.client(token.Token.Reveal(), n.addr)
		if _, err := who.Reload(t.Context(), client.ReloadRequest{}); client.Status(err) != c.reload || (err != nil) != (c.reload != 0) {
			t.Errorf("%s %s reloads: %v", c.tenant, c.policy, err)
		}
		if _, err := who.Configuration(t.Context()); client.Status(err) != c.show || (err != nil) != (c.show != 0) {
			t.Errorf("%s %s looks: %v", c.tenant, c.policy, err)
		}
	}
}

// longOverlap gives time to look at what is under way.
func longOverlap(t *testing.T) (*site, *node, string) {
	t.Helper()
	s := newSite(t, replaced(t, withConsumer(embedded, nil), `overlap = "2s"`, `overlap = "1h"`)+secondSecret)
	n := s.start()
	n.done(t, "app/key", "app/second")
	return s, n, n.begin(t, "app/key", "overlap")
}

// Everything is there twice, so that the blocks of before can be taken away.
const twins = `
backend "local" "other" {}
issuer "api_key" "other" {}
`

func TestReloadIsRefusedForWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	s, n, id := longOverlap(t)
	before := s.hcl
	if err := os.WriteFile(filepath.Join(s.dir, "bad"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	i := strings.Index(before, `probe "http" "internal"`)
	probe := before[i : strings.Index(before[i:], "\n}\n")+i+3]
	key := before[strings.Index(before, `secret "app/key"`):strings.Index(before, `secret "app/second"`)]
	needs := func(what string) []string {
		return []string{"rotation " + id + " of app/key is in its overlap until ", " and needs " + what + ", which is not in the configuration",
			"keybroker rotation watch " + id, "keybroker rotation rollback " + id}
	}
	for name, c := range map[string]struct {
		hcl  string
		says []string
	}{
		"secret": {replaced(t, before, key, ""), needs(`secret "app/key"`)},
		"issuer": {strings.ReplaceAll(replaced(t, before, `issuer "api_key" "internal" {}`, twins[strings.Index(twins, "issuer"):]), `issuer "internal"`, `issuer "other"`),
			needs(`issuer "internal"`)},
		"backend": {strings.ReplaceAll(replaced(t, before, `backend "local" "embedded" {}`, twins[:strings.Index(twins, "issuer")]), `"embedded"`, `"other"`),
			needs(`backend "embedded"`)},
		"probe": {strings.ReplaceAll(replaced(t, before, probe, strings.Replace(probe, `"internal"`, `"other"`, 1)), `probe   = "internal"`, `probe   = "other"`),
			needs(`probe "internal"`)},
		"type of issuer": {replaced(t, before, `issuer "api_key" "internal" {}`, otherType),
			[]string{"rotation " + id, `needs issuer "internal" of the type "api_key", which now is of the type "http"`, "another name"}},
		"several": {replaced(t, before, key, "", `issuer "api_key" "internal" {}`, twins, probe, strings.Replace(probe, `"internal"`, `"other"`, 1),
			`probe   = "internal"`, `probe = "other"`, `issuer "internal"`, `issuer "other"`),
			slices.Concat(needs(`secret "app/key"`), needs(`issuer "internal"`), needs(`probe "internal"`))},
		"address":  {replaced(t, before, s.addr, "127.0.0.1:1"), []string{"listener.address was changed, which takes a restart"}},
		"data_dir": {"data_dir = \"elsewhere\"\n" + before, []string{"data_dir was changed", "storage.path was changed", "seal was changed"}},
		"storage":  {before + "storage \"sqlite\" {\n  path = \"other.db\"\n}\n", []string{"storage.path was changed"}},
		"seal":     {before + "seal \"file\" {\n  path = \"other.key\"\n}\n", []string{"seal was changed"}},
		"mistakes": {replaced(t, before, "overlap =", "ovrlap =", "[200]", "[500, \"x\"]"), []string{`no attribute "ovrlap"`, "wrong type"}},
		"component": {before + "notifier \"webhook\" \"pager\" {\n  url                 = \"https://pager.example.com\"\n  signing_secret_file = \"bad\"\n}\n",
			[]string{"notifier \"pager\""}}, // what only making it finds out
	} {
		s.hcl = c.hcl + strings.ReplaceAll(secondSecret, "app/second", "app/third") // it must not come to be
		if name == "issuer" || name == "backend" || name == "probe" || name == "several" {
			s.hcl = replaced(t, s.hcl, strings.ReplaceAll(secondSecret, "app/second", "app/third"), "")
		}
		for _, dryRun := range []bool{true, false} {
			got := n.refused(t, dryRun)
			for _, want := range c.says {
				if !strings.Contains(got, want) {
					t.Errorf("%s (dry run %v): %q is not said:\n%s", name, dryRun, want, got)
				}
			}
		}
		if _, err := n.Secret(t.Context(), "app/third"); client.Status(err) != http.StatusNotFound {
			t.Errorf("%s: what was refused made a secret: %v", name, err)
		}
	}
	conf, err := n.Configuration(t.Context())
	if err != nil || conf.LastReload == nil || conf.LastReload.OK || len(conf.LastReload.Problems) == 0 || len(conf.Conflicts) > 0 {
		t.Errorf("after refusals: %+v %v", conf, err)
	}
	if !strings.Contains(s.log.String(), "the configuration was not reloaded; that of before stays in force") {
		t.Error("the log does not tell of refusals")
	}
	// The configuration of before is in force.
	s.hcl = before
	if r := n.reload(t); len(r.Changes) > 0 {
		t.Errorf("what was refused left changes behind: %s", changesOf(r))
	}
	n.begin(t, "app/second", "overlap")
}

const otherType = `issuer "http" "internal" {
  base_url = "https://api.example.com"
  create {
    method = "POST"
    path   = "/keys"
    handle = { id = "$.id" }
    fields = { key = "$.key" }
  }
  revoke {
    method = "DELETE"
    path   = "/keys/${handle.id}"
  }
}`

// TestReloadWhileADeliveryIsPending: its consumer can be taken out at any time, also
// while it keeps a key that is about to be revoked; the overlap ends without it.
func TestReloadWhileADeliveryIsPending(t *testing.T) {
	t.Parallel()
	down := &consumer{url: "http://127.0.0.1:1"}
	s := newSite(t, replaced(t, withConsumer(embedded, down), `overlap = "2s"`, `overlap = "1h"`))
	s.env["SIGNING_SECRET"] = newSigningSecret().Reveal()
	n := s.start()
	n.done(t, "app/key")
	without := replaced(t, s.hcl, `  consumers = ["app"]`, "")
	without = without[:strings.Index(without, `consumer "app"`)]
	with := s.hcl
	for _, version := range []string{"1", "2"} {
		s.hcl = without
		if r := n.reload(t); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0].What, `consumer "app" is not in the configuration, and deliveries to it are pending (the newest tells of app/key version `+version+`)`) ||
			!strings.Contains(r.Warnings[0].Remedy, "keybroker delivery list --consumer app") {
			t.Errorf("warnings: %+v", r.Warnings)
		}
		if version == "1" {
			s.hcl = with
			n.reload(t)
			n.begin(t, "app/key", "overlap")
		}
	}
}

// byAPI keeps its secret in the broker, and has it minted by a third party's API
// with the token that a file holds.
func byAPI(t *testing.T, api *keyserver.Server) *site {
	t.Helper()
	hcl := strings.NewReplacer("API_URL", api.URL, "CONSUMERS", "", `backend = "prod"`, `backend = "embedded"`, `env("MAILER_ADMIN")`, `file("token")`).Replace(inVault)
	vault := hcl[strings.Index(hcl, `backend "vault"`):strings.Index(hcl, `issuer "http"`)]
	s := newSite(t, replaced(t, hcl, vault, `backend "local" "embedded" {}`+"\n"))
	s.writeToken(api.AdminToken)
	return s
}

func (s *site) writeToken(token string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "token"), []byte(token+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// TestAReloadMendsAWrongToken: settings of a connection are used at once, also for
// what is under way. The token itself is read anew, and shown by nothing.
func TestAReloadMendsAWrongToken(t *testing.T) {
	t.Parallel()
	api := keyserver.Start(t)
	s := byAPI(t, api)
	n := s.start()
	n.done(t, "mail/sender")
	s.writeToken("wrong-CANARY-token")
	if got := changesOf(n.reload(t)); got != "changed issuer mailer" {
		t.Errorf("another token: %s", got)
	}
	r, err := n.Emergency(t.Context(), "mail/sender", client.EmergencyRequest{Reason: "test", Contain: client.RevokeFirst})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a refused revocation", func() bool {
		list, err := n.Retirements(t.Context(), client.RetirementQuery{Secret: "mail/sender"})
		return err == nil && len(list.Items) == 1 && list.Items[0].WaitingFor == "issuer" && list.Items[0].Error != "" &&
			time.Until(list.Items[0].NextAt) > 3*time.Second
	})
	s.writeToken(api.AdminToken)
	n.reload(t)
	woken, err := n.Retirements(t.Context(), client.RetirementQuery{Secret: "mail/sender"})
	if err != nil || woken.Items[0].State == client.Requested && woken.Items[0].NextAt.After(time.Now()) {
		t.Errorf("what waited for its issuer still waits, until %s (%v)", woken.Items[0].NextAt, err)
	}
	rot, retirements := n.follow(t, r.ID)
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead {
		t.Errorf("%s: %s; version 1 is %s", rot.State, rot.Error, retirements[1].State)
	}
	if strings.Contains(s.log.String()+s.read("data/audit.jsonl"), "CANARY") {
		t.Error("the token was logged")
	}
}

// TestReloadWhileRotationsRun: each finishes, whatever is exchanged meanwhile.
func TestReloadWhileRotationsRun(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil)+secondSecret)
	n := s.start()
	n.done(t, "app/key", "app/second")
	hcl := s.hcl
	stop := make(chan struct{})
	var reloads sync.WaitGroup
	made := 0
	reloads.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			s.hcl = hcl
			if i%2 == 0 {
				s.hcl = replaced(t, hcl, `overlap = "2s"`, `overlap = "1s"`, `method                = "POST"`, `method                = "POST" # still
  timeout               = "4s"`)
			}
			if _, err := n.Client.Reload(t.Context(), client.ReloadRequest{}); err != nil {
				t.Errorf("reloading: %v %s", err, problemsOf(err))
				return
			}
			made++
		}
	})
	var rotations sync.WaitGroup
	for _, secret := range []string{"app/key", "app/second"} {
		rotations.Go(func() {
			for range 2 {
				r, err := n.Rotate(t.Context(), secret, client.RotateRequest{})
				if err != nil {
					t.Error(err)
					return
				}
				eventually(t, "the end of a rotation", func() bool {
					now, err := n.Rotation(t.Context(), r.ID)
					return err == nil && now.State == client.RotationDone
				})
			}
		})
	}
	rotations.Wait()
	close(stop)
	reloads.Wait()
	if made < 2 {
		t.Errorf("only %d reloads were made meanwhile", made)
	}
}

// TestReloadsAtOnceAreMadeOneByOne: none is lost.
func TestReloadsAtOnceAreMadeOneByOne(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := n.Client.Reload(t.Context(), client.ReloadRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := strings.Count(s.log.String(), "the configuration was reloaded"); got != 8 {
		t.Errorf("%d reloads are in the log", got)
	}
}

// TestAReloadWhoseCommitFailsChangesNothing: not one of many rows.
func TestAReloadWhoseCommitFailsChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.done(t, "app/key")
	before, err := n.Secret(t.Context(), "app/key")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+s.config().Storage.Path+"?_pragma=busy_timeout(20000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	old := s.hcl
	s.hcl = replaced(t, s.hcl, `["read"]`, `["list"]`, `issuer "internal" {}`, "issuer \"internal\" {}\n  labels = { team = \"a\" }") + secondSecret
	exec(t, db, `CREATE TRIGGER refuse BEFORE INSERT ON secrets WHEN NEW.name = 'app/second' BEGIN SELECT RAISE(ABORT, 'no more rows'); END`)
	if got := n.refused(t, false); !strings.Contains(got, "app/second") {
		t.Errorf("refused for %s", got)
	}
	exec(t, db, `DROP TRIGGER refuse`)
	after, err := n.Secret(t.Context(), "app/key")
	if err != nil || len(after.Labels) != len(before.Labels) {
		t.Errorf("a row was changed: %+v %v", after.Labels, err)
	}
	s.hcl = old
	if r := n.reload(t); len(r.Changes) > 0 {
		t.Errorf("it left behind: %s", changesOf(r))
	}
}

// TestANodeStartsWithoutWhatIsUnderWay: what lacks something waits and is shown,
// everything else works.
func TestANodeStartsWithoutWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	s := newSite(t, replaced(t, withConsumer(embedded, nil), `overlap = "2s"`, `overlap = "4s"`))
	n := s.start()
	n.done(t, "app/key")
	id := n.begin(t, "app/key", "overlap")
	n.stop()
	whole := s.hcl
	s.hcl = replaced(t, whole[:strings.Index(whole, `secret "app/key"`)], `issuer "api_key" "internal" {}`, `issuer "api_key" "other" {}`) +
		strings.ReplaceAll(secondSecret, `issuer "internal"`, `issuer "other"`)
	n = s.start()
	n.done(t, "app/second")
	conf, err := n.Configuration(t.Context())
	if err != nil || len(conf.Conflicts) != 1 || !strings.Contains(conf.Conflicts[0].What, `issuer "internal", which is not in the configuration`) {
		t.Errorf("conflicts: %+v %v", conf.Conflicts, err)
	}
	if log := s.log.String(); !strings.Contains(log, "the configuration lacks what is under way; it waits: rotation "+id) {
		t.Error("the log does not tell what is missing")
	}
	if _, metrics := s.get("GET", "/metrics", s.rootToken()); !strings.Contains(metrics, "keybroker_config_conflicts 1") {
		t.Error("the metric does not tell of the conflicts")
	}
	eventually(t, "a revocation that waits for its issuer", func() bool {
		list, err := n.Retirements(t.Context(), client.RetirementQuery{Secret: "app/key"})
		return err == nil && len(list.Items) == 1 && strings.Contains(list.Items[0].Error, `no issuer "internal" in the configuration`)
	})
	// What was lacking already does not keep anything else from being mended.
	s.hcl = replaced(t, s.hcl, `["read"]`, `["list"]`)
	if r := n.reload(t); changesOf(r) != "changed policy reader" || len(r.Warnings) == 0 || !strings.Contains(r.Warnings[0].What, `issuer "internal"`) {
		t.Errorf("a reload beside a conflict: %+v", r)
	}
	s.hcl = whole + `issuer "api_key" "other" {}` + strings.ReplaceAll(secondSecret, `issuer "internal"`, `issuer "other"`)
	n.reload(t)
	rot, retirements := n.follow(t, id)
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead {
		t.Errorf("%s: %s; version 1 is %s", rot.State, rot.Error, retirements[1].State)
	}
}

// TestReloadWarnsOfWhatWillBeMissed: nothing is under way, and still something
// would be lost with the block.
func TestReloadWarnsOfWhatWillBeMissed(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.done(t, "app/key", "app/key") // version 1 is proven dead, with re-checks to come
	s.hcl = replaced(t, s.hcl, `issuer "api_key" "internal" {}`, `issuer "api_key" "other" {}`, `issuer "internal" {}`, `issuer "other" {}`)
	r, err := n.Client.Reload(t.Context(), client.ReloadRequest{DryRun: true})
	if err != nil {
		t.Fatalf("%v %s", err, problemsOf(err))
	}
	var all strings.Builder
	for _, w := range r.Warnings {
		all.WriteString(w.What + " => " + w.Remedy + "\n")
	}
	for _, want := range []string{`issuer "internal" is not in the configuration, and there is a version of app/key in use that it minted: nothing can revoke them`,
		"rotate these secrets", `there is a version of app/key proven dead and to be tried once more: a resurrection could not be ended`} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("%q is not said:\n%s", want, all.String())
		}
	}
}

// TestReloadOnPostgres: the queries about what is under way are the same there.
func TestReloadOnPostgres(t *testing.T) {
	t.Parallel()
	s := newSite(t, replaced(t, withConsumer(embedded, nil), `overlap = "2s"`, `overlap = "1h"`))
	s.env["DATABASE_URL"] = postgresserver.Start(t).URL
	s.hcl = onPostgres(s.hcl, filepath.Join(s.dir, "seal.key"))
	n := s.start()
	n.done(t, "app/key")
	id := n.begin(t, "app/key", "overlap")
	whole := s.hcl
	s.hcl = whole + secondSecret
	if got := changesOf(n.reload(t)); got != "added secret app/second" {
		t.Errorf("it did: %s", got)
	}
	s.hcl = replaced(t, whole, whole[strings.Index(whole, `secret "app/key"`):strings.Index(whole, `storage "postgresql"`)], "")
	if got := n.refused(t, false); !strings.Contains(got, "rotation "+id+" of app/key") {
		t.Errorf("refused for: %s", got)
	}
}
