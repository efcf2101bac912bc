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

func newIncident(tenant string, at time.Time) rotation.Incident {
	return rotation.Incident{ID: newID("inc"), Tenant: tenant, State: rotation.IncidentOpen, Cause: rotation.IncidentDeclared, Reason: "leaked",
		Actor: "ops", Hold: true, DeclaredAt: at, NextAt: at}
}

func TestIncidents(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx, db := t.Context(), open(t, cfg)
		var targets []rotation.Target
		var secrets []rotation.Secret
		for n := range 450 { // more than one statement inserts
			s := addSecret(t, db, fmt.Sprintf("a/%03d", n))
			secrets = append(secrets, s)
			targets = append(targets, rotation.Target{SecretID: s.ID, State: rotation.TargetPending, Versions: []int{1}})
		}
		i := newIncident("", now)
		update(t, db, func(tx *store.Tx) error { return tx.AddIncident(ctx, &i, targets) })
		err := db.Update(ctx, func(tx *store.Tx) error { again := i; return tx.AddIncident(ctx, &again, nil) })
		if !errors.Is(err, backends.ErrConflict) {
			t.Errorf("a second incident of one id: %v", err)
		}
		got := read(t, db, func(tx *store.Tx) ([]rotation.Target, error) { return tx.Targets(ctx, i.ID) })
		if len(got) != 450 || got[449].Ref != secrets[449].Ref || !slices.Equal(got[449].Versions, []int{1}) || got[449].IncidentID != i.ID {
			t.Errorf("%d targets, the last %+v", len(got), got[len(got)-1])
		}

		// What failed is behind what is pending.
		failed := got[0]
		failed.State, failed.Error = rotation.TargetFailed, "the store is busy"
		ret := newRetirement(secrets[1], 1)
		ret.State, ret.ContainedAt = rotation.Rejecting, now.Add(time.Second).UTC()
		done := got[1]
		done.State, done.RotationID = rotation.TargetDeclared, "rot"
		update(t, db, func(tx *store.Tx) error {
			if err := tx.AddRetirement(ctx, &ret); err != nil {
				return err
			}
			for range 2 { // again is no more
				if err := tx.SaveTarget(ctx, done, []rotation.Compromised{{SecretID: done.SecretID, Version: 1, Retirement: ret}}); err != nil {
					return err
				}
			}
			return tx.SaveTarget(ctx, failed, nil)
		})
		left := read(t, db, func(tx *store.Tx) ([]rotation.Target, error) { return tx.Undeclared(ctx, i.ID, 1000) })
		if len(left) != 449 || left[448].SecretID != failed.SecretID || left[448].Error != failed.Error {
			t.Errorf("%d are left, the last %+v", len(left), left[len(left)-1])
		}
		n := read(t, db, func(tx *store.Tx) (rotation.Tally, error) { return tx.Tally(ctx, i.ID) })
		want := rotation.Tally{Secrets: 450, Pending: 448, Failed: 1, Versions: 1, Acknowledged: 1, Contained: 1, FirstContainedAt: ret.ContainedAt, LastContainedAt: ret.ContainedAt}
		n.FirstContainedAt, n.LastContainedAt = n.FirstContainedAt.UTC(), n.LastContainedAt.UTC()
		if n != want {
			t.Errorf("the tally is %+v", n)
		}
		if of := read(t, db, func(tx *store.Tx) ([]string, error) { return tx.IncidentsOfRotation(ctx, "rot") }); !slices.Equal(of, []string{i.ID}) {
			t.Errorf("the rotation is of %q", of)
		}
		if of := read(t, db, func(tx *store.Tx) ([]string, error) { return tx.IncidentsOfVersion(ctx, done.SecretID, 1) }); !slices.Equal(of, []string{i.ID}) {
			t.Errorf("the version is of %q", of)
		}

		// Compare and swap; what is closed holds nothing, and is nobody's.
		stale := i
		i.State, i.Hold, i.NextAt = rotation.IncidentClosed, false, time.Time{}
		if held := read(t, db, func(tx *store.Tx) (bool, error) { return tx.EvidenceHeld(ctx) }); !held {
			t.Error("evidence is not held")
		}
		update(t, db, func(tx *store.Tx) error { return tx.SaveIncident(ctx, &i) })
		if err := db.Update(ctx, func(tx *store.Tx) error { return tx.SaveIncident(ctx, &stale) }); !errors.Is(err, store.ErrStale) {
			t.Errorf("saving what was changed meanwhile: %v", err)
		}
		if held := read(t, db, func(tx *store.Tx) (bool, error) { return tx.EvidenceHeld(ctx) }); held {
			t.Error("evidence is held")
		}
		if of := read(t, db, func(tx *store.Tx) ([]string, error) { return tx.IncidentsOfRotation(ctx, "rot") }); len(of) != 0 {
			t.Errorf("the rotation is of %q", of)
		}
	})
}

