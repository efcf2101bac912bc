package keys_test

import (
	"errors"
	"math"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/keys"
)

func TestCheckFillsIn(t *testing.T) {
	for _, tt := range []struct{ spec, want keys.Spec }{
		{keys.Spec{}, keys.Spec{Alphabet: "base62", Length: 32}},
		{keys.Spec{Alphabet: "digits"}, keys.Spec{Alphabet: "digits", Length: 39}},
		{keys.Spec{Alphabet: "hex"}, keys.Spec{Alphabet: "hex", Length: 32}},
		{keys.Spec{Alphabet: "base58", Length: 22}, keys.Spec{Alphabet: "base58", Length: 22}},
		{keys.Spec{Classes: []string{"lower", "digit"}}, keys.Spec{Alphabet: "base62", Length: 32, Classes: []string{"lower", "digit"}}},
		{keys.Spec{Classes: []string{"symbol"}}, keys.Spec{Alphabet: "printable", Length: 32, Classes: []string{"symbol"}}},
		{keys.Spec{Prefix: "acme_live", Checksum: true}, keys.Spec{Alphabet: "base62", Length: 32, Prefix: "acme_live", Checksum: true}},
	} {
		got, err := keys.Check(tt.spec)
		if err != nil || got.Length != tt.want.Length || got.Alphabet != tt.want.Alphabet || got.Prefix != tt.want.Prefix ||
			got.Checksum != tt.want.Checksum || !slices.Equal(got.Classes, tt.want.Classes) {
			t.Errorf("%+v: got %+v, %v", tt.spec, got, err)
		}
	}
}

// Every mistake is told at once, each in a line of its own with its attribute and how
// to mend it.
func TestCheckMistakes(t *testing.T) {
	for _, tt := range []struct {
		spec keys.Spec
		want []string
	}{
		{keys.Spec{Length: 21}, []string{"key.length: 21 characters of base62 have fewer than 128 bits: write at least 22"}},
		{keys.Spec{Length: 32, Alphabet: "digits"}, []string{"key.length: 32 characters of digits have fewer than 128 bits: write at least 39"}},
		{keys.Spec{Length: 31, Alphabet: "hex"}, []string{"key.length: 31 characters of hex have fewer than 128 bits: write at least 32"}},
		{keys.Spec{Length: 25, Alphabet: "base32"}, []string{"write at least 26"}},
		{keys.Spec{Length: 257}, []string{"key.length: 257 characters are too many: write at most 256"}},
		{keys.Spec{Length: -1}, []string{"key.length: -1 characters"}},
		{keys.Spec{Alphabet: "base64"}, []string{`key.alphabet: there is no alphabet "base64": write one of alphanumeric, base32,`}},
		{keys.Spec{Classes: []string{"emoji"}}, []string{`key.classes: there is no class "emoji": write some of digit, lower, symbol, upper`}},
		{keys.Spec{Alphabet: "hex", Classes: []string{"upper"}}, []string{"key.classes: the alphabet hex has no character of the class upper: leave"}},
		{keys.Spec{Classes: []string{"symbol"}, Checksum: true}, []string{"key.classes: the alphabet base62 has no character of the class symbol"}},
		{keys.Spec{Alphabet: "hex", Checksum: true}, []string{"key.checksum: the alphabet hex has no checksum, only base62 has one: leave"}},
		{keys.Spec{Prefix: "ghp"}, []string{`key.prefix: the prefix "ghp" marks the keys of another service: write`}},
		{keys.Spec{Prefix: "a b"}, []string{`key.prefix: the prefix "a b" is not`}},
		{keys.Spec{Length: 5, Alphabet: "digits", Checksum: true, Prefix: "-"}, []string{"key.length: ", "key.checksum: ", "key.prefix: "}},
	} {
		_, err := keys.Check(tt.spec)
		if !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%+v: got %v", tt.spec, err)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		for _, line := range lines {
			if !strings.HasPrefix(line, "invalid: key.") || strings.Count(line, ": ") != 3 {
				t.Errorf("%+v: the line %q has not the form of a problem", tt.spec, line)
			}
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: got %q, want %q", tt.spec, err, want)
			}
		}
		if len(lines) != len(tt.want) {
			t.Errorf("%+v: got %d problems, want %d: %v", tt.spec, len(lines), len(tt.want), err)
		}
		if _, err := keys.Generate(tt.spec); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("%+v: it is generated", tt.spec)
		}
	}
}

