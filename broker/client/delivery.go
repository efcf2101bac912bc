package client

import (
	"net/url"
	"time"
)

// The states of a delivery.
const (
	DeliveryPending    = "pending"
	DeliveryReceived   = "received"   // the consumer answered 2xx
	DeliveryApplied    = "applied"    // all its instances say that they use the new version
	DeliverySuperseded = "superseded" // a newer one took its place
	DeliveryDead       = "dead"       // given up
)

// DeliveryStates lists them.
var DeliveryStates = []string{DeliveryPending, DeliveryReceived, DeliveryApplied, DeliverySuperseded, DeliveryDead}

// DeliveryEvents lists what a delivery can tell of.
var DeliveryEvents = []string{
	"secret.rotating",    // a rotation is due, ahead of time
	"secret.rotated",     // a new version is current
	"secret.rolled_back", // an earlier version is current again
	"secret.emergency",   // a version is compromised and about to be replaced
	"secret.retiring",    // a version is being turned off from now on
	"secret.retired",     // its issuer says that it is
	"secret.proven_dead", // and it was tried, and rejected
	"secret.resurrected", // it is accepted again
	EventTest,
}

// EventTest tells of no secret: somebody tries the way to the consumer.
const EventTest = "consumer.test"

// Delivery is one message to one consumer.
type Delivery struct {
	ID            string            `json:"id"`
	Consumer      string            `json:"consumer"`
	Secret        string            `json:"secret,omitempty"` // missing: it is a test of the consumer
	Tenant        string            `json:"tenant,omitempty"`
	Version       int               `json:"version"`    // that it tells of
	Generation    int64             `json:"generation"` // of the secret when it happened
	Event         string            `json:"event"`
	Trigger       string            `json:"trigger,omitempty"` // why it was rotated
	Reason        string            `json:"reason,omitempty"`
	State         string            `json:"state"`
	Instances     int               `json:"instances"`       // of the consumer that are to say that they use the version
	Attempts      int               `json:"attempts"`        // or how often an inbox handed it out
	Error         string            `json:"error,omitempty"` // of the last attempt, or of an acknowledgement that was refused
	DueAt         time.Time         `json:"due_at,omitzero"` // of the rotation that it tells of ahead of time
	CreatedAt     time.Time         `json:"created_at,omitzero"`
	NextAttemptAt time.Time         `json:"next_attempt_at,omitzero"`
	ReceivedAt    time.Time         `json:"received_at,omitzero"`
	FetchedAt     time.Time         `json:"fetched_at,omitzero"` // when the consumer's role first read the version
	AppliedAt     time.Time         `json:"applied_at,omitzero"` // when the last of the instances said so
	Acks          []Acknowledgement `json:"acks,omitempty"`      // not in lists
}

// Acknowledgement is what one instance of a consumer says. That it has the message is kept
// of an inbox alone, where others are still to collect it.
type Acknowledgement struct {
	Instance string    `json:"instance"` // as it calls itself; empty: the only one
	Status   string    `json:"status"`   // "applied": it uses the version, or "received"
	At       time.Time `json:"at"`
	By       string    `json:"by"` // who said so, or "webhook": it was in the answer to the delivery
}

// What a consumer can say of a delivery.
const (
	AckReceived = "received" // it has the message
	AckApplied  = "applied"  // it uses the version
)

// AcknowledgeRequest is what an instance of a consumer says of a delivery.
type AcknowledgeRequest struct {
	Status     string `json:"status,omitempty"` // "applied", which it is if not given, or "received"
	Generation int64  `json:"generation"`       // that it speaks of: the delivery's
	Instance   string `json:"instance,omitempty"`
	// Fingerprint proves that it has the credential: HMAC-SHA-256 in hexadecimal, keyed
	// with the delivery's id, over the fields in the order of their names, each name and
	// then its value written as its length in bytes, a colon and its bytes. Only "applied"
	// needs it.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// DeliveryQuery selects deliveries, the latest first.
type DeliveryQuery struct {
	Secret   string
	Consumer string
	State    string
	Event    string
	Page
}

func (q DeliveryQuery) values() url.Values {
	v := q.Page.values()
	set(v, "secret", q.Secret)
	set(v, "consumer", q.Consumer)
	set(v, "state", q.State)
	set(v, "event", q.Event)
	return v
}
