package notify

import (
	"context"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
)

const pagerDutyURL = "https://events.pagerduty.com"

// PagerDuty is a notifier that sends events of PagerDuty's Events API v2: one incident
// for each alert, which is resolved when the alert is over. Heartbeats are change
// events: they page nobody.
type PagerDuty struct {
	RoutingKey          backends.SecretString `hcl:"routing_key"`
	URL                 string                `hcl:"url,optional"` // of another region: https://events.eu.pagerduty.com
	CAFile              string                `hcl:"ca_file,optional"`
	AllowPrivateNetwork bool                  `hcl:"allow_private_network,optional"`
}

// Check returns every mistake, joined; offline, secrets are not known.
func (c PagerDuty) Check(offline bool) error {
	var key, where error
	if !offline && strings.TrimSpace(c.RoutingKey.Reveal()) == "" {
		key = invalid("routing_key is empty: it is the integration key of a service")
	}
	if c.URL != "" {
		where = checkURL("url", c.URL, c.AllowPrivateNetwork)
	}
	return joined(key, where)
}

type pagerDutyNotifier struct {
	*poster
	url string
	key backends.SecretString
}

// NewPagerDuty returns the notifier.
func NewPagerDuty(c PagerDuty) (alert.Notifier, error) {
	p, err := newPoster("pagerduty", c.CAFile, c.AllowPrivateNetwork)
	if err != nil {
		return nil, err
	}
	if c.URL == "" {
		c.URL = pagerDutyURL
	}
	return &pagerDutyNotifier{p, strings.TrimSuffix(c.URL, "/"), c.RoutingKey}, nil
}

// pdEvent is an event, with the fields that the API documents.
type pdEvent struct {
	RoutingKey string     `json:"routing_key"`
	Action     string     `json:"event_action,omitempty"`
	DedupKey   string     `json:"dedup_key,omitempty"`
	Client     string     `json:"client,omitempty"`
	Payload    *pdPayload `json:"payload,omitempty"`
}

type pdPayload struct {
	Summary   string            `json:"summary"`
	Source    string            `json:"source"`
	Severity  string            `json:"severity,omitempty"`
	Timestamp time.Time         `json:"timestamp"`
	Class     string            `json:"class,omitempty"`
	Component string            `json:"component,omitempty"`
	Group     string            `json:"group,omitempty"`
	Details   map[string]string `json:"custom_details,omitempty"`
}

// Notify implements alert.Notifier.
func (p *pagerDutyNotifier) Notify(ctx context.Context, n alert.Notification) error {
	const enqueue = "/v2/enqueue"
	event := pdEvent{RoutingKey: strings.TrimSpace(p.key.Reveal()), Action: "trigger", DedupKey: n.Alert.ID, Client: "keybroker", Payload: payload(n)}
	switch n.Event {
	case alert.Heartbeat:
		event.Action, event.DedupKey, event.Client, event.Payload.Severity = "", "", "", ""
		return p.post(ctx, p.url+"/v2/change/enqueue", event)
	case alert.Test:
		event.DedupKey = n.ID
		if err := p.post(ctx, p.url+enqueue, event); err != nil {
			return err
		}
		event.Action, event.Payload = "resolve", nil
	case alert.Resolved:
		event.Action, event.Payload = "resolve", nil
	}
	return p.post(ctx, p.url+enqueue, event)
}

func payload(n alert.Notification) *pdPayload {
	a := n.Alert
	out := &pdPayload{Summary: short(n.Title(), 1024), Source: n.Source, Severity: "info", Timestamp: n.At.UTC(), Details: map[string]string{}}
	if a.ID == "" {
		return out
	}
	out.Severity, out.Class, out.Component, out.Group = string(alert.SeverityOf(a.Kind)), a.Kind, a.Subject, a.Tenant
	for _, line := range n.Lines() {
		name, value, _ := strings.Cut(line, ": ")
		out.Details[name] = value
	}
	return out
}
