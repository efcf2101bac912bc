package keys

import (
	"crypto/rand"
	"fmt"
	"hash/crc32"
	"regexp"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// A key is "<prefix>_<random><checksum>": the random part of base62 characters,
// then the CRC-32 (IEEE) of the random part in base62, padded with 0 to six
// characters. With 30 random characters that is GitHub's scheme. The checksum
// lets scanners and the check endpoint turn down mistyped and made-up keys
// without a look into the store.
const (
	base62         = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	checksumLength = 6

	MinLength = 30  // characters of the random part: 178 bits
	MaxLength = 128 // of the random part
)

var prefixFormat = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*$`)

const maxPrefix = 24

// foreign lists prefixes by which scanners know the keys of others: a leak would
// be reported to the wrong one.
var foreign = []string{
	"ghp", "gho", "ghu", "ghs", "ghr", "github_pat", "glpat", "hvs", "hvb", "hvr", "akia", "asia",
	"sk", "sk_live", "sk_test", "rk_live", "rk_test", "xoxb", "xoxp", "npm", "pypi", "dop_v1",
}

// CheckFormat returns ErrInvalid if no key can have this prefix and this many
// random characters, or should not: the prefix may be known as another's.
func CheckFormat(prefix string, length int) error {
	switch {
	case length < MinLength || length > MaxLength:
		return fmt.Errorf("%w: the random part of a key has %d to %d characters, not %d", backends.ErrInvalid, MinLength, MaxLength, length)
	case len(prefix) > maxPrefix || !prefixFormat.MatchString(prefix):
		return fmt.Errorf("%w: the prefix %q is not a letter and at most %d letters, digits and single inner underscores", backends.ErrInvalid, prefix, maxPrefix-1)
	case isForeign(prefix):
		return fmt.Errorf("%w: the prefix %q marks the keys of another service", backends.ErrInvalid, prefix)
	}
	return nil
}

func isForeign(prefix string) bool {
	for _, f := range foreign {
		if strings.EqualFold(prefix, f) {
			return true
		}
	}
	return false
}

// Generate makes a key with length random characters. It is Valid if CheckFormat
// takes prefix and length.
func Generate(prefix string, length int) string {
	random := randomBase62(length)
	return prefix + "_" + random + checksum(random)
}

// randomBase62 draws every character with the same probability: bytes from the
// last, incomplete run of 62 are dropped.
func randomBase62(length int) string {
	const limit = 256 - 256%len(base62)
	text := make([]byte, 0, length)
	buf := make([]byte, 2*length)
	for {
		_, _ = rand.Read(buf) // never fails: crypto/rand ends the process instead
		for _, b := range buf {
			if int(b) >= limit {
				continue
			}
			if text = append(text, base62[int(b)%len(base62)]); len(text) == length {
				return string(text)
			}
		}
	}
}

func checksum(random string) string {
	sum := crc32.ChecksumIEEE([]byte(random))
	var text [checksumLength]byte
	for i := checksumLength - 1; i >= 0; i-- {
		text[i] = base62[sum%uint32(len(base62))]
		sum /= uint32(len(base62))
	}
	return string(text[:])
}

// Valid tells whether key has the form of a key of ours and the right checksum. It
// says nothing of whether the key was ever issued.
func Valid(key string) bool {
	i := strings.LastIndexByte(key, '_')
	if i < 0 || i > maxPrefix || !prefixFormat.MatchString(key[:i]) {
		return false
	}
	rest := key[i+1:]
	n := len(rest) - checksumLength
	if n < MinLength || n > MaxLength || strings.Trim(rest, base62) != "" {
		return false
	}
	return checksum(rest[:n]) == rest[n:]
}
