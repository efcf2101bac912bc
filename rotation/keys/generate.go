package keys

import (
	"crypto/rand"
	"io"
	"strings"
)

// Generate makes a value from the system's randomness. All values that satisfy the
// spec are equally likely. ErrInvalid as of Check.
func Generate(s Spec) (string, error) {
	s, err := Check(s)
	if err != nil {
		return "", err
	}
	return generate(s, rand.Reader), nil
}

// generate makes a value from randomness that never fails.
func generate(s Spec, random io.Reader) string {
	text := draw(alphabets[s.Alphabet], s.Classes, s.Length, random)
	if s.Checksum {
		text += checksum(text)
	}
	if s.Prefix != "" {
		text = s.Prefix + "_" + text
	}
	return text
}

// draw draws texts until one has a character of each class: to put one there would
// make some texts, and some places in them, likelier than others.
func draw(alphabet string, needs []string, length int, random io.Reader) string {
	for {
		text := drawAny(alphabet, length, random)
		if hasAll(text, needs) {
			return text
		}
	}
}

func hasAll(text string, needs []string) bool {
	for _, name := range needs {
		if !strings.ContainsAny(text, classes[name]) {
			return false
		}
	}
	return true
}

// drawAny draws every character with the same probability: bytes from the last,
// incomplete run of the alphabet are dropped, since their remainders would favour its
// beginning.
func drawAny(alphabet string, length int, random io.Reader) string {
	limit := 256 - 256%len(alphabet)
	text := make([]byte, 0, length)
	buf := make([]byte, 2*length)
	defer clear(buf)
	for {
		_, _ = io.ReadFull(random, buf) // crypto/rand never fails: it ends the process instead
		for _, b := range buf {
			if int(b) >= limit {
				continue
			}
			if text = append(text, alphabet[int(b)%len(alphabet)]); len(text) == length {
				return string(text)
			}
		}
	}
}
