package receiver

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/keybroker/keybroker/backends"
)

var (
	errPayload  = refusal{http.StatusBadRequest, "the message has a payload that is not known here"}
	errSealed   = refusal{http.StatusBadRequest, "the message cannot be opened with the keys that are here"}
	errMoved    = refusal{http.StatusBadRequest, "what is sealed belongs to another message"}
	errHref     = refusal{http.StatusBadRequest, "the message refers to no value of the broker's"}
	errTooEarly = errors.New("the broker does not give the version yet that it has told of")
)

// The algorithms that a message may be sealed with; nothing weaker is tried.
var (
	keyAlgorithms     = []jose.KeyAlgorithm{jose.ECDH_ES_A256KW, jose.RSA_OAEP_256}
	contentEncryption = []jose.ContentEncryption{jose.A256GCM}
)

// open returns the value that a message hands over; zero: it has been replaced
// already, or may be read by who has a token, which we have not.
func (r *Receiver) open(ctx context.Context, e event) (backends.Value, error) {
	switch e.Data.Payload {
	case "plain":
		return e.Data.value()
	case "sealed":
		return r.unseal(e)
	case "reference":
		return r.fetch(ctx, e)
	}
	return backends.Value{}, errPayload
}

// unseal opens a JWE in the general JSON serialization (RFC 7516, section 7.2.1), whose
// recipients name their keys.
func (r *Receiver) unseal(e event) (backends.Value, error) {
	var list struct {
		Recipients []struct {
			Header struct {
				KeyID string `json:"kid"`
			} `json:"header"`
		} `json:"recipients"`
	}
	sealed, err := jose.ParseEncryptedJSON(string(e.Data.Sealed), keyAlgorithms, contentEncryption)
	if err != nil || json.Unmarshal(e.Data.Sealed, &list) != nil {
		return backends.Value{}, errSealed
	}
	for _, recipient := range list.Recipients {
		for _, key := range r.opts.Keys {
			if key.KeyID != recipient.Header.KeyID {
				continue
			}
			if _, _, plaintext, err := sealed.DecryptMulti(key.Key); err == nil {
				return e.opened(plaintext)
			}
		}
	}
	return backends.Value{}, errSealed
}

func (e event) opened(plaintext []byte) (backends.Value, error) {
	var inside struct {
		subject
		content
	}
	if err := json.Unmarshal(plaintext, &inside); err != nil || inside.subject != e.Data.subject {
		return backends.Value{}, errMoved
	}
	return inside.value()
}

// fetch reads what the message refers to.
func (r *Receiver) fetch(ctx context.Context, e event) (backends.Value, error) {
	if r.broker == nil || r.opts.TokenFile == "" {
		return backends.Value{}, nil
	}
	if !strings.HasPrefix(e.Data.Href, "/api/v1/secrets/") { // the token goes nowhere else
		return backends.Value{}, errHref
	}
	var current struct {
		Version    int   `json:"version"`
		Generation int64 `json:"generation"`
		content
	}
	if err := r.broker.call(ctx, http.MethodGet, e.Data.Href, nil, &current); err != nil {
		return backends.Value{}, err
	}
	switch {
	case current.Version == e.Data.Version:
		return current.value()
	case current.Generation > e.Data.Generation: // we shall be told of that one
		return backends.Value{}, nil
	}
	return backends.Value{}, errTooEarly
}

// fingerprint proves to the broker that we have the value: HMAC-SHA-256, keyed with the
// id of the delivery, over the fields in the order of their names' bytes, each name and
// value as its length in bytes, a colon and its bytes.
func fingerprint(deliveryID string, v backends.Value) string {
	mac := hmac.New(sha256.New, []byte(deliveryID))
	fields := v.Reveal()
	for _, name := range v.FieldNames() { // sorted
		_, _ = fmt.Fprintf(mac, "%d:%s%d:%s", len(name), name, len(fields[name]), fields[name])
	}
	return hex.EncodeToString(mac.Sum(nil))
}
