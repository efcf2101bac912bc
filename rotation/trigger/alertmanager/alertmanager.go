// Package alertmanager receives the webhook of Prometheus's Alertmanager, version 4
// (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config).
package alertmanager

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const (
	version = "4"
	firing  = "firing"

	defaultLabel = "secret"
)

// Config is what a block trigger "alertmanager" says.
type Config struct {
	// BearerToken is what Alertmanager sends as http_config.authorization; several, one a
	// line. It signs nothing.
	BearerToken backends.SecretString `hcl:"bearer_token"`
	SecretLabel string                `hcl:"secret_label,optional"` // of an alert, that names the secret; default "secret"
	TenantLabel string                `hcl:"tenant_label,optional"` // that names its tenant; default: none does
}

var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// Validate returns what is wrong with c, one error a line, each beginning with what it is
// about. Offline says that secrets were not read.
func (c *Config) Validate(offline bool) error {
	var errs []error
	for name, label := range map[string]string{"secret_label": c.SecretLabel, "tenant_label": c.TenantLabel} {
		if label != "" && !labelName.MatchString(label) {
			errs = append(errs, fmt.Errorf("%w: %s %q is no name of a label of Prometheus", backends.ErrInvalid, name, label))
		}
	}
	if !offline {
		errs = append(errs, inbound.CheckSecrets("bearer_token", c.BearerToken))
	}
	return errors.Join(errs...)
}

// Receiver is an inbound.Receiver. Alertmanager repeats an alert for as long as it fires;
// that is one event.
type Receiver struct {
	tokens         []backends.SecretString
	secret, tenant string // labels
}

var _ inbound.Receiver = (*Receiver)(nil)

// New makes a receiver.
func New(c Config) *Receiver {
	r := &Receiver{tokens: inbound.Lines(c.BearerToken), secret: c.SecretLabel, tenant: c.TenantLabel}
	if r.secret == "" {
		r.secret = defaultLabel
	}
	return r
}

// message is what is read of a body.
type message struct {
	Version     string  `json:"version"`
	ExternalURL string  `json:"externalURL"`
	Receiver    string  `json:"receiver"`
	Alerts      []alert `json:"alerts"`
}

type alert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	Fingerprint  string            `json:"fingerprint"` // of its labels
	GeneratorURL string            `json:"generatorURL"`
}

// Receive implements inbound.Receiver. What is resolved is no event.
func (r *Receiver) Receive(_ context.Context, header http.Header, body []byte) ([]inbound.Event, inbound.Reply, error) {
	if err := inbound.VerifyBearer(r.tokens, header); err != nil {
		return nil, inbound.Reply{}, err
	}
	var m message
	if err := inbound.Decode(body, &m); err != nil {
		return nil, inbound.Reply{}, err
	}
	switch {
	case m.Version != version:
		return nil, inbound.Reply{}, fmt.Errorf("%w: the message is not of version %s of Alertmanager's webhook", backends.ErrInvalid, version)
	case len(m.Alerts) > inbound.MaxEvents:
		return nil, inbound.Reply{}, fmt.Errorf("%w: the message has more than %d alerts", backends.ErrInvalid, inbound.MaxEvents)
	}
	var events []inbound.Event
	for _, a := range m.Alerts {
		if a.Status != firing {
			continue
		}
		if a.Fingerprint == "" || a.StartsAt.IsZero() {
			return nil, inbound.Reply{}, fmt.Errorf("%w: an alert in the message has no fingerprint or no startsAt", backends.ErrInvalid)
		}
		events = append(events, r.event(a, m).Clean())
	}
	return events, inbound.Reply{}, nil
}

func (r *Receiver) event(a alert, m message) inbound.Event {
	e := inbound.Event{
		ID: a.Fingerprint + " " + a.StartsAt.UTC().Format(time.RFC3339Nano), At: a.StartsAt.UTC(),
		Reason: reason(a), Source: "Alertmanager " + inbound.Link(m.ExternalURL), URL: a.GeneratorURL,
	}
	if name := a.Labels[r.secret]; name != "" {
		if tenant := a.Labels[r.tenant]; r.tenant != "" && tenant != "" {
			name = tenant + ":" + name
		}
		e.Secrets = []string{name}
	}
	return e
}

// reason is the first that an alert says for people.
func reason(a alert) string {
	text := a.Labels["alertname"]
	for _, name := range []string{"summary", "description", "message"} {
		if said := a.Annotations[name]; said != "" {
			return text + ": " + said
		}
	}
	return text
}
