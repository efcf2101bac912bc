package daemon_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

func TestRule01AnAmbiguousMintIsLookedUpByItsExactTag(t *testing.T) {
	t.Parallel()
	o := newOperated(t)
	api := o.front(o.api.URL)
	o.node = o.start()
	db := o.database(t)
	o.done(t, mailer)

	// The API makes the key, and nobody hears of it. A stranger has one whose name
	// begins like ours, which the API lists too when it is asked for ours.
	var once sync.Once
	var journalled string
	var stranger madeKey
	failed := make(chan error, 3)
	api.do(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		lost := false
		if r.Method == http.MethodPost {
			once.Do(func() {
				lost = true
				var body struct{ Name string }
				err := bodyOf(r, &body)
				failed <- err
				failed <- db.QueryRowContext(context.Background(), "SELECT stage FROM versions WHERE tag = ?", body.Name).Scan(&journalled)
				pass.ServeHTTP(httptest.NewRecorder(), r)
				stranger, err = o.byHand(body.Name + "0")
				failed <- err
			})
		}
		if lost {
			panic(http.ErrAbortHandler)
		}
		pass.ServeHTTP(w, r)
	})
	rot, retirements := o.rotate(t, mailer)
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	if journalled != client.StagePending {
		t.Errorf("when the issuer was asked, the store had the version as %q", journalled)
	}
	if rot.State != client.RotationDone || rot.ToVersion != 3 || retirements[2].Cause != "orphan" {
		t.Fatalf("%s with version %d: %s; version 2 is retired as %q", rot.State, rot.ToVersion, rot.Error, retirements[2].Cause)
	}
	eventually(t, "the end of the orphan alone", func() bool { return len(o.api.Live()) == 2 })
	if !o.api.Works(stranger.Secret) || !o.api.Works(o.value(t, mailer).Fields["key"]) {
		t.Errorf("the stranger's key works %v, the current one %v", o.api.Works(stranger.Secret), o.api.Works(o.value(t, mailer).Fields["key"]))
	}
}

// refuseMinted makes every commit fail that would record what was minted, by an
// overflow: what RAISE says is taken for a lost compare-and-swap.
const refuseMinted = `CREATE TRIGGER refuse_minted BEFORE UPDATE ON rotations WHEN OLD.state = 'minting' AND NEW.state <> 'minting'
	BEGIN SELECT abs(NEW.revision * 0 - 9223372036854775807 - 1); END`

// mintedInVain lets a rotation come to where its credential is made and that cannot be recorded; then the node ends.
func mintedInVain(t *testing.T, s *site, n *node, db *sql.DB, secret string) (id string) {
	t.Helper()
	exec(t, db, refuseMinted)
	id = must(n.Rotate(t.Context(), secret, client.RotateRequest{}))(t).ID
	eventually(t, "a mint that is not recorded", func() bool { return strings.Contains(s.log.String(), "was minted and could not be recorded") })
	n.stop()
	exec(t, db, `DROP TRIGGER refuse_minted`)
	return id
}