func TestIncidentsAreListed(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx, db := t.Context(), open(t, cfg)
		s := addSecret(t, db, "a")
		var ids []string
		for n := range 7 {
			i := newIncident([]string{"acme", ""}[n%2], now.Add(time.Duration(n/2)*time.Second)) // two at a time
			if i.NextAt = now.Add(time.Duration(n-3) * time.Second); n == 6 {
				i.State, i.Trigger, i.ApproveBy = rotation.IncidentProposed, "siem", now
			}
			ids = append(ids, i.ID)
			update(t, db, func(tx *store.Tx) error {
				return tx.AddIncident(ctx, &i, []rotation.Target{{SecretID: s.ID, State: rotation.TargetPending}}[:n%2])
			})
		}
		slices.Reverse(ids)
		for _, tt := range []struct {
			by   store.IncidentFilter
			want []string
		}{
			{store.IncidentFilter{}, ids},
			{store.IncidentFilter{Tenant: "acme"}, []string{ids[0], ids[2], ids[4], ids[6]}},
			{store.IncidentFilter{State: rotation.IncidentProposed}, ids[:1]},
			{store.IncidentFilter{Trigger: "siem", State: rotation.IncidentProposed}, ids[:1]},
			{store.IncidentFilter{SecretID: s.ID}, []string{ids[1], ids[3], ids[5]}},
		} {
			var got []string
			pages(t, db, 2, func(tx *store.Tx, p store.Page) (int, string, error) {
				items, next, err := tx.Incidents(ctx, tt.by, p)
				for _, i := range items {
					got = append(got, i.ID)
				}
				return len(items), next, err
			})
			if !slices.Equal(got, tt.want) {
				t.Errorf("%+v: %v, not %v", tt.by, got, tt.want)
			}
		}
		due := read(t, db, func(tx *store.Tx) ([]string, error) { d, err := tx.Due(ctx, now, 10); return d.Incidents, err })
		if len(due) != 4 || due[0] != ids[6] {
			t.Errorf("due are %v of %v", due, ids)
		}
	})
}

// What is added to a proposal means no less than what it meant before.
func TestTargetsAreAddedToAProposal(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx, db := t.Context(), open(t, cfg)
		a, b := addSecret(t, db, "a"), addSecret(t, db, "b")
		i := newIncident("", now)
		update(t, db, func(tx *store.Tx) error {
			return tx.AddIncident(ctx, &i, []rotation.Target{{SecretID: a.ID, State: rotation.TargetPending, Versions: []int{3}}})
		})
		for _, tt := range []struct{ a, b, wantA, wantB []int }{
			{[]int{1, 3}, []int{2}, []int{1, 3}, []int{2}},
			{[]int{2}, nil, []int{1, 2, 3}, nil},
			{nil, []int{4}, nil, nil},
			{[]int{1}, []int{1}, nil, nil},
		} {
			update(t, db, func(tx *store.Tx) error {
				return tx.AddTargets(ctx, i.ID, []rotation.Target{{SecretID: a.ID, State: rotation.TargetPending, Versions: tt.a}, {SecretID: b.ID, State: rotation.TargetPending, Versions: tt.b}})
			})
			got := read(t, db, func(tx *store.Tx) ([]rotation.Target, error) { return tx.Targets(ctx, i.ID) })
			if len(got) != 2 || !slices.Equal(got[0].Versions, tt.wantA) || !slices.Equal(got[1].Versions, tt.wantB) {
				t.Errorf("after %v and %v: %+v", tt.a, tt.b, got)
			}
		}
	})
}
