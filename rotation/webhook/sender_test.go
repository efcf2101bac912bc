package webhook_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/webhook"
)

var sendTime = time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)

func newSender(t *testing.T, roots *x509.CertPool) *webhook.Sender {
	t.Helper()
	client := func(private bool) *outbound.Client {
		c, err := outbound.New(outbound.Options{AllowPrivate: private, RootCAs: roots})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	return webhook.NewSender(client(false), client(true), func() time.Time { return sendTime })
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
	return webhook.Endpoint{URL: url, AllowPrivate: true, Payload: webhook.Plain}
}

func TestSendSignsAndDelivers(t *testing.T) {
	server, requests := consumer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"status":"applied"}`)
	})
	secret, body := webhook.GenerateSecret(), []byte(`{"a":1}`)
	url := strings.Replace(server.URL, "http://", "http://user:word@", 1) + "/hook?token=t"
	o := newSender(t, nil).Send(t.Context(), private(url), "d1", body, signer(t, secret))
	if o.Err != nil || o.Status != 200 || !o.Received || !o.Applied || o.Gone || o.RetryAfter != 0 {
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

func TestOutcomes(t *testing.T) {
	answer := func(code int, header, value, body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			if header != "" {
				w.Header().Set(header, value)
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	const applied = `{"status":"applied"}`
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		want   webhook.Outcome
	}{
		"no content":            {status(204), webhook.Outcome{Status: 204, Received: true}},
		"applied later":         {answer(202, "", "", `{"status":"received"}`), webhook.Outcome{Status: 202, Received: true}},
		"applied":               {answer(201, "", "", applied), webhook.Outcome{Status: 201, Received: true, Applied: true}},
		"no JSON":               {answer(200, "", "", "applied"), webhook.Outcome{Status: 200, Received: true}},
		"too long to be looked": {answer(200, "", "", strings.Repeat(" ", webhook.MaxAnswer)+applied), webhook.Outcome{Status: 200, Received: true}},
		"failed, says applied":  {answer(500, "", "", applied), webhook.Outcome{Status: 500}},
		"not found":             {status(404), webhook.Outcome{Status: 404}},
		"gone":                  {status(410), webhook.Outcome{Status: 410, Gone: true}},
		"in seconds":            {answer(429, "Retry-After", "120", ""), webhook.Outcome{Status: 429, RetryAfter: 2 * time.Minute}},
		"at a date":             {answer(503, "Retry-After", sendTime.Add(time.Hour).Format(http.TimeFormat), ""), webhook.Outcome{Status: 503, RetryAfter: time.Hour}},
		"in the past":           {answer(503, "Retry-After", sendTime.Add(-time.Hour).Format(http.TimeFormat), ""), webhook.Outcome{Status: 503}},
		"in a year":             {answer(503, "Retry-After", "31536000", ""), webhook.Outcome{Status: 503, RetryAfter: 24 * time.Hour}},
		"in 2262":               {answer(503, "Retry-After", "9223372036854775807", ""), webhook.Outcome{Status: 503, RetryAfter: 24 * time.Hour}},
		"negative":              {answer(503, "Retry-After", "-5", ""), webhook.Outcome{Status: 503}},
		"nonsense":              {answer(503, "Retry-After", "soon", ""), webhook.Outcome{Status: 503}},
	} {
		server, _ := consumer(t, c.answer)
		got := newSender(t, nil).Send(t.Context(), private(server.URL), "d1", []byte("{}"), signer(t, vectorSecret))
		if (got.Err == nil) != c.want.Received || (got.Err != nil && !errors.Is(got.Err, backends.ErrUnavailable)) {
			t.Errorf("%s: got %v", name, got.Err)
		}
		got.Err, got.Address = nil, ""
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	target, requests := consumer(t, status(200))
	for _, code := range []int{301, 302, 303, 307, 308} {
		server, _ := consumer(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target.URL, code) })
		o := newSender(t, nil).Send(t.Context(), private(server.URL), "d1", []byte("{}"), signer(t, vectorSecret))
		if o.Received || o.Status != code || !strings.Contains(o.Err.Error(), "redirects are not followed") {
			t.Errorf("%d: got %+v", code, o)
		}
	}
	if n := len(requests()); n > 0 {
		t.Errorf("%d requests reached the target", n)
	}
}

func TestWhereDeliveriesMayGo(t *testing.T) {
	server, requests := consumer(t, status(200))
	port := server.Listener.Addr().(*net.TCPAddr).Port
	for name, c := range map[string]struct {
		endpoint webhook.Endpoint
		class    error
	}{
		"loopback without leave":   {webhook.Endpoint{URL: server.URL, Payload: webhook.Plain}, backends.ErrDenied},
		"plain over http":          {private("http://consumer.example:1/x"), backends.ErrInvalid},
		"plain to a private net":   {private("http://10.0.0.1/"), backends.ErrInvalid},
		"plain to a look-alike":    {private("http://localhost.example.com/"), backends.ErrInvalid},
		"no scheme":                {private("consumer.example"), backends.ErrInvalid},
		"another scheme":           {private("ftp://127.0.0.1/"), backends.ErrInvalid},
		"no host":                  {private("https:///hook"), backends.ErrInvalid},
		"not a url":                {private("http://127.0.0.1:port/"), backends.ErrInvalid},
		"no payload":               {webhook.Endpoint{URL: server.URL, AllowPrivate: true}, backends.ErrInvalid},
		"link-local, by reference": {webhook.Endpoint{URL: "http://169.254.169.254/", AllowPrivate: true, Payload: webhook.Reference}, backends.ErrDenied},
	} {
		o := newSender(t, nil).Send(t.Context(), c.endpoint, "d1", []byte("{}"), signer(t, vectorSecret))
		if !errors.Is(o.Err, c.class) || o.Received || o.Status != 0 {
			t.Errorf("%s: got %+v", name, o)
		}
		if invalid := errors.Is(c.endpoint.Check(), backends.ErrInvalid); invalid != (c.class == backends.ErrInvalid) {
			t.Errorf("%s: Check says %v", name, c.endpoint.Check())
		}
	}
	if n := len(requests()); n > 0 {
		t.Errorf("%d requests were made", n)
	}
	for _, url := range []string{server.URL, fmt.Sprintf("http://LocalHost:%d", port)} {
		if o := newSender(t, nil).Send(t.Context(), private(url), "d1", []byte("{}"), signer(t, vectorSecret)); o.Err != nil {
			t.Errorf("%s: got %+v", url, o)
		}
	}
	for _, id := range []string{"", "a.b", "a b", "a\nb"} {
		if o := newSender(t, nil).Send(t.Context(), private(server.URL), id, nil, signer(t, vectorSecret)); !errors.Is(o.Err, backends.ErrInvalid) {
			t.Errorf("id %q: got %+v", id, o)
		}
	}
}

func TestPlainOverTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(status(204)))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the handshake that fails below
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	if o := newSender(t, roots).Send(t.Context(), private(server.URL), "d1", []byte("{}"), signer(t, vectorSecret)); !o.Received {
		t.Errorf("got %+v", o)
	}
	o := newSender(t, x509.NewCertPool()).Send(t.Context(), private(server.URL), "d1", []byte("{}"), signer(t, vectorSecret))
	if o.Received || !errors.Is(o.Err, backends.ErrUnavailable) {
		t.Errorf("with a certificate that nobody knows: %+v", o)
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
	o := newSender(t, nil).Send(ctx, private(server.URL), "d1", []byte("{}"), signer(t, vectorSecret))
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
		o := newSender(t, nil).Send(t.Context(), private(url), "d1", []byte(canary), signer(t, vectorSecret))
		if o.Err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if text := fmt.Sprintf("%v %+v %#v", o.Err, o, o.Err); strings.Contains(text, canary) {
			t.Errorf("%s: the canary is in %s", name, text)
		}
		if _, retry := o.Next(1, func() float64 { return 0.5 }); retry == errors.Is(o.Err, backends.ErrInvalid) {
			t.Errorf("%s: retried: %v, after %v", name, retry, o.Err)
		}
	}
}

func TestBackoff(t *testing.T) {
	want := []time.Duration{
		0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour,
		5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
	for attempts, mean := range want {
		for rnd, factor := range map[float64]float64{0: 0.8, 0.5: 1, 0.75: 1.1} {
			got, ok := webhook.Backoff(attempts, func() float64 { return rnd })
			if diff := got - time.Duration(float64(mean)*factor); !ok || diff.Abs() > time.Microsecond {
				t.Errorf("after %d attempts: got %s, %v", attempts, got, ok)
			}
		}
	}
	for _, attempts := range []int{10, 11, -1} {
		if _, ok := webhook.Backoff(attempts, func() float64 { return 0 }); ok {
			t.Errorf("after %d attempts there is another one", attempts)
		}
	}
}

func TestNextAttempt(t *testing.T) {
	failed := fmt.Errorf("%w: 503", backends.ErrUnavailable)
	for name, c := range map[string]struct {
		outcome  webhook.Outcome
		attempts int
		wait     time.Duration
		ok       bool
	}{
		"first failure":      {webhook.Outcome{Err: failed}, 1, 5 * time.Second, true},
		"it asked for more":  {webhook.Outcome{Err: failed, RetryAfter: time.Hour}, 1, time.Hour, true},
		"it asked for less":  {webhook.Outcome{Err: failed, RetryAfter: time.Second}, 2, 5 * time.Minute, true},
		"the last one":       {webhook.Outcome{Err: failed, RetryAfter: time.Second}, 10, 0, false},
		"received":           {webhook.Outcome{Received: true}, 1, 0, false},
		"gone":               {webhook.Outcome{Gone: true, Err: failed}, 1, 0, false},
		"never going to":     {webhook.Outcome{Err: fmt.Errorf("%w: url", backends.ErrInvalid)}, 1, 0, false},
		"forbidden for now":  {webhook.Outcome{Err: fmt.Errorf("%w: private", backends.ErrDenied)}, 1, 5 * time.Second, true},
		"of an unknown kind": {webhook.Outcome{Err: errors.New("unknown")}, 3, 30 * time.Minute, true},
	} {
		wait, ok := c.outcome.Next(c.attempts, func() float64 { return 0.5 })
		if ok != c.ok || (ok && wait != c.wait) {
			t.Errorf("%s: got %s, %v", name, wait, ok)
		}
	}
}
