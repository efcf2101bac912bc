package daemon_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/rotation"
)

func noError(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// verified has the seals asked now, and gives those that are not ready.
func (n *node) verified(t *testing.T) (away []client.Seal) {
	t.Helper()
	v, err := n.VerifySeal(t.Context(), "")
	noError(t, err)
	return slices.DeleteFunc(v.Seals, func(s client.Seal) bool { return s.State == client.SealReady })
}

// TestOneOfTwoKeyFilesIsEnough, whatever is wrong with the other: it is away, nothing is
// put in its place, and once it is mended it is used without a restart.
func TestOneOfTwoKeyFilesIsEnough(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct {
		damage, mend func(path string, key []byte) error
		says         string
	}{
		"gone": {func(path string, _ []byte) error { return os.Remove(path) },
			func(path string, key []byte) error { return os.WriteFile(path, key, 0o600) }, "no such file"},
		"open to others": {func(path string, _ []byte) error { return os.Chmod(path, 0o640) },
			func(path string, _ []byte) error { return os.Chmod(path, 0o600) }, "chmod 600"},
		"cut short": {func(path string, key []byte) error { return os.WriteFile(path, key[:7], 0o600) },
			func(path string, key []byte) error { return os.WriteFile(path, key, 0o600) }, "holds 7 bytes"},
		"not mounted": {func(path string, _ []byte) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+".away") },
			func(path string, _ []byte) error { return os.Rename(filepath.Dir(path)+".away", filepath.Dir(path)) }, "no such file"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, hasty(1)+"seal \"file\" {\n  path = \"one.key\"\n}\nseal \"file\" {\n  path = \"disk/two.key\"\n}\n")
			s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil) }
			path := filepath.Join(s.dir, "disk", "two.key")
			n := s.start()
			if r, _ := n.rotate(t, "app/key"); r.State != client.RotationDone {
				t.Fatalf("rotation: %s: %s", r.State, r.Error)
			}
			value, before := n.value(t, "app/key").Fields["key"], n.wantSealed(t, 2)
			n.stop()
			key, err := os.ReadFile(path)
			noError(t, err, test.damage(path, key))
			damaged, damagedErr := os.Lstat(path)

			n = s.start()
			if got := n.value(t, "app/key").Fields["key"]; got != value {
				t.Error("the value is another")
			}
			away := n.verified(t)
			if len(away) != 1 || away[0].State != client.SealAway || away[0].ID != "file:"+path || !strings.Contains(away[0].Error, test.says) {
				t.Errorf("the seals that are not ready: %+v", away)
			}
			if _, err := n.RotateSeal(t.Context(), client.SealRotateRequest{}); client.Status(err) != http.StatusConflict || !strings.Contains(err.Error(), path) {
				t.Errorf("a new key that it would not open: %v", err)
			}
			if now, err := os.Lstat(path); (err == nil) != (damagedErr == nil) || err == nil && now.Size() != damaged.Size() {
				t.Errorf("something was put in its place: %v", err)
			}
			noError(t, test.mend(path, key))
			eventually(t, "the seal to be used again", func() bool { return len(n.verified(t)) == 0 })
			if after := n.wantSealed(t, 2); after.Keys[0].ID != before.Keys[0].ID {
				t.Error("the refused rotation has made a key")
			}
		})
	}
}

