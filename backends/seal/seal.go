// Package seal encrypts what keybroker keeps itself: every value under a key of
// its own, and that key under the operator's.
//
// A sealed value is
//
//	1 byte   format, 1
//	1 byte   number of wrapped keys
//	each:    1 byte length, the id of a KEK; 2 bytes length, the data key wrapped by it
//	rest     12 bytes nonce, AES-256-GCM ciphertext and tag under the data key
//
// with lengths big-endian. Everything before the nonce and the caller's
// associated data are authenticated; the latter also by each wrapping, so that a
// wrapped key serves nowhere else either. Any one of the KEKs opens the value:
// when the service behind one is away, the others do.
package seal

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/backends"
)

// KEK is a key-encryption key: a file, a KMS, Vault's transit engine. It is
// safe for concurrent use and wraps its errors in the classes of package
// backends.
type KEK interface {
	// ID names the key, the same for as long as its bytes are; 1 to 255 bytes.
	ID() string
	// Wrap encrypts a data key bound to ad.
	Wrap(ctx context.Context, dek, ad []byte) ([]byte, error)
	// Unwrap undoes Wrap. ErrInvalid if wrapped or ad is not what it was.
	Unwrap(ctx context.Context, wrapped, ad []byte) ([]byte, error)
}

const (
	format     = 1
	keySize    = 32 // AES-256
	maxWrapped = 1<<16 - 1
)

// Sealer seals and opens values. It is safe for concurrent use.
type Sealer struct {
	keks []KEK
}

// New returns a Sealer whose values any one of keks opens. At least one is
// needed; ErrInvalid if there is none, or an id is empty, too long or used
// twice.
func New(keks ...KEK) (*Sealer, error) {
	if len(keks) == 0 || len(keks) > 255 {
		return nil, fmt.Errorf("%w: sealing needs between 1 and 255 keys", backends.ErrInvalid)
	}
	var ids []string
	for _, k := range keks {
		if id := k.ID(); id == "" || len(id) > 255 || slices.Contains(ids, id) {
			return nil, fmt.Errorf("%w: key id %q is empty, too long or used twice", backends.ErrInvalid, id)
		}
		ids = append(ids, k.ID())
	}
	return &Sealer{keks: keks}, nil
}

// Seal encrypts plaintext bound to ad. A KEK that fails is left out, so the
// value opens without it; if all fail, so does Seal.
func (s *Sealer) Seal(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	dek := make([]byte, keySize)
	rand.Read(dek) // never fails
	defer clear(dek)

	sealed := []byte{format, 0}
	var failures []error
	for _, k := range s.keks {
		wrapped, err := k.Wrap(ctx, dek, ad)
		if err == nil && len(wrapped) > maxWrapped {
			err = fmt.Errorf("%w: the wrapped key is too long", backends.ErrInvalid)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("wrapping by %s: %w", k.ID(), err))
			continue
		}
		sealed = append(sealed, byte(len(k.ID())))
		sealed = append(sealed, k.ID()...)
		sealed = binary.BigEndian.AppendUint16(sealed, uint16(len(wrapped)))
		sealed = append(sealed, wrapped...)
		sealed[1]++
	}
	if sealed[1] == 0 {
		return nil, fmt.Errorf("sealing: %w", errors.Join(failures...))
	}
	return encrypt(dek, sealed, plaintext, bind(sealed, ad)), nil
}

// Open undoes Seal. ErrInvalid if sealed or ad is not what it was, or no key of
// ours is among those that sealed it; otherwise what the keys say, such as
// ErrUnavailable.
func (s *Sealer) Open(ctx context.Context, sealed, ad []byte) ([]byte, error) {
	header, wrappings, err := parse(sealed)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	var failures []error
	for _, w := range wrappings {
		i := slices.IndexFunc(s.keks, func(k KEK) bool { return k.ID() == w.id })
		if i < 0 {
			continue
		}
		dek, err := s.keks[i].Unwrap(ctx, w.key, ad)
		if err != nil {
			failures = append(failures, fmt.Errorf("unwrapping by %s: %w", w.id, err))
			continue
		}
		defer clear(dek)
		if len(dek) != keySize {
			return nil, fmt.Errorf("opening: %w", errDamaged)
		}
		plaintext, err := decrypt(dek, sealed[len(header):], bind(header, ad))
		if err != nil {
			return nil, fmt.Errorf("opening: %w", err)
		}
		return plaintext, nil
	}
	if len(failures) == 0 {
		return nil, fmt.Errorf("opening: %w: it was sealed by another key", backends.ErrInvalid)
	}
	return nil, fmt.Errorf("opening: %w", errors.Join(failures...))
}

// errDamaged does not say what is wrong: authentication failed, that is all.
var errDamaged = fmt.Errorf("%w: the sealed value is damaged, or belongs elsewhere", backends.ErrInvalid)

type wrapping struct {
	id  string
	key []byte
}

// parse splits off the header. It believes nothing that authentication has not
// confirmed later, and never reads beyond sealed.
func parse(sealed []byte) (header []byte, wrappings []wrapping, err error) {
	if len(sealed) < 2 {
		return nil, nil, errDamaged
	}
	if sealed[0] != format {
		return nil, nil, fmt.Errorf("%w: sealed in format %d, which this version does not know", backends.ErrInvalid, sealed[0])
	}
	rest := sealed[2:]
	take := func(n int) (part []byte, ok bool) {
		if n > len(rest) {
			return nil, false
		}
		part, rest = rest[:n], rest[n:]
		return part, true
	}
	for range sealed[1] {
		var id, key []byte
		size, ok := take(1)
		if ok {
			id, ok = take(int(size[0]))
		}
		if ok {
			size, ok = take(2)
		}
		if ok {
			key, ok = take(int(binary.BigEndian.Uint16(size)))
		}
		if !ok {
			return nil, nil, errDamaged
		}
		wrappings = append(wrappings, wrapping{id: string(id), key: key})
	}
	return sealed[:len(sealed)-len(rest)], wrappings, nil
}

// bind joins the header and the associated data so that the border between
// them is certain.
func bind(header, ad []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(len(header)))
	b = append(b, header...)
	return append(b, ad...)
}

// encrypt appends nonce, ciphertext and tag to dst.
func encrypt(key, dst, plaintext, ad []byte) []byte {
	return aead(key).Seal(dst, nil, plaintext, ad)
}

func decrypt(key, ciphertext, ad []byte) ([]byte, error) {
	plaintext, err := aead(key).Open(nil, nil, ciphertext, ad)
	if err != nil {
		return nil, errDamaged
	}
	return plaintext, nil
}

// aead is AES-256-GCM that draws a random nonce and puts it first. A data key
// encrypts one value; a KEK may wrap 2^32 data keys before two nonces collide
// with a probability worth naming (2^-32).
func aead(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: " + err.Error()) // the size was checked
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("seal: " + err.Error())
	}
	return gcm
}
