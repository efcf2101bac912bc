package store_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// TestQuarantines: one name may be in several, of different incidents, and all of them end
// at once. What is over is kept with its incident.
func TestQuarantines(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		add := func(id, incident string, kind rotation.Kept, name string, at time.Time) (added bool) {
			t.Helper()
			update(t, db, func(tx *store.Tx) (err error) {
				_, added, err = tx.AddQuarantine(ctx, rotation.Quarantine{ID: id, Kind: kind, Name: name, Tenant: "acme", Role: "reader", IncidentID: incident, Reason: "why", By: "tok_1", At: at})
				return err
			})
			return added
		}
		if !add("q1", "i1", rotation.KeptConsumer, "web", now) || add("q2", "i1", rotation.KeptConsumer, "web", now) ||
			!add("q3", "i2", rotation.KeptConsumer, "web", now.Add(-time.Hour)) || !add("q4", "", rotation.KeptRole, "web", now) {
			t.Error("what is in quarantine for the same incident is so once, and only that")
		}
		going := func() (ids []string) {
			for _, q := range read(t, db, func(tx *store.Tx) ([]rotation.Quarantine, error) { return tx.Quarantines(ctx) }) {
				ids = append(ids, q.ID)
			}
			return ids
		}
		if got := going(); !slices.Equal(got, []string{"q3", "q1", "q4"}) {
			t.Errorf("in quarantine: %v", got)
		}
		update(t, db, func(tx *store.Tx) error {
			return tx.SaveConsumerState(ctx, rotation.ConsumerState{Name: "box", DisabledAt: now})
		})
		states := func() []rotation.ConsumerState {
			return read(t, db, func(tx *store.Tx) ([]rotation.ConsumerState, error) { return tx.ConsumerStates(ctx) })
		}
		if got := states(); len(got) != 2 || got[0].Name != "box" || !got[0].QuarantinedAt.IsZero() || got[1].Name != "web" || !got[1].QuarantinedAt.Equal(now.Add(-time.Hour)) {
			t.Errorf("the states of consumers: %+v", got)
		}
		update(t, db, func(tx *store.Tx) error {
			return tx.SaveConsumerState(ctx, rotation.ConsumerState{Name: "web", Why: "gone", DisabledAt: now})
		})
		if got := read(t, db, func(tx *store.Tx) (rotation.ConsumerState, error) { return tx.ConsumerState(ctx, "web") }); got.Why != "gone" || got.QuarantinedAt.IsZero() {
			t.Errorf("the state of one that is disabled as well: %+v", got)
		}
		if got := read(t, db, func(tx *store.Tx) (rotation.ConsumerState, error) { return tx.ConsumerState(ctx, "never heard of") }); got != (rotation.ConsumerState{Name: "never heard of"}) {
			t.Errorf("the state of nobody: %+v", got)
		}
		lift := func() (lifted []rotation.Quarantine) {
			update(t, db, func(tx *store.Tx) (err error) {
				lifted, err = tx.LiftQuarantines(ctx, rotation.KeptConsumer, "web", "tok_2", "rebuilt", now.Add(time.Hour))
				return err
			})
			return lifted
		}
		if got := lift(); len(got) != 2 || got[0].LiftedBy != "tok_2" || got[0].Lifting != "rebuilt" || !got[0].LiftedAt.Equal(now.Add(time.Hour)) || len(lift()) != 0 {
			t.Errorf("lifted: %+v", got)
		}
		if got := going(); !slices.Equal(got, []string{"q4"}) {
			t.Errorf("then in quarantine: %v", got)
		}
		if got := states(); !got[1].QuarantinedAt.IsZero() {
			t.Errorf("the states of consumers: %+v", got)
		}
		of := read(t, db, func(tx *store.Tx) ([]rotation.Quarantine, error) { return tx.QuarantinesOf(ctx, "i1") })
		if len(of) != 1 || of[0].ID != "q1" || of[0].LiftedAt.IsZero() || of[0].Role != "reader" || of[0].Tenant != "acme" || of[0].Reason != "why" || of[0].By != "tok_1" {
			t.Errorf("of an incident: %+v", of)
		}
		if !add("q5", "i1", rotation.KeptConsumer, "web", now) {
			t.Error("nobody is in quarantine twice for one incident")
		}
	})
}

