package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// Consumer is what one configuration says of a consumer.
type Consumer struct {
	Name, Tenant string
	Role         string // that it reads and acknowledges as; empty: none
	Inbox        bool   // it collects its messages
	Payload      string // as in client.Consumer
	Endpoint     string // "https://shop.example": where it is called, without path and query
	Events       []rotation.Event
	Instances    int
	Concurrency  int
	Signature    string // as in client.Consumer
}

// Signing has the keys that consumers' messages are signed with. The secret ones do not
// leave it, but for what Rotate says.
type Signing interface {
	// Keys returns those that sign for a consumer, the newest first.
	Keys(ctx context.Context, consumer string) ([]client.SigningKey, error)
	// Rotate makes a new one; those of before sign beside it for the overlap. ErrInvalid
	// if the key is in the configuration, ErrConflict if too many would sign.
	Rotate(ctx context.Context, consumer string, overlap time.Duration) (client.SigningRotation, error)
}

// consumersPath is where consumers are for policies, each below it by its name.
const consumersPath = "sys/consumers/"

// defaultSigningOverlap is for how long a signing key of before signs beside a new one;
// maxSigningOverlap is the longest that can be asked for, which is as long as the keys of
// a consumer are kept that is taken out of the configuration.
const (
	defaultSigningOverlap = 24 * time.Hour
	maxSigningOverlap     = 30 * 24 * time.Hour
)

// consumer finds one that p reaches: another tenant's is not there.
func (b *Broker) consumer(p authn.Principal, name string) (Consumer, error) {
	c, ok := b.rulesOf(p).Consumers[name]
	if !ok || p.Tenant != "" && c.Tenant != p.Tenant {
		return Consumer{}, notThere("consumer", name)
	}
	return c, nil
}

// seesConsumer tells whether p may know of a consumer of a tenant.
func (b *Broker) seesConsumer(p authn.Principal, tenant, name string) bool {
	if p.Tenant != "" && p.Tenant != tenant {
		return false
	}
	_, err := b.seeing(p, request{path: consumersPath + name})
	return err == nil
}

// seeing decides whether p may list or, if not, read what r is about.
func (b *Broker) seeing(p authn.Principal, r request) (decided, error) {
	d, denied := b.decide(p, r, policy.List)
	if denied != nil {
		d, denied = b.decide(p, r, policy.Read)
	}
	return d, denied
}

// onConsumer authorises p for capability c on a consumer and runs act with it.
func (b *Broker) onConsumer(ctx context.Context, p authn.Principal, c policy.Capability, action, name string, detail map[string]string, act func(Consumer) (map[string]string, error)) error {
	r := request{action: action, path: consumersPath + name, detail: map[string]string{"consumer": name}}
	maps.Copy(r.detail, detail)
	return b.doSensitive(ctx, p, []policy.Capability{c}, r, func() (map[string]string, error) {
		found, err := b.consumer(p, name)
		if err != nil {
			return nil, err
		}
		return act(found)
	})
}

// Consumers lists the consumers that p may list or read.
func (b *Broker) Consumers(ctx context.Context, p authn.Principal) (client.List[client.Consumer], error) {
	out := client.List[client.Consumer]{Items: []client.Consumer{}}
	all := b.rulesOf(p).Consumers
	err := b.serve(ctx, p, request{action: "consumer.list", path: consumersPath}, itemwise, func() (map[string]string, error) {
		standing, err := b.standing(ctx)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if c := all[name]; b.seesConsumer(p, c.Tenant, name) {
				out.Items = append(out.Items, standing.view(c))
			}
		}
		return nil, nil
	})
	return out, err
}

// Consumer shows a consumer with its signing keys, the secret ones aside, and its last
// delivery, if p may see what that is about.
func (b *Broker) Consumer(ctx context.Context, p authn.Principal, name string) (out client.Consumer, err error) {
	r := request{action: "consumer.show", path: consumersPath + name, detail: map[string]string{"consumer": name}}
	d, denied := b.seeing(p, r)
	if denied != nil {
		return out, b.refuse(ctx, p, r, d, denied)
	}
	err = b.serve(ctx, p, r, d, func() (map[string]string, error) {
		c, err := b.consumer(p, name)
		if err == nil {
			out, err = b.shownConsumer(ctx, p, c)
		}
		return nil, err
	})
	return out, err
}

