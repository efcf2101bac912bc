package broker

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/webhook"
)

const (
	// inboxRest is the least time between two looks of one who waits at an inbox, however
	// much is committed.
	inboxRest = 50 * time.Millisecond
	// inboxLookWithin is how long a look may take, which many wait for.
	inboxLookWithin = 10 * time.Second
	// inboxBatch is how many messages a stream takes at once.
	inboxBatch = 10
)

// Inbox hands out what waits for a consumer, in the order of what it tells of, to who has
// its role: to everybody else the consumer is not there. It returns as soon as there is
// something, at most q.Limit messages, and with nothing after q.Wait, or when ctx ends.
// With a limit of 0 it hands out nothing. What is not acknowledged is handed out again.
// ErrDenied if the caller is nobody any more by then.
func (b *Broker) Inbox(ctx context.Context, p authn.Principal, consumer string, q client.InboxQuery) (list client.List[client.InboxItem], err error) {
	list.Items = []client.InboxItem{}
	c, leave, err := b.collector(ctx, p, consumer)
	if err != nil {
		return list, err
	}
	defer leave()
	c.instance = q.Instance
	err = b.serve(ctx, p, inboxRequest(consumer), itemwise, func() (_ map[string]string, err error) {
		if !rotation.ValidInstance(q.Instance) {
			return nil, errInstance
		}
		if q.Limit > 0 {
			var found []client.InboxItem
			found, err = c.next(ctx, q.Limit, time.After(q.Wait))
			list.Items = append(list.Items, found...)
		}
		return nil, err
	})
	if err != nil {
		return client.List[client.InboxItem]{}, err
	}
	return list, nil
}

// FollowInbox is Inbox for an instance that stays: it sends each message as soon as there
// is one. The channel is closed when ctx ends, when it can no longer tell, or when p may
// not collect any more.
func (b *Broker) FollowInbox(ctx context.Context, p authn.Principal, consumer, instance string) (<-chan client.InboxItem, error) {
	c, leave, err := b.collector(ctx, p, consumer)
	if err != nil {
		return nil, err
	}
	c.instance = instance
	err = b.serve(ctx, p, inboxRequest(consumer), itemwise, func() (map[string]string, error) {
		if !rotation.ValidInstance(instance) {
			return nil, errInstance
		}
		return nil, nil
	})
	if err != nil {
		leave()
		return nil, err
	}
	out := make(chan client.InboxItem)
	go func() {
		defer close(out)
		defer leave()
		c.stream(ctx, out)
	}()
	return out, nil
}

// inboxRequest is only that somebody asks: what is handed out has records of its own,
// which are committed with that.
func inboxRequest(consumer string) request {
	return request{action: "consumer.inbox", path: "sys/consumers/" + consumer, detail: map[string]string{"consumer": consumer}}
}

// collector is somebody who waits at an inbox.
type collector struct {
	b        *Broker
	who      authn.Principal
	consumer Consumer
	instance string          // of the consumer; empty: it has only one
	validAt  time.Time       // when who was last looked up
	withheld map[string]bool // deliveries of which it was told that they are not handed out
	nothing  store.Inbox     // in this there was nothing for it
	until    time.Time       // and before this it is not looked through again
}

// collector counts one who waits at an inbox until leave is called.
func (b *Broker) collector(ctx context.Context, p authn.Principal, consumer string) (c *collector, leave func(), err error) {
	k, ok := b.inboxOf(p, consumer)
	if !ok {
		return nil, nil, b.refuse(ctx, p, inboxRequest(consumer), decided{capability: policy.Read}, notThere("consumer", consumer))
	}
	if err := b.collects(k.Name); err != nil {
		return nil, nil, b.refuse(ctx, p, inboxRequest(consumer), decided{capability: policy.Read}, err)
	}
	if leave, err = b.streams.enter(cmp.Or(p.Lineage, p.ID)); err != nil {
		return nil, nil, err
	}
	return &collector{b: b, who: p, consumer: k, validAt: b.Now(), withheld: map[string]bool{}}, leave, nil
}

// inboxOf returns the consumer of a name, if p is who collects for it.
func (b *Broker) inboxOf(p authn.Principal, name string) (Consumer, bool) {
	k, ok := b.rulesOf(p).Consumers[name]
	return k, ok && k.Inbox && k.reads(p) && (p.Tenant == "" || p.Tenant == k.Tenant)
}

// collects refuses a consumer that is in quarantine.
func (b *Broker) collects(consumer string) error {
	if q, is := b.Authn.Quarantined(rotation.KeptConsumer, consumer); is {
		return &authn.KeptOut{Quarantine: q}
	}
	return nil
}

// reads tells whether p has the role that the consumer reads as.
func (k Consumer) reads(p authn.Principal) bool { return k.Role != "" && p.Role == k.Role }

func (c *collector) stream(ctx context.Context, out chan<- client.InboxItem) {
	for {
		items, err := c.next(ctx, inboxBatch, nil)
		if err != nil || len(items) == 0 {
			return
		}
		for _, item := range items {
			select {
			case out <- item:
			case <-ctx.Done():
				return
			}
		}
	}
}