// TestKeyFileLostUnderARunningNode is seen by verify, and nothing is sealed by a key
// that the next start could not open.
func TestKeyFileLostUnderARunningNode(t *testing.T) {
	t.Parallel()
	s, value := grown(t)
	s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil) }
	n := s.start()
	before := n.wantSealed(t, 1)
	path := filepath.Join(s.dir, "data", "seal.key")
	key, err := os.ReadFile(path)
	noError(t, err)
	for what, damage := range map[string]func() error{
		"gone":     func() error { return os.Remove(path) },
		"replaced": func() error { return os.WriteFile(path, bytes.Repeat([]byte{7}, 32), 0o600) },
	} {
		noError(t, damage())
		if away := n.verified(t); len(away) != 1 || away[0].State != client.SealAway {
			t.Errorf("%s: verified although %+v", what, away)
		}
		for _, force := range []bool{false, true} {
			if _, err := n.RotateSeal(t.Context(), client.SealRotateRequest{Force: force}); err == nil || !strings.Contains(err.Error(), "no seal can be used") {
				t.Errorf("%s: rotated by nobody's leave: %v", what, err)
			}
		}
		noError(t, os.WriteFile(path, key, 0o600))
		eventually(t, "the seal to be back", func() bool { return len(n.verified(t)) == 0 })
	}
	if after := n.wantSealed(t, 1); after.Keys[0].ID != before.Keys[0].ID {
		t.Error("another key seals")
	}
	n.stop()
	n = s.start()
	if got := n.value(t, "app/key").Fields["key"]; got != value {
		t.Error("the value is another")
	}
}

// TestNothingIsReplacedByAKeyThatNobodyOpens: the only seal is lost right after it has
// wrapped the new key.
func TestNothingIsReplacedByAKeyThatNobodyOpens(t *testing.T) {
	t.Parallel()
	s, _ := grown(t)
	path := filepath.Join(s.dir, "data", "seal.key")
	key, err := os.ReadFile(path)
	noError(t, err)
	s.adjust = func(o *daemon.Options) {
		o.QuickSeal(0, func(step string) error {
			if step == "stored" {
				return os.Remove(path)
			}
			return nil
		})
	}
	n := s.start()
	r, err := n.RotateSeal(t.Context(), client.SealRotateRequest{})
	noError(t, err)
	eventually(t, "it to say what it waits for", func() bool {
		status, err := n.SealStatus(t.Context())
		noError(t, err)
		return strings.Contains(status.Waiting, "no seal opens key "+r.Key)
	})
	status, err := n.SealStatus(t.Context())
	noError(t, err)
	if len(status.Keys) != 2 || status.Left == 0 || status.Keys[0].Values > 0 {
		t.Errorf("%+v", status)
	}
	noError(t, os.WriteFile(path, key, 0o600))
	if after := n.wantSealed(t, 1); after.Keys[0].ID != r.Key || after.Waiting != "" {
		t.Errorf("%+v", after)
	}
	if count := strings.Count(s.log.String(), "does not go on"); count > 5 {
		t.Errorf("it is logged %d times", count)
	}
}

// transitSite is a site with a key file and a transit key, whose policy may be changed.
func transitSite(t *testing.T, v *vaultserver.Server, key string) (s *site, file, transit string, may func(paths ...string)) {
	t.Helper()
	mount, policy := v.Transit(t), "seal-"+filepath.Base(t.TempDir())+"-"+key
	_, err := v.Client(t).Logical().WriteWithContext(t.Context(), mount+"/keys/"+key, map[string]any{"exportable": true, "allow_plaintext_backup": true})
	noError(t, err)
	may = func(operations ...string) {
		t.Helper()
		rules := ""
		for _, o := range operations {
			rules += fmt.Sprintf("path %q { capabilities = [\"update\"] }\n", mount+"/"+o+"/"+key)
		}
		noError(t, v.Client(t).Sys().PutPolicyWithContext(t.Context(), policy, rules))
	}
	may("encrypt", "decrypt")
	secret, err := v.Client(t).Logical().WriteWithContext(t.Context(), "auth/token/create", map[string]any{"policies": []string{policy}})
	noError(t, err)
	s = newSite(t, "")
	s.env = map[string]string{"TRANSIT_TOKEN": secret.Auth.ClientToken}
	s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil); o.SlowSealCheck() }
	file = "seal \"file\" {\n  path = \"seal.key\"\n}\n"
	transit = fmt.Sprintf("seal \"vault_transit\" {\n  key = %q\n  mount = %q\n  address = %q\n  auth \"token\" {\n    token = env(\"TRANSIT_TOKEN\")\n  }\n}\n", key, mount, v.Addr)
	return s, file, transit, may
}

