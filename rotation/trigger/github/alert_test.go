package github_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/github"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

const (
	canary    = "c4n4ry-s3cr3t-v4lue" // as in testdata/alert_of_the_api.json
	secret    = "the webhook's own secret"
	apiToken  = "github_pat_c4n4ry_of_the_api"
	delivery  = "72d3162e-cc78-11e3-81ab-4c9367dc0958"
	alertPath = "/repos/octo-org/octo-repo/secret-scanning/alerts/42"
)

// api is GitHub's, as far as it is asked.
type api struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string // paths, with the token
	answer http.HandlerFunc
}

func serve(t testing.TB, answer http.HandlerFunc) *api {
	t.Helper()
	a := &api{answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked = append(a.asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
		a.answer(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *api) requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked)
}

func (a *api) becomes(answer http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = answer
}

func file(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func giving(t testing.TB, name string) http.HandlerFunc {
	body := file(t, name)
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, canary, code) }
}

func hook(t testing.TB, apiURL string) *github.Receiver {
	t.Helper()
	return open(t, github.Config{WebhookSecret: "an older secret of the webhook\n" + secret, Token: apiToken, APIURL: apiURL, AllowPrivateNetwork: true}, time.Now)
}

func open(t testing.TB, c github.Config, now func() time.Time) *github.Receiver {
	t.Helper()
	r, err := github.New(c, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// sent are the headers of a delivery, as GitHub makes them.
func sent(event string, body []byte) http.Header {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	h := http.Header{}
	h.Set("User-Agent", "GitHub-Hookshot/044aadd")
	h.Set("Content-Type", "application/json")
	h.Set("X-GitHub-Event", event)
	h.Set("X-GitHub-Delivery", delivery)
	h.Set("X-GitHub-Hook-ID", "109948940")
	h.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	return h
}

func one(t *testing.T, r *github.Receiver, header http.Header, body []byte) inbound.Event {
	t.Helper()
	events, reply, err := r.Receive(t.Context(), header, body)
	if err != nil || len(events) != 1 || reply.Status != 0 || reply.Judge != nil {
		t.Fatalf("%+v, %+v, %v", events, reply, err)
	}
	return events[0]
}

func TestAlerts(t *testing.T) {
	a := serve(t, giving(t, "alert_of_the_api.json"))
	r := hook(t, a.URL+"/")
	ids := map[string]string{}
	for name, want := range map[string]inbound.Event{
		"alert_created.json": {
			At: time.Date(2024, 5, 2, 9, 13, 8, 0, time.UTC), Values: []backends.SecretString{canary}, URL: "https://github.com/octo-org/octo-repo/security/secret-scanning/42",
			Reason: "GitHub secret scanning: SendGrid API Key in octo-org/octo-repo, alert 42 created",
		},
		"alert_publicly_leaked.json": {
			At: time.Date(2024, 5, 2, 9, 20, 0, 0, time.UTC), Values: []backends.SecretString{canary}, URL: "https://github.com/octo-org/octo-repo/security/secret-scanning/42",
			Reason: "GitHub secret scanning: SendGrid API Key in octo-org/octo-repo, alert 42 publicly leaked",
		},
		"alert_reopened.json": {
			Values: []backends.SecretString{canary}, URL: "https://github.com/Codertocat/Hello-World/security/secret-scanning/191",
			Reason: "GitHub secret scanning: adafruit_io_key in Codertocat/Hello-World, alert 191 reopened",
		},
		"alert_resolved.json": { // it names nothing
			At: time.Date(2024, 5, 2, 10, 0, 0, 0, time.UTC), URL: "https://github.com/octo-org/octo-repo/security/secret-scanning/42",
			Reason: "GitHub secret scanning: SendGrid API Key in octo-org/octo-repo, alert 42 resolved (revoked)",
		},
	} {
		body := file(t, name)
		got := one(t, r, sent("secret_scanning_alert", body), body)
		want.ID, want.Source = got.ID, "GitHub, delivery "+delivery
		if !reflect.DeepEqual(got, want.Clean()) || got.ID == "" {
			t.Errorf("%s: %+v", name, got)
		}
		if other, ok := ids[got.ID]; ok {
			t.Errorf("%s and %s have one id", name, other)
		}
		ids[got.ID] = name
	}
	asked := a.requests()
	slices.Sort(asked)
	want := []string{
		"GET /repos/Codertocat/Hello-World/secret-scanning/alerts/191 Bearer " + apiToken,
		"GET " + alertPath + " Bearer " + apiToken, "GET " + alertPath + " Bearer " + apiToken,
	}
	if !slices.Equal(asked, want) {
		t.Errorf("GitHub was asked %q", asked)
	}
}

// TestReplaysAreRecognised: GitHub sends a message again with the same delivery id, which
// is not signed: somebody else could send it with another one.
func TestReplaysAreRecognised(t *testing.T) {
	r := hook(t, serve(t, giving(t, "alert_of_the_api.json")).URL)
	body := file(t, "alert_created.json")
	first := one(t, r, sent("secret_scanning_alert", body), body)
	header := sent("secret_scanning_alert", body)
	header.Set("X-GitHub-Delivery", "00000000-cc78-11e3-81ab-4c9367dc0958")
	if again := one(t, r, header, body); again.ID != first.ID {
		t.Errorf("%q, then %q", first.ID, again.ID)
	}
	header.Set("X-GitHub-Delivery", canary+" \n")
	if odd := one(t, r, header, body); odd.Source != "GitHub" {
		t.Errorf("source %q", odd.Source)
	}
	header.Set("X-GitHub-Event", "ping") // which would be recorded, and the true one be a repetition
	if _, _, err := r.Receive(t.Context(), header, body); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("an alert as a ping: %v", err)
	}
}

func TestPing(t *testing.T) {
	a := serve(t, status(http.StatusTeapot))
	r := hook(t, a.URL)
	body := file(t, "ping.json")
	if e := one(t, r, sent("ping", body), body); !e.Test || len(e.Values) > 0 || e.ID == "" {
		t.Errorf("%+v", e)
	}
	for _, event := range []string{"push", "secret_scanning_alert_location", ""} {
		if events, reply, err := r.Receive(t.Context(), sent(event, body), body); err != nil || len(events) != 0 || reply.Status != 0 {
			t.Errorf("%q: %v, %+v, %v", event, events, reply, err)
		}
	}
	if asked := a.requests(); len(asked) != 0 {
		t.Errorf("GitHub was asked %q", asked)
	}
}

func TestForgedAlertsAreRefused(t *testing.T) {
	a := serve(t, giving(t, "alert_of_the_api.json"))
	r := hook(t, a.URL)
	body := file(t, "alert_created.json")
	good := sent("secret_scanning_alert", body)
	without := good.Clone()
	without.Del("X-Hub-Signature-256")
	sha1 := good.Clone()
	sha1.Set("X-Hub-Signature-256", strings.Replace(good.Get("X-Hub-Signature-256"), "sha256", "sha1", 1))
	for name, c := range map[string]struct {
		header http.Header
		body   []byte
	}{
		"not signed":        {without, body},
		"another algorithm": {sha1, body},
		"another body":      {good, append(slices.Clone(body), ' ')},
		"truncated":         {good, body[:len(body)/2]},
		"empty":             {good, nil},
	} {
		if _, _, err := r.Receive(t.Context(), c.header, c.body); !errors.Is(err, backends.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"no JSON":                canary,
		"a list":                 "[]",
		"no alert":               `{"action":"created","repository":{"full_name":"a/b"}}`,
		"no repository":          `{"action":"created","alert":{"number":1}}`,
		"no number":              `{"action":"created","alert":{"number":0},"repository":{"full_name":"a/b"}}`,
		"another path":           `{"action":"created","alert":{"number":1},"repository":{"full_name":"../../user"}}`,
		"a path of dots":         `{"action":"created","alert":{"number":1},"repository":{"full_name":"a/.."}}`,
		"a longer path":          `{"action":"created","alert":{"number":1},"repository":{"full_name":"a/b/c"}}`,
		"a query":                `{"action":"created","alert":{"number":1},"repository":{"full_name":"a/b?x="}}`,
		"a text for the number":  `{"action":"created","alert":{"number":"` + canary + `"},"repository":{"full_name":"a/b"}}`,
		"deep":                   strings.Repeat(`{"alert":`, 100) + "1" + strings.Repeat("}", 100),
		"cut off after the sign": string(body[:len(body)/2]),
	} {
		_, _, err := r.Receive(t.Context(), sent("secret_scanning_alert", []byte(text)), []byte(text))
		if !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	form := []byte("payload=%7B%7D")
	header := sent("secret_scanning_alert", form)
	header.Set("Content-Type", "application/x-www-form-urlencoded")
	if _, _, err := r.Receive(t.Context(), header, form); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "application/json") {
		t.Errorf("a form: %v", err)
	}
	if asked := a.requests(); len(asked) != 0 {
		t.Errorf("GitHub was asked %q", asked)
	}
}

// TestValueCannotBeFetched: the event says what it lacks, nobody but GitHub gets the token,
// and nothing shows what an answer holds.
func TestValueCannotBeFetched(t *testing.T) {
	elsewhere := serve(t, giving(t, "alert_of_the_api.json"))
	leadTo := func(code int, to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, code) }
	}
	body := file(t, "alert_created.json")
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		tries  int
	}{
		"token is not valid":       {status(http.StatusUnauthorized), 1},
		"token may not":            {status(http.StatusForbidden), 1},
		"no such alert":            {status(http.StatusNotFound), 1},
		"too often":                {status(http.StatusTooManyRequests), 1},
		"it fails":                 {status(http.StatusBadGateway), 3},
		"no JSON":                  {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(canary)) }, 1},
		"no credential":            {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"secret":" "}`)) }, 1},
		"it leads elsewhere":       {leadTo(http.StatusMovedPermanently, elsewhere.URL+"/api/v3"+alertPath), 1},
		"it leads out of the API":  {leadTo(http.StatusMovedPermanently, "/other/"+canary), 1},
		"it leads round in circle": {leadTo(http.StatusTemporaryRedirect, "/api/v3"+alertPath), 2},
	} {
		a := serve(t, c.answer)
		r := hook(t, a.URL+"/api/v3")
		lacking(t, name, r, body)
		if asked := a.requests(); len(asked) != c.tries || !strings.HasPrefix(asked[0], "GET /api/v3"+alertPath) {
			t.Errorf("%s: GitHub was asked %q", name, asked)
		}
	}
	if asked := elsewhere.requests(); len(asked) != 0 {
		t.Errorf("somebody else was asked %q", asked)
	}
	gone := serve(t, nil)
	gone.Close()
	lacking(t, "GitHub is away", hook(t, gone.URL), body)
	for _, at := range []string{elsewhere.URL, "http://localhost:8080", "https://10.1.2.3/api/v3", "https://[fd00::1]"} {
		if _, err := github.New(github.Config{WebhookSecret: secret, Token: apiToken, APIURL: at}, time.Now); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "allow_private_network") {
			t.Errorf("%s without allow_private_network: %v", at, err)
		}
	}
	// It is asked for again, by what the event says that it lacks.
	a := serve(t, giving(t, "alert_of_the_api.json"))
	r := hook(t, a.URL+"/api/v3")
	a.becomes(status(http.StatusNotFound))
	ask := lacking(t, "not yet", r, body)
	if _, err := r.Resolve(t.Context(), ask); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("not yet: %v", err)
	}
	a.becomes(giving(t, "alert_of_the_api.json"))
	if values, err := r.Resolve(t.Context(), ask); err != nil || len(values) != 1 || values[0] == "" {
		t.Errorf("asked again: %d values, %v", len(values), err)
	}
	if _, err := r.Resolve(t.Context(), map[string]string{"repository": "../x", "alert": "1"}); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("asked for nonsense: %v", err)
	}
}

// lacking wants an alert's event to lack the credential, and returns what to ask for.
func lacking(t *testing.T, name string, r *github.Receiver, body []byte) map[string]string {
	t.Helper()
	events, _, err := r.Receive(t.Context(), sent("secret_scanning_alert", body), body)
	if err != nil || len(events) != 1 || events[0].Missing == nil || len(events[0].Values) > 0 {
		t.Fatalf("%s: %d events, %v", name, len(events), err)
	}
	if why := events[0].Missing.Why; why == "" || strings.Contains(why, canary) || strings.Contains(why, apiToken) {
		t.Errorf("%s: it says %q", name, why)
	}
	return events[0].Missing.Ask
}

// TestRenamedRepository: GitHub's API leads to where a repository is now.
func TestRenamedRepository(t *testing.T) {
	answer := giving(t, "alert_of_the_api.json")
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/repositories/") {
			answer(w, r)
			return
		}
		http.Redirect(w, r, "/repositories/1296269/secret-scanning/alerts/42", http.StatusMovedPermanently)
	})
	body := file(t, "alert_created.json")
	if e := one(t, hook(t, a.URL), sent("secret_scanning_alert", body), body); !slices.Equal(e.Values, []backends.SecretString{canary}) {
		t.Errorf("%d values", len(e.Values))
	}
	for _, asked := range a.requests() {
		if !strings.HasSuffix(asked, apiToken) {
			t.Errorf("asked without the token: %s", asked)
		}
	}
}

func TestFetchingIsTriedAgain(t *testing.T) {
	fails := 2
	answer := giving(t, "alert_of_the_api.json")
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if fails--; fails >= 0 {
			http.Error(w, "", http.StatusServiceUnavailable)
			return
		}
		answer(w, r)
	})
	body := file(t, "alert_created.json")
	if e := one(t, hook(t, a.URL), sent("secret_scanning_alert", body), body); len(e.Values) != 1 || len(a.requests()) != 3 {
		t.Errorf("%d values after %d requests", len(e.Values), len(a.requests()))
	}
}

func TestConfigurationMistakes(t *testing.T) {
	for name, c := range map[string]struct {
		config github.Config
		says   string
	}{
		"nobody":           {github.Config{}, "webhook_secret is missing"},
		"both":             {github.Config{WebhookSecret: secret, Token: "t", Partner: true}, "partner and webhook_secret exclude each other"},
		"no token":         {github.Config{WebhookSecret: secret}, "token is missing"},
		"a token of lines": {github.Config{WebhookSecret: secret, Token: apiToken + "\n" + canary}, "token is not one printable word"},
		"short":            {github.Config{WebhookSecret: "short", Token: "t"}, "webhook_secret is too short"},
		"keys of nobody":   {github.Config{WebhookSecret: secret, Token: "t", KeysURL: "https://example.com/keys"}, "keys_url is without effect"},
		"no URL":           {github.Config{Partner: true, APIURL: "github.example.com"}, "api_url is no URL"},
		"plain":            {github.Config{Partner: true, APIURL: "http://github.example.com"}, "api_url must begin with https://"},
		"credentials":      {github.Config{Partner: true, KeysURL: "https://u:" + canary + "@example.com/"}, "keys_url holds more"},
		"a query":          {github.Config{Partner: true, KeysURL: "https://example.com/?t=" + canary}, "keys_url holds more"},
	} {
		err := c.config.Validate(false)
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), apiToken) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := github.New(c.config, time.Now); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%s: made: %v", name, err)
		}
	}
	offline := github.Config{WebhookSecret: "0ff11ce0", Token: "0ff11ce0", CAFile: "not/there"}
	if err := offline.Validate(true); err != nil {
		t.Error(err)
	}
}

// FuzzAlert: whatever is signed, GitHub is asked below its API's path alone, and no error
// is without a class.
func FuzzAlert(f *testing.F) {
	for _, name := range []string{"alert_created.json", "alert_reopened.json", "alert_resolved.json", "ping.json"} {
		f.Add(file(f, name), "secret_scanning_alert")
	}
	f.Add([]byte(`{"zen":"z","hook_id":1}`), "ping")
	f.Add([]byte(`{"action":"created","alert":{"number":1},"repository":{"full_name":"a/%2e%2e"}}`), "secret_scanning_alert")
	a := serve(f, giving(f, "alert_of_the_api.json"))
	r := hook(f, a.URL+"/api/v3")
	f.Fuzz(func(t *testing.T, body []byte, event string) {
		events, _, err := r.Receive(context.Background(), sent(event, body), body)
		if err != nil && backends.Class(err) == nil || errors.Is(err, backends.ErrDenied) {
			t.Errorf("%v", err)
		}
		for _, e := range events {
			if len(e.Secrets) > 0 || len(e.Labels) > 0 || strings.Contains(fmt.Sprintf("%+v", e), canary) {
				t.Errorf("%+v", e)
			}
		}
		for _, asked := range a.requests() {
			if !strings.HasPrefix(asked, "GET /api/v3/repos/") || !strings.Contains(asked, "/secret-scanning/alerts/") || strings.Contains(asked, "..") && !strings.Contains(asked, "...") {
				t.Errorf("asked %q", asked)
			}
		}
		a.mu.Lock()
		a.asked = nil
		a.mu.Unlock()
	})
}
