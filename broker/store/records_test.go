package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// same compares as JSON, in which times of different zones differ.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(g) != string(w) {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

func TestSecretRoundTrip(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		want := addSecret(t, db, "payments/stripe")
		if want.Revision != 1 {
			t.Errorf("revision %d", want.Revision)
		}
		want.State, want.Current, want.Generation = rotation.SecretPaused, 3, 4
		want.Definition.Plan.Overlap, want.NextDueAt = time.Minute, time.Time{}
		want.UpdatedAt = now.Add(time.Microsecond)
		update(t, db, func(tx *store.Tx) error { return tx.SaveSecret(ctx, &want) })
		got := read(t, db, func(tx *store.Tx) (rotation.Secret, error) { return tx.SecretByRef(ctx, want.Ref) })
		if got.CreatedAt.Location() != time.UTC || !got.NextDueAt.IsZero() {
			t.Errorf("times: %v, %v", got.CreatedAt, got.NextDueAt)
		}
		want.CreatedAt, want.UpdatedAt = want.CreatedAt.UTC(), want.UpdatedAt.UTC()
		same(t, "secret", got, want)

		again := want
		err := db.Update(ctx, func(tx *store.Tx) error { return tx.AddSecret(ctx, &again) })
		if !errors.Is(err, backends.ErrConflict) || errors.Is(err, store.ErrStale) {
			t.Errorf("a second one of that name: %v", err)
		}
		err = db.View(ctx, func(tx *store.Tx) error { _, err := tx.Secret(ctx, "none"); return err })
		if !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("a missing one: %v", err)
		}
	})
}

func TestSavesCompareAndSwap(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		r := addRotation(t, db, s)
		ret, del := newRetirement(s, 1), newDelivery(s, "web", 1)
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddRetirement(ctx, &ret), tx.AddDelivery(ctx, &del))
		})
		stale := []func(tx *store.Tx) error{}
		{
			s, r, ret, del := s, r, ret, del
			stale = append(stale,
				func(tx *store.Tx) error { return tx.SaveSecret(ctx, &s) },
				func(tx *store.Tx) error { return tx.SaveRotation(ctx, &r) },
				func(tx *store.Tx) error { return tx.SaveRetirement(ctx, &ret) },
				func(tx *store.Tx) error { return tx.SaveDelivery(ctx, &del) })
		}
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.SaveSecret(ctx, &s), tx.SaveRotation(ctx, &r), tx.SaveRetirement(ctx, &ret), tx.SaveDelivery(ctx, &del))
		})
		for _, revision := range []int64{s.Revision, r.Revision, ret.Revision, del.Revision} {
			if revision != 2 {
				t.Errorf("a record is at revision %d after its save", revision)
			}
		}
		for i, save := range stale {
			if err := db.Update(ctx, save); !errors.Is(err, store.ErrStale) || !errors.Is(err, backends.ErrConflict) {
				t.Errorf("stale save %d: %v", i, err)
			}
		}
		got := read(t, db, func(tx *store.Tx) (rotation.Rotation, error) { return tx.Rotation(ctx, r.ID) })
		if got.Revision != 2 {
			t.Errorf("the row is at revision %d", got.Revision)
		}
	})
}

// Many nodes swap at once: of each revision exactly one save wins.
func TestOneSwapWins(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		r := addRotation(t, db, addSecret(t, db, "a"))
		const nodes = 8
		errs := make(chan error, nodes)
		for range nodes {
			go func() {
				mine := r
				errs <- db.Update(t.Context(), func(tx *store.Tx) error { return tx.SaveRotation(t.Context(), &mine) })
			}()
		}
		won := 0
		for range nodes {
			if err := <-errs; err == nil {
				won++
			} else if !errors.Is(err, store.ErrStale) {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d saves won", won)
		}
	})
}

