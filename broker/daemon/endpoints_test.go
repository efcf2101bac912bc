package daemon_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/broker/authn/oidcserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/httpapi"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// call is how an endpoint is asked about the one secret that there is. Which answer a
// caller is to get is computed from what the endpoint declares, in wanted.
type call struct {
	path string // instead of the pattern, where that has names
	body string // that would change something; who may not is sent away with it
	// inert is sent instead by who may: it comes as far, and changes as little as
	// possible.
	inert  string
	ok     []int               // statuses of who may, if another than Endpoint.Status
	also   []policy.Capability // that it takes besides, as Access.Also says
	tenant bool                // what it is about belongs to the secret's tenant
	walled bool                // what it is about is of all environments: who is bound to one is refused
	nobody bool                // what it is about is of no environment: who is bound to one does not reach it
	shows  string              // in a list: what is there for who may see it, and for nobody else
	proven int                 // status of who has a certificate and no token, if it needs one
	last   int                 // what it does changes what others would be answered: it is asked after those of less
}

// TestEveryEndpoint asks every endpoint with every capability, and as every kind of
// caller, and wants the answer that follows from what it declares. Where that is a
// refusal, nothing must have changed.
func TestEveryEndpoint(t *testing.T) {
	t.Parallel()
	w := newSurface(t)
	endpoints := httpapi.Endpoints()
	for _, e := range endpoints {
		if _, ok := w.calls[e.Method+" "+e.Pattern]; !ok {
			t.Errorf("%s %s is not in the table: say how it is asked", e.Method, e.Pattern)
		}
	}
	if len(w.calls) != len(endpoints) {
		t.Errorf("the table has %d endpoints, the API %d", len(w.calls), len(endpoints))
	}
	if t.Failed() {
		t.FailNow()
	}
	var refused, allowed int
	for _, e := range endpoints {
		before := w.state()
		for _, h := range slices.Concat(w.holders, w.capable[pathOfAccess(e)]) {
			if want := w.wanted(e, h); len(want) == 1 && want[0] >= 400 && !w.mayAsk(e, h) {
				refused++
				w.ask(e, h, w.call(e).body, want)
			}
		}
		for what, after := range w.state() {
			if before[what] != after {
				t.Errorf("%s %s: those who were refused have changed %s:\n%s\n%s", e.Method, e.Pattern, what, before[what], after)
			}
		}
	}
	slices.SortStableFunc(endpoints, func(a, b httpapi.Endpoint) int { return w.call(a).last - w.call(b).last })
	for _, e := range endpoints {
		for _, h := range slices.Concat(w.holders, w.capable[pathOfAccess(e)]) {
			if !w.mayAsk(e, h) {
				continue
			}
			body := w.call(e).inert
			if body == "" {
				body = w.call(e).body
			}
			allowed++
			w.ask(e, h, body, w.wanted(e, h))
		}
	}
	if refused < 1000 || allowed < 300 {
		t.Errorf("only %d were refused and %d let in", refused, allowed)
	}
	t.Logf("%d endpoints, %d refusals, %d that were let in", len(endpoints), refused, allowed)
}

const (
	onlySecret   = "app/key"
	onlyTrigger  = "ci"
	onlyConsumer = "app"
	onlyIncident = "00000000-0000-4000-8000-000000000001"
)

// pathOfAccess is what policies are asked about for e; empty: nothing.
func pathOfAccess(e httpapi.Endpoint) string {
	if e.Access.Path == httpapi.Secret {
		return onlySecret
	}
	return strings.NewReplacer("{trigger}", onlyTrigger, "consumers/{name}", "consumers/"+onlyConsumer, "quarantine/{kind}/{name}", "quarantine/consumer/"+onlyConsumer,
		"incidents/{id}", "incidents/"+onlyIncident).Replace(e.Access.Path)
}

// holder is somebody who calls.
type holder struct {
	name        string
	token       string
	http        *http.Client
	stranger    bool // is to be refused as one
	certificate bool // has no token
	tenant      string
	environment string
	may         func(path string, c policy.Capability) bool
}

// reaches tells whether the secret is within the walls that h is in.
func (h holder) reaches() bool {
	return (h.tenant == "" || h.tenant == "acme") && (h.environment == "" || h.environment == "production")
}

func anything(string, policy.Capability) bool { return true }

// almost is what an administrator would have, but for the one thing that would end the
// root token.
func almost(path string, c policy.Capability) bool {
	return path != "sys/tokens" || c != policy.Delete
}

// surface is a site with one secret, and all who may be interested in it.
type surface struct {
	*site
	t       *testing.T
	n       *node
	calls   map[string]call
	holders []holder
	capable map[string][]holder // by path: with one capability, there and everywhere else
	plain   *http.Client
	from    atomic.Int64
}

