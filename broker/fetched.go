package broker

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

const (
	// noteEvery is how often it is kept that somebody reads on.
	noteEvery = time.Minute
	// noteAgain is how long what could not be kept is left alone, and noteWithin how long
	// a read may wait for that: reads go on without.
	noteAgain  = time.Second
	noteWithin = 2 * time.Second
	// keptReads is how many readers are remembered; one that is not is written once more.
	keptReads = 100_000
)

// reads is what this process knows to be kept of reads, so that all but the first, and one
// a minute, cost no more than a look into it. It is safe for concurrent use.
type reads struct {
	known *lru.Cache[readKey, time.Time] // before which nothing is written

	mu    sync.Mutex
	begun map[readKey]chan struct{} // first reads being written; closed when they are
}

// readKey is who reads what, from where. A version may become current more than once,
// each time as another generation.
type readKey struct {
	secretID   string
	version    int
	generation int64
	who, role  string
	address    netip.Addr
	fetched    bool // it was asked for, and did not come with another version
}

func newReads() *reads {
	known, _ := lru.New[readKey, time.Time](keptReads) // fails for a size that is not positive
	return &reads{known: known, begun: map[readKey]chan struct{}{}}
}

// noteRead keeps that p is given a version of s, before p has it: what a compromise of p
// reaches is to be known whatever happens to this process. Where p asked for it, what was
// delivered to the consumers that read as p's role counts as fetched. The read does not
// fail with it: the audit log has it already.
func (b *Broker) noteRead(ctx context.Context, p authn.Principal, s rotation.Secret, version int, fetched bool) {
	key := readKey{secretID: s.ID, version: version, generation: s.Generation, who: cmp.Or(p.Identity, p.ID), role: p.Role, address: p.Address, fetched: fetched}
	at := b.Now()
	again, known := b.reads.known.Get(key)
	switch {
	case known && at.Before(again):
	case known:
		b.reads.known.Add(key, at.Add(noteEvery)) // whoever reads at the same time has no need to
		b.keepRead(ctx, p, s, key, at)
	default:
		b.firstRead(ctx, p, s, key, at)
	}
}

// firstRead keeps what is not known to be kept: one of those who read at the same time
// does it, and the others wait.
func (b *Broker) firstRead(ctx context.Context, p authn.Principal, s rotation.Secret, key readKey, at time.Time) {
	r := b.reads
	r.mu.Lock()
	if again, known := r.known.Get(key); known && at.Before(again) {
		r.mu.Unlock()
		return
	}
	if done, begun := r.begun[key]; begun {
		r.mu.Unlock()
		<-done // which is within noteWithin
		return
	}
	done := make(chan struct{})
	r.begun[key] = done
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.begun, key)
		r.mu.Unlock()
		close(done)
	}()
	b.keepRead(ctx, p, s, key, at)
}

func (b *Broker) keepRead(ctx context.Context, p authn.Principal, s rotation.Secret, key readKey, at time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteWithin)
	defer cancel()
	var consumers []string
	if key.fetched {
		consumers = b.consumersOf(p, s)
	}
	update := b.Store.Update
	if len(consumers) > 0 {
		update = b.Store.UpdateLatest
	}
	err := update(ctx, func(tx *store.Tx) error {
		err := tx.NoteRead(ctx, store.Read{SecretID: key.secretID, Version: key.version, Who: key.who, Role: key.role, Address: key.address, Actor: p.ID, LastAt: at})
		for _, name := range consumers {
			if err != nil {
				return err
			}
			err = errors.Join(tx.NoteConsumerRead(ctx, key.secretID, name, key.version, at), b.Engine.Fetched(ctx, tx, key.secretID, name, key.version))
		}
		return err
	})
	if err == nil {
		b.reads.known.Add(key, at.Add(noteEvery))
		return
	}
	b.reads.known.Add(key, at.Add(noteAgain))
	b.Logger.Warn("who has read a version cannot be kept: only the audit log tells of it; it is tried again with the next read", "who", key.who, "role", key.role, "secret", s.Ref, "version", key.version, "error", err)
}

// consumersOf are the consumers of s that read as p.
func (b *Broker) consumersOf(p authn.Principal, s rotation.Secret) (names []string) {
	configured := b.rulesOf(p).Consumers
	for _, name := range s.Definition.Consumers {
		if k := configured[name]; k.reads(p) && k.Tenant == s.Ref.Tenant {
			names = append(names, name)
		}
	}
	return names
}