func TestOneRotationOccupiesASecret(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s, other := addSecret(t, db, "a"), addSecret(t, db, "b")
		r := addRotation(t, db, s)
		addRotation(t, db, other)
		update(t, db, func(tx *store.Tx) error {
			second := newRotation(s)
			if err := tx.AddRotation(ctx, &second); !errors.Is(err, backends.ErrConflict) || second.Revision != 0 {
				t.Errorf("a second one: %v, revision %d", err, second.Revision)
			}
			got, err := tx.Occupying(ctx, s.ID) // the transaction goes on
			if got.ID != r.ID {
				t.Errorf("%q occupies", got.ID)
			}
			return err
		})

		r.State, r.NextAt = rotation.Retiring, time.Time{}
		next := newRotation(s)
		update(t, db, func(tx *store.Tx) error {
			if err := tx.SaveRotation(ctx, &r); err != nil {
				return err
			}
			return tx.AddRotation(ctx, &next)
		})
		live := read(t, db, func(tx *store.Tx) ([]rotation.Rotation, error) { return tx.LiveRotations(ctx, s.ID) })
		if len(live) != 2 {
			t.Errorf("%d live rotations", len(live))
		}
		r.State, r.EndedAt = rotation.Done, now
		update(t, db, func(tx *store.Tx) error { return tx.SaveRotation(ctx, &r) })
		live = read(t, db, func(tx *store.Tx) ([]rotation.Rotation, error) { return tx.LiveRotations(ctx, s.ID) })
		if len(live) != 1 || live[0].ID != next.ID {
			t.Errorf("live: %+v", live)
		}
		orphan := newRotation(rotation.Secret{ID: "none"})
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.AddRotation(ctx, &orphan) }); !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("of no secret: %v", err)
		}
	})
}

func TestRotationAndRetirementRoundTrip(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		r, ret := newRotation(s), newRetirement(s, 4)
		r.Begin(rotation.Mint, 5, "node/1", time.Minute, now.UTC())
		r.Compromised = []int{3, 4}
		ret.Begin(rotation.Revoke, "node/1", time.Minute, now.UTC())
		update(t, db, func(tx *store.Tx) error { return errors.Join(tx.AddRotation(ctx, &r), tx.AddRetirement(ctx, &ret)) })
		r.Error, ret.Error = "was slow", "was slow"
		update(t, db, func(tx *store.Tx) error { return errors.Join(tx.SaveRotation(ctx, &r), tx.SaveRetirement(ctx, &ret)) })
		view(t, db, func(tx *store.Tx) error {
			gotR, err1 := tx.Rotation(ctx, r.ID)
			gotT, err2 := tx.Retirement(ctx, ret.ID)
			same(t, "rotation", gotR, r)
			same(t, "retirement", gotT, ret)
			return errors.Join(err1, err2)
		})
		second := newRetirement(s, 4)
		err := db.Update(ctx, func(tx *store.Tx) error { return tx.AddRetirement(ctx, &second) })
		if !errors.Is(err, backends.ErrConflict) {
			t.Errorf("a second retirement of a version: %v", err)
		}
	})
}

