package crashtest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// What may happen to a request of the issuer.
const (
	refuse  = "refuse"  // 503, and nothing is done
	cut     = "cut"     // the connection ends, and nothing is done
	drop    = "drop"    // it is done, and the connection ends without an answer
	invalid = "invalid" // 422, and nothing is done
)

// The routes of the issuer.
const (
	mintRoute   = "POST /v1/keys"
	findRoute   = "GET /v1/keys"
	revokeRoute = "DELETE /v1/keys/"
	tryRoute    = "GET /v1/me"
)

// minted is what the journal holds of one key.
type minted struct {
	id, tag, subject, secret string
	revokedFrom, revokedAt   time.Time // before and after it was revoked; zero: it is alive
}

// witness stands before the issuer, keeps a journal of what it did, and brings
// the faults.
type witness struct {
	*keyserver.Server
	url      string
	upstream *http.Transport

	mu       sync.Mutex
	journal  []*minted
	bySecret map[string]*minted
	byID     map[string]*minted
	rng      *rand.Rand
	latency  time.Duration       // for which revoked keys go on working; set before the first request
	chance   float64             // of a fault, for each request
	scripted map[string][]string // faults to come, by route
	down     map[string]time.Time
}

const downEverywhere = "" // the key of witness.down that stands for every route

func newWitness(t *testing.T, seed uint64) *witness {
	w := &witness{Server: keyserver.Start(t), upstream: &http.Transport{MaxIdleConnsPerHost: 16}, bySecret: map[string]*minted{}, byID: map[string]*minted{},
		rng: rand.New(rand.NewPCG(seed, 1)), scripted: map[string][]string{}, down: map[string]time.Time{}}
	front := httptest.NewUnstartedServer(w)
	front.Config.ErrorLog = silent()
	front.Start()
	t.Cleanup(func() { front.Close(); w.upstream.CloseIdleConnections() })
	w.url = front.URL
	return w
}

func (w *witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	route := routeOf(r)
	fault := w.fault(route)
	switch fault {
	case refuse:
		http.Error(rw, `{"error":"unavailable"}`, http.StatusServiceUnavailable)
		return
	case invalid:
		http.Error(rw, `{"error":"invalid"}`, http.StatusUnprocessableEntity)
		return
	case cut:
		panic(http.ErrAbortHandler)
	}
	began := time.Now()
	status, header, body, err := w.forward(r)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.note(route, r, status, began)
	if fault == drop {
		panic(http.ErrAbortHandler)
	}
	rw.Header().Set("Content-Type", header.Get("Content-Type"))
	rw.WriteHeader(status)
	_, _ = rw.Write(body)
}

func routeOf(r *http.Request) string {
	route := r.Method + " " + r.URL.Path
	if strings.HasPrefix(route, revokeRoute) {
		return revokeRoute
	}
	return route
}

// forward does what was asked for, also if whoever asked is dead meanwhile: a
// request that has arrived acts.
func (w *witness) forward(r *http.Request) (int, http.Header, []byte, error) {
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, nil, nil, err
	}
	req, err := http.NewRequest(r.Method, w.URL+r.URL.RequestURI(), bytes.NewReader(sent))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header = r.Header.Clone()
	resp, err := w.upstream.RoundTrip(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && r.Method == http.MethodPost {
		var asked struct{ Scopes []string }
		var made struct{ ID, Name, Secret string }
		if json.Unmarshal(sent, &asked) == nil && json.Unmarshal(body, &made) == nil && made.ID != "" && len(asked.Scopes) == 1 {
			w.mu.Lock()
			k := &minted{id: made.ID, tag: made.Name, subject: asked.Scopes[0], secret: made.Secret}
			w.journal = append(w.journal, k)
			w.bySecret[k.secret], w.byID[k.id] = k, k
			w.mu.Unlock()
		}
	}
	return resp.StatusCode, resp.Header, body, err
}

// note writes a revocation down, after it was made.
func (w *witness) note(route string, r *http.Request, status int, began time.Time) {
	if route != revokeRoute || status != http.StatusNoContent {
		return
	}
	id := strings.TrimPrefix(r.URL.Path, "/v1/keys/")
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := w.byID[id]; k != nil {
		k.revokedFrom, k.revokedAt = began, time.Now()
	}
}

func (w *witness) fault(route string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if list := w.scripted[route]; len(list) > 0 {
		w.scripted[route] = list[1:]
		return list[0]
	}
	now := time.Now()
	if now.Before(w.down[route]) || now.Before(w.down[downEverywhere]) {
		return refuse
	}
	if w.rng.Float64() >= w.chance {
		return ""
	}
	return []string{refuse, cut, drop, drop}[w.rng.IntN(4)]
}

// script lets the next requests of a route meet these faults.
func (w *witness) script(route string, faults ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.scripted[route] = faults
}

// outage makes a route, or all of them, refuse for a while.
func (w *witness) outage(route string, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[route] = time.Now().Add(d)
}

// calm ends all faults; restless begins them with this chance for each request.
func (w *witness) calm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.chance = 0
	clear(w.scripted)
	clear(w.down)
}

func (w *witness) restless(chance float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.chance = chance
}

// slow lets revoked keys go on working for a while, except at every n-th use.
func (w *witness) slow(latency time.Duration, n int) {
	w.latency = latency
	w.SetRevocationLatency(latency)
	w.SetFlapping(n)
}

// holding returns what the journal has of a key, handled of one by its id: the
// zero value if it was never made.
func (w *witness) holding(secret string) minted { return w.find(w.bySecret, secret) }
func (w *witness) handled(id string) minted     { return w.find(w.byID, id) }

func (w *witness) find(index map[string]*minted, name string) minted {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := index[name]; k != nil {
		return *k
	}
	return minted{}
}

// revoked tells when a key was revoked; zero: it was not, or is none of this issuer.
func (w *witness) revoked(secret string) time.Time { return w.holding(secret).revokedAt }

// made returns the keys of a subject from the n-th on, and how many there are.
func (w *witness) made(subject string, from int) (keys []minted, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.journal {
		if k.subject != subject {
			continue
		}
		if n >= from {
			keys = append(keys, *k)
		}
		n++
	}
	return keys, n
}

// alive returns the subject's live keys as the issuer itself lists them.
func (w *witness) alive(subject string) (list []keyserver.Key) {
	for _, k := range w.Live() {
		if len(k.Scopes) == 1 && k.Scopes[0] == subject {
			list = append(list, k)
		}
	}
	return list
}
