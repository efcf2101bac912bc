package store_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

func TestNotesAndChecklist(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx, db := t.Context(), open(t, cfg)
		i := newIncident("", now)
		s := addSecret(t, db, "a")
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddIncident(ctx, &i, nil), tx.AddChecks(ctx, i.ID, []string{"first", "second"}),
				tx.AddSkipped(ctx, i.ID, []store.Skipped{{SecretID: s.ID, Why: "denied"}}))
		})
		update(t, db, func(tx *store.Tx) error { return tx.AddNote(ctx, i.ID, store.Note{At: now, By: "ops", Text: "one"}) })
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddNote(ctx, i.ID, store.Note{At: now, By: "ops", Text: "two"}), tx.AddChecks(ctx, i.ID, []string{"third"}),
				tx.SaveCheck(ctx, i.ID, store.Check{Item: 2, DoneAt: now, DoneBy: "ops", Remark: "done"}))
		})
		err := db.Update(ctx, func(tx *store.Tx) error { return tx.SaveCheck(ctx, i.ID, store.Check{Item: 4, DoneAt: now}) })
		if !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("an item that there is not: %v", err)
		}
		notes := read(t, db, func(tx *store.Tx) ([]store.Note, error) { return tx.Notes(ctx, i.ID) })
		if len(notes) != 2 || notes[0].Text != "one" || notes[1].Text != "two" || notes[0].By != "ops" || !notes[0].At.Equal(now) {
			t.Errorf("%+v", notes)
		}
		checks := read(t, db, func(tx *store.Tx) ([]store.Check, error) { return tx.Checks(ctx, i.ID) })
		if len(checks) != 3 || checks[2].Text != "third" || checks[2].Item != 3 || !checks[0].DoneAt.IsZero() || !checks[1].DoneAt.Equal(now) || checks[1].Remark != "done" {
			t.Errorf("%+v", checks)
		}
		left := read(t, db, func(tx *store.Tx) ([]store.Skipped, error) { return tx.SkippedOf(ctx, i.ID) })
		if len(left) != 1 || left[0].Ref != s.Ref || left[0].Why != "denied" {
			t.Errorf("%+v", left)
		}
	})
}

// TestAliveVersions: what an emergency turns off that names no versions.
func TestAliveVersions(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx, db := t.Context(), open(t, cfg)
		s, other := addSecret(t, db, "a"), addSecret(t, db, "b")
		add := func(of rotation.Secret, edit func(*rotation.Version), state rotation.RetirementState) {
			t.Helper()
			update(t, db, func(tx *store.Tx) error {
				v := rotation.Version{SecretID: of.ID, Ref: of.Ref, Stage: rotation.StageRetired, Tag: newID("tag"), Issuer: "mailer", Handle: map[string]string{"id": newID("k")}, CreatedAt: now}
				edit(&v)
				if err := tx.AddVersion(ctx, &v); err != nil || state == "" {
					return err
				}
				r := newRetirement(of, v.Number)
				if r.State = state; state == rotation.ProvenDead || state == rotation.Unprovable {
					r.NextAt = time.Time{}
				}
				return tx.AddRetirement(ctx, &r)
			})
		}
		whole := func(*rotation.Version) {}
		staged := func(stage rotation.VersionStage) func(*rotation.Version) {
			return func(v *rotation.Version) { v.Stage = stage }
		}
		add(s, whole, rotation.ProvenDead)                                                       // 1
		add(s, whole, rotation.Unprovable)                                                       // 2
		add(s, whole, rotation.Unconfirmed)                                                      // 3: alive
		add(s, staged(rotation.StagePrevious), "")                                               // 4: alive
		add(s, staged(rotation.StageCurrent), "")                                                // 5: alive
		add(s, func(v *rotation.Version) { v.Stage, v.Handle = rotation.StagePending, nil }, "") // 6: nobody has heard of it
		add(other, staged(rotation.StageCurrent), rotation.Requested)                            // 1: alive
		found := read(t, db, func(tx *store.Tx) ([]store.Alive, error) {
			return tx.AliveVersions(ctx, []string{s.ID, other.ID, "none"})
		})
		got := map[string][]int{}
		for _, a := range found {
			got[a.SecretID] = append(got[a.SecretID], a.Number)
			if a.Issuer != "mailer" || (a.Retirement != nil) != (a.SecretID == other.ID || a.Number == 3) {
				t.Errorf("%+v", a)
			}
		}
		if !slices.Equal(got[s.ID], []int{3, 4, 5}) || !slices.Equal(got[other.ID], []int{1}) || len(got) != 2 {
			t.Errorf("%v", got)
		}
		if none := read(t, db, func(tx *store.Tx) ([]store.Alive, error) { return tx.AliveVersions(ctx, nil) }); len(none) != 0 {
			t.Errorf("of no secrets: %v", none)
		}
	})
}

