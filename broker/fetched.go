package broker

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

const (
	// noteEvery is how often it is kept that a consumer reads on.
	noteEvery = time.Minute
	// noteAgain is how long what could not be kept is left alone, and noteWithin how long
	// a read may wait for that: reads go on without.
	noteAgain  = time.Second
	noteWithin = 2 * time.Second
	// keptReads is how many readers are remembered; one that is not is written once more.
	keptReads = 100_000
)

// reads is what this process knows to be kept of consumers' reads, so that all but the
// first, and one a minute, cost no more than a look into it. It is safe for concurrent use.
type reads struct {
	known *lru.Cache[readKey, time.Time] // before which nothing is written
}

// readKey is of what a consumer reads. A version may become current more than once, each
// time as another generation.
type readKey struct {
	secretID, consumer string
	version            int
	generation         int64
}

func newReads() reads {
	known, _ := lru.New[readKey, time.Time](keptReads) // fails for a size that is not positive
	return reads{known}
}

// noteRead keeps that p has been given version v of s, for the consumers that read as p's
// role: what was delivered to them counts as fetched. The read does not fail with it.
func (b *Broker) noteRead(ctx context.Context, p authn.Principal, s rotation.Secret, v rotation.Version) {
	if p.Role == "" {
		return
	}
	consumers := b.rulesOf(p).Consumers
	for _, name := range s.Definition.Consumers {
		if k := consumers[name]; k.reads(p) && k.Tenant == s.Ref.Tenant {
			b.noteReadOf(ctx, readKey{s.ID, name, v.Number, s.Generation}, s)
		}
	}
}

func (b *Broker) noteReadOf(ctx context.Context, key readKey, s rotation.Secret) {
	at := b.Now()
	if again, _ := b.reads.known.Get(key); at.Before(again) {
		return
	}
	b.reads.known.Add(key, at.Add(noteEvery)) // whoever reads at the same time has no need to
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteWithin)
	defer cancel()
	err := b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
		if err := tx.NoteRead(ctx, key.secretID, key.consumer, key.version, at); err != nil {
			return err
		}
		return b.Engine.Fetched(ctx, tx, key.secretID, key.consumer, key.version)
	})
	if err != nil {
		b.reads.known.Add(key, at.Add(noteAgain))
		b.Logger.Warn("what a consumer has read cannot be kept; it is tried again with its next read", "consumer", key.consumer, "secret", s.Ref, "version", key.version, "error", err)
	}
}