func TestVersions(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s, other := addSecret(t, db, "a"), addSecret(t, db, "b")
		first := rotation.Version{
			SecretID: s.ID, Stage: rotation.StagePending, RotationID: "rot_1", Attempt: 1, Tag: "kb-1", Backend: "embedded",
			Issuer: "keys", Probe: "check", Settings: []byte(`{"a":1}`), CreatedAt: now, NotAfter: now.Add(time.Hour),
		}
		second, foreign := rotation.Version{SecretID: s.ID, Stage: rotation.StagePending}, rotation.Version{SecretID: other.ID}
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddVersion(ctx, &first), tx.AddVersion(ctx, &second), tx.AddVersion(ctx, &foreign))
		})
		if first.Number != 1 || second.Number != 2 || foreign.Number != 1 {
			t.Errorf("numbers %d, %d, %d", first.Number, second.Number, foreign.Number)
		}
		first.Ref, first.Stage, first.Handle = s.Ref, rotation.StageCurrent, map[string]string{"id": "key_1"}
		first.Sealed, first.BackendVersion, first.PublishedAt = []byte{0, 1, 255}, "7", now.Add(time.Second)
		first.Fingerprints = map[string]string{"key": "fp-1", "id": "fp-2"}
		update(t, db, func(tx *store.Tx) error { return tx.SaveVersion(ctx, &first) })
		got := read(t, db, func(tx *store.Tx) (rotation.Version, error) { return tx.Version(ctx, s.ID, 1) })
		want := first
		want.CreatedAt, want.NotAfter, want.PublishedAt = first.CreatedAt.UTC(), first.NotAfter.UTC(), first.PublishedAt.UTC()
		want.Fingerprints = nil // not read back
		same(t, "version", got, want)

		first = got // without fingerprints: they stay
		first.Sealed, first.Stage = nil, rotation.StagePrevious
		second.Stage, second.Fingerprints = rotation.StageCurrent, map[string]string{"key": "fp-3"}
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.SaveVersion(ctx, &first), tx.SaveVersion(ctx, &second))
		})
		all := read(t, db, func(tx *store.Tx) ([]rotation.Version, error) { return tx.Versions(ctx, s.ID) })
		if len(all) != 2 || all[0].Sealed != nil || all[1].Handle != nil || all[1].Settings != nil && string(all[1].Settings) != "null" {
			t.Errorf("versions: %+v", all)
		}
		for _, c := range []struct {
			fields map[string]string
			want   int
		}{
			{map[string]string{"key": "fp-1", "id": "fp-2"}, first.Number}, {map[string]string{"key": "fp-3"}, second.Number},
			{map[string]string{"key": "fp-4"}, 0}, {map[string]string{"key": "fp-3", "id": "fp-9"}, 0}, {nil, 0},
		} {
			var found rotation.Version
			err := db.View(ctx, func(tx *store.Tx) (err error) {
				found, err = tx.VersionWith(ctx, s, c.fields)
				return err
			})
			if found.Number != c.want || (err == nil) != (c.want > 0) {
				t.Errorf("the version with %v: %d (%v), want %d", c.fields, found.Number, err, c.want)
			}
		}
		missing := rotation.Version{SecretID: s.ID, Number: 9}
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.SaveVersion(ctx, &missing) }); !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("saving a missing version: %v", err)
		}
	})
}

func TestNumbersAreGivenOnceUnderConcurrency(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		ret := newRetirement(s, 1)
		update(t, db, func(tx *store.Tx) error { return tx.AddRetirement(ctx, &ret) })
		const nodes, each = 6, 5
		errs := make(chan error, nodes)
		for range nodes {
			go func() {
				var err error
				for i := range each {
					err = errors.Join(err, db.Update(ctx, func(tx *store.Tx) error {
						v := rotation.Version{SecretID: s.ID, Stage: rotation.StagePending}
						return errors.Join(tx.AddVersion(ctx, &v),
							tx.AddTry(ctx, s.ID, rotation.Try{RetirementID: ret.ID, Round: i, At: now}))
					}))
				}
				errs <- err
			}()
		}
		for range nodes {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		versions := read(t, db, func(tx *store.Tx) ([]rotation.Version, error) { return tx.Versions(ctx, s.ID) })
		if len(versions) != nodes*each || versions[len(versions)-1].Number != nodes*each {
			t.Errorf("%d versions", len(versions))
		}
		var tries int
		pages(t, db, 7, func(tx *store.Tx, p store.Page) (int, string, error) {
			items, next, err := tx.TriesOfRetirement(ctx, ret.ID, p)
			tries += len(items)
			return len(items), next, err
		})
		if tries != nodes*each {
			t.Errorf("%d tries", tries)
		}
	})
}

func TestSteps(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		r := addRotation(t, db, addSecret(t, db, "a"))
		at := func(n int) time.Time { return now.Add(time.Duration(n) * time.Second).UTC() }
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(
				tx.StartStep(ctx, r.ID, "mint", at(1)),
				tx.StartStep(ctx, r.ID, "mint", at(2)), // is open already
				tx.EndStep(ctx, r.ID, "mint", "ok", "key_1", at(3)),
				tx.StartStep(ctx, r.ID, "overlap", at(4)),
				tx.StartStep(ctx, r.ID, "push", at(5)),
				tx.EndStep(ctx, r.ID, "overlap", "ok", "", at(6)),
				tx.EndStep(ctx, r.ID, "contained", "ok", "", at(7)), // was not open
				tx.StartStep(ctx, r.ID, "mint", at(8)),              // once more
			)
		})
		got := read(t, db, func(tx *store.Tx) ([]rotation.Step, error) { return tx.Steps(ctx, r.ID) })
		same(t, "steps", got, []rotation.Step{
			{RotationID: r.ID, Seq: 1, Step: "mint", StartedAt: at(1), EndedAt: at(3), Outcome: "ok", Detail: "key_1"},
			{RotationID: r.ID, Seq: 2, Step: "overlap", StartedAt: at(4), EndedAt: at(6), Outcome: "ok"},
			{RotationID: r.ID, Seq: 3, Step: "push", StartedAt: at(5)},
			{RotationID: r.ID, Seq: 4, Step: "contained", StartedAt: at(7), EndedAt: at(7), Outcome: "ok"},
			{RotationID: r.ID, Seq: 5, Step: "mint", StartedAt: at(8)},
		})
	})
}