// TestWhatReplaces: what is told of an incident's replacements is of none of the versions
// that are compromised.
func TestWhatReplaces(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx, db := t.Context(), open(t, cfg)
		i := newIncident("", now)
		var targets []rotation.Target
		var secrets []rotation.Secret
		for _, name := range []string{"a", "b", "c"} { // replaced, not yet, not declared
			s := addSecret(t, db, name)
			secrets = append(secrets, s)
			targets = append(targets, rotation.Target{SecretID: s.ID, State: rotation.TargetPending})
		}
		update(t, db, func(tx *store.Tx) error {
			if err := tx.AddIncident(ctx, &i, targets); err != nil {
				return err
			}
			for n, s := range secrets {
				v := rotation.Version{SecretID: s.ID, Ref: s.Ref, Stage: rotation.StageCurrent, Tag: newID("tag"), Issuer: "mailer", RotationID: newID("rot")}
				if err := tx.AddVersion(ctx, &v); err != nil {
					return err
				}
				s.Current, s.Generation = v.Number, 7
				if err := tx.SaveSecret(ctx, &s); err != nil {
					return err
				}
				d := newDelivery(s, "web", 7)
				d.Version, d.Event = v.Number, rotation.EventRotated
				if err := tx.AddDelivery(ctx, &d); err != nil {
					return err
				}
				r := newRetirement(s, v.Number)
				if err := tx.AddRetirement(ctx, &r); err != nil {
					return err
				}
				if secrets[n] = s; n > 1 {
					continue
				}
				compromised := []rotation.Compromised{{SecretID: s.ID, Version: v.Number, Retirement: r}}
				if n == 0 {
					compromised[0].Version = v.Number + 1 // another one than the current
				}
				targets[n].IncidentID, targets[n].State, targets[n].RotationID = i.ID, rotation.TargetDeclared, newID("rot")
				if err := tx.SaveTarget(ctx, targets[n], compromised); err != nil {
					return err
				}
			}
			return nil
		})
		if n := read(t, db, func(tx *store.Tx) (int, error) { return tx.ReplacedTargets(ctx, i.ID) }); n != 1 {
			t.Errorf("%d are replaced", n)
		}
		told := read(t, db, func(tx *store.Tx) ([]rotation.Delivery, error) { return tx.ReplacementDeliveries(ctx, i.ID) })
		if len(told) != 2 || told[0].SecretID != secrets[0].ID || told[1].SecretID != secrets[2].ID {
			t.Errorf("%+v", told)
		}
		of := read(t, db, func(tx *store.Tx) ([]store.TargetSecret, error) { return tx.TargetSecrets(ctx, i.ID) })
		if len(of) != 3 || of[0].BroughtBy == "" || of[0].Ref.Name == "" || of[0].Current != 1 {
			t.Errorf("%+v", of)
		}
		issuers := read(t, db, func(tx *store.Tx) (map[store.VersionID]string, error) { return tx.IssuersOf(ctx, i.ID) })
		if issuers[store.VersionID{SecretID: secrets[1].ID, Number: 1}] != "mailer" || len(issuers) != 1 { // the other version is not there
			t.Errorf("%v", issuers)
		}
		measured := read(t, db, func(tx *store.Tx) ([]store.Measured, error) { return tx.MeasuredBefore(ctx, now.Add(24*time.Hour), 2) })
		if len(measured) != 2 || measured[0].Issuer != "mailer" || measured[0].SecretID == "" {
			t.Errorf("%+v", measured)
		}
	})
}
