package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// change saves a rotation as it is, which moves its revision on.
func change(t *testing.T, db *store.DB, id string) error {
	return db.Update(t.Context(), func(tx *store.Tx) error {
		r, err := tx.Rotation(t.Context(), id)
		if err != nil || r.State.Ended() {
			return err
		}
		return tx.SaveRotation(t.Context(), &r)
	})
}

// SQLite has one writer at a time: nothing changes between a read and its save.
func TestUpdateLatest(t *testing.T) {
	ctx := t.Context()
	db := open(t, postgresConfig(t))
	r := addRotation(t, db, addSecret(t, db, "a"))
	runs := 0
	interrupted := func(tx *store.Tx) error {
		runs++
		r, err := tx.Rotation(ctx, r.ID)
		if err == nil && runs == 1 {
			err = change(t, db, r.ID) // another node
		}
		if err != nil {
			return err
		}
		return tx.SaveRotation(ctx, &r)
	}
	if err := db.Update(ctx, interrupted); !errors.Is(err, store.ErrStale) || runs != 1 {
		t.Errorf("an update: %v after %d runs", err, runs)
	}
	runs = 0
	if err := db.UpdateLatest(ctx, interrupted); err != nil || runs != 2 {
		t.Errorf("an update of the latest: %v after %d runs", err, runs)
	}
	t.Run("insert", func(t *testing.T) {
		s := rotation.Secret{ID: newID("sec"), Ref: backends.Ref{Tenant: backends.DefaultTenant, Name: "b"}}
		runs := 0
		err := db.UpdateLatest(ctx, func(tx *store.Tx) error {
			runs++
			_, err := tx.SecretByRef(ctx, s.Ref)
			if !errors.Is(err, backends.ErrNotFound) {
				return err
			}
			addSecret(t, db, "b") // another node
			return tx.AddSecret(ctx, &s)
		})
		if err != nil || runs != 2 {
			t.Errorf("%v after %d runs", err, runs)
		}
	})
}

// Somebody who saves what was read before the transaction loses for good.
func TestUpdateLatestGivesUp(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		r := addRotation(t, db, addSecret(t, db, "a"))
		if err := change(t, db, r.ID); err != nil {
			t.Fatal(err)
		}
		runs := 0
		err := db.UpdateLatest(t.Context(), func(tx *store.Tx) error {
			runs++
			return tx.SaveRotation(t.Context(), &r)
		})
		if !errors.Is(err, store.ErrStale) || runs < 2 || r.Revision != 1 {
			t.Errorf("%v after %d runs, revision %d", err, runs, r.Revision)
		}
	})
}

// An emergency takes over a rotation that others keep changing.
func TestEmergencyAmongChanges(t *testing.T) {
	ctx := t.Context()
	db := open(t, postgresConfig(t))
	e := engine.New(engine.Config{Store: db.Engine(), Now: func() time.Time { return now.UTC() }, Node: "node", Logger: hclog.NewNullLogger()})
	s := addSecret(t, db, "a")
	v := rotation.Version{SecretID: s.ID, Stage: rotation.StageCurrent, Handle: map[string]string{"id": "key"}, CreatedAt: now}
	update(t, db, func(tx *store.Tx) error {
		s.Current = 1
		return errors.Join(tx.AddVersion(ctx, &v), tx.SaveSecret(ctx, &s))
	})
	r := addRotation(t, db, s)

	changed, done := make(chan struct{}, 1), make(chan struct{})
	const others = 3
	errs := make(chan error, others)
	for range others {
		go func() {
			for {
				select {
				case <-done:
					errs <- nil
					return
				default:
				}
				if err := change(t, db, r.ID); err != nil && !errors.Is(err, store.ErrStale) {
					errs <- err
					return
				}
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		}()
	}
	<-changed
	var emergency rotation.Rotation
	err := db.UpdateLatest(ctx, func(tx *store.Tx) (err error) {
		emergency, err = e.Declare(ctx, tx, s.ID, engine.Emergency{Asked: engine.Asked{By: "tests", Reason: "leaked"}})
		return err
	})
	close(done)
	for range others {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	view(t, db, func(tx *store.Tx) error {
		old, err1 := tx.Rotation(ctx, r.ID)
		at, err2 := tx.Occupying(ctx, s.ID)
		ret, err3 := tx.RetirementOf(ctx, s.ID, 1)
		if old.State != rotation.Superseded || at.ID != emergency.ID || ret.RotationID != emergency.ID {
			t.Errorf("the rotation is %s, %s occupies, the retirement is of %s", old.State, at.ID, ret.RotationID)
		}
		return errors.Join(err1, err2, err3)
	})
}
