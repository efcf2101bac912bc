package main

import (
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// TestAFieldThatIsNoText: its bytes are printed as they are; JSON has them encoded.
func TestAFieldThatIsNoText(t *testing.T) {
	const raw = "\xff\x00\n\xfe"
	s := serve(t, map[string]any{"GET /api/v1/secrets/a/b/value": client.Value{Name: "a/b", Version: 3, Fields: client.Fields{"der": raw, "key": canary}}})
	for _, test := range []struct {
		args []string
		code int
		out  string
		err  string
	}{
		{[]string{"--field", "der"}, 0, raw, ""},
		{nil, 0, "FIELD  VALUE\nder    \"\\xff\\x00\\n\\xfe\"\nkey    " + canary + "\n", ""},
		{[]string{"--field", "der", "--format", "json"}, 1, "", "keybroker: the field \"der\" is no text, for which JSON has no place\n" +
			"hint: without --format json its bytes are printed as they are; without --field it is printed as base64\n"},
	} {
		if r := s.keybroker(append([]string{"secret", "get", "a/b"}, test.args...)...); r != (result{test.code, test.out, test.err}) {
			t.Errorf("%v: %+v", test.args, r)
		}
	}
	r := s.keybroker("secret", "get", "a/b", "--format", "json")
	if !strings.Contains(r.out, `"der": "/wAK/g=="`) || !strings.Contains(r.out, "\"encodings\": {\n    \"der\": \"base64\"\n  }") {
		t.Errorf("%+v", r)
	}
}

// TestADriftCheckTellsWhatItFound by its exit code and its error.
func TestADriftCheckTellsWhatItFound(t *testing.T) {
	inStep := client.Placement{Secret: "a/b", Backend: "prod", State: client.InStep}
	drifted := client.Placement{Secret: "a/b", Backend: "us", State: client.Drifted, Drift: &client.Drift{Kind: client.DriftMissing, Detail: "us holds nothing"}}
	behind := client.Placement{Secret: "a/b", Backend: "us", State: client.Behind}
	down := client.Placement{Secret: "a/b", Backend: "us", State: client.InStep, Asked: true, Error: "unavailable: sealed"}
	for _, test := range []struct {
		found []client.Placement
		code  int
		says  string
	}{
		{[]client.Placement{inStep}, 0, ""},
		{[]client.Placement{inStep, drifted}, 1, "drifted: 1 of 2 vaults"},
		{[]client.Placement{inStep, behind}, 1, "behind: 1 of 2 vaults"},
		{[]client.Placement{inStep, down}, 1, "not compared: 1 of 2 vaults"},
	} {
		list := client.List[client.Placement]{Items: test.found}
		s := serve(t, map[string]any{"POST /api/v1/secrets/a/b/drift/check": list, "GET /api/v1/drift": list})
		r := s.keybroker("drift", "check", "a/b")
		if r.code != test.code || !strings.Contains(r.err, test.says) || test.says == "" && r.err != "" {
			t.Errorf("%+v: %+v", test.found, r)
		}
		if !s.has("GET /api/v1/drift?all=true&limit=200&secret=a%2Fb") {
			t.Errorf("asked %v", s.asked)
		}
		if r := s.keybroker("drift", "check", "a/b", "--wait=false"); r.code != 0 || r.err != "" {
			t.Errorf("without waiting: %+v", r)
		}
	}
}

// TestAnEmptyPartOfAHandle is for the server to judge: some issuers have one.
func TestAnEmptyPartOfAHandle(t *testing.T) {
	i := importing{handle: []string{"role=orders", "tag="}, versions: []string{"1:role=old=er", "1:tag="}}
	r, err := i.request()
	if err != nil || len(r.Handle) != 2 || r.Handle["role"] != "orders" || r.VersionHandles["1"]["role"] != "old=er" || len(r.VersionHandles["1"]) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestMistakesOfAnImport(t *testing.T) {
	s := serve(t, nil)
	for args, says := range map[string]string{
		"--handle id":                 `--handle "id" is no NAME=VALUE`,
		"--handle =x":                 `--handle "=x" is no NAME=VALUE`,
		"--handle id=a --handle id=b": `--handle "id=b" gives the part id once more`,
		"--version-handle id=a":       `--version-handle "id=a" is no ID:NAME=VALUE`,
		"--version-handle :id=a":      `--version-handle ":id=a" is no ID:NAME=VALUE`,
		"--version-handle 1:id":       `--version-handle "1:id" is no NAME=VALUE`,
		"--version 3":                 "--handle is missing: what does its issuer call version 3?",
		"--version -1":                "--version is -1",
		"--version 3 --handle id=a --version-handle 1:id=b": "--version and --version-handle are both given",
	} {
		r := s.keybroker(append([]string{"secret", "import", "a/b"}, strings.Fields(args)...)...)
		if r.code != exitUsage || !strings.Contains(r.err, says) || len(s.asked) > 0 {
			t.Errorf("%s: %+v", args, r)
		}
	}
}
