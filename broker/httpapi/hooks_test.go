package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

// Receive knows a request by its first byte.
func (m *memory) Receive(_ context.Context, trigger string, _ netip.Addr, header http.Header, body []byte) (inbound.Reply, error) {
	switch {
	case trigger == "nosuch":
		return inbound.Reply{}, fmt.Errorf("%w: there is no trigger %q", backends.ErrNotFound, trigger)
	case header.Get("X-Proof") != "mine":
		return inbound.Reply{}, fmt.Errorf("%w: the signature is not that of %s", backends.ErrDenied, canary)
	case !strings.HasPrefix(string(body), "{"):
		return inbound.Reply{}, fmt.Errorf("%w: the body is no object", backends.ErrInvalid)
	}
	return inbound.Reply{Status: http.StatusAccepted, Body: client.EventReceipt{Events: []client.EventAccepted{{ID: fmt.Sprint(len(body)), Outcome: client.OutcomeActed}}}}, nil
}

func (m *memory) HookBody(trigger string) int64 {
	if trigger == "large" {
		return 5 << 20
	}
	return 1 << 10
}

func (m *memory) InboundEvents(_ context.Context, p authn.Principal, q client.InboundEventQuery) (client.List[client.InboundEvent], error) {
	return client.List[client.InboundEvent]{Items: []client.InboundEvent{{ID: "evt_1"}}}, m.serve(p, "inbound-events", q.Trigger, q.Outcome, q.Limit)
}

func (m *memory) InboundEvent(_ context.Context, p authn.Principal, id string) (client.InboundEvent, error) {
	return client.InboundEvent{ID: id}, m.serve(p, "inbound-event", id)
}

func (m *memory) ApplyEvent(_ context.Context, p authn.Principal, id string, r client.ApplyEventRequest) (client.InboundEvent, error) {
	return client.InboundEvent{ID: id}, m.serve(p, "apply-event", id, r.Reason)
}

func (m *memory) Triggers(_ context.Context, p authn.Principal) (client.List[client.Trigger], error) {
	return client.List[client.Trigger]{Items: []client.Trigger{{Name: "leaks"}}}, m.serve(p, "triggers")
}

func (m *memory) Trigger(_ context.Context, p authn.Principal, name string) (client.Trigger, error) {
	return client.Trigger{Name: name}, m.serve(p, "trigger", name)
}

// TestHooks: what systems outside send is given to the trigger as it came, within its own
// limit, and who proves nothing is not told which triggers there are.
func TestHooks(t *testing.T) {
	n := start(t, newMemory(), nil)
	for name, tt := range map[string]struct {
		trigger, proof, body string
		status               int
		says                 string
	}{
		"one that is taken":  {"leaks", "mine", `{"a": 1}`, 202, `"outcome":"acted"`},
		"larger than usual":  {"large", "mine", "{" + strings.Repeat(" ", 4<<20), 202, `"id":"4194305"`},
		"too large for it":   {"leaks", "mine", "{" + strings.Repeat(" ", 2<<10), 413, "larger than 1024 bytes"},
		"too large for any":  {"large", "mine", "{" + strings.Repeat(" ", 6<<20), 413, "larger than"},
		"not of its sender":  {"leaks", "", `{"a": 1}`, 401, "no such trigger, or"},
		"of no trigger":      {"nosuch", "mine", `{"a": 1}`, 401, "no such trigger, or"},
		"not what it should": {"leaks", "mine", `[]`, 400, "the body is no object"},
	} {
		a := n.ask(t, http.MethodPost, "/api/v1/hooks/"+tt.trigger, "", tt.body, "X-Proof", tt.proof)
		if a.status != tt.status || !strings.Contains(a.body, tt.says) || strings.Contains(a.body, canary) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}
