// Package faultproxy stands between a driver and its real server, in tests, and
// spoils what the test tells it to.
package faultproxy

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Fault is what happens to one request and its answer.
type Fault struct {
	latency    time.Duration
	status     int
	retryAfter time.Duration
	forward    bool // the server acts on it
	half       bool // half of the answer's body goes back, else nothing
}

// Latency lets the request pass after so long, or not at all if its caller has
// left by then.
func Latency(d time.Duration) Fault { return Fault{latency: d, forward: true} }

// Reset resets the connection; the server never hears of the request.
func Reset() Fault { return Fault{} }

// LostAnswer resets the connection once the server has acted on the request.
func LostAnswer() Fault { return Fault{forward: true} }

// HalfAnswer breaks off in the middle of the answer's body; the server has acted.
func HalfAnswer() Fault { return Fault{forward: true, half: true} }

// Status answers in the server's place, which never hears of the request. The body
// is one that no server of ours would send.
func Status(code int) Fault { return Fault{status: code} }

// After adds Retry-After, in whole seconds, to a Status.
func (f Fault) After(d time.Duration) Fault {
	f.retryAfter = d
	return f
}

// Rule says which requests meet a fault. Those that fit are counted from 1 upwards
// for each rule by itself.
type Rule struct {
	Fault Fault
	Match func(*http.Request) bool // nil: every request
	Skip  int                      // so many pass first
	Times int                      // so many meet the fault, then the rule is over; 0: no end
	Every int                      // only each so manieth after those skipped; 0 and 1: each

	seen, met int
}

// applies counts r if it fits, and tells whether it meets the fault.
func (u *Rule) applies(r *http.Request) bool {
	if u.Match != nil && !u.Match(r) {
		return false
	}
	u.seen++
	if u.seen <= u.Skip || u.Times > 0 && u.met == u.Times {
		return false
	}
	if u.Every > 1 && (u.seen-u.Skip)%u.Every != 0 {
		return false
	}
	u.met++
	return true
}

// Proxy is one proxy on loopback. Its methods are safe for concurrent use.
type Proxy struct {
	URL string // what the driver is given as its server's address

	server *httptest.Server
	proxy  *httputil.ReverseProxy

	mu       sync.Mutex
	rules    []*Rule
	requests int
}

// New stands before the server at target, such as http://127.0.0.1:8200, until the
// test ends. Requests keep their Host, since signatures cover it.
func New(t testing.TB, target string) *Proxy {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	p := &Proxy{proxy: &httputil.ReverseProxy{
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0), // a server that is down is what the driver reports
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
	}}
	p.server = httptest.NewUnstartedServer(p)
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.server.Start()
	p.URL = p.server.URL
	t.Cleanup(func() {
		p.Close()
		transport.CloseIdleConnections()
	})
	return p
}

// Close cuts the server off for good: connections are refused from now on. Requests
// under way are cut off as well. It may be called twice.
func (p *Proxy) Close() {
	p.server.CloseClientConnections()
	p.server.Close()
}

// Set replaces the rules; without any, everything passes. The first rule that
// applies to a request decides.
func (p *Proxy) Set(rules ...Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = nil
	for _, u := range rules {
		p.rules = append(p.rules, &u)
	}
}

// Requests is how many requests have come in so far.
func (p *Proxy) Requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

// fault is what r meets, if anything.
func (p *Proxy) fault(r *http.Request) (Fault, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	for _, u := range p.rules {
		if u.applies(r) {
			return u.Fault, true
		}
	}
	return Fault{}, false
}

// ServeHTTP passes a request on, or does to it what the rules say.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := p.fault(r)
	switch {
	case !ok:
		p.proxy.ServeHTTP(w, r)
	case f.latency > 0:
		p.late(w, r, f.latency)
	case f.status > 0:
		if f.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(f.retryAfter.Seconds())))
		}
		http.Error(w, "<html>spoilt by faultproxy</html>", f.status)
	default:
		p.cut(w, r, f)
	}
}

// late passes a request on after a while. Its body is read first: only then does
// net/http notice that the caller has left.
func (p *Proxy) late(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		p.proxy.ServeHTTP(w, r)
	case <-r.Context().Done():
	}
}

// cut ends the connection at the fault's point.
func (p *Proxy) cut(w http.ResponseWriter, r *http.Request, f Fault) {
	answer := httptest.NewRecorder()
	if f.forward {
		p.proxy.ServeHTTP(answer, r)
	}
	if f.half {
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		// One byte more is promised than ever comes, also of an empty body.
		whole := answer.Body.Bytes()
		w.Header().Set("Content-Length", strconv.Itoa(len(whole)+1))
		code := answer.Code
		if code == http.StatusNoContent {
			code = http.StatusOK // which may have a body
		}
		w.WriteHeader(code)
		_, _ = w.Write(whole[:len(whole)/2])
		_ = http.NewResponseController(w).Flush()
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // closes the connection as well
	}
	if tcp, ok := conn.(*net.TCPConn); ok && !f.half {
		_ = tcp.SetLinger(0) // a reset, not an end
	}
	_ = conn.Close()
}
