// Package receiver is an application's side of keybroker's messages: it verifies
// them, opens them, keeps the newest value of each secret in memory and acknowledges it.
package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keybroker/keybroker/backends"
)

const (
	maxBody       = 1 << 20
	rememberedIDs = 1024
)

// What a message is acknowledged with. Only "applied" says that this application uses
// the version now.
const (
	applied  = "applied"
	received = "received"
)

// Update is a version of a secret that has become current.
type Update struct {
	ID          string // of the message; it stays the same when that is repeated
	Secret      string // "payments/stripe"; another tenant's than the default one: "acme:payments/stripe"
	Version     int
	Generation  int64 // only grows, whatever the version number does
	Trigger     string
	PublishedAt time.Time
	Value       backends.Value
}

// Event is what we are told beside new versions.
type Event struct {
	Name    string // "secret.retired"
	Secret  string // as in Update; empty: "consumer.test"
	Version int    // that it is about
	Reason  string
	DueAt   time.Time // of "secret.rotating": when the version is to be replaced
}

// Options of a Receiver.
type Options struct {
	// Consumer is our name in the broker's configuration: messages to others are
	// refused. It may be empty only where there is a signing secret.
	Consumer string
	// Broker is the broker's URL, https except on this machine: of its public keys, of
	// the values that messages refer to, and of the inbox. TokenFile has a token of our
	// role for the last two: it is read for each call.
	Broker, TokenFile string
	// Keys are the private keys that messages are sealed to, see ReadKeys: two while one
	// is being replaced.
	Keys []jose.JSONWebKey
	// Instance is what this one of several instances calls itself, also after a restart:
	// each name counts.
	Instance string
	// KeyInterval is how long the broker is not asked again for keys after a signature
	// matched none of them; 0: a minute.
	KeyInterval time.Duration
	// OnApply brings a version into use: reopens connections, replaces a client. It
	// is called with one update at a time, only with a generation newer than the one
	// before. An error is answered by 503, and the broker delivers again. May be nil.
	OnApply func(ctx context.Context, u Update) error
	// OnNews is told of each message about a new version instead of OnApply, without the
	// value being opened (Update.Value is zero) or anything being kept: for who passes the
	// news on. It is answered "received". An error is answered by 503. It may be told of
	// a message again, and of generations in any order.
	OnNews func(ctx context.Context, u Update) error
	// OnEvent is told of everything else, once for each message. May be nil.
	OnEvent func(Event)
	// ReceiveOnly answers "received" even when the version was applied: for an
	// application that acknowledges later by other means.
	ReceiveOnly bool
	// Log gets what goes wrong, never a value; nil: nobody does.
	Log *slog.Logger
}

// Receiver is the http.Handler for a webhook's URL, and collects from an inbox. Safe
// for concurrent use. What it knows is in memory: see README.md for what that means
// after a restart.
type Receiver struct {
	opts     Options
	verifier verifier
	broker   *broker // nil: none is given

	applying sync.Mutex // held while one message is handled: they are taken in turn

	mu      sync.Mutex // guards current
	current map[string]Update

	answered map[string]answer // by webhook-id; guarded by applying
	ids      []string          // of answered, oldest first
}

// New takes the signing secret of the consumer's block, "whsec_…", or several of them,
// one a line; empty: the broker signs with ed25519 and publishes its keys.
func New(secret backends.SecretString, opts Options) (*Receiver, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.KeyInterval == 0 {
		opts.KeyInterval = time.Minute
	}
	r := &Receiver{opts: opts, current: map[string]Update{}, answered: map[string]answer{}}
	var err error
	if opts.TokenFile != "" {
		if _, err = readToken(opts.TokenFile); err != nil {
			return nil, err
		}
	}
	if opts.Broker != "" {
		if r.broker, err = newBroker(opts.Broker, opts.TokenFile); err != nil {
			return nil, err
		}
	}
	switch {
	case secret != "":
		r.verifier, err = newShared(secret)
	case r.broker == nil || opts.Consumer == "":
		err = errors.New("without a signing secret, the broker's URL and the consumer's name are needed for its public keys")
	default:
		r.verifier = newPublished(r.broker, opts.Consumer, opts.KeyInterval)
	}
	return r, err
}

