package keys

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"

	"github.com/keybroker/keybroker/backends"
)

// Pepper is a key of the hash, kept apart from the records: who reads these
// cannot test guesses against them. Versions let it be changed; keys hashed
// under an older one stay valid while that one is given.
type Pepper struct {
	Version int
	Key     []byte // at least 32 bytes
}

const minPepper = 32

func (p Pepper) hash(key string) []byte {
	mac := hmac.New(sha256.New, p.Key)
	mac.Write([]byte(key))
	return mac.Sum(nil)
}

// String, and every other way of printing, gives the version only.
func (p Pepper) String() string             { return fmt.Sprintf("pepper %d", p.Version) }
func (p Pepper) GoString() string           { return p.String() }
func (p Pepper) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// Hasher hashes keys under the peppers given to it.
type Hasher struct {
	peppers []keyed // newest first
}

// keyed holds a pepper in a closure, so that printing whatever contains it
// does not show it.
type keyed struct {
	version int
	hash    func(key string) []byte
}

// NewHasher returns a hasher that hashes new keys under the pepper with the
// highest version. ErrInvalid without a pepper, with a short one or with the
// same version twice.
func NewHasher(peppers ...Pepper) (Hasher, error) {
	if len(peppers) == 0 {
		return Hasher{}, fmt.Errorf("%w: no pepper is given", backends.ErrInvalid)
	}
	sorted := slices.Clone(peppers)
	slices.SortFunc(sorted, func(a, b Pepper) int { return b.Version - a.Version })
	for i, p := range sorted {
		if len(p.Key) < minPepper {
			return Hasher{}, fmt.Errorf("%w: pepper %d has fewer than %d bytes", backends.ErrInvalid, p.Version, minPepper)
		}
		if i > 0 && sorted[i-1].Version == p.Version {
			return Hasher{}, fmt.Errorf("%w: pepper %d is given twice", backends.ErrInvalid, p.Version)
		}
	}
	var h Hasher
	for _, p := range sorted {
		h.peppers = append(h.peppers, keyed{p.Version, p.hash})
	}
	return h, nil
}

// Hash returns the hash of a key and the version of the pepper it is under.
func (h Hasher) Hash(key string) (hash []byte, pepperVersion int) {
	newest := h.peppers[0]
	return newest.hash(key), newest.version
}

// Matches tells whether r is of this key, under whichever pepper it was hashed.
// It compares without leaking by its duration where the hashes differ.
func (h Hasher) Matches(r Record, key string) bool {
	for _, p := range h.peppers {
		if p.version == r.PepperVersion {
			return hmac.Equal(p.hash(key), r.Hash)
		}
	}
	return false
}
