package keys_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"math"
	chacha "math/rand/v2"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/rotation/keys"
)

// seeded is the same randomness at every run: what it shows, it shows always.
func seeded() io.Reader {
	return chacha.NewChaCha8([32]byte([]byte("0123456789abcdef0123456789abcdef")))
}

// biased draws as it should not be done: the remainder of each byte.
func biased(alphabet string, _ []string, length int, random io.Reader) string {
	buf := make([]byte, length)
	_, _ = io.ReadFull(random, buf)
	for i, b := range buf {
		buf[i] = alphabet[int(b)%len(alphabet)]
	}
	return string(buf)
}

// tally counts how often each of n outcomes came.
type tally []int

// excess tells whether the counts are farther from equal than chance makes them with
// a probability of about 1e-12: the test of chi-square, by the approximation of Wilson
// and Hilferty.
func (c tally) excess() (chi2, limit float64, found bool) {
	total := 0
	for _, n := range c {
		total += n
	}
	want := float64(total) / float64(len(c))
	for _, n := range c {
		chi2 += (float64(n) - want) * (float64(n) - want) / want
	}
	const z = 7.03 // the normal distribution's quantile of 1 - 1e-12
	df := float64(len(c) - 1)
	limit = df * math.Pow(1-2/(9*df)+z*math.Sqrt(2/(9*df)), 3)
	return chi2, limit, chi2 > limit
}

// findings draws many texts and tells where their characters are not equally likely:
// at each place, and in pairs of neighbours and of places far apart.
func findings(draw func(string, []string, int, io.Reader) string, alphabet string, random io.Reader, texts int) (found []string) {
	const length = 32
	n := len(alphabet)
	at := make([]tally, length)
	for i := range at {
		at[i] = make(tally, n)
	}
	near, far := make(tally, n*n), make(tally, n*n)
	for range texts {
		text := draw(alphabet, nil, length, random)
		var index [length]int
		for i := range length {
			index[i] = strings.IndexByte(alphabet, text[i])
			at[i][index[i]]++
		}
		for i := 0; i < length; i += 2 { // no pair shares a place with another
			near[index[i]*n+index[i+1]]++
		}
		for i := range length / 2 {
			far[index[i]*n+index[i+length/2]]++
		}
	}
	all := map[string]tally{"neighbours": near, "far apart": far}
	for i, c := range at {
		all[fmt.Sprint("place ", i)] = c
	}
	for what, c := range all {
		if chi2, limit, bad := c.excess(); bad {
			found = append(found, fmt.Sprintf("%s: %.0f, at most %.0f", what, chi2, limit))
		}
	}
	return found
}

func TestEveryCharacterIsEquallyLikely(t *testing.T) {
	for name, alphabet := range keys.Alphabets() {
		if found := findings(keys.Draw, alphabet, seeded(), 20000); len(found) != 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
}

// The same with the randomness that is used: 1e-12 for each of the 34 counts.
func TestSystemRandomness(t *testing.T) {
	if found := findings(keys.Draw, keys.Alphabets()["base62"], rand.Reader, 20000); len(found) != 0 {
		t.Error(found)
	}
}

// It is noticed that the remainders of bytes favour the beginning of an alphabet whose
// length does not divide 256, be it by 4 % only (digits).
func TestBiasWouldBeNoticed(t *testing.T) {
	for name, alphabet := range keys.Alphabets() {
		found := findings(biased, alphabet, seeded(), 20000)
		if fair := 256%len(alphabet) == 0; fair != (len(found) == 0) {
			t.Errorf("%s, %d characters: found %v", name, len(alphabet), found)
		}
	}
}

// Of all texts with a character of each class each is equally likely: where the first
// place were filled with a class of its own, e.g., those with two of it would not be.
func TestEveryTextIsEquallyLikely(t *testing.T) {
	const alphabet, length = "0123abc", 4 // hex in small
	patched := func(alphabet string, needs []string, length int, random io.Reader) string {
		text := []byte(keys.Draw(alphabet, nil, length, random))
		text[0], text[1] = keys.Draw("0123", nil, 1, random)[0], keys.Draw("abc", nil, 1, random)[0]
		return string(text)
	}
	swapped := func(alphabet string, needs []string, length int, random io.Reader) string {
		text := []byte(patched(alphabet, needs, length, random))
		for i := range text {
			j := int(keys.Draw("0123", nil, 1, random)[0] - '0')
			text[i], text[j] = text[j], text[i]
		}
		return string(text)
	}
	for name, tt := range map[string]struct {
		draw func(string, []string, int, io.Reader) string
		fair bool
	}{"draw": {keys.Draw, true}, "patched": {patched, false}, "patched and shuffled": {swapped, false}} {
		count := map[string]int{}
		random := seeded()
		for range 200000 {
			count[tt.draw(alphabet, []string{"digit", "lower"}, length, random)]++
		}
		var c tally
		for i := range 7 * 7 * 7 * 7 {
			text := make([]byte, length)
			for at := range text {
				text[at], i = alphabet[i%7], i/7
			}
			if strings.ContainsAny(string(text), "0123") && strings.ContainsAny(string(text), "abc") {
				c = append(c, count[string(text)])
				delete(count, string(text))
			}
		}
		chi2, limit, bad := c.excess()
		if bad == tt.fair || len(count) != 0 {
			t.Errorf("%s: chi-square %.0f, at most %.0f; others than there are: %d", name, chi2, limit, len(count))
		}
	}
}

func TestSameSourceSameValue(t *testing.T) {
	spec := keys.Spec{Classes: []string{"symbol", "digit"}}
	one, err := keys.GenerateFrom(spec, seeded())
	two, _ := keys.GenerateFrom(spec, seeded())
	if err != nil || one != two || len(one) != 32 {
		t.Errorf("got %q and %q, %v", one, two, err)
	}
}
