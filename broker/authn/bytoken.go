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

const (
	// touchEvery is how exactly the last use of a token is known.
	touchEvery = time.Minute
	// touchWithin is how long a request waits at most for that to be recorded, and
	// touchPause how long nobody tries again once it could not be.
	touchWithin = time.Second
	touchPause  = 10 * time.Second
)

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
	now := c.now()
	p, refused := c.show(l, rules, shown, now)
	if refused == nil && rec.Uses > 0 && rec.UsesLeft == 0 {
		refused = l.refuse(whys[StateUsedUp])
	}
	if refused != nil {
		c.alarm(ctx, rec, shown, refused)
		return Principal{}, refused, nil
	}
	used, err := c.use(ctx, l, shown, now)
	if err != nil {
		return Principal{}, nil, err
	}
	if !used {
		return Principal{}, l.refuse(whys[StateUsedUp]), nil
	}
	return p, nil, nil
}

// show returns who shows a token, or why it is refused: that its role is in quarantine
// before that it was revoked with it.
func (c *Callers) show(l line, rules *Rules, shown Credentials, now time.Time) (Principal, *refusal) {
	if refused := c.bars(l, rules); refused != nil {
		return Principal{}, refused
	}
	return l.show(rules, shown, now)
}

// use records that a token is used: false if it has no use left. That it is not known
// when it was used last keeps nobody out.
func (c *Callers) use(ctx context.Context, l line, shown Credentials, now time.Time) (used bool, err error) {
	rec := l.tokens[0]
	if rec.Uses == 0 && rec.Kind != store.TokenBreakGlass {
		c.touch(ctx, l, now)
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

// alarm raises an alert where a break-glass token is refused: whoever shows it elsewhere,
// or after its end, may have stolen it.
func (c *Callers) alarm(ctx context.Context, rec store.Token, shown Credentials, r *refusal) {
	if rec.Kind != store.TokenBreakGlass {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, touchWithin)
	defer cancel()
	err := c.db.Update(ctx, func(tx *store.Tx) error {
		return tx.RaiseAlert(ctx, store.Raise{Kind: alertBreakGlass, Tenant: rec.Tenant, Subject: rec.ID,
			Text: fmt.Sprintf("the break-glass token %s (%q) was shown, from %s, and refused: %s", rec.ID, rec.Name, shown.Address, r.why),
			Next: "keybroker token revoke " + rec.ID})
	})
	if err != nil {
		c.logger.Error("the alert that a break-glass token was shown cannot be raised", "token", rec.ID, "error", err)
	}
}

// touch records that a token was used, where that is not known exactly enough. Nobody
// waits for it for long, and while it fails it is tried once in a while, by one.
func (c *Callers) touch(ctx context.Context, l line, now time.Time) {
	if len(l.stale(now)) == 0 || now.UnixNano() < c.touchAfter.Load() {
		return
	}
	within, cancel := context.WithTimeout(ctx, touchWithin)
	defer cancel()
	err := c.db.Update(within, func(tx *store.Tx) error { return l.touch(within, tx, now) })
	if err == nil || ctx.Err() != nil {
		return
	}
	if before := c.touchAfter.Swap(now.Add(touchPause).UnixNano()); now.UnixNano() >= before {
		c.logger.Warn("the use of tokens cannot be recorded; unless that ends, they will count as unused", "token", l.tokens[0].ID, "error", err)
	}
}

func (l line) touch(ctx context.Context, tx *store.Tx, now time.Time) error {
	for _, id := range l.stale(now) {
		if err := tx.TouchToken(ctx, id, now); err != nil {
			return err
		}
	}
	return nil
}

// byTokenAgain returns who holds by now the token that p was authenticated by, or why
// it is refused. It counts as a use, but takes none from a token that has a number of
// them.
func (c *Callers) byTokenAgain(ctx context.Context, p Principal, rules *Rules) (Principal, *refusal, error) {
	var l line
	err := c.db.View(ctx, func(tx *store.Tx) error {
		rec, err := tx.Token(ctx, p.ID)
		if err == nil {
			l, err = lineOf(ctx, tx, rec)
		}
		return err
	})
	if errors.Is(err, backends.ErrNotFound) {
		return Principal{}, &refusal{actor: p.ID, tenant: p.Tenant, method: p.Method, why: "unknown token"}, nil
	}
	if err != nil {
		return Principal{}, nil, err
	}
	now := c.now()
	again, refused := c.show(l, rules, Credentials{Address: p.Address, Request: p.Request}, now)
	if refused != nil {
		return Principal{}, refused, nil
	}
	c.touch(ctx, l, now)
	return again, nil, nil
}
