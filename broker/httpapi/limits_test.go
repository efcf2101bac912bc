package httpapi_test

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/httpapi"
	"github.com/keybroker/keybroker/broker/ratelimit"
	"github.com/keybroker/keybroker/policy"
)

// callers is an Authenticator that believes whatever is in its map, and remembers
// what it was shown.
type callers struct {
	known map[string]authn.Principal
	shown []authn.Credentials
}

func (c *callers) Authenticate(_ context.Context, shown authn.Credentials) (authn.Principal, error) {
	c.shown = append(c.shown, shown)
	p, ok := c.known[shown.Token]
	if !ok {
		return p, backends.ErrDenied
	}
	p.Name, p.Address, p.Request = "good", shown.Address, shown.Request
	return p, nil
}

func (c *callers) Again(_ context.Context, p authn.Principal) (authn.Principal, error) { return p, nil }

func TestRateOfAnAddress(t *testing.T) {
	n := start(t, newMemory(), func(c *httpapi.Config) {
		c.Limits.Rates.Address = policy.Limit{RequestsPerMinute: 6, Burst: 3}
	})
	for i := range 3 {
		a := n.ask(t, "GET", "/api/v1/secrets", goodToken, "")
		if left := `"address";r=` + strconv.Itoa(2-i) + `;t=`; a.status != 200 || !strings.HasPrefix(a.header.Get("RateLimit"), left) {
			t.Fatalf("request %d: %d, RateLimit: %s", i, a.status, a.header.Get("RateLimit"))
		}
		if got := a.header.Get("RateLimit-Policy"); !strings.HasPrefix(got, `"address";q=6;w=60, "identity";q=`) {
			t.Errorf("RateLimit-Policy: %s", got)
		}
	}
	for _, path := range []string{"/api/v1/secrets", "/nope", "/api/v1//", "/openapi.json"} {
		a := n.ask(t, "GET", path, goodToken, "")
		if a.status != 429 {
			t.Fatalf("%s: %d", path, a.status)
		}
		p := a.problem(t)
		if wait, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || wait < 1 || wait > 10 {
			t.Errorf("Retry-After: %s", a.header.Get("Retry-After"))
		}
		if !strings.Contains(p.Detail, "6 a minute") || p.Hint == "" {
			t.Errorf("%+v", p)
		}
	}
	if served := n.count(); served != 3 {
		t.Errorf("%d requests reached the broker", served)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := n.ask(t, "GET", path, "", ""); a.status != 200 || a.header.Get("RateLimit") != "" {
			t.Errorf("%s: %d %v", path, a.status, a.header)
		}
	}
	// What contains, and what gateways ask, is not what others have used up.
	for range 300 {
		n.ask(t, "POST", "/api/v1/secrets/payments%2Fstripe/emergency", "wrong", `{"reason":"leak"}`)
	}
	if a := n.ask(t, "POST", "/api/v1/secrets/payments%2Fstripe/emergency", goodToken, `{"reason":"leak"}`); a.status != 202 {
		t.Errorf("an emergency: %d %s", a.status, a.body)
	}
	if a := n.ask(t, "POST", "/api/v1/keys/check", canary, ""); a.status != 200 {
		t.Errorf("a check of a key: %d", a.status)
	}
}

