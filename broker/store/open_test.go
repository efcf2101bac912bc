package store_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// addVersion adds one of a stage; state is that of its retirement, empty for none.
func addVersion(t *testing.T, db *store.DB, s rotation.Secret, stage rotation.VersionStage, state rotation.RetirementState, next time.Time) rotation.Retirement {
	t.Helper()
	v := rotation.Version{SecretID: s.ID, Stage: stage, CreatedAt: now}
	ret := newRetirement(s, 0)
	update(t, db, func(tx *store.Tx) error {
		err := tx.AddVersion(t.Context(), &v)
		if err != nil || state == "" {
			return err
		}
		ret.Version, ret.State, ret.NextAt, ret.RotationID = v.Number, state, next, fmt.Sprint("rot ", v.Number)
		return tx.AddRetirement(t.Context(), &ret)
	})
	return ret
}

func numbers(versions []rotation.Version) (n []int) {
	for _, v := range versions {
		n = append(n, v.Number)
	}
	return n
}

func retired(retirements []rotation.Retirement) (n []int) {
	for _, t := range retirements {
		n = append(n, t.Version)
	}
	return n
}

func TestOpenVersions(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		addVersion(t, db, addSecret(t, db, "other"), rotation.StageCurrent, rotation.Rejecting, now)
		never := time.Time{}
		addVersion(t, db, s, rotation.StageRetired, "", never)                             // 1: never made
		addVersion(t, db, s, rotation.StageRetired, rotation.ProvenDead, now)              // 2: to be re-checked
		addVersion(t, db, s, rotation.StageRetired, rotation.Unprovable, now)              // 3
		purged := addVersion(t, db, s, rotation.StageRetired, rotation.Unconfirmed, never) // 4: given up
		open := addVersion(t, db, s, rotation.StageRetired, rotation.Resurrected, now)     // 5
		addVersion(t, db, s, rotation.StagePrevious, rotation.ProvenDead, never)           // 6: somebody may still be given it
		addVersion(t, db, s, rotation.StageCurrent, "", never)                             // 7
		addVersion(t, db, s, rotation.StagePending, "", never)                             // 8
		view(t, db, func(tx *store.Tx) error {
			versions, err1 := tx.Versions(ctx, s.ID)
			retirements, err2 := tx.Retirements(ctx, s.ID)
			if got, want := numbers(versions), []int{5, 6, 7, 8}; !slices.Equal(got, want) {
				t.Errorf("versions %v, want %v", got, want)
			}
			if got, want := retired(retirements), []int{5, 6}; !slices.Equal(got, want) {
				t.Errorf("retirements of %v, want of %v", got, want)
			}
			recent, err3 := tx.RecentVersions(ctx, s.ID, 3)
			if got, want := numbers(recent), []int{6, 7, 8}; !slices.Equal(got, want) {
				t.Errorf("the newest are %v, want %v", got, want)
			}
			from, err4 := tx.RetirementsOf(ctx, s.ID, 4)
			if got, want := retired(from), []int{4, 5, 6}; !slices.Equal(got, want) {
				t.Errorf("retirements from 4: of %v, want of %v", got, want)
			}
			of, err5 := tx.RetirementOf(ctx, s.ID, 4)
			rot, err6 := tx.RetirementsOfRotation(ctx, open.RotationID)
			if of.ID != purged.ID || of.Revision != 1 || len(rot) != 1 || rot[0].ID != open.ID {
				t.Errorf("the retirement of 4 is %+v, of a rotation %+v", of, rot)
			}
			if _, err := tx.RetirementOf(ctx, s.ID, 7); !errors.Is(err, backends.ErrNotFound) {
				t.Errorf("the retirement of the current version: %v", err)
			}
			return errors.Join(err1, err2, err3, err4, err5, err6)
		})
		// What was over goes on again.
		update(t, db, func(tx *store.Tx) error {
			purged.State, purged.NextAt = rotation.Requested, now
			return tx.SaveRetirement(ctx, &purged)
		})
		versions := read(t, db, func(tx *store.Tx) ([]rotation.Version, error) { return tx.Versions(ctx, s.ID) })
		if got, want := numbers(versions), []int{4, 5, 6, 7, 8}; !slices.Equal(got, want) {
			t.Errorf("versions %v, want %v", got, want)
		}
	})
}

func TestLastVersionIsTheStores(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		for range 2 {
			addVersion(t, db, s, rotation.StagePending, "", now)
		}
		if s.LastVersion != 0 {
			t.Errorf("before any version: %d", s.LastVersion)
		}
		update(t, db, func(tx *store.Tx) error { return tx.SaveSecret(ctx, &s) }) // read before the versions were added
		got := read(t, db, func(tx *store.Tx) (rotation.Secret, error) { return tx.Secret(ctx, s.ID) })
		if got.LastVersion != 2 {
			t.Errorf("the last version is %d", got.LastVersion)
		}
	})
}
