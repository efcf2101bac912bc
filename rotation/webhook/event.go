package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// ContentType is that of a body made by Message.Body.
const ContentType = "application/cloudevents+json"

const defaultSource = "/keybroker"

// Type is the CloudEvents type of an event: "dev.keybroker.secret.rotated.v1".
func Type(e rotation.Event) string { return "dev.keybroker." + string(e) + ".v1" }

// event is a CloudEvents 1.0.2 event in structured JSON.
type event struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            data      `json:"data"`
}

// data is what all events tell; what an event has nothing to say of is left out.
type data struct {
	about
	Trigger     string          `json:"trigger,omitempty"`
	Reason      string          `json:"reason,omitempty"`
	PublishedAt time.Time       `json:"published_at,omitzero"`
	DueAt       time.Time       `json:"due_at,omitzero"`
	Payload     Payload         `json:"payload"`
	*fields                     // Plain
	Sealed      json.RawMessage `json:"sealed,omitempty"` // JWE of sealed
	Href        string          `json:"href,omitempty"`
	Previous    *previous       `json:"previous,omitempty"`
}

// about says whom an event is meant for and what it is about. It stands in the event
// and again within what is sealed, so that neither can be put into another one's place.
type about struct {
	Audience   string `json:"audience"`
	Tenant     string `json:"tenant"`
	Secret     string `json:"secret,omitempty"`
	Version    int    `json:"version,omitempty"`
	Generation int64  `json:"generation,omitempty"`
}

// fields are a value as JSON has a place for it.
type fields struct {
	Fields    map[string]string `json:"fields"`
	Encodings map[string]string `json:"encodings,omitempty"` // fields that are base64, since they are no UTF-8 text
}

type previous struct {
	Version int       `json:"version"`
	Until   time.Time `json:"until"`
}

// encode writes v as JSON without a line's end.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		// The year of a time is all that can be wrong; json's error quotes it only.
		return nil, fmt.Errorf("%w: encoding the message: %w", backends.ErrInvalid, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
