package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/keybroker/keybroker/broker/client"
)

// provider is an OpenID provider that a person logs in at.
type provider struct {
	app    *app
	found  *oidc.Provider
	config oauth2.Config
	http   *http.Client
}

// findProvider asks the issuer of an auth method how people log in there.
func (a *app) findProvider(ctx context.Context, m client.AuthMethod) (*provider, error) {
	h, err := a.providerClient()
	if err != nil {
		return nil, err
	}
	if err := webAddress(m.Issuer); err != nil {
		return nil, fmt.Errorf("the identity provider that the server names, %q, %w", m.Issuer, err)
	}
	a.note("logging in to %s at %s, as its client %s", printable(a.address()), m.Issuer, printable(m.ClientID))
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, h), m.Issuer)
	if err != nil {
		return nil, &hintError{fmt.Errorf("asking the identity provider %s how to log in: %w", m.Issuer, waitedFor(ctx, err)), "is it up, and reached from here?"}
	}
	if err := checkEndpoints(found); err != nil {
		return nil, err
	}
	return &provider{app: a, found: found, http: h,
		config: oauth2.Config{ClientID: m.ClientID, Endpoint: found.Endpoint(), Scopes: m.Scopes}}, nil
}

// providerClient trusts what the system trusts, and what --ca-file names.
func (a *app) providerClient() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if a.caFile != "" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		pem, err := os.ReadFile(a.caFile)
		if err != nil {
			return nil, fmt.Errorf("reading CA file: %w", err)
		}
		roots.AppendCertsFromPEM(pem)
		t.TLSClientConfig.RootCAs = roots
	}
	return &http.Client{Transport: t, Timeout: 30 * time.Second}, nil
}

// waitedFor says why it was waited no longer, if that is what err comes from.
func waitedFor(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// byBrowser has the person log in in a browser on this machine, which brings the
// answer to a port of ours (RFC 8252, section 7.3; PKCE, RFC 7636).
func (p *provider) byBrowser(ctx context.Context) (client.SecretText, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listening for the browser's answer: %w", err)
	}
	p.config.RedirectURL = "http://" + l.Addr().String() + "/callback"
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	answers := make(chan redirect, 1)
	srv := &http.Server{Handler: answersTo(state, answers), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l) // ends with its being shut down
	}()
	defer func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil { // the browser reads what it was told
			_ = srv.Close()
		}
		<-served
	}()
	address := p.config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))
	p.app.note("log in at\n\n  %s\n", address)
	if err := openBrowser(address); err != nil {
		p.app.note("no browser could be opened here: open the address yourself, or use --device")
	}
	var answer redirect
	select {
	case answer = <-answers:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if err := answer.check(p.found); err != nil {
		return "", err
	}
	token, err := p.config.Exchange(oidc.ClientContext(ctx, p.http), answer.code, oauth2.VerifierOption(verifier))
	if err != nil {
		return "", providerError(ctx, err)
	}
	return p.idToken(ctx, token, nonce)
}

// redirect is what a browser brings back.
type redirect struct{ code, problem, description, issuer string }

// check refuses what another provider has sent (RFC 9207).
func (r redirect) check(of *oidc.Provider) error {
	var says struct {
		Issuer string `json:"issuer"`
		Sends  bool   `json:"authorization_response_iss_parameter_supported"`
	}
	if err := of.Claims(&says); err != nil {
		return fmt.Errorf("reading what the identity provider says of itself: %w", err)
	}
	switch {
	case (r.issuer != "" || says.Sends) && r.issuer != says.Issuer:
		return errors.New("the answer that the browser brought is of another identity provider")
	case r.problem != "":
		return fmt.Errorf("the identity provider refuses the login: %s", printable(strings.TrimSuffix(r.problem+": "+r.description, ": ")))
	}
	return nil
}

