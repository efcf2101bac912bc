package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/broker/authn/oidcserver"
	"github.com/keybroker/keybroker/broker/client"
)

// provider is the command `provider` of the scripts: an OpenID provider whose account
// alice is of the group on-call, at $ISSUER. `jwt FILE AUDIENCE` writes a JWT of it.
func startProvider(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: provider")
	}
	p := oidcserver.New(ts.Value(theTest{}).(testing.TB), map[string]map[string]any{"alice": {"groups": []string{"on-call"}, "name": "Alice"}})
	*ts.Value(theProvider{}).(**oidcserver.Server) = p
	ts.Setenv("ISSUER", p.Issuer)
}

// theProvider is where scripts keep their *oidcserver.Server.
type theProvider struct{}

func writeJWT(ts *testscript.TestScript, neg bool, args []string) {
	p := *ts.Value(theProvider{}).(**oidcserver.Server)
	if neg || len(args) != 2 || p == nil {
		ts.Fatalf("usage: jwt FILE AUDIENCE, after provider")
	}
	token := p.Sign(ts.Value(theTest{}).(testing.TB), map[string]any{"aud": args[1], "groups": []string{"on-call"}})
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(token+"\n"), 0o600))
}

// person is the program `person ACCOUNT URL` of the scripts: somebody who logs in
// wherever a browser is sent.
func person() {
	if _, err := oidcserver.NewPerson(os.Args[1]).Open(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// loginSite is a server of tests at which people log in at a real provider.
func loginSite(t *testing.T, more map[string]any) (*server, *oidcserver.Server) {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	unsetToken(t)
	p := oidcserver.New(t, map[string]map[string]any{"alice": {"name": "Alice"}})
	answers := map[string]any{
		"GET /api/v1/auth": client.List[client.AuthMethod]{Items: []client.AuthMethod{
			{Name: "corp", Type: client.AuthPeople, Issuer: p.Issuer, ClientID: oidcserver.ClientID, Scopes: []string{"openid", "profile"}},
			{Name: "cluster", Type: client.AuthPrograms},
		}},
		"POST /api/v1/auth/corp/login": client.Token{ID: "tok_1", Name: "alice", Role: "on-call", Method: "corp", Token: canary, ExpiresAt: time.Now().Add(time.Hour + time.Minute)},
		"GET /api/v1/secrets":          client.List[client.Secret]{},
		"DELETE /api/v1/tokens/self":   client.Token{ID: "tok_1"},
	}
	for key, value := range more {
		answers[key] = value
	}
	return serve(t, answers), p
}

var deviceLink = regexp.MustCompile(`http://\S+user_code=\S+`)

// A person opens the printed address anywhere; the command asks until then.
func TestLoginByDevice(t *testing.T) {
	s, _ := loginSite(t, nil)
	t.Setenv("KEYBROKER_ADDR", s.url)
	told, tell := io.Pipe()
	var out strings.Builder
	code := make(chan int, 1)
	go func() {
		code <- run(t.Context(), []string{"login", "--device"}, streams{strings.NewReader(""), &out, tell})
		_ = tell.Close()
	}()
	all := ""
	for lines := bufio.NewScanner(told); lines.Scan(); {
		all += lines.Text() + "\n"
		if link := deviceLink.FindString(lines.Text()); link != "" {
			if _, err := oidcserver.NewPerson("alice").Open(link); err != nil {
				t.Errorf("logging in: %v", err)
			}
		}
	}
	if c := <-code; c != 0 || out.String() != "" || !strings.Contains(all, "enter the code") || !strings.Contains(all, "logged in as alice, role on-call, expires in 60m") || strings.Contains(all, canary) {
		t.Errorf("exit %d\n%s", c, all)
	}
	if r := s.keybroker("secret", "list"); r.code != 0 {
		t.Errorf("the token of the login is not used: %+v", r)
	}
}

// Nobody comes: the command gives up in its time, and says so.
func TestLoginWithoutAPerson(t *testing.T) {
	s, p := loginSite(t, nil)
	t.Setenv("BROWSER", "true")
	for _, args := range [][]string{{"login", "--timeout", "300ms"}, {"login", "--device", "--timeout", "300ms"}} {
		if r := s.keybroker(args...); r.code != 1 || !strings.Contains(r.err, "nobody has logged in within 300ms") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	p.Stop()
	if r := s.keybroker("login"); r.code != 1 || !strings.Contains(r.err, "asking the identity provider "+p.Issuer+" how to log in") {
		t.Errorf("with the provider down: %+v", r)
	}
}

// What others send to the port that waits for the browser is not believed.
func TestLoginIgnoresOtherAnswers(t *testing.T) {
	s, _ := loginSite(t, nil)
	t.Setenv("KEYBROKER_ADDR", s.url)
	t.Setenv("BROWSER", "true")
	told, tell := io.Pipe()
	code := make(chan int, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		code <- run(ctx, []string{"login", "--no-store"}, streams{strings.NewReader(""), io.Discard, tell})
		_ = tell.Close()
	}()
	all := ""
	for lines := bufio.NewScanner(told); lines.Scan(); {
		all += lines.Text() + "\n"
		address := regexp.MustCompile(`http://\S+/auth\?\S+`).FindString(lines.Text())
		if address == "" {
			continue
		}
		q := parsed(t, address).Query()
		callback := q.Get("redirect_uri")
		if q.Get("code_challenge_method") != "S256" || q.Get("nonce") == "" || q.Get("state") == "" || !strings.HasPrefix(callback, "http://127.0.0.1:") {
			t.Errorf("the address lacks what protects it: %s", address)
		}
		for _, path := range []string{callback + "?code=evil", callback + "?code=evil&state=guessed", strings.TrimSuffix(callback, "callback")} {
			if status := get(t, path); status < 400 {
				t.Errorf("%s was taken: %d", path, status)
			}
		}
		// With our state, but of another provider: the login is over.
		if status := get(t, callback+"?code=evil&state="+q.Get("state")+"&iss=https://evil.example"); status != http.StatusOK {
			t.Errorf("status %d", status)
		}
	}
	if c := <-code; c != 1 || !strings.Contains(all, "is of another identity provider") {
		t.Errorf("exit %d\n%s", c, all)
	}
}

func parsed(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func get(t *testing.T, address string) int {
	t.Helper()
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestLoginPicksTheMethod(t *testing.T) {
	jwt := filepath.Join(t.TempDir(), "jwt")
	if err := os.WriteFile(jwt, []byte("a.b.c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := loginSite(t, map[string]any{"POST /api/v1/auth/cluster/login": 401})
	for _, test := range []struct {
		args []string
		code int
		err  string
	}{
		{[]string{"--jwt-file", jwt}, 1, "choose one with --method: corp (oidc), cluster (jwt)"},
		{[]string{"--jwt-file", jwt, "--method", "corp"}, 0, "logged in as alice"},
		{[]string{"--jwt-file", jwt, "--method", "cluster"}, 1, `see its auth "cluster" and the bind blocks of its roles`},
		{[]string{"--method", "cluster"}, 2, "the auth method cluster takes --jwt-file"},
		{[]string{"--method", "other"}, 1, "it has corp (oidc), cluster (jwt)"},
		{[]string{"--jwt-file", jwt, "--device"}, 2, "none of the others can be"},
		{[]string{"--jwt-file", filepath.Join(t.TempDir(), "none"), "--method", "corp"}, 1, "reading the JWT"},
		{[]string{"x"}, 2, `unexpected argument "x"`},
	} {
		if r := s.keybroker(append([]string{"login"}, test.args...)...); r.code != test.code || !strings.Contains(r.err, test.err) || strings.Contains(r.err+r.out, canary) {
			t.Errorf("%v: %+v", test.args, r)
		}
	}
	none := serve(t, map[string]any{"GET /api/v1/auth": client.List[client.AuthMethod]{}})
	if r := none.keybroker("login"); r.code != 1 || !strings.Contains(r.err, "nobody can log in at this server") {
		t.Errorf("%+v", r)
	}
}

// The token is kept for one server and one user, and told of when it is over.
func TestKeptLogin(t *testing.T) {
	jwt := filepath.Join(t.TempDir(), "jwt")
	if err := os.WriteFile(jwt, []byte("a.b.c"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := loginSite(t, nil)
	login := func() result { return s.keybroker("login", "--method", "corp", "--jwt-file", jwt) }
	if r := login(); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	file := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "keybroker", "token.json")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	other := serve(t, map[string]any{"GET /api/v1/secrets": 401})
	if r := other.keybroker("secret", "list"); !strings.Contains(r.err, "people: keybroker login") {
		t.Errorf("another server: %+v", r)
	}
	edit := func(change func(*keptLogin)) {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var all map[string]*keptLogin
		if err := json.Unmarshal(b, &all); err != nil {
			t.Fatal(err)
		}
		change(all[s.url])
		if b, err = json.Marshal(all); err == nil {
			err = os.WriteFile(file, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	edit(func(l *keptLogin) { l.ExpiresAt = time.Now().Add(-time.Hour) })
	if r := s.keybroker("secret", "list"); r.code != 1 || !strings.Contains(r.err, "the login of alice has expired ") || !strings.Contains(r.err, "hint: keybroker login") {
		t.Errorf("%+v", r)
	}
	if r := s.keybroker("--token", "kbt_other", "secret", "list"); r.code != 0 {
		t.Errorf("a flag does not come before the login: %+v", r)
	}
	login()
	if s.has("DELETE /api/v1/tokens/self") {
		t.Error("a login that had expired was revoked")
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	asked := s.count()
	if r := login(); r.code != 1 || !strings.Contains(r.err, "others can read or change") || s.count() != asked {
		t.Errorf("a token was made that cannot be kept: %+v", r)
	}
	if r := s.keybroker("secret", "list"); r.code != 1 || !strings.Contains(r.err, "others can read or change") || !strings.Contains(r.err, "chmod 600") {
		t.Errorf("%+v", r)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.keybroker("logout"); r.code != 0 || !s.has("DELETE /api/v1/tokens/self") || !strings.Contains(r.err, "the login of alice at "+s.url+" has ended") {
		t.Errorf("%+v", r)
	}
	if b, err := os.ReadFile(file); err != nil || strings.Contains(string(b), canary) {
		t.Errorf("the token is still there: %v", err)
	}
	if r := s.keybroker("logout"); r.code != 1 || !strings.Contains(r.err, "nobody is logged in at "+s.url) {
		t.Errorf("%+v", r)
	}
}

// No token is left alive that nobody has: neither that of the login before, nor one
// that cannot be kept.
func TestLoginTwice(t *testing.T) {
	jwt := filepath.Join(t.TempDir(), "jwt")
	if err := os.WriteFile(jwt, []byte("a.b.c"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := map[string]any{"POST /api/v1/auth/corp/login": client.Token{ID: "tok_0", Name: "alice", Token: canary}}
	s, _ := loginSite(t, first)
	login := func() result { return s.keybroker("login", "--method", "corp", "--jwt-file", jwt) }
	if r := login(); r.code != 0 || s.has("DELETE") {
		t.Fatalf("%+v", r)
	}
	s.answer("POST /api/v1/auth/corp/login", client.Token{ID: "tok_1", Name: "alice", Token: canary})
	if r := login(); r.code != 0 || !s.has("DELETE /api/v1/tokens/self") {
		t.Errorf("the login before is not revoked: %+v", r)
	}
	s.answer("POST /api/v1/auth/corp/login", client.Token{ID: "tok_2", Name: "alice", Token: canary})
	s.answer("DELETE /api/v1/tokens/self", 503)
	if r := login(); r.code != 0 || !strings.Contains(r.err, "the token tok_1 of a login that is not kept any more could not be revoked") || strings.Contains(r.err, canary) {
		t.Errorf("%+v", r)
	}
	lock := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "keybroker", "token.json.lock")
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(lock, 0o700); err != nil {
		t.Fatal(err)
	}
	s.answer("POST /api/v1/auth/corp/login", client.Token{ID: "tok_3", Name: "alice", Token: canary})
	if r := login(); r.code != 1 || !strings.Contains(r.err, "keeping the login") || !strings.Contains(r.err, "the token tok_3 of a login") {
		t.Errorf("%+v", r)
	}
}

// Nobody is sent, and nothing is given, where a server or a provider that nobody has
// proven says.
func TestLoginGoesNowhereElse(t *testing.T) {
	opened := filepath.Join(t.TempDir(), "opened")
	browser := filepath.Join(t.TempDir(), "browser")
	if err := os.WriteFile(browser, []byte("#!/bin/sh\necho \"$1\" >"+opened+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		says map[string]string // instead of what is right
		err  string
	}{
		"a file":              {map[string]string{"authorization_endpoint": "file:///tmp/evil.desktop\x1b]0;owned\x07"}, `the authorization_endpoint that the identity provider names, "file:///tmp/evil.desktop\x1b`},
		"a file, printable":   {map[string]string{"authorization_endpoint": "file:///tmp/evil.desktop"}, "is no address of a web page"},
		"a terminal's orders": {map[string]string{"authorization_endpoint": "https://login.example.com/\u009b2J"}, "is no address of a web page"},
		"plain HTTP":          {map[string]string{"token_endpoint": "http://login.example.com/token"}, "does not begin with https://"},
		"keys by plain HTTP":  {map[string]string{"jwks_uri": "http://login.example.com/keys"}, "does not begin with https://"},
		"a script":            {map[string]string{"device_authorization_endpoint": "javascript:alert(1)"}, "is no address of a web page"},
	} {
		t.Run(name, func(t *testing.T) {
			var provider *httptest.Server
			provider = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				doc := map[string]string{"issuer": provider.URL}
				for _, what := range []string{"authorization_endpoint", "token_endpoint", "jwks_uri"} {
					doc[what] = provider.URL + "/" + what
				}
				for what, address := range test.says {
					doc[what] = address
				}
				_ = json.NewEncoder(w).Encode(doc)
			}))
			t.Cleanup(provider.Close)
			t.Setenv("BROWSER", browser)
			r := misledTo(t, provider.URL).keybroker("login", "--timeout", "5s")
			if r.code != 1 || !strings.Contains(r.err, test.err) || strings.ContainsAny(r.err, "\x1b\u009b") {
				t.Errorf("%+v", r)
			}
			if !strings.Contains(r.err, "at "+provider.URL+", as its client kubernetes") {
				t.Errorf("it is not said where, and as what: %s", r.err)
			}
		})
	}
	if _, err := os.Stat(opened); err == nil {
		t.Error("a browser was opened")
	}
	if r := misledTo(t, "http://login.example.com").keybroker("login"); r.code != 1 || !strings.Contains(r.err, `the identity provider that the server names, "http://login.example.com", does not begin with https://`) {
		t.Errorf("%+v", r)
	}
	s := misledTo(t, "")
	if r := s.keybroker("--addr", "http://keybroker.example:8400", "login"); r.code != 1 || !strings.Contains(r.err, "it has to be https://") || s.count() > 0 {
		t.Errorf("%+v", r)
	}
}

// misledTo is a server that names an issuer, and a client that is another application's.
func misledTo(t *testing.T, issuer string) *server {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	unsetToken(t)
	return serve(t, map[string]any{"GET /api/v1/auth": client.List[client.AuthMethod]{Items: []client.AuthMethod{
		{Name: "corp", Type: client.AuthPeople, Issuer: issuer, ClientID: "kubernetes", Scopes: []string{"openid"}}}}})
}

// keptLogin is a kept login as it lies in the file.
type keptLogin struct {
	Name      string    `json:"name"`
	Method    string    `json:"method"`
	Role      string    `json:"role"`
	ID        string    `json:"id"`
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

// A login that the server has ended is told from a wrong token, and can be ended here.
func TestEndedLogin(t *testing.T) {
	jwt := filepath.Join(t.TempDir(), "jwt")
	if err := os.WriteFile(jwt, []byte("a.b.c"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := loginSite(t, map[string]any{"GET /api/v1/secrets": 401, "DELETE /api/v1/tokens/self": 401})
	if r := s.keybroker("login", "--method", "corp", "--jwt-file", jwt); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if r := s.keybroker("secret", "list"); r.code != 1 || !strings.Contains(r.err, "hint: the login has ended: keybroker login") {
		t.Errorf("%+v", r)
	}
	if r := s.keybroker("logout"); r.code != 0 {
		t.Errorf("%+v", r)
	}
}

// A program shows a certificate: to log in, and in every request.
func TestCertificate(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	unsetToken(t)
	t.Setenv("KEYBROKER_ROLE", "from-environment")
	ca, authority := certtest.New(t, "clients", nil), certtest.New(t, "server", nil)
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			who = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		var answer any
		switch r.Method + " " + r.URL.Path {
		case "GET /api/v1/auth":
			answer = client.List[client.AuthMethod]{Items: []client.AuthMethod{{Name: "corp", Type: client.AuthPeople}, {Name: "mesh", Type: client.AuthCertificate}}}
		case "POST /api/v1/auth/mesh/login":
			var asked client.LoginRequest
			if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.JWT != "" {
				t.Errorf("asked for %+v, %v", asked, err)
			}
			answer = client.Token{ID: "tok_1", Name: who, Role: asked.Role, Token: canary}
		default:
			answer = client.List[client.Secret]{Items: []client.Secret{{Name: who + "-" + r.Header.Get(client.RoleHeader) + r.Header.Get("Authorization")}}}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	served := authority.Client(func(c *x509.Certificate) {
		c.IPAddresses, c.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	h.TLS = &tls.Config{Certificates: []tls.Certificate{served}, ClientAuth: tls.RequestClientCert}
	h.StartTLS()
	t.Cleanup(h.Close)
	s := &server{t: t, url: h.URL}
	certFile, keyFile := certtest.Files(t, ca.Client(nil))
	shown := []string{"--ca-file", certtest.File(t, authority), "--client-cert", certFile, "--client-key", keyFile}
	if r := s.keybroker(append(shown, "login", "--role", "app", "--no-store")...); r.code != 0 || r.out != canary+"\n" || !strings.Contains(r.err, "logged in as app, role app, expires never") {
		t.Errorf("%+v", r)
	}
	if r := s.keybroker(append(shown, "secret", "list")...); r.code != 0 || !strings.Contains(r.out, "app-from-environment ") {
		t.Errorf("%+v", r)
	}
	if r := s.keybroker(append(shown, "--as", "shop", "secret", "list")...); r.code != 0 || !strings.Contains(r.out, "app-shop ") {
		t.Errorf("%+v", r)
	}
	for why, args := range map[string][]string{
		"given together":                 {"--client-cert", certFile},
		"reading the client certificate": {"--client-cert", certFile, "--client-key", certFile},
	} {
		if r := s.keybroker(append(args, "secret", "list")...); r.code != 1 || !strings.Contains(r.err, why) {
			t.Errorf("%+v", r)
		}
	}
	if r := s.keybroker("--ca-file", certtest.File(t, authority), "login", "--method", "mesh"); r.code != 2 || !strings.Contains(r.err, "takes --client-cert and --client-key") {
		t.Errorf("%+v", r)
	}
}

// unsetToken takes KEYBROKER_TOKEN out of the environment for the test.
func unsetToken(t *testing.T) {
	t.Helper()
	t.Setenv("KEYBROKER_TOKEN", "") // which puts it back at the end
	if err := os.Unsetenv("KEYBROKER_TOKEN"); err != nil {
		t.Fatal(err)
	}
}

// A token that is given and empty, as what a command that failed has printed, is not
// taken for the wish to use the login that is kept.
func TestAnEmptyTokenIsNotTheLogin(t *testing.T) {
	t.Setenv("KEYBROKER_TOKEN", "")
	a := &app{}
	if token, err := a.findToken(); err == nil || token != "" || !strings.Contains(a.hint(err), "unset it") {
		t.Errorf("token %q, error %v", token, err)
	}
}