func (b *Broker) shownConsumer(ctx context.Context, p authn.Principal, c Consumer) (out client.Consumer, err error) {
	standing, err := b.standing(ctx)
	if err != nil {
		return out, err
	}
	out = standing.view(c)
	if out.SigningKeys, err = b.Signing.Keys(ctx, c.Name); err != nil {
		return client.Consumer{}, err
	}
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		last, _, err := tx.DeliveriesPage(ctx, store.DeliveryFilter{Tenant: c.Tenant, Consumer: c.Name}, store.Page{Limit: 1})
		if err != nil || len(last) == 0 {
			return err
		}
		sees, err := b.deliverySight(p)(ctx, tx)(last[0])
		if err == nil && sees {
			v := viewDelivery(standing.of(last[0]), nil)
			out.LastDelivery = &v
		}
		return err
	})
	return out, err
}

// hindrances are what keeps consumers from being told.
type hindrances struct {
	kept     map[string]rotation.ConsumerState // in quarantine
	disabled map[string]rotation.ConsumerState
	down     map[string]engine.ConsumerDown // as this node sees it
}

func (b *Broker) hindrances(ctx context.Context, tx *store.Tx) (hindrances, error) {
	h := hindrances{kept: map[string]rotation.ConsumerState{}, disabled: map[string]rotation.ConsumerState{}, down: b.Engine.ConsumersDown()}
	states, err := tx.ConsumerStates(ctx)
	for _, one := range states {
		if !one.QuarantinedAt.IsZero() {
			h.kept[one.Name] = one
		}
		if b.Engine.Disabled(one) { // where it is told now
			h.disabled[one.Name] = one
		}
	}
	return h, err
}

// of is a delivery with what keeps it from being made, if it waits: that it has no error
// of its own would look as if it were on its way.
func (h hindrances) of(d rotation.Delivery) rotation.Delivery {
	if d.State != rotation.DeliveryPending {
		return d
	}
	if state, is := h.kept[d.Consumer]; is {
		d.NextAttemptAt = time.Time{}
		d.Error = fmt.Sprintf("%s is in quarantine since %s: `keybroker quarantine lift consumer %s --reason TEXT`", d.Consumer, state.QuarantinedAt.UTC().Format(time.RFC3339), d.Consumer)
	} else if state, is := h.disabled[d.Consumer]; is {
		d.NextAttemptAt = time.Time{}
		d.Error = fmt.Sprintf("%s is disabled since %s (%s): `keybroker consumer enable %s`", d.Consumer, state.DisabledAt.UTC().Format(time.RFC3339), state.Why, d.Consumer)
	} else if until := h.down[d.Consumer].Until; !d.NextAttemptAt.IsZero() && d.NextAttemptAt.Before(until) {
		d.NextAttemptAt = until
	}
	return d
}

// standing is how all consumers are told at the moment.
type standing struct {
	hindrances
	waiting map[string]store.Waiting
}

func (b *Broker) standing(ctx context.Context) (s standing, err error) {
	err = b.Store.View(ctx, func(tx *store.Tx) (err error) {
		s.waiting = map[string]store.Waiting{}
		if s.hindrances, err = b.hindrances(ctx, tx); err != nil {
			return err
		}
		waiting, err := tx.WaitingDeliveries(ctx)
		for _, one := range waiting {
			s.waiting[one.Consumer] = one
		}
		return err
	})
	return s, err
}

