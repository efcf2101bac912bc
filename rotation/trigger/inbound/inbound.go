// Package inbound is the vocabulary of events that reach the broker from outside: what
// one says, who reads it out of a message, and how a sender proves that it is theirs.
package inbound

import (
	"context"
	"net/http"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Event is what somebody outside tells the broker. Names, values, handles and labels each
// say which secrets it is about; one of them is enough. An event that names nothing is
// only recorded.
type Event struct {
	// ID is the same each time the sender repeats the event, and no other event's. It comes
	// from what the sender has signed, or is authenticated for. Empty: the protocol has
	// none, and the event's content stands for it.
	ID      string
	At      time.Time               // when it happened, as the sender says; zero: it does not
	Secrets []string                // "name" or "tenant:name", exactly
	Version int                     // of what Secrets names the only one that is meant; 0: every one
	Values  []backends.SecretString // credentials, or texts that hold one
	// Handles are what issuers know credentials by: {"access_key_id": "AKIA…"}. All that
	// one says must hold.
	Handles []map[string]string
	Labels  map[string]string // secrets that have all of these; empty: it says nothing of labels
	// Reason, Source and URL are for people: what happened, who says so, where to look.
	Reason string
	Source string
	URL    string
	Test   bool // the sender only tries whether it gets through
	// Missing, if set, are values that could not be had now; a Resolver asks for them again.
	Missing *Missing
}

// Missing is what an event lacks.
type Missing struct {
	Ask map[string]string // what it takes to ask for it again; nothing secret, for it is kept
	Why string            // for people: why it could not be had
}

// Reply is what the sender is answered.
type Reply struct {
	Status int // 0: 202 Accepted
	Body   any // JSON; nil: what became of the events
	// Judge, if set, makes the body instead: known tells of each event, in their order,
	// whether one of its values is, or was, of a secret.
	Judge func(known []bool) any
}

// Receiver reads the messages of one protocol. It is safe for concurrent use.
type Receiver interface {
	// Receive verifies a message and takes it apart. A message can have no event at all:
	// then it is just answered. ErrDenied: nobody who holds the secrets has sent it, or too
	// long ago; ErrInvalid: it is not what the protocol says; ErrUnavailable: what it takes
	// to read it cannot be reached, and the sender has to send it again. The errors show
	// nothing that came with the message. It may block for seconds, as ctx lasts.
	Receive(ctx context.Context, header http.Header, body []byte) ([]Event, Reply, error)
}

// Resolver is a Receiver whose events can have values missing.
type Resolver interface {
	// Resolve asks again for the values of an event. Any error tells that they cannot be
	// had now, and shows none of them.
	Resolve(ctx context.Context, ask map[string]string) ([]backends.SecretString, error)
}

// MaxEvents is how many events one message can bring.
const MaxEvents = 500
