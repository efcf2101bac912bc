package daemon_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"filippo.io/age"
	"github.com/hashicorp/go-hclog"
	_ "modernc.org/sqlite"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/broker/store"
)

// TestRule21TheFirstLostEventCounts: the only event that tells of a revocation is the
// first one after the snapshot. Whatever the store commits between the restore and the
// comparison with the log, takes its number.
func TestRule21TheFirstLostEventCounts(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(*testing.T, *site){
		"started at once": func(*testing.T, *site) {},
		"after an escrow": func(t *testing.T, s *site) {
			who, err := age.GenerateX25519Identity()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := daemon.Escrow(t.Context(), s.config(), []string{who.Recipient().String()}, io.Discard, hclog.NewNullLogger()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOperated(t)
			o.hcl = replaced(t, o.hcl, `overlap = "100ms"`, `overlap = "1h"`)
			issuer := o.front(o.api.URL)
			o.node = o.start()
			ctx := t.Context()
			o.reaches(t, must(o.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID, client.RotationDone)
			old := o.value(t, mailer).Fields["key"]
			o.reaches(t, must(o.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID, client.RotationOverlap)
			eventually(t, "the delivery, whose event is not to be lost", func() bool {
				state := o.deliveriesOf(t, 2)["app"].State
				return state == client.DeliveryReceived || state == client.DeliveryApplied
			})
			issuer.answer(http.StatusServiceUnavailable, func(r *http.Request) bool { return r.Method == http.MethodDelete })
			file := o.snapshot(t)
			must(o.Revoke(ctx, mailer, client.RevokeRequest{Version: 1, Reason: "leaked"}))(t)
			o.stop()
			o.restoreSnapshot(t, file)
			between(t, o.site)
			issuer.do(nil)

			o.node = o.start()
			o.unfreeze(t)
			eventually(t, "the key that was revoked to be dead", func() bool { return !o.api.Works(old) })
			o.proven(t, mailer, 1)
			o.stop()
			o.node = o.start() // what the store itself has told since is not lost
			if f := must(o.Frozen(ctx))(t); f.Frozen {
				t.Errorf("frozen anew: %s", f.Reason)
			}
		})
	}
}

// TestRestoreOfASnapshotOfARestoredStore: what was out of step at the snapshot is so
// after it was put back, though the log tells of it no more.
func TestRestoreOfASnapshotOfARestoredStore(t *testing.T) {
	t.Parallel()
	s := newSite(t, replaced(t, withConsumer(embedded, nil), `overlap = "2s"`, `overlap = "1h"`))
	n := s.start()
	ctx := t.Context()
	n.rotate(t, "app/key")
	must(n.Freeze(ctx, client.InterventionRequest{Reason: "of the night"}))(t)
	first := n.snapshot(t)
	n.unfreeze(t)
	again := must(n.Rotate(ctx, "app/key", client.RotateRequest{}))(t)
	eventually(t, "the second version", func() bool { return must(n.Rotation(ctx, again.ID))(t).State == client.RotationOverlap })
	n.stop()
	s.restoreSnapshot(t, first)
	n = s.start()
	wantReplaced := func(when string) client.Freeze {
		t.Helper()
		if got := n.standing(t, "app/key"); got != store.Replaced {
			t.Errorf("%s: it is %q", when, got)
		}
		if v, err := n.Value(ctx, "app/key", 0); client.Status(err) != http.StatusServiceUnavailable {
			t.Errorf("%s: version %d is given (%v)", when, v.Version, err)
		}
		return must(n.Frozen(ctx))(t)
	}
	wantReplaced("restored")
	since := must(n.Storage(ctx))(t).Restored.TakenAt
	second := n.snapshot(t)
	n.stop()
	s.restoreSnapshot(t, second)

	n = s.start()
	f := wantReplaced("restored from a snapshot of that")
	if strings.Count(f.Reason, "was restored at") != 1 || !strings.Contains(f.Reason, "of the night") {
		t.Errorf("the freeze is %q", f.Reason)
	}
	if r := must(n.Storage(ctx))(t).Restored; !r.Since.Equal(since) || !r.TakenAt.After(since) {
		t.Errorf("the first snapshot is of %s: %+v", since, r)
	}
	n.stop()
	s.loseLog(t)
	s.restoreSnapshot(t, second)
	n = s.start()
	wantReplaced("restored without the log")
}

// TestRestoreRevivesNoKEK: who replaces the key that seals, since somebody may have
// it, does not get it back by a restore.
func TestRestoreRevivesNoKEK(t *testing.T) {
	t.Parallel()
	s := newSite(t, hasty(1))
	s.adjust = func(o *daemon.Options) { o.QuickSeal(0, nil) }
	n := s.start()
	ctx := t.Context()
	n.rotate(t, "app/key")
	compromised := n.wantSealed(t, 1).Keys[0].ID
	file := n.snapshot(t)
	must(n.RotateSeal(ctx, client.SealRotateRequest{Reason: "somebody has it"}))(t)
	n.wantSealed(t, 1)
	n.stop()
	s.restoreSnapshot(t, file)

	n = s.start()
	restored := must(n.Storage(ctx))(t).Restored
	if restored == nil || restored.SealKey == "" || restored.SealKey == compromised {
		t.Fatalf("%+v", restored)
	}
	if keys := must(n.SealStatus(ctx))(t).Keys; keys[0].ID != restored.SealKey || !keys[0].Current {
		t.Errorf("the key that seals is %+v", keys[0])
	}
	if f := must(n.Frozen(ctx))(t); !strings.Contains(f.Reason, "a new key seals") {
		t.Errorf("the freeze is %q", f.Reason)
	}
	if status := n.wantSealed(t, 1); status.Keys[0].ID != restored.SealKey {
		t.Errorf("sealed by %+v", status.Keys)
	}
	n.stop()
	n = s.start() // one new key is enough
	if keys := n.wantSealed(t, 1).Keys; keys[0].ID != restored.SealKey {
		t.Errorf("the key that seals is %+v", keys[0])
	}
}

// TestARestoreNeedsEveryKeyThatSeals: a snapshot of a time when everything was being
// re-wrapped needs two keys, and one of them no seal opens any more.
func TestARestoreNeedsEveryKeyThatSeals(t *testing.T) {
	t.Parallel()
	s := newSite(t, hasty(1))
	var batches atomic.Int32 // the first is of the broker's own keys
	s.adjust = func(o *daemon.Options) {
		o.QuickSeal(0, func(step string) error {
			if step == "batch" && batches.Add(1) > 1 {
				return errors.New("later")
			}
			return nil
		})
	}
	n := s.start()
	n.rotate(t, "app/key")
	status := must(n.RotateSeal(t.Context(), client.SealRotateRequest{}))(t).Status
	old := status.Keys[1].ID
	eventually(t, "the second batch", func() bool { return batches.Load() > 1 })
	n.stop()
	inDatabase(t, s, "UPDATE seal_wrappings SET wrapped = x'00' WHERE kek = CAST(? AS BLOB)", old)
	db, err := store.Open(t.Context(), store.Config{SQLitePath: s.config().Storage.Path})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "snapshot")
	writeSnapshot(t, db, file)
	if err := db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	before, err := os.ReadDir(filepath.Join(s.dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	// A second seal whose file is not there yet.
	s.hcl += "\nseal \"file\" {\n  path = \"data/seal.key\"\n}\nseal \"file\" {\n  path = \"data/second.key\"\n}\n"
	if _, err := s.tryRestore(file, true); err == nil || !strings.Contains(err.Error(), old) || backends.Class(err) == nil {
		t.Errorf("restored data that cannot be read: %v", err)
	}
	after, err := os.ReadDir(filepath.Join(s.dir, "data"))
	if err != nil || len(after) != len(before) {
		t.Errorf("after a refused restore there is %v, before it was %v (%v)", after, before, err)
	}
}

func inDatabase(t *testing.T, s *site, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", s.config().Storage.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := db.ExecContext(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%d rows are changed (%v)", n, err)
	}
}

func writeSnapshot(t *testing.T, db *store.DB, path string) {
	t.Helper()
	s, err := db.Snapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.WriteTo(f)
	if err := errors.Join(err, f.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreRevokesNoTokenThatNobodyCould: what was asked for and refused after the
// snapshot is not done by the restore.
func TestRestoreRevokesNoTokenThatNobodyCould(t *testing.T) {
	t.Parallel()
	s, n := startTwoTenants(t)
	ctx := t.Context()
	acme, _ := s.as(n, client.CreateTokenRequest{Tenant: "acme", Policies: []string{"root"}})
	other := must(n.CreateToken(ctx, client.CreateTokenRequest{Name: "other", Policies: []string{"root"}}))(t)
	left := must(n.CreateToken(ctx, client.CreateTokenRequest{Name: "left", Policies: []string{"root"}}))(t)
	file := n.snapshot(t)
	if _, err := acme.RevokeToken(ctx, other.ID); client.Status(err) != http.StatusNotFound {
		t.Fatalf("a token of another tenant: %v", err)
	}
	must(n.RevokeToken(ctx, left.ID))(t)
	n.stop()
	s.restoreSnapshot(t, file)

	n = s.start()
	if _, err := s.client(other.Token.Reveal(), n.addr).Frozen(ctx); err != nil {
		t.Errorf("a token that was not revoked: %v", err)
	}
	if _, err := s.client(left.Token.Reveal(), n.addr).Frozen(ctx); client.Status(err) != http.StatusUnauthorized {
		t.Errorf("a token that was: %v", err)
	}
}
