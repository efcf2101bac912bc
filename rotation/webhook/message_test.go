package webhook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const canary = "canary-7f3d"

var published = time.Date(2026, 3, 1, 4, 0, 0, 0, time.FixedZone("", 3600))

// message tells of a version that was replaced in an emergency, and gives its value.
func message() webhook.Message {
	return webhook.Message{
		ID:          "dlv_01",
		Event:       rotation.EventRotated,
		Audience:    "newsletter",
		Ref:         backends.Ref{Tenant: "acme", Name: "mail/sender"},
		Version:     4,
		Generation:  9,
		Trigger:     "emergency",
		Reason:      "leaked <in a log>",
		Time:        published.Add(time.Second),
		PublishedAt: published,
		Payload:     webhook.Plain,
		Value:       backends.NewValue(map[string]string{"user": "sender", "key": canary}),
		Previous:    &webhook.Previous{Version: 3, Until: time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)},
	}
}

// byReference is message for a consumer that fetches the value.
func byReference() webhook.Message {
	m := message()
	m.Payload, m.Value = webhook.Reference, backends.Value{}
	return m
}

// notice tells of something that makes no version current.
func notice(e rotation.Event) webhook.Message {
	m := byReference()
	m.Event, m.Previous = e, nil
	switch e {
	case rotation.EventRotating:
		m.Trigger, m.Reason, m.DueAt = "schedule", "", published.Add(72*time.Hour)
	case rotation.EventTest:
		m.Ref.Name, m.Version, m.Generation, m.Trigger, m.Reason, m.PublishedAt = "", 0, 0, "manual", "", time.Time{}
	case rotation.EventEmergency:
	default:
		m.Version = 3
	}
	return m
}

// TestBodies: what consumers parse, byte by byte, for each event (CloudEvents 1.0.2).
func TestBodies(t *testing.T) {
	back := byReference()
	back.Event, back.Version, back.Generation, back.Trigger = rotation.EventRolledBack, 3, 10, "manual"
	back.Reason, back.Previous = "the new one does not work", &webhook.Previous{Version: 4, Until: published.Add(time.Hour)}
	messages := map[string]webhook.Message{"secret.rotated": byReference(), "secret.rotated.plain": message(), "secret.rolled_back": back}
	for _, e := range rotation.Events() {
		if !e.MakesCurrent() {
			messages[string(e)] = notice(e)
		}
	}
	for name, m := range messages {
		body, err := m.Body()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden, err := os.ReadFile(filepath.Join("testdata", "events", name+".json"))
		if err != nil {
			t.Error(err)
		}
		var want bytes.Buffer
		if err := json.Compact(&want, golden); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(body, want.Bytes()) {
			t.Errorf("%s:\ngot  %s\nwant %s", name, body, want.Bytes())
		}
		if again, err := m.Body(); err != nil || !bytes.Equal(again, body) {
			t.Errorf("%s: a repetition differs: %v", name, err)
		}
	}
	files, err := filepath.Glob("testdata/events/*.json")
	if err != nil || len(files) != len(messages) {
		t.Errorf("%d examples of %d messages: %v", len(files), len(messages), err)
	}
}

// TestFieldsThatAreNoText: JSON would put other bytes in their place.
func TestFieldsThatAreNoText(t *testing.T) {
	m := message()
	m.Value = backends.NewValue(map[string]string{"user": "sender", "key": "\xff\x00\xfe"})
	body, err := m.Body()
	if err != nil {
		t.Fatal(err)
	}
	if want := `"fields":{"key":"/wD+","user":"sender"},"encodings":{"key":"base64"},`; !strings.Contains(string(body), want) {
		t.Errorf("%s, want %s", body, want)
	}
	if again, err := m.Body(); err != nil || !bytes.Equal(again, body) {
		t.Errorf("a repetition differs: %v", err)
	}
}

func TestSourceNamesTheBroker(t *testing.T) {
	m := byReference()
	m.Source = "https://keybroker.example.com"
	body, err := m.Body()
	if err != nil || !strings.Contains(string(body), `"source":"https://keybroker.example.com",`) {
		t.Errorf("%s, %v", body, err)
	}
}

// TestNoticesCarryNoValue: whatever the payload is, only events that make a version
// current may.
func TestNoticesCarryNoValue(t *testing.T) {
	for _, e := range rotation.Events() {
		if e.MakesCurrent() {
			continue
		}
		for _, p := range webhook.Payloads() {
			m := notice(e)
			m.Payload = p
			body, err := m.Body()
			if err != nil {
				t.Errorf("%s, %s: %v", e, p, err)
			}
			for _, absent := range []string{`"fields"`, `"sealed":`, `"href"`} {
				if strings.Contains(string(body), absent) {
					t.Errorf("%s, %s: %s", e, p, body)
				}
			}
			m.Value = message().Value
			if body, err := m.Body(); !errors.Is(err, backends.ErrInvalid) || body != nil {
				t.Errorf("%s, %s: a value is carried: %v", e, p, err)
			}
		}
	}
}

func TestIncompleteMessagesAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*webhook.Message){
		"no id":                   func(m *webhook.Message) { m.ID = "" },
		"a dot in the id":         func(m *webhook.Message) { m.ID = "a.b" },
		"a line break in the id":  func(m *webhook.Message) { m.ID = "a\r\nb" },
		"no event":                func(m *webhook.Message) { m.Event = "" },
		"an unknown event":        func(m *webhook.Message) { m.Event = "secret.lost" },
		"no audience":             func(m *webhook.Message) { m.Audience = "" },
		"no secret":               func(m *webhook.Message) { m.Ref.Name = "" },
		"no tenant":               func(m *webhook.Message) { m.Ref.Tenant = "" },
		"no version":              func(m *webhook.Message) { m.Version = 0 },
		"no time":                 func(m *webhook.Message) { m.Time = time.Time{} },
		"never published":         func(m *webhook.Message) { m.PublishedAt = time.Time{} },
		"a year beyond RFC 3339":  func(m *webhook.Message) { m.PublishedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"due, which it is not":    func(m *webhook.Message) { m.DueAt = published },
		"no payload":              func(m *webhook.Message) { m.Payload = "" },
		"plain without a value":   func(m *webhook.Message) { m.Value = backends.Value{} },
		"a reference and a value": func(m *webhook.Message) { m.Payload = webhook.Reference },
		"sealed to nobody":        func(m *webhook.Message) { m.Payload = webhook.Sealed },
		"a test of a secret": func(m *webhook.Message) {
			*m = notice(rotation.EventTest)
			m.Ref.Name = "mail/sender"
		},
		"rotating some day": func(m *webhook.Message) {
			*m = notice(rotation.EventRotating)
			m.DueAt = time.Time{}
		},
	} {
		m := message()
		spoil(&m)
		body, err := m.Body()
		if !errors.Is(err, backends.ErrInvalid) || body != nil {
			t.Errorf("%s: got %v", name, err)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the value is in the error", name)
		}
	}
}

func TestPayloads(t *testing.T) {
	carry := slices.DeleteFunc(webhook.Payloads(), func(p webhook.Payload) bool { return !p.CarriesValue() })
	if !slices.Equal(carry, []webhook.Payload{webhook.Sealed, webhook.Plain}) || webhook.Payloads()[0] != webhook.Reference {
		t.Errorf("%v carry values, of %v", carry, webhook.Payloads())
	}
}
