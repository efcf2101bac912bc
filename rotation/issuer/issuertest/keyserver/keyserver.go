// Package keyserver is a small real HTTP API that mints, lists, checks and
// revokes keys, with the faults that such APIs show, for tests.
package keyserver

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server serves
//
//	POST   /v1/keys         {"name", "scopes", "account"} → 201 {"id", "name", "secret"}   (admin)
//	GET    /v1/keys?name=   → 200 {"data": [{"id", "name"}]}, live ones         (admin)
//	DELETE /v1/keys/{id}    → 204, 404 if not live                             (admin)
//	GET    /v1/me           → 200 with a live key as bearer token, else 401
//	POST   /oauth/token     client credentials, scope "keys", audience "keyserver" → 200 {"access_token", …}
//
// on loopback. A key is of the account "" unless its maker names another. Its
// methods may be called at any time.
type Server struct {
	URL        string   // of the first address
	Addresses  []string // "ip:port" of every server behind the API
	AdminToken string
	// Or, instead of AdminToken, as func admin says:
	ClientID, ClientSecret string
	SigningKey             string

	mu          sync.Mutex
	now         func() time.Time
	keys        []*key
	counts      map[string]int
	connections int
	maxLive     int
	latency     time.Duration
	flapping    int // every n-th use of a revoked key within latency is refused already
	dropCreates int
	overrides   map[string]*override
	probes      int
	canary      *key
	standings   map[string]Standing // by address; "" = those not named
	lockout     Lockout
	accounts    map[string]*account
	lockouts    int
	tokens      map[string]access
	everyToken  []string
	tokenLife   time.Duration
	pageSize    int
	next        string
}

// Key is a key that the server holds, without its secret.
type Key struct {
	ID, Name string
	Account  string
	Scopes   []string
}

type key struct {
	Key
	secret    string
	revokedAt time.Time
	uses      int // since it was revoked
}

func newKey(name, account string) *key {
	return &key{Key: Key{ID: "key_" + strings.ToLower(rand.Text()[:12]), Name: name, Account: account}, secret: "ks-" + rand.Text()}
}

type override struct{ status, times int }

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartAt(t, "127.0.0.1")
}

// StartAt runs an API that several servers answer for, at the same port of each
// of the loopback addresses ("127.0.0.2" and so on, which Linux has without any
// setup); they share their keys.
func StartAt(t testing.TB, ips ...string) *Server {
	t.Helper()
	s := &Server{
		AdminToken: "admin-" + rand.Text(),
		ClientID:   "keybroker", ClientSecret: "client-" + rand.Text(), SigningKey: "signing-" + rand.Text(),
		tokens: map[string]access{}, tokenLife: time.Hour,
		now:       time.Now,
		counts:    map[string]int{},
		overrides: map[string]*override{},
		standings: map[string]Standing{},
		accounts:  map[string]*account{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/keys", s.admin(s.create))
	mux.HandleFunc("GET /v1/keys", s.admin(s.list))
	mux.HandleFunc("DELETE /v1/keys/{id}", s.admin(s.revoke))
	mux.HandleFunc("GET /v1/me", s.me)
	mux.HandleFunc("POST /oauth/token", s.token)
	handler := s.count(mux)
	for _, l := range listen(t, ips) {
		server := httptest.NewUnstartedServer(handler)
		_ = server.Listener.Close()
		server.Listener = l
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.set(func() { s.connections++ })
			}
		}
		server.Start()
		t.Cleanup(server.Close)
		s.Addresses = append(s.Addresses, l.Addr().String())
	}
	s.URL = "http://" + s.Addresses[0]
	return s
}

// listen opens one port on all addresses. Somebody else may have the port of the
// first on another one; then it tries again with another port.
func listen(t testing.TB, ips []string) []net.Listener {
	t.Helper()
	var failed error
	for range 20 {
		var all []net.Listener
		port := "0"
		for _, ip := range ips {
			l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
			if failed = err; err != nil {
				break
			}
			all = append(all, l)
			_, port, _ = net.SplitHostPort(l.Addr().String())
		}
		if failed == nil {
			return all
		}
		for _, l := range all {
			_ = l.Close()
		}
	}
	t.Fatalf("listening on %v: %v", ips, failed)
	return nil
}

