package daemon_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// TestLongHistory asks for a secret with many versions: shown are the newest 50
// and those that may be alive, and each of the others is still known.
func TestLongHistory(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	s.start().stop()
	const versions, alive = 60, 3
	addHistory(t, s, versions, alive)

	n := s.start()
	got, err := n.Secret(t.Context(), "app/key")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Versions) != 51 || got.Versions[0].Number != alive || got.Versions[1].Number != 11 || got.Versions[50].Number != versions {
		t.Errorf("%d versions: %+v", len(got.Versions), got.Versions)
	}
	for _, v := range got.Versions {
		want := client.ProvenDead
		if v.Number == alive {
			want = client.Unconfirmed
		}
		if v.Retirement == nil || v.Retirement.State != want {
			t.Errorf("the retirement of version %d is %+v, want it %s", v.Number, v.Retirement, want)
		}
	}
	for number, want := range map[int]string{5: "is retired", versions + 1: "no version"} {
		_, err := n.Value(t.Context(), "app/key", number)
		if client.Status(err) != 404 || !strings.Contains(err.Error(), want) {
			t.Errorf("version %d: %v, want it %q", number, err, want)
		}
	}
}

// addHistory gives app/key retired versions, all of them proven dead but one.
func addHistory(t *testing.T, s *site, versions, alive int) {
	t.Helper()
	ctx, now := t.Context(), time.Now()
	db, err := store.Open(ctx, store.Config{SQLitePath: s.config().Storage.Path})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(ctx, func(tx *store.Tx) error {
		secret, err := tx.SecretByRef(ctx, backends.Ref{Tenant: backends.DefaultTenant, Name: "app/key"})
		if err != nil {
			return err
		}
		for range versions {
			v := rotation.Version{SecretID: secret.ID, Stage: rotation.StageRetired, CreatedAt: now}
			if err := tx.AddVersion(ctx, &v); err != nil {
				return err
			}
			r := rotation.Retirement{ID: uuid.NewString(), SecretID: secret.ID, Version: v.Number, State: rotation.ProvenDead, RequestedAt: now}
			if v.Number == alive {
				r.State, r.NextAt = rotation.Unconfirmed, now.Add(time.Hour)
			}
			if err := tx.AddRetirement(ctx, &r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(ctx); err != nil {
		t.Fatal(err)
	}
}
