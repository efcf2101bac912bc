package crashtest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation"
)

// application returns the consumer of that name.
func (s *site) application(name string) *application {
	if name == inboxConsumer {
		return s.collector.application
	}
	return s.hook.application
}

// untold tells what a consumer of the secret has yet to be told or to apply; empty:
// nothing.
func (s *site) untold(sub *subject, secret client.Secret) string {
	if len(secret.Consumers) == 0 || secret.Generation == 0 {
		return ""
	}
	var pending client.List[client.Delivery]
	err := s.ask(func(ctx context.Context) (err error) {
		pending, err = s.client.Deliveries(ctx, client.DeliveryQuery{Secret: sub.name, State: client.DeliveryPending})
		return err
	})
	if err != nil {
		return "the daemon answers " + err.Error()
	}
	if len(pending.Items) > 0 {
		s.hurry(pending.Items)
		d := pending.Items[0]
		return fmt.Sprintf("%s is to be told of %s of version %d, after %d attempts at %s: %s", d.Consumer, d.Event, d.Version, d.Attempts, d.NextAttemptAt, d.Error)
	}
	for _, name := range secret.Consumers {
		if h := s.application(name).holds(sub.name); h.generation != secret.Generation {
			return fmt.Sprintf("%s uses generation %d of %d", name, h.generation, secret.Generation)
		}
	}
	return ""
}

// hurry does what an operator would once a consumer works again: an attempt that
// failed, or a message that was collected and never acknowledged, puts the next one
// off by seconds or minutes.
func (s *site) hurry(pending []client.Delivery) {
	_ = s.ask(func(ctx context.Context) (err error) { // it is asked again anyway
		for _, d := range pending {
			if time.Until(d.NextAttemptAt).Abs() > time.Second {
				_, replayErr := s.client.Replay(ctx, d.ID, client.InterventionRequest{Reason: "the consumer works again"})
				err = errors.Join(err, replayErr)
			}
		}
		return err
	})
}

// checkTold looks at every delivery since the last check: none is lost, each stands as
// its consumer knows it, and everybody was told of all that happened or of what came
// after it.
func (s *site) checkTold(sub *subject, at settled) {
	made, err := s.deliveriesSince(sub)
	if err != nil {
		s.violation("%s: listing deliveries: %v", sub.name, err)
		return
	}
	told := map[string]bool{} // what each consumer has a delivery of
	for _, d := range made {
		s.sum.delivered(d)
		s.checkDelivery(sub, d, at.secret.Generation)
		if rotation.Event(d.Event).MakesCurrent() {
			once := fmt.Sprint(d.Consumer, " generation ", d.Generation)
			if told[once] {
				s.violation("%s: there are two deliveries of %s", sub.name, once)
			}
			told[once] = true
		} else {
			told[fmt.Sprint(d.Consumer, " ", d.Event, " ", d.Version)] = true
		}
	}
	for _, name := range at.secret.Consumers {
		for generation := sub.told + 1; generation <= at.secret.Generation; generation++ {
			if !told[fmt.Sprint(name, " generation ", generation)] {
				s.violation("%s: %s was never to be told of generation %d", sub.name, name, generation)
			}
		}
		s.checkNotices(sub, at.secret, name, told)
		s.application(name).forget(sub.name, at.secret.Generation)
	}
	for _, v := range at.secret.Versions {
		if provenDead(v) {
			sub.noticed[v.Number] = true
		}
	}
	sub.told = at.secret.Generation
	if len(made) > 0 {
		sub.lastDelivery = made[0].ID
	}
}

// deliveriesSince returns the deliveries that were made since the last check.
func (s *site) deliveriesSince(sub *subject) (list []client.Delivery, err error) {
	err = s.ask(func(ctx context.Context) error {
		for d, err := range client.All(func(after string) (client.List[client.Delivery], error) {
			return s.client.Deliveries(ctx, client.DeliveryQuery{Secret: sub.name, Page: client.Page{Limit: 200, After: after}})
		}) {
			if err != nil || d.ID == sub.lastDelivery {
				return err
			}
			list = append(list, d)
		}
		return nil
	})
	return list, err
}

// checkDelivery compares a delivery that is over with what its consumer answered, in a
// generation of the secret.
func (s *site) checkDelivery(sub *subject, d client.Delivery, generation int64) {
	current := rotation.Event(d.Event).MakesCurrent()
	answered := s.application(d.Consumer).answered(d.ID)
	what := fmt.Sprintf("%s: delivery %s to %s, %s of version %d and generation %d,", sub.name, d.ID, d.Consumer, d.Event, d.Version, d.Generation)
	switch {
	case d.State == client.DeliveryDead && current && d.Generation < generation && strings.Contains(d.Error, "is being revoked"):
		// it is given to nobody any more
	case !slices.Contains([]string{client.DeliveryReceived, client.DeliveryApplied, client.DeliverySuperseded}, d.State):
		s.violation("%s is %s: %s", what, d.State, d.Error)
	case !d.AppliedAt.IsZero() && answered != applied, !d.ReceivedAt.IsZero() && answered == "":
		s.violation("%s counts as %s (received %s, applied %s); the consumer answered %q", what, d.State, d.ReceivedAt, d.AppliedAt, answered)
	}
	if current && d.Generation == generation && d.State != client.DeliveryApplied {
		s.violation("%s is %s at the end: %s", what, d.State, d.Error)
	}
}

func provenDead(v client.Version) bool {
	return v.Retirement != nil && v.Retirement.State == client.ProvenDead && !v.PublishedAt.IsZero()
}

// checkNotices looks whether the consumer was to be told how each version ended that
// was proven dead since the last check.
func (s *site) checkNotices(sub *subject, secret client.Secret, consumer string, told map[string]bool) {
	for _, v := range secret.Versions {
		if !provenDead(v) || sub.noticed[v.Number] {
			continue
		}
		for _, e := range []rotation.Event{rotation.EventRetiring, rotation.EventRetired, rotation.EventProvenDead} {
			if e == rotation.EventRetiring && v.Retirement.Cause == string(rotation.CauseEmergency) {
				continue // consumers were told of the emergency
			}
			if !told[fmt.Sprint(consumer, " ", e, " ", v.Number)] {
				s.violation("%s: %s was never to be told that version %d is %s", sub.name, consumer, v.Number, e)
			}
		}
	}
}
