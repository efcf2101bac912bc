package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/httpapi"
)

// answer is what raw HTTP gets.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) problem(t *testing.T) client.Problem {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != client.ProblemType {
		t.Fatalf("content type %q of %d %s", got, a.status, a.body)
	}
	var p client.Problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	if p.Status != a.status || p.Title != http.StatusText(a.status) || p.Type != "about:blank" || p.Detail == "" {
		t.Errorf("problem %+v of an answer with status %d", p, a.status)
	}
	if want := "urn:uuid:" + a.header.Get("X-Request-Id"); p.Instance != want || len(want) < 20 {
		t.Errorf("instance %q, want %q", p.Instance, want)
	}
	return p
}

func (n *node) ask(t *testing.T, method, path, token, body string, header ...string) answer {
	t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, n.url+path, in)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

func TestEveryCallReachesTheBroker(t *testing.T) {
	n := start(t, newMemory(), nil)
	c := n.client(t, goodToken)
	ctx := t.Context()
	const name = "payments/stripe"
	for _, test := range []struct {
		want string
		call func() (any, error)
	}{
		{"secrets pay 10 a/b", func() (any, error) {
			return c.Secrets(ctx, client.SecretQuery{Prefix: "pay", Page: client.Page{Limit: 10, After: "a/b"}})
		}},
		{"secret payments/stripe", func() (any, error) { return c.Secret(ctx, name) }},
		{"value payments/stripe 0", func() (any, error) { return c.Value(ctx, name, 0) }},
		{"value payments/stripe 2", func() (any, error) { return c.Value(ctx, name, 2) }},
		{"rotate payments/stripe why not", func() (any, error) { return c.Rotate(ctx, name, client.RotateRequest{Reason: "why not"}) }},
		{"revoke payments/stripe 2 leak", func() (any, error) {
			return c.Revoke(ctx, name, client.RevokeRequest{Version: 2, Reason: "leak"})
		}},
		{"emergency payments/stripe leak revoke_first", func() (any, error) {
			return c.Emergency(ctx, name, client.EmergencyRequest{Reason: "leak", Contain: client.RevokeFirst})
		}},
		{"pause payments/stripe freeze", func() (any, error) { return c.Pause(ctx, name, client.PauseRequest{Reason: "freeze"}) }},
		{"resume payments/stripe", func() (any, error) { return c.Resume(ctx, name) }},
		{"rotations payments/stripe queued true", func() (any, error) {
			return c.Rotations(ctx, client.RotationQuery{Secret: name, State: "queued", Live: true})
		}},
		{"rotation r1", func() (any, error) { return c.Rotation(ctx, "r1") }},
		{"retirements payments/stripe unconfirmed", func() (any, error) {
			return c.Retirements(ctx, client.RetirementQuery{Secret: name, State: "unconfirmed"})
		}},
		{"retirement t1", func() (any, error) { return c.Retirement(ctx, "t1") }},
		{"deliveries payments/stripe shop dead", func() (any, error) {
			return c.Deliveries(ctx, client.DeliveryQuery{Secret: name, Consumer: "shop", State: "dead"})
		}},
		{"delivery d1", func() (any, error) { return c.Delivery(ctx, "d1") }},
		{"acknowledge d1 applied 7", func() (any, error) {
			return c.Acknowledge(ctx, "d1", client.AcknowledgeRequest{Status: client.AckApplied, Generation: 7})
		}},
		{"event siem e1 payments/stripe leak", func() (any, error) {
			return c.Event(ctx, "siem", client.EventRequest{ID: "e1", Secret: name, Reason: "leak"})
		}},
		{"tokens 5", func() (any, error) { return c.Tokens(ctx, client.Page{Limit: 5}) }},
		{"create-token ci acme [reader] 24h", func() (any, error) {
			return c.CreateToken(ctx, client.CreateTokenRequest{Name: "ci", Tenant: "acme", Policies: []string{"reader"}, TTL: "24h"})
		}},
		{"reload true", func() (any, error) { return c.Reload(ctx, client.ReloadRequest{DryRun: true}) }},
		{"configuration", func() (any, error) { return c.Configuration(ctx) }},
		{"revoke-token k1", func() (any, error) { return c.RevokeToken(ctx, "k1") }},
		{"own-token", func() (any, error) { return c.OwnToken(ctx) }},
		{"renew-own-token", func() (any, error) { return c.RenewOwnToken(ctx) }},
		{"revoke-own-token", func() (any, error) { return c.RevokeOwnToken(ctx) }},
	} {
		t.Run(test.want, func(t *testing.T) {
			got, err := test.call()
			if err != nil {
				t.Fatal(err)
			}
			if n.last() != test.want {
				t.Errorf("the broker was asked %q", n.last())
			}
			if text := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(text, canary) {
				t.Errorf("printing the answer shows the secret: %s", text)
			}
		})
	}
}

