package oidc_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn/oidc"
	"github.com/keybroker/keybroker/broker/authn/oidcserver"
)

// clock is the time of a method.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time        { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) pass(by time.Duration) { c.ahead.Add(int64(by)) }

func open(t *testing.T, c oidc.Config, now func() time.Time) (*oidc.Method, *logged) {
	t.Helper()
	log := &logged{}
	if c.BoundAudiences == nil {
		c.BoundAudiences = []string{oidcserver.Audience, oidcserver.ClientID}
	}
	m, err := oidc.New("corp", c, now, hclog.New(&hclog.LoggerOptions{Output: log}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m, log
}

// logged is a log that is written while it is read.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func discover(s *oidcserver.Server) oidc.Config {
	return oidc.Config{DiscoveryURL: s.Issuer, ClientID: oidcserver.ClientID, AllowPrivateNetwork: true}
}

// refused wants ErrDenied that says why, and nothing of the JWT.
func refused(t *testing.T, m *oidc.Method, jwt, why string) {
	t.Helper()
	_, err := m.Verify(t.Context(), jwt)
	if !errors.Is(err, backends.ErrDenied) || !strings.Contains(err.Error(), why) {
		t.Errorf("got %v, want it to be denied: %s", err, why)
	}
	if parts := strings.Split(jwt, "."); err != nil && len(parts) == 3 && len(parts[2]) > 20 && strings.Contains(err.Error(), parts[2]) {
		t.Error("the error quotes the JWT")
	}
}

func attribute(t *testing.T, text string) *hcl.Attribute {
	t.Helper()
	expr, diags := hclsyntax.ParseExpression([]byte(text), "test.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return &hcl.Attribute{Name: "bound_claims", Expr: expr}
}

// What a certified provider gives is accepted, and its claims are the identity's.
func TestProvider(t *testing.T) {
	s := oidcserver.New(t, map[string]map[string]any{"alice": {"groups": []string{"on-call"}}})
	m, _ := open(t, discover(s), time.Now)
	id, err := m.Verify(t.Context(), s.Workload(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if id.Method != "corp" || id.Subject != "workload" || id.Name != "workload" || id.Claims["client_id"] != "workload" || !id.ExpiresAt.IsZero() {
		t.Errorf("got %+v", id)
	}
	refused(t, m, s.Workload(t, "https://other.example"), `is for ["https://other.example"], and not for one of`)
	if d := m.Describe(); d.Issuer != s.Issuer || d.ClientID != "keybroker" || strings.Join(d.Scopes, " ") != "openid profile email" {
		t.Errorf("described as %+v", d)
	}
}

func TestClaims(t *testing.T) {
	s := oidcserver.New(t, nil)
	c := discover(s)
	c.NameClaim = "email"
	c.BoundClaims = attribute(t, `{ hd = "example.com", groups = ["on-call", "sre"], verified = true }`)
	m, _ := open(t, c, time.Now)
	now := time.Now()
	good := func(also map[string]any) map[string]any {
		claims := map[string]any{"email": "alice@example.com", "hd": "example.com", "groups": []string{"dev", "sre"}, "verified": true}
		for name, value := range also {
			claims[name] = value
		}
		return claims
	}
	id, err := m.Verify(t.Context(), s.Sign(t, good(nil)))
	if err != nil || id.Subject != "alice" || id.Name != "alice@example.com" {
		t.Fatalf("%+v, %v", id, err)
	}
	for name, test := range map[string]struct {
		claims map[string]any
		why    string
	}{
		"another issuer":         {map[string]any{"iss": "https://evil.example"}, `is of the issuer "https://evil.example"`},
		"no issuer":              {map[string]any{"iss": nil}, `is of the issuer ""`},
		"another audience":       {map[string]any{"aud": []string{"x", "y"}}, `is for ["x" "y"]`},
		"no audience":            {map[string]any{"aud": nil}, "is for []"},
		"no subject":             {map[string]any{"sub": nil}, "has no subject"},
		"no end":                 {map[string]any{"exp": nil}, "never expires"},
		"expired":                {map[string]any{"exp": now.Add(-40 * time.Second).Unix()}, "has expired at"},
		"not yet":                {map[string]any{"nbf": now.Add(40 * time.Second).Unix()}, "is not valid before"},
		"of the future":          {map[string]any{"iat": now.Add(40 * time.Second).Unix()}, "was issued in the future"},
		"another group":          {map[string]any{"groups": []string{"dev"}}, `the claim "groups" of the JWT is none of ["on-call" "sre"]`},
		"no group":               {map[string]any{"groups": nil}, `the claim "groups"`},
		"another domain":         {map[string]any{"hd": []string{"example.org"}}, `the claim "hd"`},
		"not verified":           {map[string]any{"verified": false}, `the claim "verified"`},
		"no name":                {map[string]any{"email": nil}, `lacks the claim "email"`},
		"no text as a name":      {map[string]any{"email": 5}, `lacks the claim "email"`},
		"issued to another":      {map[string]any{"aud": []string{"keybroker", "other"}, "azp": "other"}, "was issued to another client"},
		"issued to nobody":       {map[string]any{"aud": []string{"keybroker", "other"}}, "does not say which of them"},
		"issued to a number":     {map[string]any{"aud": "keybroker", "azp": 7}, "was issued to another client"},
		"a security event":       {map[string]any{"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}, "tells nobody's identity"},
		"malformed":              {map[string]any{"exp": "tomorrow"}, "malformed"},
		"a subject of many":      {map[string]any{"sub": []string{"alice"}}, "malformed"},
		"an audience of numbers": {map[string]any{"aud": []int{1}}, "malformed"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, m, s.Sign(t, good(test.claims)), test.why) })
	}
	for name, claims := range map[string]map[string]any{
		"expired within the skew":  {"exp": now.Add(-20 * time.Second).Unix()},
		"begins within the skew":   {"nbf": now.Add(20 * time.Second).Unix(), "iat": now.Add(20 * time.Second).Unix()},
		"issued to us among other": {"aud": []string{"keybroker", "other"}, "azp": "keybroker"},
		"issued to us alone":       {"aud": "keybroker"},
	} {
		if _, err := m.Verify(t.Context(), s.Sign(t, good(claims))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Time is that of the method, and passes for keys, too.
func TestExpiry(t *testing.T) {
	s := oidcserver.New(t, nil)
	c := discover(s)
	none := time.Duration(0)
	c.ClockSkew = &none
	var at clock
	m, _ := open(t, c, at.now)
	jwt := s.Workload(t, "")
	if _, err := m.Verify(t.Context(), jwt); err != nil {
		t.Fatal(err)
	}
	at.pass(5*time.Minute + time.Second)
	refused(t, m, jwt, "has expired at")
}

func TestKeyRotation(t *testing.T) {
	s := oidcserver.New(t, nil)
	var at clock
	m, _ := open(t, discover(s), at.now)
	old := s.Workload(t, "")
	if _, err := m.Verify(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	s.RotateKey(t)
	// Who sends keys that nobody knows makes us ask once in a while, and no more; until
	// then nobody is denied whose key may be new.
	if _, err := m.Verify(t.Context(), s.Sign(t, nil)); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "try again in a while") {
		t.Errorf("with a key that may be new: %v", err)
	}
	at.pass(11 * time.Second)
	if _, err := m.Verify(t.Context(), s.Sign(t, nil)); err != nil {
		t.Errorf("with the new key: %v", err)
	}
	at.pass(11 * time.Second)
	refused(t, m, old, "signed by a key that the provider")
}

// A method is made while its provider is down, and works as soon as that is up; when
// it goes down again, what is known of it is used for a while.
func TestOutage(t *testing.T) {
	s := oidcserver.New(t, nil)
	jwt := s.Sign(t, map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()})
	s.Stop()
	var at clock
	m, log := open(t, discover(s), at.now)
	for range 3 {
		_, err := m.Verify(t.Context(), jwt)
		if !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrDenied) || !strings.Contains(err.Error(), `auth "corp" cannot check JWTs now`) || strings.Contains(err.Error(), "127.0.0.1") {
			t.Fatalf("got %v", err)
		}
	}
	if !strings.Contains(log.String(), "asking 127.0.0.1") {
		t.Errorf("the log says %s", log.String())
	}
	if n := strings.Count(log.String(), "cannot be got"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, log.String())
	}
	s.Start(t)
	at.pass(3 * time.Second)
	if _, err := m.Verify(t.Context(), jwt); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	at.pass(30 * time.Minute)
	if _, err := m.Verify(t.Context(), jwt); err != nil {
		t.Errorf("with keys of half an hour ago: %v", err)
	}
	at.pass(31 * time.Minute)
	if _, err := m.Verify(t.Context(), jwt); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("with keys of an hour ago: %v", err)
	}
}

// A caller that leaves is no failure of the provider's.
func TestCallerLeaves(t *testing.T) {
	s := oidcserver.New(t, nil)
	m, log := open(t, discover(s), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	jwt := s.Sign(t, nil)
	if _, err := m.Verify(ctx, jwt); err == nil {
		t.Error("verified without keys")
	}
	if _, err := m.Verify(t.Context(), jwt); err != nil || log.String() != "" {
		t.Errorf("%v\n%s", err, log.String())
	}
}

// The private network and the issuer of the document are checked as well.
func TestMisled(t *testing.T) {
	s := oidcserver.New(t, nil)
	jwt := s.Sign(t, nil)
	for name, test := range map[string]struct {
		c   oidc.Config
		why string
	}{
		"a private network": {oidc.Config{DiscoveryURL: s.Issuer}, "set allow_private_network = true"},
		"another issuer":    {oidc.Config{DiscoveryURL: s.Issuer, Issuer: "https://login.example.com", AllowPrivateNetwork: true}, "calls itself the issuer"},
		"no document":       {oidc.Config{DiscoveryURL: s.Issuer + "/device", AllowPrivateNetwork: true}, "it answered with the status 404"},
		"no keys":           {oidc.Config{JWKSURL: s.Issuer + "/.well-known/openid-configuration", Issuer: s.Issuer, AllowPrivateNetwork: true}, "no public key"},
	} {
		m, log := open(t, test.c, time.Now)
		if _, err := m.Verify(t.Context(), jwt); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrDenied) || strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(log.String(), test.why) {
			t.Errorf("%s: %v; the log: %s", name, err, log.String())
		}
	}
}

// hanging is where keys are that may take as long as they like.
type hanging struct {
	url   string
	asked atomic.Int32
	hangs atomic.Bool
	keys  func() []byte
}

func newHanging(t *testing.T, keys func() []byte) *hanging {
	t.Helper()
	h := &hanging{keys: keys}
	stopped := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.asked.Add(1)
		if h.hangs.Load() {
			select {
			case <-stopped:
			case <-r.Context().Done():
			}
			return
		}
		_, _ = w.Write(h.keys())
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(stopped) })
	h.url = srv.URL
	return h
}

// TestHangingProvider: nobody waits for it whose key is known, whoever else does.
func TestHangingProvider(t *testing.T) {
	s := oidcserver.New(t, nil)
	p := newHanging(t, s.Keys)
	var at clock
	m, _ := open(t, oidc.Config{JWKSURL: p.url, Issuer: s.Issuer, AllowPrivateNetwork: true}, at.now)
	good := s.Sign(t, map[string]any{"exp": time.Now().Add(time.Hour).Unix()})
	if _, err := m.Verify(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	s.RotateKey(t)
	unknown := s.Sign(t, nil)
	p.hangs.Store(true)
	at.pass(6 * time.Minute)
	ctx, leave := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() {
			if _, err := m.Verify(ctx, unknown); !errors.Is(err, backends.ErrUnavailable) {
				t.Errorf("with an unknown key: %v", err)
			}
		})
	}
	for p.asked.Load() < 2 { // somebody waits for it
		runtime.Gosched()
	}
	soon, cancel := context.WithTimeout(t.Context(), 5*time.Second) // half of what a try may take
	defer cancel()
	if _, err := m.Verify(soon, good); err != nil {
		t.Errorf("with a known key: %v", err)
	}
	leave()
	waiting.Wait()
}

