package daemon_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/examples/consumer/receiver"
)

// startGated starts the embedded site with a gate before its probe's endpoint:
// while unsure is positive, tries are answered with 503.
func startGated(t *testing.T) (s *site, n *node, unsure *atomic.Int32) {
	t.Helper()
	s, unsure = gatedSite(t, withConsumer(embedded, nil))
	return s, s.start(), unsure
}

// gatedSite is the site of startGated, not started yet.
func gatedSite(t *testing.T, hcl string) (s *site, unsure *atomic.Int32) {
	t.Helper()
	unsure = &atomic.Int32{}
	s = newSite(t, "")
	to, err := url.Parse("http://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if unsure.Load() > 0 && unsure.Add(-1) >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(gate.Close)
	hcl = strings.Replace(hcl, "http://ADDR/api", gate.URL+"/api", 1)
	s.hcl = strings.ReplaceAll(hcl, "ADDR", s.addr)
	return s, unsure
}

// begin starts a rotation and waits until it is in a state.
func (n *node) begin(t *testing.T, secret, state string) string {
	t.Helper()
	r, err := n.Rotate(t.Context(), secret, client.RotateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the state "+state, func() bool {
		now, err := n.Rotation(t.Context(), r.ID)
		return err == nil && now.State == state
	})
	return r.ID
}

// allButCurrentAreDead waits until every version but the current one is proven dead.
func (n *node) allButCurrentAreDead(t *testing.T, secret string) {
	t.Helper()
	var alive string
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, err := n.Secret(t.Context(), secret)
		if err != nil {
			t.Fatal(err)
		}
		alive = ""
		for _, v := range s.Versions {
			if v.Number != s.Current() && (v.Retirement == nil || v.Retirement.State != client.ProvenDead) {
				alive += " " + v.Stage
			}
		}
		if alive == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("versions that nobody turns off:%s; all are: %+v", alive, s.Versions)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// An emergency that names versions may take over the rotation under way; what
// that one would have retired must not live for ever.
func TestEmergencyForOneVersionForgetsNoOther(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		state    string
		version  int
		current  int    // at the end
		takenEnd string // how the rotation that was under way ends
	}{
		"the previous one, in the overlap":                 {"overlap", 1, 2, client.RotationDone}, // the current one is innocent: it stays
		"the current one, in the overlap":                  {"overlap", 2, 3, client.RotationSuperseded},
		"the current one, while another is being verified": {"verifying", 1, 3, client.RotationSuperseded},
	} {
		t.Run(name, func(t *testing.T) {
			_, n, unsure := startGated(t)
			n.rotate(t, "app/key")
			if test.state == "verifying" {
				unsure.Store(1000)
			}
			taken := n.begin(t, "app/key", test.state)
			e, err := n.Emergency(t.Context(), "app/key", client.EmergencyRequest{Reason: "leaked", Versions: []int{test.version}})
			if err != nil {
				t.Fatal(err)
			}
			unsure.Store(0)
			rot, retirements := n.follow(t, e.ID)
			if dead := retirements[test.version]; rot.State != client.RotationDone || dead.State != client.ProvenDead {
				t.Fatalf("the emergency is %s: %s; version %d is %s", rot.State, rot.Error, test.version, dead.State)
			}
			n.allButCurrentAreDead(t, "app/key")
			v := n.value(t, "app/key")
			check, err := n.CheckKey(t.Context(), client.SecretText(v.Fields["key"]))
			if err != nil || v.Version != test.current || !check.Active {
				t.Errorf("version %d is current, want %d; it works: %v (%v)", v.Version, test.current, check.Active, err)
			}
			was, _ := n.follow(t, taken)
			if was.State != test.takenEnd {
				t.Errorf("what was under way is %s, want %s", was.State, test.takenEnd)
			}
			for _, step := range was.Steps {
				if step.EndedAt.IsZero() {
					t.Errorf("its step %s never ended", step.Step)
				}
			}
		})
	}
}

// The overlap ends when its consumers have received the new version, if that is
// what it waits for, and not at the timeout.
func TestReceiptEndsAHeldOverlap(t *testing.T) {
	t.Parallel()
	signing := newSigningSecret()
	r, err := receiver.New(signing, receiver.Options{ReceiveOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var refused atomic.Bool
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !refused.Swap(true) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		r.ServeHTTP(w, req)
	}))
	t.Cleanup(app.Close)
	hcl := withConsumer(embedded, &consumer{r, app.URL})
	hcl = strings.Replace(hcl, "  overlap = \"2s\"\n", "  overlap = \"2s\"\n  acknowledgement {\n    require = \"received\"\n    timeout = \"5m\"\n  }\n", 1)
	s := newSite(t, hcl)
	s.env["SIGNING_SECRET"] = signing.Reveal()
	n := s.start()
	n.rotate(t, "app/key")
	eventually(t, "the first delivery", func() bool {
		ds, err := n.Deliveries(t.Context(), client.DeliveryQuery{State: "received"})
		return err == nil && len(ds.Items) == 1
	})
	refused.Store(false)
	rot, _ := n.rotate(t, "app/key")
	if rot.State != client.RotationDone || rot.EndedAt.Sub(rot.PublishedAt) > time.Minute {
		t.Errorf("%s after %s", rot.State, rot.EndedAt.Sub(rot.PublishedAt))
	}
}

