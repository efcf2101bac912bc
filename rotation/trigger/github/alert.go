package github

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

// The headers of a webhook besides the signature. They are not signed.
const (
	headerEvent    = "X-Github-Event"
	headerDelivery = "X-Github-Delivery"
)

// The events that are read
// (https://docs.github.com/en/webhooks/webhook-events-and-payloads#secret_scanning_alert).
const (
	eventPing  = "ping"
	eventAlert = "secret_scanning_alert"
)

// acting are the actions of an alert that say that a credential is out. The others
// (resolved, validated, assigned, …) are recorded.
var acting = []string{"created", "reopened", "publicly_leaked"}

// message is what is read of a webhook's body.
type message struct {
	Zen    string `json:"zen"` // of a ping
	HookID int64  `json:"hook_id"`

	Action string `json:"action"`
	Alert  *struct {
		Number      int64     `json:"number"`
		SecretType  string    `json:"secret_type"`
		DisplayName string    `json:"secret_type_display_name"`
		Resolution  string    `json:"resolution"`
		HTMLURL     string    `json:"html_url"`
		CreatedAt   time.Time `json:"created_at"`
		UpdatedAt   time.Time `json:"updated_at"`
		ResolvedAt  time.Time `json:"resolved_at"`
	} `json:"alert"`
	Repository struct {
		FullName string `json:"full_name"` // "owner/name"
	} `json:"repository"`
}

var (
	// What owners and repositories are called. Both become part of a URL.
	fullName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,100}/[A-Za-z0-9_.-]{1,100}$`)
	deliveryID = regexp.MustCompile(`^[0-9A-Fa-f-]{8,64}$`)
)

// alert reads a message of a webhook. Its event's id is made of what is signed: the
// delivery's own id stands in a header that is not, so that a captured message could be
// sent under another one.
func (r *Receiver) alert(ctx context.Context, header http.Header, body []byte) ([]inbound.Event, inbound.Reply, error) {
	id, err := inbound.VerifyHub(r.secrets, header, body)
	if err != nil {
		return nil, inbound.Reply{}, err
	}
	if kind, _, _ := mime.ParseMediaType(header.Get("Content-Type")); kind != "application/json" {
		return nil, inbound.Reply{}, fmt.Errorf("%w: the message is not of the type application/json: choose that in the webhook's settings at GitHub", backends.ErrInvalid)
	}
	var m message
	if err := inbound.Decode(body, &m); err != nil {
		return nil, inbound.Reply{}, err
	}
	e := inbound.Event{ID: id, Source: source(header)}
	switch kind := header.Get(headerEvent); {
	case kind == eventPing && m.Alert == nil && m.HookID != 0:
		e.Test, e.Reason = true, "GitHub has made the webhook, and tries it"
	case kind == eventAlert && m.Alert != nil:
		if err := r.about(ctx, &e, m); err != nil {
			return nil, inbound.Reply{}, err
		}
	case kind == eventAlert, kind == eventPing:
		return nil, inbound.Reply{}, fmt.Errorf("%w: the message is not what its header %s says", backends.ErrInvalid, headerEvent)
	default:
		return nil, inbound.Reply{}, nil // of no interest: more was chosen in the webhook's settings
	}
	return []inbound.Event{e.Clean()}, inbound.Reply{}, nil
}

// about says of an alert what there is to say, with the credential where it acts.
func (r *Receiver) about(ctx context.Context, e *inbound.Event, m message) error {
	repository, a := m.Repository.FullName, m.Alert
	if _, name, _ := strings.Cut(repository, "/"); !fullName.MatchString(repository) || name == "." || name == ".." || a.Number <= 0 {
		return fmt.Errorf("%w: the message names no repository, or no alert of it", backends.ErrInvalid)
	}
	what := a.DisplayName
	if what == "" {
		what = a.SecretType
	}
	e.At, e.URL = latest(a.CreatedAt, a.UpdatedAt, a.ResolvedAt), a.HTMLURL
	if e.URL == "" {
		e.URL = fmt.Sprintf("https://github.com/%s/security/secret-scanning/%d", repository, a.Number)
	}
	e.Reason = fmt.Sprintf("GitHub secret scanning: %s in %s, alert %d %s", what, repository, a.Number, strings.ReplaceAll(m.Action, "_", " "))
	if !slices.Contains(acting, m.Action) {
		if a.Resolution != "" {
			e.Reason += " (" + strings.ReplaceAll(a.Resolution, "_", " ") + ")"
		}
		return nil // it names nothing
	}
	value, err := r.value(ctx, repository, a.Number)
	if err != nil { // what is known is that something is out: GitHub does not say so again
		e.Missing = &inbound.Missing{Ask: map[string]string{askRepository: repository, askAlert: strconv.FormatInt(a.Number, 10)}, Why: err.Error()}
		return nil
	}
	e.Values = []backends.SecretString{value}
	return nil
}

// What names an alert whose credential is missing.
const (
	askRepository = "repository"
	askAlert      = "alert"
)

// Resolve implements inbound.Resolver.
func (r *Receiver) Resolve(ctx context.Context, ask map[string]string) ([]backends.SecretString, error) {
	number, err := strconv.ParseInt(ask[askAlert], 10, 64)
	if err != nil || !fullName.MatchString(ask[askRepository]) {
		return nil, fmt.Errorf("%w: an alert of GitHub has a repository and a number", backends.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	value, err := r.value(ctx, ask[askRepository], number)
	if err != nil {
		return nil, err
	}
	return []backends.SecretString{value}, nil
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare).UTC() }

// source says who has sent a message, for people.
func source(header http.Header) string {
	if id := header.Get(headerDelivery); deliveryID.MatchString(id) {
		return "GitHub, delivery " + id
	}
	return "GitHub"
}