// TestWhoLeavesDoesNotMakeUsAskAgain: what was begun for one is for all.
func TestWhoLeavesDoesNotMakeUsAskAgain(t *testing.T) {
	s := oidcserver.New(t, nil)
	p := newHanging(t, s.Keys)
	p.hangs.Store(true)
	m, _ := open(t, oidc.Config{JWKSURL: p.url, Issuer: s.Issuer, AllowPrivateNetwork: true}, time.Now)
	jwt := s.Sign(t, nil)
	for range 50 {
		ctx, leave := context.WithCancel(t.Context())
		timer := time.AfterFunc(5*time.Millisecond, leave)
		if _, err := m.Verify(ctx, jwt); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		timer.Stop()
		leave()
	}
	if n := p.asked.Load(); n > 1 {
		t.Errorf("the provider was asked %d times at once", n)
	}
}

// Ids of 64 bits are told apart, and names are such that they can be shown.
func TestNumbersAndNames(t *testing.T) {
	s := oidcserver.New(t, nil)
	c := discover(s)
	c.NameClaim = "name"
	c.BoundClaims = attribute(t, `{ user_id = "9007199254740993" }`)
	m, _ := open(t, c, time.Now)
	sign := func(id int64, sub, name string) string {
		return s.Sign(t, map[string]any{"user_id": id, "sub": sub, "name": name})
	}
	if _, err := m.Verify(t.Context(), sign(9007199254740993, "alice", "Alice")); err != nil {
		t.Error(err)
	}
	refused(t, m, sign(9007199254740992, "alice", "Alice"), `the claim "user_id"`)
	refused(t, m, sign(9007199254740993, "alice", "Al\x1b[2Jice"), "control characters")
	refused(t, m, sign(9007199254740993, "alice", strings.Repeat("a", 256)), "more than 255 bytes")
	refused(t, m, sign(9007199254740993, strings.Repeat("a", 256), "Alice"), "longer than 255 bytes")
}

