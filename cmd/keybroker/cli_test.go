package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

const canary = "CANARY-d41d8cd98f"

// server answers requests ("GET /api/v1/secrets") with what a test says.
type server struct {
	t       *testing.T
	url     string
	mu      sync.Mutex
	asked   []string
	answers map[string]any
}

// answers are by method and path; an int is a problem with that status, a string
// an event stream, anything else JSON.
func serve(t *testing.T, answers map[string]any) *server {
	t.Helper()
	s := &server{t: t, answers: answers}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Method + " " + r.URL.Path
		s.mu.Lock()
		s.asked = append(s.asked, key+"?"+r.URL.RawQuery)
		answer := s.answers[key]
		s.mu.Unlock()
		switch a := answer.(type) {
		case nil:
			problem(w, http.StatusNotFound)
		case int:
			problem(w, a)
		case string:
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, a)
		default:
			if err := json.NewEncoder(w).Encode(a); err != nil {
				t.Error(err)
			}
		}
	}))
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

func problem(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", client.ProblemType)
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"title": %q, "status": %d, "detail": "refused with %d"}`, http.StatusText(status), status, status)
}

func (s *server) has(request string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if strings.HasPrefix(a, request) {
			return true
		}
	}
	return false
}

// count is how many requests there were.
func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// answer changes what the server answers from now on.
func (s *server) answer(request string, with any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[request] = with
}

type result struct {
	code     int
	out, err string
}

func (s *server) keybroker(args ...string) result {
	s.t.Helper()
	s.t.Setenv("KEYBROKER_ADDR", s.url)
	var out, errs strings.Builder
	code := run(s.t.Context(), args, streams{strings.NewReader(""), &out, &errs})
	return result{code, out.String(), errs.String()}
}

var value = client.Value{Name: "a/b", Version: 3, Generation: 7, Fields: client.Fields{"key": canary, "pem": "x\ny"}}

func secret() client.Secret {
	return client.Secret{
		Name: "a/b", Tenant: "default", Backend: "embedded", Issuer: "internal", State: client.SecretActive, Generation: 7,
		Consumers: []string{"shop"}, NextRotationAt: time.Now().Add(10*time.Minute + time.Second),
		Versions: []client.Version{
			{Number: 1, Stage: client.StageRetired, Retirement: &client.Retirement{ID: "t1", State: client.ProvenDead}},
			{Number: 2, Stage: client.StagePrevious}, {Number: 3, Stage: client.StageCurrent},
		},
	}
}

func TestSecretGet(t *testing.T) {
	s := serve(t, map[string]any{"GET /api/v1/secrets/a/b/value": value})
	for _, test := range []struct {
		args []string
		code int
		out  string
		err  string
	}{
		{[]string{"--field", "key"}, 0, canary, ""},
		{[]string{"--field", "pem"}, 0, "x\ny", ""},
		{[]string{}, 0, "FIELD  VALUE\nkey    " + canary + "\npem    \"x\\ny\"\n", ""},
		{[]string{"--field", "key", "--format", "json"}, 0, `"` + canary + "\"\n", ""},
		{[]string{"--field", "kee"}, 1, "", "keybroker: version 3 of a/b has no field \"kee\"\nhint: it has key, pem\n"},
	} {
		r := s.keybroker(append([]string{"secret", "get", "a/b"}, test.args...)...)
		if r != (result{test.code, test.out, test.err}) {
			t.Errorf("%v: %+v", test.args, r)
		}
	}
	r := s.keybroker("secret", "get", "a/b", "--format", "json", "--version", "2")
	var got client.Value
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Fields["key"] != canary || !s.has("GET /api/v1/secrets/a/b/value?version=2") {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestHintsOfErrors(t *testing.T) {
	for status, hint := range map[int]string{
		401: "hint: set KEYBROKER_TOKEN",
		403: "refused with 403\n", // by policies, a quarantine, …: the server says why
	} {
		r := serve(t, map[string]any{"GET /api/v1/secrets": status}).keybroker("secret", "list")
		if r.code != 1 || r.out != "" || !strings.Contains(r.err, hint) || !strings.Contains(r.err, fmt.Sprint("keybroker: refused with ", status)) {
			t.Errorf("%d: %+v", status, r)
		}
	}
	t.Setenv("KEYBROKER_TOKEN", canary)
	r := serve(t, map[string]any{"GET /api/v1/secrets": 401}).keybroker("secret", "list")
	if !strings.Contains(r.err, "is the token one of the server at http") || strings.Contains(r.err, canary) {
		t.Errorf("%+v", r)
	}
}

func TestSecretListAndShow(t *testing.T) {
	s := serve(t, map[string]any{
		"GET /api/v1/secrets":     client.List[client.Secret]{Items: []client.Secret{secret()}},
		"GET /api/v1/secrets/a/b": secret(),
	})
	r := s.keybroker("secret", "list", "--prefix", "a/")
	want := "NAME  TENANT   STATE   VERSION  BACKEND   ISSUER    NEXT ROTATION\na/b   default  active  3        embedded  internal  in 10m\n"
	if r.code != 0 || r.out != want || !s.has("GET /api/v1/secrets?limit=200&prefix=a%2F") {
		t.Errorf("%+v", r)
	}
	var list []client.Secret
	if r := s.keybroker("secret", "list", "--format", "json"); json.Unmarshal([]byte(r.out), &list) != nil || len(list) != 1 {
		t.Errorf("%+v", r)
	}
	if r := s.keybroker("secret", "show", "a/b"); r.code != 0 || !strings.Contains(r.out, "Consumers:      shop") || !strings.Contains(r.out, "proven_dead") {
		t.Errorf("%+v", r)
	}
	empty := serve(t, map[string]any{"GET /api/v1/secrets": client.List[client.Secret]{}})
	if r := empty.keybroker("secret", "list", "--format", "json"); r.out != "[]\n" {
		t.Errorf("%+v", r)
	}
}

// The server refuses to revoke the current version; the person is told what to
// do instead.
func TestRevokeOfTheCurrentVersion(t *testing.T) {
	answers := map[string]any{"GET /api/v1/secrets/a/b": secret(), "POST /api/v1/secrets/a/b/revoke": 409}
	r := serve(t, answers).keybroker("secret", "revoke", "a/b", "--version", "3")
	if r.code != 1 || !strings.Contains(r.err, "hint: if it is compromised: keybroker emergency a/b --reason TEXT") {
		t.Errorf("%+v", r)
	}
	r = serve(t, answers).keybroker("secret", "revoke", "a/b", "--version", "2")
	if r.code != 1 || strings.Contains(r.err, "emergency") || !strings.Contains(r.err, "it is previous, and may still be used by shop") {
		t.Errorf("%+v", r)
	}
}

// TestWhatCannotBeFollowedGoesOn: whoever has declared an emergency is told so, and by
// which id it is found.
func TestWhatCannotBeFollowedGoesOn(t *testing.T) {
	r := serve(t, map[string]any{
		"POST /api/v1/secrets/a/b/emergency": client.Rotation{ID: "r7", Secret: "a/b", State: "minting"},
		"GET /api/v1/rotations/r7/events":    500,
		"POST /api/v1/secrets/a/b/revoke":    client.Retirement{ID: "t7", Secret: "a/b", Version: 2, State: "pending"},
		"GET /api/v1/retirements/t7/events":  500,
	}).each("emergency a/b --reason leak --wait", "secret revoke a/b --version 2 --wait")
	for i, what := range []string{"rotation r7", "retirement t7"} {
		first, follow := what+" of a/b", "hint: follow it with: keybroker "+strings.Replace(what, " ", " watch ", 1)
		if r[i].code != 1 || !strings.Contains(r[i].err, first) || !strings.Contains(r[i].err, what+" goes on, but cannot be followed: refused with 500") || !strings.Contains(r[i].err, follow) {
			t.Errorf("%+v", r[i])
		}
	}
}

// each runs commands one after the other.
func (s *server) each(commands ...string) (all []result) {
	for _, c := range commands {
		all = append(all, s.keybroker(strings.Fields(c)...))
	}
	return all
}

func TestRevokeWaitsForTheProof(t *testing.T) {
	for state, code := range map[string]int{client.ProvenDead: 0, client.Unconfirmed: 1, client.Unprovable: 1} {
		dead := client.Retirement{ID: "t2", Secret: "a/b", Version: 2, Cause: "revoked", State: state, RequestedAt: time.Now()}
		r := serve(t, map[string]any{
			"POST /api/v1/secrets/a/b/revoke":   client.Retirement{ID: "t2"},
			"GET /api/v1/retirements/t2/events": events(t, client.EventRetirement, dead),
		}).keybroker("secret", "revoke", "a/b", "--version", "2", "--wait")
		if r.code != code || !strings.Contains(r.out, "retirement t2 of a/b version 2 (revoked)") {
			t.Errorf("%s: %+v", state, r)
		}
	}
}

// events is a stream of the states of one object, and its end.
func events(t *testing.T, kind string, states ...any) string {
	t.Helper()
	stream := ""
	for _, s := range states {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		stream += fmt.Sprintf("event: %s\ndata: %s\n\n", kind, b)
	}
	return stream + "event: end\ndata: {}\n\n"
}

// An emergency must not depend on what is nice to know.
func TestEmergencyNeedsNoPreview(t *testing.T) {
	begun := client.Rotation{ID: "r1", Secret: "a/b", State: "queued", Trigger: "emergency"}
	s := serve(t, map[string]any{"POST /api/v1/secrets/a/b/emergency": begun, "GET /api/v1/secrets/a/b": 403})
	if r := s.keybroker("emergency", "a/b", "--reason", "leak"); r.code != 0 || !strings.Contains(r.err, "rotation watch r1") {
		t.Errorf("%+v", r)
	}
	begun.Compromised, begun.FromVersion = []int{2, 3}, 3
	s = serve(t, map[string]any{"POST /api/v1/secrets/a/b/emergency": begun, "GET /api/v1/secrets/a/b": secret()})
	r := s.keybroker("emergency", "a/b", "--reason", "leak")
	if r.code != 0 || !strings.Contains(r.err, "versions 2, 3: revoked and proven dead, whatever else happens; a replacement is made beside it, of which are told: shop") {
		t.Errorf("%+v", r)
	}
}

// TestEmergencyEndsWithWhoIsWithoutTheReplacement: that is no failure of it.
func TestEmergencyEndsWithWhoIsWithoutTheReplacement(t *testing.T) {
	begun := client.Rotation{ID: "r1", Secret: "a/b", Tenant: "default", State: "queued", Trigger: "emergency", FromVersion: 1, Compromised: []int{1}}
	done := begun
	done.State, done.ToVersion, done.EndedAt = client.RotationDone, 2, time.Now()
	at := time.Now()
	answers := map[string]any{
		"POST /api/v1/secrets/a/b/emergency": begun,
		"GET /api/v1/secrets/a/b":            secret(),
		"GET /api/v1/rotations/r1/events":    events(t, client.EventRotation, done),
		"GET /api/v1/secrets/a/b/consumers": client.SecretConsumers{Secret: "a/b", Tenant: "default", Version: 2, Consumers: []client.SecretConsumer{
			{Consumer: "waits", Listed: true, Version: 2}, {Consumer: "older", Listed: true, Version: 1, ReceivedAt: at, AppliedAt: at},
			{Consumer: "has", Listed: true, Version: 2, ReceivedAt: at}, {Consumer: "uses", Listed: true, Version: 2, AppliedAt: at}, {Consumer: "former", Version: 2},
		}},
	}
	r := serve(t, answers).each("emergency a/b --reason leak --wait", "emergency a/b --reason leak --wait --format json")
	want := "WITHOUT the replacement: waits, older\nhave version 2, and did not say that they use it: has\nsee: keybroker secret consumers a/b\n"
	if r[0].code != 0 || !strings.HasSuffix(r[0].err, want) {
		t.Errorf("%+v", r[0])
	}
	last := `{"event":"consumers","secret":"a/b","version":2,"not_received":["waits","older"],"not_applied":["has"]}` + "\n"
	if r[1].code != 0 || !strings.HasSuffix(r[1].out, last) {
		t.Errorf("%+v", r[1])
	}
	answers["GET /api/v1/secrets/a/b/consumers"] = client.SecretConsumers{Secret: "a/b", Tenant: "default", Version: 1, Consumers: []client.SecretConsumer{
		{Consumer: "uses", Listed: true, Version: 1, ReceivedAt: at, AppliedAt: at},
	}}
	failed := done
	failed.State, failed.ToVersion = "failed", 0
	answers["GET /api/v1/rotations/r1/events"] = events(t, client.EventRotation, failed)
	if r := serve(t, answers).keybroker("emergency", "a/b", "--reason", "leak", "--wait"); r.code != 1 || !strings.Contains(r.err, "WITHOUT the replacement: uses\n") {
		t.Errorf("there is none: %+v", r)
	}
	answers["GET /api/v1/rotations/r1/events"] = events(t, client.EventRotation, done)
	answers["GET /api/v1/secrets/a/b/consumers"] = 403
	if r := serve(t, answers).keybroker("emergency", "a/b", "--reason", "leak", "--wait"); r.code != 0 || !strings.Contains(r.err, "could not be asked") {
		t.Errorf("%+v", r)
	}
}

func TestTestThatDisables(t *testing.T) {
	d := client.Delivery{ID: "d1", Consumer: "gone", State: client.DeliveryPending, NextAttemptAt: time.Now()}
	tried := d
	tried.State, tried.Error, tried.NextAttemptAt = client.DeliveryDead, "it answered 410", time.Time{}
	r := serve(t, map[string]any{
		"POST /api/v1/consumers/gone/test": d,
		"GET /api/v1/deliveries/d1":        tried,
		"GET /api/v1/consumers/gone":       client.Consumer{Name: "gone", State: client.ConsumerDisabled},
	}).keybroker("consumer", "test", "gone")
	if r.code != 1 || !strings.Contains(r.err, "it answered 410") || !strings.Contains(r.err, "keybroker consumer enable gone") || strings.Contains(r.err, "tried again by itself") {
		t.Errorf("%+v", r)
	}
}

func TestTokenIsPrintedAlone(t *testing.T) {
	s := serve(t, map[string]any{
		"POST /api/v1/tokens":      client.Token{ID: "k1", Name: "ci", Token: canary},
		"GET /api/v1/tokens":       client.List[client.Token]{Items: []client.Token{{ID: "k1", Name: "ci", State: client.TokenActive, Tenant: "acme", Policies: []string{"reader"}}}},
		"DELETE /api/v1/tokens/k1": client.Token{ID: "k1", Name: "ci"},
	})
	if r := s.keybroker("token", "create", "ci", "--policy", "reader"); r.code != 0 || r.out != canary+"\n" || strings.Contains(r.err, canary) {
		t.Errorf("%+v", r)
	}
	if r := s.keybroker("token", "list"); r.code != 0 || !strings.Contains(r.out, "k1  ci    active  acme    -     reader    -        -          never    -") {
		t.Errorf("%+v", r)
	}
	if r := s.keybroker("token", "revoke", "k1"); r.code != 0 || r.err != "token k1 (ci) is revoked\n" {
		t.Errorf("%+v", r)
	}
}

// No command but get prints a value, whatever the server sends along.
func TestOnlyGetPrintsValues(t *testing.T) {
	leaky := map[string]any{"name": "a/b", "state": "active", "fields": map[string]string{"key": canary}, "token": canary, "id": "r1"}
	list := map[string]any{"items": []any{leaky}}
	s := serve(t, map[string]any{
		"GET /api/v1/secrets": list, "GET /api/v1/secrets/a/b": leaky, "POST /api/v1/secrets/a/b/rotate": leaky,
		"POST /api/v1/secrets/a/b/pause": leaky, "POST /api/v1/secrets/a/b/resume": leaky, "GET /api/v1/rotations": list,
		"GET /api/v1/rotations/r1": leaky, "GET /api/v1/retirements": list, "GET /api/v1/deliveries": list,
		"GET /api/v1/secrets/a/b/plan": leaky, "POST /api/v1/secrets/a/b/repair": leaky, "GET /api/v1/orphans": list,
		"GET /api/v1/issuers": list, "GET /api/v1/probes": list, "POST /api/v1/issuers/i/check": leaky, "POST /api/v1/probes/p/run": leaky,
		"GET /api/v1/plans": list, "POST /api/v1/retirements/r1/done": leaky,
		"POST /api/v1/rotations/r1/cancel": leaky, "POST /api/v1/sys/freeze": leaky, "GET /api/v1/sys/freeze": leaky,
	})
	for _, args := range []string{
		"secret list", "secret show a/b", "secret rotate a/b", "secret pause a/b", "secret resume a/b",
		"rotation list", "rotation show r1", "retirement list", "delivery list", "secret plan a/b", "secret repair a/b",
		"rotation orphans", "rotation cancel r1", "issuer list", "issuer check i", "probe list", "probe run p --secret a/b", "secret plan --all", "retirement done r1", "freeze --reason x", "freeze status",
	} {
		for _, format := range []string{"table", "json"} {
			r := s.keybroker(append(strings.Fields(args), "--format", format)...)
			if r.code != 0 || strings.Contains(r.out+r.err, canary) {
				t.Errorf("%s: %+v", args, r)
			}
		}
	}
}

func TestCompletionOfSecretNames(t *testing.T) {
	s := serve(t, map[string]any{"GET /api/v1/secrets": client.List[client.Secret]{Items: []client.Secret{secret()}}})
	if r := s.keybroker("__complete", "secret", "get", "a"); !strings.HasPrefix(r.out, "a/b\tactive\n") || !s.has("GET /api/v1/secrets?limit=200&prefix=a") {
		t.Errorf("%+v", r)
	}
}

func TestServerTextCannotSteerTheTerminal(t *testing.T) {
	evil := secret()
	evil.Issuer = "x\x1b[2Jy\nz"
	r := serve(t, map[string]any{"GET /api/v1/secrets/a/b": evil}).keybroker("secret", "show", "a/b")
	if strings.Contains(r.out, "\x1b") || !strings.Contains(r.out, "x [2Jy z") {
		t.Errorf("%q", r.out)
	}
}

func TestRelativeTimes(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "now", 999 * time.Millisecond: "now", 4 * time.Minute: "in 4m", -12 * time.Second: "12s ago",
		90 * time.Second: "in 90s", 5 * time.Hour: "in 5h", -72 * time.Hour: "3d ago", 2500 * time.Millisecond: "in 2.5s",
	} {
		if got := relative(now.Add(d), now); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
	if got := relative(time.Time{}, now); got != "" {
		t.Errorf("%q", got)
	}
}