func TestGenerate(t *testing.T) {
	for name, alphabet := range keys.Alphabets() {
		var has []string
		for class, characters := range keys.Classes() {
			if strings.ContainsAny(alphabet, characters) {
				has = append(has, class)
			}
		}
		for _, needs := range [][]string{nil, has} {
			spec := keys.Spec{Alphabet: name, Length: 40, Classes: needs, Prefix: "acme"}
			value, err := keys.Generate(spec)
			random, found := strings.CutPrefix(value, "acme_")
			if err != nil || !found || len(random) != 40 || strings.Trim(random, alphabet) != "" {
				t.Errorf("%+v: got %q, %v", spec, value, err)
			}
			for _, class := range needs {
				if !strings.ContainsAny(random, keys.Classes()[class]) {
					t.Errorf("%+v: %q has no %s", spec, value, class)
				}
			}
		}
	}
	value, err := keys.Generate(keys.Spec{Length: 40, Prefix: "pk", Checksum: true})
	if err != nil || !keys.Valid(value) || len(value) != len("pk_")+40+6 {
		t.Errorf("with a checksum: %q, %v", value, err)
	}
	if key := keys.NewAPIKey("kb", 30, "digit", "upper", "lower"); !keys.Valid(key) || !strings.ContainsAny(key[3:33], "0123456789") {
		t.Errorf("an API key with classes: %q", key)
	}
	for _, bad := range []string{" ", `"`, "'", "`", `\`} {
		if strings.Contains(keys.Alphabets()["printable"], bad) {
			t.Errorf("printable has %q", bad)
		}
	}
	if got := len(keys.Alphabets()["printable"]); got != 94-4 {
		t.Errorf("printable has %d characters", got)
	}
	for name, alphabet := range keys.Alphabets() {
		sorted := slices.Sorted(slices.Values([]byte(alphabet)))
		if len(slices.Compact(sorted)) != len(alphabet) {
			t.Errorf("%s has a character twice", name)
		}
	}
}

// Asking for every class costs less than one bit, at the least length of each
// alphabet: counted by inclusion and exclusion.
func TestClassesCostLittle(t *testing.T) {
	for name, alphabet := range keys.Alphabets() {
		least, _ := keys.Check(keys.Spec{Alphabet: name})
		for least.Length > 1 {
			if _, err := keys.Check(keys.Spec{Alphabet: name, Length: least.Length - 1}); err != nil {
				break
			}
			least.Length--
		}
		var counts []int
		for _, class := range keys.Classes() {
			if n := len(alphabet) - len(strings.Trim(strings.Map(func(r rune) rune {
				if strings.ContainsRune(class, r) {
					return -1
				}
				return r
			}, alphabet), "")); n > 0 {
				counts = append(counts, n)
			}
		}
		share := 0.0
		for set := range 1 << len(counts) {
			left := len(alphabet)
			for i, n := range counts {
				if set>>i&1 == 1 {
					left -= n
				}
			}
			term := math.Pow(float64(left)/float64(len(alphabet)), float64(least.Length))
			if bits.OnesCount(uint(set))%2 == 1 {
				term = -term
			}
			share += term
		}
		if cost := -math.Log2(share); cost >= 1 || cost < 0 {
			t.Errorf("%s with %d characters: all classes cost %.2f bits", name, least.Length, cost)
		}
	}
}
