package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// The tests named TestRuleNN show the rules that a naive build breaks, each with
// the broker as it is, against real servers. What goes wrong on the way to one of
// them is made by a front.

const (
	revoked = "DELETE /v1/keys/{id}"
	listed  = "GET /v1/keys"
)

// newOperated is the site of startOperated with changes to its configuration (what
// to replace, and by what), not started yet. Its overlap is brief.
func newOperated(t *testing.T, pairs ...string) *operated {
	t.Helper()
	api, signing := keyserver.Start(t), newSigningSecret()
	app := newConsumer(t, signing)
	vault := inVault[strings.Index(inVault, `backend "vault"`):strings.Index(inVault, `issuer "http"`)]
	hcl := replaced(t, inVault, vault, "backend \"local\" \"prod\" {}\n", `overlap = "2s"`, quick)
	s := newSite(t, strings.ReplaceAll(replaced(t, withConsumer(hcl, app), pairs...), "API_URL", api.URL))
	s.env = map[string]string{"MAILER_ADMIN": api.AdminToken, "SIGNING_SECRET": signing.Reveal()}
	return &operated{site: s, api: api, app: app}
}

// quick is how rotations proceed whose waits nobody looks at.
const quick = `overlap = "100ms"
  confirm {
    rejections = 2
    window     = "500ms"
  }`

// front stands before a server; what it does with requests may change at any time.
type front struct {
	mu   sync.Mutex
	with func(w http.ResponseWriter, r *http.Request, pass http.Handler)
}

// front puts one before the server at url, for everybody whom the configuration sends there.
func (s *site) front(url string) *front {
	s.t.Helper()
	f := &front{}
	s.hcl = replaceAll(s.t, s.hcl, url, f.start(s.t, url))
	return f
}

func replaceAll(t testing.TB, text, old, by string) string {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("there is no %q", old)
	}
	return strings.ReplaceAll(text, old, by)
}

// start returns the address at which it stands before the server at to.
func (f *front) start(t testing.TB, to string) string {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(target)
	pass.ErrorLog = log.New(io.Discard, "", 0) // of requests that were given up
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		with := f.with
		f.mu.Unlock()
		if with == nil {
			pass.ServeHTTP(w, r)
			return
		}
		with(w, r, pass)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// do says what is done with requests from now on; nil: they pass.
func (f *front) do(with func(w http.ResponseWriter, r *http.Request, pass http.Handler)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.with = with
}

// answer refuses the requests that match; the others pass.
func (f *front) answer(status int, match func(*http.Request) bool) {
	f.do(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if match(r) {
			w.WriteHeader(status)
			return
		}
		pass.ServeHTTP(w, r)
	})
}

func every(*http.Request) bool { return true }

// bodyOf decodes the JSON body of a request that is yet to pass.
func bodyOf(r *http.Request, into any) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	return json.Unmarshal(b, into)
}

// key is what the API answers of one that was made.
type madeKey struct{ ID, Secret string }

// byHand makes a key at the API, as a stranger with the same account would.
func (o *operated) byHand(name string) (k madeKey, err error) {
	body, err := json.Marshal(map[string]string{"name": name})
	if err != nil {
		return k, err
	}
	r, err := http.NewRequest(http.MethodPost, o.api.URL+"/v1/keys", bytes.NewReader(body))
	if err != nil {
		return k, err
	}
	r.Header.Set("Authorization", "Bearer "+o.api.AdminToken)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return k, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return k, fmt.Errorf("status %d", resp.StatusCode)
	}
	return k, json.NewDecoder(resp.Body).Decode(&k)
}

// idOf asks the API whose key this is; empty if it accepts it no more.
func (o *operated) idOf(key string) (string, error) {
	r, err := http.NewRequest(http.MethodGet, o.api.URL+"/v1/me", nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var k madeKey
	return k.ID, json.NewDecoder(resp.Body).Decode(&k)
}
