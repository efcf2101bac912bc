package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// orphansEvery is how often versions are looked for that nobody brings to an end.
const orphansEvery = 10 * time.Minute

// SweepOrphans retires pending versions whose rotation has ended or has moved on
// to another one, without their having been retired with it: whatever the reason,
// their credentials may be alive (rule 7). It tells how many there were.
func (e *Engine) SweepOrphans(ctx context.Context) (int, error) {
	var left []rotation.Version
	err := e.Store.View(ctx, func(tx Tx) (err error) {
		left, err = tx.Abandoned(ctx, sweepLimit)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("looking for orphans: %w", err)
	}
	var errs []error // one that cannot be retired keeps none of the others
	for _, v := range left {
		err := e.Store.Update(ctx, func(tx Tx) error {
			s, err := tx.Secret(ctx, v.SecretID)
			if err != nil {
				return err
			}
			return e.discardStuck(ctx, tx, s, v, Asked{By: "keybroker", Reason: "no rotation is working on it any more"})
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("retiring the orphan version %d of %s: %w", v.Number, v.Ref, err))
			continue
		}
		e.Logger.Warn("a pending version that no rotation was working on is retired", "secret", v.Ref, "version", v.Number, "issuer", v.Issuer)
	}
	return len(left) - len(errs), errors.Join(errs...)
}