// Keys may lie in a file, which is read when it has changed.
func TestKeyFile(t *testing.T) {
	s := oidcserver.New(t, nil)
	path := filepath.Join(t.TempDir(), "jwks.json")
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(s.Keys())
	m, _ := open(t, oidc.Config{JWKSFile: path, Issuer: s.Issuer}, time.Now)
	if d := m.Describe(); d.Issuer != "" {
		t.Errorf("people could log in at %+v", d)
	}
	jwt := s.Sign(t, nil)
	if _, err := m.Verify(t.Context(), jwt); err != nil {
		t.Fatal(err)
	}
	s.RotateKey(t)
	write(s.Keys())
	if _, err := m.Verify(t.Context(), s.Sign(t, nil)); err != nil {
		t.Error(err)
	}
	refused(t, m, jwt, "signed by a key that the provider")
}

func TestStaticURL(t *testing.T) {
	s := oidcserver.New(t, nil)
	asked := 0
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = w.Write(s.Keys())
	}))
	t.Cleanup(h.Close)
	m, _ := open(t, oidc.Config{JWKSURL: h.URL, Issuer: s.Issuer, AllowPrivateNetwork: true}, time.Now)
	for range 3 {
		if _, err := m.Verify(t.Context(), s.Sign(t, nil)); err != nil {
			t.Error(err)
		}
	}
	if asked != 1 {
		t.Errorf("the keys were asked for %d times", asked)
	}
}

