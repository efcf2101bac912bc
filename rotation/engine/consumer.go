package engine

import (
	"context"
	"net/http"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Message is what a consumer is told: the delivery, the version that it is
// about, and the one that was replaced, for as long as that is still valid.
type Message struct {
	Delivery  rotation.Delivery
	Value     backends.Value   // zero unless the event makes a version current and the payload carries it
	Published rotation.Version // that the event is about; zero: none
	Previous  *rotation.Version
	Age       time.Duration // for how long the consumer is to be told already
}

// Terms are how a consumer is told.
type Terms struct {
	Tenant      string           // whose secrets alone it is told of; empty: those of all
	Events      []rotation.Event // beside those that make a version current; nil: all
	Instances   int              // that are to say that they use a version; 0: 1
	Concurrency int              // attempts at once on one node; 0: 4
	NeedsValue  bool             // the message carries the value itself
	Inbox       bool             // it collects its messages: Deliver is never called
	Endpoint    string           // keyed digest of where deliveries go
}

// Claim is what a consumer says of a delivery.
type Claim struct {
	Applied     bool   // it uses the version; else it only has the message
	Generation  int64  // that it speaks of
	Instance    string // as it calls itself; empty: it has only one
	Fingerprint string // see rotation.Fingerprint; with Applied
}

// Outcome is what came of one attempt.
type Outcome struct {
	Received bool          // the consumer answered 2xx
	Claim    *Claim        // what it answered; nil: nothing that says more
	Down     bool          // it says more of the endpoint than of the message: no answer, 429 or 5xx
	Unsent   bool          // no request was made: it says nothing of the endpoint
	Gone     bool          // it wants no more deliveries, whatever they tell of
	Next     time.Duration // wait before the next attempt; negative: there is none
	Detail   string        // for people: "status 503"; never a secret

	// What the engine makes of the claim.
	Applied   bool
	Complaint string // why it does not count

	endpoint string // where the attempt went, as in Terms
}

// Envelope is a signed message as it is handed out.
type Envelope struct {
	Header http.Header // webhook-id, webhook-timestamp, webhook-signature, content-type
	Body   []byte
}

// Deliverer sends messages to one consumer.
type Deliverer interface {
	Terms() Terms
	// Deliver makes one attempt (the attempt's number is m.Delivery.Attempts) and
	// blocks until it is answered or ctx ends. What went wrong is in the outcome.
	Deliver(ctx context.Context, m Message) Outcome
	// Compose makes the message as it is at this moment, for who collects it.
	Compose(ctx context.Context, m Message) (Envelope, error)
}
