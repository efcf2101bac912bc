package oidc

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/go-jose/go-jose/v4"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

const (
	maxKeys    = 100 // of a set that are looked at
	minRSABits = 2048
	maxRSABits = 8192
)

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

// readKeys reads the keys of a file.
func readKeys(path string) ([]jose.JSONWebKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading jwks_file: %w", err)
	}
	keys, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("jwks_file %s: %w", path, err)
	}
	return keys, nil
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