// Who is not known is counted of their address at what contains, too; who is known is
// never refused for that.
func TestFailuresAreCountedWhereItIsContained(t *testing.T) {
	auth := &callers{known: map[string]authn.Principal{goodToken: {ID: "1"}}}
	n := start(t, newMemory(), func(c *httpapi.Config) {
		c.Authenticator = auth
		c.Limits.Rates.Address = policy.Limit{RequestsPerMinute: 1, Burst: 1}
	})
	const emergency = "/api/v1/secrets/payments%2Fstripe/emergency"
	for _, token := range []string{"", "wrong"} {
		refused := 0
		var last answer
		for range 2 * ratelimit.Containment.Burst {
			if last = n.ask(t, "POST", emergency, token, `{"reason":"leak"}`); last.status == 429 {
				refused++
			}
		}
		if refused < ratelimit.Containment.Burst/2 || last.status != 429 || last.header.Get("Retry-After") == "" {
			t.Errorf("token %q: %d were told to wait, the last: %d %v", token, refused, last.status, last.header)
		}
		if a := n.ask(t, "POST", emergency, goodToken, `{"reason":"leak"}`); a.status != 202 {
			t.Errorf("who is known: %d %s", a.status, a.body)
		}
	}
	if a := n.ask(t, "GET", "/api/v1/secrets", goodToken, ""); a.status != 200 {
		t.Errorf("failures at what contains are taken from what is read: %d", a.status)
	}
}

// What keeps the node from knowing anybody is no failure of theirs.
func TestAnOutageIsCountedOfNobody(t *testing.T) {
	n := start(t, newMemory(), func(c *httpapi.Config) { c.Authenticator = tokens{err: backends.ErrUnavailable} })
	for range 2 * ratelimit.Containment.Burst {
		if a := n.ask(t, "POST", "/api/v1/secrets/payments%2Fstripe/emergency", goodToken, `{"reason":"leak"}`); a.status != 503 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
}

func TestChecksOfKeysAreCounted(t *testing.T) {
	n := start(t, newMemory(), func(c *httpapi.Config) {
		c.Limits.Rates.Address = policy.Limit{RequestsPerMinute: 2, Burst: 2}
	})
	through := 0
	for range 9 {
		if a := n.ask(t, "POST", "/api/v1/keys/check", "wrong", ""); a.status != 429 {
			through++
		}
	}
	if through != 4 {
		t.Errorf("%d checks went through, want twice the address's 2", through)
	}
}

// Who has many networks of IPv6 is told which limit it is.
func TestRateOfASite(t *testing.T) {
	n := start(t, newMemory(), func(c *httpapi.Config) {
		c.Limits = httpapi.Limits{TrustedProxies: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			Rates: ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 1, Burst: 1}}}
	})
	for i := range 2 * ratelimit.NetworksPerSite {
		a := n.ask(t, "GET", "/api/v1/secrets", goodToken, "", "X-Forwarded-For", "2001:db8:0:"+strconv.Itoa(i)+"::1")
		if i < ratelimit.NetworksPerSite {
			if a.status != 200 || !strings.Contains(a.header.Get("RateLimit"), `"address";r=0;t=60, "site";r=`) {
				t.Errorf("network %d: %d %s", i, a.status, a.header.Get("RateLimit"))
			}
		} else if a.status != 429 || !strings.Contains(a.body, "from this network") {
			t.Errorf("network %d: %d %s", i, a.status, a.body)
		}
	}
}

func TestRatesOfCallers(t *testing.T) {
	auth := &callers{known: map[string]authn.Principal{
		"alice":  {ID: "1", Lineage: "corp:alice", Tenant: "acme"},
		"alice2": {ID: "2", Lineage: "corp:alice", Tenant: "acme"}, // another token of hers
		"bob":    {ID: "3", Lineage: "corp:bob", Tenant: "acme"},
		"alias":  {ID: "5", Lineage: "corp:alice", Tenant: "another"},
		"carol":  {ID: "4", Tenant: "other", Limit: policy.Limit{RequestsPerMinute: 60, Burst: 9}},
	}}
	n := start(t, newMemory(), func(c *httpapi.Config) {
		c.Authenticator = auth
		c.Limits.Rates = ratelimit.Rates{Identity: policy.Limit{RequestsPerMinute: 1, Burst: 4},
			Tenants: map[string]policy.Limit{"acme": {RequestsPerMinute: 1, Burst: 6}}}
	})
	through := func(token string, times int) (count int, last answer) {
		for range times {
			if last = n.ask(t, "GET", "/api/v1/secrets", token, ""); last.status == 200 {
				count++
			}
		}
		return count, last
	}
	if got, _ := through("alice", 3); got != 3 {
		t.Errorf("%d of alice's", got)
	}
	if got, last := through("alice2", 3); got != 1 || !strings.Contains(last.body, "this caller") {
		t.Errorf("%d with her other token, want 1: %s", got, last.body)
	}
	if got, _ := through("alias", 5); got != 4 {
		t.Errorf("%d of who is called alice by another tenant, want 4", got)
	}
	if got, last := through("bob", 3); got != 2 || !strings.Contains(last.body, "this tenant") {
		t.Errorf("%d of bob's, want the tenant's last 2: %s", got, last.body)
	}
	if got, _ := through("carol", 12); got != 9 {
		t.Errorf("%d of carol's, want the 9 of her role", got)
	}
}