func TestStepsOfSeveralNodes(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		r := addRotation(t, db, addSecret(t, db, "a"))
		const nodes = 6
		errs := make(chan error, nodes)
		for i := range nodes {
			go func() {
				errs <- db.Update(t.Context(), func(tx *store.Tx) error {
					return tx.EndStep(t.Context(), r.ID, fmt.Sprint("push ", i), "ok", "", now)
				})
			}()
		}
		for range nodes {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if got := read(t, db, func(tx *store.Tx) ([]rotation.Step, error) { return tx.Steps(t.Context(), r.ID) }); len(got) != nodes {
			t.Errorf("%d steps", len(got))
		}
	})
}

func TestTriesRoundTrip(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		want := rotation.Try{
			RotationID: "rot_1", Round: 2, Purpose: rotation.PurposeVerify, Version: 3, At: now.UTC(), Probe: "check", Node: "n1",
			Address: "127.0.0.1:1", Verdict: rotation.Accepted, Detail: "status 200", Latency: time.Millisecond,
		}
		update(t, db, func(tx *store.Tx) error { return tx.AddTry(ctx, s.ID, want) })
		view(t, db, func(tx *store.Tx) error {
			got, next, err := tx.TriesOfRotation(ctx, "rot_1", store.Page{})
			same(t, "tries", got, []rotation.Try{want})
			if next != "" {
				t.Errorf("next is %q", next)
			}
			return err
		})
	})
}

func TestDeliveries(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		first, other := newDelivery(s, "web", 1), newDelivery(s, "batch", 1)
		update(t, db, func(tx *store.Tx) error { return errors.Join(tx.AddDelivery(ctx, &first), tx.AddDelivery(ctx, &other)) })
		first.Attempts, first.Lease, first.Error = 1, now.Add(time.Minute), "connection refused"
		update(t, db, func(tx *store.Tx) error { return tx.SaveDelivery(ctx, &first) })

		second := newDelivery(s, "web", 2)
		update(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &second) })
		view(t, db, func(tx *store.Tx) error {
			old, err1 := tx.Delivery(ctx, first.ID)
			if old.State != rotation.DeliverySuperseded || !old.NextAttemptAt.IsZero() || old.Attempts != 1 || old.Error == "" || old.Ref != s.Ref {
				t.Errorf("the older one: %+v", old)
			}
			gen, err2 := tx.Deliveries(ctx, s.ID, 1)
			if len(gen) != 2 || gen[0].Consumer != "batch" || gen[0].State != rotation.DeliveryPending {
				t.Errorf("the generation: %+v", gen)
			}
			busy, err3 := tx.Sending(ctx, second.ID, now)
			later, err4 := tx.Sending(ctx, second.ID, now.Add(time.Minute))
			self, err5 := tx.Sending(ctx, first.ID, now)
			if !busy.InFlight || later.InFlight || self.InFlight {
				t.Errorf("in flight: %v, later %v, itself %v", busy.InFlight, later.InFlight, self.InFlight)
			}
			if busy.Outdated || !self.Outdated || busy.Delivery.ID != second.ID || self.Delivery != old {
				t.Errorf("outdated: %v, the older one %v; %+v", busy.Outdated, self.Outdated, self.Delivery)
			}
			return errors.Join(err1, err2, err3, err4, err5)
		})
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.SaveDelivery(ctx, &first) }); !errors.Is(err, backends.ErrConflict) {
			t.Errorf("the attempt that was superseded: %v", err)
		}
	})
}

