package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// mostHeld is how many events of a trigger wait for people at a time: who sends more is
// to come back later.
const mostHeld = 1000

// guard is what a trigger may still do. It is read and kept in the transaction that acts,
// one at a time for each trigger on all nodes.
type guard struct {
	t    Trigger
	acts []store.EventAct // within the cooldown
}

func (b *Broker) guardOf(ctx context.Context, tx *store.Tx, name string, t Trigger) (*guard, error) {
	acts, err := tx.EventActs(ctx, name, b.Now().Add(-t.Cooldown))
	return &guard{t, acts}, err
}

// full tells whether the trigger has acted as often as it may.
func (g *guard) full() bool {
	own := 0
	for _, a := range g.acts {
		if !a.Applied {
			own++
		}
	}
	return own >= g.t.MaxSecrets
}

// before returns what the trigger did a moment ago about all that m says: whoever names a
// secret over and over, or a value that was replaced, has its replacement left alone.
func (g *guard) before(m store.EventMatch) (store.EventAct, bool) {
	var last store.EventAct
	var off []int
	for _, a := range g.acts {
		if a.SecretID == m.SecretID {
			last, off = a, append(off, a.Versions...)
		}
	}
	if last.SecretID == "" {
		return last, false
	}
	return last, !slices.ContainsFunc(m.Versions, func(v int) bool { return !slices.Contains(off, v) })
}

// finish begins what follows from an event that is recorded, as far as its trigger may,
// and records that. It is idempotent. What could not be begun for a good reason is in
// refusal.
func (b *Broker) finish(ctx context.Context, id string) (ev store.Event, refusal, err error) {
	err = b.Store.View(ctx, func(tx *store.Tx) (err error) {
		ev, err = tx.Event(ctx, id)
		return err
	})
	if err != nil {
		return ev, nil, err
	}
	t, known := b.triggers()[ev.Trigger]
	switch {
	case !known:
		err = b.onEvent(ctx, id, ev.Trigger, func(tx *store.Tx, ev *store.Event) error {
			for i := range ev.Matches {
				ev.Matches[i].Outcome, ev.Matches[i].Error = client.OutcomeRefused, "its trigger was taken out of the configuration"
			}
			return nil
		})
	case ev.Emergency:
		err = b.onEvent(engine.First(ctx), id, ev.Trigger, func(tx *store.Tx, ev *store.Event) error { return b.declareFor(ctx, tx, t, ev) })
	default:
		for i := range ev.Matches {
			if err = b.onEvent(ctx, id, ev.Trigger, func(tx *store.Tx, ev *store.Event) error { return b.rotateFor(ctx, tx, t, ev, i) }); err == nil {
				continue
			}
			if backends.Class(err) == nil || backends.Retryable(err) {
				break
			}
			refusal = err
			if err = b.onEvent(ctx, id, ev.Trigger, func(_ *store.Tx, ev *store.Event) error {
				ev.Matches[i].Outcome, ev.Matches[i].Error = client.OutcomeRefused, cut(refusal.Error())
				return nil
			}); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = b.conclude(ctx, t, id, &ev)
	}
	if _, over := errors.AsType[*overrun](err); over { // as if it had not come: it comes again
		if err := b.Store.Update(ctx, func(tx *store.Tx) error { return tx.ForgetEvent(ctx, id) }); err != nil {
			return ev, nil, err
		}
		return ev, nil, err
	}
	if err != nil {
		return ev, nil, fmt.Errorf("acting on event %s: %w", id, err)
	}
	return ev, refusal, nil
}

// onEvent changes an event of which nobody has recorded yet what came of it.
func (b *Broker) onEvent(ctx context.Context, id, trigger string, change func(*store.Tx, *store.Event) error) error {
	return b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
		if err := tx.Serialize(ctx, "trigger/"+trigger); err != nil {
			return err
		}
		ev, err := tx.Event(ctx, id)
		if err != nil || ev.Outcome != client.OutcomeReceiving {
			return err
		}
		if err := change(tx, &ev); err != nil {
			return err
		}
		return tx.SaveEvent(ctx, ev)
	})
}

