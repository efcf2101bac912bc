package daemon_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/broker/store"
)

// snapshot writes a snapshot of a running node to a file.
func (n *node) snapshot(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keybroker.snapshot")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Snapshot(t.Context(), f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *site) tryRestore(from string, replace bool) (store.Put, error) {
	return daemon.Restore(context.Background(), daemon.RestoreOptions{Config: s.config(), From: from, Replace: replace, Logger: hclog.NewNullLogger()})
}

func (s *site) restoreSnapshot(t *testing.T, from string) store.Put {
	t.Helper()
	put, err := s.tryRestore(from, true)
	if err != nil {
		t.Fatal(err)
	}
	return put
}

// loseLog takes the audit log away, as on another machine.
func (s *site) loseLog(t *testing.T) {
	t.Helper()
	if err := os.Remove(filepath.Join(s.dir, "data", "audit.jsonl")); err != nil {
		t.Fatal(err)
	}
}

// standing is how a secret stands after a restore; empty: in step.
func (n *node) standing(t *testing.T, secret string) string {
	t.Helper()
	r := must(n.Storage(t.Context()))(t).Restored
	if r == nil {
		return "settled"
	}
	for _, o := range r.OutOfStep {
		if o.Secret == secret {
			return o.Kind
		}
	}
	return ""
}

func (n *node) unfreeze(t *testing.T) {
	t.Helper()
	must(n.Unfreeze(t.Context(), client.InterventionRequest{Reason: "looked at"}))(t)
}

// TestRule21ASnapshotRevivesNothing puts a snapshot back over the same data_dir: the
// audit log tells what was revoked since.
func TestRule21ASnapshotRevivesNothing(t *testing.T) {
	t.Parallel()
	app := newConsumer(t, newSigningSecret())
	s := newSite(t, replaced(t, withConsumer(embedded, app), `overlap = "2s"`, `overlap = "100ms"`, "rejections = 3", "rejections = 2", `window     = "2s"`, `window     = "500ms"`))
	s.env["SIGNING_SECRET"] = newSigningSecret().Reveal()
	n := s.start()
	ctx := t.Context()
	n.rotate(t, "app/key")
	old := n.value(t, "app/key")
	token := must(n.CreateToken(ctx, client.CreateTokenRequest{Name: "left", Policies: []string{"reader"}}))(t)
	file := n.snapshot(t)
	must(n.RevokeToken(ctx, token.ID))(t)
	n.rotate(t, "app/key")
	lost := n.value(t, "app/key")
	n.stop()
	s.restoreSnapshot(t, file)

	n = s.start()
	frozen := must(n.Frozen(ctx))(t)
	if !frozen.Frozen || !strings.Contains(frozen.Reason, "app/key (replaced)") || !strings.Contains(frozen.Reason, "storage status") {
		t.Errorf("the freeze is %+v", frozen)
	}
	if _, err := s.client(token.Token.Reveal(), n.addr).Value(ctx, "app/key", 0); client.Status(err) != http.StatusUnauthorized {
		t.Errorf("a revoked token: %v", err)
	}
	eventually(t, "the revived key to be dead again", func() bool {
		check, err := n.CheckKey(ctx, client.SecretText(old.Fields["key"]))
		return err == nil && !check.Active
	})
	eventually(t, "its replacement", func() bool {
		v, err := n.Value(ctx, "app/key", 0)
		if err == nil && (v.Fields["key"] == old.Fields["key"] || v.Generation <= lost.Generation || v.Version <= lost.Version) {
			t.Fatalf("given: version %d, generation %d, which was given before to version %d, generation %d", v.Version, v.Generation, lost.Version, lost.Generation)
		}
		return err == nil
	})
	eventually(t, "its proof", func() bool { return n.retirementsOf(t, "app/key")[0].State == client.ProvenDead })
	n.unfreeze(t)
	eventually(t, "the mark to go", func() bool { return n.standing(t, "app/key") == "settled" })
	n.stop()
	n = s.start() // and it does not come back
	if f := must(n.Frozen(ctx))(t); f.Frozen || n.standing(t, "app/key") != "settled" {
		t.Errorf("frozen anew: %+v", f)
	}
	n.done(t, "app/key")
	if log := s.read("data/audit.jsonl"); !strings.Contains(log, `"action":"storage.snapshot"`) || !strings.Contains(log, `"action":"store.restore"`) {
		t.Error("snapshot and restore are not in the audit log")
	}
}