func TestDue(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		hour := time.Hour
		due, occupied, paused := addSecret(t, db, "due"), addSecret(t, db, "occupied"), addSecret(t, db, "paused")
		due.NextDueAt, occupied.NextDueAt = now, now.Add(-hour)
		paused.NextDueAt, paused.State = now, rotation.SecretPaused
		running, waiting, lost := newRotation(occupied), newRotation(addSecret(t, db, "c")), newRotation(addSecret(t, db, "d"))
		unheard, free := newRotation(addSecret(t, db, "e")), addSecret(t, db, "f") // free is due in an hour
		ended := newRotation(free)
		running.Begin(rotation.Mint, 1, "node/1", hour, now)
		waiting.NextAt = time.Time{}
		lost.Begin(rotation.Mint, 1, "node/0", 0, now)
		unheard.Begin(rotation.Mint, 1, "node/1", hour, now)
		unheard.Intent.Unheard = true
		ended.State, ended.EndedAt = rotation.Done, now
		ret, held := newRetirement(due, 1), newRetirement(due, 2)
		held.Begin(rotation.Revoke, "node/1", hour, now)
		del, sending, later := newDelivery(due, "web", 1), newDelivery(due, "batch", 1), newDelivery(due, "mail", 1)
		sending.Lease, later.NextAttemptAt = now.Add(hour), now.Add(time.Microsecond)
		update(t, db, func(tx *store.Tx) error {
			err := errors.Join(tx.SaveSecret(ctx, &due), tx.SaveSecret(ctx, &occupied), tx.SaveSecret(ctx, &paused),
				tx.AddRetirement(ctx, &ret), tx.AddRetirement(ctx, &held),
				tx.AddDelivery(ctx, &del), tx.AddDelivery(ctx, &sending), tx.AddDelivery(ctx, &later))
			for _, r := range []*rotation.Rotation{&running, &waiting, &lost, &unheard, &ended} {
				err = errors.Join(err, tx.AddRotation(ctx, r))
			}
			return err
		})
		check := func(at time.Time, limit int, secrets, rotations, retirements, deliveries []string) {
			t.Helper()
			view(t, db, func(tx *store.Tx) error {
				got, err := tx.Due(ctx, at, limit)
				beginning, beginErr := tx.Beginning(ctx, at, limit)
				got.Secrets, err = beginning.Secrets, errors.Join(err, beginErr)
				var sendable []string
				for _, d := range got.Deliveries {
					sendable = append(sendable, d.ID)
				}
				for _, pair := range [][2][]string{
					{got.Secrets, secrets}, {got.Rotations, rotations}, {got.Retirements, retirements}, {sendable, deliveries},
				} {
					slices.Sort(pair[0])
					slices.Sort(pair[1])
					if !slices.Equal(pair[0], pair[1]) {
						t.Errorf("at %v: got %v, want %v", at, pair[0], pair[1])
					}
				}
				return err
			})
		}
		check(now.Add(-2*hour), 10, nil, nil, nil, nil)
		check(now, 10, []string{due.ID}, []string{lost.ID, unheard.ID}, []string{ret.ID}, []string{del.ID})
		check(now.Add(hour), 10, []string{due.ID, free.ID}, []string{running.ID, lost.ID, unheard.ID},
			[]string{ret.ID, held.ID}, []string{del.ID, sending.ID, later.ID})
		view(t, db, func(tx *store.Tx) error {
			got, err := tx.Due(ctx, now.Add(hour), 1)
			if len(got.Rotations) != 1 || len(got.Retirements) != 1 || len(got.Deliveries) != 1 {
				t.Errorf("limited: %+v", got)
			}
			return err
		})
	})
}

