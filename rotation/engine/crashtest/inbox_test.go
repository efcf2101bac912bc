package crashtest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/examples/consumer/receiver"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// letter is one webhook as it arrived.
type letter struct {
	Data struct {
		Secret     string            `json:"secret"`
		Version    int               `json:"version"`
		Generation int64             `json:"generation"`
		Fields     map[string]string `json:"fields"`
	} `json:"data"`
}

// inbox is a consumer: the example's receiver behind a log of what arrived. A
// delivery meets a fault at its first attempt only.
type inbox struct {
	url, signing string
	receiver     *receiver.Receiver
	arrived      func(letter)
	outOfOrder   func(string)

	mu       sync.Mutex
	rng      *rand.Rand
	chance   float64
	script   int // so many first attempts are refused
	attempts map[string]int
	newest   map[string]int64 // by secret
	letters  int
}

func newInbox(t *testing.T, seed uint64) *inbox {
	secret := webhook.GenerateSecret()
	r, err := receiver.New(secret, receiver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	in := &inbox{signing: secret.Reveal(), receiver: r, rng: rand.New(rand.NewPCG(seed, 2)), attempts: map[string]int{}, newest: map[string]int64{}}
	srv := httptest.NewUnstartedServer(in)
	srv.Config.ErrorLog = silent()
	srv.Start()
	t.Cleanup(srv.Close)
	in.url = srv.URL
	return in
}

func (in *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var l letter
	if err != nil || json.Unmarshal(body, &l) != nil {
		http.Error(w, "no event", http.StatusBadRequest)
		return
	}
	switch in.note(r.Header.Get("webhook-id"), l) {
	case refuse:
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
		return
	case cut:
		panic(http.ErrAbortHandler)
	}
	in.arrived(l)
	answer := httptest.NewRecorder()
	r.Body = io.NopCloser(bytes.NewReader(body))
	in.receiver.ServeHTTP(answer, r)
	w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// note keeps the order of arrival and rolls the dice for a fault.
func (in *inbox) note(id string, l letter) string {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.letters++
	if l.Data.Generation < in.newest[l.Data.Secret] {
		in.outOfOrder(fmt.Sprintf("%s: generation %d was delivered after %d", l.Data.Secret, l.Data.Generation, in.newest[l.Data.Secret]))
	}
	in.newest[l.Data.Secret] = max(in.newest[l.Data.Secret], l.Data.Generation)
	in.attempts[id]++
	if in.attempts[id] > 1 {
		return ""
	}
	if in.script > 0 {
		in.script--
		return refuse
	}
	if in.rng.Float64() >= in.chance {
		return ""
	}
	return []string{refuse, cut}[in.rng.IntN(2)]
}

func (in *inbox) refuseNext(n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.script = n
}

func (in *inbox) restless(chance float64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.chance = chance
	if chance == 0 {
		in.script = 0
	}
}

func silent() *log.Logger { return log.New(io.Discard, "", 0) }
