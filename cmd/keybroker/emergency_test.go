package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func emergencyOf(t *testing.T, s *server, args ...string) result {
	t.Helper()
	return s.keybroker(append([]string{"emergency", "--reason", "leak"}, args...)...)
}

func TestMistakesOfEmergencies(t *testing.T) {
	s := serve(t, map[string]any{})
	for args, want := range map[string]string{
		"":                          "which secrets?",
		"--version 2 --match a/*":   "--version is of one secret",
		"a b --version 2":           "--version is of one secret",
		"a --version 0":             "versions begin at 1",
		"a --since 2h":              "--since goes with --read-by or --address",
		"--read-by x --since soon":  "--since is \"soon\"",
		"a --leaked-at yesterday":   "--leaked-at is \"yesterday\"",
		"--label high":              "write NAME=VALUE",
		"--label a=1 --label a=2":   "given twice",
		"--read-by a --read-by b":   "--read-by is given twice, and takes one: run the command once for each",
		"--consumer a --consumer b": "--consumer is given twice",
		"--leaked-value " + canary + " --leaked-value x": "--leaked-value is given twice",
		"a --timeout 5s":             "--timeout is how long to --wait",
		"a --dry-run --wait":         "nothing to --wait for",
		"a --leaked-value /dev/null": "it is empty",
	} {
		if r := emergencyOf(t, s, strings.Fields(args)...); r.code != 2 || !strings.Contains(r.err, want) || strings.Contains(r.err, canary) {
			t.Errorf("%s: %+v", strings.ReplaceAll(args, canary, "REDACTED"), r)
		}
	}
	if s.count() != 0 {
		t.Error("the server was asked")
	}
}

// TestTheServerFindsMistakesOfEmergencies: they are mistakes in the command line all the same.
func TestTheServerFindsMistakesOfEmergencies(t *testing.T) {
	for status, code := range map[int]int{http.StatusBadRequest: 2, http.StatusNotFound: 1, http.StatusForbidden: 1} {
		s := serve(t, map[string]any{"POST /api/v1/incidents": status})
		if r := emergencyOf(t, s, "--address", "nowhere"); r.code != code || !strings.Contains(r.err, fmt.Sprint("refused with ", status)) {
			t.Errorf("%d: %+v", status, r)
		}
	}
}

// TestForecastOfWhatIsDead: it is not counted as if it were turned off.
func TestForecastOfWhatIsDead(t *testing.T) {
	dead := client.IncidentTarget{Secret: "a", State: client.TargetAlreadyDead, Pinned: []int{1}}
	alive := client.IncidentTarget{Secret: "b", State: client.TargetPending, Versions: []client.IncidentVersion{{Version: 1}, {Version: 2}}}
	for want, targets := range map[string][]client.IncidentTarget{
		"NOTHING would be revoked: see NOTE\n":                                 {dead},
		"would be revoked, proven dead and replaced: 2 versions of 1 secret\n": {dead, alive},
		"proven dead already; would be tried once more\n":                      {dead},
	} {
		s := serve(t, map[string]any{"POST /api/v1/incidents": client.Incident{DryRun: true, Targets: targets}})
		if r := emergencyOf(t, s, "--match", "*", "--dry-run"); r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("%+v", r)
		}
	}
}

// TestEmergencyOfOneStandsAsItsIncident: that its rotation is done is not that the key is dead.
func TestEmergencyOfOneStandsAsItsIncident(t *testing.T) {
	begun := client.Rotation{ID: "r1", Secret: "a/b", State: "queued", Trigger: "emergency", IncidentID: "i1"}
	done := begun
	done.State = client.RotationDone
	said, none := leak(0, 0), leak(0, 0)
	said.Progress.Unprovable = said.Progress.Versions // proof = "none"
	none.Progress.Versions = 0
	for name, test := range map[string]struct {
		incident client.Incident
		code     int
		err      string
	}{
		"proven":         {leak(3, 3), 0, ""},
		"only contained": {closed(leak(3, 1)), 3, "incident i1 is closed"},
		"only said":      {said, 4, "3 versions: nobody will be able to tell whether it is dead, at most its issuer said so"},
		"nothing alive":  {none, 0, ""},
	} {
		r := serve(t, map[string]any{
			"GET /api/v1/secrets/a/b":            client.Secret{Name: "a/b"},
			"POST /api/v1/secrets/a/b/emergency": begun,
			"GET /api/v1/rotations/r1/events":    events(t, client.EventRotation, done),
			"GET /api/v1/rotations/r1":           done,
			"GET /api/v1/incidents/i1/events":    events(t, client.EventIncident, test.incident),
			"GET /api/v1/incidents/i1":           test.incident,
		}).keybroker("emergency", "a/b", "--reason", "leak", "--wait")
		if r.code != test.code || !strings.Contains(r.err, test.err) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestSelectorsOfEmergencies: what the command line says is what the server is asked.
func TestSelectorsOfEmergencies(t *testing.T) {
	file := filepath.Join(t.TempDir(), "leaked.env")
	if err := os.WriteFile(file, []byte("KEY="+canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"a b":                               `{"names":["a","b"]}`,
		"a --match pay/* --match db/*":      `{"names":["a"],"patterns":["pay/*","db/*"]}`,
		"--label risk=high --label team=x":  `{"labels":{"risk":"high","team":"x"}}`,
		"--tenant t --backend b --issuer i": `{"tenant":"t","backend":"b","issuer":"i"}`,
		"--consumer shop --read-by shop --since 2026-01-31T12:00:00Z": `{"consumer":"shop","read_by":"shop","since":"2026-01-31T12:00:00Z"}`,
		"--address 192.0.2.0/24": `{"address":"192.0.2.0/24"}`,
		"--all":                  `{"all":true}`,
		"--leaked-value " + file: `{"value":"KEY=` + canary + `\n"}`,
		"a --version 3":          `{"names":["a"],"versions":[3]}`,
	} {
		a := newApp(streams{strings.NewReader(""), io.Discard, io.Discard})
		var got selection
		cmd := &cobra.Command{Run: func(_ *cobra.Command, names []string) {
			selector, err := got.read(a, names)
			b, jsonErr := json.Marshal(selector)
			if err != nil || jsonErr != nil || string(b) != want {
				t.Errorf("%s: %v, %v", args, err, jsonErr)
			}
		}}
		got.flags(cmd, a)
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.Execute(); err != nil {
			t.Error(err)
		}
	}
}

// TestADeclarationWithoutAnAnswerIsRepeated, as the same incident.
func TestADeclarationWithoutAnAnswerIsRepeated(t *testing.T) {
	var ids []string
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked client.IncidentRequest
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		if ids = append(ids, asked.ID); len(ids) == 1 {
			panic(http.ErrAbortHandler) // the answer is lost
		}
		if err := json.NewEncoder(w).Encode(leak(0, 0)); err != nil {
			t.Error(err)
		}
	}))
	defer h.Close()
	s := &server{t: t, url: h.URL}
	if r := s.keybroker("emergency", "a", "b", "--reason", "leak"); r.code != 0 || !strings.Contains(r.err, "follow it with: keybroker incident watch i1") {
		t.Errorf("%+v", r)
	}
	if len(ids) != 2 || ids[0] == "" || ids[0] != ids[1] {
		t.Errorf("declared as %q", ids)
	}
	refused := serve(t, map[string]any{declareIncident: 403})
	if r := refused.keybroker("emergency", "a", "b", "--reason", "leak"); r.code != 1 || refused.count() != 1 {
		t.Errorf("%+v, asked %d times", r, refused.count())
	}
}
