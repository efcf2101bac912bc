package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// What memory answers about incidents.

func (m *memory) incident() client.Incident {
	return client.Incident{ID: "i1", State: client.IncidentOpen, Progress: client.IncidentProgress{Secrets: 1, Versions: 2, Contained: 1}}
}

func (m *memory) DeclareIncident(_ context.Context, p authn.Principal, r client.IncidentRequest) (client.Incident, error) {
	return m.incident(), m.serve(p, "declare", r.Reason, r.Selector.Names, r.Selector.Value.Reveal() == canary, r.DryRun)
}

func (m *memory) Incidents(_ context.Context, p authn.Principal, q client.IncidentQuery) (client.List[client.Incident], error) {
	return client.List[client.Incident]{Items: []client.Incident{m.incident()}}, m.serve(p, "incidents", q.State, q.Secret)
}

func (m *memory) Incident(_ context.Context, p authn.Principal, id string) (client.Incident, error) {
	return m.incident(), m.serve(p, "incident", id)
}

func (m *memory) WatchIncident(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error) {
	if err := m.serve(p, "watch-incident", id); err != nil {
		return nil, err
	}
	return m.watch(ctx), nil
}

func (m *memory) act(p authn.Principal, act, id string, r client.IncidentActRequest) (client.Incident, error) {
	return m.incident(), m.serve(p, act, id, r.Reason, r.Hold != nil && *r.Hold)
}

func (m *memory) ApproveIncident(_ context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error) {
	return m.act(p, "approve-incident", id, r)
}

func (m *memory) RejectIncident(_ context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error) {
	return m.act(p, "reject-incident", id, r)
}

func (m *memory) CloseIncident(_ context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error) {
	return m.act(p, "close-incident", id, r)
}

func (m *memory) HoldIncident(_ context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error) {
	return m.act(p, "hold-incident", id, r)
}

func (m *memory) NoteIncident(_ context.Context, p authn.Principal, id string, r client.IncidentNoteRequest) (client.Incident, error) {
	return m.incident(), m.serve(p, "note-incident", id, r.Text, r.Check, r.Done)
}

// incidentCalls are all calls about incidents, by how the broker is asked.
func incidentCalls(ctx context.Context) map[string]func(*client.Client) error {
	act := func(call func(*client.Client, context.Context, string, client.IncidentActRequest) (client.Incident, error)) func(*client.Client) error {
		return func(c *client.Client) error {
			hold := true
			return second(call(c, ctx, "i1", client.IncidentActRequest{Reason: "why", Hold: &hold}))
		}
	}
	return map[string]func(*client.Client) error{
		"declare leaked [a b] true false": func(c *client.Client) error {
			return second(c.DeclareIncident(ctx, client.IncidentRequest{Reason: "leaked", Selector: client.Selector{Names: []string{"a", "b"}, Value: canary}}))
		},
		"incidents open payments/stripe": func(c *client.Client) error {
			return second(c.Incidents(ctx, client.IncidentQuery{State: client.IncidentOpen, Secret: "payments/stripe"}))
		},
		"incident i1":                  func(c *client.Client) error { return second(c.Incident(ctx, "i1")) },
		"approve-incident i1 why true": act((*client.Client).ApproveIncident),
		"reject-incident i1 why true":  act((*client.Client).RejectIncident),
		"close-incident i1 why true":   act((*client.Client).CloseIncident),
		"hold-incident i1 why true":    act((*client.Client).HoldIncident),
		"note-incident i1 done 2 false 3": func(c *client.Client) error {
			return second(c.NoteIncident(ctx, "i1", client.IncidentNoteRequest{Text: "done 2", Done: 3}))
		},
	}
}

func TestIncidentsAreReached(t *testing.T) {
	n := start(t, newMemory(), nil)
	for want, call := range incidentCalls(t.Context()) {
		if err := call(n.client(t, goodToken)); err != nil || n.last() != want {
			t.Errorf("the broker was asked %q, want %q: %v", n.last(), want, err)
		}
		if err := call(n.client(t, otherToken)); client.Status(err) != http.StatusForbidden {
			t.Errorf("%s, by who may not: %v", want, err)
		}
		before := n.count()
		if err := call(n.client(t, "nope")); client.Status(err) != http.StatusUnauthorized || n.count() != before {
			t.Errorf("%s, by nobody: %v", want, err)
		}
	}
	if a := n.ask(t, "GET", "/api/v1/incidents?state=over", goodToken, ""); a.status != http.StatusBadRequest {
		t.Errorf("a state that there is not: %d %s", a.status, a.body)
	}
	if strings.Contains(n.log.String(), canary) {
		t.Errorf("the value that leaked is in the log:\n%s", n.log)
	}
}

// TestAValueThatLeakedPrintsNowhere: neither whoever logs a request nor who quotes one.
func TestAValueThatLeakedPrintsNowhere(t *testing.T) {
	r := client.IncidentRequest{Selector: client.Selector{Value: canary}}
	if text := fmt.Sprintf("%v %+v %#v", r, r, r); strings.Contains(text, canary) {
		t.Error(text)
	}
	n := start(t, newMemory(), nil)
	a := n.ask(t, "POST", "/api/v1/incidents", goodToken, `{"reason":"x","selector":{"value":{"is":"`+canary+`"}}}`)
	if a.status != http.StatusBadRequest || strings.Contains(a.body, canary) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestWatchAnIncident(t *testing.T) {
	m := newMemory()
	i := m.incident()
	m.timeline = []client.Event{{Type: client.EventIncident, Incident: &i}, {Type: client.EventEnd}}
	var got []client.Event
	for e, err := range start(t, m, nil).client(t, goodToken).WatchIncident(t.Context(), "i1") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if len(got) != 2 || got[0].Incident == nil || got[0].Incident.Progress != i.Progress || got[1].Type != client.EventEnd {
		t.Errorf("%+v", got)
	}
}
