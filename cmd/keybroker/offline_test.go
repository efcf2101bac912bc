package main

import (
	"os"
	"path/filepath"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
)

// newResponder is the command `responder` of the scripts: it makes responder.key and
// other.key, secret keys of age, and config/recipients, the public one of the first.
func newResponder(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: responder")
	}
	for _, name := range []string{"other.key", "responder.key"} {
		id, err := age.GenerateX25519Identity()
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(id.String()+"\n"), 0o600))
		ts.Check(os.WriteFile(filepath.Join(ts.MkAbs("config"), "recipients"), []byte(id.Recipient().String()+"\n"), 0o600))
	}
}
