package alertmanager_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/alertmanager"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const (
	canary = "c4n4ry-s3cr3t-v4lue"
	token  = "a-token-of-alertmanager"
)

var authorized = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}, "User-Agent": {"Alertmanager/0.28.0"}}

func published(t testing.TB) string {
	t.Helper()
	body, err := os.ReadFile("testdata/v4.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func receive(t *testing.T, c alertmanager.Config, body string) []inbound.Event {
	t.Helper()
	c.BearerToken = "an-older-one-of-it\n" + token
	if err := c.Validate(false); err != nil {
		t.Fatal(err)
	}
	events, reply, err := alertmanager.New(c).Receive(t.Context(), authorized, []byte(body))
	if err != nil || reply.Status != 0 {
		t.Fatal(reply, err)
	}
	return events
}

func TestAlerts(t *testing.T) {
	events := receive(t, alertmanager.Config{}, published(t))
	want := []inbound.Event{
		{
			ID: "1a30ba71cca2921f 2023-02-06T13:08:45.828Z", At: time.Date(2023, 2, 6, 13, 8, 45, 828e6, time.UTC), Secrets: []string{"mail/sendgrid"},
			Reason: "CredentialInLogs: Credential in logs", Source: "Alertmanager http://prometheus.example.org:9093", URL: "http://prometheus.example.org:9090/graph",
		},
		{ID: "c6eadffa33fcdf37 2023-02-06T13:08:45.828Z", At: time.Date(2023, 2, 6, 13, 8, 45, 828e6, time.UTC), Reason: "ProbeFailure", Source: "Alertmanager http://prometheus.example.org:9093"},
	}
	if !reflect.DeepEqual(events, want) {
		t.Errorf("%+v", events)
	}
	if again := receive(t, alertmanager.Config{}, strings.Replace(published(t), `"groupKey"`, `"repeated": true, "groupKey"`, 1)); again[0].ID != events[0].ID {
		t.Error("what fires on is another event")
	}
	if later := receive(t, alertmanager.Config{}, strings.Replace(published(t), "13:08:45.828Z", "17:00:00Z", 1)); later[0].ID == events[0].ID {
		t.Error("what fires anew is the same event")
	}
	if resolved := receive(t, alertmanager.Config{}, strings.ReplaceAll(published(t), `"firing"`, `"resolved"`)); len(resolved) != 0 {
		t.Errorf("resolved: %+v", resolved)
	}
}

func TestLabelsOfTheConfiguration(t *testing.T) {
	for _, c := range []struct {
		config alertmanager.Config
		want   []string
	}{
		{alertmanager.Config{TenantLabel: "customer"}, []string{"acme:mail/sendgrid"}},
		{alertmanager.Config{SecretLabel: "job"}, []string{"log_scanner"}},
		{alertmanager.Config{SecretLabel: "job", TenantLabel: "absent"}, []string{"log_scanner"}},
		{alertmanager.Config{SecretLabel: "absent", TenantLabel: "customer"}, nil},
	} {
		if got := receive(t, c.config, published(t))[0].Secrets; !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c.config, got)
		}
	}
}

func TestRefuses(t *testing.T) {
	r := alertmanager.New(alertmanager.Config{BearerToken: token})
	for name, header := range map[string]http.Header{
		"nobody":        {},
		"another token": {"Authorization": {"Bearer " + canary}},
		"basic":         {"Authorization": {"Basic " + token}},
	} {
		if _, _, err := r.Receive(t.Context(), header, []byte(published(t))); !errors.Is(err, backends.ErrDenied) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, body := range map[string]string{
		"nothing":          "",
		"no JSON":          canary,
		"truncated":        published(t)[:700],
		"another version":  strings.Replace(published(t), `"version": "4"`, `"version": "3"`, 1),
		"no version":       `{"alerts":[]}`,
		"no fingerprint":   strings.Replace(published(t), "1a30ba71cca2921f", "", 1),
		"no start":         strings.Replace(published(t), "2023-02-06T13:08:45.828Z", "0001-01-01T00:00:00Z", 1),
		"a time of a text": strings.Replace(published(t), "2023-02-06T13:08:45.828Z", canary, 1),
		"labels of lists":  `{"version":"4","alerts":[{"status":"firing","labels":{"secret":["` + canary + `"]}}]}`,
		"deep":             `{"version":"4","alerts":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}",
		"too many":         `{"version":"4","alerts":[` + strings.Repeat(`{"status":"firing"},`, inbound.MaxEvents) + `{}]}`,
	} {
		if _, _, err := r.Receive(t.Context(), authorized, []byte(body)); !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfigurationMistakes(t *testing.T) {
	for says, c := range map[string]alertmanager.Config{
		"bearer_token is too short": {BearerToken: "short"},
		"bearer_token is empty":     {BearerToken: "\n"},
		`secret_label "my secret"`:  {BearerToken: token, SecretLabel: "my secret"},
		`tenant_label "1st" is no`:  {BearerToken: token, TenantLabel: "1st"},
	} {
		if err := c.Validate(false); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if err := (&alertmanager.Config{BearerToken: "0ff11ce0"}).Validate(true); err != nil {
		t.Error(err)
	}
}

// FuzzReceive: whatever is sent, the errors have a class and the events an id and bounds.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(published(f)))
	f.Add([]byte(`{"version":"4","alerts":[{"status":"firing","labels":{"secret":"\u0000"},"startsAt":"2023-02-06T13:08:45.828Z","fingerprint":"x"}]}`))
	r := alertmanager.New(alertmanager.Config{BearerToken: token, TenantLabel: "customer"})
	f.Fuzz(func(t *testing.T, body []byte) {
		events, _, err := r.Receive(context.Background(), authorized, body)
		if err != nil && !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%v", err)
		}
		for _, e := range events {
			if e.ID == "" || len(e.Reason) > 1024 || len(e.Secrets) > 1 {
				t.Errorf("%+v", e)
			}
		}
	})
}
