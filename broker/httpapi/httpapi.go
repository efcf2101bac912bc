package httpapi

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/ratelimit"
)

const defaultHeartbeat = 15 * time.Second

// Config is what a Handler needs. Broker, Authenticator, Logger and Ready must
// be set.
type Config struct {
	Broker        Broker
	Authenticator Authenticator
	Logger        hclog.Logger
	// Ready returns what keeps the node from doing all of its work, as texts for
	// people without secrets; none if it is ready.
	Ready func(context.Context) []string
	// Notices returns what does not keep a node from being ready and does not work all
	// the same, like Ready; nil: nothing.
	Notices func() []string
	// Metrics serves /metrics to whom the Broker lets read them; nil: there are none.
	Metrics http.Handler
	// Observe is told of every answer; nil: nobody is. The route is a pattern such
	// as "GET /api/v1/secrets/{name}/value", never a name.
	Observe func(route string, status int, took time.Duration)
	// Stopping is closed when the server begins to shut down, which ends the event
	// streams (http.Server.Shutdown would wait for them); nil: never.
	Stopping <-chan struct{}

	Limits         Limits        // until SetLimits
	Heartbeat      time.Duration // between two comments in an event stream; 0 = 15 s
	SnapshotWithin time.Duration // for a snapshot to be made and read; 0 = 1 h
}

// Handler answers the native API, /healthz, /readyz, /metrics and /openapi.json; any
// other path is a 404 problem. Its timeouts are those of its http.Server: see NewServer.
type Handler struct{ s *server }

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.s.serve(w, r) }

const metricsPath = "/metrics"

// server is what endpoints are served by.
type server struct {
	Config
	mux    *http.ServeMux
	rates  *ratelimit.Limiter
	limits atomic.Pointer[Limits]
	larger map[string]int64 // Endpoint.MaxBody, by path
	now    func() time.Time

	describe func() ([]byte, error) // for /openapi.json
}

// New makes the handler.
func New(c Config) *Handler {
	if c.Heartbeat <= 0 {
		c.Heartbeat = defaultHeartbeat
	}
	if c.SnapshotWithin <= 0 {
		c.SnapshotWithin = snapshotWithin
	}
	if c.Observe == nil {
		c.Observe = func(string, int, time.Duration) {}
	}
	s := &server{Config: c, mux: http.NewServeMux(), larger: map[string]int64{}, rates: ratelimit.New(time.Now), now: time.Now, describe: sync.OnceValues(openAPI)}
	s.setLimits(c.Limits)
	s.register(slices.DeleteFunc(table(), func(e Endpoint) bool { return e.Pattern == metricsPath && c.Metrics == nil }))
	return &Handler{s}
}

// endpoint answers one request. It returns an error instead of an answer, never
// after it began one.
type endpoint func(http.ResponseWriter, *http.Request) error

// endpoints are those of one path, by method.
type endpoints map[string]endpoint

func (e endpoints) find(method string) (endpoint, bool) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	found, ok := e[method]
	return found, ok
}

func (e endpoints) allow() string {
	var methods []string
	for m := range e {
		if methods = append(methods, m); m == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
	}
	slices.Sort(methods)
	return strings.Join(methods, ", ")
}

func (s *server) methods(e endpoints) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := e.find(r.Method)
		if !ok {
			w.Header().Set("Allow", e.allow())
			s.stray(w, r, errNoMethod)
			return
		}
		if err := answer(w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

// secrets dispatches what lies below a secret's name, by sub-resource.
func (s *server) secrets(subs map[string]endpoints) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, sub, ok := splitName(strings.TrimPrefix(r.URL.EscapedPath(), root+"secrets/"), subs)
		if !ok {
			s.stray(w, r, errNoRoute)
			return
		}
		r.SetPathValue("name", name)
		r.Pattern = strings.TrimSuffix(root+"secrets/{name}/"+sub, "/")
		s.methods(subs[sub]).ServeHTTP(w, r)
	})
}

// authenticate finds out who calls.
func (s *server) authenticate(w http.ResponseWriter, r *http.Request) (authn.Principal, error) {
	shown := credentials(w, r)
	caller, err := s.Authenticator.Authenticate(r.Context(), shown)
	if err != nil {
		return authn.Principal{}, refusal(shown.Token, err)
	}
	if shown.Token == "" && len(shown.Certificates) == 0 || caller.ID == "" { // whatever the Authenticator thinks: nobody is nobody
		return authn.Principal{}, errNoToken
	}
	return caller, nil
}

// received reads the body of a request, which takes as long as the caller likes, and
// returns who the caller is when it is there: else what they may do would be decided of
// who they were. Nobody has a body kept here who is not known.
func (s *server) received(r *http.Request, caller authn.Principal) (authn.Principal, error) {
	if r.ContentLength == 0 {
		return caller, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return authn.Principal{}, badBody(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	again, err := s.Authenticator.Again(r.Context(), caller)
	if err != nil {
		token, _ := bearer(r)
		return authn.Principal{}, refusal(token, err)
	}
	return again, nil
}

// bearer returns the token of the Authorization header (RFC 6750).
func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false
	}
	return token, true
}

// address is where the request comes from, once serve has found that out; the zero
// Addr if that is no IP address.
func address(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// canonical tells whether the path is one that no cleaning would change. The
// others get no redirect: they name nothing.
func canonical(escaped string) bool {
	return escaped == path.Clean(escaped)
}