func TestValueCrossesTheWire(t *testing.T) {
	n := start(t, newMemory(), nil)
	c := n.client(t, goodToken)
	v, err := c.Value(t.Context(), "payments/stripe", 0)
	if err != nil || v.Fields["key"] != canary || !v.PublishedAt.Equal(then) {
		t.Fatalf("%v, %v", v, err)
	}
	token, err := c.CreateToken(t.Context(), client.CreateTokenRequest{Name: "ci"})
	if err != nil || token.Token.Reveal() != canary {
		t.Fatalf("%v, %v", token, err)
	}
	if _, changed, err := c.ValueIfChanged(t.Context(), "payments/stripe", v); changed || err != nil {
		t.Errorf("it is what the caller has: changed %v, %v", changed, err)
	}
	if v, changed, err := c.ValueIfChanged(t.Context(), "payments/stripe", client.Value{}); !changed || err != nil || v.Fields["key"] != canary {
		t.Errorf("the caller has none: changed %v, %v", changed, err)
	}
	raw := n.ask(t, "GET", "/api/v1/secrets/payments%2Fstripe/value", goodToken, "", "If-None-Match", `"x", W/"g7"`)
	if raw.status != http.StatusNotModified || raw.body != "" || raw.header.Get("ETag") != `"g7"` {
		t.Errorf("conditional read: %+v", raw)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := raw.header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestEntityTags: whatever changes in the answer changes its tag.
func TestEntityTags(t *testing.T) {
	m := newMemory()
	n := start(t, m, nil)
	c := n.client(t, goodToken)
	const name = "payments/stripe"
	previous := &client.PreviousValue{Version: 2, Fields: client.Fields{"key": canary}, Until: then}
	later := *previous
	later.Until = then.Add(time.Second)
	seen := map[string]int{}
	for i, change := range []func(*client.Value){
		nil,
		func(v *client.Value) { v.Previous = previous },
		func(v *client.Value) { v.Previous = &later },
		func(v *client.Value) { v.Previous, v.NextRotationAt = previous, then },
		func(v *client.Value) { v.NextRotationAt = then },
		func(v *client.Value) { v.Generation = 8 },
	} {
		m.adjust = change
		v, err := c.Value(t.Context(), name, 0)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[v.ETag]; ok || v.ETag == "" || strings.Contains(v.ETag, canary) {
			t.Errorf("answer %d has the tag %s, like %d", i, v.ETag, other)
		}
		seen[v.ETag] = i
		if _, changed, err := c.ValueIfChanged(t.Context(), name, v); changed || err != nil {
			t.Errorf("answer %d, asked for again: changed %v, %v", i, changed, err)
		}
	}
	if _, ok := seen[`"g7"`]; !ok {
		t.Errorf("tags %v", seen)
	}
	raw := n.ask(t, "GET", "/api/v1/secrets/payments%2Fstripe/value?version=2", goodToken, "", "If-None-Match", `"g8", *`)
	if raw.status != http.StatusOK || raw.header.Get("ETag") != "" {
		t.Errorf("a version asked for by its number: %d, tag %s", raw.status, raw.header.Get("ETag"))
	}
	if v, err := c.Value(t.Context(), name, 2); err != nil || v.ETag != "" {
		t.Errorf("tag %s, %v", v.ETag, err)
	}
}

func TestNamesInPaths(t *testing.T) {
	n := start(t, newMemory(), nil)
	for path, want := range map[string]string{
		"payments%2Fstripe":               "secret payments/stripe",
		"payments/stripe":                 "secret payments/stripe",
		"payments%2Fstripe/value":         "value payments/stripe 0",
		"payments/stripe/value":           "value payments/stripe 0",
		"payments/stripe%2Fvalue":         "secret payments/stripe/value",
		"payments%2Fvalue":                "secret payments/value",
		"payments%2Fvalue/value":          "value payments/value 0",
		"value":                           "secret value",
		"value/value":                     "value value 0",
		"a@b=c.d":                         "secret a@b=c.d",
		"payments%2F..%2Fstripe":          "secret payments/../stripe", // for the broker to refuse
		"payments/stripe/value?version=2": "value payments/stripe 2",
	} {
		before := n.count()
		a := n.ask(t, "GET", "/api/v1/secrets/"+path, goodToken, "")
		if n.count() != before+1 || n.last() != want {
			t.Errorf("%s asked %q, want %q (%d %s)", path, n.last(), want, a.status, a.body)
		}
	}
	for _, path := range []string{"payments//stripe", "payments/../stripe", "./stripe", "stripe/", "%2Fstripe/%2F/"} {
		before := n.count()
		a := n.ask(t, "GET", "/api/v1/secrets/"+path, goodToken, "")
		if a.status != http.StatusNotFound || n.count() != before {
			t.Errorf("%s: %d, asked %q", path, a.status, n.last())
		}
		a.problem(t)
	}
}

func TestErrorsBecomeProblems(t *testing.T) {
	m := newMemory()
	n := start(t, m, nil)
	for _, test := range []struct {
		err    error
		status int
		tells  bool
	}{
		{backends.ErrNotFound, 404, true},
		{backends.ErrDenied, 403, true},
		{backends.ErrConflict, 409, true},
		{backends.ErrInvalid, 400, true},
		{backends.ErrUnsupported, 422, true},
		{backends.ErrUnavailable, 503, true},
		{errors.New("surprise"), 500, false},
	} {
		m.fail = fmt.Errorf("getting on: %w", test.err)
		a := n.ask(t, "GET", "/api/v1/secrets/x", goodToken, "")
		p := a.problem(t)
		if a.status != test.status || strings.Contains(p.Detail, "getting on") != test.tells {
			t.Errorf("%v: %d %+v", test.err, a.status, p)
		}
		if (a.header.Get("Retry-After") != "") != (a.status == 503) {
			t.Errorf("%v: Retry-After %q", test.err, a.header.Get("Retry-After"))
		}
		_, err := n.client(t, goodToken).Secret(t.Context(), "x")
		got, ok := errors.AsType[*client.Problem](err)
		if !ok || got.Status != test.status || client.Status(err) != test.status || got.Detail != p.Detail {
			t.Errorf("%v: the client has %#v", test.err, err)
		}
	}
	if log := n.log.String(); !strings.Contains(log, "getting on: surprise") {
		t.Errorf("the log does not tell of the internal error: %s", log)
	}
}

type hinted struct{ error }

func (hinted) Hint() string    { return "use emergency" }
func (h hinted) Unwrap() error { return h.error }

func TestHintOfAnError(t *testing.T) {
	m := newMemory()
	m.fail = fmt.Errorf("revoking: %w", hinted{backends.ErrConflict})
	p := start(t, m, nil).ask(t, "GET", "/api/v1/secrets/x", goodToken, "").problem(t)
	if p.Hint != "use emergency" || p.Status != 409 {
		t.Errorf("%+v", p)
	}
}

func TestWhoMayCall(t *testing.T) {
	n := start(t, newMemory(), nil)
	for _, test := range []struct {
		name, authorization string
		status              int
	}{
		{"none", "", 401},
		{"wrong", "Bearer nope", 401},
		{"basic", "Basic " + goodToken, 401},
		{"empty", "Bearer ", 401},
		{"no policy", "Bearer " + otherToken, 403},
		{"good", "bearer " + goodToken, 200},
	} {
		a := n.ask(t, "GET", "/api/v1/secrets", "", "", "Authorization", test.authorization)
		if a.status != test.status {
			t.Errorf("%s: %d", test.name, a.status)
		}
		if test.status == 401 {
			a.problem(t)
			if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%s: WWW-Authenticate %q", test.name, a.header.Get("WWW-Authenticate"))
			}
		}
	}
	for _, path := range []string{"/api/v1/secrets", "/api/v1/secrets/a/value", "/api/v1/rotations/r1/events", "/api/v1/tokens"} {
		before := n.count()
		if a := n.ask(t, "GET", path, "", ""); a.status != 401 || n.count() != before {
			t.Errorf("%s without a token: %d, the broker was asked %q", path, a.status, n.last())
		}
	}
}

// TestWhoSendsABodyIsKnownWhenItIsThere: by then the caller may be somebody else, or
// nobody.
func TestWhoSendsABodyIsKnownWhenItIsThere(t *testing.T) {
	for err, want := range map[error]int{nil: 201, backends.ErrDenied: 401, backends.ErrUnavailable: 503} {
		n := start(t, newMemory(), func(c *httpapi.Config) { c.Authenticator = tokens{again: err} })
		for _, length := range []int64{2, -1} { // as is known, and in chunks
			req, reqErr := http.NewRequestWithContext(t.Context(), "POST", n.url+"/api/v1/tokens", io.NopCloser(strings.NewReader("{}")))
			if reqErr != nil {
				t.Fatal(reqErr)
			}
			req.ContentLength = length
			req.Header = http.Header{"Authorization": {"Bearer " + goodToken}, "Content-Type": {"application/json"}}
			before := n.count()
			answer, doErr := http.DefaultClient.Do(req)
			if doErr != nil {
				t.Fatal(doErr)
			}
			_ = answer.Body.Close()
			if served := n.count() > before; answer.StatusCode != want || served != (err == nil) {
				t.Errorf("%v, length %d: %d, want %d; the broker was asked: %v", err, length, answer.StatusCode, want, served)
			}
		}
		if a := n.ask(t, "GET", "/api/v1/secrets", goodToken, ""); a.status != 200 {
			t.Errorf("%v: without a body: %d", err, a.status)
		}
	}
}

func TestAuthenticatorThatCannotTell(t *testing.T) {
	for want, err := range map[int]error{
		503: fmt.Errorf("reading tokens: %w", backends.ErrUnavailable),
		500: errors.New("reading tokens: surprise"),
	} {
		n := start(t, newMemory(), func(c *httpapi.Config) { c.Authenticator = tokens{err: err} })
		if a := n.ask(t, "GET", "/api/v1/secrets", goodToken, ""); a.status != want {
			t.Errorf("%v: %d", err, a.status)
		}
	}
}

func TestBodies(t *testing.T) {
	n := start(t, newMemory(), func(c *httpapi.Config) { c.Limits.MaxRequestSize = 100 })
	for _, test := range []struct {
		name, body, contentType string
		status                  int
		detail                  string
	}{
		{"good", `{"version": 2, "reason": "leak"}`, "application/json; charset=utf-8", 202, ""},
		{"unknown field", `{"verison": 2}`, "application/json", 400, `"verison" is unknown`},
		{"wrong type", `{"version": "` + canary + `"}`, "application/json", 400, "version is not a int"},
		{"array", `[1]`, "application/json", 400, "no single JSON object"},
		{"two values", `{} {}`, "application/json", 400, "no single JSON object"},
		{"garbage after", `{}x`, "application/json", 400, "no single JSON object"},
		{"cut off", `{"version": `, "application/json", 400, "ends in its middle"},
		{"too large", `{"reason": "` + strings.Repeat("x", 100) + `"}`, "application/json", 413, "larger than 100 bytes"},
		{"form", `version=2`, "application/x-www-form-urlencoded", 415, "application/json"},
	} {
		a := n.ask(t, "POST", "/api/v1/secrets/a/revoke", goodToken, test.body, "Content-Type", test.contentType)
		if a.status != test.status || !strings.Contains(a.body, strings.ReplaceAll(test.detail, `"`, `\"`)) || strings.Contains(a.body, canary) {
			t.Errorf("%s: %d %s", test.name, a.status, a.body)
		}
	}
	if a := n.ask(t, "POST", "/api/v1/secrets/a/rotate", goodToken, ""); a.status != 202 {
		t.Errorf("no body: %d %s", a.status, a.body)
	}
}

// TestKeysAreExact: who reads a request by its documented keys reads the request that
// the broker does.
func TestKeysAreExact(t *testing.T) {
	n := start(t, newMemory(), nil)
	for _, test := range []struct {
		path, body string
		status     int
		detail     string
	}{
		{"tokens", `{"name":"z","policies":["demo-reader"],"Policies":["root"]}`, 400, `"Policies" is unknown`},
		{"tokens", `{"NAME":"z"}`, 400, `"NAME" is unknown`},
		{"tokens", `{"name":"z","name":"y"}`, 400, `"name" is there twice`},
		{"tokens", `{"name":"z","n\u0061me":"y"}`, 400, `"name" is there twice`},
		{"auth/corp/login", `{"role":"on-call","ROLE":"platform"}`, 400, `"ROLE" is unknown`},
		{"secrets/a/import", `{"handle":{"id":"1","` + canary + `":"2","` + canary + `":"3"}}`, 400, "a key twice"},
		{"secrets/a/import", `{"version_handles":{"v1":{"id":"1","id":"3"}}}`, 400, "a key twice"},
		{"secrets/a/import", `{"version_handles":{"v1":{"id":"1","ID":"3"},"V1":{"id":"2"}},"reason":"x","Dry_run":true}`, 400, `"Dry_run" is unknown`},
		{"secrets/a/import", `{"version_handles":{"v1":{"id":"1","ID":"3"},"V1":{"id":"2"}},"expect":["a","a"],"reason":"x"}`, 200, ""},
		{"tokens", ` {"name" : "z", "policies": ["a"]} ` + "\n", 201, ""},
		{"tokens", `null`, 201, ""},
	} {
		a := n.ask(t, "POST", "/api/v1/"+test.path, goodToken, test.body)
		if a.status != test.status || !strings.Contains(a.body, strings.ReplaceAll(test.detail, `"`, `\"`)) || a.status == 400 && strings.Contains(a.body, canary) {
			t.Errorf("%s: %d %s", test.body, a.status, a.body)
		}
	}
}

func TestParameters(t *testing.T) {
	n := start(t, newMemory(), nil)
	for path, detail := range map[string]string{
		"secrets?limit=0":                  "limit is not a number from 1 to 1000",
		"secrets?limit=1001":               "limit is not a number",
		"secrets?after=a&after=b":          "after is given 2 times",
		"secrets/a?version=1":              `\"version\" is unknown`,
		"secrets/a/value?verison=1":        `\"verison\" is unknown`,
		"secrets/a/value?version=-1":       "version is not a number",
		"rotations?live=maybe":             "live is neither true nor false",
		"rotations?a=%zz":                  "query is malformed",
		"alerts?kind=drfit":                "kind is none of unconfirmed, ",
		"alerts?kind=":                     "kind is none of unconfirmed, ",
		"rotations?limit=x&live=x&foo=%20": "limit is not",
	} {
		a := n.ask(t, "GET", "/api/v1/"+path, goodToken, "")
		if a.status != 400 || !strings.Contains(a.body, detail) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	n := start(t, newMemory(), nil)
	for _, path := range []string{"/", "/nope", "/api/v1", "/api/v1/nope", "/api/v2/secrets", "/api/v1//secrets", "/api/v1/secrets/", "/metrics"} {
		if a := n.ask(t, "GET", path, goodToken, ""); a.status != 404 {
			t.Errorf("%s: %d", path, a.status)
		} else {
			a.problem(t)
		}
	}
	for request, allow := range map[string]string{
		"DELETE /api/v1/secrets/a":     "GET, HEAD",
		"GET /api/v1/secrets/a/rotate": "POST",
		"PUT /api/v1/tokens":           "GET, HEAD, POST",
		"OPTIONS /api/v1/tokens/k1":    "DELETE",
		"BREW /healthz":                "GET, HEAD",
	} {
		method, path, _ := strings.Cut(request, " ")
		a := n.ask(t, method, path, goodToken, "")
		if a.status != 405 || a.header.Get("Allow") != allow {
			t.Errorf("%s: %d, Allow %q", request, a.status, a.header.Get("Allow"))
			continue
		}
		a.problem(t)
	}
	if a := n.ask(t, "HEAD", "/api/v1/secrets/payments%2Fstripe", goodToken, ""); a.status != 200 || a.body != "" {
		t.Errorf("HEAD: %+v", a)
	}
	want := []string{"GET unmatched 404", "OTHER /healthz 405", "DELETE /api/v1/secrets/{name} 405"}
	for _, w := range want {
		if w == "GET unmatched 404" {
			w = "unmatched 404"
		}
		if !slices.Contains(n.observed(), w) {
			t.Errorf("%q was not observed in %q", w, n.observed())
		}
	}
	for _, o := range n.observed() {
		if strings.Contains(o, "payments") {
			t.Errorf("a metric holds a name: %s", o)
		}
	}
}

func TestCheckKey(t *testing.T) {
	n := start(t, newMemory(), nil)
	c := n.client(t, "")
	got, err := c.CheckKey(t.Context(), canary)
	if err != nil || !got.Active || got.Secret != "payments/stripe" || got.Version != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := c.CheckKey(t.Context(), "wrong"); err != nil || got != (client.KeyCheck{}) {
		t.Errorf("%+v, %v", got, err)
	}
	if a := n.ask(t, "POST", "/api/v1/keys/check", canary, ""); a.status != 200 || !strings.Contains(a.body, `"active":true`) {
		t.Errorf("as bearer: %+v", a)
	}
	for _, key := range []string{"", "wrong"} {
		a := n.ask(t, "POST", "/api/v1/keys/check", key, "")
		a.problem(t)
		if a.status != 401 || !strings.Contains(a.body, `"active":false`) || a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("key %q: %+v", key, a)
		}
	}
	n.fail = backends.ErrUnavailable
	if a := n.ask(t, "POST", "/api/v1/keys/check", canary, ""); a.status != 503 {
		t.Errorf("unavailable: %+v", a)
	}
}

func TestHealth(t *testing.T) {
	n := start(t, newMemory(), func(c *httpapi.Config) {
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "up 1") })
	})
	if a := n.ask(t, "GET", "/healthz", "", ""); a.status != 200 {
		t.Errorf("%+v", a)
	}
	for token, want := range map[string]int{goodToken: 200, otherToken: 403, "": 401} {
		if a := n.ask(t, "GET", "/metrics", token, ""); a.status != want || want == 200 && a.body != "up 1" {
			t.Errorf("metrics for %q: %+v", token, a)
		}
	}
	if a := n.ask(t, "GET", "/readyz", "", ""); a.status != 200 || a.body != `{"ready":true,"problems":[]}` {
		t.Errorf("%+v", a)
	}
	n.readied = []string{"backend prod: connection refused"}
	if a := n.ask(t, "GET", "/readyz", "", ""); a.status != 503 || !strings.Contains(a.body, "connection refused") {
		t.Errorf("%+v", a)
	}
}

