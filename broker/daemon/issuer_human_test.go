package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// example reads the configuration of an example, for a test's own address.
func example(t *testing.T, name string, replace ...string) string {
	t.Helper()
	b, err := os.ReadFile("../../examples/issuers/" + name + "/config.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(append([]string{"127.0.0.1:8400", "ADDR"}, replace...)...).Replace(string(b))
}

// portal is where a person makes keys and turns them off.
type portal struct{ *keyserver.Server }

func (p portal) do(t *testing.T, method, path, body string) map[string]string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.AdminToken)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer map[string]any
	_ = json.NewDecoder(resp.Body).Decode(&answer)
	if resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
	text := map[string]string{}
	for name, v := range answer {
		text[name] = fmt.Sprint(v)
	}
	return text
}

// A person makes the credential and hands it in, another one turns the old one off: the
// broker verifies, publishes, and proves.
func TestACredentialMadeByHand(t *testing.T) {
	t.Parallel()
	site := portal{keyserver.Start(t)}
	hcl := example(t, "human", "https://api.carrier.example/v1/me", site.URL+"/v1/me",
		`probe "http" "carrier" {`, "probe \"http\" \"carrier\" {\n  allow_private_network = true",
		`overlap  = "48h"`, "overlap = \"0s\"\n verify {\n successes = 1\n interval = \"1s\"\n }\n confirm {\n rejections = 2\n window = \"1s\"\n }",
		`schedule = "0 9 1 */3 *" # when people are at work`, "")
	n := newSite(t, hcl).start()
	const secret = "sms/carrier"

	var first string
	for version := 1; version <= 2; version++ {
		r := must(n.Rotate(t.Context(), secret, client.RotateRequest{}))(t)
		eventually(t, "a value is wanted", func() bool {
			r = must(n.Rotation(t.Context(), r.ID))(t)
			return r.WaitingFor == "value"
		})
		n.awaitAlert(t, "value_wanted", r.ID)
		supply := func(key, id string) error {
			_, err := n.Supply(t.Context(), r.ID, client.SupplyRequest{Fields: client.Fields{"key": key}, Handle: map[string]string{"id": id}})
			return err
		}
		if version == 2 {
			if err := supply(first, "another"); client.Status(err) != http.StatusBadRequest {
				t.Errorf("the old value was handed in again: %v", err)
			}
		}
		made := site.do(t, http.MethodPost, "/v1/keys", fmt.Sprintf(`{"name": "by hand %d"}`, version))
		if err := supply(made["secret"], made["id"]); err != nil {
			t.Fatal(err)
		}
		if err := supply(made["secret"], made["id"]); client.Status(err) != http.StatusConflict {
			t.Errorf("it was handed in twice: %v", err)
		}
		if version == 1 {
			first = made["secret"]
			if ended, _ := n.follow(t, r.ID); ended.State != "done" {
				t.Fatalf("%+v", ended)
			}
			continue
		}
		var old client.Retirement
		eventually(t, "somebody is asked to turn the old one off", func() bool {
			for _, v := range must(n.Secret(t.Context(), secret))(t).Versions {
				if v.Number == 1 && v.Retirement != nil {
					old = *v.Retirement
				}
			}
			return old.State == client.Unconfirmed
		})
		n.awaitAlert(t, "revoke_by_hand", old.ID)
		for _, k := range site.Live() {
			if k.ID != made["id"] {
				site.do(t, http.MethodDelete, "/v1/keys/"+k.ID, "")
			}
		}
		must(n.TurnedOff(t.Context(), old.ID, client.InterventionRequest{}))(t)
		ended, retired := n.follow(t, r.ID)
		if ended.State != "done" || retired[1].State != "proven_dead" || retired[1].AcknowledgedAt.IsZero() {
			t.Errorf("%+v\n%+v", ended, retired[1])
		}
		if v := must(n.Value(t.Context(), secret, 0))(t); v.Fields["key"] != made["secret"] {
			t.Error("applications get another value than was handed in")
		}
	}
}

// awaitAlert waits until an alert of the kind and subject is open.
func (n *node) awaitAlert(t *testing.T, kind, subject string) {
	t.Helper()
	eventually(t, "the alert "+kind, func() bool {
		found := must(n.Alerts(t.Context(), client.AlertQuery{}))(t)
		return slices.ContainsFunc(found.Items, func(a client.Alert) bool { return a.Kind == kind && a.Subject == subject })
	})
}
