package daemon_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

const soon = "overlap = \"1s\"\n verify {\n successes = 2\n interval = \"100ms\"\n }"

// Keys that the broker makes, checks and turns off itself, proven without a network.
func TestTheBrokersOwnKeys(t *testing.T) {
	t.Parallel()
	n := newSite(t, example(t, "api_key", `schedule = "0 3 1 * *"`, "", `overlap  = "24h"`, soon, `window     = "1m"`, `window = "1s"`)).start()
	const secret = "shop/api-key"
	n.rotate(t, secret)
	old := n.value(t, secret).Fields["key"]
	rot, retired := n.rotate(t, secret)
	proof := retired[1]
	if rot.State != client.RotationDone || proof.State != client.ProvenDead {
		t.Fatalf("%+v\n%+v", rot, proof)
	}
	if proof.Scope == nil || !proof.Scope.SelfAttested || !strings.Contains(proof.Scope.Endpoint, "self-attested") || proof.Control != "current_version" {
		t.Errorf("what the proof is about: %+v, control %s", proof.Scope, proof.Control)
	}
	for _, try := range proof.Tries {
		if try.Address != "in-process" {
			t.Errorf("tried at %q", try.Address)
		}
	}
	now := n.value(t, secret).Fields["key"]
	for key, want := range map[string]bool{old: false, now: true} {
		if !strings.HasPrefix(key, "shop_") || len(key) != len("shop_")+40+6 {
			t.Error("the key is not as the key block says")
		}
		if n.works(t, key) != want {
			t.Errorf("it works: %t, want %t", !want, want)
		}
	}
}

// reports is the application that asks for the password. It takes what the broker
// gives out as current, and in the overlap what it gives out as previous.
type reports struct {
	broker atomic.Pointer[client.Client]
	asked  atomic.Int32
}

func (a *reports) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.asked.Add(1)
	given, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	v, err := a.broker.Load().Value(r.Context(), "reports/password", 0)
	switch {
	case err != nil:
		w.WriteHeader(http.StatusServiceUnavailable)
	case given == v.Fields["password"], v.Previous != nil && given == v.Previous.Fields["password"]:
		w.WriteHeader(http.StatusOK)
	default:
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// A value that no system but its users knows of: it is published untried, and its end
// is proven where it is asked for.
func TestAValueAtRandom(t *testing.T) {
	t.Parallel()
	app := &reports{}
	server := httptest.NewServer(app)
	defer server.Close()
	s := newSite(t, example(t, "random", "https://reports.example/login", server.URL+"/login",
		`probe "http" "reports" {`, "probe \"http\" \"reports\" {\n  allow_private_network = true",
		`schedule = "0 4 * * Mon"`, "", `overlap  = "1h"`, soon, `window     = "10m"`, `window = "1s"`))
	n := s.start()
	defer n.stop() // before the server that asks it
	app.broker.Store(n.Client)
	const secret = "reports/password"
	first, _ := n.rotate(t, secret)
	if first.State != client.RotationDone || app.asked.Load() != 0 {
		t.Errorf("the first value: %s, tried %d times before anybody could know it", first.State, app.asked.Load())
	}
	old := n.value(t, secret).Fields["password"]
	rot, retired := n.rotate(t, secret)
	proof := retired[1]
	if rot.State != client.RotationDone || proof.State != client.ProvenDead || proof.Control != "current_version" || proof.LastAcceptedAt.IsZero() {
		t.Fatalf("%+v\n%+v", rot, proof)
	}
	if proof.Scope == nil || proof.Scope.SelfAttested {
		t.Errorf("what the proof is about: %+v", proof.Scope)
	}
	now := n.value(t, secret).Fields["password"]
	if now == old || len(now) != 24 {
		t.Error("the new value is the old one, or not as the key block says")
	}
	for _, class := range []string{"abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "!#$%&()*+,-./:;<=>?@[]^_{|}~"} {
		if !strings.ContainsAny(now, class) {
			t.Errorf("no character of %s", class)
		}
	}
	for _, text := range []string{old, now} {
		if strings.Contains(s.log.String(), text) {
			t.Error("a value is in the log")
		}
	}
}