// An event for one secret tells nothing of another one that had the same id.
func TestEventIDIsOfOneSecret(t *testing.T) {
	t.Parallel()
	other := strings.Replace(embedded, "secret \"app/key\"", "secret \"app/other\" {\n  backend = \"embedded\"\n  probe   = \"internal\"\n  issuer \"internal\" {}\n}\nsecret \"app/key\"", 1)
	n := newSite(t, withConsumer(other, nil)).start()
	for _, name := range []string{"app/key", "app/other", "app/key"} {
		r, err := n.Event(t.Context(), "ci", client.EventRequest{ID: "e1", Secret: name, Reason: "test"})
		if err != nil || r.Secret != name {
			t.Errorf("an event for %s began a rotation of %q (%v)", name, r.Secret, err)
		}
	}
}

// The answer to the publishing write is lost, and then the vault refuses: the
// version may be what applications read there, so it must not be thrown away.
func TestPublishingThatWasRefusedAfterALostAnswer(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	to, err := url.Parse(s.vault.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var writes atomic.Int32
	lossy := httputil.NewSingleHostReverseProxy(to)
	lossy.ModifyResponse = func(resp *http.Response) error {
		if isWrite(resp.Request) {
			return io.ErrUnexpectedEOF // the write was made; nobody hears of it
		}
		return nil
	}
	lossy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isWrite(r) && writes.Add(1) > 1 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		lossy.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	s.hcl = strings.ReplaceAll(s.hcl, s.vault.Addr, proxy.URL)
	n := s.start()
	rot, _ := n.rotate(t, "mail/sender")
	if rot.State != client.RotationDone {
		t.Fatalf("%s: %s", rot.State, rot.Error)
	}
	if key := s.direct(t); !s.api.Works(key) {
		t.Error("the vault serves a key that was revoked")
	}
}

func isWrite(r *http.Request) bool {
	return (r.Method == http.MethodPut || r.Method == http.MethodPost) && strings.Contains(r.URL.Path, "/secret/data/")
}

// Stopping does not wait for what a rotation waits for.
func TestStoppingInAWaitTakesNoTime(t *testing.T) {
	t.Parallel()
	s, n, unsure := startGated(t)
	n.rotate(t, "app/key")
	unsure.Store(1_000_000)
	id := n.begin(t, "app/key", "verifying")
	began := time.Now()
	n.stop()
	if took := time.Since(began); took > 8*time.Second { // workers are cut off after 10 s
		t.Errorf("stopping took %s", took)
	}
	unsure.Store(0)
	n = s.start()
	if rot, _ := n.follow(t, id); rot.State != client.RotationDone {
		t.Errorf("%s: %s", rot.State, rot.Error)
	}
}

// A consumer that was down when a version was published is not given it any more
// once that version is being revoked.
func TestARevokedVersionIsNotDelivered(t *testing.T) {
	t.Parallel()
	signing := newSigningSecret()
	var attempts atomic.Int32
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		attempts.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(app.Close)
	hcl := replaced(t, withConsumer(embedded, &consumer{url: app.URL}), `consumer "app" {`, "consumer \"app\" {\n  events = [] # but new versions")
	s, unsure := gatedSite(t, hcl)
	s.env["SIGNING_SECRET"] = signing.Reveal()
	n := s.start()
	n.rotate(t, "app/key")
	eventually(t, "the first attempt", func() bool { return attempts.Load() == 1 })
	unsure.Store(1_000_000) // so that no replacement supersedes the delivery
	n.emergency(t, client.EmergencyRequest{Contain: client.RevokeFirst})
	eventually(t, "the end of the delivery", func() bool {
		list, err := n.Deliveries(t.Context(), client.DeliveryQuery{Secret: "app/key"})
		return err == nil && len(list.Items) == 1 && list.Items[0].State == client.DeliveryDead
	})
	if got := attempts.Load(); got != 1 {
		t.Errorf("%d attempts: the revoked version was sent again", got)
	}
	unsure.Store(0)
}
