package oidc

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/keybroker/keybroker/backends"
)

const (
	defaultSkew = 30 * time.Second
	maxSkew     = 5 * time.Minute
)

// Config is the body of an auth "oidc" or auth "jwt" block. Where the keys come from
// is exactly one of DiscoveryURL, JWKSURL and JWKSFile.
type Config struct {
	// DiscoveryURL is the issuer, below which /.well-known/openid-configuration is.
	DiscoveryURL string `hcl:"discovery_url,optional"`
	JWKSURL      string `hcl:"jwks_url,optional"`
	// JWKSFile holds a JWK set, and is read at each login.
	JWKSFile string `hcl:"jwks_file,optional" file:"reread"`
	// Issuer is what the claim iss must be; with DiscoveryURL it is that unless it is set.
	Issuer string `hcl:"issuer,optional"`

	BoundAudiences []string       `hcl:"bound_audiences"`       // one of them must be in aud
	BoundClaims    *hcl.Attribute `hcl:"bound_claims,optional"` // { CLAIM = "value" } or lists of values: each must hold
	ClockSkew      *time.Duration `hcl:"clock_skew,optional"`   // that exp, nbf and iat may be off by; default 30s
	Algorithms     []string       `hcl:"algorithms,optional"`   // of signatures; default: those that are asymmetric
	NameClaim      string         `hcl:"name_claim,optional"`   // what names people in lists and templates; default "sub"

	ClientID string   `hcl:"client_id,optional"` // of the public client that people log in by
	Scopes   []string `hcl:"scopes,optional"`    // that they ask for; default openid, profile, email

	CAFile              string `hcl:"ca_file,optional"` // PEM certificates trusted instead of the system's
	AllowPrivateNetwork bool   `hcl:"allow_private_network,optional"`
}

// asymmetric are the algorithms that a signature may have. Neither none nor HMAC is
// there: a provider's public key would be the secret of the latter.
var asymmetric = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}

// Validate returns every mistake, joined, each a text that begins with the name of
// the attribute. It opens nothing.
func (c Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	c.validateSource(wrong)
	if len(c.BoundAudiences) == 0 || slices.Contains(c.BoundAudiences, "") {
		wrong("bound_audiences must name who the tokens are for: without it any token of the provider would do, also one meant for another service")
	}
	if _, err := c.claims(); err != nil {
		wrong("bound_claims %w", err)
	}
	if c.ClockSkew != nil && (*c.ClockSkew < 0 || *c.ClockSkew > maxSkew) {
		wrong("clock_skew is %s: write a duration from \"0s\" to %q", *c.ClockSkew, "5m")
	}
	for _, alg := range c.Algorithms {
		if !slices.Contains(asymmetric, jose.SignatureAlgorithm(alg)) {
			wrong("algorithms has %q, which is no asymmetric signature that is known here: use some of %v", alg, asymmetric)
		}
	}
	if len(c.Scopes) > 0 && !slices.Contains(c.Scopes, "openid") {
		wrong("scopes lacks \"openid\": without it the provider gives no id_token")
	}
	return errors.Join(errs...)
}

// ValidateForPeople is Validate for a provider that people log in at: an auth "oidc".
func (c Config) ValidateForPeople() error {
	err := c.Validate()
	if c.DiscoveryURL == "" {
		err = errors.Join(err, fmt.Errorf("%w: discovery_url is missing: it leads people to where they log in; a provider whose JWTs only programs show is an auth \"jwt\"", backends.ErrInvalid))
	}
	if c.ClientID == "" {
		err = errors.Join(err, fmt.Errorf("%w: client_id is missing: people log in by a public client of the provider; one whose JWTs only programs show is an auth \"jwt\"", backends.ErrInvalid))
	} else if len(c.BoundAudiences) > 0 && !slices.Contains(c.BoundAudiences, c.ClientID) {
		err = errors.Join(err, fmt.Errorf("%w: bound_audiences lacks the client_id %q: it is the audience of the id_tokens that people get", backends.ErrInvalid, c.ClientID))
	}
	return err
}

