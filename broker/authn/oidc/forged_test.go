package oidc_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn/oidc"
)

const (
	ownIssuer = "https://login.example.com"
	canary    = "CANARY-5d41402abc"
)

func goodClaims() map[string]any {
	return map[string]any{"iss": ownIssuer, "sub": "alice", "aud": "keybroker", "exp": time.Now().Add(time.Hour).Unix(), "note": canary}
}

func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, headers map[jose.HeaderKey]any, claims any) string {
	t.Helper()
	options := &jose.SignerOptions{ExtraHeaders: headers}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// signed signs any payload by the key "r".
func signed(t testing.TB, r *rsa.PrivateKey, payload string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: r, KeyID: "r"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	object, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text, err := object.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// own makes a method with a file of keys, and the private ones: RSA, "r", and ECDSA, "e".
func own(t testing.TB) (m *oidc.Method, r *rsa.PrivateKey, e *ecdsa.PrivateKey) {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err == nil {
		e, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &r.PublicKey, KeyID: "r", Algorithm: "RS256", Use: "sig"}, {Key: &e.PublicKey, KeyID: "e"},
		{Key: []byte("a secret that a provider should not publish"), KeyID: "oct"},
		{Key: &r.PublicKey, KeyID: "enc", Use: "enc"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, set, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err = oidc.New("corp", oidc.Config{JWKSFile: path, Issuer: ownIssuer, BoundAudiences: []string{"keybroker"}}, time.Now, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return m, r, e
}

func kid(id string) map[jose.HeaderKey]any { return map[jose.HeaderKey]any{"kid": id} }

func TestForged(t *testing.T) {
	m, r, e := own(t)
	mine, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&r.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	body, _ := json.Marshal(goodClaims())
	good := sign(t, jose.RS256, r, kid("r"), goodClaims())
	parts := strings.Split(good, ".")
	for name, text := range map[string]string{
		"with kid":    good,
		"without kid": sign(t, jose.RS256, r, nil, goodClaims()),
		"ECDSA":       sign(t, jose.ES256, e, kid("e"), goodClaims()),
		"typ at+jwt":  sign(t, jose.RS256, r, map[jose.HeaderKey]any{"kid": "r", "typ": "application/at+jwt"}, goodClaims()),
	} {
		if id, err := m.Verify(t.Context(), text); err != nil || id.Subject != "alice" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"empty":                 "",
		"no JWT":                "a.b.c",
		"alg none":              encode([]byte(`{"alg":"none"}`)) + "." + encode(body) + ".",
		"the public key's HMAC": sign(t, jose.HS256, der, kid("r"), goodClaims()),
		"the published secret":  sign(t, jose.HS256, []byte("a secret that a provider should not publish"), kid("oct"), goodClaims()),
		"another key":           sign(t, jose.RS256, mine, kid("r"), goodClaims()),
		"another key, unnamed":  sign(t, jose.RS256, mine, nil, goodClaims()),
		"a key for encryption":  sign(t, jose.RS256, r, kid("enc"), goodClaims()),
		"another algorithm":     sign(t, jose.RS512, r, kid("r"), goodClaims()),
		"a key of its own":      sign(t, jose.RS256, mine, map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: &mine.PublicKey}}, goodClaims()),
		"keys of its own":       sign(t, jose.RS256, mine, map[jose.HeaderKey]any{"jku": "http://127.0.0.1/keys"}, goodClaims()),
		"a logout token":        sign(t, jose.RS256, r, map[jose.HeaderKey]any{"kid": "r", "typ": "logout+jwt"}, goodClaims()),
		"an unknown condition":  sign(t, jose.RS256, r, map[jose.HeaderKey]any{"kid": "r", "crit": []string{"x"}, "x": 1}, goodClaims()),
		"other claims":          parts[0] + "." + encode([]byte(strings.Replace(string(body), "alice", "mallory", 1))) + "." + parts[2],
		"no signature":          parts[0] + "." + parts[1] + ".",
		"claims of a list":      signed(t, r, `["a"]`),
		"a claim twice":         signed(t, r, `{"sub": "alice", "sub": "mallory"}`),
		"too long":              good + strings.Repeat("A", 64<<10),
	} {
		_, err := m.Verify(t.Context(), text)
		if !errors.Is(err, backends.ErrDenied) || strings.Contains(err.Error(), canary) || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever is sent: nothing but what was signed here is accepted, and what is not
// accepted is denied.
func FuzzJWT(f *testing.F) {
	m, r, e := own(f)
	accepted := map[string]bool{}
	for _, text := range []string{sign(f, jose.RS256, r, kid("r"), goodClaims()), sign(f, jose.ES256, e, nil, goodClaims())} {
		parts := strings.Split(text, ".")
		accepted[parts[0]+"."+parts[1]] = true
		f.Add(text)
		f.Add(parts[0] + "." + parts[1] + ".")
	}
	f.Add(sign(f, jose.HS256, []byte("0123456789abcdef0123456789abcdef"), nil, goodClaims()))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + ".e30.")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := m.Verify(t.Context(), text)
		if err != nil {
			if !errors.Is(err, backends.ErrDenied) || errors.Is(err, backends.ErrUnavailable) || id.Subject != "" {
				t.Fatalf("%q: %+v, %v", text, id, err)
			}
			return
		}
		signed := strings.Join(strings.Fields(text), "")
		if i := strings.LastIndex(signed, "."); i < 0 || !accepted[signed[:i]] || id.Subject != "alice" {
			t.Fatalf("%q was accepted as %+v", text, id)
		}
	})
}
