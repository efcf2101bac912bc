package webhook

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/keybroker/keybroker/backends"
)

const (
	maxRecipients = 16   // a bundle of other people's certificates is no key file
	minRSA        = 2048 // bits
)

// Recipients are the public keys that a consumer's messages are sealed to: each of
// them opens every message, so that a consumer replaces its key by having two for a
// while. Safe for concurrent use.
type Recipients struct {
	to []jose.Recipient
}

// ReadRecipients reads a consumer's public keys: a JSON Web Key, a set of them
// (RFC 7517), or PEM with public keys or certificates, of which only the key counts.
// Elliptic curve keys (P-256, P-384, P-521) are used with ECDH-ES+A256KW, RSA keys of
// at least 2048 bits with RSA-OAEP-256 (RFC 7518). A key without a kid gets its
// thumbprint (RFC 7638). The error is ErrInvalid, says which key cannot be used and why,
// and shows nothing of it.
func ReadRecipients(file string) (*Recipients, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: reading public keys: %w", backends.ErrInvalid, err)
	}
	r, err := parseRecipients(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s %w", backends.ErrInvalid, file, err)
	}
	return r, nil
}

// KeyIDs lists the keys' ids in the order of the file.
func (r *Recipients) KeyIDs() []string {
	ids := make([]string, len(r.to))
	for i, to := range r.to {
		ids[i] = to.KeyID
	}
	return ids
}

// parseRecipients returns errors that go on after the file's name.
func parseRecipients(text []byte) (*Recipients, error) {
	read := readPEM
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		read = readJWKs
	}
	keys, err := read(text)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("holds no public key: it is a JSON Web Key, a set of them, or PEM")
	}
	if len(keys) > maxRecipients {
		return nil, fmt.Errorf("holds %d keys: each could open what is sealed, and %d is the most", len(keys), maxRecipients)
	}
	r := &Recipients{}
	for i, k := range keys {
		to, err := recipient(k)
		if err != nil {
			return nil, fmt.Errorf("cannot be used: key %d %w", i+1, err)
		}
		if slices.Contains(r.KeyIDs(), to.KeyID) {
			return nil, fmt.Errorf("cannot be used: key %d has the kid %q, which another one has", i+1, to.KeyID)
		}
		r.to = append(r.to, to)
	}
	if _, err := r.seal(sealed{}); err != nil { // what else may be wrong with a key
		return nil, fmt.Errorf("cannot be used: nothing can be encrypted to its keys")
	}
	return r, nil
}

// readJWKs reads one JSON Web Key or a set. It looks by itself for what is secret:
// nothing else is to see that.
func readJWKs(text []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(text, &set) != nil {
		return nil, fmt.Errorf("is no JSON Web Key, nor a set of them")
	}
	if set.Keys == nil {
		set.Keys = []json.RawMessage{text}
	}
	keys := make([]jose.JSONWebKey, len(set.Keys))
	for i, raw := range set.Keys {
		if err := readJWK(raw, &keys[i]); err != nil {
			return nil, fmt.Errorf("cannot be used: key %d %w", i+1, err)
		}
	}
	return keys, nil
}

func readJWK(raw json.RawMessage, key *jose.JSONWebKey) error {
	var is struct {
		Type    string          `json:"kty"`
		Curve   string          `json:"crv"`
		Private json.RawMessage `json:"d"`
		Secret  json.RawMessage `json:"k"`
	}
	switch {
	case json.Unmarshal(raw, &is) != nil || is.Type == "":
		return fmt.Errorf("is no JSON Web Key")
	case is.Type == "oct" || is.Secret != nil:
		return fmt.Errorf("is symmetric: give the public key of a pair")
	case is.Private != nil:
		return errPrivate
	case is.Type == "OKP" && is.Curve != "Ed25519":
		return errUnsupported
	case json.Unmarshal(raw, key) != nil:
		return fmt.Errorf("is no valid JSON Web Key of type EC or RSA")
	}
	return nil
}

var (
	errPrivate     = fmt.Errorf("is private: give the public key of a new pair, since this one has left its place")
	errUnsupported = fmt.Errorf("is of a kind that messages cannot be sealed to: give one of P-256, P-384, P-521, or RSA of %d bits", minRSA)
)

func readPEM(text []byte) ([]jose.JSONWebKey, error) {
	var keys []jose.JSONWebKey
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return keys, nil
		}
		public, err := publicOf(block)
		if err != nil {
			return nil, fmt.Errorf("cannot be used: key %d %w", len(keys)+1, err)
		}
		keys = append(keys, jose.JSONWebKey{Key: public})
	}
}

func publicOf(block *pem.Block) (key any, err error) {
	switch {
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return nil, errPrivate
	case block.Type == "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case block.Type == "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case block.Type == "CERTIFICATE":
		var certificate *x509.Certificate
		if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = certificate.PublicKey
		}
	default:
		return nil, fmt.Errorf("is neither a public key nor a certificate")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot be parsed")
	}
	return key, nil
}

// recipient chooses how to encrypt to a key, and refuses those that are too weak or
// made for something else.
func recipient(k jose.JSONWebKey) (jose.Recipient, error) {
	to := jose.Recipient{Key: k.Key, KeyID: k.KeyID}
	switch key := k.Key.(type) {
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, key.Curve) {
			return to, errUnsupported
		}
		to.Algorithm = jose.ECDH_ES_A256KW
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSA || key.E < 3 {
			return to, fmt.Errorf("is too weak: an RSA key has at least %d bits, and an exponent from 3", minRSA)
		}
		to.Algorithm = jose.RSA_OAEP_256
	case ed25519.PublicKey:
		return to, fmt.Errorf("is for signing (Ed25519): give one of P-256, P-384, P-521, or RSA")
	case *ecdh.PublicKey:
		return to, errUnsupported
	default:
		return to, errUnsupported
	}
	if k.Use != "" && k.Use != "enc" {
		return to, fmt.Errorf("is not for encryption: its use is %q", k.Use)
	}
	if k.Algorithm != "" && k.Algorithm != string(to.Algorithm) {
		return to, fmt.Errorf("is for the algorithm %q: leave that out, or write %q", k.Algorithm, to.Algorithm)
	}
	if to.KeyID == "" {
		sum, err := k.Thumbprint(crypto.SHA256)
		if err != nil {
			return to, fmt.Errorf("has no thumbprint")
		}
		to.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	}
	return to, nil
}
