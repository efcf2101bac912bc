package daemon_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// backup copies the database of a node that is stopped; restore puts the copy back.
func (s *site) backup(t *testing.T) (restore func()) {
	t.Helper()
	file := filepath.Join(s.dir, "data", "keybroker.db")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		for _, side := range []string{"-wal", "-shm"} {
			_ = os.Remove(file + side)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRule21ARestoredBackupRevivesNothing puts a copy of the database back that was
// made before the last rotation: the key which was revoked since then is current
// in it, and the broker's own check accepts it.
func TestRule21ARestoredBackupRevivesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, replaced(t, withConsumer(embedded, nil), `overlap = "2s"`, `overlap = "100ms"`, "rejections = 3", "rejections = 2", `window     = "2s"`, `window     = "500ms"`))
	n := s.start()
	n.rotate(t, "app/key")
	old := n.value(t, "app/key")
	n.stop()
	restore := s.backup(t)
	n = s.start()
	if r, retirements := n.rotate(t, "app/key"); r.State != client.RotationDone || retirements[1].State != client.ProvenDead {
		t.Fatalf("%s, %s", r.State, retirements[1].State)
	}
	lost := n.value(t, "app/key")
	n.stop()
	restore()

	n = s.start()
	ctx := t.Context()
	frozen, err := n.Frozen(ctx)
	if err != nil || !frozen.Frozen {
		t.Fatalf("a store that has lost events is not frozen (%v)", err)
	}
	eventually(t, "the revived key to be dead again", func() bool {
		check, err := n.CheckKey(ctx, client.SecretText(old.Fields["key"]))
		return err == nil && !check.Active
	})
	var now client.Secret
	eventually(t, "its proof", func() bool {
		now, err = n.Secret(ctx, "app/key")
		return err == nil && now.Versions[0].Retirement != nil && now.Versions[0].Retirement.State == client.ProvenDead
	})
	if v := n.value(t, "app/key"); v.Fields["key"] == old.Fields["key"] || v.Version == old.Version {
		t.Errorf("the revoked version %d is still the current one", v.Version)
	} else if v.Generation <= lost.Generation || v.Version <= lost.Version || v.ETag == lost.ETag {
		t.Errorf("version %d, generation %d: they were given before, to version %d, generation %d", v.Version, v.Generation, lost.Version, lost.Generation)
	}
	n.stop()
	n = s.start() // once dealt with, it is not found again
	if again, err := n.Frozen(ctx); err != nil || !again.At.Equal(frozen.At) {
		t.Errorf("frozen anew at %s, after %s (%v)", again.At.Format(time.RFC3339Nano), frozen.At.Format(time.RFC3339Nano), err)
	}
	if _, err := n.Unfreeze(ctx, client.InterventionRequest{Reason: "looked at"}); err != nil {
		t.Fatal(err)
	}
	if r, _ := n.rotate(t, "app/key"); r.State != client.RotationDone {
		t.Errorf("after the freeze: %s: %s", r.State, r.Error)
	}
}

// TestRule21AVaultAheadOfTheStoreIsLeftAlone: the restored store takes a revoked
// version for current, and does not know the one that the vault holds and
// applications use.
func TestRule21AVaultAheadOfTheStoreIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl = replaced(t, s.hcl, `overlap = "2s"`, quick)
	o := &operated{site: s.site, api: s.api, app: s.app}
	o.node = o.start()
	ctx := t.Context()
	o.done(t, mailer)
	revived := s.direct(t)
	o.stop()
	restore := s.backup(t)
	o.node = o.start()
	o.done(t, mailer)
	newest := s.direct(t)
	o.stop()
	restore()

	o.node = o.start()
	if f := must(o.Frozen(ctx))(t); !f.Frozen {
		t.Error("a store that has lost events is not frozen")
	}
	eventually(t, "the revived version to be contained", func() bool { return !o.retirementOf(t, 1).ContainedAt.IsZero() })
	must(o.Unfreeze(ctx, client.InterventionRequest{Reason: "test"}))(t)
	eventually(t, "everything that begins by itself to wait or end", func() bool {
		for _, rot := range must(o.Rotations(ctx, client.RotationQuery{Secret: mailer, Live: true}))(t).Items {
			if rot.WaitingFor != "repair" && rot.WaitingFor != "proof" {
				return false
			}
		}
		return true
	})
	if s.direct(t) != newest || !o.api.Works(newest) || o.api.Works(revived) {
		t.Errorf("the vault has what it had: %v, which works: %v; the revived key works: %v", s.direct(t) == newest, o.api.Works(newest), o.api.Works(revived))
	}
	if v, err := o.Value(ctx, mailer, 0); err == nil && v.Fields["key"] == revived {
		t.Error("the broker gives the revoked key")
	}
	if p := must(o.Plan(ctx, mailer))(t); p.Ready {
		t.Errorf("a rotation would begin: %+v", p)
	}
	must(o.Repair(ctx, mailer, client.RepairRequest{Overwrite: true}))(t)
	if s.direct(t) != newest {
		t.Error("a repair wrote the revoked key over the one that works")
	}
}
