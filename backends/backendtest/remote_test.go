package backendtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/memory"
)

// message is what remote and its server say to each other.
type message struct {
	Op         string
	Password   string
	Ref        backends.Ref
	ID, Expect backends.VersionID
	Value      []byte
	Write      struct {
		Token      string
		Version    int
		Generation int64
	}
	Tenant, After string
	Limit         int
	Describe      backends.Description
	Names         []string
	Next, Class   string
}

var classes = []error{backends.ErrNotFound, backends.ErrDenied, backends.ErrConflict, backends.ErrInvalid, backends.ErrUnsupported, backends.ErrUnavailable}

// server is a memory vault behind HTTP, with logins.
type server struct {
	*httptest.Server
	vault *memory.Staging

	mu     sync.Mutex
	logins map[string]bool
}

func newServer(t *testing.T, c backends.Capabilities) *server {
	s := &server{vault: memory.New(c).(*memory.Staging), logins: map[string]bool{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m message
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		http.Error(w, "no message", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	in := s.logins[r.Header.Get("Authorization")]
	s.mu.Unlock()
	var err error
	switch {
	case m.Op == "login":
		m, err = s.login(m)
	case !in:
		err = backends.ErrDenied
	default:
		m, err = s.do(r.Context(), m)
	}
	if err != nil {
		m = message{Class: backends.Class(err).Error()}
	}
	_ = json.NewEncoder(w).Encode(m)
}

func (s *server) login(m message) (message, error) {
	if m.Password != "open sesame" {
		return m, backends.ErrDenied
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	token := uuid.NewString()
	s.logins[token] = true
	return message{Next: token}, nil
}

func (s *server) revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.logins)
}

func (s *server) do(ctx context.Context, m message) (message, error) {
	w := backends.Write{Expect: m.Expect, Token: m.Write.Token, Version: m.Write.Version, Generation: m.Write.Generation}
	var err error
	if m.Value != nil {
		if w.Value, err = backends.DecodeValue(m.Value); err != nil {
			return m, err
		}
	}
	var a message
	switch m.Op {
	case "read":
		var v backends.Value
		v, a.ID, err = s.vault.Read(ctx, m.Ref, m.ID)
		a.Value = v.Encode()
	case "describe":
		a.Describe, err = s.vault.Describe(ctx, m.Ref)
	case "publish":
		a.ID, err = s.vault.Publish(ctx, m.Ref, w)
	case "stage":
		a.ID, err = s.vault.Stage(ctx, m.Ref, w)
	case "promote":
		err = s.vault.Promote(ctx, m.Ref, m.ID, m.Expect)
	case "retire":
		err = s.vault.Retire(ctx, m.Ref, m.ID)
	case "destroy":
		err = s.vault.Destroy(ctx, m.Ref, m.ID)
	case "list":
		a.Names, a.Next, err = s.vault.List(ctx, m.Tenant, m.After, m.Limit)
	case "check":
		err = s.vault.Check(ctx)
	}
	return a, err
}

// remote is the driver of a server.
type remote struct {
	url, password string
	can           backends.Capabilities
	client        *http.Client

	mu    sync.Mutex
	token string
}

func newRemote(t *testing.T, url, password string, c backends.Capabilities) *remote {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &remote{url: url, password: password, can: c, client: &http.Client{Transport: transport}}
}

func (d *remote) post(ctx context.Context, token string, m message) (a message, err error) {
	body, err := json.Marshal(m)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header.Set("Authorization", token)
	resp, err := d.client.Do(req)
	if err != nil {
		return a, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("%w: status %d", backends.ErrUnavailable, resp.StatusCode)
		if s, bad := strconv.Atoi(resp.Header.Get("Retry-After")); bad == nil {
			err = backends.After(time.Duration(s)*time.Second, err)
		}
		return a, err
	}
	var whole bytes.Buffer // half an answer is none, also where it could be understood
	if _, err := whole.ReadFrom(resp.Body); err != nil {
		return a, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	if err := json.Unmarshal(whole.Bytes(), &a); err != nil {
		return a, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	for _, class := range classes {
		if a.Class == class.Error() {
			return a, class
		}
	}
	return a, nil
}

// call logs in where that is needed, and once more where the login was refused.
func (d *remote) call(ctx context.Context, m message) (message, error) {
	for again := false; ; again = true {
		d.mu.Lock()
		token := d.token
		d.mu.Unlock()
		if token == "" || again {
			a, err := d.post(ctx, "", message{Op: "login", Password: d.password})
			if err != nil {
				return a, err
			}
			token = a.Next
			d.mu.Lock()
			d.token = token
			d.mu.Unlock()
		}
		a, err := d.post(ctx, token, m)
		if again || !errors.Is(err, backends.ErrDenied) {
			return a, err
		}
	}
}

func (d *remote) write(ctx context.Context, op string, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	m := message{Op: op, Ref: ref, Expect: w.Expect, Value: w.Value.Encode()}
	m.Write.Token, m.Write.Version, m.Write.Generation = w.Token, w.Version, w.Generation
	a, err := d.call(ctx, m)
	return a.ID, err
}

func (d *remote) Read(ctx context.Context, ref backends.Ref, id backends.VersionID) (backends.Value, backends.VersionID, error) {
	a, err := d.call(ctx, message{Op: "read", Ref: ref, ID: id})
	if err != nil {
		return backends.Value{}, "", err
	}
	v, err := backends.DecodeValue(a.Value)
	return v, a.ID, err
}

func (d *remote) Describe(ctx context.Context, ref backends.Ref) (backends.Description, error) {
	a, err := d.call(ctx, message{Op: "describe", Ref: ref})
	return a.Describe, err
}

func (d *remote) Publish(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	return d.write(ctx, "publish", ref, w)
}

func (d *remote) Stage(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	return d.write(ctx, "stage", ref, w)
}

func (d *remote) Promote(ctx context.Context, ref backends.Ref, id, expect backends.VersionID) error {
	_, err := d.call(ctx, message{Op: "promote", Ref: ref, ID: id, Expect: expect})
	return err
}

func (d *remote) Retire(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	_, err := d.call(ctx, message{Op: "retire", Ref: ref, ID: id})
	return err
}

func (d *remote) Destroy(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	_, err := d.call(ctx, message{Op: "destroy", Ref: ref, ID: id})
	return err
}

func (d *remote) List(ctx context.Context, tenant, after string, limit int) ([]string, string, error) {
	a, err := d.call(ctx, message{Op: "list", Tenant: tenant, After: after, Limit: limit})
	return a.Names, a.Next, err
}

func (d *remote) Check(ctx context.Context) error {
	_, err := d.call(ctx, message{Op: "check"})
	return err
}

func (d *remote) Capabilities() backends.Capabilities { return d.can }

// remoteHarness is a vault that all of the suite can be run on.
func remoteHarness(t *testing.T) backendtest.Harness {
	s := newServer(t, all)
	proxy := faultproxy.New(t, s.URL)
	d := newRemote(t, proxy.URL, "open sesame", all)
	return backendtest.Harness{
		Driver:   d,
		Proxy:    proxy,
		Seed:     s.vault.Seed,
		Delete:   s.vault.Delete,
		Stranger: func() backends.Driver { return newRemote(t, proxy.URL, "let me in", all) },
		Revoke:   s.revoke,
		Expire:   s.revoke,
		Sized:    sized,
		Fill: func(names []string) {
			for _, name := range names {
				s.vault.Seed(backends.Ref{Tenant: backends.DefaultTenant, Name: name}, sized(100))
			}
		},
		Notes: true,
	}
}
