package keys

import (
	"crypto/rand"
	"errors"
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
	var wrong []error
	if length < MinLength || length > MaxLength {
		wrong = append(wrong, fmt.Errorf("%w: key.length: the random part of an API key has %d to %d characters, not %d: write a number between them",
			backends.ErrInvalid, MinLength, MaxLength, length))
	}
	if what, mend := wrongPrefix(prefix); what != "" {
		wrong = append(wrong, fmt.Errorf("%w: key.prefix: %s: %s", backends.ErrInvalid, what, mend))
	}
	return errors.Join(wrong...)
}

// wrongPrefix says what is wrong with a prefix and how to mend it; nothing if it will do.
func wrongPrefix(prefix string) (what, mend string) {
	switch {
	case len(prefix) > maxPrefix || !prefixFormat.MatchString(prefix):
		return fmt.Sprintf("the prefix %q is not a letter and at most %d letters, digits and single inner underscores", prefix, maxPrefix-1), "write another"
	case isForeign(prefix):
		return fmt.Sprintf("the prefix %q marks the keys of another service", prefix), "write one of your own"
	}
	return "", ""
}

func isForeign(prefix string) bool {
	for _, f := range foreign {
		if strings.EqualFold(prefix, f) {
			return true
		}
	}
	return false
}

// NewAPIKey makes a key with length random characters, among them one of each class.
// It is Valid if CheckFormat takes prefix and length.
func NewAPIKey(prefix string, length int, needs ...string) string {
	return generate(Spec{Length: length, Alphabet: "base62", Classes: needs, Prefix: prefix, Checksum: true}, rand.Reader)
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