// count counts a request and answers it with a status set by Override.
func (s *Server) count(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, pattern := mux.Handler(r)
		s.mu.Lock()
		s.counts[pattern]++
		if strings.HasPrefix(r.UserAgent(), "keybroker-probe/") {
			s.probes++
		}
		status := 0
		if o := s.overrides[pattern]; o != nil && o.times != 0 {
			o.times--
			status = o.status
		}
		s.mu.Unlock()
		if status != 0 {
			// Like many APIs it quotes what it was sent.
			answer(w, status, map[string]any{"error": "override", "authorization": r.Header.Get("Authorization"), "url": r.URL.String()})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Name    string   `json:"name"`
		Account string   `json:"account"`
		Scopes  []string `json:"scopes"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Name == "" {
		answer(w, http.StatusUnprocessableEntity, map[string]any{"error": "a name is needed"})
		return
	}
	s.mu.Lock()
	if s.maxLive > 0 && len(s.live()) >= s.maxLive {
		s.mu.Unlock()
		answer(w, http.StatusConflict, map[string]any{"error": "too many keys"})
		return
	}
	k := newKey(body.Name, body.Account)
	k.Scopes = body.Scopes
	s.keys = append(s.keys, k)
	drop := s.dropCreates > 0
	if drop {
		s.dropCreates--
	}
	s.mu.Unlock()
	if drop {
		panic(http.ErrAbortHandler) // closes the connection without an answer
	}
	answer(w, http.StatusCreated, map[string]any{"id": k.ID, "name": k.Name, "secret": k.secret})
}

func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.live() {
		if k.ID == r.PathValue("id") {
			k.revokedAt = s.now()
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	answer(w, http.StatusNotFound, map[string]any{"error": "no such key"})
}

func (s *Server) me(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	address := r.Context().Value(http.LocalAddrContextKey).(net.Addr).String()
	s.mu.Lock()
	k, refusal := s.judge(token, address)
	s.mu.Unlock()
	if k == nil {
		answer(w, refusal, map[string]any{"ok": false, "error": "invalid key " + token})
		return
	}
	answer(w, http.StatusOK, map[string]any{"ok": true, "id": k.ID, "name": k.Name})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// live returns the keys not revoked. The lock is held.
func (s *Server) live() []*key {
	var list []*key
	for _, k := range s.keys {
		if k.revokedAt.IsZero() {
			list = append(list, k)
		}
	}
	return list
}

// Live returns the keys not revoked, oldest first.
func (s *Server) Live() []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Key
	for _, k := range s.live() {
		list = append(list, k.Key)
	}
	return list
}

// Secrets returns the secret of every key ever made, revoked ones, those whose
// answer was dropped and the canary included: what must be found nowhere.
func (s *Server) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, k := range s.everyKey() {
		list = append(list, k.secret)
	}
	return list
}

// Requests counts the requests of a route so far: "POST /v1/keys",
// "GET /v1/keys", "DELETE /v1/keys/{id}", "GET /v1/me" or "POST /oauth/token".
func (s *Server) Requests(route string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[route]
}

// Connections counts the connections accepted so far.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

// Probes counts the requests so far that said they were probing.
func (s *Server) Probes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.probes
}

// SetClock replaces time.Now.
func (s *Server) SetClock(now func() time.Time) { s.set(func() { s.now = now }) }

// SetMaxLive makes creates answer 409 while n keys are live; 0 = no limit.
func (s *Server) SetMaxLive(n int) { s.set(func() { s.maxLive = n }) }

// SetRevocationLatency lets revoked keys go on working for d.
func (s *Server) SetRevocationLatency(d time.Duration) { s.set(func() { s.latency = d }) }

// SetFlapping makes every n-th use of a revoked key within the revocation
// latency refused already, as by a server that learnt of it early; 0 = none.
func (s *Server) SetFlapping(n int) { s.set(func() { s.flapping = n }) }

// DropCreates makes the next n creates act and then cut the connection.
func (s *Server) DropCreates(n int) { s.set(func() { s.dropCreates = n }) }

// Override answers the next n requests of a route with status and does nothing
// else; n < 0 = all, n = 0 = none any more.
func (s *Server) Override(route string, status, n int) {
	s.set(func() { s.overrides[route] = &override{status, n} })
}

// Resurrect makes a revoked key live again, as restoring a backup would.
func (s *Server) Resurrect(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keys {
		if k.ID == id {
			k.revokedAt, k.uses = time.Time{}, 0
			return nil
		}
	}
	return fmt.Errorf("no key %s", id)
}

func (s *Server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}
