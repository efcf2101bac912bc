package authn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
)

// alertBreakGlass is the kind of alert that each use of a break-glass token raises, as
// package alert has it.
const alertBreakGlass = "break_glass"

// touchEvery is how exactly the last use of a token is known.
const touchEvery = time.Minute

// byToken returns who holds a token, or why it is refused.
func (c *Callers) byToken(ctx context.Context, shown Credentials, rules *Rules) (Principal, *refusal, error) {
	if !WellFormed(shown.Token) {
		return Principal{}, &refusal{why: "no token of ours"}, nil
	}
	var rec store.Token
	err := c.db.ViewOne(ctx, func(tx *store.Tx) (err error) {
		rec, err = tx.TokenByHash(ctx, c.hash(shown.Token))
		return err
	})
	if errors.Is(err, backends.ErrNotFound) {
		return Principal{}, &refusal{why: "unknown token"}, nil
	}
	if err != nil {
		return Principal{}, nil, err
	}
	l := line{tokens: []store.Token{rec}}
	if rec.Parent != "" {
		if err := c.db.View(ctx, func(tx *store.Tx) (err error) { l, err = lineOf(ctx, tx, rec); return err }); err != nil {
			return Principal{}, nil, err
		}
	}
	refused := &refusal{actor: rec.ID, tenant: rec.Tenant, method: methodOf(rec)}
	now := c.now()
	holders, state := l.stand(rules, now)
	switch {
	case state != StateActive:
		refused.why = whys[state]
	case rec.Uses > 0 && rec.UsesLeft == 0:
		refused.why = whys[StateUsedUp]
	case !l.admits(rules, shown.Address):
		refused.why = "the token is bound to other addresses"
	}
	if refused.why != "" {
		return Principal{}, refused, nil
	}
	used, err := c.use(ctx, l, shown, now)
	if err != nil {
		return Principal{}, nil, err
	}
	if !used {
		refused.why = whys[StateUsedUp]
		return Principal{}, refused, nil
	}
	return l.principal(holders, rules, shown), nil, nil
}

// use records that a token is used: false if it has no use left. That it is not known
// when it was used last keeps nobody out.
func (c *Callers) use(ctx context.Context, l line, shown Credentials, now time.Time) (used bool, err error) {
	rec := l.tokens[0]
	if rec.Uses == 0 && rec.Kind != store.TokenBreakGlass {
		if err := c.touch(ctx, l, now); err != nil && ctx.Err() == nil {
			c.logger.Warn("the use of a token cannot be recorded; unless that ends, it will count as unused", "token", rec.ID, "error", err)
		}
		return true, nil
	}
	err = c.db.Update(ctx, func(tx *store.Tx) error {
		if used = true; rec.Uses > 0 {
			if used, err = tx.SpendToken(ctx, rec.ID); err != nil || !used {
				return err
			}
		}
		if err := l.touch(ctx, tx, now); err != nil || rec.Kind != store.TokenBreakGlass {
			return err
		}
		return tx.RaiseAlert(ctx, store.Raise{Kind: alertBreakGlass, Tenant: rec.Tenant, Subject: rec.ID,
			Text: fmt.Sprintf("the break-glass token %s (%q) is in use, from %s", rec.ID, rec.Name, shown.Address),
			Next: "keybroker token revoke " + rec.ID})
	})
	return used, err
}

// touch records that a token was used, where that is not known exactly enough.
func (c *Callers) touch(ctx context.Context, l line, now time.Time) error {
	if len(l.stale(now)) == 0 {
		return nil
	}
	return c.db.Update(ctx, func(tx *store.Tx) error { return l.touch(ctx, tx, now) })
}

func (l line) touch(ctx context.Context, tx *store.Tx, now time.Time) error {
	for _, id := range l.stale(now) {
		if err := tx.TouchToken(ctx, id, now); err != nil {
			return err
		}
	}
	return nil
}

// valid tells whether the token that p was authenticated by is still accepted from
// where p is. It counts as a use, but takes none from a token that has a number of them.
func (c *Callers) valid(ctx context.Context, p Principal, rules *Rules) (bool, error) {
	var l line
	err := c.db.View(ctx, func(tx *store.Tx) error {
		rec, err := tx.Token(ctx, p.ID)
		if err == nil {
			l, err = lineOf(ctx, tx, rec)
		}
		return err
	})
	if errors.Is(err, backends.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now := c.now()
	if _, state := l.stand(rules, now); state != StateActive || !l.admits(rules, p.Address) {
		return false, nil
	}
	if err := c.touch(ctx, l, now); err != nil && ctx.Err() == nil {
		c.logger.Warn("the use of a token cannot be recorded", "token", p.ID, "error", err)
	}
	return true, nil
}
