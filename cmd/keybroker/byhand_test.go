package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// TestWhatIsHandedIn comes from stdin as it is, and is in no error.
func TestWhatIsHandedIn(t *testing.T) {
	for _, c := range []struct {
		in     string
		fields []string
		want   client.Fields
		wrong  string
	}{
		{in: canary, fields: []string{"key"}, want: client.Fields{"key": canary}},
		{in: canary + "\n", fields: []string{"key"}, want: client.Fields{"key": canary}},
		{in: canary + "\r\n", fields: []string{"key"}, want: client.Fields{"key": canary}},
		{in: canary + "\n\n", fields: []string{"key"}, want: client.Fields{"key": canary + "\n"}},
		{in: " " + canary + " ", fields: []string{"key"}, want: client.Fields{"key": " " + canary + " "}},
		{in: `{"username": "u", "password": "` + canary + `\n"}`, want: client.Fields{"username": "u", "password": canary + "\n"}},
		{in: canary, wrong: "stdin holds no JSON object of texts"},
		{in: `{"key": ["` + canary + `"]}`, wrong: "the field key on stdin is no text"},
		{in: `{"user": "u", "key": ` + canary + `}`, wrong: "stdin holds no JSON object of texts"},
		{in: `{"user": "u", "pin": 1}`, wrong: "the field pin on stdin is no text"},
		{in: `{"user": "u", "pin": null}`, wrong: "the field pin on stdin is no text"},
		{in: `{"key": "` + canary + `", "key": "y"}`, wrong: "stdin holds the field key twice"},
		{in: `{"key": "` + canary + `"`, wrong: "stdin holds no JSON object of texts"},
		{in: `["` + canary + `"]`, wrong: "stdin holds no JSON object of texts"},
		{in: `{"key": "` + canary + `"} {"key": "x"}`, wrong: "stdin holds no JSON object of texts"},
		{in: "{}", wrong: "stdin holds no JSON object of texts"},
		{in: "\n", fields: []string{"key"}, wrong: "stdin is empty"},
		{in: canary, fields: []string{"key", "user"}, wrong: "give several as a JSON object"},
		{in: "x", fields: []string{"key=" + canary}, wrong: "its value comes from stdin"},
		{in: "x", fields: []string{"key", "key"}, wrong: "is given twice"},
		{in: strings.Repeat("x", maxSupplied+1), fields: []string{"key"}, wrong: "is longer than"},
	} {
		a := newApp(streams{in: strings.NewReader(c.in)})
		got, err := a.typedIn(c.fields)
		switch {
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong) || strings.Contains(err.Error(), canary)):
			t.Errorf("%q %q: %v", c.in, c.fields, err)
		case c.wrong == "" && (err != nil || len(got) != len(c.want)):
			t.Errorf("%q %q: %v", c.in, c.fields, err)
		}
		for name, text := range c.want {
			if got[name] != text {
				t.Errorf("%q %q: %s is not what was handed in", c.in, c.fields, name)
			}
		}
	}
}

// TestAWaitSaysWhatEndsIt: in words, and with the command.
func TestAWaitSaysWhatEndsIt(t *testing.T) {
	for wait, ends := range map[string]string{
		waitWindow: "keybroker secret rotate acme:a/b --ignore-window", waitPair: "keybroker rotation list --live",
		waitConcurrency: "keybroker rotation list --live", waitValue: "keybroker rotation supply r1 --field NAME",
	} {
		r := client.Rotation{ID: "r1", Secret: "a/b", Tenant: "acme", State: client.RotationQueued, WaitingFor: wait}
		if got := resolves(r); !strings.Contains(got, ends) || inWords(wait) == wait {
			t.Errorf("%s: %s: %s", wait, inWords(wait), got)
		}
	}
	if got := resolvesRetirement(client.Retirement{ID: "t1", ByHand: true, WaitingFor: waitByHand}); !strings.HasSuffix(got, "keybroker retirement done t1") {
		t.Error(got)
	}
}

// TestAProofThatWaitsForAPerson is told with what the person says then.
func TestAProofThatWaitsForAPerson(t *testing.T) {
	r := client.Rotation{ID: "r2", Secret: "a/b", Tenant: "default", State: "retiring", WaitingFor: waitProof}
	s := serve(t, map[string]any{"GET /api/v1/rotations/r2": r, "GET /api/v1/retirements": client.List[client.Retirement]{Items: []client.Retirement{
		{ID: "t9", RotationID: "r9", Version: 9, WaitingFor: waitByHand}, {ID: "t2", RotationID: "r2", Version: 2, WaitingFor: waitByHand}}}})
	if r := s.keybroker("rotation", "show", "r2"); r.code != 0 || !strings.Contains(r.out, "keybroker retirement done t2\n") || strings.Contains(r.out, "t9") {
		t.Errorf("%+v", r)
	}
}

// TestACheckFailsWithAProblem, and not with what cannot be told.
func TestACheckFailsWithAProblem(t *testing.T) {
	unknown := client.IssuerFinding{What: "may delete keys", Problem: "it cannot be tried", Unknown: true}
	bad := client.IssuerFinding{What: "may make keys", Problem: "it may not", Mend: "grant it", Secrets: []string{"a/b"}}
	for code, findings := range map[int][]client.IssuerFinding{0: {unknown, {What: "logs in"}}, 1: {bad, unknown}} {
		r := serve(t, map[string]any{"POST /api/v1/issuers/i/check": client.IssuerCheck{Issuer: "i", OK: code == 0, Findings: findings}}).keybroker("issuer", "check", "i")
		if r.code != code || !strings.Contains(r.out, "unknown  may delete keys") || code == 1 && (!strings.Contains(r.out, "problem  may make keys    it may not          grant it     a/b") || !strings.Contains(r.err, "issuer i: 1 problem")) {
			t.Errorf("%+v", r)
		}
	}
	if r := serve(t, map[string]any{"POST /api/v1/issuers/i/check": 422}).keybroker("issuer", "check", "i"); r.code != 1 {
		t.Errorf("one that cannot be checked: %+v", r)
	}
}

func TestTheExitCodeOfAPlan(t *testing.T) {
	if !errors.Is(changesFound{}, changesFound{}) {
		t.Fatal("it is not found out")
	}
	changes := client.ConfigPlan{Changes: []client.PlannedChange{{ConfigChange: client.ConfigChange{Change: client.Changed, Kind: "issuer", Name: "i"}}}}
	refused := client.ConfigPlan{Changes: changes.Changes, Refused: []client.ConfigFinding{{What: "it is needed", Remedy: "wait"}}}
	for _, c := range []struct {
		plan client.ConfigPlan
		args string
		code int
	}{{client.ConfigPlan{}, "", 0}, {client.ConfigPlan{}, "--exit-code", 0}, {changes, "", 0}, {changes, "--exit-code", 3}, {refused, "", 1}, {refused, "--exit-code", 1}} {
		r := serve(t, map[string]any{"POST /api/v1/config/plan": c.plan}).keybroker(strings.Fields("config plan --config ../../config.hcl " + c.args)...)
		if r.code != c.code {
			t.Errorf("%+v %s: %+v", c.plan, c.args, r)
		}
	}
}
