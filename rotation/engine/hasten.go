package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/rotation"
)

// Reconfigured lets everything look again now that waits for something which a new
// configuration may have mended, an issuer, vault, probe or seal, or may have changed: a
// window, a pair or max_concurrent. Emergencies and what revokes come first.
func (e *Engine) Reconfigured(ctx context.Context) error {
	var errs []error
	for _, why := range []string{rotation.WaitIssuer, rotation.WaitBackend, rotation.WaitProbe, rotation.WaitSeal,
		rotation.WaitWindow, rotation.WaitPair, rotation.WaitConcurrency} {
		var held Due
		err := e.Store.View(ctx, func(tx Tx) (err error) {
			held, err = tx.Waiting(ctx, why)
			return err
		})
		if err != nil {
			return fmt.Errorf("looking for what waits for %s: %w", why, err)
		}
		for _, id := range held.Retirements {
			errs = append(errs, e.Store.Update(ctx, func(tx Tx) error { return e.thawRetirement(ctx, tx, id, why) }))
		}
		for _, id := range held.Rotations {
			errs = append(errs, e.Store.Update(ctx, func(tx Tx) error { return e.thaw(ctx, tx, id, why) }))
		}
	}
	for i, err := range errs {
		if isConflict(err) { // somebody is at it
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}
