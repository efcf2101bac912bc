package broker

import "testing"

// An address is a name, unless it opens something.
func TestAddressesThatOpen(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"https://hooks.example.com/services/T0001/B0001/XyZ123abcXyZ123abcXyZ123": true,
		"postgres://app:s3cret-of-it@db.example.com/app":                          true,
		"https://api.example.com/send?token=abcdefgh":                             true,
		"https://api.example.com/v1/messages":                                     false,
		"https://api.example.com":                                                 false,
		"postgres://app@db.example.com:5432/app":                                  false,
		"db.example.com":                                                          false,
	} {
		if got := opens(text); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
