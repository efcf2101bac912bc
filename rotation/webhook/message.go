package webhook

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
)

// EventRotated is the type of the event that announces a new current version.
const EventRotated = "dev.keybroker.secret.rotated.v1"

// ContentType is that of a body made by Message.Body.
const ContentType = "application/cloudevents+json"

// Payload says how a delivery hands the value over.
type Payload string

// The payloads.
const (
	Plain     Payload = "plain"     // the fields themselves
	Reference Payload = "reference" // where to fetch them
)

// Message is what one delivery announces.
type Message struct {
	ID          string // of the delivery; also the event's id
	Source      string // the event's source, a URI reference naming the broker; empty: "/keybroker"
	Ref         backends.Ref
	Version     int
	Generation  int64
	Trigger     string // "schedule", "event", "manual", "emergency"
	Reason      string
	PublishedAt time.Time
	Payload     Payload
	Value       backends.Value // only for Plain
	Previous    *Previous      // nil: there is none
}

// Previous is the version that was replaced.
type Previous struct {
	Version int
	Until   time.Time // it is revoked from then on
}

// event is a CloudEvents 1.0.2 event in structured JSON.
type event struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            rotated   `json:"data"`
}

type rotated struct {
	Tenant      string            `json:"tenant"`
	Secret      string            `json:"secret"`
	Version     int               `json:"version"`
	Generation  int64             `json:"generation"`
	Trigger     string            `json:"trigger"`
	Reason      string            `json:"reason,omitempty"`
	PublishedAt time.Time         `json:"published_at"`
	Payload     Payload           `json:"payload"`
	Fields      map[string]string `json:"fields,omitempty"`
	Encodings   map[string]string `json:"encodings,omitempty"` // fields that are base64, since they are no UTF-8 text
	Href        string            `json:"href,omitempty"`
	Previous    *previous         `json:"previous,omitempty"`
}

type previous struct {
	Version int       `json:"version"`
	Until   time.Time `json:"until"`
}

// Body encodes the message as a CloudEvents event. The same message always gives
// the same bytes. With Plain they carry the credential: seal them where they rest.
// ErrInvalid if the message is incomplete; the error shows nothing of the value.
func (m Message) Body() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	e := event{
		SpecVersion:     "1.0",
		ID:              m.ID,
		Source:          m.Source,
		Type:            EventRotated,
		Subject:         m.Ref.Name,
		Time:            m.PublishedAt.UTC(),
		DataContentType: "application/json",
		Data: rotated{
			Tenant:      m.Ref.Tenant,
			Secret:      m.Ref.Name,
			Version:     m.Version,
			Generation:  m.Generation,
			Trigger:     m.Trigger,
			Reason:      m.Reason,
			PublishedAt: m.PublishedAt.UTC(),
			Payload:     m.Payload,
		},
	}
	if e.Source == "" {
		e.Source = "/keybroker"
	}
	if m.Previous != nil {
		e.Data.Previous = &previous{Version: m.Previous.Version, Until: m.Previous.Until.UTC()}
	}
	if m.Payload == Plain {
		e.Data.Fields, e.Data.Encodings = encoded(m.Value.Reveal())
	} else {
		e.Data.Href = href(m.Ref.Name)
	}
	return encode(e)
}

// encoded puts fields that are no UTF-8 text into base64 (RFC 4648, section 4), in
// place, and names them: JSON has no place for their bytes.
func encoded(fields map[string]string) (_, encodings map[string]string) {
	for name, text := range fields {
		if utf8.ValidString(text) {
			continue
		}
		if encodings == nil {
			encodings = map[string]string{}
		}
		fields[name], encodings[name] = base64.StdEncoding.EncodeToString([]byte(text)), "base64"
	}
	return fields, encodings
}

func (m Message) check() error {
	switch {
	case checkID(m.ID) != nil:
		return checkID(m.ID)
	case m.Ref.Name == "" || m.Ref.Tenant == "":
		return fmt.Errorf("%w: the message names no secret of a tenant", backends.ErrInvalid)
	case m.PublishedAt.IsZero():
		return fmt.Errorf("%w: the message does not say when the version was published", backends.ErrInvalid)
	case m.Payload != Plain && m.Payload != Reference:
		return fmt.Errorf("%w: %q is no payload: it is plain or reference", backends.ErrInvalid, string(m.Payload))
	case m.Payload == Plain && m.Value.IsZero():
		return fmt.Errorf("%w: a plain message has no value", backends.ErrInvalid)
	case m.Payload == Reference && !m.Value.IsZero():
		return fmt.Errorf("%w: a message by reference has a value", backends.ErrInvalid)
	}
	return nil
}

// checkID refuses ids that Standard Webhooks could not sign unambiguously or that
// fit into no header.
func checkID(id string) error {
	if id == "" {
		return fmt.Errorf("%w: the delivery has no id", backends.ErrInvalid)
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' || c == '.' {
			return fmt.Errorf("%w: the delivery's id %q contains a dot or what is no printable ASCII", backends.ErrInvalid, id)
		}
	}
	return nil
}

func href(name string) string {
	return "/api/v1/secrets/" + (&url.URL{Path: name}).EscapedPath() + "/value"
}

func encode(e event) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		// The year of a time is all that can be wrong; json's error quotes it only.
		return nil, fmt.Errorf("%w: encoding the message: %w", backends.ErrInvalid, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
