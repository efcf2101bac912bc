package broker

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

// Trigger is a way in which events start something: they come from outside, or are what
// the broker sees for itself.
type Trigger struct {
	Type      string
	Tenant    string // whose secrets it acts on; empty: those of all
	Emergency bool   // else it rotates
	// Covers tells whether it may act on a secret of that name and with those labels.
	Covers func(name string, labels map[string]string) bool
	// Within Cooldown it acts at most MaxSecrets times on a secret by itself; people decide
	// on the rest.
	MaxSecrets int
	Cooldown   time.Duration
	Reason     string // stands before that of an event; may be empty

	Receiver inbound.Receiver // reads requests; nil: nobody sends it any
	MaxBody  int64            // bytes of a request; 0: defaultHookBody

	On            []string // kinds of alerts that start it
	Reads, Denied int      // of a secret within a minute, on one node, beyond which it is started; 0: never
}

// The actions.
const (
	actionRotate    = "rotate"
	actionEmergency = "emergency"
)

func (t Trigger) action() string {
	if t.Emergency {
		return actionEmergency
	}
	return actionRotate
}

// reaches tells whether the trigger may act on s.
func (t Trigger) reaches(s rotation.Secret) bool {
	return (t.Tenant == "" || t.Tenant == s.Ref.Tenant) && t.Covers(s.Ref.Name, s.Definition.Labels)
}

// triggers are those of the rules in force.
func (b *Broker) triggers() map[string]Trigger { return b.rulesOf(authn.Principal{}).Triggers }

const eventsPath = "sys/events"

// Triggers lists the triggers of the configuration, and what they did lately.
func (b *Broker) Triggers(ctx context.Context, p authn.Principal) (client.List[client.Trigger], error) {
	list := client.List[client.Trigger]{Items: []client.Trigger{}}
	err := b.do(ctx, p, policy.Read, request{action: "trigger.list", path: eventsPath}, func() error {
		return b.Store.View(ctx, func(tx *store.Tx) error {
			list.Items = list.Items[:0]
			triggers := b.rulesOf(p).Triggers
			for _, name := range slices.Sorted(maps.Keys(triggers)) {
				if p.Tenant != "" && triggers[name].Tenant != p.Tenant {
					continue
				}
				shown, err := b.viewTrigger(ctx, tx, name, triggers[name])
				if err != nil {
					return err
				}
				list.Items = append(list.Items, shown)
			}
			return nil
		})
	})
	return list, err
}

// Trigger shows one trigger, and what it did lately.
func (b *Broker) Trigger(ctx context.Context, p authn.Principal, name string) (out client.Trigger, err error) {
	err = b.do(ctx, p, policy.Read, request{action: "trigger.show", path: eventsPath, detail: map[string]string{"trigger": name}}, func() error {
		t, known := b.rulesOf(p).Triggers[name]
		if !known || p.Tenant != "" && t.Tenant != p.Tenant {
			return fmt.Errorf("%w: there is no trigger %q in the configuration", backends.ErrNotFound, name)
		}
		return b.Store.View(ctx, func(tx *store.Tx) (err error) {
			out, err = b.viewTrigger(ctx, tx, name, t)
			return err
		})
	})
	return out, err
}

func (b *Broker) viewTrigger(ctx context.Context, tx *store.Tx, name string, t Trigger) (client.Trigger, error) {
	out := client.Trigger{Name: name, Type: t.Type, Tenant: t.Tenant, Action: t.action(), MaxSecrets: t.MaxSecrets, Cooldown: int64(t.Cooldown.Seconds()),
		On: t.On, Reads: t.Reads, Denied: t.Denied}
	acts, err := tx.EventActs(ctx, name, b.Now().Add(-t.Cooldown))
	if err != nil {
		return out, err
	}
	for _, a := range acts {
		if !a.Applied {
			out.ActedLately++
		}
	}
	if out.Events, out.Held, err = tx.CountEvents(ctx, name); err != nil {
		return out, err
	}
	last, _, err := tx.Events(ctx, store.EventFilter{Trigger: name}, store.Page{Limit: 1})
	if err == nil && len(last) > 0 {
		out.LastAt, out.LastOutcome, out.LastID = utc(last[0].ReceivedAt), last[0].Outcome, last[0].ID
	}
	if err == nil && t.Emergency {
		out.IncidentID, err = proposedBy(ctx, tx, name)
	}
	return out, err
}

// proposedBy returns the incident that collects what was held of a trigger's events;
// empty: there is none.
func proposedBy(ctx context.Context, tx *store.Tx, name string) (string, error) {
	found, _, err := tx.Incidents(ctx, store.IncidentFilter{Trigger: name, State: rotation.IncidentProposed}, store.Page{Limit: 1})
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0].ID, nil
}

// reasonOf says why a trigger acts.
func (t Trigger) reasonOf(name string, in inbound.Event) string {
	if t.Reason != "" && in.Reason != "" {
		return t.Reason + ": " + in.Reason
	}
	return cmp.Or(in.Reason, t.Reason, saidBy(in), "an event of trigger "+name)
}

// saidBy tells what an event that gives no reason carries. What of it matches is not said:
// not everybody who sees the event may know.
func saidBy(in inbound.Event) string {
	var parts []string
	count := func(n int, one, many string) {
		switch {
		case n == 1:
			parts = append(parts, one)
		case n > 1:
			parts = append(parts, fmt.Sprintf(many, n))
		}
	}
	count(len(in.Values), "a leaked value", "%d leaked values")
	count(len(in.Handles), "the handle of a credential", "the handles of %d credentials")
	names := namesIn(in)
	some := strings.Join(names[:min(len(names), 3)], ", ")
	if more := len(in.Secrets) - 3; more > 0 {
		some += fmt.Sprintf(" and %d more", more)
	}
	if some != "" {
		parts = append(parts, some)
	}
	if len(in.Labels) > 0 {
		parts = append(parts, "secrets of certain labels")
	}
	if len(parts) == 0 {
		return ""
	}
	return "reported: " + strings.Join(parts, "; ")
}