func (w *surface) call(e httpapi.Endpoint) call { return w.calls[e.Method+" "+e.Pattern] }

// granted tells whether h has what e takes.
func (w *surface) granted(e httpapi.Endpoint, h holder) bool {
	path := pathOfAccess(e)
	may := func(c policy.Capability) bool { return h.may(path, c) }
	return slices.ContainsFunc(e.Access.AnyOf, may) && !slices.ContainsFunc(w.call(e).also, func(c policy.Capability) bool { return !may(c) })
}

// wanted are the statuses of which h is to get one, by what e declares of itself.
func (w *surface) wanted(e httpapi.Endpoint, h holder) []int {
	c, a := w.call(e), e.Access
	ok := c.ok
	if ok == nil {
		ok = []int{e.Status}
	}
	switch {
	case a.Public:
		return ok
	case h.stranger:
		return []int{http.StatusUnauthorized}
	case c.proven != 0 && h.certificate:
		return []int{c.proven}
	case a.Path == "":
		return ok
	case a.Path == httpapi.Secret:
		return w.wantedOfSecret(e, h, ok)
	case a.Hides && !strings.Contains(e.Pattern, "{"):
		return ok // a list leaves out what is not seen
	case a.Hides:
		return w.wantedOfIncident(e, h, ok)
	case !w.granted(e, h), a.Unbound && h.tenant != "", c.walled && h.environment != "":
		return []int{http.StatusForbidden}
	case c.tenant && !h.reaches(), c.nobody && h.environment != "" && c.shows == "":
		return []int{http.StatusNotFound}
	}
	return ok
}

func (w *surface) wantedOfSecret(e httpapi.Endpoint, h holder, ok []int) []int {
	sees := h.reaches() && (h.may(onlySecret, policy.List) || h.may(onlySecret, policy.Read))
	switch {
	case !strings.Contains(e.Pattern, "{"):
		return ok // a list leaves out what is not seen
	case e.Access.Hides && !h.reaches(), e.Access.Hides && !sees && !w.granted(e, h):
		return []int{http.StatusNotFound}
	case !w.granted(e, h):
		return []int{http.StatusForbidden}
	case !h.reaches():
		return []int{http.StatusNotFound}
	}
	return ok
}

// wantedOfIncident is for the incident of the tenant, which the root token declared.
func (w *surface) wantedOfIncident(e httpapi.Endpoint, h holder, ok []int) []int {
	reaches := h.environment == "" && h.reaches()
	switch {
	case !reaches, !h.may(pathOfAccess(e), policy.Read) && !w.granted(e, h):
		return []int{http.StatusNotFound}
	case !w.granted(e, h):
		return []int{http.StatusForbidden}
	}
	return ok
}

// mayAsk tells whether e does for h what it is for.
func (w *surface) mayAsk(e httpapi.Endpoint, h holder) bool {
	want, ok := w.wanted(e, h), w.call(e).ok
	if ok == nil {
		ok = []int{e.Status}
	}
	return slices.Equal(want, ok) && (e.Access.Public || !h.stranger)
}

// ask sends one request, and looks at the answer.
func (w *surface) ask(e httpapi.Endpoint, h holder, body string, want []int) {
	w.t.Helper()
	c := w.call(e)
	path := c.path
	if path == "" {
		path = e.Pattern
	}
	status, answer := w.send(h, e.Method, path, body, "")
	what := fmt.Sprintf("%s %s as %s", e.Method, e.Pattern, h.name)
	if !slices.Contains(want, status) {
		w.t.Errorf("%s: %d, want %v: %s", what, status, want, answer)
		return
	}
	if status >= 400 {
		if h.token != "" && strings.Contains(answer, h.token) {
			w.t.Errorf("%s: the answer has the token", what)
		}
		return
	}
	if c.shows == "" {
		return
	}
	visible := h.reaches() && !(c.nobody && h.environment != "")
	if e.Access.Hides {
		visible = visible && w.granted(e, h)
	}
	if strings.Contains(answer, c.shows) != visible {
		w.t.Errorf("%s: visible is to be %v: %s", what, visible, answer)
	}
}

