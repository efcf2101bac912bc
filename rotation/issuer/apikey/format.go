package apikey

import (
	"crypto/rand"
	"fmt"
	"hash/crc32"
	"regexp"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// A key is "<prefix>_<random><checksum>": the random part of base62 characters,
// then the CRC-32 (IEEE) of the random part in base62, padded with 0 to six
// characters. With 30 random characters that is GitHub's scheme. The checksum
// lets scanners and the check endpoint turn down mistyped and made-up keys
// without a look into the store.
const (
	base62         = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	checksumLength = 6

	DefaultPrefix = "kb"
	DefaultLength = 30  // characters of the random part: 178 bits
	MaxLength     = 128 // of the random part
)

var prefixFormat = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*$`)

const maxPrefix = 24

// foreign lists prefixes by which scanners know the keys of others: a leak would
// be reported to the wrong one.
var foreign = []string{
	"ghp", "gho", "ghu", "ghs", "ghr", "github_pat", "glpat", "hvs", "hvb", "hvr", "akia", "asia",
	"sk", "sk_live", "sk_test", "rk_live", "rk_test", "xoxb", "xoxp", "npm", "pypi", "dop_v1",
}

// checkSpec returns the prefix and length asked for; ErrInvalid if a key cannot
// be made so.
func checkSpec(spec issuer.KeySpec) (prefix string, length int, err error) {
	prefix, length = spec.Prefix, spec.Length
	if prefix == "" {
		prefix = DefaultPrefix
	}
	if length == 0 {
		length = DefaultLength
	}
	switch {
	case spec.Alphabet != "" && spec.Alphabet != "base62":
		err = fmt.Errorf("%w: the alphabet of an API key is base62, not %q", backends.ErrInvalid, spec.Alphabet)
	case length < DefaultLength || length > MaxLength:
		err = fmt.Errorf("%w: the random part of an API key has %d to %d characters, not %d", backends.ErrInvalid, DefaultLength, MaxLength, length)
	case len(prefix) > maxPrefix || !prefixFormat.MatchString(prefix):
		err = fmt.Errorf("%w: the prefix %q is not a letter and at most %d letters, digits and single inner underscores", backends.ErrInvalid, prefix, maxPrefix-1)
	case isForeign(prefix):
		err = fmt.Errorf("%w: the prefix %q marks the keys of another service", backends.ErrInvalid, prefix)
	}
	return prefix, length, err
}

func isForeign(prefix string) bool {
	for _, f := range foreign {
		if strings.EqualFold(prefix, f) {
			return true
		}
	}
	return false
}

func generate(prefix string, length int) string {
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

// Valid tells whether key has the form of an API key and the right checksum. It
// says nothing of whether the key was ever issued.
func Valid(key string) bool {
	i := strings.LastIndexByte(key, '_')
	if i < 0 || i > maxPrefix || !prefixFormat.MatchString(key[:i]) {
		return false
	}
	rest := key[i+1:]
	n := len(rest) - checksumLength
	if n < DefaultLength || n > MaxLength || strings.Trim(rest, base62) != "" {
		return false
	}
	return checksum(rest[:n]) == rest[n:]
}

// Generate makes a key of the default length with the given prefix, for others
// who keep keys of this format: the broker's own tokens.
func Generate(prefix string) string { return generate(prefix, DefaultLength) }
