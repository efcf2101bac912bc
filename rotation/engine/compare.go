package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Standing is how a vault and the store stand to each other over one secret.
type Standing struct {
	Backend string
	Current int           // the store's current version, 0 = none
	Held    int           // the version of ours that the vault holds as current, 0 = none of ours
	Holds   bool          // the vault holds something
	Note    backends.Note // what the broker noted at its last write, zero where there is none
	Noted   bool          // and it is about what the vault holds
}

// InStep tells whether the vault holds what the store says.
func (s Standing) InStep() bool { return s.Held == s.Current && s.Holds == (s.Current > 0) }

// Compare asks the vault of a secret what it holds. It reads the value there, since
// after a restored backup a vault's own numbers may mean something else. An error is
// about the vault, or our access to it.
func (e *Engine) Compare(ctx context.Context, secretID string) (Standing, error) {
	var s rotation.Secret
	var current *rotation.Version
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		if s, err = tx.Secret(ctx, secretID); err != nil || s.Current == 0 {
			return err
		}
		v, err := tx.Version(ctx, secretID, s.Current)
		current = &v
		return err
	})
	if err != nil {
		return Standing{}, fmt.Errorf("comparing with the vault: %w", err)
	}
	at := Standing{Backend: s.Definition.Backend, Current: s.Current}
	if current != nil {
		at.Backend = current.Backend
	}
	m, err := e.backend(at.Backend)
	if err != nil {
		return at, err
	}
	held, err := e.heldVersion(ctx, m, s)
	switch {
	case notFound(err):
		return at, nil
	case errors.Is(err, errOutOfStep):
	case err != nil:
		return at, err
	}
	at.Held, at.Holds = held.Number, true
	d, err := m.Describe(ctx, s.Ref)
	if backends.Retryable(err) {
		return at, err
	}
	if err == nil { // who may not describe has no note either
		at.Note, at.Noted = d.Note, d.Note.Of != "" && d.Note.Of == d.Current
	}
	return at, nil
}
