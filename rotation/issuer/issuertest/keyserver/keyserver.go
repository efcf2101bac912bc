// Package keyserver is a small real HTTP API that mints, lists, checks and
// revokes keys, with the faults that such APIs show, for tests.
package keyserver

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server serves
//
//	POST   /v1/keys         {"name", "scopes"} → 201 {"id", "name", "secret"}   (admin)
//	GET    /v1/keys?name=   → 200 {"data": [{"id", "name"}]}, live ones         (admin)
//	DELETE /v1/keys/{id}    → 204, 404 if not live                             (admin)
//	GET    /v1/me           → 200 with a live key as bearer token, else 401
//
// on loopback. Its methods may be called at any time.
type Server struct {
	URL        string
	AdminToken string

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
}

// Key is a key that the server holds, without its secret.
type Key struct {
	ID, Name string
	Scopes   []string
}

type key struct {
	Key
	secret    string
	revokedAt time.Time
	uses      int // since it was revoked
}

type override struct{ status, times int }

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		AdminToken: "admin-" + rand.Text(),
		now:        time.Now,
		counts:     map[string]int{},
		overrides:  map[string]*override{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/keys", s.admin(s.create))
	mux.HandleFunc("GET /v1/keys", s.admin(s.list))
	mux.HandleFunc("DELETE /v1/keys/{id}", s.admin(s.revoke))
	mux.HandleFunc("GET /v1/me", s.me)
	server := httptest.NewUnstartedServer(s.count(mux))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.connections++
			s.mu.Unlock()
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
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

func (s *Server) admin(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("Authorization")
		if subtle.ConstantTimeCompare([]byte(token), []byte("Bearer "+s.AdminToken)) != 1 {
			answer(w, http.StatusUnauthorized, map[string]any{"error": "wrong token " + token})
			return
		}
		next(w, r)
	}
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Name   string   `json:"name"`
		Scopes []string `json:"scopes"`
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
	k := &key{Key: Key{ID: "key_" + strings.ToLower(rand.Text()[:12]), Name: body.Name, Scopes: body.Scopes}, secret: "ks-" + rand.Text()}
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

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	data := []map[string]any{}
	for _, k := range s.Live() {
		// A search by prefix, as many APIs have it: more than what was asked for.
		if strings.HasPrefix(k.Name, name) {
			data = append(data, map[string]any{"id": k.ID, "name": k.Name})
		}
	}
	answer(w, http.StatusOK, map[string]any{"data": data})
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
	s.mu.Lock()
	k := s.usable(token, true)
	s.mu.Unlock()
	if k == nil {
		answer(w, http.StatusUnauthorized, map[string]any{"ok": false, "error": "invalid key " + token})
		return
	}
	answer(w, http.StatusOK, map[string]any{"ok": true, "id": k.ID, "name": k.Name})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// usable finds the key with this secret if it still works. The lock is held.
func (s *Server) usable(secret string, use bool) *key {
	i := slices.IndexFunc(s.keys, func(k *key) bool { return k.secret == secret })
	if i < 0 {
		return nil
	}
	k := s.keys[i]
	if k.revokedAt.IsZero() {
		return k
	}
	if s.now().Sub(k.revokedAt) >= s.latency {
		return nil
	}
	if !use {
		return k
	}
	k.uses++
	if s.flapping > 0 && k.uses%s.flapping == 0 {
		return nil
	}
	return k
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

// Works tells whether a key would be accepted now, without counting as its use.
func (s *Server) Works(secret string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usable(secret, false) != nil
}

// Secrets returns the secret of every key ever made, revoked ones and those whose
// answer was dropped included: what must be found nowhere.
func (s *Server) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, k := range s.keys {
		list = append(list, k.secret)
	}
	return list
}

// Requests counts the requests of a route so far: "POST /v1/keys",
// "GET /v1/keys", "DELETE /v1/keys/{id}" or "GET /v1/me".
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
