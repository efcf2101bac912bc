package webhook

import (
	"encoding/json"
	"fmt"

	"github.com/go-jose/go-jose/v4"

	"github.com/keybroker/keybroker/backends"
)

// sealed is what a JWE holds. A consumer checks that what it is about is what the
// event around it is about.
type sealed struct {
	about
	*fields
}

// general is a JWE in the general JSON serialization (RFC 7516, 7.2.1).
type general struct {
	Protected  string            `json:"protected"`
	Recipients []json.RawMessage `json:"recipients"`
	IV         string            `json:"iv"`
	Ciphertext string            `json:"ciphertext"`
	Tag        string            `json:"tag"`
}

// seal encrypts what it is given with A256GCM under a new key, which each recipient
// gets encrypted to its own. Each recipient's header has its alg and kid, also where
// there is only one: consumers meet one form before, while and after they replace
// their key.
func (r *Recipients) seal(s sealed) (json.RawMessage, error) {
	text, err := encode(s)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	to := r.to
	if len(to) == 1 {
		to = []jose.Recipient{to[0], to[0]} // go-jose would move the header of a single one
	}
	options := (&jose.EncrypterOptions{}).WithContentType("application/json")
	encrypter, err := jose.NewMultiEncrypter(jose.A256GCM, to, options)
	if err != nil {
		return nil, errSealing
	}
	jwe, err := encrypter.Encrypt(text)
	if err != nil {
		return nil, errSealing
	}
	// go-jose repeats the first recipient's encrypted_key beside recipients, where the
	// general form has no place for it.
	var g general
	if err := json.Unmarshal([]byte(jwe.FullSerialize()), &g); err != nil {
		return nil, errSealing
	}
	g.Recipients = g.Recipients[:len(r.to)]
	return encode(g)
}

// errSealing says no more: what a library says might show what it was given.
var errSealing = fmt.Errorf("%w: the message cannot be sealed to the consumer's public keys", backends.ErrInvalid)
