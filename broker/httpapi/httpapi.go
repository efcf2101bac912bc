package httpapi

import (
	"context"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/broker/authn"
)

const (
	// DefaultMaxRequestSize is the limit of a request's body in bytes.
	DefaultMaxRequestSize = 1 << 20
	defaultHeartbeat      = 15 * time.Second
)

// Config is what a Handler needs. Broker, Authenticator, Logger and Ready must
// be set.
type Config struct {
	Broker        Broker
	Authenticator Authenticator
	Logger        hclog.Logger
	// Ready returns what keeps the node from doing all of its work, as texts for
	// people without secrets; none if it is ready.
	Ready func(context.Context) []string
	// Metrics serves /metrics; nil: there is none.
	Metrics http.Handler
	// Observe is told of every answer; nil: nobody is. The route is a pattern such
	// as "GET /api/v1/secrets/{name}/value", never a name.
	Observe func(route string, status int, took time.Duration)
	// Stopping is closed when the server begins to shut down, which ends the event
	// streams (http.Server.Shutdown would wait for them); nil: never.
	Stopping <-chan struct{}

	MaxRequestSize int64         // bytes of a body; 0 = DefaultMaxRequestSize
	Heartbeat      time.Duration // between two comments in an event stream; 0 = 15 s
	SnapshotWithin time.Duration // for a snapshot to be made and read; 0 = 1 h
}

// server answers the native API.
type server struct {
	Config
	mux *http.ServeMux
	now func() time.Time
}

// New returns the handler of the native API, of /healthz, /readyz and /metrics;
// any other path is a 404 problem. Read and write timeouts are the http.Server's.
func New(c Config) http.Handler {
	if c.MaxRequestSize <= 0 {
		c.MaxRequestSize = DefaultMaxRequestSize
	}
	if c.Heartbeat <= 0 {
		c.Heartbeat = defaultHeartbeat
	}
	if c.SnapshotWithin <= 0 {
		c.SnapshotWithin = snapshotWithin
	}
	if c.Observe == nil {
		c.Observe = func(string, int, time.Duration) {}
	}
	s := &server{Config: c, mux: http.NewServeMux(), now: time.Now}
	s.routes()
	return http.HandlerFunc(s.serve)
}

const root = "/api/v1/"

// routes is the whole surface; package documentation lists it for readers.
func (s *server) routes() {
	b := s.Broker
	s.mux.Handle(root+"secrets", s.methods(endpoints{"GET": list(s, secretQuery, b.Secrets)}))
	s.mux.Handle(root+"secrets/{path...}", s.secrets(s.drifts(map[string]endpoints{
		"":          {"GET": one(s, "name", b.Secret)},
		"value":     {"GET": s.authenticated(s.value)},
		"rotate":    {"POST": submit(s, http.StatusAccepted, "name", b.Rotate)},
		"revoke":    {"POST": submit(s, http.StatusAccepted, "name", b.Revoke)},
		"emergency": {"POST": submit(s, http.StatusAccepted, "name", b.Emergency)},
		"pause":     {"POST": submit(s, http.StatusOK, "name", b.Pause)},
		"resume":    {"POST": one(s, "name", b.Resume)},
		"plan":      {"GET": one(s, "name", b.Plan)},
		"repair":    {"POST": submit(s, http.StatusOK, "name", b.Repair)},
	})))
	s.mux.Handle(root+"drift", s.methods(endpoints{"GET": list(s, driftQuery, b.Placements)}))

	s.mux.Handle(root+"rotations", s.methods(endpoints{"GET": list(s, rotationQuery, b.Rotations)}))
	s.mux.Handle(root+"rotations/{id}", s.methods(endpoints{"GET": one(s, "id", b.Rotation)}))
	s.mux.Handle(root+"rotations/{id}/events", s.methods(endpoints{"GET": s.watch(b.WatchRotation)}))
	s.mux.Handle(root+"retirements", s.methods(endpoints{"GET": list(s, retirementQuery, b.Retirements)}))
	s.mux.Handle(root+"retirements/{id}", s.methods(endpoints{"GET": one(s, "id", b.Retirement)}))
	s.mux.Handle(root+"deliveries", s.methods(endpoints{"GET": list(s, deliveryQuery, b.Deliveries)}))
	s.mux.Handle(root+"deliveries/{id}", s.methods(endpoints{"GET": one(s, "id", b.Delivery)}))
	s.mux.Handle(root+"deliveries/{id}/ack", s.methods(endpoints{"POST": submit(s, http.StatusOK, "id", b.Acknowledge)}))
	s.mux.Handle(root+"events/{trigger}", s.methods(endpoints{"POST": submit(s, http.StatusAccepted, "trigger", b.Event)}))
	s.mux.Handle(root+"tokens", s.methods(endpoints{"GET": list(s, page, b.Tokens), "POST": create(s, b.CreateToken)}))
	s.mux.Handle(root+"tokens/{id}", s.methods(endpoints{"DELETE": one(s, "id", b.RevokeToken)}))
	s.operations()
	s.storage()
	s.seals()
	s.mux.Handle(root+"sys/reload", s.methods(endpoints{"POST": s.reload()}))
	s.mux.Handle(root+"sys/config", s.methods(endpoints{"GET": s.configuration()}))
	s.mux.Handle(root+"keys/check", s.methods(endpoints{"POST": s.checkKey}))

	s.mux.Handle("/healthz", s.methods(endpoints{"GET": s.healthz}))
	s.mux.Handle("/readyz", s.methods(endpoints{"GET": s.readyz}))
	if s.Metrics != nil {
		s.mux.Handle("/metrics", s.methods(endpoints{"GET": func(w http.ResponseWriter, r *http.Request) error {
			s.Metrics.ServeHTTP(w, r)
			return nil
		}}))
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, errNoRoute) })
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
			s.fail(w, r, errNoMethod)
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
			s.fail(w, r, errNoRoute)
			return
		}
		r.SetPathValue("name", name)
		r.Pattern = strings.TrimSuffix(root+"secrets/{name}/"+sub, "/")
		s.methods(subs[sub]).ServeHTTP(w, r)
	})
}

// authenticated makes an endpoint of what needs to know the caller.
func (s *server) authenticated(answer func(http.ResponseWriter, *http.Request, authn.Principal) error) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		caller, err := s.authenticate(r)
		if err != nil {
			return err
		}
		return answer(w, r, caller)
	}
}

func (s *server) authenticate(r *http.Request) (authn.Principal, error) {
	token, _ := bearer(r)
	caller, err := s.Authenticator.Authenticate(r.Context(), token, address(r))
	if err != nil {
		return authn.Principal{}, refusal(token, err)
	}
	if token == "" || caller.ID == "" { // whatever the Authenticator thinks: nobody is nobody
		return authn.Principal{}, errNoToken
	}
	return caller, nil
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

// address is where the connection comes from; the zero Addr if it is no IP
// connection.
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