func TestPanicIsAnInternalError(t *testing.T) {
	for _, test := range []struct {
		value any
		logs  string
	}{
		{canary, "a string"},
		{errors.New(canary), "a *errors.errorString"},
	} {
		m := newMemory()
		m.panic = test.value
		n := start(t, m, nil)
		a := n.ask(t, "GET", "/api/v1/secrets", goodToken, "")
		if a.problem(t); a.status != 500 {
			t.Errorf("%d", a.status)
		}
		if log := n.log.String(); !strings.Contains(log, test.logs) || strings.Contains(log+a.body, canary) {
			t.Errorf("log: %s\nbody: %s", log, a.body)
		}
		if !slices.Contains(n.observed(), "GET /api/v1/secrets 500") {
			t.Errorf("observed %q", n.observed())
		}
	}
}

// The canary stands in the token, in a value, in a key and in a body. Whatever
// fails, neither log nor answer repeats it.
func TestSecretsAreNotRepeated(t *testing.T) {
	m := newMemory()
	n := start(t, m, nil)
	var answers strings.Builder
	note := func(a answer) { fmt.Fprintln(&answers, a) }
	for _, fail := range []error{nil, backends.ErrDenied, backends.ErrUnavailable, errors.New("surprise")} {
		m.fail = fail
		note(n.ask(t, "GET", "/api/v1/secrets", canary, ""))
		note(n.ask(t, "POST", "/api/v1/keys/check", "", `{"key": "`+canary+`"}`))
		note(n.ask(t, "POST", "/api/v1/keys/check", "", `{"key": ["`+canary+`"]}`))
		note(n.ask(t, "POST", "/api/v1/keys/check", "", `{"key": "`+canary))
		note(n.ask(t, "GET", "/api/v1/secrets?limit="+canary, goodToken, ""))
		if fail != nil {
			note(n.ask(t, "GET", "/api/v1/secrets/payments%2Fstripe/value", goodToken, ""))
		} else {
			n.ask(t, "GET", "/api/v1/secrets/payments%2Fstripe/value", goodToken, "")
		}
	}
	if all := answers.String() + n.log.String(); strings.Contains(all, canary) {
		t.Errorf("the canary came out:\n%s", all)
	}
}

