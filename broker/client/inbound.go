package client

import (
	"context"
	"net/url"
	"time"
)

// What came of an inbound event, and of each secret that it is about.
const (
	OutcomeReceiving      = "receiving"       // it is recorded; what follows from it is being begun
	OutcomeActed          = "acted"           // a rotation or an emergency was begun, or a dead version is tried again
	OutcomeRepeated       = "repeated"        // what it says was dealt with a moment ago
	OutcomeNothingMatched = "nothing_matched" // no secret that its trigger may act on
	OutcomeHeld           = "held"            // the trigger had acted on as many secrets as it may: people decide
	OutcomeUnresolved     = "unresolved"      // what it is about cannot be fetched now, which is tried again
	OutcomeTest           = "test"            // its sender tries the way
	OutcomeRefused        = "refused"         // nothing could be begun
)

// EventOutcomes lists them.
var EventOutcomes = []string{OutcomeReceiving, OutcomeActed, OutcomeRepeated, OutcomeNothingMatched, OutcomeHeld, OutcomeUnresolved, OutcomeTest, OutcomeRefused}

// InboundEvent is an event that a trigger has accepted. What it carried of values is
// nowhere: they were compared, and forgotten.
type InboundEvent struct {
	ID         string            `json:"id"`
	Trigger    string            `json:"trigger"`
	EventID    string            `json:"event_id"` // as its sender calls it
	Tenant     string            `json:"tenant,omitempty"`
	ReceivedAt time.Time         `json:"received_at"`
	At         time.Time         `json:"at,omitzero"` // when it happened, as its sender says
	Address    string            `json:"address,omitempty"`
	Actor      string            `json:"actor"`
	Action     string            `json:"action"` // "rotate" or "emergency"
	Outcome    string            `json:"outcome"`
	Reason     string            `json:"reason"`
	Source     string            `json:"source,omitempty"`
	URL        string            `json:"url,omitempty"`
	Names      []string          `json:"names,omitempty"`  // the secrets that it names, the first hundred
	Labels     map[string]string `json:"labels,omitempty"` // that it names secrets by
	Values     int               `json:"values,omitempty"` // how many leaked values it carried
	Handles    int               `json:"handles,omitempty"`
	Matches    []EventMatch      `json:"matches"`
	Repeats    int               `json:"repeats,omitempty"` // how often it came again
	LastAt     time.Time         `json:"last_at,omitzero"`  // when it came last
	IncidentID string            `json:"incident_id,omitempty"`
	AppliedBy  string            `json:"applied_by,omitempty"` // who had what was held acted on
	AppliedAt  time.Time         `json:"applied_at,omitzero"`
	Error      string            `json:"error,omitempty"`   // why what it is about cannot be fetched
	RetryAt    time.Time         `json:"retry_at,omitzero"` // when that is tried again
}

// EventMatch is one secret that an event is about.
type EventMatch struct {
	Secret     string `json:"secret"`
	Tenant     string `json:"tenant"`
	Versions   []int  `json:"versions,omitempty"` // that have the leaked value or the handle; empty: it was named
	By         string `json:"by"`                 // "name", "label", "value" or "handle"
	Outcome    string `json:"outcome"`
	Error      string `json:"error,omitempty"`
	RotationID string `json:"rotation_id,omitempty"`
	IncidentID string `json:"incident_id,omitempty"`
}

// EventReceipt answers whoever sent events.
type EventReceipt struct {
	Events []EventAccepted `json:"events"`
}

// EventAccepted is one of them.
type EventAccepted struct {
	ID      string `json:"id"` // by which people look it up
	Outcome string `json:"outcome"`
}

// InboundEventQuery selects events, the latest first.
type InboundEventQuery struct {
	Trigger string
	Outcome string
	Page
}

func (q InboundEventQuery) values() url.Values {
	v := q.Page.values()
	set(v, "trigger", q.Trigger)
	set(v, "outcome", q.Outcome)
	return v
}

// ApplyEventRequest has what was held acted on.
type ApplyEventRequest struct {
	Reason string `json:"reason,omitempty"`
}

// Trigger is a block of the configuration by which events start something, and what it
// did lately.
type Trigger struct {
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	Tenant     string   `json:"tenant,omitempty"`
	Action     string   `json:"action"`
	MaxSecrets int      `json:"max_secrets"` // that it acts on within Cooldown by itself
	Cooldown   int64    `json:"cooldown_seconds"`
	On         []string `json:"on,omitempty"` // kinds of alerts that start it
	Reads      int      `json:"reads_per_minute,omitempty"`
	Denied     int      `json:"denied_per_minute,omitempty"`

	ActedLately int       `json:"acted_lately"` // how many times within Cooldown
	Events      int       `json:"events"`       // that are kept
	Held        int       `json:"held"`         // that wait for people
	LastAt      time.Time `json:"last_at,omitzero"`
	LastOutcome string    `json:"last_outcome,omitempty"`
	LastID      string    `json:"last_id,omitempty"`
	// IncidentID is the proposed incident that collects what was held.
	IncidentID string `json:"incident_id,omitempty"`
}

// InboundEvents lists the events that triggers have accepted.
func (c *Client) InboundEvents(ctx context.Context, q InboundEventQuery) (List[InboundEvent], error) {
	return do[List[InboundEvent]](ctx, c, api("GET", "events").with(q.values()))
}

// InboundEvent shows one of them.
func (c *Client) InboundEvent(ctx context.Context, id string) (InboundEvent, error) {
	return do[InboundEvent](ctx, c, api("GET", "events", "received", id))
}

// ApplyEvent has what of an event was held acted on.
func (c *Client) ApplyEvent(ctx context.Context, id string, r ApplyEventRequest) (InboundEvent, error) {
	return do[InboundEvent](ctx, c, api("POST", "events", "received", id, "apply").send(r))
}

// Triggers lists the triggers of the configuration.
func (c *Client) Triggers(ctx context.Context) (List[Trigger], error) {
	return do[List[Trigger]](ctx, c, api("GET", "triggers"))
}

// Trigger shows one of them.
func (c *Client) Trigger(ctx context.Context, name string) (Trigger, error) {
	return do[Trigger](ctx, c, api("GET", "triggers", name))
}
