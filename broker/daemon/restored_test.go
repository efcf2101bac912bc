package daemon_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// TestARestoredBackupRevivesNothing puts a copy of the database back that was
// made before the last rotation: the key which was revoked since then is current
// in it, and the broker's own check accepts it.
func TestARestoredBackupRevivesNothing(t *testing.T) {
	t.Parallel()
	s, n, _ := startEmbedded(t)
	n.rotate(t, "app/key")
	old := n.value(t, "app/key")
	n.stop()
	data := filepath.Join(s.dir, "data")
	backup, err := os.ReadFile(filepath.Join(data, "keybroker.db"))
	if err != nil {
		t.Fatal(err)
	}
	n = s.start()
	if r, retirements := n.rotate(t, "app/key"); r.State != client.RotationDone || retirements[1].State != client.ProvenDead {
		t.Fatalf("%s, %s", r.State, retirements[1].State)
	}
	n.stop()
	for _, side := range []string{"-wal", "-shm"} {
		_ = os.Remove(filepath.Join(data, "keybroker.db"+side))
	}
	if err := os.WriteFile(filepath.Join(data, "keybroker.db"), backup, 0o600); err != nil {
		t.Fatal(err)
	}

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
