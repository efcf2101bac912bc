package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// inbox is that of the consumer "app", with one message until that is acknowledged.
type inbox struct {
	b *broker
	m webhook.Message

	mu       sync.Mutex
	token    string // that may collect
	instance string // that collected last
	ack      int    // how acknowledgements are answered
	idle     int    // how many polls find nothing before they find the message
	done     bool
}

func (b *broker) inbox(m webhook.Message) *inbox {
	i := &inbox{b: b, m: m, token: canary, ack: http.StatusOK}
	b.mux.HandleFunc("GET /api/v1/consumers/app/inbox", i.collect)
	b.mux.HandleFunc("POST /api/v1/deliveries/"+m.ID+"/ack", i.acknowledge)
	return i
}

func (i *inbox) collect(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.instance = r.URL.Query().Get("instance")
	done, may, idle := i.done, r.Header.Get("Authorization") == "Bearer "+i.token, i.idle > 0
	if idle {
		i.idle--
	}
	i.mu.Unlock()
	if !may {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if idle {
		_ = json.NewEncoder(w).Encode(client.List[client.InboxItem]{Items: []client.InboxItem{}})
		return
	}
	if done {
		<-r.Context().Done()
		return
	}
	text := body(i.b.t, i.m)
	item := client.InboxItem{Delivery: i.m.ID, Headers: map[string]string{}, Body: client.SecretText(text)}
	for name, values := range i.b.signer.Sign(i.m.ID, time.Now(), text) {
		item.Headers[strings.ToLower(name)] = values[0]
	}
	_ = json.NewEncoder(w).Encode(client.List[client.InboxItem]{Items: []client.InboxItem{item}})
}

func (i *inbox) acknowledge(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.done = i.ack == http.StatusOK
	w.WriteHeader(i.ack)
	_, _ = w.Write([]byte(`{"detail":"` + canary + `"}`))
}

// TestCollectsAgainWhatIsNotAcknowledged has the broker take no acknowledgement at first,
// and another token later.
func TestCollectsAgainWhatIsNotAcknowledged(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		b.signNew()
		i, token := b.inbox(message("d", 1)), file(t, canary)
		i.ack = http.StatusConflict
		c := p.run(t, "--inbox", "--consumer", "app", "--broker", b.url, "--token-file", token)
		eventually(t, "a word about it", func() bool { return strings.Contains(c.log.String(), "409") })
		if err := os.WriteFile(token, []byte(canary+"-new\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		i.mu.Lock()
		i.token, i.ack = canary+"-new", http.StatusOK
		i.mu.Unlock()
		eventually(t, "it to be acknowledged", func() bool {
			i.mu.Lock()
			defer i.mu.Unlock()
			return i.done && i.instance == p.name
		})
		if got := c.lines(); len(got) != 1 {
			t.Errorf("it was applied several times: %q", got)
		}
	})
}

// TestNothingToCollectIsNoFailure: it says nothing of polls that find nothing, and the next
// one comes at once.
func TestNothingToCollectIsNoFailure(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		b.signNew()
		i := b.inbox(message("d", 1))
		i.idle = 3
		c := p.run(t, "--inbox", "--consumer", "app", "--broker", b.url, "--token-file", file(t, canary))
		eventually(t, "the message to be acknowledged", func() bool {
			i.mu.Lock()
			defer i.mu.Unlock()
			return i.done
		})
		if said := c.log.String(); strings.Contains(said, "consumer: ") {
			t.Errorf("it said %s", said)
		}
	})
}

func TestGivesUpWhereItIsNotLetIn(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		b := newBroker(t)
		b.signNew()
		b.inbox(message("d", 1))
		said := p.fails(t, "--inbox", "--consumer", "app", "--broker", b.url, "--token-file", file(t, canary+"-old"))
		if !strings.Contains(said, "401") || strings.Contains(said, canary) {
			t.Errorf("it said %s", said)
		}
	})
}

func TestNoProxyGetsTheTokenInClearText(t *testing.T) {
	eachProgram(t, func(t *testing.T, p program) {
		proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			t.Errorf("the proxy was asked for %s, with %q", r.URL, r.Header.Get("Authorization"))
		}))
		t.Cleanup(proxy.Close)
		for _, name := range []string{"http_proxy", "HTTP_PROXY", "all_proxy"} {
			p.env = append(p.env, name+"="+proxy.URL)
		}
		p.env = append(p.env, "no_proxy=", "NO_PROXY=")
		b := newBroker(t)
		b.signNew()
		m := message("d", 1)
		b.setValue(func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(client.Value{Name: m.Ref.Name, Version: m.Version, Generation: m.Generation, Fields: map[string]string{"key": canary}})
		})
		c := p.run(t, "--consumer", "app", "--broker", b.url, "--token-file", file(t, canary))
		reference := m
		reference.Payload, reference.Value = webhook.Reference, backends.Value{}
		m.Value = backends.NewValue(map[string]string{"key": canary})
		if a := b.deliver(c.url, reference); !a.applied(m, p.name) {
			t.Errorf("got %+v", a)
		}
	})
}
