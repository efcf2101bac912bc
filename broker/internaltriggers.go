package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const (
	// senseEvery is how often it is looked for alerts that start something.
	senseEvery = time.Second
	// finishEvery and sumEvery are how often unfinished events are gone on with, and what
	// was not audited one by one is summed up.
	finishEvery = 10 * time.Second
	sumEvery    = time.Minute
	// countedSecrets is how many secrets' reads are counted; those that are asked for the
	// least are forgotten first.
	countedSecrets = 100_000
	// waitingThresholds is how many crossed thresholds wait at a time; what is beyond is
	// crossed again by the next request.
	waitingThresholds = 1000
)

// sensed is what this process knows of events and of what may become one. It is safe for
// concurrent use.
type sensed struct {
	crossed chan crossing

	mu     sync.Mutex
	rates  map[string]*rate.Limiter // of triggers
	quiet  map[string]*quiet
	counts *lru.Cache[string, *minute] // by secret
}

// minute is what was asked of a secret in one minute of the clock.
type minute struct {
	at            int64 // its number
	reads, denied int
}

// crossing is that more was asked of a secret than a trigger bears.
type crossing struct {
	trigger, what string
	ref           backends.Ref
	minute        int64
	count         int
}

func newSensed() sensed {
	counts, _ := lru.New[string, *minute](countedSecrets) // fails for a size that is not positive
	return sensed{crossed: make(chan crossing, waitingThresholds), rates: map[string]*rate.Limiter{}, quiet: map[string]*quiet{}, counts: counts}
}

// count counts a request for the value of s, and has triggers told whose threshold it
// crosses: the first one beyond it in a minute, and each hundredth after.
func (b *Broker) count(rules *compiled, s rotation.Secret, denied bool) {
	if len(rules.thresholds) == 0 || s.ID == "" {
		return
	}
	now := b.Now().Unix() / 60
	b.sensed.mu.Lock()
	m, ok := b.sensed.counts.Get(s.ID)
	if !ok || m.at != now {
		m = &minute{at: now}
		b.sensed.counts.Add(s.ID, m)
	}
	n, what := &m.reads, "reads"
	if denied {
		n, what = &m.denied, "denied requests"
	}
	*n++
	count := *n
	b.sensed.mu.Unlock()
	for _, name := range rules.thresholds {
		t := rules.Triggers[name]
		limit := t.Reads
		if denied {
			limit = t.Denied
		}
		if limit == 0 || count <= limit || (count-limit-1)%100 != 0 || !t.reaches(s) {
			continue
		}
		select {
		case b.sensed.crossed <- crossing{name, what, s.Ref, now, count}:
		default:
		}
	}
}

// RunTriggers has triggers act on what the broker sees for itself, goes on with events
// that were left unfinished, fetches what events lack, settles those that people have
// decided on, and sums up what was not audited, until ctx ends.
func (b *Broker) RunTriggers(ctx context.Context) {
	tick := time.NewTicker(senseEvery)
	defer tick.Stop()
	defer func() { b.sumUp(context.WithoutCancel(ctx)) }()
	var resolving sync.WaitGroup
	defer resolving.Wait()
	resolving.Go(func() { b.resolveEvents(ctx) })
	var finished, summed time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-b.sensed.crossed:
			b.warnIf(ctx, b.cross(ctx, c))
		case <-tick.C:
			now := b.Now()
			b.warnIf(ctx, b.senseAlerts(ctx))
			b.warnIf(ctx, b.settleEvents(ctx))
			if now.Sub(finished).Abs() >= finishEvery {
				finished = now
				b.warnIf(ctx, b.finishEvents(ctx))
			}
			if now.Sub(summed).Abs() >= sumEvery {
				summed = now
				b.sumUp(ctx)
			}
		}
	}
}

func (b *Broker) warnIf(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		b.Logger.Warn("a trigger could not act; it is tried again", "error", err)
	}
}

// cross makes an event of a threshold that was crossed: one of each secret and minute,
// whatever nodes see it.
func (b *Broker) cross(ctx context.Context, c crossing) error {
	return b.Take(ctx, c.trigger, netip.Addr{}, []inbound.Event{{
		ID:      fmt.Sprintf("threshold/%s/%s/%d", c.what, c.ref, c.minute),
		Secrets: []string{qualified(c.ref)}, Source: "keybroker", At: time.Unix(c.minute*60, 0).UTC(),
		Reason: fmt.Sprintf("%d %s of %s within a minute on one node", c.count, c.what, c.ref),
	}})
}

// senseAlerts makes events of the open alerts that start a trigger, one of each alert.
func (b *Broker) senseAlerts(ctx context.Context) error {
	rules := b.triggers()
	var listening []string
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		if len(rules[name].On) > 0 {
			listening = append(listening, name)
		}
	}
	if len(listening) == 0 {
		return nil
	}
	news := map[string][]inbound.Event{}
	err := b.Store.View(ctx, func(tx *store.Tx) error {
		all, err := tx.UnsettledAlerts(ctx)
		if err != nil {
			return err
		}
		for _, a := range all {
			for _, name := range listening {
				if t := rules[name]; !a.Open() || !slices.Contains(t.On, a.Kind) || t.Tenant != "" && t.Tenant != a.Tenant {
					continue
				}
				_, err := tx.EventOf(ctx, name, alertKey(a))
				if err == nil {
					continue
				}
				if !errors.Is(err, backends.ErrNotFound) {
					return err
				}
				ev, err := eventOfAlert(ctx, tx, a)
				if err != nil {
					return err
				}
				if !rules[name].Emergency { // what is rotated is the current one
					ev.Version = 0
				}
				news[name] = append(news[name], ev)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range listening {
		for some := range slices.Chunk(news[name], mostEvents) {
			err = errors.Join(err, b.Take(ctx, name, netip.Addr{}, some)) // one that has to wait stops no other
		}
	}
	return err
}

func alertKey(a store.Alert) string { return "alert/" + a.ID }

// eventOfAlert says which secret an alert is about.
func eventOfAlert(ctx context.Context, tx *store.Tx, a store.Alert) (inbound.Event, error) {
	ev := inbound.Event{ID: alertKey(a), At: a.OpenedAt, Reason: a.Kind + ": " + a.Text, Source: "keybroker"}
	var secretID string
	var err error
	switch a.Kind {
	case alert.Unconfirmed, alert.Resurrected, alert.Unprovable, alert.RevokeByHand:
		var t rotation.Retirement
		t, err = tx.Retirement(ctx, a.Subject)
		secretID, ev.Version = t.SecretID, t.Version
	case alert.MissingAcknowledgement, alert.ValueWanted, alert.DeadCurrent:
		var r rotation.Rotation
		r, err = tx.Rotation(ctx, a.Subject)
		secretID = r.SecretID
	case alert.Drift, alert.StuckDelivery: // "backend name", "consumer name"
		_, name, _ := strings.Cut(a.Subject, " ")
		ev.Secrets = []string{a.Tenant + ":" + name}
	default:
		ev.Secrets = []string{a.Tenant + ":" + a.Subject}
	}
	if errors.Is(err, backends.ErrNotFound) {
		return ev, nil // it is recorded, and matches nothing
	}
	if err == nil && secretID != "" {
		var s rotation.Secret
		s, err = tx.Secret(ctx, secretID)
		ev.Secrets = []string{qualified(s.Ref)}
	}
	return ev, err
}
