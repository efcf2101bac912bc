package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

func TestChangesTellWhatWasSaved(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		cfg.Now = func() time.Time { return now }
		db := open(t, cfg)
		s := addSecret(t, db, "a")
		r, ret, old, del := newRotation(s), newRetirement(s, 1), newDelivery(s, "web", 1), newDelivery(s, "web", 2)
		update(t, db, func(tx *store.Tx) error {
			s.Generation = 2
			return errors.Join(tx.AddRotation(ctx, &r), tx.SaveRotation(ctx, &r), tx.SaveSecret(ctx, &s))
		})
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddRetirement(ctx, &ret), tx.AddDelivery(ctx, &old))
		})
		update(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &del) })
		got := read(t, db, func(tx *store.Tx) ([]rotation.Change, error) { return tx.Changes(ctx, 0, 0) })
		change := func(seq int64, kind, id string, generation int64) rotation.Change {
			return rotation.Change{Seq: seq, Tenant: s.Ref.Tenant, Secret: "a", Kind: kind, ID: id, Generation: generation, At: now.UTC()}
		}
		same(t, "changes", got, []rotation.Change{
			change(1, store.ChangeSecret, s.ID, 0),
			change(2, store.ChangeRotation, r.ID, 2), // once, however often it was saved
			change(3, store.ChangeSecret, s.ID, 2),
			change(4, store.ChangeRetirement, ret.ID, 2),
			change(5, store.ChangeDelivery, old.ID, 2),
			change(6, store.ChangeDelivery, old.ID, 2), // superseded
			change(7, store.ChangeDelivery, del.ID, 2),
		})
		update(t, db, func(tx *store.Tx) error { return tx.PruneChanges(ctx, now.Add(time.Second)) })
		view(t, db, func(tx *store.Tx) error {
			left, err1 := tx.Changes(ctx, 0, 0)
			last, err2 := tx.LastChange(ctx)
			if len(left) != 0 || last != 7 {
				t.Errorf("after pruning: %+v, last %d", left, last)
			}
			return errors.Join(err1, err2)
		})
	})
}

// While many write, a reader who only asks for what comes after the last number
// it saw gets every change, in order.
func TestNoReaderSkipsAChange(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		const writers, each = 8, 15
		secrets := make([]rotation.Secret, writers)
		for i := range secrets {
			secrets[i] = addSecret(t, db, fmt.Sprint("s", i))
		}
		start := read(t, db, func(tx *store.Tx) (int64, error) { return tx.LastChange(ctx) })

		var writing sync.WaitGroup
		for i := range secrets {
			writing.Go(func() {
				for range each {
					err := db.Update(ctx, func(tx *store.Tx) error {
						secrets[i].Generation++
						// The number is taken late; what comes before takes a while and differs in length.
						for range i % 3 {
							if _, _, err := tx.Secrets(ctx, store.SecretFilter{}, store.Page{}); err != nil {
								return err
							}
						}
						return tx.SaveSecret(ctx, &secrets[i])
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		done := errors.New("all seen")
		seen, last := map[string]int64{}, start
		err := db.WatchChanges(ctx, start, func(changes []rotation.Change) error {
			for _, c := range changes {
				if c.Seq != last+1 {
					t.Errorf("after %d came %d", last, c.Seq)
				}
				last = c.Seq
				if c.Generation != seen[c.ID]+1 {
					t.Errorf("%s went from generation %d to %d", c.Secret, seen[c.ID], c.Generation)
				}
				seen[c.ID] = c.Generation
			}
			if last == start+writers*each {
				return done
			}
			return nil
		})
		writing.Wait()
		if !errors.Is(err, done) {
			t.Error(err)
		}
	})
}

// The commits of another node are seen too.
func TestWatchChangesOfAnotherNode(t *testing.T) {
	cfg := postgresConfig(t)
	here, there := open(t, cfg), open(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen := make(chan rotation.Change, 1)
	watching := make(chan error, 1)
	done := errors.New("seen")
	go func() {
		watching <- here.WatchChanges(ctx, 0, func(changes []rotation.Change) error {
			seen <- changes[0]
			return done
		})
	}()
	s := addSecret(t, there, "a")
	if err := <-watching; !errors.Is(err, done) {
		t.Fatal(err)
	}
	if c := <-seen; c.ID != s.ID {
		t.Errorf("saw %+v", c)
	}
}

func TestWatchChangesEnds(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		watching := make(chan error, 1)
		go func() { watching <- db.WatchChanges(ctx, 0, func([]rotation.Change) error { return nil }) }()
		cancel()
		if err := <-watching; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
