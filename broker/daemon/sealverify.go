package daemon

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
)

// verifyPages is how many pages of values one call opens at most.
const verifyPages = 10

// verify opens the values from a cursor on, as many as one call may take, and at the
// beginning has every seal open every key that the store has. It shows no value.
func (s *sealing) verify(ctx context.Context, after string) (client.SealVerification, error) {
	out := client.SealVerification{Failed: []client.SealedFailure{}}
	if after == "" {
		if err := s.verifySeals(ctx, &out); err != nil {
			return out, err
		}
	}
	page := store.Page{After: after, Limit: 1000}
	for range verifyPages {
		var values []store.SealedValue
		err := s.db.View(ctx, func(tx *store.Tx) (err error) {
			values, page.After, err = tx.SealedValues(ctx, "", page)
			return err
		})
		if err != nil {
			return out, err
		}
		for _, v := range values {
			s.verifyValue(ctx, v, &out)
		}
		if page.After == "" {
			break
		}
	}
	out.Next = page.After
	return out, nil
}

func (s *sealing) verifyValue(ctx context.Context, v store.SealedValue, out *client.SealVerification) {
	plaintext, err := s.ring.Open(ctx, v.Sealed, v.AssociatedData())
	clear(plaintext)
	if err == nil {
		out.Opened++
		return
	}
	out.Failed = append(out.Failed, client.SealedFailure{Table: v.Table, Tenant: v.Ref.Tenant, Name: v.Ref.Name, Version: v.Number,
		Key: seal.KEKOf(v.Sealed), Error: err.Error()})
}

// verifySeals asks every seal now.
func (s *sealing) verifySeals(ctx context.Context, out *client.SealVerification) error {
	s.remake(ctx)
	keys, err := s.stored(ctx)
	if err != nil {
		return err
	}
	for a := range ask(ctx, s.seals(), func(ctx context.Context, by seal.Seal) (struct{}, error) {
		return struct{}{}, opensAll(ctx, by, keys)
	}) {
		s.note(a.seal, a.err)
	}
	out.Seals = s.describeAll(keys)
	return nil
}

// opensAll has a seal open all keys, as it has wrapped them itself.
func opensAll(ctx context.Context, by seal.Seal, keys []store.SealKey) error {
	for _, key := range keys {
		w, wrapped := wrappingOf(key, by.ID())
		if !wrapped {
			return fmt.Errorf("%w: seal %s has not wrapped key %s yet", backends.ErrNotFound, by.ID(), key.ID)
		}
		if _, _, err := unwrapWrapping(ctx, by, key.ID, w); err != nil {
			return err
		}
	}
	return nil
}
