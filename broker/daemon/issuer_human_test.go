package daemon_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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
	hcl += "\nrotation_policy \"long\" {\n  limits {\n    min_length = 10\n  }\n}\n"
	at := newSite(t, hcl)
	n := at.start()
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
			_, err := n.Supply(t.Context(), r.ID, client.SupplyRequest{Fields: client.Fields{"key": key}, Handle: map[string]string{"id": id}, NotAfter: time.Now().Add(90 * 24 * time.Hour)})
			return err
		}
		if version == 2 {
			if err := supply(first, "another"); client.Status(err) != http.StatusBadRequest {
				t.Errorf("the old value was handed in again: %v", err)
			}
		}
		if version == 1 {
			for what, r2 := range map[string]client.SupplyRequest{
				"one that is over":      {NotAfter: time.Now().Add(-time.Hour), Fields: client.Fields{"key": strings.Repeat("x", 30)}},
				"one that is too short": {Fields: client.Fields{"key": "x23456789"}},
			} {
				r2.Handle = map[string]string{"id": "another"}
				if _, err := n.Supply(t.Context(), r.ID, r2); client.Status(err) != http.StatusBadRequest {
					t.Errorf("%s was handed in: %v", what, err)
				}
			}
		}
		made := site.do(t, http.MethodPost, "/v1/keys", fmt.Sprintf(`{"name": "by hand %d"}`, version))
		for _, pasted := range []string{made["secret"], "id " + made["secret"]} {
			if err := supply(made["secret"], pasted); client.Status(err) != http.StatusBadRequest {
				t.Errorf("the key was pasted into the handle: %v", err)
			}
		}
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
			plans := must(n.EffectivePlans(t.Context(), client.SecretQuery{}))(t)
			if next := plans.Items[0].Upcoming; len(next) == 0 || next[0].Why != "not_after" || time.Until(next[0].At) > 90*24*time.Hour {
				t.Errorf("it ends in 90 days, and rotates %+v", next)
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
	at.keepsToItself(first)

	// An emergency is for people, too: it says so at once.
	i := must(n.DeclareIncident(t.Context(), client.IncidentRequest{Reason: "leaked", Contain: client.RevokeFirst, Selector: client.Selector{Names: []string{secret}}}))(t)
	if len(i.Checklist) != 1 || !strings.Contains(i.Checklist[0].Text, "version 2 of "+secret+" off by hand") {
		t.Errorf("%+v", i.Checklist)
	}
	eventually(t, "what people have to do", func() bool {
		i = must(n.Incident(t.Context(), i.ID))(t)
		return len(i.Stuck) == 2
	})
	if turn, mint := i.Stuck[0], i.Stuck[1]; turn.Next != "keybroker retirement done "+i.Targets[0].Versions[0].RetirementID || mint.Next != "keybroker rotation supply "+i.Targets[0].RotationID {
		t.Errorf("%+v", i.Stuck)
	}
	for _, k := range site.Live() {
		site.do(t, http.MethodDelete, "/v1/keys/"+k.ID, "")
	}
	must(n.TurnedOff(t.Context(), i.Targets[0].Versions[0].RetirementID, client.InterventionRequest{}))(t)
	eventually(t, "its containment", func() bool {
		i = must(n.Incident(t.Context(), i.ID))(t)
		return i.Progress.AllContained() && !i.ContainedAt.IsZero()
	})
	if i.Progress.AllProven() || !i.ProvenAt.IsZero() { // nothing shows yet that the probe would accept a key that works
		t.Errorf("%+v", i)
	}
	made := site.do(t, http.MethodPost, "/v1/keys", `{"name": "by hand, in an emergency"}`)
	must(n.Supply(t.Context(), i.Targets[0].RotationID, client.SupplyRequest{Fields: client.Fields{"key": made["secret"]}, Handle: map[string]string{"id": made["id"]}}))(t)
	if last := n.watchIncident(t, i.ID); !last.Progress.AllProven() || last.Progress.Replaced != 1 {
		t.Errorf("%+v", last)
	}
}

// keepsToItself looks for a value that the broker was given in all that it writes.
func (s *site) keepsToItself(value string) {
	t := s.t
	t.Helper()
	if strings.Contains(s.log.String(), value) {
		t.Error("it is in the log")
	}
	err := filepath.WalkDir(filepath.Join(s.dir, "data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), value) {
			t.Errorf("it is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
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