// answersTo takes the first answer that has our state, which nobody else knows.
func answersTo(state string, answers chan<- redirect) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		q := r.URL.Query()
		if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 || q.Get("code") == "" && q.Get("error") == "" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintln(w, "This is no answer to the login that keybroker waits for.")
			return
		}
		select {
		case answers <- redirect{q.Get("code"), q.Get("error"), q.Get("error_description"), q.Get("iss")}:
		default: // there was one
		}
		fmt.Fprintln(w, "keybroker goes on in the terminal. You can close this page.")
	})
	return mux
}

// byDevice has the person log in on any device (RFC 8628).
func (p *provider) byDevice(ctx context.Context) (client.SecretText, error) {
	if p.config.Endpoint.DeviceAuthURL == "" {
		return "", &hintError{errors.New("the identity provider has no device flow"), "run keybroker login without --device"}
	}
	with := oidc.ClientContext(ctx, p.http)
	verifier := oauth2.GenerateVerifier()
	device, err := p.config.DeviceAuth(with, oauth2.S256ChallengeOption(verifier))
	if err != nil {
		return "", providerError(ctx, err)
	}
	if err := webAddress(device.VerificationURI); err != nil {
		return "", fmt.Errorf("the page for codes that the identity provider names, %q, %w", device.VerificationURI, err)
	}
	p.app.note("on any device, open\n\n  %s\n\nand enter the code\n\n  %s\n", printable(device.VerificationURI), printable(device.UserCode))
	if webAddress(device.VerificationURIComplete) == nil { // it need not have one
		p.app.note("or open\n\n  %s\n\nwhich has the code in it", printable(device.VerificationURIComplete))
	}
	token, err := p.config.DeviceAccessToken(with, device, oauth2.VerifierOption(verifier))
	if err != nil {
		return "", providerError(ctx, err)
	}
	return p.idToken(ctx, token, "")
}

// idToken takes the id_token out of the answer and looks whether it is the one that
// was asked for; the server verifies it again by its own rules.
func (p *provider) idToken(ctx context.Context, token *oauth2.Token, nonce string) (client.SecretText, error) {
	text, _ := token.Extra("id_token").(string)
	if text == "" {
		return "", errors.New("the identity provider gave no id_token: are the scopes of the auth block right?")
	}
	verified, err := p.found.VerifierContext(oidc.ClientContext(ctx, p.http), &oidc.Config{ClientID: p.config.ClientID}).Verify(ctx, text)
	if err != nil {
		return "", fmt.Errorf("checking the id_token: %w", err)
	}
	if nonce != "" && subtle.ConstantTimeCompare([]byte(verified.Nonce), []byte(nonce)) != 1 {
		return "", errors.New("checking the id_token: it is the answer to another login")
	}
	return client.SecretText(text), nil
}

// providerError says what the provider answered, without the rest of its answer.
func providerError(ctx context.Context, err error) error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case !ok:
		return fmt.Errorf("asking the identity provider for a token: %w", err)
	case refused.ErrorCode == "expired_token":
		return &hintError{errors.New("the code has expired before anybody logged in with it"), "keybroker login --device"}
	case refused.ErrorCode == "access_denied":
		return errors.New("the login was refused at the identity provider")
	case refused.ErrorCode == "":
		return fmt.Errorf("the identity provider gives no token: it answered %s", refused.Response.Status)
	}
	return fmt.Errorf("the identity provider gives no token: %s", printable(strings.TrimSuffix(refused.ErrorCode+": "+refused.ErrorDescription, ": ")))
}

// openBrowser shows a page: by $BROWSER, a list of commands, or as the system does.
func openBrowser(address string) error {
	commands := strings.Split(os.Getenv("BROWSER"), ":")
	switch {
	case commands[0] != "":
	case runtime.GOOS == "darwin":
		commands = []string{"open"}
	case runtime.GOOS == "windows":
		commands = []string{"rundll32 url.dll,FileProtocolHandler"}
	default:
		commands = []string{"xdg-open"}
	}
	err := errors.New("BROWSER names no command")
	for _, command := range commands {
		words := strings.Fields(command)
		if len(words) == 0 {
			continue
		}
		cmd := exec.Command(words[0], append(words[1:], address)...)
		if err = cmd.Start(); err == nil {
			return cmd.Process.Release() // it is the user's from here on
		}
	}
	return err
}