// TestRule21ASnapshotOnAnotherMachine has no audit log to tell what was lost: only the
// vault knows. Nothing is done before a person says so, and the version that was
// replaced and revoked is given to nobody, nor written over the one that works.
func TestRule21ASnapshotOnAnotherMachine(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl = replaced(t, s.hcl, `overlap = "2s"`, quick)
	s.env["VAULT_ROLE_ID"], s.env["VAULT_SECRET_ID"] = s.vault.AppRole(t, vaultserver.AppRole{Policy: vaultserver.Everything})
	o := &operated{site: s.site, api: s.api, app: s.app}
	o.node = o.start()
	ctx := t.Context()
	o.done(t, mailer)
	revoked := s.direct(t)
	file := o.snapshot(t)
	o.done(t, mailer)
	newest := s.direct(t)
	_, told := s.app.key(mailer)
	o.stop()
	s.loseLog(t)
	s.restoreSnapshot(t, file)

	// What the broker noted in the vault tells how far it had come, if that is farther
	// than the margin by which numbers are raised.
	const far = 5_000_000
	noted := map[string]any{"keybroker_vault_version": "2", "keybroker_version": strconv.Itoa(far), "keybroker_generation": strconv.Itoa(far)}
	if err := s.vault.Client(t).KVv2("secret").PatchMetadata(ctx, "keybroker/"+mailer, api.KVMetadataPatchInput{CustomMetadata: noted}); err != nil {
		t.Fatal(err)
	}

	o.node = o.start()
	if f := must(o.Frozen(ctx))(t); !f.Frozen || !strings.Contains(f.Reason, mailer+" (ahead)") {
		t.Errorf("the freeze is %+v", f)
	}
	if got := o.standing(t, mailer); got != store.Ahead {
		t.Errorf("the vault is %q", got)
	}
	if v, err := o.Value(ctx, mailer, 0); client.Status(err) != http.StatusServiceUnavailable || !strings.Contains(err.Error(), "restored") {
		t.Errorf("given: version %d (%v)", v.Version, err)
	}
	secret := must(o.Secret(ctx, mailer))(t)
	if secret.Generation <= far {
		t.Errorf("generation %d", secret.Generation)
	}
	asked := must(o.Rotate(ctx, mailer, client.RotateRequest{Reason: "while frozen"}))(t)
	minted, writes := s.api.Requests("POST /v1/keys"), s.api.Requests("DELETE /v1/keys")
	o.stop()
	o.node = o.start() // a restart changes nothing
	if got := must(o.Rotation(ctx, asked.ID))(t); got.State != client.RotationQueued {
		t.Errorf("a rotation has begun: %+v", got)
	}
	if _, generation := s.app.key(mailer); generation != told || s.direct(t) != newest || s.api.Requests("POST /v1/keys") != minted || s.api.Requests("DELETE /v1/keys") != writes || len(s.api.Live()) != 1 {
		t.Error("something was minted, published, revoked or delivered")
	}
	o.unfreeze(t)
	o.waitsFor(t, asked.ID, "repair")
	if _, err := o.Value(ctx, mailer, 0); client.Status(err) != http.StatusServiceUnavailable {
		t.Errorf("after the freeze: %v", err)
	}
	if s.direct(t) != newest || !s.api.Works(newest) || s.api.Works(revoked) {
		t.Error("the vault's value was touched")
	}
	// A person decides: what the store has is written over it, and replaced at once.
	must(o.Repair(ctx, mailer, client.RepairRequest{Overwrite: true}))(t)
	eventually(t, "the rotation to go on", func() bool {
		return must(o.Rotation(ctx, asked.ID))(t).State == client.RotationRetiring // whose death was over before it could be proven
	})
	eventually(t, "the mark to go", func() bool { return o.standing(t, mailer) == "settled" })
	v := o.value(t, mailer)
	if !s.api.Works(v.Fields["key"]) || v.Version <= far || s.direct(t) != v.Fields["key"] {
		t.Errorf("version %d", v.Version)
	}
	eventually(t, "the consumer to be told", func() bool { key, _ := s.app.key(mailer); return key == v.Fields["key"] })
}

