package webhook

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Payload says how a delivery hands the value over.
type Payload string

// The payloads.
const (
	Reference Payload = "reference" // where to fetch it
	Sealed    Payload = "sealed"    // encrypted to the consumer's public keys
	Plain     Payload = "plain"     // the fields themselves
)

// Payloads lists them all, the default first.
func Payloads() []Payload { return []Payload{Reference, Sealed, Plain} }

// CarriesValue tells whether messages that make a version current hold its value.
func (p Payload) CarriesValue() bool { return p == Sealed || p == Plain }

// Message is what one delivery announces.
type Message struct {
	ID          string // of the delivery; also the event's id
	Source      string // the event's source, a URI reference naming the broker; empty: "/keybroker"
	Event       rotation.Event
	Audience    string // the consumer that it is meant for
	Ref         backends.Ref
	Version     int
	Generation  int64
	Trigger     string // "schedule", "event", "manual", "emergency"
	Reason      string
	Time        time.Time // when it happened
	PublishedAt time.Time // when the version became current; zero: it never did
	DueAt       time.Time // only of EventRotating: when the rotation is due
	Payload     Payload
	Value       backends.Value // only where the event makes a version current and the payload carries it
	Recipients  *Recipients    // of Sealed
	Previous    *Previous      // nil: there is none
}

// Previous is the version that was replaced.
type Previous struct {
	Version int
	Until   time.Time // it is revoked from then on
}

// Body encodes the message as a CloudEvents event. The same message gives the same
// bytes, except that what is sealed is sealed anew. With Plain they carry the
// credential: seal them where they rest. ErrInvalid if the message is incomplete; the
// error shows nothing of the value.
func (m Message) Body() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	e := event{
		SpecVersion:     "1.0",
		ID:              m.ID,
		Source:          m.Source,
		Type:            Type(m.Event),
		Subject:         m.Ref.Name,
		Time:            m.Time.UTC(),
		DataContentType: "application/json",
		Data: data{
			about:       about{m.Audience, m.Ref.Tenant, m.Ref.Name, m.Version, m.Generation},
			Trigger:     m.Trigger,
			Reason:      m.Reason,
			PublishedAt: m.PublishedAt.UTC(),
			DueAt:       m.DueAt.UTC(),
			Payload:     m.Payload,
		},
	}
	if e.Source == "" {
		e.Source = defaultSource
	}
	if m.Event == rotation.EventTest {
		e.Subject = m.Audience
	}
	if m.Previous != nil {
		e.Data.Previous = &previous{Version: m.Previous.Version, Until: m.Previous.Until.UTC()}
	}
	if m.Event.MakesCurrent() {
		if err := m.handOver(&e.Data); err != nil {
			return nil, err
		}
	}
	return encode(e)
}

// handOver puts in the value, or where it is.
func (m Message) handOver(d *data) error {
	switch m.Payload {
	case Plain:
		d.fields = encoded(m.Value)
	case Sealed:
		jwe, err := m.Recipients.seal(sealed{about: d.about, fields: encoded(m.Value)})
		if err != nil {
			return err
		}
		d.Sealed = jwe
	case Reference:
		d.Href = href(m.Ref.Name)
	}
	return nil
}

// encoded puts fields that are no UTF-8 text into base64 (RFC 4648, section 4) and
// names them: JSON has no place for their bytes.
func encoded(v backends.Value) *fields {
	f := &fields{Fields: v.Reveal()}
	for name, text := range f.Fields {
		if utf8.ValidString(text) {
			continue
		}
		if f.Encodings == nil {
			f.Encodings = map[string]string{}
		}
		f.Fields[name], f.Encodings[name] = base64.StdEncoding.EncodeToString([]byte(text)), "base64"
	}
	return f
}

func (m Message) check() error {
	wrong := func(text string) error { return fmt.Errorf("%w: %s", backends.ErrInvalid, text) }
	carries := m.Event.MakesCurrent() && m.Payload.CarriesValue()
	switch {
	case checkID(m.ID) != nil:
		return checkID(m.ID)
	case !slices.Contains(rotation.Events(), m.Event):
		return wrong(fmt.Sprintf("%q is no event", string(m.Event)))
	case m.Audience == "":
		return wrong("the message names no consumer that it is meant for")
	case m.Ref.Tenant == "" || (m.Ref.Name == "") != (m.Event == rotation.EventTest):
		return wrong("the message names no secret of a tenant, or a test names one")
	case m.Time.IsZero():
		return wrong("the message does not say when it happened")
	case m.Event.MakesCurrent() && (m.PublishedAt.IsZero() || m.Version < 1):
		return wrong("the message does not say which version was published, and when")
	case m.DueAt.IsZero() == (m.Event == rotation.EventRotating):
		return wrong("a message that a rotation is due says when, and no other does")
	case !slices.Contains(Payloads(), m.Payload):
		return errPayload(m.Payload)
	case m.Value.IsZero() == carries:
		return wrong("the message has no value that it is to carry, or one that it is not")
	case carries && m.Payload == Sealed && m.Recipients == nil:
		return wrong("a sealed message has no recipients")
	}
	return nil
}

func errPayload(p Payload) error {
	return fmt.Errorf("%w: %q is no payload: it is reference, sealed or plain", backends.ErrInvalid, string(p))
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
