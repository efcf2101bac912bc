package crashtest_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"

	crand "crypto/rand"

	"github.com/go-jose/go-jose/v4"
)

// hook is a consumer with a webhook, to which values come sealed. A delivery meets a
// fault at its first attempt only.
type hook struct {
	*application
	url, publicKey string
	private        *ecdsa.PrivateKey

	mu       sync.Mutex
	rng      *rand.Rand
	chance   float64
	script   int // so many first attempts are refused
	attempts map[string]int
}

func newHook(s *site, seed uint64) *hook {
	t := s.t
	private, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(jose.JSONWebKey{Key: private.Public(), KeyID: "app-1", Use: "enc", Algorithm: string(jose.ECDH_ES_A256KW)})
	if err != nil {
		t.Fatal(err)
	}
	h := &hook{application: newApplication(hookConsumer), publicKey: string(public), private: private,
		rng: rand.New(rand.NewPCG(seed, 2)), attempts: map[string]int{}}
	h.keys = func() ([]ed25519.PublicKey, error) { return s.publishedKeys(hookConsumer) }
	h.open = h.unseal
	h.violation = s.violation
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = silent()
	srv.Start()
	t.Cleanup(srv.Close)
	h.url = srv.URL
	return h
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // whoever sent it is dead
	}
	lost := ""
	said, err := h.take(r.Header, body, func(id string) error {
		if lost = h.fault(id); lost == refuse || lost == cut {
			return errUnusable
		}
		return nil
	})
	switch {
	case lost == cut || lost == drop:
		panic(http.ErrAbortHandler)
	case err != nil:
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(said) // it would be sent again
}

// unseal opens the value and compares what was sealed with it.
func (h *hook) unseal(d data) (map[string]string, error) {
	sealed, err := jose.ParseEncryptedJSON(string(d.Sealed), []jose.KeyAlgorithm{jose.ECDH_ES_A256KW}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return nil, err
	}
	_, _, text, err := sealed.DecryptMulti(h.private)
	if err != nil {
		return nil, err
	}
	var inside data
	if err := json.Unmarshal(text, &inside); err != nil {
		return nil, err
	}
	if inside.Audience != d.Audience || inside.Tenant != d.Tenant || inside.Secret != d.Secret || inside.Version != d.Version || inside.Generation != d.Generation {
		return nil, errors.New("what is sealed is of another message")
	}
	if len(d.Fields) > 0 {
		return nil, errors.New("a sealed message has fields in the clear")
	}
	return inside.Fields, nil
}

// fault rolls the dice for the first attempt at a delivery.
func (h *hook) fault(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.attempts[id]++
	switch {
	case h.attempts[id] > 1:
		return ""
	case h.script > 0:
		h.script--
		return refuse
	case h.rng.Float64() >= h.chance:
		return ""
	}
	return []string{refuse, cut, drop}[h.rng.IntN(3)]
}

func (h *hook) refuseNext(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.script = n
}

func (h *hook) restless(chance float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.chance = chance
	if chance == 0 {
		h.script = 0
	}
}

func silent() *log.Logger { return log.New(io.Discard, "", 0) }
