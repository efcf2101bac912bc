package daemon_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// listener is a consumer's end of its webhook: it answers as it is told to and keeps
// the order in which things come.
type listener struct {
	t   *testing.T
	url string

	mu       sync.Mutex
	do       http.HandlerFunc // nil: take what comes, and acknowledge it
	requests int
	held     int              // requests that are not answered
	most     int              // of them at once
	newest   map[string]int64 // generation that was received, by secret
	received []told
}

// told is one message that was received.
type told struct {
	id, kind, secret string
	version          int
	generation       int64
}

// newListener serves on loopback; over TLS where it is given a certificate.
func newListener(t *testing.T, cert *tls.Certificate) *listener {
	t.Helper()
	l := &listener{t: t, newest: map[string]int64{}}
	srv := httptest.NewUnstartedServer(l)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // of requests that were given up
	if cert == nil {
		srv.Start()
	} else {
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		srv.StartTLS()
	}
	t.Cleanup(srv.Close)
	l.url = srv.URL
	return l
}

// answer has requests answered otherwise from now on; nil: as usual.
func (l *listener) answer(do http.HandlerFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.do = do
}

// answering answers with a status and headers.
func answering(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// hangs answers nothing until whoever asks gives up, or the test is over: a node that
// stops would wait for it.
func (l *listener) hangs() {
	over := make(chan struct{})
	l.t.Cleanup(func() { close(over) })
	l.answer(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the end of the request is not seen
		select {
		case <-over:
		case <-r.Context().Done():
		}
	})
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	do := l.do
	l.requests++
	l.held++
	l.most = max(l.most, l.held)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held--
	}()
	if do == nil {
		do = l.take
	}
	do(w, r)
}

// take receives a message and acknowledges what it can.
func (l *listener) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var event struct {
		Type string `json:"type"`
		Data struct {
			Secret     string            `json:"secret"`
			Version    int               `json:"version"`
			Generation int64             `json:"generation"`
			Fields     map[string]string `json:"fields"`
		} `json:"data"`
	}
	if err != nil || json.Unmarshal(body, &event) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	d, id := event.Data, r.Header.Get(webhook.HeaderID)
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.Generation < l.newest[d.Secret] {
		l.t.Errorf("%s of generation %d of %s came after generation %d", event.Type, d.Generation, d.Secret, l.newest[d.Secret])
	}
	l.newest[d.Secret] = max(l.newest[d.Secret], d.Generation)
	l.received = append(l.received, told{id, event.Type, d.Secret, d.Version, d.Generation})
	if len(d.Fields) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "applied", "generation": d.Generation, // the broker would ask again
		"fingerprint": rotation.Fingerprint(id, backends.NewValue(d.Fields))})
}

// counts are the requests that came, those that are not answered yet, and the most of
// these that there ever were.
func (l *listener) counts() (requests, held, most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests, l.held, l.most
}

// has tells which generation of a secret was received last.
func (l *listener) has(secret string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest[secret]
}

// all are the messages that were received.
func (l *listener) all() []told {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]told(nil), l.received...)
}

// onLoopback is a certificate for a server on loopback.
func onLoopback(ca *certtest.Authority) *tls.Certificate {
	cert := ca.Client(func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	return &cert
}

// push is the configuration of secrets that rotate without waits and of consumers that
// are told of their new versions and of nothing else.
type push struct {
	hcl   strings.Builder
	names []string
}

// tell adds a consumer; more is of its webhook.
func (p *push) tell(name, url, more string) {
	p.names = append(p.names, fmt.Sprintf("%q", name))
	fmt.Fprintf(&p.hcl, `
consumer %q {
  events = ["secret.rotated"]
  webhook {
    url                   = %q
    allow_private_network = true
    %s
  }
}
`, name, url, more)
}

// site is one with so many secrets, app/key0 and so on, of which all consumers are told.
func (p *push) site(t *testing.T, secrets int) *site {
	hcl := withoutWaits(withConsumer(embedded, nil)) + p.hcl.String()
	for i := range secrets {
		hcl += fmt.Sprintf(`
secret %q {
  backend   = "embedded"
  probe     = "internal"
  consumers = [%s]
  issuer "internal" {}
}
`, pushed(i), strings.Join(p.names, ", "))
	}
	return newSite(t, hcl)
}

func pushed(i int) string { return fmt.Sprint("app/key", i) }

// deliveries are those to a consumer, the newest first.
func (n *node) deliveries(t *testing.T, consumer string) []client.Delivery {
	t.Helper()
	list, err := n.Deliveries(t.Context(), client.DeliveryQuery{Consumer: consumer, Page: client.Page{Limit: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// consumer shows one.
func (n *node) consumer(t *testing.T, name string) client.Consumer {
	t.Helper()
	c, err := n.Consumer(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