// TestSealThatMayOnlyEncryptKeepsNothing: it counts as away, so no key is made that only
// it has wrapped.
func TestSealThatMayOnlyEncryptKeepsNothing(t *testing.T) {
	t.Parallel()
	v := vaultserver.Shared(t)
	s, _, transit, may := transitSite(t, v, "only")
	s.hcl = strings.ReplaceAll(hasty(1), "ADDR", s.addr) + transit
	n := s.start()
	before := n.wantSealed(t, 1)
	may("encrypt")
	for _, force := range []bool{false, true} {
		if _, err := n.RotateSeal(t.Context(), client.SealRotateRequest{Force: force}); err == nil || !strings.Contains(err.Error(), "does not open it") {
			t.Errorf("a key that nobody opens was made: %v", err)
		}
	}
	may("encrypt", "decrypt")
	eventually(t, "the seal to be back", func() bool { return len(n.verified(t)) == 0 })
	if after := n.wantSealed(t, 1); after.Keys[0].ID != before.Keys[0].ID {
		t.Error("another key seals")
	}
	n.stop()
	s.start().wantSealed(t, 1)
}

// TestEarlierWrappingIsStillGood: Vault's key was another one for a while, and comes
// back out of a backup. What it had wrapped before still opens the data.
func TestEarlierWrappingIsStillGood(t *testing.T) {
	t.Parallel()
	v := vaultserver.Shared(t)
	s, file, transit, _ := transitSite(t, v, "restored")
	plain := strings.ReplaceAll(hasty(1), "ADDR", s.addr)
	s.hcl = plain + file + transit
	n := s.start()
	n.wantSealed(t, 2)
	mount := strings.Split(strings.Split(transit, "mount = \"")[1], "\"")[0]
	logical := v.Client(t).Logical()
	backup, err := logical.ReadWithContext(t.Context(), mount+"/backup/restored")
	noError(t, err)
	_, err = logical.WriteWithContext(t.Context(), mount+"/keys/restored/rotate", nil)
	noError(t, err)
	_, err = logical.WriteWithContext(t.Context(), mount+"/keys/restored/config", map[string]any{"min_decryption_version": 2})
	noError(t, err)
	if away := n.verified(t); len(away) != 1 {
		t.Fatalf("it still opens what it must not: %+v", away)
	}
	eventually(t, "the key to be wrapped anew", func() bool { return n.sealState(t, "vault_transit") == client.SealReady })
	n.stop()

	_, err = logical.WriteWithContext(t.Context(), mount+"/restore/restored", map[string]any{"backup": backup.Data["backup"], "force": true})
	noError(t, err)
	s.hcl = plain + transit
	n = s.start()
	eventually(t, "the seal to be attended to", func() bool { return n.sealState(t, "vault_transit") == client.SealReady })
	n.wantSealed(t, 2)
	n.stop()
	for _, w := range s.sealKeys()[0].Wrappings {
		if strings.HasPrefix(w.Seal, "vault_transit:") && w.Earlier != nil {
			t.Error("two wrappings are kept, although one is known to be good")
		}
	}
}

