package client

import (
	"context"
	"net/url"
	"time"
)

// The severities of alerts.
const (
	Critical = "critical" // a key that should be dead may live, or somebody has taken control
	Failing  = "error"    // something does not work
	Warning  = "warning"  // something will not work if nobody looks
)

// AlertKinds lists what alerts can be about.
var AlertKinds = []string{
	"unconfirmed",             // a revoked credential was not proven to fail
	"resurrected",             // one that was proven to fail works again
	"unprovable",              // nobody can tell whether it fails
	"stuck_delivery",          // a consumer cannot be told
	"consumer_disabled",       // it wants no more deliveries
	"missing_acknowledgement", // a consumer did not say that it uses the new version
	"drift",                   // a vault holds something else than it was given
	"rotation_failed",
	"dead_current",   // no version of a secret may work
	"expiring",       // a credential ends, or is to be replaced, and nothing has replaced it
	"issuer_down",    // an issuer keeps failing and is left alone for a while
	"value_wanted",   // a person is to make a credential and hand it in
	"revoke_by_hand", // a person is to turn a credential off
	"reissued",       // an issuer gave a credential that it had given before
	"backend_down",
	"stale_credential", // what the broker logs in with was replaced, and cannot be taken up
	"seal_down",
	"audit_sink_down",
	"audit_disk_low",    // the audit log will soon not be written any more
	"audit_log_damaged", // it is not as it was written
	"new_root_token",
	"break_glass",
	"certificate_expiring",
	"quarantined",        // a consumer or a role is kept out until somebody lifts that
	"trigger_exceeded",   // events name more secrets than a trigger acts on by itself
	"event_unresolved",   // what a genuine report is about cannot be fetched
	"emergency_proposed", // an emergency waits for a second person
	"emergency_override", // one did not wait for it
	"offline_kit_stale",
	"offline_return_wanted", // the journal of what was revoked offline was not handed in
}

// SecretAlertKinds are those that are of one secret: an internal trigger can act on it.
var SecretAlertKinds = []string{"unconfirmed", "resurrected", "unprovable", "stuck_delivery", "missing_acknowledgement", "drift",
	"rotation_failed", "dead_current", "expiring", "value_wanted", "revoke_by_hand"}

// The states of what a notifier is told.
const (
	NoticePending = "pending" // it is to be told; attempts that failed are repeated
	NoticeSent    = "sent"
	NoticeDropped = "dropped" // it came too late to be told
)

// Alert is something that people are told until it is over.
type Alert struct {
	ID             string    `json:"id"`
	Kind           string    `json:"kind"` // "unconfirmed", "resurrected", "drift", …
	Severity       string    `json:"severity"`
	Tenant         string    `json:"tenant,omitempty"` // empty: of none
	Subject        string    `json:"subject"`          // what it is about: of each kind and subject one alert is open
	Node           string    `json:"node,omitempty"`   // the only one that can tell whether it is over
	Text           string    `json:"text"`
	Next           string    `json:"next,omitempty"` // the command to run
	Count          int       `json:"count"`          // times that it was raised
	OpenedAt       time.Time `json:"opened_at"`
	LastAt         time.Time `json:"last_at"`
	AcknowledgedAt time.Time `json:"acknowledged_at,omitzero"`
	AcknowledgedBy string    `json:"acknowledged_by,omitempty"`
	Reason         string    `json:"reason,omitempty"` // of the acknowledgement
	ResolvedAt     time.Time `json:"resolved_at,omitzero"`
	Notices        []Notice  `json:"notices"` // not shown to who is bound to a tenant
}

// Notice is what one notifier was told last of an alert, or is to be told.
type Notice struct {
	Rule     string    `json:"rule"` // the alert block
	Notifier string    `json:"notifier"`
	Event    string    `json:"event"` // "raised", "reminder", "escalated", "resolved"
	State    string    `json:"state"`
	Told     int       `json:"told"`               // events that arrived
	Attempts int       `json:"attempts,omitempty"` // at this one
	Error    string    `json:"error,omitempty"`    // of the last attempt, if it failed
	SentAt   time.Time `json:"sent_at,omitzero"`
	NextAt   time.Time `json:"next_at,omitzero"` // of the next attempt
}

// AlertQuery selects alerts, the latest first.
type AlertQuery struct {
	Kind string
	All  bool // also those that are over
	Page
}

func (q AlertQuery) values() url.Values {
	v := q.Page.values()
	set(v, "kind", q.Kind)
	if q.All {
		v.Set("all", "true")
	}
	return v
}

// AcknowledgeAlertRequest says that somebody looks after an alert.
type AcknowledgeAlertRequest struct {
	Reason string `json:"reason,omitempty"`
}

// NotifierTest is what came of a test of a notifier.
type NotifierTest struct {
	Notifier string `json:"notifier"`
	OK       bool   `json:"ok"`
	Error    string `json:"error,omitempty"`
}

// Alerts lists alerts: those that are open, or all.
func (c *Client) Alerts(ctx context.Context, q AlertQuery) (List[Alert], error) {
	return do[List[Alert]](ctx, c, api("GET", "alerts").with(q.values()))
}

// Alert returns one alert.
func (c *Client) Alert(ctx context.Context, id string) (Alert, error) {
	return do[Alert](ctx, c, api("GET", "alerts", id))
}

// AcknowledgeAlert says that the caller looks after an alert: nobody is reminded of
// it any more. What is about something that has happened is over with that.
func (c *Client) AcknowledgeAlert(ctx context.Context, id string, r AcknowledgeAlertRequest) (Alert, error) {
	return do[Alert](ctx, c, api("POST", "alerts", id, "ack").send(r))
}

// TestNotifier has a notifier tell now that it works, and waits for its answer.
func (c *Client) TestNotifier(ctx context.Context, name string) (NotifierTest, error) {
	return do[NotifierTest](ctx, c, api("POST", "notifiers", name, "test").send(struct{}{}))
}