func TestPagesAreWalked(t *testing.T) {
	c := start(t, newMemory(), nil).client(t, goodToken)
	var names []string
	for s, err := range client.All(func(after string) (client.List[client.Secret], error) {
		return c.Secrets(context.Background(), client.SecretQuery{Page: client.Page{After: after}})
	}) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, s.Name)
	}
	if !slices.Equal(names, []string{"payments/stripe"}) {
		t.Errorf("%q", names)
	}
}

func TestEmptyListIsAnArray(t *testing.T) {
	a := start(t, newMemory(), nil).ask(t, "GET", "/api/v1/secrets?prefix=nope", goodToken, "")
	if a.body != `{"items":[]}` {
		t.Errorf("%s", a.body)
	}
}

// A body that does not arrive is never answered by a success.
func TestABodyThatEndsInItsMiddle(t *testing.T) {
	n := startWith(t, newMemory(), nil, func(srv *http.Server) { srv.ReadTimeout = 200 * time.Millisecond })
	for name, half := range map[string]bool{"half closed": true, "stalled": false} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /api/v1/secrets/payments%%2Fstripe/emergency HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", goodToken)
		if half {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
		answer, _ := io.ReadAll(conn)
		_ = conn.Close()
		if strings.HasPrefix(string(answer), "HTTP/1.1 2") {
			t.Errorf("%s: %.60q", name, answer)
		}
	}
}
