package config

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// TestShallowIsNotOutsized makes sources of what a reader of lines and one of tokens may
// take for different things. It is internal: from outside nobody can tell who judged.
func TestShallowIsNotOutsized(t *testing.T) {
	fragments := []string{
		"{", "[", "(", "{\n", "[\n", "x = {\n", "}", "]", ")", "}\n", `"}"`, `"]]]]]]"`, `"{"`, "# }}}}}}\n", "// ]]]]]]\n", "/* }}}}}} */", "/", "*/",
		"<<E\n}}}}}}\nE\n", "<<-E\n", "E\n", "<", `"${a}"`, `"$${}}}}"`, `"\"}}}}"`, `"\\"`, `"`, "%{ if x }", `"%{`, "'}}}}'", "`", "\\", "\r", "\n", " ", ",",
		"-", "!", "?", "----------", "1e9", "1E99999", "1e+0000", "e12345", "0.1e-9999", "a", "é", "\x00", "\xff",
	}
	outsizedOnes, shallowOnes := 0, 0
	for seed := range uint64(4000) {
		dice := rand.New(rand.NewPCG(seed, 6))
		few := fragments[:6] // which nest
		for range 1 + dice.IntN(4) {
			few = append(few[:len(few):len(few)], fragments[dice.IntN(len(fragments))])
		}
		var source strings.Builder
		for range dice.IntN(600) {
			source.WriteString(few[dice.IntN(len(few))])
		}
		text := []byte(source.String())
		_, outsized := outsizedToken(text, "x.hcl")
		if outsized {
			outsizedOnes++
		}
		if shallow(text) {
			if shallowOnes++; outsized {
				t.Fatalf("seed %d: it is not shallow: %q", seed, text)
			}
		}
	}
	if outsizedOnes < 100 || shallowOnes < 100 {
		t.Errorf("%d of them are outsized, %d shallow: this tries nothing", outsizedOnes, shallowOnes)
	}
}

func TestOrdinarySecretsAreShallow(t *testing.T) {
	secret := `secret "a/b" { # who { needs this
  labels = { url = "https://x/{y}", team = "growth" } // [
  rotation { overlap = "12h" }
}
`
	if !shallow([]byte(strings.Repeat(secret, 300))) {
		t.Error("tokens are made for secrets that need none")
	}
}