func TestLimitsAreReplaced(t *testing.T) {
	m := newMemory()
	h := httpapi.New(configOf(m))
	srv := serve(t, h, httpapi.DefaultTimeouts)
	n := &node{memory: m, url: srv}
	if a := n.ask(t, "POST", "/api/v1/tokens", goodToken, `{"name":"`+strings.Repeat("x", 200)+`"}`); a.status != 201 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	h.SetLimits(httpapi.Limits{MaxRequestSize: 100, Rates: ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 1, Burst: 2}}})
	if a := n.ask(t, "POST", "/api/v1/tokens", goodToken, `{"name":"`+strings.Repeat("x", 200)+`"}`); a.status != 413 {
		t.Errorf("%d %s", a.status, a.body)
	}
	n.ask(t, "GET", "/api/v1/tokens", goodToken, "")
	if a := n.ask(t, "GET", "/api/v1/tokens", goodToken, ""); a.status != 429 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// waits is the error of somebody who is to stay away.
type waits struct{ error }

func (waits) RetryAfter() time.Duration { return 90 * time.Second }
func (w waits) Unwrap() error           { return w.error }

func TestWhoIsToStayAway(t *testing.T) {
	n := start(t, newMemory(), func(c *httpapi.Config) { c.Authenticator = tokens{err: waits{backends.ErrDenied}} })
	a := n.ask(t, "GET", "/api/v1/secrets", goodToken, "")
	if a.status != 429 || a.header.Get("Retry-After") != "90" {
		t.Errorf("%d, Retry-After: %q", a.status, a.header.Get("Retry-After"))
	}
	a.problem(t)
}

func TestWhereARequestComesFrom(t *testing.T) {
	auth := &callers{known: map[string]authn.Principal{goodToken: {ID: "1"}}}
	const real = "203.0.113.7"
	ask := func(t *testing.T, trusted []netip.Addr, header ...string) (int, netip.Addr) {
		n := start(t, newMemory(), func(c *httpapi.Config) { c.Authenticator, c.Limits.TrustedProxies = auth, trusted })
		auth.shown = nil
		a := n.ask(t, "GET", "/api/v1/secrets", goodToken, "", header...)
		if len(auth.shown) == 0 {
			return a.status, netip.Addr{}
		}
		if auth.shown[0].Request != a.header.Get("X-Request-Id") {
			t.Errorf("request id %q, answered as %q", auth.shown[0].Request, a.header.Get("X-Request-Id"))
		}
		return a.status, auth.shown[0].Address
	}
	here := netip.MustParseAddr("127.0.0.1")
	proxies := []netip.Addr{here, netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("2001:db8::3")}
	for _, test := range []struct {
		name    string
		trusted []netip.Addr
		header  []string
		want    string // empty: refused
	}{
		{"nobody is trusted", nil, []string{"X-Forwarded-For", real}, "127.0.0.1"},
		{"another is trusted", []netip.Addr{netip.MustParseAddr("127.0.0.2")}, []string{"X-Forwarded-For", real}, "127.0.0.1"},
		{"the peer is trusted", proxies, []string{"X-Forwarded-For", real}, real},
		{"the proxy itself", proxies, nil, "127.0.0.1"},
		{"what the client made up", proxies, []string{"X-Forwarded-For", "10.9.9.9, garbage, " + real}, real},
		{"a chain of proxies", proxies, []string{"X-Forwarded-For", "10.9.9.9," + real + ", 2001:db8::3, 10.1.2.3"}, real},
		{"a proxy that is not of the chain", proxies, []string{"X-Forwarded-For", real + ", 10.1.2.4, 10.1.2.3"}, "10.1.2.4"},
		{"only proxies", proxies, []string{"X-Forwarded-For", "10.1.2.3"}, "10.1.2.3"},
		{"with a port", proxies, []string{"X-Forwarded-For", real + ":4711"}, real},
		{"IPv6 with a port", proxies, []string{"X-Forwarded-For", "[2001:db8::7]:4711"}, "2001:db8::7"},
		{"IPv4 as IPv6", proxies, []string{"X-Forwarded-For", "::ffff:" + real}, real},
		{"other headers", proxies, []string{"X-Real-IP", real, "Forwarded", "for=" + real, "X-Client-IP", real}, "127.0.0.1"},
		{"no address", proxies, []string{"X-Forwarded-For", real + ", unknown"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, from := ask(t, test.trusted, test.header...)
			if test.want == "" {
				if status != 400 || from.IsValid() {
					t.Errorf("%d, from %s", status, from)
				}
				return
			}
			if status != 200 || from.String() != test.want {
				t.Errorf("%d, from %s, want %s", status, from, test.want)
			}
		})
	}
}