// count is the one number that a query gives.
func count(t *testing.T, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func sealedOf(t *testing.T, db *sql.DB, version int) (b []byte) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), "SELECT sealed FROM versions WHERE number = ?", version).Scan(&b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRule02APreparedValueIsReplayed(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	db := s.database(t)
	id := mintedInVain(t, s, n, db, "app/key")
	before := sealedOf(t, db, 1)
	if len(before) == 0 {
		t.Fatal("nothing was sealed before the issuer was asked")
	}
	n = s.start()
	rot, _ := n.follow(t, id)
	if rot.State != client.RotationDone || rot.ToVersion != 1 {
		t.Fatalf("%s with version %d: %s", rot.State, rot.ToVersion, rot.Error)
	}
	if !bytes.Equal(sealedOf(t, db, 1), before) || !n.works(t, n.value(t, "app/key").Fields["key"]) {
		t.Error("the value is another one, or does not work")
	}
	if versions, keys := count(t, db, "SELECT count(*) FROM versions"), count(t, db, "SELECT count(*) FROM api_keys"); versions != 1 || keys != 1 {
		t.Errorf("%d versions and %d keys were made", versions, keys)
	}
}

func TestRule02AMintedValueIsRetiredAndMintedAnew(t *testing.T) {
	t.Parallel()
	o := newOperated(t)
	o.node = o.start()
	id := mintedInVain(t, o.site, o.node, o.database(t), mailer)
	lost := o.api.Live()
	if len(lost) != 1 || o.api.Requests(minted) != 1 {
		t.Fatalf("%d keys by %d requests", len(lost), o.api.Requests(minted))
	}
	o.node = o.start()
	rot, _ := o.follow(t, id)
	if rot.State != client.RotationDone || rot.ToVersion != 2 || o.api.Requests(listed) == 0 {
		t.Fatalf("%s with version %d after %d look-ups: %s", rot.State, rot.ToVersion, o.api.Requests(listed), rot.Error)
	}
	eventually(t, "the end of what was lost", func() bool { return len(o.api.Live()) == 1 })
	if o.api.Live()[0].ID == lost[0].ID || !o.api.Works(o.value(t, mailer).Fields["key"]) || o.api.Requests(minted) != 2 {
		t.Errorf("the API has %+v, after %d mints", o.api.Live(), o.api.Requests(minted))
	}
}

func TestRule03ARefusedRequestIsNotRepeatedForEver(t *testing.T) {
	t.Parallel()
	o := newOperated(t)
	o.node = o.start()
	o.done(t, mailer)
	key, before := o.value(t, mailer).Fields["key"], o.api.Requests(minted)
	o.api.Override(minted, http.StatusUnprocessableEntity, always)
	rot, _ := o.rotate(t, mailer)
	if rot.State != client.RotationFailed || !strings.Contains(rot.Error, "status 422") {
		t.Errorf("%s: %s", rot.State, rot.Error)
	}
	if asked := o.api.Requests(minted) - before; asked != 3 {
		t.Errorf("the issuer was asked %d times, want 3", asked)
	}
	if o.value(t, mailer).Fields["key"] != key || !o.api.Works(key) {
		t.Error("the current key has changed, or does not work")
	}
	for _, r := range o.retirementsOf(t, mailer) {
		t.Errorf("version %d, which was never made, is retired: %+v", r.Version, r)
	}
}

// TestRule04NoEffectInATransaction: SQLite has one writer. While anything outside
// is asked for anything, others can write, so no transaction is open.
func TestRule04NoEffectInATransaction(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	// Nobody gives up before the write does.
	s.hcl = replaced(t, s.hcl, `overlap = "2s"`, quick, `probe "http" "mailer" {`, "probe \"http\" \"mailer\" {\n  timeout = \"20s\"",
		`  mount       = "secret"`, "  mount       = \"secret\"\n  limits {\n    timeout = \"20s\"\n  }")
	fronts := map[string]*front{"the API": s.front(s.api.URL), "the vault": s.front(s.vault.Addr), "the consumer": s.front(s.app.url)}
	n := s.start()
	var mu sync.Mutex
	wrote := map[string]error{}
	for who, f := range fronts {
		f.do(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
			what := who + " " + r.Method
			if strings.Contains(r.URL.Path, "/v1/me") {
				what += " me"
			}
			mu.Lock()
			_, seen := wrote[what]
			if !seen {
				wrote[what] = errors.New("not yet")
			}
			mu.Unlock()
			if !seen { // it waits for the write, and so does whoever asks
				ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
				_, err := n.CreateToken(ctx, client.CreateTokenRequest{Name: "written meanwhile", Policies: []string{"root"}})
				cancel()
				mu.Lock()
				wrote[what] = err
				mu.Unlock()
			}
			pass.ServeHTTP(w, r)
		})
	}
	s.api.DropCreates(1)
	n.done(t, mailer, mailer)
	eventually(t, "a delivery", func() bool { _, generation := s.app.key(mailer); return generation == 2 })
	mu.Lock()
	defer mu.Unlock()
	for _, what := range []string{"the API POST", "the API GET", "the API GET me", "the API DELETE", "the vault GET", "the vault PUT", "the consumer POST"} {
		if err, asked := wrote[what]; !asked || err != nil {
			t.Errorf("%s: asked %v; meanwhile nothing could be written: %v (all: %v)", what, asked, err, wrote)
		}
	}
}

// TestRule05NothingIsMintedBeforeItCanBeUsed: what a rotation needs is looked at
// before its first effect.
func TestRule05NothingIsMintedBeforeItCanBeUsed(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl = replaced(t, s.hcl, `overlap = "2s"`, quick, "max_live          = 5", "max_live          = 2")
	vault := s.front(s.vault.Addr)
	o := &operated{site: s.site, api: s.api, app: s.app}
	o.node = o.start()
	ctx := t.Context()
	o.done(t, mailer)
	for _, c := range []struct {
		name, waitsFor string
		lack, mend     func()
	}{
		{"the vault is sealed", "backend", func() { s.vault.Seal(t) }, func() { s.vault.Unseal(t) }},
		{"the vault refuses us", "backend", func() { vault.answer(http.StatusForbidden, every) }, func() { vault.do(nil) }},
		{"the vault was written by somebody else", "repair", func() {
			if _, err := s.vault.Client(t).KVv2("secret").Put(ctx, "keybroker/"+mailer, map[string]any{"key": "by hand"}); err != nil {
				t.Fatal(err)
			}
		}, func() { must(o.Repair(ctx, mailer, client.RepairRequest{Overwrite: true}))(t) }},
		{"the issuer holds all it can", "issuer", func() {
			o.api.Override(revoked, http.StatusServiceUnavailable, always)
			o.begin(t, mailer, client.RotationRetiring)
		}, func() {
			o.api.Override(revoked, 0, 0)
			o.proven(t, mailer, o.value(t, mailer).Version-1)
		}},
	} {
		c.lack()
		before := o.api.Requests(minted)
		id := must(o.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID
		o.waitsFor(t, id, c.waitsFor)
		if rot := must(o.Rotation(ctx, id))(t); rot.State != client.RotationQueued || rot.ToVersion != 0 || o.api.Requests(minted) != before {
			t.Errorf("%s: it is %s with version %d; the issuer was asked %d times", c.name, rot.State, rot.ToVersion, o.api.Requests(minted)-before)
		}
		c.mend()
		o.hurry(t, id, client.RotationQueued)
		if rot, _ := o.follow(t, id); rot.State != client.RotationDone || o.api.Requests(minted) != before+1 {
			t.Errorf("%s, and mended: %s after %d mints: %s", c.name, rot.State, o.api.Requests(minted)-before, rot.Error)
		}
	}
}