// TestRecoveryThatDoesNotSuffice fails, after it has recovered what it can; one by a copy
// of other data makes no key file.
func TestRecoveryThatDoesNotSuffice(t *testing.T) {
	t.Parallel()
	s, _ := grown(t)
	identity, err := age.GenerateX25519Identity()
	noError(t, err)
	escrow := func() (keks []*seal.KEK) {
		var copied bytes.Buffer
		_, err := daemon.Escrow(t.Context(), s.config(), []string{identity.Recipient().String()}, &copied, hclog.NewNullLogger())
		noError(t, err)
		keks, err = seal.ReadEscrow(&copied, strings.NewReader(identity.String()))
		noError(t, err)
		return keks
	}
	recover := func(keks ...*seal.KEK) (daemon.Recovery, error) {
		var copied bytes.Buffer
		noError(t, seal.WriteEscrow(&copied, []age.Recipient{identity.Recipient()}, keks))
		return daemon.Recover(t.Context(), s.config(), &copied, strings.NewReader(identity.String()), hclog.NewNullLogger())
	}
	old := escrow()[0]
	s.adjust = func(o *daemon.Options) { // a new key seals; the old one seals everything still
		o.QuickSeal(0, func(step string) error {
			if step == "batch" {
				return errors.New("not yet")
			}
			return nil
		})
	}
	n := s.start()
	_, err = n.RotateSeal(t.Context(), client.SealRotateRequest{})
	noError(t, err)
	n.stop()
	both := escrow()
	newest := both[slices.IndexFunc(both, func(k *seal.KEK) bool { return k.ID() != old.ID() })]
	path := filepath.Join(s.dir, "data", "seal.key")
	noError(t, os.Remove(path))

	if r, err := recover(seal.NewKEK()); !errors.Is(err, backends.ErrNotFound) || len(r.Recovered) > 0 {
		t.Errorf("by a copy of other data: %+v, %v", r, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a copy of other data made a key file")
	}
	for what, test := range map[string]struct{ has, lacks *seal.KEK }{"the newest key": {old, newest}, "the key of the broker's own": {newest, old}} {
		r, err := recover(test.has)
		if !errors.Is(err, backends.ErrNotFound) || !strings.Contains(err.Error(), "lacks key "+test.lacks.ID()) {
			t.Errorf("by a copy without %s: %v", what, err)
		}
		if !slices.Equal(r.Recovered, []string{test.has.ID()}) || !slices.Equal(r.Missing, []string{test.lacks.ID()}) {
			t.Errorf("by a copy without %s: %+v", what, r)
		}
	}
	if r, err := recover(both...); err != nil || len(r.Recovered) != 2 {
		t.Errorf("by a whole copy: %+v, %v", r, err)
	}
	s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil) }
	s.start().wantSealed(t, 2) // by the key file that is lost as well
}

// TestKeyFileThatNodesDoNotShare: two nodes start on an empty database at the same time,
// each with a path of its own.
func TestKeyFileThatNodesDoNotShare(t *testing.T) {
	t.Parallel()
	url := postgresserver.Start(t).URL
	first, second := newSite(t, ""), newSite(t, "")
	for _, s := range []*site{first, second} {
		s.hcl = strings.ReplaceAll(onPostgres(hasty(1), filepath.Join(s.dir, "seal.key")), "ADDR", s.addr)
		s.env = map[string]string{"DATABASE_URL": url}
	}
	opts := daemon.Options{Config: second.config(), Logger: hclog.NewNullLogger()}
	opts.QuickSeal(0, func(step string) error {
		if step == "begin" {
			first.start()
		}
		return nil
	})
	_, err := daemon.Open(t.Context(), opts)
	path := filepath.Join(second.dir, "seal.key")
	if err == nil || !strings.Contains(err.Error(), path+" is not shared") {
		t.Errorf("the second node: %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the key file that opens nothing is left")
	}
}

// TestStuckValuesAreSaidOnce, and do not keep the others from being re-wrapped.
func TestStuckValuesAreSaidOnce(t *testing.T) {
	t.Parallel()
	s, value := grown(t)
	unknown := seal.NewKEK()
	ring := seal.NewKeyring(unknown, nil)
	sealed, err := ring.Seal(t.Context(), []byte("x"), []byte("nowhere"))
	noError(t, err)
	s.inDatabase("INSERT INTO seal_keys (id, number, created_at) VALUES ($1, 0, 0)", []byte(unknown.ID()))
	s.inDatabase("INSERT INTO own_keys (name, sealed) VALUES ('lost', $1)", sealed)
	s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil) }
	n := s.start()
	keys := map[string]bool{}
	for range 3 {
		r, err := n.RotateSeal(t.Context(), client.SealRotateRequest{})
		noError(t, err)
		keys[r.Key] = true
		eventually(t, "all but one to be re-wrapped", func() bool {
			status, err := n.SealStatus(t.Context())
			noError(t, err)
			return len(status.Keys) == 2 && status.Keys[0].ID == r.Key && status.Left == 1 && status.Stuck == 1
		})
	}
	if got := n.value(t, "app/key").Fields["key"]; got != value || len(keys) != 3 {
		t.Errorf("%d keys, or another value", len(keys))
	}
	if count := strings.Count(s.log.String(), "values cannot be re-wrapped"); count != 1 {
		t.Errorf("it is said %d times", count)
	}
}

