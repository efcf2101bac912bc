package httpcall_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
	"github.com/keybroker/keybroker/rotation/outbound"
)

var signedAt = time.Date(2026, 3, 1, 12, 30, 5, 7e6, time.UTC)

const oauth = `auth "oauth2" {
  token_url     = "https://login.example/token"
  client_id     = "keybroker"
  client_secret = file()
}
`

const signed = `auth "hmac" {
  key              = file()
  sign             = "${request.timestamp}.${request.method}.${request.path}.${request.query}.${request.body_digest}"
  header           = "X-Signature"
  timestamp_header = "X-Timestamp"
}
`

func mustAuth(t *testing.T, src string) httpcall.Authenticator {
	t.Helper()
	a, diags, _ := decodeAuth(t, src)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return a
}

func loopback(t *testing.T) *outbound.Client {
	t.Helper()
	c, err := outbound.New(outbound.Options{AllowPrivate: true, FreshConnections: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// request makes one as Request.Build does.
func request(t *testing.T, method, url, body string) *http.Request {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

type received struct {
	*http.Request
	body string
}

// sent returns what a server receives.
func sent(t *testing.T, a httpcall.Authenticator, method, target, body string) received {
	t.Helper()
	var got received
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = received{r, string(b)}
	}))
	defer s.Close()
	req := request(t, method, s.URL+target, body)
	if resp, err := a.Send(loopback(t), req, false); err != nil || resp.Status != 200 {
		t.Fatalf("sending: %d, %v", resp.Status, err)
	}
	if req.Header.Get("Authorization") != "" || req.Header.Get("X-Signature") != "" {
		t.Error("the request given was changed")
	}
	return got
}

func TestSignature(t *testing.T) {
	// The key is the canary, in whatever encoding; what is expected is computed here
	// from what the server received.
	for name, tt := range map[string]struct {
		attributes string
		want       func(r received) (header, value string)
	}{
		"defaults": {`
  sign   = "${request.timestamp}\n${request.method}\n${request.target}\n${request.body_digest}"
  header = "X-Signature"
  timestamp_header = "X-Timestamp"`, func(r received) (string, string) {
			digest := sha256.Sum256([]byte(r.body))
			return "X-Signature", hex.EncodeToString(macOf(sha256.New, canary, r.Header.Get("X-Timestamp")+"\n"+r.Method+"\n"+r.RequestURI+"\n"+hex.EncodeToString(digest[:])))
		}},
		// As an exchange has it: milliseconds, method, path and body in a row, base64.
		"exchange": {`
  algorithm = "sha512"
  encoding  = "base64"
  sign      = "${request.timestamp}${request.method}${request.target}${request.body}"
  header    = "x-access-sign"
  timestamp_header = "X-Timestamp"
  timestamp_format = "unix_ms"`, func(r received) (string, string) {
			if r.Header.Get("X-Timestamp") != "1772368205007" {
				t.Errorf("the timestamp is %s", r.Header.Get("X-Timestamp"))
			}
			return "X-Access-Sign", base64.StdEncoding.EncodeToString(macOf(sha512.New, canary, "1772368205007"+r.Method+r.RequestURI+r.body))
		}},
		// As a cloud has it: method, path with query, date and host, digest, in Authorization.
		"authorization": {`
  encoding  = "base64"
  sign      = "${request.method}\n${request.target}\n${request.timestamp};${request.host};${request.body_digest}"
  header    = "Authorization"
  format    = "HMAC-SHA256 Credential=id&SignedHeaders=date;host&Signature=${signature}"
  timestamp_header = "Date"
  timestamp_format = "http"`, func(r received) (string, string) {
			digest := sha256.Sum256([]byte(r.body))
			text := r.Method + "\n" + r.RequestURI + "\n" + "Sun, 01 Mar 2026 12:30:05 GMT;" + r.Host + ";" + base64.StdEncoding.EncodeToString(digest[:])
			return "Authorization", "HMAC-SHA256 Credential=id&SignedHeaders=date;host&Signature=" + base64.StdEncoding.EncodeToString(macOf(sha256.New, canary, text))
		}},
		// As webhooks have it: version and timestamp in the header itself.
		"in one header": {`
  sign   = "${request.timestamp}.${request.path}?${request.query}"
  header = "X-Signature"
  format = "t=${request.timestamp},v1=${signature}"
  timestamp_format = "rfc3339"`, func(r received) (string, string) {
			const at = "2026-03-01T12:30:05Z"
			return "X-Signature", "t=" + at + ",v1=" + hex.EncodeToString(macOf(sha256.New, canary, at+"."+r.URL.EscapedPath()+"?"+r.URL.RawQuery))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a := mustAuth(t, "auth \"hmac\" {\n  key = file()"+tt.attributes+"\n}\n")
			for _, c := range []struct{ method, target, body string }{
				{"GET", "/v1/keys/a%2Fb%20c?name=x%26y&z", ""},
				{"POST", "/v1/keys", `{"name":"é"}`},
				{"DELETE", "/", ""},
			} {
				body := strings.ReplaceAll(c.body, "é", `\u00e9`)
				r := sent(t, a, c.method, c.target, body)
				if r.body != body {
					t.Errorf("%s %s: the body is lost", c.method, c.target)
				}
				header, want := tt.want(r)
				if got := r.Header.Get(header); got != want {
					t.Errorf("%s %s: the header %s is %q, want %q", c.method, c.target, header, got, want)
				}
			}
		})
	}
}

func macOf(newHash func() hash.Hash, key, text string) []byte {
	mac := hmac.New(newHash, []byte(key))
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

func TestKeyEncodings(t *testing.T) {
	for encoding, bad := range map[string]bool{"text": false, "base64": true, "hex": true} {
		_, diags, _ := decodeAuth(t, strings.Replace(signed, "}\n", "key_encoding = \""+encoding+"\"\n}\n", 1))
		if got := strings.Contains(fmt.Sprint(diags), "is not written in "+encoding); got != bad || got != diags.HasErrors() { // the canary is neither base64 nor hex
			t.Errorf("%s: %v", encoding, diags)
		}
		if strings.Contains(fmt.Sprint(diags), canary) {
			t.Error("the error holds the key")
		}
	}
}

func oauthAgainst(s *keyserver.Server) string {
	return strings.NewReplacer("https://login.example/token", s.URL+"/oauth/token",
		"}\n", "  scopes = [\"keys\"]\n  audience = \"keyserver\"\n}\n").Replace(oauth)
}

const (
	list   = "GET /v1/keys"
	create = "POST /v1/keys"
	tokens = "POST /oauth/token"
)

func TestOAuth(t *testing.T) {
	for _, style := range []string{"", "client_auth = \"basic\"\n", "client_auth = \"body\"\n"} {
		s := keyserver.Start(t)
		s.ClientSecret = canary
		a := mustAuth(t, strings.Replace(oauthAgainst(s), "}\n", style+"}\n", 1))
		var shown []string
		call := func(route string, repeatable bool, want int) {
			t.Helper()
			method, path, _ := strings.Cut(route, " ")
			resp, err := a.Send(loopback(t), request(t, method, s.URL+path, `{"name":"x"}`), repeatable)
			if err != nil || resp.Status != want {
				t.Errorf("%s: %d, %v", route, resp.Status, err)
			}
			shown = append(shown, fmt.Sprintf("%v %+v %#v", err, a, a))
		}
		asked := func(what string, want int) {
			t.Helper()
			if got := s.Requests(tokens); got != want {
				t.Errorf("%s: %d tokens were asked for, want %d", what, got, want)
			}
		}
		call(list, true, 200)
		call(list, true, 200)
		asked("a token is used again", 1)
		s.ForgetTokens()
		call(list, true, 200)
		asked("a refused one is replaced", 2)
		if got := s.Requests(list); got != 4 {
			t.Errorf("%d requests, want one repeated", got)
		}
		s.ForgetTokens()
		call(create, false, 201)
		asked("what may not be repeated takes a fresh one", 3)
		if got := s.Requests(create); got != 1 {
			t.Errorf("%d creates, want one", got)
		}
		s.Override(list, http.StatusUnauthorized, -1)
		call(list, true, 401)
		asked("a fresh one that is refused is not replaced again", 4)
		if got := s.Requests(list); got != 6 {
			t.Errorf("%d requests, want one repeated", got)
		}
		s.Override(list, 0, 0)
		s.SetTokenLife(10 * time.Second) // within the margin
		s.ForgetTokens()
		call(list, true, 200)
		call(list, true, 200)
		asked("one about to expire is not used again", 6)
		for _, text := range shown {
			for _, secret := range append(s.AccessTokens(), canary) {
				if strings.Contains(text, secret) {
					t.Fatal("an error, or printing, shows a secret")
				}
			}
		}
	}
}

func TestOAuthAtOnce(t *testing.T) {
	s := keyserver.Start(t)
	s.ClientSecret = canary
	a := mustAuth(t, oauthAgainst(s))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if resp, err := a.Send(loopback(t), request(t, "GET", s.URL+"/v1/keys", ""), true); err != nil || resp.Status != 200 {
				t.Errorf("%d, %v", resp.Status, err)
			}
		})
	}
	wg.Wait()
	if got := s.Requests(tokens); got != 1 {
		t.Errorf("%d tokens were asked for", got)
	}
}

