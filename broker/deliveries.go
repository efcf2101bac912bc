package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// A delivery belongs to its secret: who sees that sees it. One that tests the way to a
// consumer is of no secret, and belongs to the consumer.

// Deliveries lists deliveries, the newest first.
func (b *Broker) Deliveries(ctx context.Context, p authn.Principal, q client.DeliveryQuery) (client.List[client.Delivery], error) {
	var hindered hindrances
	return listOf(ctx, b, p, "delivery.list", q.Secret, q.Page,
		func(tx *store.Tx, id string, at store.Page) (_ []rotation.Delivery, _ string, err error) {
			if hindered, err = b.hindrances(ctx, tx); err != nil {
				return nil, "", err
			}
			f := store.DeliveryFilter{Tenant: p.Tenant, SecretID: id, Consumer: q.Consumer, State: rotation.DeliveryState(q.State), Event: rotation.Event(q.Event)}
			return tx.DeliveriesPage(ctx, f, at)
		},
		b.deliverySight(p),
		func(_ *store.Tx, d rotation.Delivery) (client.Delivery, error) {
			return viewDelivery(hindered.of(d), nil), nil
		})
}

func (b *Broker) deliverySight(p authn.Principal) sees[rotation.Delivery] {
	ofSecret := bySecret(b, p, func(d rotation.Delivery) backends.Ref { return d.Ref })
	return func(ctx context.Context, tx *store.Tx) func(rotation.Delivery) (bool, error) {
		seen := ofSecret(ctx, tx)
		return func(d rotation.Delivery) (bool, error) {
			if d.SecretID == "" {
				return b.testSight(p, d).sees, nil
			}
			return seen(d)
		}
	}
}

// testSight is what p may know of a delivery that tests a consumer: who is the consumer
// sees it, too, and who may make such tests.
func (b *Broker) testSight(p authn.Principal, d rotation.Delivery) (may sight) {
	if may.reaches = p.Tenant == "" || p.Tenant == d.Ref.Tenant; !may.reaches {
		return may
	}
	var denied error
	of := request{path: consumersPath + d.Consumer}
	if may.by, denied = b.seeing(p, of); denied != nil {
		may.by, denied = b.decide(p, of, policy.Update)
	}
	if may.sees = denied == nil; !may.sees && b.speaksFor(p, d.Consumer) {
		may.sees, may.by = true, itemwise
	}
	return may
}

// speaksFor tells whether p has the role of a consumer, if that has one.
func (b *Broker) speaksFor(p authn.Principal, consumer string) bool {
	role := b.rulesOf(p).Consumers[consumer].Role
	return role != "" && p.Role == role
}

// delivery is one delivery as p sees it; secret is zero where it is of none.
type delivery struct {
	rotation.Delivery
	secret   rotation.Secret
	may      sight
	hindered hindrances
}

// path is what policies are asked about.
func (d delivery) path() string {
	if d.SecretID == "" {
		return consumersPath + d.Consumer
	}
	return d.secret.Ref.Name
}

// delivery looks one up. What p does not reach is missing.
func (b *Broker) delivery(ctx context.Context, p authn.Principal, id string) (d delivery, acks []rotation.Ack, missing error) {
	missing = b.Store.View(ctx, func(tx *store.Tx) (err error) {
		if d.Delivery, err = tx.Delivery(ctx, id); err != nil {
			return err
		}
		if acks, err = tx.Acks(ctx, id); err != nil {
			return err
		}
		if d.hindered, err = b.hindrances(ctx, tx); err != nil {
			return err
		}
		if d.SecretID == "" {
			d.may = b.testSight(p, d.Delivery)
			return nil
		}
		if d.secret, err = tx.Secret(ctx, d.SecretID); err == nil {
			d.may, err = b.sight(ctx, tx, p, d.secret)
		}
		return err
	})
	if errors.Is(missing, backends.ErrNotFound) || missing == nil && !d.may.reaches {
		missing = notThere("delivery", id)
	}
	return d, acks, missing
}

// of is r about a delivery that p reaches.
func (r request) of(d delivery) request {
	if d.SecretID != "" {
		r = r.about(d.secret.Ref.Name, d.secret)
	}
	r.path = d.path()
	return r
}

// Delivery returns one delivery with its acknowledgements.
func (b *Broker) Delivery(ctx context.Context, p authn.Principal, id string) (client.Delivery, error) {
	r := request{action: "delivery.show", path: recordPath["delivery"] + id, detail: map[string]string{"delivery": id}}
	d, acks, missing := b.delivery(ctx, p, id)
	if missing != nil {
		return client.Delivery{}, b.refuse(ctx, p, r, itemwise, missing)
	}
	if r = r.of(d); !d.may.sees {
		return client.Delivery{}, b.unseen(ctx, p, r, "delivery", id)
	}
	if err := b.serve(ctx, p, r, d.may.by, func() (map[string]string, error) { return nil, nil }); err != nil {
		return client.Delivery{}, err
	}
	return viewDelivery(d.hindered.of(d.Delivery), acks), nil
}

