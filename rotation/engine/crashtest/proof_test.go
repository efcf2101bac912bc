package crashtest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// given notes that a read which began then gave a version; sub is locked.
func (s *site) given(sub *subject, version int, key string, began time.Time) {
	if began.After(sub.readAt[version]) {
		sub.readAt[version] = began
	}
	sub.keyOf[version] = key
	if at, ok := sub.dead[key]; ok && at.Before(began) {
		s.violation("%s: a read gave version %d %s after its key did not work any more", sub.name, version, began.Sub(at))
	}
}

// watch looks at the proofs and, of the internal keys, at one that was seen, while
// everything goes on.
func (s *site) watch(sub *subject, dice *rand.Rand) error {
	if sub.internal {
		sub.mu.Lock()
		key := sub.seen[sub.newest-dice.Int64N(4)].key
		sub.mu.Unlock()
		if key != "" {
			if _, err := s.checkKey(sub, key); err != nil {
				return err
			}
		}
	}
	var secret client.Secret
	err := s.ask(func(ctx context.Context) (err error) {
		secret, err = s.client.Secret(ctx, sub.name)
		return err
	})
	if err == nil {
		s.judge(sub, secret)
	}
	return err
}

// checkKey asks the broker whether an internal key works: none that did not comes
// to life again.
func (s *site) checkKey(sub *subject, key string) (works bool, err error) {
	began := time.Now()
	err = s.ask(func(ctx context.Context) error {
		got, err := s.client.CheckKey(ctx, client.SecretText(key))
		works = got.Active
		return err
	})
	if err != nil {
		return false, err
	}
	sub.mu.Lock()
	defer sub.mu.Unlock()
	at, dead := sub.dead[key]
	switch {
	case !works && !dead:
		sub.dead[key] = time.Now()
	case works && dead && at.Before(began):
		s.violation("%s: a key works %s after it did not", sub.name, began.Sub(at))
	}
	return works, nil
}

// judge compares what the retirements of a secret say with what was seen of its
// versions, and with the witness.
func (s *site) judge(sub *subject, secret client.Secret) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	for _, v := range secret.Versions {
		t := v.Retirement
		if t == nil {
			continue
		}
		at, read := sub.readAt[v.Number]
		for _, off := range []time.Time{t.AcknowledgedAt, t.ContainedAt, t.ProvenAt} {
			if read && !off.IsZero() && at.After(off) {
				s.violation("%s: a read gave version %d %s after it was revoked", sub.name, v.Number, at.Sub(off))
			}
		}
		if key := sub.keyOf[v.Number]; key != "" && !sub.internal {
			s.compare(sub, v.Number, *t, s.keys.holding(key))
		}
	}
}

// checkOrphans compares also the proofs of what was never published, by the
// handles that the broker knows.
func (s *site) checkOrphans(sub *subject) {
	var list client.List[client.Orphan]
	err := s.ask(func(ctx context.Context) (err error) {
		list, err = s.client.Orphans(ctx, client.OrphanQuery{Secret: sub.name, Page: client.Page{Limit: 50}})
		return err
	})
	if err != nil {
		s.violation("%s: listing orphans: %v", sub.name, err)
	}
	sub.mu.Lock()
	defer sub.mu.Unlock()
	for _, o := range list.Items {
		if id := o.Handle["id"]; id != "" {
			s.compare(sub, o.Version, o.Retirement, s.keys.handled(id))
		}
	}
}

// compare looks whether a proof was true when it was given: the key's revocation
// had arrived at the issuer, and there was no time left for which it went on.
// sub is locked.
func (s *site) compare(sub *subject, number int, t client.Retirement, k minted) {
	if t.ContainedAt.IsZero() && t.ProvenAt.IsZero() {
		return
	}
	dead := k.revokedFrom.Add(s.keys.latency)
	what := fmt.Sprintf("%s: version %d (%s)", sub.name, number, t.State)
	switch {
	case k.id == "":
		s.violation("%s is called dead and was never made", what)
	case k.revokedFrom.IsZero():
		s.violation("%s was called dead and is alive at the issuer", what)
	case !t.AlreadyRejected && !t.ContainedAt.IsZero() && t.ContainedAt.Before(k.revokedFrom):
		s.violation("%s was called contained %s before its revocation came to the issuer", what, k.revokedFrom.Sub(t.ContainedAt))
	case !t.ProvenAt.IsZero() && t.ProvenAt.Before(dead):
		s.violation("%s was called proven dead %s before it was", what, dead.Sub(t.ProvenAt))
	}
	if !t.ProvenAt.IsZero() && !sub.proven[number] {
		sub.proven[number] = true
		s.sum.proofs.Add(1)
	}
}