// Whatever the token endpoint does, the request itself is not sent, and nothing that
// was answered is shown.
func TestOAuthRefusals(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirection was followed")
	}))
	defer elsewhere.Close()
	for name, tt := range map[string]struct {
		status int
		body   string
		class  error
		said   string
	}{
		"wrong client":    {401, `{"error":"invalid_client","error_description":"` + canary + `"}`, backends.ErrDenied, "invalid_client"},
		"by 400":          {400, `{"error":"invalid_client"}`, backends.ErrDenied, "invalid_client"},
		"own words":       {400, `{"error":"` + canary + `"}`, backends.ErrInvalid, "400"},
		"error with 200":  {200, `{"error":"invalid_scope"}`, backends.ErrUnavailable, "invalid_scope"},
		"out of order":    {503, canary, backends.ErrUnavailable, "503"},
		"redirection":     {302, canary, backends.ErrInvalid, "302"},
		"no JSON":         {200, canary, backends.ErrUnavailable, "no bearer token"},
		"no token":        {200, `{"x":"` + canary + `"}`, backends.ErrUnavailable, "no bearer token"},
		"another type":    {200, `{"access_token":"` + canary + `","token_type":"dpop"}`, backends.ErrUnavailable, "no bearer token"},
		"no header value": {200, `{"access_token":"` + canary + `\n","token_type":"bearer"}`, backends.ErrUnavailable, "no bearer token"},
		"no answer":       {0, "", backends.ErrUnavailable, "closed without an answer"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if tt.status == 0 {
				panic(http.ErrAbortHandler)
			}
			if r.URL.Path != "/oauth/token" {
				t.Errorf("%s: the request was sent", name)
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		}))
		a := mustAuth(t, strings.Replace(oauth, "https://login.example/token", s.URL+"/oauth/token", 1))
		resp, err := a.Send(loopback(t), request(t, "GET", s.URL+"/v1/keys", ""), true)
		if backends.Class(err) != tt.class || resp.Sent || !strings.Contains(fmt.Sprint(err), tt.said) {
			t.Errorf("%s: sent is %t, %v; want %q in it and the class %v", name, resp.Sent, err, tt.said, tt.class)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), canary) {
			t.Errorf("%s: the canary is in %v", name, err)
		}
		if err := a.LogIn(t.Context()); backends.Class(err) != tt.class {
			t.Errorf("%s: logging in: %v", name, err)
		}
		s.Close()
	}
}

// The token endpoint is behind the same guard as everything else.
func TestOAuthIsGuarded(t *testing.T) {
	s := keyserver.Start(t)
	_, _, blocks := decodeAuth(t, oauthAgainst(s))
	strict, err := outbound.New(outbound.Options{FreshConnections: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, diags := httpcall.CompileAuth(blocks, httpcall.AuthOptions{Client: strict}); !diags.HasErrors() {
		t.Error("plain http is taken off private networks")
	}
	a, diags := httpcall.CompileAuth(blocks, httpcall.AuthOptions{Client: strict, AllowPlain: true})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var refused *outbound.RefusedError
	if err := a.LogIn(t.Context()); !errors.As(err, &refused) || s.Connections() != 0 {
		t.Errorf("got %v after %d connections", err, s.Connections())
	}
}