// Current returns the value in use of a secret, and its generation; 0 if there is none.
func (r *Receiver) Current(secret string) (backends.Value, int64) {
	u := r.using(secret)
	return u.Value, u.Generation
}

func (r *Receiver) using(secret string) Update {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current[secret]
}

// refusal is why a message is not taken: how it is answered, and what is said of it.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

// ServeHTTP takes one delivery.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "webhooks are delivered by POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		http.Error(w, "the body is too large or incomplete", http.StatusBadRequest)
		return
	}
	_, a, err := r.take(req.Context(), req.Header, body)
	var refused refusal
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a) // the sender would deliver again
	case errors.As(err, &refused):
		http.Error(w, refused.text, refused.status)
	default: // not shown to the sender: it may say anything
		http.Error(w, "the message could not be handled", http.StatusServiceUnavailable)
	}
}

// answer acknowledges a message, in the answer to a delivery or by the broker's API.
type answer struct {
	Status      string `json:"status"`
	Generation  int64  `json:"generation,omitempty"`
	Instance    string `json:"instance,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"` // proves, with "applied", that we have the value
}

// take verifies one message, handles it and returns its id and how it is acknowledged.
// The same id again (a retry whose answer was lost, or a replay) gets the same answer
// without anything being done twice.
func (r *Receiver) take(ctx context.Context, header http.Header, body []byte) (id string, a answer, err error) {
	id = header.Get(headerID)
	defer func() {
		if err != nil {
			r.opts.Log.Warn("a message was not taken", "id", id, "reason", err)
		}
	}()
	// Verified are the raw bytes, before anything looks into them.
	if err := r.verifier.verify(ctx, header, body); err != nil {
		return id, a, err
	}
	e, err := r.parse(id, body)
	if err != nil {
		return id, a, err
	}
	r.applying.Lock()
	defer r.applying.Unlock()
	if a, ok := r.answered[id]; ok {
		return id, a, nil
	}
	a, err = r.handle(ctx, e)
	if err == nil {
		r.remember(id, a)
	}
	return id, a, err
}

func (r *Receiver) handle(ctx context.Context, e event) (answer, error) {
	a := answer{Status: received, Generation: e.Data.Generation, Instance: r.opts.Instance}
	if !e.makesCurrent() {
		if e.name() != "" && r.opts.OnEvent != nil {
			r.opts.OnEvent(Event{Name: e.name(), Secret: e.secret(), Version: e.Data.Version, Reason: e.Data.Reason, DueAt: e.Data.DueAt})
		}
		return a, nil
	}
	if r.opts.OnNews != nil {
		return a, announce(ctx, e.update(backends.Value{}), r.opts.OnNews)
	}
	// Order is that of generations: not of versions, since a rotation may be rolled back,
	// nor of times.
	u := r.using(e.secret())
	if e.Data.Generation < u.Generation {
		return a, nil
	}
	if e.Data.Generation > u.Generation {
		value, err := r.open(ctx, e)
		if err != nil || value.IsZero() {
			return a, err
		}
		u = e.update(value)
		if err := r.use(ctx, u); err != nil {
			return a, err
		}
	}
	if !r.opts.ReceiveOnly {
		a.Status, a.Fingerprint = applied, fingerprint(e.ID, u.Value)
	}
	return a, nil
}

// use brings a version into use, and remembers it if that succeeds.
func (r *Receiver) use(ctx context.Context, u Update) error {
	if r.opts.OnApply != nil {
		if err := announce(ctx, u, r.opts.OnApply); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current[u.Secret] = u
	return nil
}

func announce(ctx context.Context, u Update, to func(context.Context, Update) error) error {
	if err := to(ctx, u); err != nil {
		return fmt.Errorf("applying version %d of %s: %w", u.Version, u.Secret, err)
	}
	return nil
}

func (r *Receiver) remember(id string, a answer) {
	if len(r.ids) == rememberedIDs {
		delete(r.answered, r.ids[0])
		r.ids = r.ids[1:]
	}
	r.answered[id] = a
	r.ids = append(r.ids, id)
}