func TestReleaseLeases(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		cfg.Now = func() time.Time { return now }
		db := open(t, cfg)
		s, s2 := addSecret(t, db, "a"), addSecret(t, db, "b")
		mine, theirs := newRotation(s), newRotation(s2)
		mine.Begin(rotation.Mint, 1, "node/2", time.Hour, now)
		theirs.Begin(rotation.Mint, 1, "node/1", time.Hour, now)
		ret, del := newRetirement(s, 1), newDelivery(s, "web", 1)
		ret.Begin(rotation.Revoke, "node/1", time.Hour, now)
		del.Lease = now.Add(time.Hour)
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddRotation(ctx, &mine), tx.AddRotation(ctx, &theirs), tx.AddRetirement(ctx, &ret), tx.AddDelivery(ctx, &del))
		})
		if err := db.ReleaseLeases(ctx, "node/2"); err != nil {
			t.Fatal(err)
		}
		view(t, db, func(tx *store.Tx) error {
			due, err := tx.Due(ctx, now, 10)
			if cfg.SQLitePath == "" { // the owner may be alive
				if len(due.Rotations)+len(due.Retirements)+len(due.Deliveries) != 0 {
					t.Errorf("released on PostgreSQL: %+v", due)
				}
				return err
			}
			if !slices.Equal(due.Rotations, []string{theirs.ID}) || len(due.Retirements) != 1 || len(due.Deliveries) != 1 {
				t.Errorf("due: %+v", due)
			}
			got, err2 := tx.Rotation(ctx, theirs.ID)
			if action := got.Next(rotation.Facts{}, "node/2", now); action.Effect != rotation.RecoverMint {
				t.Errorf("the interrupted mint is not recovered but %+v", action)
			}
			return errors.Join(err, err2)
		})
	})
}

// The plaintext of a credential that is proven dead is forgotten for good,
// whatever copy of the record somebody else saves later.
func TestWhatWasPurgedStaysPurged(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		v := rotation.Version{SecretID: s.ID, Stage: rotation.StagePending, Tag: "kb-purged", CreatedAt: now}
		update(t, db, func(tx *store.Tx) error { return tx.AddVersion(ctx, &v) })
		v.Handle, v.Sealed = map[string]string{"id": "key"}, []byte("sealed") // both are known once it is minted
		save := func(sealed []byte, stage rotation.VersionStage) {
			t.Helper()
			v.Sealed, v.Stage = sealed, stage
			update(t, db, func(tx *store.Tx) error { return tx.SaveVersion(ctx, &v) })
		}
		want := func(sealed string, stage rotation.VersionStage) {
			t.Helper()
			got := read(t, db, func(tx *store.Tx) (rotation.Version, error) { return tx.Version(ctx, s.ID, v.Number) })
			if string(got.Sealed) != sealed || got.Stage != stage || got.Handle["id"] != "key" {
				t.Errorf("got %+v", got)
			}
		}
		save([]byte("sealed"), rotation.StageCurrent)
		want("sealed", rotation.StageCurrent)
		save(nil, rotation.StageRetired)
		save([]byte("sealed"), rotation.StagePrevious) // an old copy
		want("", rotation.StagePrevious)
	})
}

// A version that is read in an Update is as it is until the commit: two that
// change different things of it both succeed.
func TestVersionsAreLockedAsTheyAreRead(t *testing.T) {
	ctx := t.Context()
	db := open(t, postgresConfig(t))
	s := addSecret(t, db, "a")
	v := rotation.Version{SecretID: s.ID, Stage: rotation.StageCurrent, Handle: map[string]string{"id": "key"}, Sealed: []byte("sealed"), CreatedAt: now}
	update(t, db, func(tx *store.Tx) error { return tx.AddVersion(ctx, &v) })
	change := func(tx *store.Tx, meanwhile func(), fn func(v *rotation.Version)) error {
		v, err := tx.Version(ctx, s.ID, v.Number)
		if err != nil {
			return err
		}
		meanwhile()
		fn(&v)
		return tx.SaveVersion(ctx, &v)
	}
	purged := make(chan error, 1)
	purge := func() {
		purged <- db.Update(ctx, func(tx *store.Tx) error {
			return change(tx, func() {}, func(v *rotation.Version) { v.Sealed = nil })
		})
	}
	update(t, db, func(tx *store.Tx) error {
		return change(tx, func() {
			go purge()
			for waiting := ""; waiting != "true"; {
				view(t, db, func(tx *store.Tx) error {
					return tx.Strings(ctx, "SELECT (count(*) > 0)::text FROM pg_locks WHERE NOT granted", func(is string) error { waiting = is; return nil })
				})
			}
		}, func(v *rotation.Version) { v.Stage = rotation.StagePrevious })
	})
	if err := <-purged; err != nil {
		t.Fatal(err)
	}
	got := read(t, db, func(tx *store.Tx) (rotation.Version, error) { return tx.Version(ctx, s.ID, v.Number) })
	if got.Sealed != nil || got.Stage != rotation.StagePrevious {
		t.Errorf("stage %s, purged %v", got.Stage, got.Sealed == nil)
	}
}
