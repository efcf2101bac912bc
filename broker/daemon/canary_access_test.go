package daemon_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/broker/authn/oidcserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// ear keeps what a service of others is sent. What proves who sends is not kept: the
// headers, and the path, which is Slack's secret.
type ear struct {
	mu    sync.Mutex
	heard strings.Builder
}

// Write implements io.Writer.
func (e *ear) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard.Write(p)
}

func (e *ear) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard.String()
}

// overHTTP is a service that fails first, quoting all that it was sent.
func (e *ear) overHTTP(t *testing.T) (base string) {
	t.Helper()
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = e.Write(append(body, '\n'))
		if asked.Add(1) == 1 {
			echo(w, r, http.StatusInternalServerError, append([]byte(r.URL.String()), body...))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"errors":false,"items":[],"text":"Success","code":0}`)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// overTCP is a syslog server.
func (e *ear) overTCP(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(e, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() { _ = l.Close() }) // the node has closed its connections by then
	return l.Addr().String()
}

// NewSession implements smtp.Backend: e is a mail server.
func (e *ear) NewSession(*smtp.Conn) (smtp.Session, error) { return &mailing{e}, nil }

type mailing struct{ to *ear }

// Mail implements smtp.Session.
func (*mailing) Mail(string, *smtp.MailOptions) error { return nil }

// Rcpt implements smtp.Session.
func (*mailing) Rcpt(string, *smtp.RcptOptions) error { return nil }

// Data implements smtp.Session.
func (m *mailing) Data(r io.Reader) error {
	_, err := io.Copy(m.to, r)
	return err
}

// Reset implements smtp.Session.
func (*mailing) Reset() {}

// Logout implements smtp.Session.
func (*mailing) Logout() error { return nil }

func (e *ear) overSMTP(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := smtp.NewServer(e)
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		_ = srv.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

const overheard = `
listener "tcp" {
  address       = "ADDR"
  tls_cert_file = "CERT"
  tls_key_file  = "LISTENERS_FILE"

  trusted_proxies = ["127.0.0.1/32"]
}
backend "local" "embedded" {}
issuer "api_key" "internal" {}
rotation_policy "quick" {
  match {
    paths = ["*"]
  }
  overlap = "1s"
}
secret "app/key" {
  backend = "embedded"
  proof   = "none"
  issuer "internal" {}
}
auth "oidc" "corp" {
  discovery_url         = "ISSUER"
  client_id             = "keybroker"
  bound_audiences       = ["keybroker", "` + oidcserver.Audience + `"]
  name_claim            = "email"
  allow_private_network = true
}
auth "mtls" "mesh" {
  ca_file = "MESH_CA"
}
policy "using" {
  path "app/*" {
    capabilities = ["list", "read"]
  }
  path "sys/tokens" {
    capabilities = ["create"]
  }
}
role "user" {
  policies = ["using"]
  bind "corp" {
    claims = { groups = "dev" }
  }
  bind "mesh" {
    spiffe_id = "spiffe://example.com/app"
  }
}
audit "file" {
  path = "DIR/copy.jsonl"
}
audit "file" "ocsf" {
  path   = "DIR/ocsf.jsonl"
  format = "ocsf"
}
audit "syslog" {
  address               = "tcp://SYSLOG"
  allow_private_network = true
}
audit "splunk_hec" {
  url                   = "SPLUNK"
  token                 = env("SPLUNK_TOKEN")
  allow_private_network = true
}
audit "elasticsearch" {
  url                   = "ELASTIC"
  api_key               = env("ELASTIC_KEY")
  allow_private_network = true
}
audit "http" {
  url                   = "HTTP_SINK/in"
  headers               = { Authorization = env("HTTP_SECRET") }
  allow_private_network = true
}
audit "witness" {
  url                   = "WITNESS/in"
  headers               = { Authorization = env("WITNESS_SECRET") }
  allow_private_network = true
}
notifier "webhook" "pager" {
  url                   = "PAGER/hook"
  signing_secret        = env("PAGER_SECRET")
  allow_private_network = true
}
notifier "slack" "chat" {
  webhook_url           = env("SLACK_URL")
  allow_private_network = true
}
notifier "pagerduty" "duty" {
  url                   = "DUTY"
  routing_key           = env("ROUTING_KEY")
  allow_private_network = true
}
notifier "email" "mail" {
  address               = "SMTP"
  from                  = "keybroker@example.com"
  to                    = ["on-call@example.com"]
  tls                   = "none"
  allow_private_network = true
}
notifier "log" "console" {}
ALERTS
telemetry {
  secret_names = true
}
`

// overhearing is a hunt for what proves who calls, and for the broker's own keys.
type overhearing struct {
	*hunt
	n        *node
	ears     map[string]*ear
	provider *oidcserver.Server
	mesh     *certtest.Authority
	server   *x509.CertPool
	asked    atomic.Int64
	from     string // where all requests come from; empty: each from elsewhere, as failures from one address are slowed down
}

// RoundTrip implements http.RoundTripper.
func (o *overhearing) RoundTrip(r *http.Request) (*http.Response, error) {
	return o.through(&o.transport, r)
}

func (o *overhearing) through(by *http.Transport, r *http.Request) (*http.Response, error) {
	from := o.from
	if from == "" {
		from = fmt.Sprintf("10.0.%d.%d", o.asked.Add(1)>>8&255, o.asked.Load()&255)
	}
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", from)
	return o.roundTrip(by, r)
}

func (h *hunt) afterKey(what string, key any) {
	h.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		h.t.Fatal(err)
	}
	h.after(what, string(der))
	for line := range strings.Lines(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))) {
		if line = strings.TrimSpace(line); len(line) > 20 && !strings.HasPrefix(line, "-----") && !strings.HasPrefix(line, "MIGHAgEAMBMGByqGSM49") { // that says only what kind of key it is
			h.after(what+", as PEM", line)
		}
	}
}

func newOverhearing(t *testing.T) *overhearing {
	t.Helper()
	o := &overhearing{hunt: newHunt(newSite(t, "")), ears: map[string]*ear{}, provider: oidcserver.New(t, nil), mesh: certtest.New(t, "mesh", nil), server: x509.NewCertPool()}
	ca := certtest.New(t, "server", nil)
	o.server.AddCert(ca.Cert)
	shown := ca.Client(func(c *x509.Certificate) {
		c.IPAddresses, c.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	certFile, keyFile := certtest.Files(t, shown)
	o.afterKey("the listener's key", shown.PrivateKey)
	ear := func(name string) *ear {
		o.ears[name] = &ear{}
		return o.ears[name]
	}
	replace := []string{"ADDR", o.addr, "CERT", certFile, "LISTENERS_FILE", keyFile, "ISSUER", o.provider.Issuer, "MESH_CA", certtest.File(t, o.mesh), "DIR", o.dir,
		"SYSLOG\"", ear("syslog").overTCP(t) + "\"", "SMTP\"", ear("email").overSMTP(t) + "\""}
	for _, name := range []string{"SPLUNK\"", "ELASTIC\"", "HTTP_SINK", "WITNESS/", "PAGER/", "DUTY\""} {
		word := strings.Trim(name, "\"/")
		replace = append(replace, name, strings.Replace(name, word, ear(strings.ToLower(word)).overHTTP(t), 1))
	}
	var alerts strings.Builder
	for i, notifier := range []string{"pager", "chat", "duty", "mail", "console"} {
		fmt.Fprintf(&alerts, "alert \"a%d\" {\n  notifier  = %q\n  heartbeat = \"1s\"\n}\n", i, notifier)
	}
	o.hcl = strings.NewReplacer(append(replace, "ALERTS", alerts.String())...).Replace(overheard)
	o.env["SLACK_URL"] = ear("slack").overHTTP(t) + "/services/T0CANARY/slack-secret-5c8a71"
	pager := newSigningSecret().Reveal()
	for name, text := range map[string]string{"SPLUNK_TOKEN": "splunk-secret-81f6a30c", "ELASTIC_KEY": "ZWxhc3RpYy1zZWNyZXQtOTE3ZA==", "HTTP_SECRET": "Bearer http-secret-66e02b",
		"WITNESS_SECRET": "Bearer witness-secret-4d11fe", "PAGER_SECRET": pager, "ROUTING_KEY": "routing-key-secret-a2c3d4e5f6"} {
		o.env[name] = text
		o.after("the secret "+name, strings.TrimPrefix(text, "Bearer "))
	}
	o.after("Slack's secret", "slack-secret-5c8a71")
	o.adjust = func(opts *daemon.Options) { opts.LookForAlerts(50 * time.Millisecond) }
	o.opened = func(d *daemon.Daemon) {
		keys, err := d.OwnKeys(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for name, key := range keys {
			o.after("the broker's own key "+name, string(key))
		}
	}
	o.transport.TLSClientConfig = &tls.Config{RootCAs: o.server}
	o.n = o.start()
	o.after("the root token", o.rootToken())
	o.n.Client = o.holding(o.rootToken())
	return o
}

// holding is a client with a token, or with none.
func (o *overhearing) holding(token string) *client.Client {
	o.t.Helper()
	c, err := client.New("https://"+o.addr, token, client.Options{Transport: o})
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

// certifiedBy shows a certificate, which is hunted with its key.
type certifiedBy struct {
	to *overhearing
	by *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (c certifiedBy) RoundTrip(r *http.Request) (*http.Response, error) {
	return c.to.through(c.by, r)
}

func (o *overhearing) showing(c tls.Certificate) *client.Client {
	o.t.Helper()
	o.afterKey("a client's key", c.PrivateKey)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: o.server, Certificates: []tls.Certificate{c}}}
	o.t.Cleanup(tr.CloseIdleConnections)
	out, err := client.New("https://"+o.addr, "", client.Options{Transport: certifiedBy{o, tr}})
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}

// wants a request to succeed, or to be refused.
func (o *overhearing) wants(what string, status int, err error) {
	o.t.Helper()
	if client.Status(err) != status || status == 0 && err != nil {
		o.t.Errorf("%s: %v, want %d", what, err, status)
	}
}

// TestWhatProvesWhoCallsAppearsNowhere uses and abuses tokens, JWTs and certificates of
// every kind, with audit sinks and notifiers of every type, and looks for them, and for
// the broker's own keys, wherever there are traces, the receivers' ends too.
func TestWhatProvesWhoCallsAppearsNowhere(t *testing.T) {
	t.Parallel()
	o := newOverhearing(t)
	o.n.done(t, "app/key", "app/key")
	o.values(o.n, "app/key")
	o.useTokens()
	o.logIn()
	o.lookIntoTheLog()
	o.tell()
	o.askAround()
	o.flood()
	eventually(t, "all ears to hear", func() bool {
		for _, e := range o.ears {
			if e.String() == "" {
				return false
			}
		}
		return true
	})
	o.look("running")
	o.n.stop()
	o.look("stopped")
	o.listen()
}

func (o *overhearing) made(what string, r client.CreateTokenRequest, by *client.Client) client.Token {
	o.t.Helper()
	r.Name = "hunted"
	tok, err := by.CreateToken(o.t.Context(), r)
	o.wants(what, 0, err)
	o.after(what, tok.Token.Reveal())
	return tok
}

func (o *overhearing) useTokens() {
	ctx, using := o.t.Context(), []string{"using"}
	for what, tt := range map[string]struct {
		r             client.CreateTokenRequest
		first, second int
	}{
		"a plain token":            {client.CreateTokenRequest{Policies: using}, 0, 0},
		"a token of a role":        {client.CreateTokenRequest{Role: "user"}, 0, 0},
		"a root token":             {client.CreateTokenRequest{Policies: []string{"root"}}, 0, 0},
		"a break-glass token":      {client.CreateTokenRequest{Role: "user", BreakGlass: true}, 0, 0},
		"a tenant's token":         {client.CreateTokenRequest{Policies: using, Tenant: "default"}, 0, 0},
		"a token for one use":      {client.CreateTokenRequest{Policies: using, Uses: 1}, 0, 401},
		"a token of other places":  {client.CreateTokenRequest{Policies: using, CIDRs: []string{"192.0.2.0/24"}}, 401, 401},
		"a token that has expired": {client.CreateTokenRequest{Policies: using, TTL: "1ms"}, 401, 401},
	} {
		tok := o.made(what, tt.r, o.n.Client)
		c := o.holding(tok.Token.Reveal())
		o.wants(what, tt.first, second(c.Value(ctx, "app/key", 0)))
		o.wants(what+" again", tt.second, second(c.RenewOwnToken(ctx)))
		if tt.second != 0 {
			continue
		}
		o.wants(what+" shows itself", 0, second(c.OwnToken(ctx)))
		if tt.r.Tenant == "" && !tt.r.BreakGlass {
			child := o.made("a child of "+what, client.CreateTokenRequest{Policies: using}, c)
			o.wants("a child", 0, second(o.holding(child.Token.Reveal()).Secrets(ctx, client.SecretQuery{})))
		}
		o.wants(what+" ends itself", 0, second(c.RevokeOwnToken(ctx)))
		o.wants(what+" after its end", 401, second(c.OwnToken(ctx)))
	}
}

func (o *overhearing) logIn() {
	ctx := o.t.Context()
	jwt := func(what string, claims map[string]any) client.LoginRequest {
		text := o.provider.Sign(o.t, claims)
		parts := strings.Split(text, ".")
		o.after(what, text, parts[1], parts[2])
		return client.LoginRequest{JWT: client.SecretText(text)}
	}
	nobody := o.holding("")
	good := jwt("a good JWT", claims("dev"))
	tok, err := nobody.LogIn(ctx, "corp", good)
	o.wants("a login", 0, err)
	o.after("a login's token", tok.Token.Reveal())
	o.wants("its use", 0, second(o.holding(tok.Token.Reveal()).Value(ctx, "app/key", 0)))
	_, err = o.holding(good.JWT.Reveal()).Secrets(ctx, client.SecretQuery{})
	o.wants("a JWT as a token", 401, err)

	forged := good
	forged.JWT = client.SecretText(good.JWT.Reveal()[:len(good.JWT.Reveal())-8] + "AAAAAAAA")
	o.after("a forged JWT", forged.JWT.Reveal())
	for what, in := range map[string]client.LoginRequest{
		"a JWT of others":      jwt("a JWT of others", map[string]any{"aud": "https://other.example"}),
		"an expired JWT":       jwt("an expired JWT", map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}),
		"a JWT of no role":     jwt("a JWT of no role", claims("sales")),
		"a forged JWT":         forged,
		"what is no JWT":       {JWT: "eyJnot-a-jwt-at-all-77aa"},
		"a JWT of broken JSON": {JWT: "eyJhbGciOiJSUzI1NiJ9.bm90LWpzb24tYnV0LWEtc2VjcmV0.c2lnbmF0dXJlLW9mLWl0"},
	} {
		o.after(what, in.JWT.Reveal())
		if _, err := nobody.LogIn(ctx, "corp", in); client.Status(err) != 401 {
			o.t.Errorf("%s: %v", what, err)
		}
		if _, err := nobody.LogIn(ctx, "nosuch", in); client.Status(err) != 401 {
			o.t.Errorf("%s at no method: %v", what, err)
		}
	}
	app := o.showing(o.mesh.Client(withURI("spiffe://example.com/app")))
	o.wants("a certificate", 0, second(app.Value(ctx, "app/key", 0)))
	o.wants("a certificate and a JWT", 400, second(app.LogIn(ctx, "mesh", good)))
	exchanged, err := app.LogIn(ctx, "mesh", client.LoginRequest{})
	o.wants("a login by certificate", 0, err)
	o.after("the token of a certificate", exchanged.Token.Reveal())
	if _, err := o.showing(o.mesh.Client(nil)).Secrets(ctx, client.SecretQuery{}); client.Status(err) != 401 {
		o.t.Errorf("a certificate of no role: %v", err)
	}
}

// lookIntoTheLog as one does who has found a key, and who takes one thing for another.
func (o *overhearing) lookIntoTheLog() {
	ctx := o.t.Context()
	o.mu.Lock()
	var texts []string
	for text, what := range o.secrets {
		if strings.Contains(what, "token") || strings.Contains(what, "JWT") || strings.Contains(what, "version") {
			texts = append(texts, text)
		}
	}
	o.mu.Unlock()
	found := 0
	for _, text := range texts {
		hash, err := o.n.AuditHash(ctx, client.SecretText(text))
		o.wants("a hash", 0, err)
		records, err := o.n.Audit(ctx, client.AuditQuery{Hash: hash.Hash})
		o.wants("a query", 0, err)
		found += len(records.Items)
	}
	if found == 0 {
		o.t.Error("nothing was found by its hash")
	}
	o.wants("a checkpoint", 0, second(o.n.AuditCheckpoint(ctx)))

	mistaken := o.made("a token for mistakes", client.CreateTokenRequest{Policies: []string{"using"}}, o.n.Client).Token.Reveal()
	o.refusedOnly("a token instead of its id", second(o.n.RevokeToken(ctx, mistaken)))
	o.refusedOnly("a token instead of its hash", second(o.n.Audit(ctx, client.AuditQuery{Hash: mistaken})))
}

func (o *overhearing) refusedOnly(what string, err error) {
	o.t.Helper()
	if s := client.Status(err); s != 400 && s != 404 {
		o.t.Errorf("%s: %v", what, err)
	}
}

func (o *overhearing) tell() {
	ctx := o.t.Context()
	for _, name := range []string{"pager", "chat", "duty", "mail", "console"} {
		out, err := o.n.TestNotifier(ctx, name)
		o.wants(name, 0, err)
		if !out.OK {
			out, err = o.n.TestNotifier(ctx, name)
			o.wants(name, 0, err)
		}
		if !out.OK {
			o.t.Errorf("%s: %s", name, out.Error)
		}
	}
	eventually(o.t, "the alert of the break-glass token", func() bool {
		return strings.Contains(o.ears["pager"].String(), "break_glass") && strings.Contains(o.ears["email"].String(), "break-glass")
	})
	for _, a := range o.n.alerts(o.t.(*testing.T), client.AlertQuery{All: true}) {
		o.wants("an alert", 0, second(o.n.Alert(ctx, a.ID)))
	}
}

func (o *overhearing) askAround() {
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/openapi.json", "/debug/pprof/", "/debug/vars", "/nosuch", "/api/v1/auth", "/api/v1/sys/config",
		"/api/v1/seal", "/api/v1/storage", "/api/v1/tokens", "/api/v1/audit?limit=1000", "/api/v1/alerts?all=true", "/api/v1/secrets?limit=x"} {
		r, err := http.NewRequestWithContext(o.t.Context(), http.MethodGet, "https://"+o.addr+path, nil)
		if err != nil {
			o.t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+o.rootToken())
		resp, err := o.RoundTrip(r)
		if err != nil {
			o.t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			o.t.Error(err)
		}
		_ = resp.Body.Close()
	}
}

// flood asks until it is refused.
func (o *overhearing) flood() {
	o.from = "10.9.9.9"
	o.hcl = strings.Replace(o.hcl, "listener \"tcp\" {", "listener \"tcp\" {\n  limits {\n    per_address {\n      requests_per_minute = 1\n      burst               = 3\n    }\n  }", 1)
	if _, err := o.n.Client.Reload(o.t.Context(), client.ReloadRequest{}); err != nil {
		o.t.Fatal(err, problemsOf(err))
	}
	for range 5 {
		_, err := o.n.OwnToken(o.t.Context())
		if client.Status(err) == http.StatusTooManyRequests {
			return
		}
	}
	o.t.Error("nobody is held to the limit")
}

// listen looks through what the others were sent, and the sinks' files.
func (o *overhearing) listen() {
	o.t.Helper()
	heard := map[string]string{}
	for name, e := range o.ears {
		heard[name] = e.String()
	}
	for _, name := range []string{"copy.jsonl", "ocsf.jsonl"} {
		text, err := os.ReadFile(o.dir + "/" + name)
		if err != nil || len(text) == 0 {
			o.t.Errorf("%s: %v", name, err)
		}
		heard[name] = string(text)
	}
	for where, text := range heard {
		for secret, what := range o.secrets {
			if where == "duty" && strings.Contains(what, "ROUTING_KEY") {
				continue // it is what the body is to have
			}
			for form, shape := range shapes(secret) {
				if strings.Contains(text, shape) {
					o.t.Errorf("%s was sent %s (%s)", where, what, form)
				}
			}
		}
	}
	for where, part := range map[string]string{"copy.jsonl": "secret.read", "ocsf.jsonl": "class_uid", "syslog": "secret.read", "splunk": "secret.read", "elastic": "secret.read",
		"http_sink": "secret.read", "witness": "keybroker", "slack": "break-glass", "duty": "break-glass", "email": "break-glass"} {
		if !strings.Contains(heard[where], part) {
			o.t.Errorf("%s was not sent %q: %.300s", where, part, heard[where])
		}
	}
}