// conclude records what came of an event as a whole, and tells people of what is held.
func (b *Broker) conclude(ctx context.Context, t Trigger, id string, out *store.Event) error {
	return b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
		if err := tx.Serialize(ctx, "trigger/"+out.Trigger); err != nil {
			return err
		}
		ev, err := tx.Event(ctx, id)
		if err != nil {
			return err
		}
		if *out = ev; ev.Outcome != client.OutcomeReceiving {
			return nil
		}
		if out.Outcome = overall(ev.Matches); out.Outcome == client.OutcomeHeld {
			if err := b.leaveToPeople(ctx, tx, t, out); err != nil {
				return err
			}
		}
		if err := tx.SaveEvent(ctx, *out); err != nil {
			return err
		}
		return b.auditEvent(ctx, tx, *out)
	})
}

// overall is what came of an event: what people have to decide on first of all.
func overall(matches []store.EventMatch) string {
	for _, outcome := range []string{client.OutcomeHeld, client.OutcomeActed, client.OutcomeRefused} {
		if slices.ContainsFunc(matches, func(m store.EventMatch) bool { return m.Outcome == outcome }) {
			return outcome
		}
	}
	return client.OutcomeRepeated
}

// askedBy is who an event is of, as the engine knows it.
func askedBy(ev store.Event) engine.Asked {
	return engine.Asked{By: ev.Actor, Lineage: ev.Lineage, Reason: ev.Reason, Role: ev.Role, Method: ev.Method, Identity: ev.Identity, Address: ev.Address}
}

// declareFor declares an emergency for what an event says has leaked.
func (b *Broker) declareFor(ctx context.Context, tx *store.Tx, t Trigger, ev *store.Event) error {
	g, err := b.guardOf(ctx, tx, ev.Trigger, t)
	if err != nil {
		return err
	}
	var mine []int // in Matches
	for i := range ev.Matches {
		m := &ev.Matches[i]
		switch last, again := g.before(*m); {
		case m.Outcome != "":
		case again:
			m.Outcome, m.RotationID, m.IncidentID = client.OutcomeRepeated, last.RotationID, last.IncidentID
		case g.full():
			m.Outcome = client.OutcomeHeld
		default:
			mine = append(mine, i)
			g.acts = append(g.acts, store.EventAct{SecretID: m.SecretID, Versions: m.Versions})
		}
	}
	return b.declareAll(ctx, tx, ev, mine, askedBy(*ev))
}

// declareAll declares an emergency for some of the secrets that an event is about. Those
// of which only versions are meant that are dead are tried again.
func (b *Broker) declareAll(ctx context.Context, tx *store.Tx, ev *store.Event, which []int, asked engine.Asked) error {
	var targets []rotation.Target
	var left []int
	for _, i := range which {
		m := &ev.Matches[i]
		dead, err := b.tryDead(ctx, tx, *m, asked)
		switch {
		case err != nil:
			return err
		case dead:
			m.Outcome, m.Error = client.OutcomeActed, "every version that it means is dead already, and is tried again"
			if err := b.acted(ctx, tx, ev, *m, m.Versions); err != nil {
				return err
			}
		default:
			left = append(left, i)
			targets = append(targets, rotation.Target{SecretID: m.SecretID, Ref: m.Ref, Versions: m.Versions})
		}
	}
	if len(targets) == 0 {
		return nil
	}
	inc := b.incidentOf(*ev, asked, targets)
	inc.State = rotation.IncidentOpen
	_, err := b.Engine.OpenIncident(ctx, tx, &inc, targets, nil)
	if errors.Is(err, engine.ErrNothingAlive) {
		for _, i := range left {
			ev.Matches[i].Outcome, ev.Matches[i].Error = client.OutcomeRefused, err.Error()
		}
		return nil
	}
	if err != nil {
		return err
	}
	ev.IncidentID = inc.ID
	off, err := tx.CompromisedOf(ctx, inc.ID)
	if err != nil {
		return err
	}
	for _, i := range left {
		m := &ev.Matches[i]
		versions := slices.Clone(m.Versions)
		for _, c := range off {
			if c.SecretID == m.SecretID && !slices.Contains(versions, c.Version) {
				versions = append(versions, c.Version)
			}
		}
		m.Outcome, m.IncidentID = client.OutcomeActed, inc.ID
		if target, err := tx.Target(ctx, inc.ID, m.SecretID); err == nil {
			m.RotationID = target.RotationID
		} else if !errors.Is(err, backends.ErrNotFound) {
			return err
		}
		if err := b.acted(ctx, tx, ev, *m, versions); err != nil {
			return err
		}
	}
	return nil
}

