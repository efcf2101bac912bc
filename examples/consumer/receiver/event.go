package receiver

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

const defaultTenant = backends.DefaultTenant

var (
	errNoEvent  = refusal{http.StatusBadRequest, "the body is no event of its webhook-id"}
	errAudience = refusal{http.StatusForbidden, "the message is meant for another consumer"}
	errFields   = refusal{http.StatusBadRequest, "a field is not encoded as the message says"}
)

// event is the part of the CloudEvents event that we use.
type event struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Data struct {
		subject
		content
		Trigger     string          `json:"trigger"`
		Reason      string          `json:"reason"`
		PublishedAt time.Time       `json:"published_at"`
		DueAt       time.Time       `json:"due_at"`
		Payload     string          `json:"payload"`
		Sealed      json.RawMessage `json:"sealed"`
		Href        string          `json:"href"`
	} `json:"data"`
}

// subject is what a message is about, and for whom. What is sealed says it again, so
// that it cannot be moved into another message.
type subject struct {
	Audience   string `json:"audience"`
	Tenant     string `json:"tenant"`
	Secret     string `json:"secret"`
	Version    int    `json:"version"`
	Generation int64  `json:"generation"`
}

// content is a value as JSON has it: in the message, in what is sealed in it, and in
// the answer to who reads it.
type content struct {
	Fields    map[string]string `json:"fields"`
	Encodings map[string]string `json:"encodings"` // fields that are base64, since they are no text
}

func (r *Receiver) parse(id string, body []byte) (event, error) {
	var e event
	if err := json.Unmarshal(body, &e); err != nil || e.ID != id {
		return e, errNoEvent // the error would quote the body
	}
	if r.opts.Consumer != "" && e.Data.Audience != r.opts.Consumer {
		return e, errAudience
	}
	return e, nil
}

// name is that of the event, "secret.rotated"; empty: it is none that we know.
func (e event) name() string {
	name, ours := strings.CutPrefix(e.Type, "dev.keybroker.")
	name, first := strings.CutSuffix(name, ".v1")
	if !ours || !first {
		return ""
	}
	return name
}

func (e event) makesCurrent() bool {
	return e.name() == "secret.rotated" || e.name() == "secret.rolled_back"
}

// secret is its name, with the tenant's before it where that is not the default one.
func (e event) secret() string {
	if e.Data.Tenant == "" || e.Data.Tenant == defaultTenant || e.Data.Secret == "" {
		return e.Data.Secret
	}
	return e.Data.Tenant + ":" + e.Data.Secret
}

func (e event) update(v backends.Value) Update {
	return Update{
		ID: e.ID, Secret: e.secret(), Version: e.Data.Version, Generation: e.Data.Generation, Trigger: e.Data.Trigger,
		PublishedAt: e.Data.PublishedAt, Value: v,
	}
}

// value gives the fields that are no text their bytes.
func (c content) value() (backends.Value, error) {
	for name, encoding := range c.Encodings {
		text, ok := c.Fields[name]
		raw, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil || encoding != "base64" {
			return backends.Value{}, errFields
		}
		c.Fields[name] = string(raw)
	}
	if len(c.Fields) == 0 {
		return backends.Value{}, errFields
	}
	return backends.NewValue(c.Fields), nil
}
