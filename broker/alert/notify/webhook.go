package notify

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// EventType is the type of the event that a webhook is told by.
const EventType = "dev.keybroker.alert.v1"

// Webhook is a notifier that is sent CloudEvents, signed as Standard Webhooks 1.0.0.
// Without a signing secret the daemon makes one.
type Webhook struct {
	URL                 string                `hcl:"url"`
	SigningSecret       backends.SecretString `hcl:"signing_secret,optional"`
	SigningSecretFile   string                `hcl:"signing_secret_file,optional"`
	CAFile              string                `hcl:"ca_file,optional"`
	AllowPrivateNetwork bool                  `hcl:"allow_private_network,optional"`
}

// Check returns every mistake, joined; offline, secrets are not known.
func (c Webhook) Check(offline bool) error {
	var both, secret, ca error
	if c.SigningSecret != "" && c.SigningSecretFile != "" {
		both = invalid("signing_secret_file is a second signing secret: write one of them, or neither, then one is made")
	}
	if c.SigningSecret != "" && !offline {
		if _, err := webhook.NewSigner(c.SigningSecret); err != nil {
			secret = invalid("signing_secret cannot be used: it begins with whsec_ or whsk_, followed by standard base64")
		}
	}
	if c.CAFile != "" && strings.HasPrefix(c.URL, "http://") {
		ca = invalid("ca_file means nothing over http: use https")
	}
	return joined(checkURL("url", c.URL, true), both, secret, ca)
}

type webhookNotifier struct {
	signer *webhook.Signer
	sender *webhook.Sender
}

// NewWebhook returns the notifier, which signs with secret.
func NewWebhook(c Webhook, secret backends.SecretString, now func() time.Time) (alert.Notifier, error) {
	signer, err := webhook.NewSigner(secret)
	if err != nil {
		return nil, err
	}
	sender, err := webhook.NewSender(webhook.Endpoint{
		URL: c.URL, AllowPrivate: c.AllowPrivateNetwork, Timeout: timeout,
		TLS: webhook.TLS{MinVersion: tls.VersionTLS12, CAFile: c.CAFile},
	}, now)
	if err != nil {
		return nil, err
	}
	return &webhookNotifier{signer: signer, sender: sender}, nil
}

// Close closes the connections kept.
func (w *webhookNotifier) Close() { w.sender.Close() }

// cloudEvent is a CloudEvents 1.0.2 event in structured JSON.
type cloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            told      `json:"data"`
}

type told struct {
	Event    alert.Event    `json:"event"`
	Rule     string         `json:"rule,omitempty"`
	By       string         `json:"requested_by,omitempty"`
	Severity alert.Severity `json:"severity,omitempty"`
	Title    string         `json:"title"`
	Alert    *about         `json:"alert,omitempty"`
	Open     *int           `json:"open,omitempty"`
}

// about is the alert as programs are told of it.
type about struct {
	ID             string    `json:"id"`
	Kind           string    `json:"kind"`
	Tenant         string    `json:"tenant,omitempty"`
	Subject        string    `json:"subject"`
	Node           string    `json:"node,omitempty"`
	Text           string    `json:"text"`
	Next           string    `json:"next,omitempty"`
	Count          int       `json:"count"`
	OpenedAt       time.Time `json:"opened_at"`
	LastAt         time.Time `json:"last_at"`
	AcknowledgedAt time.Time `json:"acknowledged_at,omitzero"`
	AcknowledgedBy string    `json:"acknowledged_by,omitempty"`
	ResolvedAt     time.Time `json:"resolved_at,omitzero"`
}

func tell(n alert.Notification) told {
	t := told{Event: n.Event, Rule: n.Rule, By: n.By, Title: n.Title()}
	if n.Event == alert.Heartbeat {
		t.Open = &n.Open
	}
	if a := n.Alert; a.ID != "" {
		t.Severity = alert.SeverityOf(a.Kind)
		t.Alert = &about{ID: a.ID, Kind: a.Kind, Tenant: a.Tenant, Subject: a.Subject, Node: a.Node, Text: a.Text, Next: a.Next, Count: a.Count,
			OpenedAt: a.OpenedAt.UTC(), LastAt: a.LastAt.UTC(), AcknowledgedAt: a.AckedAt.UTC(), AcknowledgedBy: a.AckedBy, ResolvedAt: a.ResolvedAt.UTC()}
	}
	return t
}

// Notify implements alert.Notifier.
func (w *webhookNotifier) Notify(ctx context.Context, n alert.Notification) error {
	body, err := json.Marshal(cloudEvent{SpecVersion: "1.0", ID: n.ID, Source: n.Source, Type: EventType, Subject: n.Alert.ID,
		Time: n.At.UTC(), DataContentType: "application/json", Data: tell(n)})
	if err != nil {
		return invalid("what is to be told cannot be encoded as JSON")
	}
	out := w.sender.Send(ctx, n.ID, body, w.signer)
	if out.Err != nil && out.RetryAfter > 0 {
		return Slow{out.Err, out.RetryAfter}
	}
	return out.Err
}
