package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const (
	// methodTrigger is the method of events that prove by themselves who sends them.
	methodTrigger = "trigger"
	// keptNames is how many of the names in an event are kept.
	keptNames = 100
	// mostEvents is how many events one request may carry.
	mostEvents = 500
)

// taken is an event that is recorded.
type taken struct {
	store.Event
	repeated bool
	known    bool  // a value or handle in it is of a secret, or was
	refusal  error // why nothing was begun for a secret
}

// Take records events of a trigger, which has found them to be genuine, and acts on
// them. An error tells that some are not recorded: they are to be sent again.
func (b *Broker) Take(ctx context.Context, trigger string, from netip.Addr, events []inbound.Event) error {
	t, known := b.triggers()[trigger]
	if !known {
		return notConfigured(trigger)
	}
	_, err := b.takeAll(ctx, trigger, t, from, events)
	return err
}

func notConfigured(trigger string) error {
	return fmt.Errorf("%w: there is no trigger %q in the configuration", backends.ErrNotFound, trigger)
}

// cleaned is an event as it is kept: what stands in its values is as secret as these are.
func cleaned(in inbound.Event) inbound.Event {
	clean := in.Clean()
	for _, v := range clean.Values {
		for _, form := range candidates(v.Reveal()) {
			in.Values = append(in.Values, backends.SecretString(form))
		}
	}
	masked := in.Clean()
	clean.Reason, clean.Source, clean.URL = masked.Reason, masked.Source, masked.URL
	return clean
}

func (b *Broker) takeAll(ctx context.Context, trigger string, t Trigger, from netip.Addr, events []inbound.Event) ([]taken, error) {
	if len(events) > mostEvents {
		return nil, fmt.Errorf("%w: %d events came at once, at most %d are taken", backends.ErrInvalid, len(events), mostEvents)
	}
	if err := b.sensed.admit(trigger, len(events), b.Now()); err != nil {
		return nil, err
	}
	p := authn.Principal{ID: "trigger/" + trigger, Name: trigger, Tenant: t.Tenant, Method: methodTrigger, Address: from}
	var all []taken
	var later error
	for _, in := range events {
		one, err := b.take(ctx, p, trigger, t, cleaned(in), "")
		switch _, over := errors.AsType[*overrun](err); {
		case over: // it comes again, and the others do not wait for it
			later = err
		case err != nil:
			return nil, err
		}
		all = append(all, one)
	}
	return all, later
}

// take records one event and has the trigger act on it. Whatever happens in between: an
// event that is recorded is finished, at the latest by the sweep.
func (b *Broker) take(ctx context.Context, p authn.Principal, name string, t Trigger, in inbound.Event, key string) (taken, error) {
	ctx = context.WithoutCancel(ctx) // whoever sent it may hang up
	found, err := b.match(ctx, t, in)
	if err != nil {
		return taken{}, err
	}
	out := taken{known: found.known}
	ev := b.recordOf(p, name, t, in, found)
	if key != "" {
		ev.Key = key
	}
	err = b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
		if err := tx.Serialize(ctx, "trigger/"+name); err != nil {
			return err
		}
		var err error
		if in.ID == "" && key == "" { // what says the same later on is another event
			if err := tx.ReleaseEventKey(ctx, name, ev.Key, ev.ReceivedAt.Add(-t.Cooldown)); err != nil {
				return err
			}
		}
		if out.Event, out.repeated, err = tx.AddEvent(ctx, ev); err != nil {
			return err
		}
		if out.repeated && triedAgain(out.Event, ev) {
			return b.takeUp(ctx, tx, t, &out.Event, ev)
		}
		switch {
		case out.repeated || out.Outcome == client.OutcomeReceiving:
			return nil
		case out.Outcome == client.OutcomeUnresolved:
			if err := b.tellUnresolved(ctx, tx, t, out.Event); err != nil {
				return err
			}
		}
		return b.auditEvent(ctx, tx, out.Event)
	})
	if err != nil {
		return taken{}, fmt.Errorf("recording an event of trigger %s: %w", name, err)
	}
	if out.Outcome == client.OutcomeReceiving {
		out.repeated = false
		out.Event, out.refusal, err = b.finish(ctx, out.Event.ID)
	}
	return out, err
}

