// Package oidc tells whom a JWT of an identity provider is about.
package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation/outbound"
)

const (
	// maxSize bounds the bytes of a JWT. Some providers put hundreds of groups into one.
	maxSize = 64 << 10
	// maxSubject bounds the bytes of a subject (OpenID Connect Core 1.0, section 2), and
	// maxName those of what people are called.
	maxSubject = 255
	maxName    = 255
)

// Method verifies the JWTs of one provider. It is safe for concurrent use.
type Method struct {
	name   string
	config Config
	claims map[string][]string
	keys   keySource
	now    func() time.Time
	client *outbound.Client // nil: with a file of keys
}

var (
	_ authn.LoginMethod = (*Method)(nil)
	_ authn.Issued      = (*Method)(nil)
)

// New makes the method of the auth block called name; ErrInvalid if the configuration
// has mistakes. The provider need not be up: it is asked when somebody logs in. The
// logger is told when it cannot be asked.
func New(name string, c Config, now func() time.Time, logger hclog.Logger) (*Method, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	m := &Method{name: name, config: c, now: now}
	m.claims, _ = c.claims() // Validate did
	if c.JWKSFile != "" {
		m.keys = &keyFile{path: c.JWKSFile, trouble: trouble{logger: logger}}
		return m, nil
	}
	var err error
	if m.client, err = outbound.New(outbound.Options{AllowPrivate: c.AllowPrivateNetwork, CAFile: c.CAFile, Timeout: askTimeout}); err != nil {
		return nil, err
	}
	load := discovered(m.client, c)
	if c.JWKSURL != "" {
		load = keysAt(m.client, c.JWKSURL)
	}
	m.keys = newKeySet(load, now, logger)
	return m, nil
}

// Close closes the connections to the provider.
func (m *Method) Close() {
	m.keys.end()
	if m.client != nil {
		m.client.Close()
	}
}

// Issuer implements authn.Issued.
func (m *Method) Issuer() string { return m.config.issuer() }

// Describe implements authn.LoginMethod.
func (m *Method) Describe() authn.LoginDescription {
	c := m.config
	if c.ClientID == "" {
		return authn.LoginDescription{}
	}
	scopes := c.Scopes
	if len(scopes) == 0 {
		scopes = []string{"openid", "profile", "email"}
	}
	return authn.LoginDescription{Issuer: c.issuer(), ClientID: c.ClientID, Scopes: scopes}
}

// Verify implements authn.LoginMethod (RFC 7519, section 7.2; OpenID Connect Core
// 1.0, section 3.1.3.7). Its errors quote nothing of a token whose signature is wrong.
func (m *Method) Verify(ctx context.Context, text string) (authn.Identity, error) {
	if len(text) > maxSize {
		return authn.Identity{}, denied("the JWT is longer than %d bytes", maxSize)
	}
	token, err := jwt.ParseSigned(text, m.config.algorithms())
	if err != nil {
		return authn.Identity{}, denied("it is no JWT that is signed in one of the ways %v", m.config.algorithms())
	}
	if len(token.Headers) != 1 {
		return authn.Identity{}, denied("the JWT has %d signatures", len(token.Headers))
	}
	if err := checkType(token.Headers[0]); err != nil {
		return authn.Identity{}, err
	}
	std, claims, err := m.open(ctx, token)
	if err != nil {
		return authn.Identity{}, err
	}
	if err := m.check(std, claims); err != nil {
		return authn.Identity{}, err
	}
	name := std.Subject
	if c := m.config.NameClaim; c != "" {
		if name, _ = claims[c].(string); name == "" {
			return authn.Identity{}, denied("the JWT lacks the claim %q, which names people here", c)
		}
	}
	if len(name) > maxName || strings.ContainsFunc(name, unicode.IsControl) {
		return authn.Identity{}, denied("the JWT names people by more than %d bytes, or with control characters", maxName)
	}
	return authn.Identity{Method: m.name, Authority: std.Issuer, Subject: std.Subject, Name: name, Claims: claims}, nil
}

func denied(format string, args ...any) error {
	return fmt.Errorf("%w: %s", backends.ErrDenied, fmt.Sprintf(format, args...))
}

// checkType refuses what a provider signs with the same keys for other ends, such as
// a logout token (RFC 8725, section 3.11).
func checkType(h jose.Header) error {
	kind, _ := h.ExtraHeaders[jose.HeaderType].(string)
	switch strings.TrimPrefix(strings.ToLower(kind), "application/") {
	case "", "jwt", "at+jwt", "id_token+jwt":
		return nil
	}
	return denied("the JWT is of a type that tells nobody's identity")
}