// TestSendingInQuarantine: an attempt goes by the row, and what nobody collects is not due
// to be given up.
func TestSendingInQuarantine(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		d := newDelivery(addSecret(t, db, "a"), "web", 1)
		d.CreatedAt, d.NextAttemptAt = now.Add(-100*24*time.Hour), time.Time{}
		update(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &d) })
		look := func(quarantined bool, due int) {
			t.Helper()
			sending := read(t, db, func(tx *store.Tx) (s rotation.ConsumerState, err error) {
				x, err := tx.Sending(ctx, d.ID, now)
				return x.Consumer, err
			})
			all := read(t, db, func(tx *store.Tx) (int, error) { due, err := tx.Due(ctx, now, 10); return len(due.Deliveries), err })
			if sending.Name != "web" || sending.QuarantinedAt.IsZero() == quarantined || all != due {
				t.Errorf("%+v, and %d are due", sending, all)
			}
		}
		look(false, 1)
		update(t, db, func(tx *store.Tx) error {
			_, _, err := tx.AddQuarantine(ctx, rotation.Quarantine{ID: "q", Kind: rotation.KeptConsumer, Name: "web", At: now})
			return err
		})
		look(true, 0)
		update(t, db, func(tx *store.Tx) error {
			_, err := tx.LiftQuarantines(ctx, rotation.KeptConsumer, "web", "", "", now)
			return err
		})
		look(false, 1)
	})
}

// TestUntold: whom nobody tells, or was given up, and only the secrets that name them.
func TestUntold(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		var ids []string
		for name, consumers := range map[string][]string{"told": {"web"}, "untold": {"box", "web"}, "dead": {"web"}, "older": {"web"}, "another's": {"web2", "x_web"}} {
			s := addSecret(t, db, name)
			update(t, db, func(tx *store.Tx) error {
				s, err := tx.Secret(ctx, s.ID)
				s.Current, s.Generation, s.Definition.Consumers = 1, 2, consumers
				return errors.Join(err, tx.SaveSecret(ctx, &s))
			})
			d := newDelivery(s, "web", 2)
			switch name {
			case "older":
				d.Generation = 1
				fallthrough
			case "told":
				update(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &d) })
			case "dead":
				update(t, db, func(tx *store.Tx) error {
					err := tx.AddDelivery(ctx, &d)
					d.State = rotation.DeliveryDead
					return errors.Join(err, tx.SaveDelivery(ctx, &d))
				})
			}
			if name != "told" && name != "another's" {
				ids = append(ids, s.ID)
			}
		}
		slices.Sort(ids)
		if got := read(t, db, func(tx *store.Tx) ([]string, error) { return tx.Untold(ctx, "web") }); !slices.Equal(got, ids) {
			t.Errorf("untold: %v, want %v", got, ids)
		}
	})
}

// TestRevokeTokensOfRole: all that live and are of the role, but for those for breaking glass.
func TestRevokeTokensOfRole(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		for i, tok := range []store.Token{
			{ID: "a", Role: "ci"}, {ID: "b", Role: "ci", ExpiresAt: now.Add(time.Hour)}, {ID: "expired", Role: "ci", ExpiresAt: now},
			{ID: "revoked", Role: "ci", RevokedAt: now.Add(-time.Hour)}, {ID: "glass", Role: "ci", Kind: store.TokenBreakGlass}, {ID: "other", Role: "cd"}, {ID: "none"},
		} {
			tok.Hash, tok.CreatedAt = []byte{byte(i)}, now
			update(t, db, func(tx *store.Tx) error { return tx.AddToken(ctx, tok) })
		}
		var revoked, none []string
		update(t, db, func(tx *store.Tx) (err error) {
			if revoked, err = tx.RevokeTokensOfRole(ctx, "ci", now); err == nil {
				none, err = tx.RevokeTokensOfRole(ctx, "", now)
			}
			return err
		})
		slices.Sort(revoked)
		if !slices.Equal(revoked, []string{"a", "b"}) || len(none) != 0 {
			t.Errorf("revoked: %v, %v", revoked, none)
		}
		for id, want := range map[string]time.Time{"a": now, "revoked": now.Add(-time.Hour), "glass": {}, "other": {}, "none": {}} {
			if tok := read(t, db, func(tx *store.Tx) (store.Token, error) { return tx.Token(ctx, id) }); !tok.RevokedAt.Equal(want) {
				t.Errorf("%s was revoked at %s", id, tok.RevokedAt)
			}
		}
		if n := read(t, db, func(tx *store.Tx) (int, error) { return tx.BreakGlassOfRole(ctx, "ci", now) }); n != 1 {
			t.Errorf("%d tokens are left for breaking glass", n)
		}
	})
}
