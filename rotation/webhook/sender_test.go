package webhook_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/outbound/outboundtest"
	"github.com/keybroker/keybroker/rotation/webhook"
)

var sendTime = time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)

func newSender(t *testing.T, e webhook.Endpoint) *webhook.Sender {
	t.Helper()
	s, err := webhook.NewSender(e, func() time.Time { return sendTime })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// send makes one attempt at delivering "{}" to an endpoint.
func send(t *testing.T, e webhook.Endpoint) webhook.Outcome {
	t.Helper()
	return newSender(t, e).Send(t.Context(), "d1", []byte("{}"), signer(t, vectorSecret))
}

// received is one request as a consumer saw it.
type received struct {
	header http.Header
	url    string
	body   []byte
}

func consumer(t *testing.T, answer func(http.ResponseWriter, *http.Request)) (*httptest.Server, func() []received) {
	t.Helper()
	var mu sync.Mutex
	var all []received
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		all = append(all, received{r.Header, r.URL.String(), body})
		mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s, func() []received {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func private(url string) webhook.Endpoint {
	return webhook.Endpoint{URL: url, AllowPrivate: true}
}

func TestSendSignsAndDelivers(t *testing.T) {
	server, requests := consumer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"status":"applied"}`)
	})
	secret, body := webhook.GenerateSecret(), []byte(`{"a":1}`)
	url := strings.Replace(server.URL, "http://", "http://user:word@", 1) + "/hook?token=t"
	o := newSender(t, private(url)).Send(t.Context(), "d1", body, signer(t, secret))
	if o.Err != nil || o.Status != 200 || !o.Received || o.Claim == nil || !o.Claim.Applied || o.Gone || o.RetryAfter != 0 {
		t.Errorf("got %+v", o)
	}
	if o.Address != server.Listener.Addr().String() {
		t.Errorf("reached %q", o.Address)
	}
	got := requests()[0]
	if err := verify(got.header, string(got.body), sendTime, secret); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got.body, body) || got.url != "/hook?token=t" || got.header.Get("Content-Type") != "application/cloudevents+json" {
		t.Errorf("got %s %s %v", got.url, got.body, got.header)
	}
	if user, password, _ := (&http.Request{Header: got.header}).BasicAuth(); user != "user" || password != "word" {
		t.Errorf("got user %q", user)
	}
}

// TestKeptConnectionThatWasClosed: a consumer that drops idle connections, or was
// restarted, costs no attempt.
func TestKeptConnectionThatWasClosed(t *testing.T) {
	server, _ := consumer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header["Idempotency-Key"] != nil {
			t.Errorf("got %v", r.Header)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	sender := newSender(t, private(server.URL))
	for range 20 {
		if o := sender.Send(t.Context(), "d1", []byte("{}"), signer(t, vectorSecret)); !o.Received {
			t.Fatalf("got %+v", o)
		}
		server.CloseClientConnections()
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	target, requests := consumer(t, status(200))
	for _, to := range []string{target.URL, "http://169.254.169.254/latest/meta-data/" + canary} {
		for _, code := range []int{301, 302, 303, 307, 308} {
			server, _ := consumer(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, code) })
			o := send(t, private(server.URL))
			if o.Received || o.Status != code || !strings.Contains(o.Err.Error(), "redirects are not followed") || strings.Contains(o.Err.Error(), canary) {
				t.Errorf("%d: got %+v", code, o)
			}
			if o.Address != server.Listener.Addr().String() {
				t.Errorf("%d: it went to %s", code, o.Address)
			}
		}
	}
	if n := len(requests()); n > 0 {
		t.Errorf("%d requests reached the target", n)
	}
}

func TestWhereDeliveriesMayGo(t *testing.T) {
	server, requests := consumer(t, status(200))
	for name, c := range map[string]struct {
		url          string
		allowPrivate bool
		payload      webhook.Payload
		wrong        bool // refused before anything is sent; else at the attempt
	}{
		"loopback without leave": {server.URL, false, webhook.Plain, false},
		"link-local":             {"http://169.254.169.254/", true, webhook.Reference, false},
		"link-local, mapped":     {"http://[::ffff:169.254.169.254]/", true, webhook.Reference, false},
		"plain over http":        {"http://consumer.example:1/x", true, webhook.Plain, true},
		"plain to a private net": {"http://10.0.0.1/", true, webhook.Plain, true},
		"plain to a look-alike":  {"http://localhost.example.com/", true, webhook.Plain, true},
		"no scheme":              {"consumer.example", true, webhook.Reference, true},
		"another scheme":         {"ftp://127.0.0.1/", true, webhook.Reference, true},
		"no host":                {"https:///hook", true, webhook.Reference, true},
		"not a url":              {"http://127.0.0.1:port/", true, webhook.Reference, true},
		"no payload":             {server.URL, true, "", true},
		"an unknown payload":     {server.URL, true, "open", true},
	} {
		e := webhook.Endpoint{URL: c.url, AllowPrivate: c.allowPrivate}
		if err := e.Check(c.payload); errors.Is(err, backends.ErrInvalid) != c.wrong || (err == nil) == c.wrong {
			t.Errorf("%s: Check says %v", name, err)
		}
		if c.wrong {
			continue
		}
		if o := send(t, e); !errors.Is(o.Err, backends.ErrDenied) || o.Received || o.Status != 0 {
			t.Errorf("%s: got %+v", name, o)
		}
	}
	if n := len(requests()); n > 0 {
		t.Errorf("%d requests were made", n)
	}
	port := server.Listener.Addr().(*net.TCPAddr).Port
	for _, url := range []string{server.URL, fmt.Sprintf("http://LocalHost:%d", port)} {
		if o := send(t, private(url)); o.Err != nil || private(url).Check(webhook.Plain) != nil {
			t.Errorf("%s: got %+v", url, o)
		}
	}
	for _, p := range []webhook.Payload{webhook.Reference, webhook.Sealed} { // without the value, or only for its consumer
		if err := private("http://consumer.example/x").Check(p); err != nil {
			t.Errorf("%s over http: %v", p, err)
		}
	}
	for _, id := range []string{"", "a.b", "a b", "a\nb"} {
		if o := newSender(t, private(server.URL)).Send(t.Context(), id, nil, signer(t, vectorSecret)); !errors.Is(o.Err, backends.ErrInvalid) {
			t.Errorf("id %q: got %+v", id, o)
		}
	}
}

func TestEndpointsThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		endpoint webhook.Endpoint
		want     string
	}{
		"no url":             {webhook.Endpoint{}, "must begin with https:// or http://"},
		"a canary":           {webhook.Endpoint{URL: "http://" + canary + ":" + canary + "@h:" + canary}, "cannot be parsed"},
		"an old TLS":         {webhook.Endpoint{URL: "https://h", TLS: webhook.TLS{MinVersion: tls.VersionTLS11}}, "TLS is 1.2 or 1.3"},
		"half a pair":        {webhook.Endpoint{URL: "https://h", TLS: webhook.TLS{CertFile: "tls.crt"}}, "belong together"},
		"the other half":     {webhook.Endpoint{URL: "https://h", TLS: webhook.TLS{KeyFile: "tls.key"}}, "belong together"},
		"no CA":              {webhook.Endpoint{URL: "https://h", TLS: webhook.TLS{CAFile: "no/ca.pem"}}, "no such file"},
		"no pair":            {webhook.Endpoint{URL: "https://h", TLS: webhook.TLS{CertFile: "no/tls.crt", KeyFile: "no/tls.key"}}, "no such file"},
		"a pin over http":    {webhook.Endpoint{URL: "http://h", TLS: webhook.TLS{Pins: []string{"sha256//" + strings.Repeat("A", 43) + "="}}}, "mean nothing over http"},
		"no pin":             {webhook.Endpoint{URL: "https://h", TLS: webhook.TLS{Pins: []string{"sha1//AAAA"}}}, "is no pin"},
		"a short pin":        {webhook.Endpoint{URL: "https://h", TLS: webhook.TLS{Pins: []string{"sha256//AAAA"}}}, "is no pin"},
		"a pin in base64url": {webhook.Endpoint{URL: "https://h", TLS: webhook.TLS{Pins: []string{"sha256//" + strings.Repeat("_", 43) + "="}}}, "is no pin"},
	} {
		_, err := webhook.NewSender(c.endpoint, time.Now)
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// TestNameThatTurns: a name that was good when the delivery was written leads to this
// machine, then to the metadata service, when it is sent.
func TestNameThatTurns(t *testing.T) {
	server, requests := consumer(t, status(204))
	var now atomic.Value
	now.Store("203.0.113.7")
	resolver := outboundtest.Resolver(t, func(host string) []string {
		if host == "hooks.test" {
			return []string{now.Load().(string)}
		}
		return nil
	})
	before := net.DefaultResolver
	net.DefaultResolver = resolver
	t.Cleanup(func() { net.DefaultResolver = before })
	url := fmt.Sprintf("http://hooks.test:%d/%s", server.Listener.Addr().(*net.TCPAddr).Port, canary)
	checked, err := outbound.Resolve(t.Context(), "hooks.test", "80")
	if err != nil || len(checked) != 1 || checked[0] != "203.0.113.7:80" {
		t.Fatalf("the first look sees %v, %v", checked, err)
	}
	now.Store("127.0.0.1")
	if o := send(t, webhook.Endpoint{URL: url}); !errors.Is(o.Err, backends.ErrDenied) || o.Status != 0 || strings.Contains(o.Err.Error(), canary) {
		t.Errorf("to this machine: %+v", o)
	}
	now.Store("169.254.169.254")
	if o := send(t, private(url)); !errors.Is(o.Err, backends.ErrDenied) || o.Status != 0 || strings.Contains(o.Err.Error(), canary) {
		t.Errorf("to the metadata service: %+v", o)
	}
	if n := len(requests()); n != 0 {
		t.Errorf("%d requests were made", n)
	}
	now.Store("127.0.0.1")
	if o := send(t, private(url)); !o.Received {
		t.Errorf("where it may go: %+v", o)
	}
}

func TestSendEndsWithItsContext(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	server, _ := consumer(t, func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	o := newSender(t, private(server.URL)).Send(ctx, "d1", []byte("{}"), signer(t, vectorSecret))
	if !errors.Is(o.Err, context.Canceled) || !errors.Is(o.Err, backends.ErrUnavailable) {
		t.Errorf("got %+v", o)
	}
}

// echo is a broken consumer: it answers with what no HTTP client understands,
// quoting the request.
func echo(t *testing.T, before string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err == nil {
				body, _ := io.ReadAll(r.Body)
				_, _ = fmt.Fprintf(conn, "%s%s %s\r\n\r\n", before, r.URL, body)
			}
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func TestErrorsShowNothingSecret(t *testing.T) {
	refuse, _ := consumer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", canary)
		w.WriteHeader(500)
		_, _ = io.WriteString(w, canary)
	})
	redirect, _ := consumer(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/"+canary, http.StatusFound) })
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	host := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	for name, target := range map[string]string{
		"an error":           host(refuse),
		"a redirect":         host(redirect),
		"nobody there":       host(closed),
		"a malformed answer": echo(t, ""),
		"a malformed status": echo(t, "HTTP/1.1 "),
		"a malformed header": echo(t, "HTTP/1.1 200 OK\r\n"),
		"a malformed length": echo(t, "HTTP/1.1 200 OK\r\nContent-Length: "),
		"a bad url":          "127.0.0.1:port",
		"an impossible host": "127.0.0.1 ",
		"forbidden":          "169.254.169.254",
	} {
		url := fmt.Sprintf("http://%s:%s@%s/%s?token=%s", canary, canary, target, canary, canary)
		if name == "a bad url" || name == "an impossible host" {
			if _, err := webhook.NewSender(private(url), time.Now); !errors.Is(err, backends.ErrInvalid) || strings.Contains(err.Error(), canary) {
				t.Errorf("%s: got %v", name, err)
			}
			continue
		}
		o := newSender(t, private(url)).Send(t.Context(), "d1", []byte(canary), signer(t, vectorSecret))
		if o.Err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if text := fmt.Sprintf("%v %+v %#v", o.Err, o, o.Err); strings.Contains(text, canary) {
			t.Errorf("%s: the canary is in %s", name, text)
		}
		if _, retry := o.Next(1, 0, func() float64 { return 0.5 }); retry == errors.Is(o.Err, backends.ErrInvalid) {
			t.Errorf("%s: retried: %v, after %v", name, retry, o.Err)
		}
	}
}
