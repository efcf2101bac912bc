package receiver

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"

	"github.com/go-jose/go-jose/v4"
)

var errKeys = errors.New("the keys are neither private JWKs nor PEM blocks PRIVATE KEY, of P-256, P-384, P-521 or RSA")

// ReadKeys reads the private keys that messages are sealed to: a JWK, a JWK set, or
// PEM blocks (PKCS #8). The error quotes nothing of them.
func ReadKeys(text []byte) ([]jose.JSONWebKey, error) {
	keys, err := readJWKs(text)
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		keys, err = readPEM(text)
	}
	if err != nil || len(keys) == 0 {
		return nil, errKeys
	}
	for i, key := range keys {
		switch key.Key.(type) {
		case *ecdsa.PrivateKey, *rsa.PrivateKey:
		default:
			return nil, errKeys
		}
		if key.KeyID == "" { // what the broker calls it, then (RFC 7638)
			thumbprint, err := key.Thumbprint(crypto.SHA256)
			if err != nil {
				return nil, errKeys
			}
			keys[i].KeyID = base64.RawURLEncoding.EncodeToString(thumbprint)
		}
	}
	return keys, nil
}

func readJWKs(text []byte) ([]jose.JSONWebKey, error) {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err == nil && len(set.Keys) > 0 {
		return set.Keys, nil
	}
	var one jose.JSONWebKey
	err := json.Unmarshal(text, &one)
	return []jose.JSONWebKey{one}, err
}

func readPEM(text []byte) ([]jose.JSONWebKey, error) {
	var keys []jose.JSONWebKey
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		keys = append(keys, jose.JSONWebKey{Key: key})
	}
	return keys, nil
}
