package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// inStep tells whether the vault can be used and holds the version that the
// broker takes for current, or at least one of ours (rule 21). What a stranger
// wrote, or a broker whose data was lost, is errOutOfStep.
func (e *Engine) inStep(ctx context.Context, s rotation.Secret, current *rotation.Version) error {
	m, err := e.backend(s.Definition.Backend)
	if err != nil {
		return err
	}
	if err := m.Check(ctx); err != nil {
		return err
	}
	held, err := m.Describe(ctx, s.Ref)
	var want backends.VersionID
	if current != nil && current.Backend == s.Definition.Backend {
		want = current.BackendVersion
	}
	switch {
	case backends.Retryable(err):
		return err
	case notFound(err), err == nil && (held.Current == "" || held.Current == want):
		return nil // a vault that lost everything is written anew
	case err != nil:
		return nil //nolint:nilerr // it may be written and not be described: the write is guarded
	}
	switch _, err := e.heldVersion(ctx, m, s); {
	case errors.Is(err, errOutOfStep), backends.Retryable(err):
		return err
	}
	return nil
}

// heldVersion returns which of our versions the vault holds as current:
// errOutOfStep if none.
func (e *Engine) heldVersion(ctx context.Context, m *backends.Mount, s rotation.Secret) (rotation.Version, error) {
	value, id, err := m.Read(ctx, s.Ref, "")
	if errors.Is(err, backends.ErrInvalid) { // not even in the layout: nothing of ours
		d, descErr := m.Describe(ctx, s.Ref)
		if descErr != nil {
			return rotation.Version{}, descErr
		}
		return rotation.Version{BackendVersion: d.Current}, fmt.Errorf("%w: %q holds what is no value of %s: %w", errOutOfStep, m.Name(), s.Ref, err)
	}
	if err != nil {
		return rotation.Version{}, err
	}
	ours, err := e.recognise(ctx, s, value)
	if notFound(err) {
		return rotation.Version{BackendVersion: id}, fmt.Errorf("%w: %q holds a value of %s that was never one of its versions; `keybroker secret repair %s` tells what can be done",
			errOutOfStep, m.Name(), s.Ref, qualified(s.Ref))
	}
	if err != nil {
		return rotation.Version{}, fmt.Errorf("recognising what %q holds of %s: %w", m.Name(), s.Ref, err)
	}
	ours.BackendVersion = id
	return ours, nil
}

// recognise returns the version of the secret that has this value, also one that
// is dead: it may have been written without our hearing of it. ErrNotFound if none.
func (e *Engine) recognise(ctx context.Context, s rotation.Secret, value backends.Value) (ours rotation.Version, err error) {
	err = e.Store.View(ctx, func(tx Tx) (err error) {
		ours, err = tx.VersionWith(ctx, s, e.fingerprints(s.Ref.Tenant, value.Reveal()))
		return err
	})
	return ours, err
}