// open verifies the signature and decodes the claims. The numbers among them are as they
// are written: ids of 64 bits are told apart.
func (m *Method) open(ctx context.Context, token *jwt.JSONWebToken) (std jwt.Claims, claims map[string]any, err error) {
	h := token.Headers[0]
	keys, err := m.keys.find(ctx, h.KeyID, jose.SignatureAlgorithm(h.Algorithm))
	switch {
	case errors.Is(err, errTooEarly):
		return std, nil, fmt.Errorf("auth %q: %w: try again in a while", m.name, err)
	case err != nil: // what exactly is in the log alone: nobody is known yet
		return std, nil, fmt.Errorf("auth %q cannot check JWTs now: %w: the keys of its provider cannot be got", m.name, backends.ErrUnavailable)
	case len(keys) == 0:
		return std, nil, denied("the JWT is signed by a key that the provider of auth %q does not have", m.name)
	}
	for _, key := range keys {
		var payload []byte
		if err := token.Claims(key, &raw{&payload}); err != nil {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(payload))
		d.UseNumber()
		strict := map[string]any{} // names no claim twice
		if token.Claims(key, &std, &strict) != nil || d.Decode(&claims) != nil {
			return std, nil, denied("the claims of the JWT are malformed")
		}
		return std, claims, nil
	}
	return std, nil, denied("the signature of the JWT is wrong")
}

// raw takes any JSON: it tells a wrong signature from claims that are malformed.
type raw struct{ bytes *[]byte }

// UnmarshalJSON implements json.Unmarshaler.
func (r *raw) UnmarshalJSON(b []byte) error {
	*r.bytes = append([]byte(nil), b...)
	return nil
}

// check looks at the claims of a JWT that the provider has signed.
func (m *Method) check(std jwt.Claims, claims map[string]any) error {
	now, skew := m.now(), m.config.skew()
	if _, ok := claims["events"]; ok { // RFC 8417: it tells of something that happened
		return denied("the JWT is of a type that tells nobody's identity")
	}
	switch {
	case std.Issuer != m.config.issuer():
		return denied("the JWT is of the issuer %q, and not of %q", std.Issuer, m.config.issuer())
	case std.Subject == "":
		return denied("the JWT has no subject")
	case len(std.Subject) > maxSubject || strings.ContainsFunc(std.Subject, unicode.IsControl):
		return denied("the subject of the JWT is longer than %d bytes, or has control characters", maxSubject)
	case std.Expiry == nil:
		return denied("the JWT never expires")
	case !slices.ContainsFunc(m.config.BoundAudiences, std.Audience.Contains):
		return denied("the JWT is for %q, and not for one of %q", []string(std.Audience), m.config.BoundAudiences)
	}
	switch err := std.ValidateWithLeeway(jwt.Expected{Time: now}, skew); {
	case errors.Is(err, jwt.ErrExpired):
		return denied("the JWT has expired at %s", std.Expiry.Time().UTC().Format(time.RFC3339))
	case errors.Is(err, jwt.ErrNotValidYet):
		return denied("the JWT is not valid before %s", std.NotBefore.Time().UTC().Format(time.RFC3339))
	case errors.Is(err, jwt.ErrIssuedInTheFuture):
		return denied("the JWT was issued in the future, at %s: the clocks differ", std.IssuedAt.Time().UTC().Format(time.RFC3339))
	case err != nil:
		return denied("the JWT is not valid")
	}
	if err := m.checkParty(std, claims); err != nil {
		return err
	}
	return m.checkBound(claims)
}

// checkParty looks at the authorised party: an id_token that was issued to another
// client, and merely names ours as a further audience, is no login at ours.
func (m *Method) checkParty(std jwt.Claims, claims map[string]any) error {
	id := m.config.ClientID
	if id == "" || !std.Audience.Contains(id) {
		return nil
	}
	party, _ := claims["azp"].(string)
	switch {
	case party == id, party == "" && claims["azp"] == nil && len(std.Audience) == 1:
		return nil
	case claims["azp"] == nil:
		return denied("the JWT is for several, and does not say which of them it was issued to")
	}
	return denied("the JWT was issued to another client than %q", id)
}

func (m *Method) checkBound(claims map[string]any) error {
	for name, values := range m.claims {
		one := policy.Binding{Method: m.name, Claims: map[string][]string{name: values}}
		if !one.Matches(policy.Known{Method: m.name, Claims: claims}) {
			return denied("the claim %q of the JWT is none of %q", name, values)
		}
	}
	return nil
}
