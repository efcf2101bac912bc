package seal

import (
	"context"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/keybroker/keybroker/backends"
)

// idSize is the length of a KEK's id: 64 bits in hexadecimal digits.
const idSize = 16

// KEK is a key-encryption key. It shows its id and never itself.
type KEK struct {
	id   string
	key  func() []byte // a closure, which fmt cannot look into
	aead func() cipher.AEAD
}

// NewKEK draws a key.
func NewKEK() *KEK {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails
	return newKEK(key)
}

// newKEK takes key over. The id is derived from the key, so that no other key is
// ever taken for this one, whatever gave it to us; it is of no help in finding the
// key.
func newKEK(key []byte) *KEK {
	by := aead(key)
	return &KEK{id: derivedID(key, "keybroker key-encryption key id")[:idSize], key: func() []byte { return key }, aead: func() cipher.AEAD { return by }}
}

// derivedID names a key by its bytes.
func derivedID(key []byte, purpose string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(purpose))
	return hex.EncodeToString(mac.Sum(nil))
}

// ID names the key.
func (k *KEK) ID() string { return k.id }

// String, and every other way of printing or encoding, gives the id.
func (k *KEK) String() string               { return k.id }
func (k *KEK) GoString() string             { return k.id }
func (k *KEK) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, k.id) }
func (k *KEK) MarshalText() ([]byte, error) { return []byte(k.id), nil }

// WrapBy has a seal encrypt the key, and open again what came of it: a seal that may
// only encrypt, or that encrypts by another key than it decrypts by, keeps nothing.
func (k *KEK) WrapBy(ctx context.Context, s Seal) ([]byte, error) {
	wrapped, err := s.Wrap(ctx, k.id, k.key())
	if err != nil {
		return nil, fmt.Errorf("wrapping key %s by seal %s: %w", k.id, s.ID(), err)
	}
	if _, err := UnwrapKEK(ctx, s, k.id, wrapped); err != nil {
		return nil, fmt.Errorf("seal %s has wrapped key %s, but does not open it: %w", s.ID(), k.id, err)
	}
	return wrapped, nil
}

// UnwrapKEK has a seal decrypt the KEK called id. ErrInvalid if it is another key.
func UnwrapKEK(ctx context.Context, s Seal, id string, wrapped []byte) (*KEK, error) {
	key, err := s.Unwrap(ctx, id, wrapped)
	if err == nil {
		return checkedKEK(id, key)
	}
	return nil, fmt.Errorf("opening key %s by seal %s: %w", id, s.ID(), err)
}

// checkedKEK takes key over if it is the one called id.
func checkedKEK(id string, key []byte) (*KEK, error) {
	if len(key) == keySize {
		if k := newKEK(key); k.id == id {
			return k, nil
		}
	}
	clear(key)
	return nil, fmt.Errorf("%w: what was opened for key %s is another key", backends.ErrInvalid, id)
}