// recordOf is what is kept of an event.
func (b *Broker) recordOf(p authn.Principal, name string, t Trigger, in inbound.Event, found found) store.Event {
	ev := store.Event{ID: "evt_" + uuid.Must(uuid.NewV7()).String(), Trigger: name, EventID: in.ID, Key: in.ID, Tenant: t.Tenant, Emergency: t.Emergency,
		ReceivedAt: b.Now(), At: in.At, Reason: cut(t.reasonOf(name, in)), Source: in.Source, URL: in.URL, Names: namesIn(in),
		Labels: in.Labels, Values: len(in.Values), Handles: len(in.Handles), Hashes: b.hashesOf(in), Matches: found.matches, Outcome: client.OutcomeReceiving,
		Actor: p.ID, Lineage: p.Lineage, Role: p.Role, Method: p.Method, Identity: p.Identity}
	if p.Address.IsValid() {
		ev.Address = p.Address.String()
	}
	if ev.Tenant == "" {
		ev.Tenant = p.Tenant
	}
	if ev.Key == "" { // it is what it says
		ev.Key = b.contentOf(in)
		ev.EventID = ev.Key
	}
	switch {
	case in.Test:
		ev.Outcome = client.OutcomeTest
	case in.Missing != nil:
		ev.Outcome, ev.Missing, ev.Error = client.OutcomeUnresolved, in.Missing.Ask, cut(in.Missing.Why)
		ev.RetryAt, ev.RetryUntil = ev.ReceivedAt.Add(firstResolve), ev.ReceivedAt.Add(resolvedFor)
	case len(found.matches) == 0:
		ev.Outcome = client.OutcomeNothingMatched
	}
	return ev
}

// namesIn are the names in an event that are kept, as people write them.
func namesIn(in inbound.Event) []string {
	var names []string
	for _, name := range in.Secrets[:min(len(in.Secrets), keptNames)] {
		names = append(names, strings.TrimPrefix(name, backends.DefaultTenant+":"))
	}
	return names
}

// qualified names a secret so that no other one is meant.
func qualified(ref backends.Ref) string {
	return cmp.Or(ref.Tenant, backends.DefaultTenant) + ":" + ref.Name
}

// contentOf stands for an event without an id: keyed, for it has values.
func (b *Broker) contentOf(in inbound.Event) string {
	values := make([]string, len(in.Values))
	for i, v := range in.Values {
		values[i] = v.Reveal()
	}
	text, _ := json.Marshal([]any{in.Secrets, values, in.Handles, in.Labels, in.Source, in.URL, in.At}) // nothing in it can fail
	return b.Engine.Fingerprint("", "event "+string(text))
}

// hashesOf are keyed hashes of the values of an event, the first ten: by them the audit
// log tells what it was about.
func (b *Broker) hashesOf(in inbound.Event) map[string]string {
	hashes := map[string]string{}
	for i, v := range in.Values[:min(len(in.Values), 10)] {
		hashes["value."+strconv.Itoa(i+1)] = b.Audit.Hash(v.Reveal())
	}
	return hashes
}

// auditEvent commits with tx what came of an event. Of what came to nothing only so much
// is told one by one: see sensed.
func (b *Broker) auditEvent(ctx context.Context, tx *store.Tx, ev store.Event) error {
	outcome := outcomeOK
	if ev.Outcome == client.OutcomeRefused {
		outcome = outcomeFailed
	}
	if ev.Outcome != client.OutcomeActed && !b.sensed.apart(ev.Trigger, b.Now()) {
		return nil
	}
	detail := map[string]string{"trigger": ev.Trigger, "event": ev.ID, "event_id": cut(ev.EventID), "outcome": ev.Outcome, "reason": cut(ev.Reason), "matches": strconv.Itoa(len(ev.Matches))}
	if ev.IncidentID != "" {
		detail["incident"] = ev.IncidentID
	}
	for i, m := range ev.Matches[:min(len(ev.Matches), 10)] {
		detail["match."+strconv.Itoa(i+1)] = fmt.Sprintf("%s %s", m.Ref, m.Outcome)
	}
	return tx.AddAudit(ctx, rotation.AuditEvent{At: b.Now(), Tenant: ev.Tenant, Actor: ev.Actor, Role: ev.Role, Method: ev.Method, Identity: ev.Identity, Address: ev.Address,
		Action: "event.taken", Path: eventsPath + "/" + ev.Trigger, Outcome: outcome, Detail: detail, Hashes: ev.Hashes})
}

