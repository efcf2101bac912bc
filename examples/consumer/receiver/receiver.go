// Package receiver is an application's side of keybroker's webhooks: it verifies
// them, keeps the newest value of each secret in memory and acknowledges it.
package receiver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/keybroker/keybroker/backends"
)

const (
	rotatedEvent  = "dev.keybroker.secret.rotated.v1"
	plainPayload  = "plain"
	defaultTenant = backends.DefaultTenant
	maxBody       = 1 << 20
	minKey        = 24 // bytes; the library would take an empty secret
	rememberedIDs = 1024
)

// What a delivery is answered, as {"status": …}. Only "applied" acknowledges that
// this application uses the version now.
const (
	applied    = "applied"
	received   = "received"   // but not in use, or not by this application's doing
	superseded = "superseded" // a newer generation is in use already
	ignored    = "ignored"    // not an event that we know
)

// Update is a version of a secret that has become current.
type Update struct {
	Secret      string // "payments/stripe"; another tenant's than the default one: "acme:payments/stripe"
	Version     int
	Generation  int64 // only grows, whatever the version number does
	Trigger     string
	PublishedAt time.Time
	Value       backends.Value
}

// Options of a Receiver.
type Options struct {
	// OnApply brings a version into use: reopens connections, replaces a client. It
	// is called with one update at a time, only with a generation newer than the one
	// before. An error is answered by 503, and the broker delivers again. May be nil.
	OnApply func(ctx context.Context, u Update) error
	// ReceiveOnly answers "received" even when the version was applied: for an
	// application that acknowledges later by other means.
	ReceiveOnly bool
}

// Receiver is the http.Handler for a webhook's URL. Safe for concurrent use.
type Receiver struct {
	webhook *standardwebhooks.Webhook
	opts    Options

	applying sync.Mutex // held while one delivery is handled: they are taken in turn

	mu      sync.Mutex // guards current
	current map[string]Update

	answered map[string]string // by webhook-id; guarded by applying
	ids      []string          // of answered, oldest first
}

// New takes the signing secret of the consumer's webhook, "whsec_…".
func New(secret backends.SecretString, opts Options) (*Receiver, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(secret.Reveal()), "whsec_")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(raw) < minKey {
		return nil, errors.New("the signing secret is not whsec_ and at least 24 bytes in base64")
	}
	webhook, err := standardwebhooks.NewWebhookRaw(raw)
	if err != nil {
		return nil, err
	}
	return &Receiver{webhook: webhook, opts: opts, current: map[string]Update{}, answered: map[string]string{}}, nil
}

// Current returns the value in use of a secret, and its generation; 0 if there is none.
func (r *Receiver) Current(secret string) (backends.Value, int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.current[secret]
	return u.Value, u.Generation
}

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
	// Verified are the raw bytes, before anything looks into them; timestamps more
	// than five minutes away are refused, too.
	if err := r.webhook.Verify(body, req.Header); err != nil {
		http.Error(w, "the signature is not valid", http.StatusUnauthorized)
		return
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil || e.decode() != nil {
		http.Error(w, "the body is no event", http.StatusBadRequest)
		return
	}
	status, err := r.handle(req.Context(), req.Header.Get("webhook-id"), e)
	if err != nil { // not shown to the sender: it may say anything
		http.Error(w, "the new version could not be applied", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"status": status}) // the sender would deliver again
}

// event is the part of the CloudEvents event that we use.
type event struct {
	Type string `json:"type"`
	Data struct {
		Tenant      string            `json:"tenant"`
		Secret      string            `json:"secret"`
		Version     int               `json:"version"`
		Generation  int64             `json:"generation"`
		Trigger     string            `json:"trigger"`
		PublishedAt time.Time         `json:"published_at"`
		Payload     string            `json:"payload"`
		Fields      map[string]string `json:"fields"`
		Encodings   map[string]string `json:"encodings"` // fields that are base64
	} `json:"data"`
}

var errEncoding = errors.New("a field is not encoded as the event says")

// decode gives the fields that are no text their bytes.
func (e event) decode() error {
	for name, encoding := range e.Data.Encodings {
		text, ok := e.Data.Fields[name]
		raw, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil || encoding != "base64" {
			return errEncoding
		}
		e.Data.Fields[name] = string(raw)
	}
	return nil
}

func (e event) update() Update {
	name := e.Data.Secret
	if e.Data.Tenant != "" && e.Data.Tenant != defaultTenant {
		name = e.Data.Tenant + ":" + name
	}
	return Update{
		Secret: name, Version: e.Data.Version, Generation: e.Data.Generation, Trigger: e.Data.Trigger,
		PublishedAt: e.Data.PublishedAt, Value: backends.NewValue(e.Data.Fields),
	}
}

// handle returns how to answer. The same id again (a retry whose answer was lost,
// or a replay) gets the same answer without anything being done twice.
func (r *Receiver) handle(ctx context.Context, id string, e event) (string, error) {
	r.applying.Lock()
	defer r.applying.Unlock()
	if status, ok := r.answered[id]; ok {
		return status, nil
	}
	status, err := r.apply(ctx, e)
	if err != nil {
		return "", err
	}
	r.remember(id, status)
	return status, nil
}

func (r *Receiver) apply(ctx context.Context, e event) (string, error) {
	switch {
	case e.Type != rotatedEvent:
		return ignored, nil
	case e.Data.Payload != plainPayload:
		return received, nil // a reference: fetching it takes a token, which this example has not
	}
	u := e.update()
	_, generation := r.Current(u.Secret)
	if u.Generation < generation {
		return superseded, nil
	}
	if u.Generation > generation {
		if r.opts.OnApply != nil {
			if err := r.opts.OnApply(ctx, u); err != nil {
				return "", err
			}
		}
		r.mu.Lock()
		r.current[u.Secret] = u
		r.mu.Unlock()
	}
	if r.opts.ReceiveOnly {
		return received, nil
	}
	return applied, nil
}

func (r *Receiver) remember(id, status string) {
	if len(r.ids) == rememberedIDs {
		delete(r.answered, r.ids[0])
		r.ids = r.ids[1:]
	}
	r.answered[id] = status
	r.ids = append(r.ids, id)
}