// inDatabase runs a statement in the database of a site that does not run.
func (s *site) inDatabase(query string, args ...any) {
	s.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "data", "keybroker.db")+"?_pragma=busy_timeout(20000)")
	if err == nil {
		_, err = db.ExecContext(s.t.Context(), query, args...)
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestRemovedKeyLeavesNoTrace in the data.
func TestRemovedKeyLeavesNoTrace(t *testing.T) {
	t.Parallel()
	s, _ := grown(t)
	wrapped := s.sealKeys()[0].Wrappings[0].Wrapped
	s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil) }
	n := s.start()
	_, err := n.RotateSeal(t.Context(), client.SealRotateRequest{})
	noError(t, err)
	n.wantSealed(t, 1)
	n.stop()
	files, err := filepath.Glob(filepath.Join(s.dir, "data", "*"))
	noError(t, err)
	for _, name := range files {
		if text, err := os.ReadFile(name); err == nil && bytes.Contains(text, wrapped) {
			t.Errorf("%s has the removed key, as the seal wrapped it", filepath.Base(name))
		}
	}
}

// TestNodeThatOpensNoKeyMintsNothing: the other node went on without it.
func TestNodeThatOpensNoKeyMintsNothing(t *testing.T) {
	t.Parallel()
	url, v := postgresserver.Start(t).URL, vaultserver.Start(t)
	first, file, transit, _ := transitSite(t, v, "nodes")
	second := newSite(t, "")
	second.env, second.adjust = first.env, first.adjust
	first.env["DATABASE_URL"] = url
	hcl := hasty(1) + "storage \"postgresql\" {\n  url = env(\"DATABASE_URL\")\n}\n" + transit
	first.hcl = strings.ReplaceAll(hcl, "ADDR", first.addr) + file
	second.hcl = strings.ReplaceAll(hcl, "ADDR", second.addr)

	a := first.start()
	second.token = first.rootToken()
	b := second.start()
	if r, _ := a.rotate(t, "app/key"); r.State != client.RotationDone {
		t.Fatalf("rotation: %s: %s", r.State, r.Error)
	}
	v.Seal(t)
	made, err := a.RotateSeal(t.Context(), client.SealRotateRequest{Force: true})
	noError(t, err)
	eventually(t, "the old key to go", func() bool {
		status, err := a.SealStatus(t.Context())
		noError(t, err)
		return len(status.Keys) == 1 && status.Keys[0].ID == made.Key
	})
	a.stop()
	r, err := b.Rotate(t.Context(), "app/key", client.RotateRequest{Reason: "test"})
	noError(t, err)
	eventually(t, "the rotation to wait for the seal", func() bool {
		now, err := b.Rotation(t.Context(), r.ID)
		noError(t, err)
		if now.ToVersion != 0 {
			t.Fatalf("version %d was begun", now.ToVersion)
		}
		return now.WaitingFor == rotation.WaitSeal || // or, as the embedded backend cannot be used either
			now.WaitingFor == rotation.WaitBackend && strings.Contains(now.Error, "no key that the store knows can be opened")
	})
	v.Unseal(t)
	a = first.start()
	eventually(t, "both seals to have the key", func() bool { return len(a.verified(t)) == 0 })
	if r, _ := b.follow(t, r.ID); r.State != client.RotationDone {
		t.Errorf("the rotation in the end: %s: %s", r.State, r.Error)
	}
}
