package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const (
	defaultHookBody = 1 << 20 // bytes of a request
	// eventsPerMinute is how many events one trigger may have on one node, and so many may
	// come at once. It is counted of what proved to be genuine: who cannot prove it stops
	// nobody else.
	eventsPerMinute = 600
	// auditedPerMinute is how many events of a trigger that came to nothing are in the
	// audit log one by one; the others are summed up in one record.
	auditedPerMinute = 60
)

// overrun is that a sender has to wait.
type overrun struct {
	after time.Duration
	why   string
}

func (o *overrun) Error() string             { return o.why }
func (o *overrun) RetryAfter() time.Duration { return o.after }
func (o *overrun) Unwrap() error             { return backends.ErrUnavailable }

// HookBody is how many bytes a request to a trigger may have.
func (b *Broker) HookBody(trigger string) int64 {
	if t, known := b.triggers()[trigger]; known && t.MaxBody > 0 {
		return t.MaxBody
	}
	return defaultHookBody
}

// Receive takes a request that somebody sent to a trigger, who proves by the request
// itself who they are, and answers as that protocol wants it. ErrDenied if they do not
// prove it, ErrInvalid if it is not what the protocol says.
func (b *Broker) Receive(ctx context.Context, trigger string, from netip.Addr, header http.Header, body []byte) (inbound.Reply, error) {
	t, known := b.triggers()[trigger]
	if !known || t.Receiver == nil {
		return inbound.Reply{}, notConfigured(trigger)
	}
	events, reply, err := t.Receiver.Receive(ctx, header, body)
	if err != nil {
		return inbound.Reply{}, b.unreceived(ctx, trigger, t, from, err)
	}
	all, err := b.takeAll(ctx, trigger, t, from, events)
	if err != nil {
		return inbound.Reply{}, err
	}
	if reply.Status == 0 {
		reply.Status = http.StatusAccepted
	}
	switch {
	case reply.Judge != nil:
		known := make([]bool, len(all))
		for i, one := range all {
			known[i] = one.known
		}
		reply.Body = reply.Judge(known)
	case reply.Body == nil:
		receipt := client.EventReceipt{Events: []client.EventAccepted{}}
		for _, one := range all {
			outcome := one.Outcome
			if one.repeated {
				outcome = client.OutcomeRepeated
			}
			receipt.Events = append(receipt.Events, client.EventAccepted{ID: one.ID, Outcome: outcome})
		}
		reply.Body = receipt
	}
	return reply, nil
}

// unreceived audits a request that was not taken, one by one or, where there are many,
// summed up with all who were refused.
func (b *Broker) unreceived(ctx context.Context, trigger string, t Trigger, from netip.Addr, why error) error {
	if errors.Is(why, backends.ErrUnavailable) {
		b.Logger.Error("an event cannot be read now", "trigger", trigger, "error", why)
	}
	anonymous := authn.Principal{ID: authn.Anonymous, Tenant: t.Tenant, Address: from}
	if !b.Authn.Apart(anonymous) {
		return why
	}
	outcome := outcomeFailed
	if errors.Is(why, backends.ErrDenied) {
		outcome = outcomeDenied
	}
	b.Logger.Warn("a request to a trigger was refused", "trigger", trigger, "address", from, "error", why)
	err := b.Audit.Write(ctx, audit.Record{AuditEvent: rotation.AuditEvent{At: b.Now(), Kind: rotation.AuditRequest, Tenant: t.Tenant, Actor: anonymous.ID, Address: from.String(),
		Action: "event.refused", Path: eventsPath + "/" + trigger, Outcome: outcome, Detail: map[string]string{"trigger": trigger, "error": classOf(why)}}}, audit.Written)
	if err != nil {
		b.Logger.Error("a refused event is not in the audit log", "trigger", trigger, "error", err)
	}
	return why
}

// admit counts events of a trigger; an error tells that there are too many.
func (s *sensed) admit(trigger string, events int, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.rates[trigger]
	if l == nil {
		l = rate.NewLimiter(rate.Limit(float64(eventsPerMinute)/60), eventsPerMinute)
		s.rates[trigger] = l
	}
	if l.AllowN(now, events) {
		return nil
	}
	return &overrun{after: max(time.Second, time.Duration((float64(events)-l.TokensAt(now))/float64(l.Limit())*float64(time.Second))),
		why: fmt.Sprintf("there are too many events of trigger %q: %d a minute are taken", trigger, eventsPerMinute)}
}

// apart tells whether an event of a trigger is in the audit log by itself; if not, it is
// counted.
func (s *sensed) apart(trigger string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.quiet[trigger]
	if n == nil {
		n = &quiet{since: now}
		s.quiet[trigger] = n
	}
	if n.apart < auditedPerMinute {
		n.apart++
		return true
	}
	n.more++
	return false
}

// quiet counts events of a minute that are not in the audit log one by one.
type quiet struct {
	since       time.Time
	apart, more int
}

// sumUp writes how many events were not audited one by one, and begins anew.
func (b *Broker) sumUp(ctx context.Context) {
	s := &b.sensed
	s.mu.Lock()
	counted := s.quiet
	s.quiet = map[string]*quiet{}
	s.mu.Unlock()
	for trigger, n := range counted {
		if n.more == 0 {
			continue
		}
		err := b.Audit.Write(ctx, audit.Record{AuditEvent: rotation.AuditEvent{At: b.Now(), Tenant: b.triggers()[trigger].Tenant, Actor: "trigger/" + trigger, Action: "event.taken",
			Path: eventsPath + "/" + trigger, Outcome: outcomeOK, Detail: map[string]string{"trigger": trigger, "events": fmt.Sprint(n.more), "since": n.since.UTC().Format(time.RFC3339),
				"outcome": "came to nothing, or is held: the events themselves tell"}}}, audit.Written)
		if err == nil {
			continue
		}
		b.Logger.Error("how many events came cannot be written to the audit log, and is counted on", "trigger", trigger, "error", err)
		s.mu.Lock()
		if now := s.quiet[trigger]; now != nil {
			now.more += n.more
			now.since = n.since
		} else {
			s.quiet[trigger] = &quiet{since: n.since, more: n.more}
		}
		s.mu.Unlock()
	}
}
