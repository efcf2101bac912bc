// Package alert tells people what is wrong, until it is over: whom, when and how often.
//
// An alert is a row (store.Alert), opened in the transaction of what happened or by
// the sweep, which looks every ten seconds at the store and at the node; there is one
// open alert of each kind, tenant and subject. What a notifier is told of it is a row,
// too (store.Notice): a small machine (see Plan) that goes from event to event. Each
// event is claimed by one node, by compare-and-swap and for the length of a lease, then
// sent, and its result committed: a node that dies in between has another one send it
// again under the same id. So every event arrives at least once.
package alert

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/engine"
)

// The kinds of alerts, as client.AlertKinds lists them.
const (
	Unconfirmed            = engine.AlertUnconfirmed
	Resurrected            = engine.AlertResurrected
	Unprovable             = engine.AlertUnprovable
	StuckDelivery          = "stuck_delivery"
	ConsumerDisabled       = "consumer_disabled"
	MissingAcknowledgement = engine.AlertMissingAcknowledgement
	Drift                  = "drift"
	RotationFailed         = "rotation_failed"
	DeadCurrent            = engine.AlertDeadCurrent
	Expiring               = "expiring"
	IssuerDown             = engine.AlertIssuerDown
	ValueWanted            = engine.AlertValueWanted
	RevokeByHand           = engine.AlertRevokeByHand
	Reissued               = engine.AlertReissued
	BackendDown            = "backend_down"
	StaleCredential        = "stale_credential"
	SealDown               = "seal_down"
	AuditSinkDown          = "audit_sink_down"
	AuditDiskLow           = "audit_disk_low"
	AuditLogDamaged        = "audit_log_damaged"
	NewRootToken           = "new_root_token"
	BreakGlass             = "break_glass"
	CertificateExpiring    = "certificate_expiring"
	Quarantined            = "quarantined"
	TriggerExceeded        = "trigger_exceeded"
	EventUnresolved        = "event_unresolved"
	EmergencyProposed      = "emergency_proposed"
	EmergencyOverride      = "emergency_override"
	OfflineKitStale        = "offline_kit_stale"
	OfflineReturnWanted    = "offline_return_wanted"
)

// Passing tells whether alerts of the kind are about something that happened and is
// not over by itself: they end when somebody acknowledges them.
func Passing(kind string) bool {
	return kind == NewRootToken || kind == BreakGlass || kind == AuditLogDamaged || kind == Unprovable || kind == Reissued || kind == TriggerExceeded || kind == EventUnresolved || kind == EmergencyOverride
}

// Severity is how soon somebody should look.
type Severity string

// The severities.
const (
	Critical Severity = "critical" // a key that should be dead may live, or somebody has taken control
	Error    Severity = "error"    // something does not work
	Warning  Severity = "warning"  // something will not work if nobody looks
)

// SeverityOf is that of a kind.
func SeverityOf(kind string) Severity {
	switch kind {
	case Unconfirmed, Resurrected, DeadCurrent, NewRootToken, BreakGlass, AuditSinkDown, AuditLogDamaged, TriggerExceeded, EventUnresolved, EmergencyProposed, EmergencyOverride, OfflineReturnWanted:
		return Critical
	case CertificateExpiring, Quarantined, Expiring, Unprovable, MissingAcknowledgement, ValueWanted, OfflineKitStale:
		return Warning
	}
	return Error
}

// Event is what there is to tell of an alert.
type Event string

// The events.
const (
	Raised    Event = "raised"
	Reminder  Event = "reminder"  // it is still open
	Escalated Event = "escalated" // it is open, and nobody has acknowledged it: told to somebody else
	Resolved  Event = "resolved"
	Heartbeat Event = "heartbeat" // the broker works, and would tell
	Test      Event = "test"      // somebody asked for it
)

// Notification is one event for one notifier.
type Notification struct {
	ID     string // of the event for this notifier, the same in every attempt; no "." in it
	Event  Event
	At     time.Time // when there was that to tell
	Source string    // the URL of the broker
	Rule   string    // the alert block by which it is told; empty: of a test
	By     string    // who asked for a test
	Alert  store.Alert
	Open   int // alerts that are open, of those the rule is about; of a heartbeat
}

// Notifier is one way to tell people.
type Notifier interface {
	// Notify makes one attempt, which blocks no longer than ctx lasts. It can be made
	// again with the same notification, also where the one before has arrived. Errors
	// carry a class of package backends, ErrInvalid where this notification can never be
	// taken, and neither secrets nor URLs with their paths; one that has a method
	// RetryAfter() time.Duration is not tried again before.
	Notify(ctx context.Context, n Notification) error
}

// Title says it in one line.
func (n Notification) Title() string {
	switch n.Event {
	case Heartbeat:
		return "keybroker works" + n.open()
	case Test:
		return "test of a notifier of keybroker: nothing is wrong"
	}
	title := fmt.Sprintf("%s: %s", n.Alert.Kind, n.Alert.Text)
	switch n.Event {
	case Resolved:
		return "over: " + title
	case Reminder, Escalated:
		return fmt.Sprintf("%s: %s", map[Event]string{Reminder: "still", Escalated: "nobody looks after it"}[n.Event], title)
	}
	return title
}

func (n Notification) open() string {
	switch n.Open {
	case 0:
		return "; no alert is open"
	case 1:
		return "; 1 alert is open"
	}
	return fmt.Sprintf("; %d alerts are open", n.Open)
}

// Lines say the rest: since when, and what to do next.
func (n Notification) Lines() []string {
	lines := []string{}
	add := func(name, format string, args ...any) { lines = append(lines, name+": "+fmt.Sprintf(format, args...)) }
	if a := n.Alert; a.ID != "" {
		if a.Tenant != "" {
			add("tenant", "%s", a.Tenant)
		}
		if a.Node != "" {
			add("node", "%s", a.Node)
		}
		add("since", "%s", stamp(a.OpenedAt))
		if a.Count > 1 {
			add("times", "%d, last at %s", a.Count, stamp(a.LastAt))
		}
		switch {
		case !a.ResolvedAt.IsZero():
			add("over since", "%s", stamp(a.ResolvedAt))
		case a.Next != "":
			add("next", "%s", a.Next)
		}
		if n.Event != Resolved {
			add("who looks after it says", "keybroker alert ack %s", a.ID)
		}
	}
	if n.By != "" {
		add("asked for by", "%s", n.By)
	}
	add("broker", "%s", n.Source)
	return lines
}

// Text says all.
func (n Notification) Text() string {
	return n.Title() + "\n\n" + strings.Join(n.Lines(), "\n") + "\n"
}

func stamp(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05 UTC") }
