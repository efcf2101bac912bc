package httpcall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// earlier than it expires a token is no longer used: requests and clocks take time.
const earlier = 10 * time.Second

// tokens gives access tokens of one OAuth 2 client (client credentials, RFC 6749, 4.4).
type tokens struct {
	host  string
	fetch func(context.Context) (*oauth2.Token, error) // over the guarded client; errors may quote answers
	now   func() time.Time

	turn  chan struct{} // holds one element while nobody uses what follows
	last  func() backends.SecretString
	until time.Time // zero: until it is refused
}

func newTokens(b Auth, client *outbound.Client, allowPlain bool, now func() time.Time) (*tokens, hcl.Diagnostics) {
	u, diags := ParseBase(b.TokenURL, b.DefRange, allowPlain)
	style, more := oneOf(b, "client_auth", b.ClientAuth, "basic", "body")
	if diags = append(diags, more...); diags.HasErrors() {
		return nil, diags
	}
	styles := map[string]oauth2.AuthStyle{"basic": oauth2.AuthStyleInHeader, "body": oauth2.AuthStyleInParams}
	besides := url.Values{}
	if b.Audience != "" {
		besides.Set("audience", b.Audience)
	}
	guarded := &http.Client{
		Transport:     roundTripper{client},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t := &tokens{host: u.Host, now: now, turn: make(chan struct{}, 1)}
	t.fetch = func(ctx context.Context) (*oauth2.Token, error) {
		conf := clientcredentials.Config{
			ClientID: b.ClientID, ClientSecret: b.ClientSecret.Reveal(), TokenURL: b.TokenURL,
			Scopes: b.Scopes, EndpointParams: besides, AuthStyle: styles[style],
		}
		return conf.Token(context.WithValue(ctx, oauth2.HTTPClient, guarded))
	}
	t.turn <- struct{}{}
	return t, nil
}

// get returns a token and, where usedToo lets it, one that was used before. Errors are
// of a class and hold nothing that was sent or answered.
func (t *tokens) get(ctx context.Context, usedToo bool) (token backends.SecretString, used bool, err error) {
	select {
	case <-t.turn:
	case <-ctx.Done():
		return "", false, fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	defer func() { t.turn <- struct{}{} }()
	if usedToo && t.last != nil && (t.until.IsZero() || t.now().Before(t.until)) {
		return t.last(), true, nil
	}
	got, err := t.fetch(ctx)
	if err == nil && (got.Type() != "Bearer" || got.AccessToken == "" || !usable(backends.SecretString(got.AccessToken))) {
		err = errNoToken
	}
	if err != nil {
		return "", false, fmt.Errorf("getting a token from %s: %w", t.host, tokenFault(err))
	}
	text := backends.SecretString(got.AccessToken)
	t.last, t.until = func() backends.SecretString { return text }, time.Time{}
	if !got.Expiry.IsZero() { // which the library reckoned by the system's clock
		t.until = t.now().Add(time.Until(got.Expiry) - earlier)
	}
	return text, false, nil
}

var errNoToken = fmt.Errorf("%w: the answer has no bearer token", backends.ErrUnavailable)

// oauthErrors are the codes of RFC 6749, 5.2, which may be shown.
var oauthErrors = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
}

// tokenFault gives an error of the library a class; its own texts quote the answer.
func tokenFault(err error) error {
	var answer *oauth2.RetrieveError
	var way *url.Error
	switch {
	case errors.As(err, &answer):
		status := 0
		if answer.Response != nil {
			status = answer.Response.StatusCode
		}
		class := StatusClass(status)
		if !slices.Contains(oauthErrors, answer.ErrorCode) {
			return fmt.Errorf("%w: status %d", class, status)
		}
		if answer.ErrorCode != "invalid_request" && errors.Is(class, backends.ErrInvalid) {
			class = backends.ErrDenied // the client is not known, or may not
		}
		return fmt.Errorf("%w: status %d, %s", class, status, answer.ErrorCode)
	case errors.As(err, &way):
		return way.Err // of outbound
	}
	return errNoToken
}

// roundTripper lets a library send requests by the guarded client.
type roundTripper struct{ client *outbound.Client }

// RoundTrip implements http.RoundTripper.
func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: resp.Status, Status: http.StatusText(resp.Status), Header: resp.Header, Request: req,
		ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(resp.Body)), ContentLength: int64(len(resp.Body)),
	}, nil
}

// StatusClass maps a status that is no success to a class of package backends. What
// cannot be told for sure to have had no effect (another 2xx, 303 See Other) is
// ErrUnavailable.
func StatusClass(status int) error {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return backends.ErrDenied
	case http.StatusConflict, http.StatusPreconditionFailed:
		return backends.ErrConflict
	case http.StatusSeeOther, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return backends.ErrUnavailable
	}
	if status >= 300 && status < 500 {
		return backends.ErrInvalid
	}
	return backends.ErrUnavailable
}
