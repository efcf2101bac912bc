package seal

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/keybroker/keybroker/backends"
)

// Keyring seals and opens values by the KEKs that it holds in memory: the newest
// seals, all of them open. It never forgets one, since a value that was read a
// moment ago may still be sealed by a KEK that is gone from the store. It is safe
// for concurrent use.
type Keyring struct {
	// learn is called for a value that an unknown KEK seals: another node may have
	// made it. It adds what there is.
	learn func(ctx context.Context) error

	mu      sync.RWMutex
	keks    map[string]*KEK
	newest  *KEK
	refused error // why there is no newest
}

// NewKeyring returns a ring that seals by newest. Learn is called when a value
// names a KEK that the ring has not; it adds what it finds, and its error, if any,
// is why the value cannot be opened. It may be nil.
func NewKeyring(newest *KEK, learn func(context.Context) error) *Keyring {
	r := &Keyring{learn: learn, keks: map[string]*KEK{}}
	r.Add(newest)
	r.SealBy(newest.ID())
	return r
}

// Add adds a KEK that opens.
func (r *Keyring) Add(k *KEK) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keks[k.id] = k
}

// SealBy makes the KEK called id the one that seals; false if the ring has none.
func (r *Keyring) SealBy(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.keks[id]
	if ok {
		r.newest = k
	}
	return ok
}

// Refuse lets nothing be sealed, for that reason, until SealBy is called.
func (r *Keyring) Refuse(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newest, r.refused = nil, why
}

// KEK returns the KEK called id, or nil.
func (r *Keyring) KEK(id string) *KEK {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keks[id]
}

// Newest returns the KEK that seals; nil while nothing is to be sealed.
func (r *Keyring) Newest() *KEK {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.newest
}

// Seal encrypts plaintext bound to ad. It waits for nothing, and fails only as Refuse
// has said.
func (r *Keyring) Seal(_ context.Context, plaintext, ad []byte) ([]byte, error) {
	k, err := r.sealing()
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return k.seal(plaintext, ad), nil
}

// Ready tells whether Seal works, and why not.
func (r *Keyring) Ready() error {
	_, err := r.sealing()
	return err
}

func (r *Keyring) sealing() (*KEK, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.newest == nil {
		return nil, r.refused
	}
	return r.newest, nil
}

// Open undoes Seal. ErrInvalid if sealed or ad is not what it was, or a key that
// nobody has seals the value; otherwise why that key cannot be had now, such as
// ErrUnavailable.
func (r *Keyring) Open(ctx context.Context, sealed, ad []byte) ([]byte, error) {
	k, err := r.sealer(ctx, sealed)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	plaintext, err := k.open(sealed, ad)
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	return plaintext, nil
}

// Rewrap returns sealed as the newest KEK seals it, and whether that is a change.
// It touches the header only, and looks at nothing else: the value itself is
// neither decrypted nor checked. It fails as Open does.
func (r *Keyring) Rewrap(ctx context.Context, sealed, ad []byte) (_ []byte, changed bool, err error) {
	newest, err := r.sealing()
	if err != nil {
		return nil, false, fmt.Errorf("re-wrapping: %w", err)
	}
	if KEKOf(sealed) == newest.id {
		return sealed, false, nil
	}
	k, err := r.sealer(ctx, sealed)
	if err != nil {
		return nil, false, fmt.Errorf("re-wrapping: %w", err)
	}
	dek, err := k.dataKey(sealed, ad)
	if err != nil {
		return nil, false, fmt.Errorf("re-wrapping: %w", err)
	}
	defer clear(dek)
	return bytes.Join([][]byte{newest.header(dek, ad), sealed[headerSize:]}, nil), true, nil
}

// sealer finds the KEK that seals a value.
func (r *Keyring) sealer(ctx context.Context, sealed []byte) (*KEK, error) {
	id := KEKOf(sealed)
	if id == "" {
		return nil, errDamaged
	}
	if k := r.KEK(id); k != nil {
		return k, nil
	}
	if r.learn != nil {
		if err := r.learn(ctx); err != nil && r.KEK(id) == nil {
			return nil, err
		}
	}
	if k := r.KEK(id); k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("%w: it was sealed by another key", backends.ErrInvalid)
}
