package store_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

func placement(s rotation.Secret, backend string) rotation.Placement {
	return rotation.Placement{ID: "pl-" + s.ID + "-" + backend, SecretID: s.ID, Ref: s.Ref, Backend: backend, Role: rotation.RoleMirror, Want: 2, Have: 1, HaveID: "17",
		Generation: 3, Held: []rotation.Holding{{Version: 1, ID: "17"}}, Stages: map[string]backends.VersionID{"AWSCURRENT": "17"},
		Drift:   &rotation.Drift{Kind: rotation.DriftChanged, ID: "18", Detail: "somebody", FoundAt: now.UTC()},
		CheckAt: now.Add(time.Minute).UTC(), NextAt: now.UTC(), Urgent: true}
}

// A placement comes back as it was saved, is due by its time, is chosen by what it
// is, and is saved only by who has read it last.
func TestPlacements(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s, other := addSecret(t, db, "a"), addSecret(t, db, "b")
		p, quiet := placement(s, "us"), placement(other, "eu")
		quiet.Drift, quiet.Have, quiet.NextAt = nil, 2, time.Time{}
		update(t, db, func(tx *store.Tx) error { return errors.Join(tx.AddPlacement(ctx, &p), tx.AddPlacement(ctx, &quiet)) })

		got := read(t, db, func(tx *store.Tx) (rotation.Placement, error) { return tx.Placement(ctx, p.ID) })
		if !reflect.DeepEqual(got, p) {
			t.Errorf("got %+v, want %+v", got, p)
		}
		if of := read(t, db, func(tx *store.Tx) ([]rotation.Placement, error) { return tx.Placements(ctx, s.ID) }); len(of) != 1 || of[0].ID != p.ID {
			t.Errorf("the secret's are %+v", of)
		}
		due := read(t, db, func(tx *store.Tx) ([]string, error) {
			d, err := tx.Due(ctx, now, 10)
			return d.Placements, err
		})
		if !reflect.DeepEqual(due, []string{p.ID}) {
			t.Errorf("due are %q", due)
		}
		for _, c := range []struct {
			by   store.PlacementFilter
			want []string
		}{
			{store.PlacementFilter{SecretID: s.ID}, []string{p.ID}},
			{store.PlacementFilter{SecretID: other.ID, OutOfStep: true}, nil},
			{store.PlacementFilter{Backend: "us", State: rotation.Drifted, Tenant: s.Ref.Tenant}, []string{p.ID}},
			{store.PlacementFilter{Backend: "us", Tenant: "nobody"}, nil},
		} {
			var ids []string
			page := read(t, db, func(tx *store.Tx) ([]rotation.Placement, error) {
				items, _, err := tx.PlacementsPage(ctx, c.by, store.Page{})
				return items, err
			})
			for _, item := range page {
				if item.SecretID == s.ID || item.SecretID == other.ID {
					ids = append(ids, item.ID)
				}
			}
			if !reflect.DeepEqual(ids, c.want) {
				t.Errorf("%+v chose %q", c.by, ids)
			}
		}
		counts := read(t, db, func(tx *store.Tx) ([]store.PlacementCount, error) { return tx.CountPlacements(ctx) })
		if !reflect.DeepEqual(counts, []store.PlacementCount{{Backend: "us", State: rotation.Drifted, Count: 1}}) {
			t.Errorf("counted %+v", counts)
		}

		stale := p
		p.Drift, p.Have = nil, 2
		update(t, db, func(tx *store.Tx) error { return tx.SavePlacement(ctx, &p) })
		for name, write := range map[string]func(tx *store.Tx) error{
			"saving":       func(tx *store.Tx) error { c := stale; return tx.SavePlacement(ctx, &c) },
			"removing":     func(tx *store.Tx) error { c := stale; return tx.RemovePlacement(ctx, &c) },
			"a second one": func(tx *store.Tx) error { c := placement(s, "us"); c.ID = "another"; return tx.AddPlacement(ctx, &c) },
		} {
			if err := db.Update(ctx, write); !errors.Is(err, backends.ErrConflict) {
				t.Errorf("%s: %v", name, err)
			}
		}
		update(t, db, func(tx *store.Tx) error { return tx.RemovePlacement(ctx, &p) })
		err := db.View(ctx, func(tx *store.Tx) error {
			_, err := tx.Placement(ctx, p.ID)
			return err
		})
		if !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("after its removal: %v", err)
		}
	})
}

// A handle is found whoever's version has it, and only at its own issuer.
func TestVersionByHandle(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		handle := map[string]string{"id": "key-" + s.ID, "account": "1"}
		v := rotation.Version{SecretID: s.ID, Stage: rotation.StageRetired, Tag: "kb-" + s.ID, Issuer: "mailer", Handle: handle, CreatedAt: now}
		update(t, db, func(tx *store.Tx) error { return tx.AddVersion(ctx, &v) })
		got := read(t, db, func(tx *store.Tx) (rotation.Version, error) { return tx.VersionByHandle(ctx, "mailer", handle) })
		if got.SecretID != s.ID || got.Number != v.Number {
			t.Errorf("found %+v", got)
		}
		if got = read(t, db, func(tx *store.Tx) (rotation.Version, error) { return tx.VersionByHandle(ctx, "", handle) }); got.SecretID != s.ID {
			t.Errorf("at any issuer found is %+v", got)
		}
		for issuer, h := range map[string]map[string]string{"mailer": {"id": "key-" + s.ID}, "other": handle, "": {"id": "key-" + s.ID}} {
			err := db.View(ctx, func(tx *store.Tx) error {
				_, err := tx.VersionByHandle(ctx, issuer, h)
				return err
			})
			if !errors.Is(err, backends.ErrNotFound) {
				t.Errorf("at %s by %v: %v", issuer, h, err)
			}
		}
	})
}
