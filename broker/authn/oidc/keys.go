package oidc

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

const (
	// freshFor is how long keys are used before the provider is asked for them again
	// (a file is read each time), and staleFor how long at most while they cannot be
	// got: a key that was withdrawn is no longer accepted then.
	freshFor = 5 * time.Minute
	staleFor = time.Hour
	// unknownEvery is how often a key that is not known makes us ask, whoever sends it,
	// and retryEvery how often a provider that did not answer is asked again.
	unknownEvery = 10 * time.Second
	retryEvery   = 2 * time.Second
	askTimeout   = 10 * time.Second

	maxKeys    = 100 // of a set that are looked at
	minRSABits = 2048
	maxRSABits = 8192
)

// keySet holds a provider's keys: none at first, asked for when they are needed.
type keySet struct {
	load   func(context.Context) ([]jose.JSONWebKey, error)
	fresh  time.Duration // how long keys are used before they are loaded again
	now    func() time.Time
	logger hclog.Logger

	turn     chan struct{} // holds one while somebody looks at the rest
	keys     []jose.JSONWebKey
	loadedAt time.Time // zero: never
	triedAt  time.Time
	err      error // of the last try
}

func newKeySet(load func(context.Context) ([]jose.JSONWebKey, error), fresh time.Duration, now func() time.Time, logger hclog.Logger) *keySet {
	return &keySet{load: load, fresh: fresh, now: now, logger: logger, turn: make(chan struct{}, 1)}
}

// find returns the keys that may have signed what says to be signed by the key called
// id (empty: it does not say) with alg. None if the provider has no such key;
// ErrUnavailable if it cannot be told.
func (s *keySet) find(ctx context.Context, id string, alg jose.SignatureAlgorithm) ([]jose.JSONWebKey, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for the provider's keys: %w", backends.ErrUnavailable, ctx.Err())
	}
	now := s.now()
	age := now.Sub(s.loadedAt)
	if s.loadedAt.IsZero() || age >= s.fresh {
		if err := s.ask(ctx, now); err != nil && (s.loadedAt.IsZero() || age >= staleFor) {
			return nil, err
		}
	}
	found := s.fitting(id, alg)
	if len(found) == 0 && now.Sub(s.loadedAt) >= unknownEvery { // a new key, or an invention
		if err := s.ask(ctx, now); err != nil {
			return nil, err
		}
		found = s.fitting(id, alg)
	}
	return found, nil
}

func (s *keySet) fitting(id string, alg jose.SignatureAlgorithm) (found []jose.JSONWebKey) {
	for _, k := range s.keys {
		if (id == "" || k.KeyID == id) && (k.Algorithm == "" || k.Algorithm == string(alg)) {
			found = append(found, k)
		}
	}
	return found
}

// ask gets the keys anew, unless that was tried a moment ago: then the error is that
// of the last try.
func (s *keySet) ask(ctx context.Context, now time.Time) error {
	if s.err != nil && now.Sub(s.triedAt) < retryEvery {
		return s.err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	keys, err := s.load(ctx)
	if errors.Is(err, context.Canceled) {
		return err // of who asked, and nothing of the provider's
	}
	if s.triedAt = now; err != nil {
		if s.err == nil {
			s.logger.Warn("the provider's keys cannot be got; logins fail until they can", "error", err)
		}
		s.err = err
		return err
	}
	if s.err != nil {
		s.logger.Info("the provider's keys can be got again")
	}
	s.keys, s.loadedAt, s.err = keys, now, nil
	return nil
}

// parseKeys reads a JWK set and keeps what can sign tokens: keys of other kinds are
// no mistake (RFC 7517, section 5).
func parseKeys(text []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("%w: it is no JWK set", backends.ErrInvalid)
	}
	var keys []jose.JSONWebKey
	for i, raw := range set.Keys {
		if i == maxKeys {
			break
		}
		var k jose.JSONWebKey
		if err := json.Unmarshal(raw, &k); err != nil || !signs(k) {
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: it has no public key for signatures", backends.ErrInvalid)
	}
	return keys, nil
}

func signs(k jose.JSONWebKey) bool {
	if !k.Valid() || !k.IsPublic() || k.Use != "" && k.Use != "sig" {
		return false
	}
	if r, ok := k.Key.(*rsa.PublicKey); ok {
		return r.N.BitLen() >= minRSABits && r.N.BitLen() <= maxRSABits
	}
	return true
}

// keyFile reads the keys of a file.
func keyFile(path string) func(context.Context) ([]jose.JSONWebKey, error) {
	return func(context.Context) ([]jose.JSONWebKey, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%w: reading jwks_file: %w", backends.ErrUnavailable, err)
		}
		keys, err := parseKeys(text)
		if err != nil {
			return nil, fmt.Errorf("%w: jwks_file %s: %w", backends.ErrUnavailable, path, err)
		}
		return keys, nil
	}
}

// keysAt gets a JWK set over HTTP.
func keysAt(client *outbound.Client, address string) func(context.Context) ([]jose.JSONWebKey, error) {
	return func(ctx context.Context) ([]jose.JSONWebKey, error) {
		text, err := get(ctx, client, address)
		if err != nil {
			return nil, fmt.Errorf("getting the keys of %s: %w", host(address), err)
		}
		keys, err := parseKeys(text)
		if err != nil {
			return nil, fmt.Errorf("%w: the keys of %s cannot be used: %w", backends.ErrUnavailable, host(address), err)
		}
		return keys, nil
	}
}

// discovered finds out where a provider's keys are each time that they are got: a
// provider that moves them says so there.
func discovered(client *outbound.Client, c Config) func(context.Context) ([]jose.JSONWebKey, error) {
	return func(ctx context.Context) ([]jose.JSONWebKey, error) {
		text, err := get(ctx, client, c.document())
		if err != nil {
			return nil, fmt.Errorf("asking %s how to check its tokens: %w", host(c.DiscoveryURL), err)
		}
		var doc struct {
			Issuer  string `json:"issuer"`
			JWKSURI string `json:"jwks_uri"`
		}
		if err := json.Unmarshal(text, &doc); err != nil {
			return nil, fmt.Errorf("%w: what %s answers is no description of an OpenID provider: is discovery_url right?", backends.ErrUnavailable, host(c.DiscoveryURL))
		}
		if doc.Issuer != c.issuer() {
			return nil, fmt.Errorf("%w: %s calls itself the issuer %q and not %q: set discovery_url or issuer to that if it is meant", backends.ErrUnavailable, host(c.DiscoveryURL), doc.Issuer, c.issuer())
		}
		if err := checkURL(doc.JWKSURI); err != nil {
			return nil, fmt.Errorf("%w: the jwks_uri of %s %w", backends.ErrUnavailable, host(c.DiscoveryURL), err)
		}
		return keysAt(client, doc.JWKSURI)(ctx)
	}
}

func get(ctx context.Context, client *outbound.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: making the request", backends.ErrUnavailable)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		if _, refused := errors.AsType[*outbound.RefusedError](err); refused {
			return nil, fmt.Errorf("%w: %s", backends.ErrUnavailable, err) // it is not the caller who is denied
		}
		return nil, err
	}
	if resp.Status != http.StatusOK {
		return nil, fmt.Errorf("%w: it answered with the status %d", backends.ErrUnavailable, resp.Status)
	}
	return resp.Body, nil
}
