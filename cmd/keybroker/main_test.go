package main

import (
	"flag"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keybroker/keybroker/broker/authn/oidcserver"
)

func TestMain(m *testing.M) {
	// The live scripts wait for proofs, not for processors; -parallel still wins.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"keybroker": main, "person": person})
}

// TestScripts runs the command line as people do; the scripts are to be read.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":     serveScript,
			"halt":      halt,
			"remember":  remember,
			"hangup":    hangup,
			"logged":    logged,
			"vault":     startVault,
			"somebody":  somebody,
			"responder": newResponder,
			"provider":  startProvider,
			"jwt":       writeJWT,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("KEYBROKER_ADDR", "http://127.0.0.1:1") // nobody listens there
			env.Setenv("TMPDIR", env.WorkDir)
			env.Values[theTest{}] = env.T()
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir+"/.config")
			env.Values[theServer{}] = new(*liveServer)
			env.Values[theProvider{}] = new(*oidcserver.Server)
			env.Values[theVault{}] = new(*mailerSite)
			return nil
		},
	})
}