// TestRule21ASnapshotOfAMintUnderWay: the key that was being minted at the snapshot
// was published since, and applications use it. The restored store knows no more of it
// than its tag; who looks it up to revoke what nobody has seen must not revoke it.
func TestRule21ASnapshotOfAMintUnderWay(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl = replaced(t, s.hcl, `overlap = "2s"`, quick)
	o := &operated{site: s.site, api: s.api, app: s.app}
	at, release := make(chan struct{}), make(chan struct{})
	front := s.front(s.api.URL)
	o.node = o.start()
	ctx := t.Context()
	o.done(t, mailer)
	front.do(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if r.Method == http.MethodPost {
			at <- struct{}{}
			<-release
		}
		pass.ServeHTTP(w, r)
	})
	under := must(o.Rotate(ctx, mailer, client.RotateRequest{}))(t)
	<-at
	file := o.snapshot(t)
	front.do(nil)
	close(release)
	o.follow(t, under.ID)
	newest := s.direct(t)
	o.stop()
	s.loseLog(t)
	s.restoreSnapshot(t, file)

	o.node = o.start()
	if got := o.standing(t, mailer); got == "" || got == "settled" {
		t.Errorf("the vault is %q", got)
	}
	o.unfreeze(t)
	eventually(t, "the mint to be recovered", func() bool { return must(o.Rotation(ctx, under.ID))(t).ToVersion > 2 })
	eventually(t, "its retirement to be looked at", func() bool {
		for _, r := range o.retirementsOf(t, mailer) {
			if r.Version == 2 {
				return r.State == client.Requested && r.WaitingFor == "repair"
			}
		}
		return false
	})
	if !s.api.Works(newest) || s.direct(t) != newest {
		t.Error("the key that applications use was revoked or written over")
	}
}

// A secret whose vault cannot be asked is given to nobody until it is, or until a
// person has ended the freeze.
func TestRestoredWhileItsVaultIsDown(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl = replaced(t, s.hcl, `overlap = "2s"`, quick)
	n := s.start()
	ctx := t.Context()
	n.done(t, mailer)
	before := n.value(t, mailer)
	file := n.snapshot(t)
	n.stop()
	s.loseLog(t)
	s.restoreSnapshot(t, file)
	s.vault.Seal(t)

	n = s.start()
	if got := n.standing(t, mailer); got != store.Uncompared {
		t.Errorf("it is %q", got)
	}
	if _, err := n.Value(ctx, mailer, 0); client.Status(err) != http.StatusServiceUnavailable {
		t.Errorf("a value that may have been replaced: %v", err)
	}
	s.vault.Unseal(t)
	eventually(t, "the comparison", func() bool { return n.standing(t, mailer) == "" })
	v := n.value(t, mailer)
	if v.Fields["key"] != before.Fields["key"] || v.Generation <= before.Generation {
		t.Errorf("version %d, generation %d", v.Version, v.Generation)
	}
	if f := must(n.Frozen(ctx))(t); !f.Frozen || !strings.Contains(f.Reason, "every vault holds what the store says") {
		t.Errorf("%+v", f)
	}
	if _, generation := s.app.key(mailer); generation != before.Generation {
		t.Errorf("the consumer was told of generation %d during the freeze", generation)
	}
	n.unfreeze(t)
	eventually(t, "the consumer to be told of the generation", func() bool { _, g := s.app.key(mailer); return g == v.Generation })
	eventually(t, "the mark to go", func() bool { return n.standing(t, mailer) == "settled" })
	n.done(t, mailer)
}

func TestRestoresThatAreRefused(t *testing.T) {
	t.Parallel()
	s, n, _ := startEmbedded(t)
	n.rotate(t, "app/key")
	file := n.snapshot(t)
	refused := func(what string, from string, replace bool, class error, words string) {
		t.Helper()
		if _, err := s.tryRestore(from, replace); !errors.Is(err, class) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("a node that runs", file, true, backends.ErrConflict, "open")
	n.stop()
	refused("over data", file, false, backends.ErrConflict, "--force")
	refused("no file", file+"x", true, backends.ErrInvalid, "no such file")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.WriteFile(cut, whole[:len(whole)-40], 0o600); err != nil {
		t.Fatal(err)
	}
	refused("cut off", cut, true, backends.ErrInvalid, "cut off")

	seal := filepath.Join(s.dir, "data", "seal.key")
	key, err := os.ReadFile(seal)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(seal); err != nil {
		t.Fatal(err)
	}
	refused("without its seal", file, true, backends.ErrNotFound, "missing")
	other := append([]byte{key[0] ^ 1}, key[1:]...)
	if err := os.WriteFile(seal, other, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("with another seal", file, true, backends.ErrInvalid, "seal")
	if err := os.WriteFile(seal, key, 0o600); err != nil {
		t.Fatal(err)
	}
	n = s.start() // nothing has changed
	if f := must(n.Frozen(t.Context()))(t); f.Frozen || n.value(t, "app/key").Version != 1 {
		t.Errorf("%+v", f)
	}
	if strings.Contains(string(whole), n.value(t, "app/key").Fields["key"]) {
		t.Error("the snapshot holds a key as it is")
	}
}
