package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keybroker": main})
}

// TestScripts runs the command line as people do; the scripts are to be read.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("KEYBROKER_ADDR", "http://127.0.0.1:1") // nobody listens there
			return nil
		},
	})
}
