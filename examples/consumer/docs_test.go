package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

var vectors = regexp.MustCompile("(?s)To check yours:\n\n```json\n(.*?)```")

// TestDocumentedFingerprints compares what docs/consumers.md shows with what the broker
// asks for.
func TestDocumentedFingerprints(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "consumers.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := vectors.FindSubmatch(text)
	if shown == nil {
		t.Fatal("the page shows no fingerprints")
	}
	var list []struct {
		Delivery    string
		Fields      map[string]string
		Encodings   map[string]string
		Fingerprint string
	}
	if err := json.Unmarshal(shown[1], &list); err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	for _, v := range list {
		for name := range v.Encodings {
			raw, err := base64.StdEncoding.DecodeString(v.Fields[name])
			if err != nil {
				t.Fatal(err)
			}
			v.Fields[name] = string(raw)
		}
		if got := rotation.Fingerprint(v.Delivery, backends.NewValue(v.Fields)); got != v.Fingerprint {
			t.Errorf("%v: got %s, want %s", v.Fields, got, v.Fingerprint)
		}
	}
}
