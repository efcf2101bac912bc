package keys

import "io"

// Draw is draw, and GenerateFrom Generate, from a given source.
var Draw = draw

// GenerateFrom makes a value from a given source.
func GenerateFrom(s Spec, random io.Reader) (string, error) {
	s, err := Check(s)
	if err != nil {
		return "", err
	}
	return generate(s, random), nil
}

// Alphabets are the characters by their alphabet's name, Classes by their class's.
func Alphabets() map[string]string { return alphabets }

// Classes are the characters of each class.
func Classes() map[string]string { return classes }