func (s standing) view(c Consumer) client.Consumer {
	w, state, down := s.waiting[c.Name], s.disabled[c.Name], s.down[c.Name]
	out := client.Consumer{Name: c.Name, Tenant: c.Tenant, Role: c.Role, Kind: client.ConsumerWebhook, Payload: c.Payload, Endpoint: c.Endpoint,
		Events: []string{}, Instances: max(c.Instances, 1), Concurrency: c.Concurrency, Signature: c.Signature,
		State: client.ConsumerTold, Waiting: w.Count, WaitingSince: utc(w.Since), NextAttemptAt: utc(w.Next)}
	if c.Inbox {
		out.Kind = client.ConsumerInbox
	}
	for _, e := range rotation.Events() {
		if len(c.Events) == 0 || slices.Contains(c.Events, e) || e.MakesCurrent() || e == rotation.EventTest {
			out.Events = append(out.Events, string(e))
		}
	}
	switch kept, is := s.kept[c.Name]; {
	case is:
		out.State, out.Detail, out.Since = client.ConsumerKeptOut, "it is in quarantine", utc(kept.QuarantinedAt)
		out.NextAttemptAt = time.Time{}
	case !state.DisabledAt.IsZero():
		out.State, out.Detail, out.Since = client.ConsumerDisabled, state.Why, utc(state.DisabledAt)
	case !down.Since.IsZero():
		out.State, out.Detail, out.Since, out.LeftAloneUntil = client.ConsumerFailing, down.Error, utc(down.Since), utc(down.Until)
	case w.Error != "":
		out.State, out.Detail, out.Since = client.ConsumerFailing, w.Error, utc(w.Since)
	}
	return out
}

// TestConsumer has a consumer told that somebody tries the way to it.
func (b *Broker) TestConsumer(ctx context.Context, p authn.Principal, name string, r client.ConsumerRequest) (out client.Delivery, err error) {
	err = b.onConsumer(ctx, p, policy.Update, "consumer.test", name, map[string]string{"reason": r.Reason}, func(c Consumer) (map[string]string, error) {
		return nil, b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
			d, err := b.Engine.TestConsumer(ctx, tx, c.Tenant, c.Name, asked(p, r.Reason))
			out = viewDelivery(d, nil)
			return err
		})
	})
	return out, err
}

// EnableConsumer has a consumer told again that wanted no more deliveries.
func (b *Broker) EnableConsumer(ctx context.Context, p authn.Principal, name string, r client.ConsumerRequest) (out client.Consumer, err error) {
	err = b.onConsumer(ctx, p, policy.Update, "consumer.enable", name, map[string]string{"reason": r.Reason}, func(c Consumer) (map[string]string, error) {
		err := b.Store.UpdateLatest(ctx, func(tx *store.Tx) error { return b.Engine.EnableConsumer(ctx, tx, c.Name, asked(p, r.Reason)) })
		if err == nil {
			out, err = b.shownConsumer(ctx, p, c)
		}
		return nil, err
	})
	return out, err
}

// RotateSigning makes a new key that a consumer's messages are signed with.
func (b *Broker) RotateSigning(ctx context.Context, p authn.Principal, name string, r client.RotateSigningRequest) (out client.SigningRotation, err error) {
	detail := map[string]string{"reason": r.Reason, "overlap": r.Overlap}
	err = b.onConsumer(ctx, p, policy.Update, "consumer.rotate_signing", name, detail, func(c Consumer) (map[string]string, error) {
		overlap, err := signingOverlap(r.Overlap)
		if err != nil {
			return nil, err
		}
		if out, err = b.Signing.Rotate(ctx, c.Name, overlap); err != nil || out.Secret == "" {
			return nil, err
		}
		return map[string]string{"signing_secret": out.Secret.Reveal()}, nil
	})
	return out, err
}

func signingOverlap(text string) (time.Duration, error) {
	if text == "" {
		return defaultSigningOverlap, nil
	}
	d, err := config.ParseDuration(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: the overlap %q is no duration such as 24h or 7d", backends.ErrInvalid, text)
	case d < 0 || d > maxSigningOverlap:
		return 0, fmt.Errorf("%w: the overlap %q is not from 0s to %d days", backends.ErrInvalid, text, maxSigningOverlap/(24*time.Hour))
	}
	return d, nil
}
