package client_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

const canary = "CANARY-d41d8cd98f"

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

func connect(t *testing.T, addr, token string) *client.Client {
	t.Helper()
	c, err := client.New(addr, token, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestAddress(t *testing.T) {
	for addr, good := range map[string]bool{
		"http://127.0.0.1:8400":           true,
		"https://keybroker.example/base/": true,
		"127.0.0.1:8400":                  false,
		"unix:///run/keybroker":           false,
		"http://":                         false,
		"http://a b":                      false,
		"http://user:" + canary + "@host": false,
		"http://host?token=" + canary:     false,
		"http://host:" + canary:           false,
	} {
		_, err := client.New(addr, "", client.Options{})
		if (err == nil) != good {
			t.Errorf("%s: %v", addr, err)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("the error repeats the address: %v", err)
		}
	}
}

func TestBrokenTokenIsRefusedUnseen(t *testing.T) {
	_, err := client.New("http://127.0.0.1:8400", canary+"\n", client.Options{})
	if err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("%v", err)
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	c := connect(t, "http://127.0.0.1:8400", canary)
	value := client.Value{Fields: client.Fields{"key": canary}, Previous: &client.PreviousValue{Fields: client.Fields{"key": canary}}}
	token := client.Token{Token: canary}
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	for _, v := range []any{c, *c, value, &value, value.Fields, *value.Previous, token, &token, token.Token} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if got := fmt.Sprintf(format, v); strings.Contains(got, canary) || strings.Contains(got, fmt.Sprintf("%x", canary)) {
				t.Errorf(format+" of %T shows the secret", v, v)
			}
		}
	}
	logger.Info("log", "fields", value.Fields, "token", token.Token)
	if strings.Contains(log.String(), canary) {
		t.Errorf("the log shows the secret: %s", log.String())
	}
}

func TestNameIsOneSegment(t *testing.T) {
	var asked string
	c := connect(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.RequestURI
		fmt.Fprint(w, `{}`)
	})+"/base/", canary)
	if _, err := c.Value(t.Context(), "payments/stripe@eu", 2); err != nil || asked != "GET /base/api/v1/secrets/payments%2Fstripe@eu/value?version=2" {
		t.Errorf("%s, %v", asked, err)
	}
	asked = ""
	for _, name := range []string{"", ".", ".."} {
		if _, err := c.Secret(t.Context(), name); err == nil || asked != "" {
			t.Errorf("%q: %v, asked %q", name, err, asked)
		}
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	elsewhere := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the redirect was followed, with %q", r.Header.Get("Authorization"))
	})
	c := connect(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
	}), canary)
	_, err := c.Secret(t.Context(), "a")
	if client.Status(err) != http.StatusTemporaryRedirect || !strings.Contains(err.Error(), "redirect") {
		t.Errorf("%v", err)
	}
	for _, err := range c.WatchRotation(t.Context(), "r1") {
		if client.Status(err) != http.StatusTemporaryRedirect {
			t.Errorf("%v", err)
		}
	}
}

func TestForeignAnswers(t *testing.T) {
	for _, test := range []struct {
		name, contentType, body string
		status                  int
		want                    string
	}{
		{"page of a proxy", "text/html", "<h1>" + canary + "</h1>", 502, "the server answered 502 bad gateway"},
		{"broken problem", client.ProblemType, `{"detail": "` + canary, 500, "the server answered 500 internal server error"},
		{"no JSON", "text/plain", canary, 200, "not what keybroker answers"},
		{"other JSON", "application/json", `{"generation": "` + canary + `"}`, 200, "not what keybroker answers"},
	} {
		c := connect(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", test.contentType)
			w.WriteHeader(test.status)
			fmt.Fprint(w, test.body)
		}), "")
		_, err := c.Value(t.Context(), "a", 0)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestProblemCarriesHintAndRetryAfter(t *testing.T) {
	c := connect(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", client.ProblemType)
		w.Header().Set("Retry-After", "5")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"title": "Service Unavailable", "status": 200, "detail": "vault is sealed", "hint": "unseal it", "more": 1}`)
	}), "")
	_, err := c.Secret(t.Context(), "a")
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || p.Status != 503 || p.Hint != "unseal it" || p.RetryAfter.Seconds() != 5 || p.Error() != "vault is sealed" {
		t.Errorf("%#v", err)
	}
}

func TestPlainHTTPToAListenerWithTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	_, err := connect(t, strings.Replace(server.URL, "https:", "http:", 1), "").Secret(t.Context(), "a")
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || !strings.Contains(p.Error(), "speaks TLS") || !strings.Contains(p.Hint, "https://") {
		t.Errorf("%#v", err)
	}
}

func TestCAFile(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"name":"a"}`) }))
	t.Cleanup(server.Close)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	file := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	for ca, good := range map[string]bool{file: true, "": false} {
		c, err := client.New(server.URL, canary, client.Options{CAFile: ca})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Secret(t.Context(), "a")
		if (err == nil) != good || (err != nil && strings.Contains(err.Error(), canary)) {
			t.Errorf("CA file %q: %v", ca, err)
		}
		c.Close()
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ca := range []string{empty, empty + ".not"} {
		if _, err := client.New(server.URL, "", client.Options{CAFile: ca}); err == nil {
			t.Errorf("CA file %s was taken", ca)
		}
	}
}