// Replay delivers once more what was given up.
func (b *Broker) Replay(ctx context.Context, p authn.Principal, id string, r client.InterventionRequest) (out client.DeliveryIntervention, err error) {
	if d, _, missing := b.delivery(ctx, p, id); missing == nil && d.SecretID == "" && d.may.sees {
		req := request{action: "delivery.replay", detail: interventionDetail(r.Reason, r.DryRun, "delivery", id)}.of(d)
		return out, b.refuse(ctx, p, req, d.may.by, fmt.Errorf("%w: it tells of nothing: `keybroker consumer test %s` makes another one", backends.ErrConflict, d.Consumer))
	}
	err = b.intervene(ctx, p, policy.Rotate, "delivery.replay", onDelivery(id), r, func(tx *store.Tx, _ backends.Ref) error {
		d, will, err := b.Engine.Redeliver(ctx, tx, id, asked(p, r.Reason))
		if err != nil {
			return err
		}
		out.Delivery = viewDelivery(d, nil)
		out.Foretold, err = foretold(r, will)
		return err
	})
	return out, err
}

// Acknowledge records what an instance of a consumer says of a delivery. Where the consumer
// has a role, nobody acknowledges for it but who has that role, and who sees the secret
// with it needs no more; else it takes the capability update. Who may neither do that
// nor see the secret is told that there is no such delivery.
func (b *Broker) Acknowledge(ctx context.Context, p authn.Principal, id string, r client.AcknowledgeRequest) (out client.Delivery, err error) {
	req := request{action: "delivery.acknowledge", path: recordPath["delivery"] + id,
		detail: map[string]string{"delivery": id, "status": r.Status, "generation": fmt.Sprint(r.Generation), "instance": r.Instance}}
	d, _, missing := b.delivery(ctx, p, id)
	if missing != nil { // nobody needs a permission to be told
		return out, b.refuse(ctx, p, req, itemwise, missing)
	}
	req = req.of(d)
	if !d.may.sees && !b.allows(p, req.path, d.secret, policy.Update) {
		return out, b.unseen(ctx, p, req, "delivery", id)
	}
	acknowledge := func() error {
		claim, err := claimOf(d.Delivery, r)
		if err == nil {
			_, err = b.Engine.Acknowledge(ctx, id, claim, asked(p, ""))
		}
		if err != nil {
			return err
		}
		now, acks, err := b.delivery(ctx, p, id)
		out = viewDelivery(now.Delivery, acks)
		return err
	}
	switch role := b.rulesOf(p).Consumers[d.Consumer].Role; {
	case role == "":
		err = b.do(ctx, p, policy.Update, req, acknowledge)
	case d.may.sees && p.Role == role:
		err = b.serve(ctx, p, req, decided{capability: policy.Update, Decision: d.may.by.Decision}, func() (map[string]string, error) { return nil, acknowledge() })
	default:
		err = b.refuse(ctx, p, req, decided{capability: policy.Update}, fmt.Errorf("%w: only the role of this consumer acknowledges for it", backends.ErrDenied))
	}
	return out, err
}

var errInstance = fmt.Errorf("%w: the name of an instance has at most %d bytes of UTF-8 and no control characters", backends.ErrInvalid, rotation.MaxInstance)

// claimOf reads what is said of a delivery; ErrInvalid if it is malformed.
func claimOf(d rotation.Delivery, r client.AcknowledgeRequest) (engine.Claim, error) {
	c := engine.Claim{Applied: r.Status != client.AckReceived, Generation: r.Generation, Instance: r.Instance, Fingerprint: r.Fingerprint}
	refuse := func(format string, args ...any) (engine.Claim, error) {
		return engine.Claim{}, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...)
	}
	switch {
	case r.Status != "" && r.Status != client.AckApplied && r.Status != client.AckReceived:
		return refuse("the status is neither %s nor %s", client.AckApplied, client.AckReceived)
	case d.SecretID != "" && r.Generation <= 0:
		return refuse("the generation is missing that the acknowledgement speaks of")
	case !rotation.ValidInstance(r.Instance):
		return engine.Claim{}, errInstance
	case !c.Applied || !d.Event.MakesCurrent():
		return c, nil
	case r.Fingerprint == "":
		return refuse("the fingerprint is missing, by which a consumer shows that it has the credential")
	}
	if mac, err := hex.DecodeString(r.Fingerprint); err != nil || len(mac) != 32 {
		return refuse("the fingerprint is not HMAC-SHA-256 in 64 hexadecimal digits")
	}
	return c, nil
}

func viewDelivery(d rotation.Delivery, acks []rotation.Ack) client.Delivery {
	out := client.Delivery{ID: d.ID, Consumer: d.Consumer, Secret: d.Ref.Name, Tenant: d.Ref.Tenant, Version: d.Version, Generation: d.Generation,
		Event: string(d.Event), Trigger: string(d.Trigger), Reason: d.Reason, State: string(d.State), Instances: max(d.Instances, 1), Attempts: d.Attempts,
		Error: d.Error, DueAt: utc(d.DueAt), CreatedAt: utc(d.CreatedAt), ReceivedAt: utc(d.ReceivedAt), FetchedAt: utc(d.FetchedAt), AppliedAt: utc(d.AppliedAt)}
	if d.State == rotation.DeliveryPending {
		out.NextAttemptAt = utc(d.NextAttemptAt)
	}
	for _, a := range acks {
		status := client.AckReceived
		if a.Applied {
			status = client.AckApplied
		}
		out.Acks = append(out.Acks, client.Acknowledgement{Instance: a.Instance, Status: status, At: utc(a.At), By: a.By})
	}
	return out
}