func TestMistakes(t *testing.T) {
	good := oidc.Config{DiscoveryURL: "https://login.example.com", BoundAudiences: []string{"keybroker"}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	minute, hour := time.Minute, time.Hour
	for name, test := range map[string]struct {
		edit func(*oidc.Config)
		why  string
	}{
		"no source":      {func(c *oidc.Config) { c.DiscoveryURL = "" }, "keys are missing"},
		"two sources":    {func(c *oidc.Config) { c.JWKSFile = "keys.json" }, "come from several places"},
		"no issuer":      {func(c *oidc.Config) { c.DiscoveryURL, c.JWKSURL = "", "https://login.example.com/keys" }, "issuer is missing"},
		"plain HTTP":     {func(c *oidc.Config) { c.DiscoveryURL = "http://login.example.com" }, "discovery_url does not begin with https://"},
		"no URL":         {func(c *oidc.Config) { c.DiscoveryURL = "login.example.com" }, "discovery_url is no URL"},
		"no audience":    {func(c *oidc.Config) { c.BoundAudiences = nil }, "bound_audiences must name"},
		"empty audience": {func(c *oidc.Config) { c.BoundAudiences = []string{""} }, "bound_audiences must name"},
		"much skew":      {func(c *oidc.Config) { c.ClockSkew = &hour }, "clock_skew is 1h0m0s"},
		"none":           {func(c *oidc.Config) { c.Algorithms = []string{"none"} }, `algorithms has "none"`},
		"HMAC":           {func(c *oidc.Config) { c.Algorithms = []string{"RS256", "HS256"} }, `algorithms has "HS256"`},
		"no openid":      {func(c *oidc.Config) { c.Scopes = []string{"groups"} }, `scopes lacks "openid"`},
		"no object":      {func(c *oidc.Config) { c.BoundClaims = attribute(t, `["a"]`) }, "bound_claims is an object"},
		"no texts":       {func(c *oidc.Config) { c.BoundClaims = attribute(t, `{ a = {} }`) }, "bound_claims is an object"},
		"a variable":     {func(c *oidc.Config) { c.BoundClaims = attribute(t, `{ a = b }`) }, "bound_claims takes constants only"},
	} {
		c := good
		c.ClockSkew = &minute
		test.edit(&c)
		_, err := oidc.New("corp", c, time.Now, hclog.NewNullLogger())
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), test.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTypes(t *testing.T) {
	for name, test := range map[string]struct {
		c                oidc.Config
		people, programs string // what is wrong; empty: nothing
	}{
		"of people":   {oidc.Config{DiscoveryURL: "https://login.example.com", ClientID: "keybroker", BoundAudiences: []string{"keybroker"}}, "", "client_id is of no use"},
		"of programs": {oidc.Config{DiscoveryURL: "https://login.example.com", BoundAudiences: []string{"keybroker"}}, "client_id is missing", ""},
		"with keys":   {oidc.Config{JWKSFile: "k", Issuer: "i", BoundAudiences: []string{"keybroker"}, ClientID: "keybroker"}, "discovery_url is missing", "client_id is of no use"},
		"of another":  {oidc.Config{DiscoveryURL: "https://login.example.com", ClientID: "keybroker", BoundAudiences: []string{"other"}}, `bound_audiences lacks the client_id "keybroker"`, "client_id"},
		"with scopes": {oidc.Config{DiscoveryURL: "https://login.example.com", Scopes: []string{"openid"}, BoundAudiences: []string{"keybroker"}}, "client_id is missing", "scopes are of no use"},
	} {
		for kind, got := range map[string]struct {
			err  error
			want string
		}{"oidc": {test.c.ValidateForPeople(), test.people}, "jwt": {test.c.ValidateForPrograms(), test.programs}} {
			if (got.err == nil) != (got.want == "") || got.err != nil && !strings.Contains(got.err.Error(), got.want) {
				t.Errorf("%s as %q: %v", name, kind, got.err)
			}
		}
	}
}
