package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/httpapi"
)

const (
	goodToken  = "kbt_good"
	otherToken = "kbt_other"         // authenticated, but allowed nothing
	canary     = "CANARY-d41d8cd98f" // stands for everything secret
)

var then = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// memory is a Broker without vaults: it holds one secret and what was asked of it.
type memory struct {
	mu       sync.Mutex
	secret   client.Secret
	store    string   // path of a database to make snapshots of
	calls    []string // "rotate payments/stripe leak"
	adjust   func(*client.Value)
	fail     error          // of every call
	panic    any            // of every call
	readied  []string       // problems of readiness
	timeline []client.Event // of the watched rotation
	hold     bool           // keep the watch open after the timeline
	watches  sync.WaitGroup
}

func newMemory() *memory {
	return &memory{secret: client.Secret{
		Name: "payments/stripe", Tenant: "default", Backend: "embedded", Issuer: "internal",
		State: client.SecretActive, Generation: 7,
		Versions: []client.Version{{Number: 2, Stage: client.StagePrevious}, {Number: 3, Stage: client.StageCurrent, PublishedAt: then}},
	}}
}

// serve counts a call and says how it ends.
func (m *memory) serve(p authn.Principal, call string, args ...any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, strings.TrimSpace(call+" "+fmt.Sprintln(args...)))
	if m.panic != nil {
		panic(m.panic)
	}
	if p.Name != "good" {
		return fmt.Errorf("%w: %s may not %s", backends.ErrDenied, p.Name, call)
	}
	return m.fail
}

func (m *memory) named(name string) error {
	if name != m.secret.Name {
		return fmt.Errorf("%w: secret %s", backends.ErrNotFound, name)
	}
	return nil
}

func (m *memory) last() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.calls) == 0 {
		return ""
	}
	return m.calls[len(m.calls)-1]
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.calls)
}

func (m *memory) rotation(reason string) client.Rotation {
	return client.Rotation{ID: "r1", Secret: m.secret.Name, Trigger: "manual", Reason: reason, State: "queued", StartedAt: then, Steps: []client.Step{}}
}

func (m *memory) retirement() client.Retirement {
	return client.Retirement{ID: "t1", Secret: m.secret.Name, Version: 2, State: client.Requested, RequestedAt: then}
}

func (m *memory) delivery() client.Delivery {
	return client.Delivery{ID: "d1", Consumer: "shop", Secret: m.secret.Name, Version: 3, Generation: 7, State: client.DeliveryReceived}
}

func (m *memory) Secrets(_ context.Context, p authn.Principal, q client.SecretQuery) (client.List[client.Secret], error) {
	err := m.serve(p, "secrets", q.Prefix, q.Limit, q.After)
	if !strings.HasPrefix(m.secret.Name, q.Prefix) {
		return client.List[client.Secret]{}, err
	}
	if q.After == "" {
		return client.List[client.Secret]{Items: []client.Secret{m.secret}, Next: m.secret.Name}, err
	}
	return client.List[client.Secret]{}, err
}

func (m *memory) Secret(_ context.Context, p authn.Principal, name string) (client.Secret, error) {
	if err := m.serve(p, "secret", name); err != nil {
		return client.Secret{}, err
	}
	return m.secret, m.named(name)
}

func (m *memory) Value(_ context.Context, p authn.Principal, name string, version int) (client.Value, error) {
	if err := m.serve(p, "value", name, version); err != nil {
		return client.Value{}, err
	}
	v := client.Value{Name: name, Version: 3, Generation: 7, Fields: client.Fields{"key": canary}, PublishedAt: then}
	if m.adjust != nil {
		m.adjust(&v)
	}
	return v, m.named(name)
}

func (m *memory) Rotate(_ context.Context, p authn.Principal, name string, r client.RotateRequest) (client.Rotation, error) {
	return m.rotation(r.Reason), m.serve(p, "rotate", name, r.Reason)
}

func (m *memory) Revoke(_ context.Context, p authn.Principal, name string, r client.RevokeRequest) (client.Retirement, error) {
	return m.retirement(), m.serve(p, "revoke", name, r.Version, r.Reason)
}

func (m *memory) Emergency(_ context.Context, p authn.Principal, name string, r client.EmergencyRequest) (client.Rotation, error) {
	return m.rotation(r.Reason), m.serve(p, "emergency", name, r.Reason, r.Contain)
}

func (m *memory) Pause(_ context.Context, p authn.Principal, name string, r client.PauseRequest) (client.Secret, error) {
	return m.secret, m.serve(p, "pause", name, r.Reason)
}

func (m *memory) Resume(_ context.Context, p authn.Principal, name string) (client.Secret, error) {
	return m.secret, m.serve(p, "resume", name)
}

func (m *memory) Rotations(_ context.Context, p authn.Principal, q client.RotationQuery) (client.List[client.Rotation], error) {
	return client.List[client.Rotation]{Items: []client.Rotation{m.rotation("")}}, m.serve(p, "rotations", q.Secret, q.State, q.Live)
}

func (m *memory) Rotation(_ context.Context, p authn.Principal, id string) (client.Rotation, error) {
	return m.rotation(""), m.serve(p, "rotation", id)
}

func (m *memory) WatchRotation(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error) {
	if err := m.serve(p, "watch", id); err != nil {
		return nil, err
	}
	return m.watch(ctx), nil
}

