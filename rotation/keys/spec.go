package keys

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// Spec says what a generated value is like: "<prefix>_<random><checksum>". Its fields
// are those of issuer.KeySpec.
type Spec struct {
	Length   int      // characters of the random part; 0: 32, or as many as have 128 bits
	Alphabet string   // by name; empty: base62, or printable where symbols are asked for
	Classes  []string // "lower", "upper", "digit", "symbol": at least one character of each
	Prefix   string   // empty: none, and no underscore
	Checksum bool     // six characters as in NewAPIKey; base62 only
}

const (
	lower   = "abcdefghijklmnopqrstuvwxyz"
	upper   = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
	symbols = "!#$%&()*+,-./:;<=>?@[]^_{|}~" // all of ASCII but space, quotes and backslash
	base62  = digits + upper + lower
)

// alphabets by name.
var alphabets = map[string]string{
	"base62":       base62,
	"alphanumeric": base62,
	"base58":       "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", // no 0, O, I, l
	"base32":       upper + "234567",                                             // RFC 4648
	"hex":          digits + "abcdef",
	"digits":       digits,
	"printable":    base62 + symbols,
}

var classes = map[string]string{"lower": lower, "upper": upper, "digit": digits, "symbol": symbols}

// minBits is the least strength, of the random part. Asking for classes costs less
// than one bit more and is not counted.
const (
	minBits       = 128
	usualLength   = 32
	maxSpecLength = 256
)

// Check returns the spec with what it leaves open filled in. ErrInvalid, of which each
// line is "key.ATTRIBUTE: what is wrong: how to mend it", if no value can be made so,
// or only one that could be guessed.
func Check(s Spec) (Spec, error) {
	var wrong []error
	report := func(attribute, mend, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%w: key.%s: %s: %s", backends.ErrInvalid, attribute, fmt.Sprintf(format, args...), mend))
	}
	if s.Alphabet == "" {
		s.Alphabet = "base62"
		if slices.Contains(s.Classes, "symbol") && !s.Checksum {
			s.Alphabet = "printable"
		}
	}
	alphabet, known := alphabets[s.Alphabet]
	if !known {
		report("alphabet", "write one of "+names(alphabets), "there is no alphabet %q", s.Alphabet)
		alphabet = base62
	}
	for _, name := range s.Classes {
		if class, ok := classes[name]; !ok {
			report("classes", "write some of "+names(classes), "there is no class %q", name)
		} else if known && !strings.ContainsAny(alphabet, class) {
			report("classes", "leave the class out, or write another alphabet", "the alphabet %s has no character of the class %s", s.Alphabet, name)
		}
	}
	if s.Checksum && known && alphabet != base62 {
		report("checksum", `leave the checksum out, or write alphabet = "base62"`, "the alphabet %s has no checksum, only base62 has one", s.Alphabet)
	}
	least := int(math.Ceil(minBits / math.Log2(float64(len(alphabet)))))
	s.Length = cmp.Or(s.Length, max(least, usualLength))
	switch {
	case s.Length < least:
		report("length", fmt.Sprintf("write at least %d", least), "%d characters of %s have fewer than %d bits", s.Length, s.Alphabet, minBits)
	case s.Length > maxSpecLength:
		report("length", fmt.Sprintf("write at most %d", maxSpecLength), "%d characters are too many", s.Length)
	}
	if what, mend := wrongPrefix(s.Prefix); s.Prefix != "" && what != "" {
		report("prefix", mend, "%s", what)
	}
	return s, errors.Join(wrong...)
}

func names(of map[string]string) string {
	var list []string
	for name := range of {
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