// incidentOf is the incident of an event, for those of its secrets that are to follow.
func (b *Broker) incidentOf(ev store.Event, asked engine.Asked, targets []rotation.Target) rotation.Incident {
	selector := client.Selector{Names: ev.Names, Leaked: ev.Values > 0, Tenant: ev.Tenant}
	text, _ := json.Marshal(selector) // nothing in it can fail
	inc := rotation.Incident{Tenant: tenantOf(targets), Cause: rotation.IncidentEvent, Trigger: ev.Trigger, Reason: asked.Reason, Actor: asked.By, Lineage: asked.Lineage,
		Role: asked.Role, Identity: asked.Identity, Selector: text, DetectedAt: ev.ReceivedAt, Hold: true}
	if !ev.At.IsZero() && ev.At.Before(ev.ReceivedAt) {
		inc.DetectedAt = ev.At
	}
	return inc
}

// tenantOf is the one whose secrets all targets are; empty: they are of several.
func tenantOf(targets []rotation.Target) string {
	tenant := ""
	for i, t := range targets {
		if i > 0 && t.Ref.Tenant != tenant {
			return ""
		}
		tenant = t.Ref.Tenant
	}
	return tenant
}

// tryDead tries once more the versions that m means, where all of them are known to be
// dead; it tells whether they are.
func (b *Broker) tryDead(ctx context.Context, tx *store.Tx, m store.EventMatch, asked engine.Asked) (dead bool, err error) {
	var all []rotation.Retirement
	for _, n := range m.Versions {
		t, err := tx.RetirementOf(ctx, m.SecretID, n)
		if errors.Is(err, backends.ErrNotFound) || err == nil && t.MayLive() {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		all = append(all, t)
	}
	for _, t := range all {
		if _, err := t.ProbeNow(b.Now()); err != nil { // on a copy
			continue // it cannot be, and what was proven stands
		}
		if _, _, err := b.Engine.ProbeNow(ctx, tx, t.ID, asked); err != nil {
			return false, err
		}
	}
	return len(all) > 0, nil
}

// rotateFor rotates the i-th secret that an event is about.
func (b *Broker) rotateFor(ctx context.Context, tx *store.Tx, t Trigger, ev *store.Event, i int) error {
	m := &ev.Matches[i]
	if m.Outcome != "" {
		return nil
	}
	g, err := b.guardOf(ctx, tx, ev.Trigger, t)
	if err != nil {
		return err
	}
	if last, again := g.before(*m); again && len(m.Versions) > 0 {
		m.Outcome, m.RotationID = client.OutcomeRepeated, last.RotationID
		return nil
	}
	if g.full() {
		m.Outcome = client.OutcomeHeld
		return nil
	}
	return b.rotateOne(ctx, tx, ev, m, askedBy(*ev))
}

func (b *Broker) rotateOne(ctx context.Context, tx *store.Tx, ev *store.Event, m *store.EventMatch, asked engine.Asked) error {
	s, err := tx.Secret(ctx, m.SecretID)
	if err != nil {
		return err
	}
	if len(m.Versions) > 0 && !slices.Contains(m.Versions, s.Current) {
		dead, err := b.tryDead(ctx, tx, *m, asked)
		if err != nil {
			return err
		}
		if !dead {
			m.Outcome, m.Error = client.OutcomeRepeated, "what it means is not current any more: it is being turned off, and needs no rotation"
			return nil
		}
		m.Outcome, m.Error = client.OutcomeActed, "every version that it means is dead already, and is tried again"
		return b.acted(ctx, tx, ev, *m, m.Versions)
	}
	rot, err := b.Engine.Rotate(ctx, tx, s.ID, rotation.TriggerEvent, asked)
	if err != nil {
		return err
	}
	m.Outcome, m.RotationID = client.OutcomeActed, rot.ID
	return b.acted(ctx, tx, ev, *m, []int{s.Current})
}

// acted records that the trigger of an event has acted on a secret.
func (b *Broker) acted(ctx context.Context, tx *store.Tx, ev *store.Event, m store.EventMatch, versions []int) error {
	return tx.AddEventAct(ctx, store.EventAct{Trigger: ev.Trigger, EventID: ev.ID, SecretID: m.SecretID, Versions: versions, RotationID: m.RotationID, IncidentID: m.IncidentID, At: b.Now(), Applied: ev.AppliedBy != ""})
}

// leaveToPeople says who decides on what goes beyond what a trigger may do: an emergency is proposed,
// one for all events that are held meanwhile; a rotation waits for being applied.
func (b *Broker) leaveToPeople(ctx context.Context, tx *store.Tx, t Trigger, ev *store.Event) error {
	held, err := tx.HeldEvents(ctx, ev.Trigger)
	if err != nil {
		return err
	}
	if held >= mostHeld && !slices.ContainsFunc(ev.Matches, func(m store.EventMatch) bool { return m.Outcome == client.OutcomeActed }) {
		return &overrun{after: t.Cooldown, why: fmt.Sprintf("%d events of trigger %q wait for people already", held, ev.Trigger)}
	}
	next := "keybroker event apply " + ev.ID
	if held > 0 {
		next = "keybroker event list --outcome held --trigger " + ev.Trigger
	}
	if ev.Emergency {
		if ev.IncidentID, err = b.propose(ctx, tx, *ev, held+1); err != nil {
			return err
		}
		next = "keybroker incident approve " + ev.IncidentID
	}
	var names []string
	for _, m := range ev.Matches {
		if m.Outcome == client.OutcomeHeld {
			names = append(names, m.Ref.String())
		}
	}
	some := strings.Join(names[:min(len(names), 3)], ", ")
	if len(names) > 3 {
		some += fmt.Sprintf(" and %d more", len(names)-3)
	}
	return tx.RaiseAlert(ctx, store.Raise{Kind: alert.TriggerExceeded, Tenant: t.Tenant, Subject: ev.Trigger, Next: next,
		Text: fmt.Sprintf("events of trigger %s are about more than the %d secrets that it acts on within %s by itself, and wait for people: the last of %d is about %s",
			ev.Trigger, t.MaxSecrets, t.Cooldown, held+1, some)})
}

// proposedFor is how long people have to approve what was held.
const proposedFor = 24 * time.Hour

// propose adds what of an event is held to the incident that its trigger proposes. The
// versions are pinned as they are now: what replaces them meanwhile is not meant.
func (b *Broker) propose(ctx context.Context, tx *store.Tx, ev store.Event, events int) (id string, err error) {
	var targets []rotation.Target
	for _, m := range ev.Matches {
		if m.Outcome != client.OutcomeHeld {
			continue
		}
		versions := m.Versions
		if len(versions) == 0 {
			open, err := tx.Versions(ctx, m.SecretID)
			if err != nil {
				return "", err
			}
			for _, v := range open {
				versions = append(versions, v.Number)
			}
		}
		targets = append(targets, rotation.Target{SecretID: m.SecretID, Ref: m.Ref, Versions: versions, State: rotation.TargetPending})
	}
	if id, err = proposedBy(ctx, tx, ev.Trigger); err != nil {
		return "", err
	}
	if id == "" {
		inc := b.incidentOf(ev, askedBy(ev), targets)
		inc.Selector = alsoNamed(client.Selector{Leaked: ev.Values > 0, Tenant: ev.Tenant}, targets)
		inc.State, inc.ApproveBy = rotation.IncidentProposed, b.Now().Add(proposedFor)
		_, err := b.Engine.OpenIncident(ctx, tx, &inc, targets, nil)
		return inc.ID, err
	}
	inc, err := tx.Incident(ctx, id)
	if err != nil {
		return "", err
	}
	if err := tx.AddTargets(ctx, id, targets); err != nil {
		return "", err
	}
	var selector client.Selector
	if err := json.Unmarshal(inc.Selector, &selector); err != nil {
		return "", fmt.Errorf("reading what incident %s is about: %w", id, err)
	}
	selector.Leaked = selector.Leaked || ev.Values > 0
	inc.Selector = alsoNamed(selector, targets)
	inc.Reason = cut(fmt.Sprintf("what was held of trigger %s: %d events, the last: %s", ev.Trigger, events, ev.Reason))
	if tenantOf(targets) != inc.Tenant {
		inc.Tenant = "" // and of none it stays
	}
	return id, tx.SaveIncident(ctx, &inc) // so that nobody approves it at the same moment
}

// alsoNamed is a selector that names targets, too: the first ones, as people write them.
func alsoNamed(s client.Selector, targets []rotation.Target) json.RawMessage {
	for _, t := range targets {
		name := strings.TrimPrefix(qualified(t.Ref), backends.DefaultTenant+":")
		if len(s.Names) < keptNames && !slices.Contains(s.Names, name) {
			s.Names = append(s.Names, name)
		}
	}
	text, _ := json.Marshal(s) // nothing in it can fail
	return text
}