// Event lets a configured trigger act on the secret that p names. One with an id that
// came before for that secret starts nothing: the answer is what it began then.
func (b *Broker) Event(ctx context.Context, p authn.Principal, trigger string, r client.EventRequest) (out client.Rotation, err error) {
	found, req, missing := b.resolve(ctx, p, r.Secret, request{action: "event.receive", path: eventsPath + "/" + trigger,
		detail: map[string]string{"event": r.ID, "reason": r.Reason}})
	t, known := b.rulesOf(p).Triggers[trigger]
	if p.Tenant != "" && t.Tenant != "" && t.Tenant != p.Tenant {
		t, known = Trigger{}, false // another tenant's is not there
	}
	act := func() error {
		switch {
		case r.ID == "" || r.Secret == "" || r.Reason == "":
			return fmt.Errorf("%w: an event needs an id, a secret and a reason", backends.ErrInvalid)
		case !known:
			return notConfigured(trigger)
		case !t.Covers(pathOf(r.Secret), found.Definition.Labels):
			return fmt.Errorf("%w: trigger %q does not act on %q", backends.ErrDenied, trigger, r.Secret)
		case missing != nil:
			return missing
		case t.Tenant != "" && t.Tenant != found.Ref.Tenant:
			return notThere("secret", r.Secret)
		}
		if err := b.sensed.admit(trigger, 1, b.Now()); err != nil {
			return err
		}
		// A sender may report one finding for several secrets.
		one, err := b.take(ctx, p, trigger, t, inbound.Event{ID: r.ID, Secrets: []string{qualified(found.Ref)}, Reason: r.Reason}, found.ID+"/"+r.ID)
		if err == nil {
			out, err = b.begunBy(ctx, one, found)
		}
		return err
	}
	d, denied := b.decide(p, req, policy.Create)
	switch {
	case denied != nil:
		return out, b.refuse(ctx, p, req, d, denied)
	case t.Emergency:
		err = b.containing(ctx, p, req, d, act)
	default:
		err = b.serve(ctx, p, req, d, func() (map[string]string, error) { return nil, act() })
	}
	return out, err
}

// begunBy returns the rotation that an event about one secret began, or why there is none.
func (b *Broker) begunBy(ctx context.Context, one taken, s rotation.Secret) (out client.Rotation, err error) {
	if one.refusal != nil {
		return out, one.refusal
	}
	var m store.EventMatch
	if len(one.Matches) > 0 {
		m = one.Matches[0]
	}
	switch {
	case one.Outcome == client.OutcomeHeld:
		return out, fmt.Errorf("%w: trigger %q has acted on as many secrets as it may for now: event %s is held, and acted on by `keybroker event apply %s`", backends.ErrConflict, one.Trigger, one.ID, one.ID)
	case m.RotationID == "":
		return out, fmt.Errorf("%w: event %s has begun no rotation: %s %s", backends.ErrConflict, one.ID, one.Outcome, m.Error)
	}
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		rot, err := tx.Rotation(ctx, m.RotationID)
		if err != nil {
			return err
		}
		steps, err := tx.Steps(ctx, rot.ID)
		out = viewRotation(store.RotationOf{Rotation: rot, Ref: s.Ref}, steps)
		return err
	})
	return out, err
}

// finishEvents goes on with what a node that has died left unfinished.
func (b *Broker) finishEvents(ctx context.Context) error {
	var left []store.Event
	err := b.Store.View(ctx, func(tx *store.Tx) (err error) {
		left, err = tx.UnfinishedEvents(ctx, b.Now().Add(-unfinishedAfter), 100)
		return err
	})
	for _, ev := range left {
		if _, _, one := b.finish(ctx, ev.ID); one != nil {
			err = errors.Join(err, one)
		}
	}
	return err
}

// unfinishedAfter is when nobody is taken to be at an event any more.
const unfinishedAfter = 30 * time.Second
