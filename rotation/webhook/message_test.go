package webhook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/webhook"
)

const canary = "canary-7f3d"

func message() webhook.Message {
	return webhook.Message{
		ID:          "dlv_01",
		Ref:         backends.Ref{Tenant: "acme", Name: "mail/sender"},
		Version:     4,
		Generation:  9,
		Trigger:     "emergency",
		Reason:      "leaked <in a log>",
		PublishedAt: time.Date(2026, 3, 1, 4, 0, 0, 0, time.FixedZone("", 3600)),
		Payload:     webhook.Plain,
		Value:       backends.NewValue(map[string]string{"user": "sender", "key": canary}),
		Previous:    &webhook.Previous{Version: 3, Until: time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)},
	}
}

func TestPlainBody(t *testing.T) {
	m := message()
	body, err := m.Body()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"specversion":"1.0","id":"dlv_01","source":"/keybroker","type":"dev.keybroker.secret.rotated.v1",` +
		`"subject":"mail/sender","time":"2026-03-01T03:00:00Z","datacontenttype":"application/json","data":{` +
		`"tenant":"acme","secret":"mail/sender","version":4,"generation":9,"trigger":"emergency","reason":"leaked <in a log>",` +
		`"published_at":"2026-03-01T03:00:00Z","payload":"plain","fields":{"key":"` + canary + `","user":"sender"},` +
		`"previous":{"version":3,"until":"2026-03-02T03:00:00Z"}}}`
	if string(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
	for range 20 {
		again, err := m.Body()
		if err != nil || !bytes.Equal(again, body) {
			t.Fatalf("a repetition differs: %v", err)
		}
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

func TestReferenceBodyCarriesNoValue(t *testing.T) {
	m := message()
	m.Payload, m.Value, m.Previous = webhook.Reference, backends.Value{}, nil
	m.Source = "https://keybroker.example.com"
	body, err := m.Body()
	if err != nil {
		t.Fatal(err)
	}
	var e struct {
		Source string
		Data   map[string]any
	}
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatal(err)
	}
	if e.Source != m.Source || e.Data["href"] != "/api/v1/secrets/mail/sender/value" {
		t.Errorf("got %s", body)
	}
	for _, absent := range []string{"fields", "previous"} {
		if _, ok := e.Data[absent]; ok {
			t.Errorf("%s is there: %s", absent, body)
		}
	}
}

func TestIncompleteMessagesAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*webhook.Message){
		"no id":                   func(m *webhook.Message) { m.ID = "" },
		"a dot in the id":         func(m *webhook.Message) { m.ID = "a.b" },
		"a line break in the id":  func(m *webhook.Message) { m.ID = "a\r\nb" },
		"no secret":               func(m *webhook.Message) { m.Ref.Name = "" },
		"no tenant":               func(m *webhook.Message) { m.Ref.Tenant = "" },
		"no time":                 func(m *webhook.Message) { m.PublishedAt = time.Time{} },
		"a year beyond RFC 3339":  func(m *webhook.Message) { m.PublishedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"no payload":              func(m *webhook.Message) { m.Payload = "" },
		"plain without a value":   func(m *webhook.Message) { m.Value = backends.Value{} },
		"a reference and a value": func(m *webhook.Message) { m.Payload = webhook.Reference },
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