func (m *memory) watch(ctx context.Context) <-chan client.Event {
	events := make(chan client.Event)
	m.watches.Go(func() {
		defer close(events)
		for _, e := range m.timeline {
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
		if m.hold {
			<-ctx.Done()
		}
	})
	return events
}

func (m *memory) Retirements(_ context.Context, p authn.Principal, q client.RetirementQuery) (client.List[client.Retirement], error) {
	return client.List[client.Retirement]{Items: []client.Retirement{m.retirement()}}, m.serve(p, "retirements", q.Secret, q.State)
}

func (m *memory) Retirement(_ context.Context, p authn.Principal, id string) (client.Retirement, error) {
	return m.retirement(), m.serve(p, "retirement", id)
}

func (m *memory) Deliveries(_ context.Context, p authn.Principal, q client.DeliveryQuery) (client.List[client.Delivery], error) {
	return client.List[client.Delivery]{Items: []client.Delivery{m.delivery()}}, m.serve(p, "deliveries", q.Secret, q.Consumer, q.State, q.Event)
}

func (m *memory) Delivery(_ context.Context, p authn.Principal, id string) (client.Delivery, error) {
	return m.delivery(), m.serve(p, "delivery", id)
}

func (m *memory) Acknowledge(_ context.Context, p authn.Principal, id string, r client.AcknowledgeRequest) (client.Delivery, error) {
	return m.delivery(), m.serve(p, "acknowledge", id, r.Status, r.Generation, r.Instance, r.Fingerprint)
}

func (m *memory) Event(_ context.Context, p authn.Principal, trigger string, r client.EventRequest) (client.Rotation, error) {
	return m.rotation(r.Reason), m.serve(p, "event", trigger, r.ID, r.Secret, r.Reason)
}

func (m *memory) Tokens(_ context.Context, p authn.Principal, page client.Page) (client.List[client.Token], error) {
	return client.List[client.Token]{Items: []client.Token{{ID: "k1", Name: "ci"}}}, m.serve(p, "tokens", page.Limit)
}

func (m *memory) CreateToken(_ context.Context, p authn.Principal, r client.CreateTokenRequest) (client.Token, error) {
	return client.Token{ID: "k1", Name: r.Name, Policies: r.Policies, Token: canary}, m.serve(p, "create-token", r.Name, r.Tenant, r.Policies, r.TTL)
}

func (m *memory) RevokeToken(_ context.Context, p authn.Principal, id string) (client.Token, error) {
	return client.Token{ID: id, RevokedAt: then}, m.serve(p, "revoke-token", id)
}

func (m *memory) CheckKey(_ context.Context, from netip.Addr, key backends.SecretString) (client.KeyCheck, error) {
	if err := m.serve(authn.Principal{Name: "good"}, "check-key", from); err != nil {
		return client.KeyCheck{}, err
	}
	return client.KeyCheck{Active: key.Reveal() == canary, Secret: m.secret.Name, Tenant: "default", Version: 3}, nil
}

// tokens is an Authenticator that knows two tokens, with errors of its own.
type tokens struct{ err, again error }

func (t tokens) Authenticate(_ context.Context, c authn.Credentials) (authn.Principal, error) {
	names := map[string]string{goodToken: "good", otherToken: "other"}
	switch {
	case t.err != nil:
		return authn.Principal{}, t.err
	case names[c.Token] == "":
		return authn.Principal{}, fmt.Errorf("%w: token", backends.ErrDenied)
	}
	return authn.Principal{ID: "id-" + names[c.Token], Name: names[c.Token], Address: c.Address}, nil
}

func (t tokens) Again(_ context.Context, p authn.Principal) (authn.Principal, error) {
	return p, t.again
}

// node is the API on a loopback server.
type node struct {
	*memory
	url string
	log *lockedBuilder
	// observed are the routes with the status of each answer.
	observed func() []string
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, m *memory, adjust func(*httpapi.Config)) *node {
	t.Helper()
	return startWith(t, m, adjust, func(*http.Server) {})
}

func startWith(t *testing.T, m *memory, adjust func(*httpapi.Config), adjustServer func(*http.Server)) *node {
	t.Helper()
	n := &node{memory: m, log: &lockedBuilder{}}
	var mu sync.Mutex
	var routes []string
	n.observed = func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(routes)
	}
	config := configOf(m)
	config.Logger = hclog.New(&hclog.LoggerOptions{Output: n.log, Level: hclog.Trace})
	config.Observe = func(route string, status int, _ time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		routes = append(routes, fmt.Sprint(route, " ", status))
	}
	if adjust != nil {
		adjust(&config)
	}
	server := httptest.NewUnstartedServer(httpapi.New(config))
	adjustServer(server.Config)
	server.Start()
	t.Cleanup(func() {
		server.Close()
		m.watches.Wait()
	})
	n.url = server.URL
	return n
}

// configOf is what a handler for m needs.
func configOf(m *memory) httpapi.Config {
	return httpapi.Config{Broker: m, Authenticator: tokens{}, Logger: hclog.NewNullLogger(), Ready: func(context.Context) []string { return m.readied }}
}

func (n *node) client(t *testing.T, token string) *client.Client {
	t.Helper()
	c, err := client.New(n.url, token, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (m *memory) ReadMetrics(_ context.Context, p authn.Principal) error {
	return m.serve(p, "metrics")
}