// next waits until there are messages, and takes them: none if ctx or the time ends before.
func (c *collector) next(ctx context.Context, limit int, over <-chan time.Time) ([]client.InboxItem, error) {
	for {
		barred := c.b.Authn.QuarantinesChanged()
		look, looked := c.b.inboxes.look(ctx, c.b), time.Now()
		items, err := c.take(ctx, look, limit)
		switch {
		case ctx.Err() != nil:
			return nil, nil
		case err != nil || len(items) > 0:
			return items, err
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-over:
			return nil, nil
		case <-barred:
			c.validAt = time.Time{}
		case <-time.After(time.Until(look.until)):
		case <-look.changed:
			select {
			case <-time.After(inboxRest - time.Since(looked)):
			case <-ctx.Done():
			}
		}
	}
}

// take collects what the look has shown to be there, for who may still.
func (c *collector) take(ctx context.Context, look *inboxLook, limit int) ([]client.InboxItem, error) {
	if look.err != nil {
		c.b.Logger.Warn("inboxes cannot be looked into", "consumer", c.consumer.Name, "error", look.err)
		return nil, look.err
	}
	inbox, waits := look.waiting[c.consumer.Name]
	waits = waits && (inbox != c.nothing || !time.Now().Before(c.until))
	if err := c.still(ctx, waits); err != nil || !waits {
		return nil, err
	}
	found, err := c.b.Engine.Collect(ctx, c.consumer.Name, limit, engine.Collector{Instance: c.instance, May: c.may, Asked: asked(c.who, "")})
	if len(found) == 0 { // it may not have what is there, has it, or has to wait for others
		c.nothing, c.until = inbox, time.Now().Add(watchPoll)
	}
	if err != nil && len(found) == 0 {
		c.b.Logger.Warn("what waits in an inbox cannot be handed out", "consumer", c.consumer.Name, "error", err)
		return nil, fmt.Errorf("%w: what waits cannot be handed out now", backends.ErrUnavailable)
	}
	var items []client.InboxItem
	for _, f := range found {
		item := client.InboxItem{Delivery: f.Delivery.ID, Headers: map[string]string{}, Body: client.SecretText(f.Body)}
		for name := range f.Header {
			item.Headers[strings.ToLower(name)] = f.Header.Get(name)
		}
		items = append(items, item)
	}
	return items, nil
}

// still returns why who waits may not any more: that lasts longer than tokens and roles
// do. It is looked up now and then, and always before something is handed out.
func (c *collector) still(ctx context.Context, now bool) (err error) {
	fresh := c.b.Now().Sub(c.validAt) < watchAgain && c.b.Authn.RulesOf(c.who) == c.b.Authn.Rules()
	if fresh && !now {
		return nil
	}
	if c.who, err = c.b.Authn.Again(ctx, c.who); err != nil {
		return err
	}
	c.validAt = c.b.Now()
	name, ok := c.consumer.Name, false
	if c.consumer, ok = c.b.inboxOf(c.who, name); !ok {
		return notThere("consumer", name)
	}
	return c.b.collects(name)
}

// may tells whether a message may be given to who collects it: it tells of a secret that
// they see, and has no value that they may not read. A role is no permission by itself,
// and whoever may make its tokens is to get nothing by it that they may not have.
func (c *collector) may(ctx context.Context, d rotation.Delivery) (ok bool, err error) {
	if d.SecretID == "" {
		return true, nil
	}
	var s rotation.Secret
	var seen sight
	err = c.b.Store.View(ctx, func(tx *store.Tx) error {
		if s, err = tx.Secret(ctx, d.SecretID); err == nil {
			seen, err = c.b.sight(ctx, tx, c.who, s)
		}
		return err
	})
	plain := c.consumer.Payload == string(webhook.Plain) && d.Event.MakesCurrent()
	ok = err == nil && seen.sees && (!plain || c.b.allows(c.who, s.Ref.Name, s, policy.Read))
	if err == nil && !ok && !c.withheld[d.ID] {
		c.withheld[d.ID] = true
		c.b.Logger.Warn("a message is not handed out: no policy of the consumer's role allows it what the message is about",
			"consumer", c.consumer.Name, "role", c.who.Role, "secret", d.Ref, "delivery", d.ID)
	}
	return ok, err
}

// inboxes is one look into the store for all who wait at inboxes: they may be many, and
// every commit wakes them all. It is safe for concurrent use.
type inboxes struct {
	mu   sync.Mutex
	last *inboxLook
}

// inboxLook is what waited for whom at one moment.
type inboxLook struct {
	once    sync.Once
	changed <-chan struct{}        // closed by the first commit that it may not show
	until   time.Time              // after that it may not show what other nodes did, and what has come back
	waiting map[string]store.Inbox // by consumer
	err     error
}

// look returns what waits now; err is in it, and may be shared.
func (i *inboxes) look(ctx context.Context, b *Broker) *inboxLook {
	i.mu.Lock()
	l := i.last
	if l == nil || l.over() {
		l = &inboxLook{changed: b.Store.Changed(), until: time.Now().Add(watchPoll)}
		i.last = l
	}
	i.mu.Unlock()
	l.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inboxLookWithin) // others wait for it, too
		defer cancel()
		l.err = b.Store.ViewOne(ctx, func(tx *store.Tx) error {
			found, err := tx.ToCollect(ctx, b.Engine.Now()) // by whose clock it was handed out
			l.waiting = map[string]store.Inbox{}
			for _, i := range found {
				l.waiting[i.Consumer] = i
			}
			return err
		})
		if l.err != nil {
			l.err = fmt.Errorf("looking into inboxes: %w", l.err)
		}
	})
	return l
}

func (l *inboxLook) over() bool {
	select {
	case <-l.changed:
		return true
	default:
		return !time.Now().Before(l.until)
	}
}
