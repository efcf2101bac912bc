package engine

import (
	"context"
	"sync"
)

// together makes transactions that are wanted at the same time one: while one is being
// made, those who come wait, and the first of them makes the next for all. What each of
// them does takes less time than a transaction, and the writer of SQLite one turn instead
// of many. Nobody is told of success before the commit. If any of them fails, it is done
// again with each in a transaction of its own, so that nobody fails for another: a
// function may run more than once, as in Store.Update.
type together struct {
	store Store
	alone bool // each has its own transaction

	mu      sync.Mutex
	busy    bool // somebody makes a transaction
	waiting []*part
}

// togetherMost is how many share one transaction.
const togetherMost = 64

type part struct {
	fn   func(context.Context, Tx) error
	told chan verdict
}

type verdict int

const (
	shared verdict = iota // it is committed
	byOneself
	leads // it makes the next transaction
)

// Update runs fn in a transaction, maybe with others, and under the context of one of them.
func (t *together) Update(ctx context.Context, fn func(context.Context, Tx) error) error {
	by := func() error { return t.store.Update(ctx, func(tx Tx) error { return fn(ctx, tx) }) }
	if t.alone {
		return by()
	}
	p := &part{fn, make(chan verdict, 1)}
	t.mu.Lock()
	if t.busy {
		t.waiting = append(t.waiting, p)
		t.mu.Unlock()
		switch <-p.told {
		case shared:
			return nil
		case byOneself:
			return by()
		}
		t.mu.Lock()
	}
	t.busy = true
	others := t.waiting[:min(len(t.waiting), togetherMost-1)]
	t.waiting = t.waiting[len(others):]
	t.mu.Unlock()
	if len(others) == 0 {
		defer t.next()
		return by()
	}
	if t.lead(ctx, append([]*part{p}, others...)) == nil {
		return nil
	}
	return by()
}

// lead makes one transaction of several, and tells the others what came of it.
func (t *together) lead(ctx context.Context, parts []*part) error {
	came := byOneself
	defer func() { // also after a panic
		t.next()
		for _, p := range parts[1:] {
			p.told <- came
		}
	}()
	err := t.store.Update(ctx, func(tx Tx) error {
		for _, p := range parts {
			if err := p.fn(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		came = shared
	}
	return err
}

// next lets the first who waits make the next transaction.
func (t *together) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.busy, t.waiting = false, nil
		return
	}
	t.waiting[0].told <- leads
	t.waiting = t.waiting[1:]
}