// send asks from an address that nobody has called from before, unless it is given:
// many failures from one would be slowed down.
func (w *surface) send(h holder, method, path, body, from string) (int, string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	var text io.Reader
	if body != "" {
		text = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://"+w.addr+path, text)
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if h.token != "" {
		r.Header.Set("Authorization", "Bearer "+h.token)
	}
	if from == "" {
		n := w.from.Add(1)
		from = fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255)
	}
	r.Header.Set("X-Forwarded-For", from)
	resp, err := h.http.Do(r)
	if err != nil {
		w.t.Fatalf("%s %s as %s: %v", method, path, h.name, err)
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	if _, err := io.Copy(&answer, resp.Body); err != nil {
		w.t.Fatalf("%s %s as %s: %v", method, path, h.name, err)
	}
	return resp.StatusCode, answer.String()
}

// moving are what changes by itself.
var moving = []string{"last_used_at", "compared_at", "synced_at", "next_at", "last_at", "count", "text", "notices"}

// state is all that the root token sees, but for what moves by itself.
func (w *surface) state() map[string]string {
	w.t.Helper()
	root := w.holders[0]
	all := map[string]string{}
	for _, path := range []string{"secrets", "rotations", "retirements", "deliveries", "drift?all=true", "orphans", "tokens?limit=1000", "alerts?all=true", "sys/freeze", "quarantine", "incidents", "incidents/" + onlyIncident, "seal", "storage"} {
		status, answer := w.send(root, http.MethodGet, "/api/v1/"+path, "", "")
		if status != http.StatusOK {
			w.t.Fatalf("looking at %s: %d %s", path, status, answer)
		}
		all[path] = still(w.t, answer)
	}
	return all
}

// still is a JSON text without what moves by itself.
func still(t testing.TB, text string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	var strip func(any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			maps.DeleteFunc(v, func(k string, _ any) bool { return slices.Contains(moving, k) })
			for _, inner := range v {
				strip(inner)
			}
		case []any:
			for _, inner := range v {
				strip(inner)
			}
		}
	}
	strip(v)
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

const surfaceHCL = `
listener "tcp" {
  address         = "ADDR"
  tls_cert_file   = "CERT"
  tls_key_file    = "KEY"
  trusted_proxies = ["127.0.0.1/32"]
}
tenant "acme" {}
tenant "globex" {}
backend "local" "embedded" {
  environments = ["production"]
}
issuer "api_key" "internal" {}
probe "http" "internal" {
  method                = "POST"
  url                   = "https://ADDR/api/v1/keys/check"
  headers               = { Authorization = "Bearer ${field.key}" }
  ca_file               = "SERVER_CA"
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}
rotation_policy "quick" {
  match {
    paths = ["*"]
  }
  overlap = "1s"
  verify {
    successes = 1
    interval  = "50ms"
  }
  confirm {
    rejections = 2
    window     = "100ms"
  }
  limits {
    plain_payload = true
  }
}
trigger "api" "ci" {
  action  = "rotate"
  secrets = ["app/*"]
}
secret "app/byhand" {
  tenant  = "acme"
  backend = "embedded"
  labels  = { environment = "production" }
}
secret "app/key" {
  tenant    = "acme"
  backend   = "embedded"
  probe     = "internal"
  consumers = ["app"]
  labels    = { environment = "production" }
  issuer "internal" {}
}
consumer "app" {
  tenant = "acme"
  webhook {
    url                   = "CONSUMER"
    payload               = "plain"
    allow_private_network = true
    signing_secret        = env("SIGNING_SECRET")
  }
}
notifier "log" "console" {
  tenant = "acme"
}
auth "oidc" "corp" {
  discovery_url         = "ISSUER"
  client_id             = "keybroker"
  bound_audiences       = ["keybroker", "` + oidcserver.Audience + `"]
  allow_private_network = true
}
auth "mtls" "mesh" {
  ca_file = "MESH_CA"
}
role "operator" {
  policies = ["almost"]
  bind "corp" {
    claims = { groups = "dev" }
  }
  bind "mesh" {
    spiffe_id = "spiffe://example.com/app"
  }
}
role "staging" {
  environment = "staging"
  policies    = ["everything"]
}
role "production" {
  environment = "production"
  policies    = ["everything"]
}
role "safe" {
  policies = ["almost"]
}
role "acme-safe" {
  tenant   = "acme"
  policies = ["everything"]
}
`

const leavingRole = `
role "leaving" {
  policies = ["almost"]
}
`

// newSurface starts a node whose one secret was rotated twice, so that there is one of
// everything, and makes the callers.
func newSurface(t *testing.T) *surface {
	t.Helper()
	provider := oidcserver.New(t, nil)
	mesh, server := certtest.New(t, "mesh", nil), certtest.New(t, "server", nil)
	shown := server.Client(func(c *x509.Certificate) {
		c.IPAddresses, c.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	certFile, keyFile := certtest.Files(t, shown)
	secret := newSigningSecret()
	policies, names := surfacePolicies()
	ca := certtest.File(t, server)
	s := newSite(t, "")
	s.hcl = strings.NewReplacer("ADDR", s.addr, "CERT", certFile, "KEY", keyFile, "SERVER_CA", ca, "MESH_CA", certtest.File(t, mesh),
		"CONSUMER", newConsumer(t, secret).url, "ISSUER", provider.Issuer).Replace(surfaceHCL) + policies
	s.env["SIGNING_SECRET"] = secret.Reveal()
	kept := s.hcl
	s.hcl += leavingRole
	n := s.start()
	w := &surface{site: s, t: t, n: n, capable: map[string][]holder{}}
	w.plain = w.client(server, nil)
	own, err := client.New("https://"+s.addr, s.rootToken(), client.Options{CAFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	n.Client = own
	n.done(t, "acme:app/key", "acme:app/key")
	n.told(t)

	certified := w.client(server, mesh)
	w.holders = append(w.holders, holder{name: "the root token", token: s.rootToken(), http: w.plain, may: anything})
	made := w.makeHolders(provider, certified)
	s.hcl = kept
	n.reload(t) // the role that is leaving has left
	for path, byCapability := range names {
		for c, name := range byCapability {
			w.capable[path] = append(w.capable[path], w.capability(path, c, name)...)
		}
	}
	w.calls = w.table(made)
	return w
}

// told waits until every delivery has arrived, or came to nothing.
func (n *node) told(t testing.TB) {
	t.Helper()
	eventually(t, "consumers that know all", func() bool {
		waiting, err := n.Deliveries(t.Context(), client.DeliveryQuery{State: client.DeliveryPending})
		return err == nil && len(waiting.Items) == 0
	})
}

// client is one that knows the server, and may show a certificate of its own.
func (w *surface) client(server, mesh *certtest.Authority) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(server.Cert)
	cfg := &tls.Config{RootCAs: pool}
	if mesh != nil {
		cfg.Certificates = []tls.Certificate{mesh.Client(withURI("spiffe://example.com/app"))}
	}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// surfacePolicies has, for every path that endpoints ask about and every capability,
// one policy that grants it there, and one that grants it everywhere else.
func surfacePolicies() (hcl string, names map[string]map[policy.Capability]string) {
	var b strings.Builder
	rule := func(path string, all ...policy.Capability) string {
		var quoted []string
		for _, c := range all {
			quoted = append(quoted, fmt.Sprintf("%q", c))
		}
		return fmt.Sprintf("  path %q {\n    capabilities = [%s]\n  }\n", path, strings.Join(quoted, ", "))
	}
	write := func(name string, rules ...string) {
		fmt.Fprintf(&b, "policy %q {\n%s}\n", name, strings.Join(rules, ""))
	}
	granting := slices.DeleteFunc(policy.Capabilities(), func(c policy.Capability) bool { return c == policy.Deny })
	write("everything", rule("*", granting...), rule("sys/*", granting...))
	write("almost", rule("*", granting...), rule("sys/*", granting...),
		rule("sys/tokens", slices.DeleteFunc(slices.Clone(granting), func(c policy.Capability) bool { return c == policy.Delete })...))
	names = map[string]map[policy.Capability]string{}
	for _, e := range httpapi.Endpoints() {
		path := pathOfAccess(e)
		if path == "" || names[path] != nil {
			continue
		}
		names[path] = map[policy.Capability]string{}
		for _, c := range policy.Capabilities() {
			name := fmt.Sprintf("%s-%s", policyOf(path), c)
			names[path][c] = name
			write(name, rule(path, c))
			if c != policy.Deny { // but there
				write("but-"+name, rule("*", c), rule("sys/*", c), rule(path, policy.Deny))
			}
		}
		write("all-"+policyOf(path), rule(path, granting...))
	}
	return b.String(), names
}

// policyOf is a path in the names of policies.
func policyOf(path string) string {
	return strings.NewReplacer("/", "-", onlyIncident, "one").Replace(path)
}

// capability are who has one capability on one path, who has it everywhere else, and
// who has everything there with a deny.
func (w *surface) capability(path string, c policy.Capability, name string) []holder {
	with := func(policies string, may func(string, policy.Capability) bool) holder {
		tok := w.token(client.CreateTokenRequest{Policies: strings.Fields(policies)})
		return holder{name: "who has " + policies, token: tok.Token.Reveal(), http: w.plain, may: may}
	}
	if c == policy.Deny {
		never := func(string, policy.Capability) bool { return false }
		return []holder{with(name, never), with("all-"+policyOf(path)+" "+name, never)}
	}
	return []holder{
		with(name, func(on string, asked policy.Capability) bool { return on == path && asked == c }),
		with("but-"+name, func(on string, asked policy.Capability) bool { return on != path && asked == c }),
	}
}

func (w *surface) token(r client.CreateTokenRequest) client.Token {
	w.t.Helper()
	if r.Name == "" {
		r.Name = "test"
	}
	return must(w.n.CreateToken(w.t.Context(), r))(w.t)
}

// things are what the endpoints with ids are asked about.
type things struct{ rotation, retirement, delivery, token, alert, event, key string }

// makeHolders makes a caller of every kind.
func (w *surface) makeHolders(provider *oidcserver.Server, certified *http.Client) things {
	w.t.Helper()
	ctx := w.t.Context()
	everything := client.CreateTokenRequest{Policies: []string{"everything"}}
	add := func(h holder) {
		if h.http == nil {
			h.http = w.plain
		}
		w.holders = append(w.holders, h)
	}
	with := func(edit func(*client.CreateTokenRequest)) client.Token {
		r := everything
		edit(&r)
		return w.token(r)
	}
	stranger := func(name, token string) { add(holder{name: name, token: token, stranger: true}) }

	stranger("nobody", "")
	stranger("who has an unknown token", "kbt_"+strings.Repeat("a", 40))
	stranger("who has no token at all", "Zm9vYmFy")
	revoked := w.token(everything)
	must(w.n.RevokeToken(ctx, revoked.ID))(w.t)
	stranger("who has a revoked token", revoked.Token.Reveal())
	stranger("who has an expired token", with(func(r *client.CreateTokenRequest) { r.TTL = "1ms" }).Token.Reveal())
	idle := w.token(everything)
	w.unused(idle.ID, 25*time.Hour)
	stranger("who has not used the token for a day", idle.Token.Reveal())
	used := with(func(r *client.CreateTokenRequest) { r.Uses = 1 })
	elsewhere := with(func(r *client.CreateTokenRequest) { r.CIDRs = []string{"192.0.2.0/24"} })
	for _, once := range []client.Token{used, elsewhere} { // it is good where and when it is good
		if status, answer := w.send(holder{token: once.Token.Reveal(), http: w.plain}, http.MethodGet, "/api/v1/secrets", "", "192.0.2.7"); status != http.StatusOK {
			w.t.Fatalf("%d %s", status, answer)
		}
	}
	stranger("who has a used-up token", used.Token.Reveal())
	stranger("who has a token of other addresses", elsewhere.Token.Reveal())
	parent := w.token(everything)
	child := must(w.nodeOf(parent).CreateToken(ctx, client.CreateTokenRequest{Name: "child", Policies: []string{"everything"}}))(w.t)
	must(w.n.RevokeToken(ctx, parent.ID))(w.t)
	stranger("whose token's parent was revoked", child.Token.Reveal())
	stranger("whose role is gone", w.token(client.CreateTokenRequest{Role: "leaving"}).Token.Reveal())

	add(holder{name: "who may do everything", token: w.token(everything).Token.Reveal(), may: anything})
	acme := with(func(r *client.CreateTokenRequest) { r.Tenant = "acme" })
	add(holder{name: "who may do everything in the tenant", token: acme.Token.Reveal(), tenant: "acme", may: anything})
	add(holder{name: "who may do everything in another tenant", token: with(func(r *client.CreateTokenRequest) { r.Tenant = "globex" }).Token.Reveal(), tenant: "globex", may: anything})
	for _, environment := range []string{"staging", "production"} {
		add(holder{name: "who is bound to " + environment, token: w.token(client.CreateTokenRequest{Role: environment}).Token.Reveal(), environment: environment, may: anything})
	}
	add(holder{name: "who shows a certificate", http: certified, certificate: true, may: almost})
	in := client.LoginRequest{JWT: client.SecretText(provider.Sign(w.t, claims("dev")))}
	add(holder{name: "who logged in by a JWT", token: must(w.n.LogIn(ctx, "corp", in))(w.t).Token.Reveal(), may: almost})
	safe := w.token(client.CreateTokenRequest{Role: "safe", BreakGlass: true})
	add(holder{name: "who broke the glass", token: safe.Token.Reveal(), may: almost})

	// Their use raises alerts, one of which is the tenant's.
	must(w.nodeOf(safe).OwnToken(ctx))(w.t)
	acmeSafe := w.token(client.CreateTokenRequest{Role: "acme-safe", BreakGlass: true})
	must(w.nodeOf(acmeSafe).OwnToken(ctx))(w.t)
	victim := must(w.nodeOf(acme).CreateToken(ctx, client.CreateTokenRequest{Name: "victim", Policies: []string{"everything"}}))(w.t)
	found := things{token: victim.ID, key: w.n.value(w.t, "app/key").Fields["key"],
		rotation:   must(w.n.Rotations(ctx, client.RotationQuery{}))(w.t).Items[0].ID,
		retirement: must(w.n.Retirements(ctx, client.RetirementQuery{}))(w.t).Items[0].ID,
		delivery:   must(w.n.Deliveries(ctx, client.DeliveryQuery{Event: string(rotation.EventRotated)}))(w.t).Items[0].ID}
	for _, a := range must(w.n.Alerts(ctx, client.AlertQuery{}))(w.t).Items {
		if a.Tenant == "acme" {
			found.alert = a.ID
		}
	}
	if _, err := w.nodeOf(acme).Event(ctx, onlyTrigger, client.EventRequest{ID: "first", Secret: "app/byhand", Reason: "test"}); client.Status(err) != http.StatusBadRequest {
		w.t.Fatalf("an event for what nobody rotates: %v", err)
	}
	found.event = must(w.n.InboundEvents(ctx, client.InboundEventQuery{}))(w.t).Items[0].ID
	// An incident that turns nothing off: what it is about is dead.
	w.n.allButCurrentAreDead(w.t, "acme:app/key")
	must(w.n.DeclareIncident(ctx, client.IncidentRequest{ID: onlyIncident, Reason: "test", Selector: client.Selector{Names: []string{"acme:app/key"}, Versions: []int{1}}}))(w.t)
	return found
}

// nodeOf is a client that holds a token.
func (w *surface) nodeOf(tok client.Token) *client.Client {
	w.t.Helper()
	cfg := w.plain.Transport.(*http.Transport)
	c, err := client.New("https://"+w.addr, tok.Token.Reveal(), client.Options{Transport: cfg})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// unused has a token lie around for a while.
func (w *surface) unused(id string, since time.Duration) {
	w.t.Helper()
	res, err := w.database(w.t).ExecContext(w.t.Context(), "UPDATE tokens SET created_at = created_at - ? WHERE id = ? AND last_used_at IS NULL", since.Microseconds(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	if n, err := res.RowsAffected(); n != 1 || err != nil {
		w.t.Fatalf("%d tokens, %v", n, err)
	}
}

// table says how every endpoint is asked.
func (w *surface) table(x things) map[string]call {
	const api, reason, dry = "/api/v1/", `{"reason":"test"}`, `{"reason":"test","dry_run":true}`
	secret, incident := api+"secrets/app%2Fkey", api+"incidents/"+onlyIncident
	update := []policy.Capability{policy.Update}
	over := []int{http.StatusConflict} // of what has ended already
	return map[string]call{
		"GET /api/v1/secrets":                       {shows: onlySecret},
		"GET /api/v1/secrets/{name}":                {path: secret},
		"GET /api/v1/secrets/{name}/value":          {path: secret + "/value"},
		"GET /api/v1/secrets/{name}/plan":           {path: secret + "/plan"},
		"GET /api/v1/secrets/{name}/consumers":      {path: secret + "/consumers"},
		"POST /api/v1/secrets/{name}/rotate":        {path: secret + "/rotate", body: reason, ok: []int{202, 409}, last: 1},
		"POST /api/v1/secrets/{name}/revoke":        {path: secret + "/revoke", body: `{"version":1,"reason":"test"}`},
		"POST /api/v1/secrets/{name}/emergency":     {path: secret + "/emergency", body: reason, inert: "{}", ok: []int{400}},
		"POST /api/v1/secrets/{name}/pause":         {path: secret + "/pause", body: reason},
		"POST /api/v1/secrets/{name}/resume":        {path: secret + "/resume"},
		"POST /api/v1/secrets/{name}/repair":        {path: secret + "/repair", body: reason, inert: dry},
		"POST /api/v1/secrets/{name}/import":        {path: secret + "/import", body: reason, inert: dry, also: update, ok: over},
		"POST /api/v1/secrets/{name}/drift/check":   {path: secret + "/drift/check", body: reason},
		"POST /api/v1/secrets/{name}/drift/restore": {path: secret + "/drift/restore", body: `{"backend":"embedded","reason":"test"}`, inert: `{"backend":"embedded","dry_run":true}`, also: update, ok: over},
		"POST /api/v1/secrets/{name}/drift/adopt":   {path: secret + "/drift/adopt", body: `{"backend":"embedded","reason":"test"}`, inert: `{"backend":"embedded","dry_run":true}`, ok: over},
		"GET /api/v1/plans":                         {shows: onlySecret},
		"GET /api/v1/drift":                         {path: api + "drift?all=true", shows: onlySecret},

		"GET /api/v1/rotations":                   {shows: onlySecret},
		"GET /api/v1/rotations/{id}":              {path: api + "rotations/" + x.rotation},
		"GET /api/v1/rotations/{id}/events":       {path: api + "rotations/" + x.rotation + "/events"},
		"POST /api/v1/rotations/{id}/cancel":      {path: api + "rotations/" + x.rotation + "/cancel", body: reason, inert: dry, ok: over},
		"POST /api/v1/rotations/{id}/retry":       {path: api + "rotations/" + x.rotation + "/retry", body: reason, inert: dry, ok: over},
		"POST /api/v1/rotations/{id}/approve":     {path: api + "rotations/" + x.rotation + "/approve", body: reason, inert: dry, ok: over},
		"POST /api/v1/rotations/{id}/rollback":    {path: api + "rotations/" + x.rotation + "/rollback", body: reason, inert: dry, ok: over},
		"POST /api/v1/rotations/{id}/value":       {path: api + "rotations/" + x.rotation + "/value", body: `{"fields":{"key":"x"},"reason":"test"}`, ok: over},
		"GET /api/v1/retirements":                 {shows: onlySecret},
		"GET /api/v1/retirements/{id}":            {path: api + "retirements/" + x.retirement},
		"GET /api/v1/retirements/{id}/events":     {path: api + "retirements/" + x.retirement + "/events"},
		"POST /api/v1/retirements/{id}/probe":     {path: api + "retirements/" + x.retirement + "/probe", body: reason, inert: dry, ok: []int{200, 409}},
		"POST /api/v1/retirements/{id}/done":      {path: api + "retirements/" + x.retirement + "/done", body: reason, inert: dry, ok: over},
		"GET /api/v1/orphans":                     {},
		"GET /api/v1/deliveries":                  {shows: onlySecret},
		"GET /api/v1/deliveries/{id}":             {path: api + "deliveries/" + x.delivery},
		"POST /api/v1/deliveries/{id}/ack":        {path: api + "deliveries/" + x.delivery + "/ack", body: fmt.Sprintf(`{"generation":2,"fingerprint":%q}`, rotation.Fingerprint(x.delivery, backends.NewValue(map[string]string{"key": x.key})))},
		"POST /api/v1/deliveries/{id}/replay":     {path: api + "deliveries/" + x.delivery + "/replay", body: reason, inert: dry},
		"POST /api/v1/events/{trigger}":           {path: api + "events/" + onlyTrigger, body: `{"id":"1","secret":"app/key","reason":"test"}`, inert: `{"secret":"app/key"}`, ok: []int{400}, tenant: true},
		"POST /api/v1/hooks/{trigger}":            {path: api + "hooks/" + onlyTrigger, body: "{}", ok: []int{401}}, // it takes no requests of that kind
		"GET /api/v1/events":                      {shows: x.event, walled: true},
		"GET /api/v1/events/received/{id}":        {path: api + "events/received/" + x.event, tenant: true, walled: true},
		"POST /api/v1/events/received/{id}/apply": {path: api + "events/received/" + x.event + "/apply", body: reason, tenant: true, walled: true, ok: over},
		"GET /api/v1/triggers":                    {walled: true},
		"GET /api/v1/triggers/{trigger}":          {path: api + "triggers/" + onlyTrigger, walled: true, ok: []int{200, 404}}, // it is not of one tenant

		"GET /api/v1/consumers/{name}/inbox":           {path: api + "consumers/" + onlyConsumer + "/inbox", ok: []int{404}}, // it has none, and no role
		"GET /api/v1/consumers":                        {shows: `"name":"` + onlyConsumer + `"`, nobody: true},
		"GET /api/v1/consumers/{name}":                 {path: api + "consumers/" + onlyConsumer, tenant: true, walled: true},
		"POST /api/v1/consumers/{name}/test":           {path: api + "consumers/" + onlyConsumer + "/test", body: reason, tenant: true, walled: true},
		"POST /api/v1/consumers/{name}/enable":         {path: api + "consumers/" + onlyConsumer + "/enable", body: reason, tenant: true, walled: true},
		"POST /api/v1/consumers/{name}/rotate-signing": {path: api + "consumers/" + onlyConsumer + "/rotate-signing", body: reason, inert: `{"overlap":"soon"}`, ok: []int{400}, tenant: true, walled: true},

		"GET /api/v1/incidents":               {shows: onlyIncident, nobody: true},
		"POST /api/v1/incidents":              {body: `{"selector":{"all":true}}`, ok: []int{400}}, // without a reason
		"GET /api/v1/incidents/{id}":          {path: incident},
		"GET /api/v1/incidents/{id}/events":   {path: incident + "/events"},
		"GET /api/v1/incidents/{id}/report":   {path: incident + "/report"},
		"POST /api/v1/incidents/{id}/approve": {path: incident + "/approve", body: reason, ok: []int{403, 409}}, // it takes emergency on the secret, and waits for nobody
		"POST /api/v1/incidents/{id}/reject":  {path: incident + "/reject", body: reason, ok: over},
		"POST /api/v1/incidents/{id}/close":   {path: incident + "/close", body: reason, inert: "{}", ok: []int{400}},
		"POST /api/v1/incidents/{id}/hold":    {path: incident + "/hold", body: `{"hold":false}`, inert: `{"hold":true}`},
		"POST /api/v1/incidents/{id}/notes":   {path: incident + "/notes", body: `{"text":"test"}`, inert: "{}", ok: []int{400}},

		"POST /api/v1/offline-returns": {body: "{}", ok: []int{400}},   // without an id
		"GET /api/v1/offline-kit":      {walled: true, ok: []int{404}}, // the configuration has none

		"GET /api/v1/quarantine":       {walled: true},
		"POST /api/v1/quarantine":      {body: `{"kind":"consumer","name":"` + onlyConsumer + `","reason":"x"}`, inert: `{"kind":"consumer","name":"` + onlyConsumer + `","reason":"x","dry_run":true}`, tenant: true, walled: true},
		"POST /api/v1/quarantine/lift": {body: `{"kind":"consumer","name":"` + onlyConsumer + `","reason":"x"}`, ok: []int{404}, walled: true}, // it is in none

		"GET /api/v1/issuers":               {walled: true},
		"POST /api/v1/issuers/{name}/check": {path: api + "issuers/internal/check", body: `{"secret":"app/key"}`, inert: "{}", ok: []int{200, 422}, tenant: true, walled: true},
		"GET /api/v1/probes":                {walled: true},
		"POST /api/v1/identify":             {body: fmt.Sprintf(`{"value":%q}`, x.key), shows: onlySecret},
		"POST /api/v1/probes/{name}/run":    {path: api + "probes/internal/run", body: `{"secret":"app/key","reason":"test"}`},

		"GET /api/v1/auth":                 {},
		"POST /api/v1/auth/{method}/login": {path: api + "auth/corp/login", body: "{}", ok: []int{400}},

		"GET /api/v1/tokens":             {path: api + "tokens?limit=1000", shows: x.token, nobody: true},
		"POST /api/v1/tokens":            {body: `{"name":"mine","policies":["everything"]}`, inert: "{}", ok: []int{400}},
		"GET /api/v1/tokens/self":        {},
		"POST /api/v1/tokens/self/renew": {proven: 422},
		"DELETE /api/v1/tokens/self":     {proven: 422, last: 2},
		"DELETE /api/v1/tokens/{id}":     {path: api + "tokens/" + x.token, tenant: true, nobody: true, ok: []int{200, 409}},

		"GET /api/v1/audit":            {path: api + "audit?secret=acme:app/key", shows: onlySecret, walled: true},
		"POST /api/v1/audit/hash":      {body: `{"text":"test"}`, walled: true},
		"GET /api/v1/audit/checkpoint": {walled: true},

		"GET /api/v1/alerts":                 {shows: x.alert, walled: true},
		"GET /api/v1/alerts/{id}":            {path: api + "alerts/" + x.alert, tenant: true, walled: true},
		"POST /api/v1/alerts/{id}/ack":       {path: api + "alerts/" + x.alert + "/ack", body: reason, tenant: true, walled: true},
		"POST /api/v1/notifiers/{name}/test": {path: api + "notifiers/console/test", tenant: true, walled: true},

		"GET /api/v1/sys/freeze":       {},
		"POST /api/v1/sys/freeze":      {body: reason, inert: "{}", ok: []int{400}, walled: true},
		"POST /api/v1/sys/unfreeze":    {body: reason, ok: []int{200, 409}, walled: true},
		"POST /api/v1/sys/reload":      {inert: `{"dry_run":true}`, walled: true},
		"GET /api/v1/sys/config":       {walled: true},
		"POST /api/v1/config/plan":     {body: `{"secrets":[],"blocks":[]}`, walled: true},
		"GET /api/v1/storage":          {walled: true},
		"GET /api/v1/storage/snapshot": {walled: true},
		"GET /api/v1/seal":             {walled: true},
		"POST /api/v1/seal/rotate":     {body: reason, ok: []int{202, 409}, last: 1, walled: true},
		"POST /api/v1/seal/verify":     {walled: true},

		"POST /api/v1/keys/check": {body: fmt.Sprintf(`{"key":%q}`, x.key)},
		"GET /healthz":            {},
		"GET /readyz":             {},
		"GET /metrics":            {walled: true},
		"GET /openapi.json":       {},

		"GET /.well-known/keybroker/report-key":              {},
		"GET /.well-known/keybroker/webhook-keys/{consumer}": {path: "/.well-known/keybroker/webhook-keys/app"},
	}
}
