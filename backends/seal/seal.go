// Package seal encrypts what keybroker keeps itself, under keys that the
// operator's seals keep: a key file, AWS KMS, Vault's transit engine.
//
// There are three layers. Each value has a data key of its own. The data keys are
// wrapped by a key-encryption key (KEK), of which there is one at a time, besides
// older ones that values have not been re-wrapped from yet. And each KEK is wrapped
// by every seal of the configuration: any one of them opens it at the start, and
// from then on the Keyring has it in memory, so that no seal has to be at hand
// while the broker works.
//
// A sealed value is
//
//	 1 byte   format, 1
//	16 bytes  the id of a KEK
//	60 bytes  the data key wrapped by it
//	rest      the value encrypted by the data key
//
// where both are a nonce of 12 bytes, AES-256-GCM ciphertext and a tag of 16 bytes.
// Each is bound to the caller's associated data, the wrapped data key to its KEK as
// well: neither opens elsewhere. The value is not bound to what stands before it, so
// that a new KEK changes those 77 bytes only.
package seal

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"github.com/keybroker/keybroker/backends"
)

// Seal is a key of the operator's that KEKs are wrapped by. Implementations are
// safe for concurrent use, wait no longer than ctx lasts and wrap their errors in
// the classes of package backends. No text of theirs holds a key.
type Seal interface {
	// ID names the seal: its type, a colon, and what tells it from others of its type.
	ID() string
	// Wrap encrypts the KEK that is called id, and binds the result to that.
	Wrap(ctx context.Context, id string, kek []byte) ([]byte, error)
	// Unwrap undoes Wrap. ErrInvalid if wrapped is not what Wrap gave for this id, and
	// only then.
	Unwrap(ctx context.Context, id string, wrapped []byte) ([]byte, error)
}

const (
	format     = 1
	keySize    = 32 // AES-256
	overhead   = 12 + 16
	headerSize = 1 + idSize + keySize + overhead
)

// KEKOf returns the id of the KEK that a value is sealed by; "" if these bytes are
// no sealed value.
func KEKOf(sealed []byte) string {
	if len(sealed) < headerSize+overhead || sealed[0] != format {
		return ""
	}
	return string(sealed[1 : 1+idSize])
}

// errDamaged does not say what is wrong: authentication failed, that is all.
var errDamaged = fmt.Errorf("%w: the sealed value is damaged, or belongs elsewhere", backends.ErrInvalid)

// seal encrypts plaintext by a new data key.
func (k *KEK) seal(plaintext, ad []byte) []byte {
	dek := make([]byte, keySize)
	_, _ = rand.Read(dek) // never fails
	defer clear(dek)
	return encrypt(aead(dek), k.header(dek, ad), plaintext, bindValue(ad))
}

// header is all that stands before the encrypted value.
func (k *KEK) header(dek, ad []byte) []byte {
	header := make([]byte, 0, headerSize+overhead+len(ad))
	header = append(header, format)
	header = append(header, k.id...)
	return encrypt(k.aead(), header, dek, k.bindKey(ad))
}

// dataKey unwraps the data key of a value that this KEK seals.
func (k *KEK) dataKey(sealed, ad []byte) ([]byte, error) {
	dek, err := decrypt(k.aead(), sealed[1+idSize:headerSize], k.bindKey(ad))
	if err != nil {
		return nil, err
	}
	return dek, nil
}

func (k *KEK) open(sealed, ad []byte) ([]byte, error) {
	dek, err := k.dataKey(sealed, ad)
	if err != nil {
		return nil, err
	}
	defer clear(dek)
	return decrypt(aead(dek), sealed[headerSize:], bindValue(ad))
}

// bindKey and bindValue are what the two parts are bound to. Each begins with a text
// of constant length, so that none is ever taken for another.
func (k *KEK) bindKey(ad []byte) []byte {
	return append([]byte("keybroker data key 1 "+k.id), ad...)
}

func bindValue(ad []byte) []byte { return append([]byte("keybroker value 1"), ad...) }

// encrypt appends nonce, ciphertext and tag to dst.
func encrypt(by cipher.AEAD, dst, plaintext, ad []byte) []byte {
	return by.Seal(dst, nil, plaintext, ad)
}

func decrypt(by cipher.AEAD, ciphertext, ad []byte) ([]byte, error) {
	plaintext, err := by.Open(nil, nil, ciphertext, ad)
	if err != nil {
		return nil, errDamaged
	}
	return plaintext, nil
}

// aead is AES-256-GCM that draws a random nonce and puts it first. A data key
// encrypts one value; a KEK may wrap 2^32 data keys before two nonces collide with
// a probability worth naming (2^-32).
func aead(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: " + err.Error()) // all keys have keySize
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("seal: " + err.Error())
	}
	return gcm
}