// Behind a proxy, each caller has a rate of their own.
func TestRatesBehindAProxy(t *testing.T) {
	n := start(t, newMemory(), func(c *httpapi.Config) {
		c.Limits = httpapi.Limits{TrustedProxies: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			Rates: ratelimit.Rates{Address: policy.Limit{RequestsPerMinute: 1, Burst: 1}}}
	})
	for from, want := range map[string][]int{"203.0.113.7": {200, 429}, "203.0.113.8": {200, 429}} {
		for i, status := range want {
			if a := n.ask(t, "GET", "/api/v1/secrets", goodToken, "", "X-Forwarded-For", from); a.status != status {
				t.Errorf("request %d from %s: %d, want %d", i, from, a.status, status)
			}
		}
	}
}

func TestNoCORS(t *testing.T) {
	n := start(t, newMemory(), nil)
	for _, method := range []string{"OPTIONS", "GET"} {
		a := n.ask(t, method, "/api/v1/secrets", goodToken, "", "Origin", "https://evil.example", "Access-Control-Request-Method", "GET")
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %s is answered", method, name)
			}
		}
	}
}

// The table is what is served: no more, as routes are made of it, and no less.
func TestEveryEndpointIsServed(t *testing.T) {
	n := start(t, newMemory(), func(c *httpapi.Config) {
		c.Metrics = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	})
	path := strings.NewReplacer("{name}", "payments%2Fstripe", "{id}", "r1", "{trigger}", "ci", "{method}", "corp")
	for _, e := range httpapi.Endpoints() {
		a := n.ask(t, e.Method, path.Replace(e.Pattern), "", "")
		switch {
		case e.Access.Public && (a.status == 404 || a.status == 405):
			t.Errorf("%s %s is not served: %d", e.Method, e.Pattern, a.status)
		case !e.Access.Public && a.status != 401:
			t.Errorf("%s %s without a token: %d", e.Method, e.Pattern, a.status)
		}
		if e.Access.Public && e.Class == ratelimit.Containing {
			t.Errorf("%s %s is counted of nobody", e.Method, e.Pattern)
		}
		if e.Body == nil && (e.Method == "POST") && e.Answer == nil {
			t.Errorf("%s %s takes and gives nothing", e.Method, e.Pattern)
		}
		if !e.Access.Public && e.Access.Path != "" && len(e.Access.AnyOf) == 0 {
			t.Errorf("%s %s names a path and no capability", e.Method, e.Pattern)
		}
	}
}