// ValidateForPrograms is Validate for JWTs that are got without us: an auth "jwt".
func (c Config) ValidateForPrograms() error {
	err := c.Validate()
	if c.ClientID != "" {
		err = errors.Join(err, fmt.Errorf("%w: client_id is of no use: a provider that people log in at is an auth \"oidc\"", backends.ErrInvalid))
	}
	if len(c.Scopes) > 0 {
		err = errors.Join(err, fmt.Errorf("%w: scopes are of no use: a provider that people log in at is an auth \"oidc\"", backends.ErrInvalid))
	}
	return err
}

func (c Config) validateSource(wrong func(string, ...any)) {
	given := 0
	for _, source := range []string{c.DiscoveryURL, c.JWKSURL, c.JWKSFile} {
		if source != "" {
			given++
		}
	}
	switch {
	case given == 0:
		wrong("the provider's keys are missing: set discovery_url, jwks_url or jwks_file")
	case given > 1:
		wrong("the provider's keys come from several places: set one of discovery_url, jwks_url and jwks_file")
	}
	if c.DiscoveryURL == "" && given == 1 && c.Issuer == "" {
		wrong("issuer is missing: it is what the claim iss must be, and nothing else tells it without discovery_url")
	}
	for name, address := range map[string]string{"discovery_url": c.DiscoveryURL, "jwks_url": c.JWKSURL} {
		if address != "" {
			if err := checkURL(address); err != nil {
				wrong("%s %w", name, err)
			}
		}
	}
}

// checkURL refuses what would let others than the provider give us its keys.
func checkURL(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.RawQuery != "":
		return errors.New(`is no URL: write one such as "https://login.example.com"`)
	case u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return errors.New("does not begin with https://: over plain HTTP, which is for loopback alone, anybody on the way could exchange the keys")
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// claims reads { groups = "on-call" } or { groups = ["on-call", "sre"] }.
func (c Config) claims() (map[string][]string, error) {
	if c.BoundClaims == nil {
		return nil, nil
	}
	value, diags := c.BoundClaims.Expr.Value(nil)
	if diags.HasErrors() {
		return nil, errors.New("takes constants only: write the values themselves")
	}
	mistake := errors.New(`is an object of texts or lists of texts: write for instance { groups = ["on-call"] }`)
	if value.IsNull() || !value.CanIterateElements() || !value.Type().IsObjectType() && !value.Type().IsMapType() {
		return nil, mistake
	}
	bound := map[string][]string{}
	for name, v := range value.AsValueMap() {
		if v.IsNull() {
			return nil, mistake
		}
		if v.Type().IsPrimitiveType() {
			v = cty.TupleVal([]cty.Value{v})
		}
		list, err := convert.Convert(v, cty.List(cty.String))
		if err != nil || list.LengthInt() == 0 {
			return nil, mistake
		}
		for _, text := range list.AsValueSlice() {
			if text.IsNull() {
				return nil, mistake
			}
			bound[name] = append(bound[name], text.AsString())
		}
	}
	return bound, nil
}

func (c Config) issuer() string {
	if c.Issuer != "" {
		return c.Issuer
	}
	return c.DiscoveryURL
}

func (c Config) skew() time.Duration {
	if c.ClockSkew == nil {
		return defaultSkew
	}
	return *c.ClockSkew
}

func (c Config) algorithms() []jose.SignatureAlgorithm {
	if len(c.Algorithms) == 0 {
		return asymmetric
	}
	var algs []jose.SignatureAlgorithm
	for _, alg := range c.Algorithms {
		algs = append(algs, jose.SignatureAlgorithm(alg))
	}
	return algs
}

// document is where the provider describes itself (OpenID Connect Discovery 1.0, 4).
func (c Config) document() string {
	const path = "/.well-known/openid-configuration"
	return strings.TrimSuffix(strings.TrimSuffix(c.DiscoveryURL, path), "/") + path
}

// host is what messages call the provider.
func host(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "the provider"
	}
	if h, _, err := net.SplitHostPort(u.Host); err == nil {
		return h
	}
	return u.Host
}
