package rotation

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
)

// Event is what a consumer is told of.
type Event string

// The events.
const (
	EventRotating    Event = "secret.rotating"    // a rotation is due, ahead of time
	EventRotated     Event = "secret.rotated"     // a new version is current
	EventRolledBack  Event = "secret.rolled_back" // an earlier version is current again
	EventEmergency   Event = "secret.emergency"   // a version is compromised and about to be replaced
	EventRetiring    Event = "secret.retiring"    // a version is being turned off from now on
	EventRetired     Event = "secret.retired"     // its issuer says that it is
	EventProvenDead  Event = "secret.proven_dead" // and it was tried, and rejected
	EventResurrected Event = "secret.resurrected" // it is accepted again
	EventTest        Event = "consumer.test"      // of no secret: somebody tries the way to the consumer
)

// Events lists them all.
func Events() []Event {
	return []Event{EventRotating, EventRotated, EventRolledBack, EventEmergency, EventRetiring, EventRetired, EventProvenDead, EventResurrected, EventTest}
}

// MakesCurrent tells whether the event makes a version the current one: consumers are
// always told of those, and acknowledge nothing else.
func (e Event) MakesCurrent() bool { return e == EventRotated || e == EventRolledBack }

// Replaces lists the events of the same version that nobody needs to be told of any more
// once there is e to tell of.
func (e Event) Replaces() []Event {
	switch e {
	case EventRotating:
		return []Event{EventRotating}
	case EventRetiring, EventRetired, EventProvenDead, EventResurrected:
		return []Event{EventRetiring, EventRetired, EventProvenDead, EventResurrected}
	}
	return nil
}

// DeliveryState is how far a delivery has come.
type DeliveryState string

// The states of a delivery.
const (
	DeliveryPending    DeliveryState = "pending"
	DeliveryReceived   DeliveryState = "received"   // the consumer answered 2xx
	DeliveryApplied    DeliveryState = "applied"    // all its instances use the new version
	DeliverySuperseded DeliveryState = "superseded" // a newer one took its place
	DeliveryDead       DeliveryState = "dead"       // given up
)

// Delivery is one message to one consumer. Its body is built at each attempt from
// this record and the version's sealed value, so that no other copy is kept.
type Delivery struct {
	ID            string
	SecretID      string       // empty: EventTest
	Ref           backends.Ref // of EventTest: only the tenant, which is the consumer's
	Consumer      string
	Event         Event
	Version       int   // that the event is about; of EventRotating the one that is to be replaced
	Generation    int64 // of the secret when it happened
	Trigger       Trigger
	Reason        string
	State         DeliveryState
	Instances     int       // of the consumer that are to say that they use the version; at least 1
	Attempts      int       // or, of an inbox, how often it was handed out
	Error         string    // of the last attempt, or of an acknowledgement that was refused
	DueAt         time.Time // of EventRotating: when the rotation is due
	CreatedAt     time.Time
	Since         time.Time // when its schedule began: it was made, replayed, or its consumer enabled
	NextAttemptAt time.Time // zero: not by itself, see ConsumerState
	Lease         time.Time // an attempt is under way until then
	ReceivedAt    time.Time
	FetchedAt     time.Time // when the consumer's role first read what it tells of
	AppliedAt     time.Time // when the last of Instances said so
	Revision      int64
}

// Satisfies tells whether the delivery fulfils the requirement. What a newer generation
// superseded holds nobody up, nor does what tells of no new version.
func (d Delivery) Satisfies(r Requirement) bool {
	if d.State == DeliverySuperseded || !d.Event.MakesCurrent() {
		return true
	}
	switch r {
	case RequireReceived:
		return !d.ReceivedAt.IsZero() || !d.FetchedAt.IsZero() || !d.AppliedAt.IsZero()
	case RequireFetched:
		return !d.FetchedAt.IsZero() || !d.AppliedAt.IsZero()
	case RequireApplied:
		return !d.AppliedAt.IsZero()
	}
	return true
}

// Ack is what one instance of a consumer says of a delivery.
type Ack struct {
	DeliveryID string
	Instance   string // as it calls itself; empty: the only one
	Applied    bool   // it uses the version; else it has the message, which others are still to collect
	At         time.Time
	By         string // principal, or "webhook": in the answer to the delivery
}

// MaxInstance is how many bytes the name of an instance may have.
const MaxInstance = 200

// ValidInstance tells whether an instance may call itself so; the empty name is one.
func ValidInstance(name string) bool {
	return len(name) <= MaxInstance && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// ConsumerState is what is kept of a consumer beside its configuration.
type ConsumerState struct {
	Name       string
	DisabledAt time.Time // zero: it is told
	Why        string    // it is not: "it answered 410"
	Endpoint   string    // keyed digest of where it wanted no more deliveries: another one is tried
	// QuarantinedAt is since when it is in quarantine; zero: it is in none. It is not saved
	// with the rest: see Quarantine.
	QuarantinedAt time.Time
}

// Fingerprint is what a consumer proves with, in its acknowledgement of a delivery, that
// it has the credential: HMAC-SHA-256 in lower-case hexadecimal, keyed with the delivery's
// id, over the fields in the order of their names' bytes. Each name, and each value after
// it, is written as its length in bytes in decimal, a colon and its bytes:
// "3:key5:s3cr3". The id makes it worthless for any other delivery.
func Fingerprint(deliveryID string, v backends.Value) string {
	mac := hmac.New(sha256.New, []byte(deliveryID))
	write := func(text string) {
		_, _ = io.WriteString(mac, strconv.Itoa(len(text))+":"+text) // a hash takes everything
	}
	fields := v.Reveal()
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		write(name)
		write(fields[name])
	}
	return hex.EncodeToString(mac.Sum(nil))
}
