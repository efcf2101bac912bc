package keys_test

import (
	"errors"
	"hash/crc32"
	"math/big"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/keys"
)

func TestFormat(t *testing.T) {
	for _, tt := range []struct {
		prefix string
		length int
		ok     bool
	}{
		{"kb", 30, true},
		{"acme_live", 128, true},
		{"a", 40, true},
		{strings.Repeat("a", 24), 30, true},
		{"kb", 29, false},
		{"kb", 129, false},
		{"kb", 0, false},
		{"kb", -1, false},
		{"", 30, false},
		{"ghp", 30, false},
		{"AKIA", 30, false},
		{"hvs.", 30, false},
		{"a b", 30, false},
		{"1a", 30, false},
		{"a__b", 30, false},
		{"a_", 30, false},
		{strings.Repeat("a", 25), 30, false},
	} {
		err := keys.CheckFormat(tt.prefix, tt.length)
		if (err == nil) != tt.ok || !tt.ok && !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("prefix %q, length %d: got %v", tt.prefix, tt.length, err)
		}
		if !tt.ok {
			continue
		}
		key, other := keys.NewAPIKey(tt.prefix, tt.length), keys.NewAPIKey(tt.prefix, tt.length)
		if !strings.HasPrefix(key, tt.prefix+"_") || len(key) != len(tt.prefix)+1+tt.length+6 || !keys.Valid(key) || key == other {
			t.Errorf("prefix %q, length %d: made %q, %q", tt.prefix, tt.length, key, other)
		}
	}
}

// FuzzValid compares with a plain second reading of the format: a base62 number
// of arbitrary size, and its length.
func FuzzValid(f *testing.F) {
	f.Add("kb", strings.Repeat("0", 30), "kb_0")
	f.Add("kb", "abcdefghijABCDEFGHIJ0123456789", "")
	f.Add("a_b", strings.Repeat("z", 128), "_")
	f.Fuzz(func(t *testing.T, prefix, random, other string) {
		key := prefix + "_" + random + reference(random)
		plain := len(random) >= 30 && len(random) <= 128 && strings.Trim(random, digits) == ""
		if keys.Valid(key) && !plain {
			t.Errorf("%q is taken", key)
		}
		if plain && prefix == "kb" && !keys.Valid(key) {
			t.Errorf("%q is refused", key)
		}
		if !keys.Valid(key) {
			_ = keys.Valid(other) // no panic on anything
			return
		}
		// One changed character never goes unnoticed: CRC-32 finds every burst of up to 32 bits.
		for i := len(prefix) + 1; i < len(key); i++ {
			changed := key[:i] + flip(key[i]) + key[i+1:]
			if keys.Valid(changed) {
				t.Errorf("%q with another character at %d is taken", key, i)
			}
		}
	})
}

func flip(b byte) string {
	if b == '0' {
		return "1"
	}
	return "0"
}

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func reference(random string) string {
	n := new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(random))))
	text := ""
	for range 6 {
		m := new(big.Int)
		n.DivMod(n, big.NewInt(62), m)
		text = string(digits[m.Int64()]) + text
	}
	return text
}
