package daemon_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

// crowdedBlocks has several mistakes in each block, each marked with what is to be
// said on its line, and nothing else.
const crowdedBlocks = `backend "vault" "v" {
  address = "http://vault.example.com:8200" # Write https://vault.example.com:8200
  mount   = "/"                             # is no path like secret
  colour  = "blue"                          # There is no attribute "colour"
  auth "token" {
    token = file("missing")                 # no such file
  }
}
issuer "http" "i" {
  base_url = "ftp://x"                      # neither https:// nor http://
  timeout  = "soon"                         # is no duration
  max_live = -2                             # Invalid limit
  auth "bearer" {
    token = file("missing")                 # no such file
  }
  create {                                  # "fields" is missing
    path    = "/a/${nobody.id}"             # There is no variable "nobody"
    headers = { x-api-key = "abc" }         # Literal secret
    handle  = { id = "$.id" }
  }
  revoke {
    path = "/b/${handle.idd}"               # Did you mean "id"?
  }
  find {                                    # "handle" is missing
    path  = "/c"
    items = "x"                             # Invalid JSON path
    tag   = "$.tag"
  }
}
issuer "http" "unhandled" {
  base_url              = "http://10.0.0.1"
  allow_private_network = "perhaps"         # is of the wrong type
  create {                                  # "handle" is missing
    path   = "/a"
    fields = { key = "$.key" }
  }
  revoke {
    path = "/b/${handle.id}"
  }
}
probe "http" "p" {                          # "url" is missing
  timeout       = "x"                       # is no duration
  lockout_after = -1                        # Invalid limit
  method        = "GETT"                    # Did you mean "GET"?
  headers       = { Private-Token = "abc" } # Literal secret
  accepted {
    status = "x"                            # is of the wrong type
    json {                                  # "equals" is missing
      path = "k"                            # Invalid JSON path
    }
  }
  rejected {
    status = [500]                          # Status proves nothing
  }
}
`

// TestMistakesOfOneBlockStandTogether is about mistakes that decoding finds and
// those that the types' own checks find.
func TestMistakesOfOneBlockStandTogether(t *testing.T) {
	t.Parallel()
	const file = "crowded.hcl"
	_, diags := config.Parse(map[string][]byte{file: []byte(crowdedBlocks)}, daemon.Registry(), config.Options{Dir: t.TempDir()})
	want := map[int]string{}
	for i, line := range strings.Split(crowdedBlocks, "\n") {
		if _, mark, ok := strings.Cut(line, " # "); ok {
			want[i+1] = mark
		}
	}
	for _, d := range diags.All() {
		line, text := d.Subject.Start.Line, d.Summary+": "+d.Detail
		if mark, ok := want[line]; !ok || !strings.Contains(text, mark) {
			t.Errorf("unexpected on line %d: %s", line, text)
			continue
		}
		delete(want, line)
	}
	var shown strings.Builder
	if err := diags.WriteText(&shown, false); err != nil || strings.Contains(shown.String(), `"abc"`) {
		t.Errorf("a literal secret is shown (%v)", err)
	}
	var missing []string
	for line, mark := range want {
		missing = append(missing, fmt.Sprintf("line %d: %s", line, mark))
	}
	if slices.Sort(missing); len(missing) > 0 {
		t.Errorf("not reported:\n%s", strings.Join(missing, "\n"))
	}
}

// TestEmptyBlocksAreChecked: what decoding misses is not there for the checks.
func TestEmptyBlocksAreChecked(t *testing.T) {
	t.Parallel()
	const text = `backend "vault" "v" {}
issuer "http" "i" {}
issuer "http" "j" {
  create {}
  find {}
  revoke {}
}
probe "http" "p" {}
probe "http" "q" {
  accepted {
    json {}
  }
  rejected {
    json {}
  }
}
`
	_, diags := config.Parse(map[string][]byte{"empty.hcl": []byte(text)}, daemon.Registry(), config.Options{Dir: t.TempDir()})
	for _, d := range diags.All() {
		if !strings.HasSuffix(d.Summary, "is missing") {
			t.Errorf("line %d: %s: %s", d.Subject.Start.Line, d.Summary, d.Detail)
		}
	}
	if len(diags.All()) < 15 {
		t.Errorf("only %d mistakes", len(diags.All()))
	}
}
