package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"filippo.io/age"
)

// command runs a command line to its end.
func (i *installation) command(args ...string) (code int, stdout, stderr string) {
	i.t.Helper()
	var out, errs bytes.Buffer
	code = run(i.t.Context(), args, streams{strings.NewReader(""), &out, &errs})
	return code, out.String(), errs.String()
}

// TestEscrowBringsALostSealBack: the day when the key file is gone.
func TestEscrowBringsALostSealBack(t *testing.T) {
	i := install(t, "127.0.0.1:0")
	identity, err := age.GenerateX25519Identity()
	must(t, err)
	i.write("identity.txt", "# created: long ago\n"+identity.String()+"\n")
	config, to := []string{"--config", i.path("config.hcl")}, identity.Recipient().String()
	escrow := func(out string) (int, string, string) {
		return i.command(append(config, "seal", "escrow", "--recipient", to, "--out", i.path(out))...)
	}
	recover := func(from string) (int, string, string) {
		return i.command(append(config, "seal", "recover", "--identity", i.path("identity.txt"), "--from", i.path(from))...)
	}

	if code, _, stderr := escrow("too-early.age"); code != exitFailed || !strings.Contains(stderr, "there is no database") {
		t.Errorf("a copy before the first start: exit %d, %s", code, stderr)
	}
	if _, err := os.Stat(i.path("too-early.age")); err == nil {
		t.Error("it left a copy of nothing")
	}
	i.serveOnce()
	code, stdout, stderr := escrow("escrow.age")
	if code != exitDone || !strings.Contains(stdout, "KEY") || !strings.Contains(stderr, "keep it away from the data") {
		t.Fatalf("a copy: exit %d\n%s%s", code, stdout, stderr)
	}
	info, err := os.Stat(i.path("escrow.age"))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the copy has mode %v", info.Mode())
	}
	if code, _, stderr := escrow("escrow.age"); code != exitFailed || !strings.Contains(stderr, "is there already") {
		t.Errorf("over a copy that is there: exit %d, %s", code, stderr)
	}

	must(t, os.Remove(i.path("seal.key")))
	if code, stderr := i.server(never); code != exitFailed || !strings.Contains(stderr, "keybroker seal recover") {
		t.Errorf("without the key file: exit %d\n%s", code, stderr)
	}
	i.write("damaged.age", "-----BEGIN AGE ENCRYPTED FILE-----\nAAAA\n-----END AGE ENCRYPTED FILE-----\n")
	if code, _, stderr := recover("damaged.age"); code != exitFailed || !strings.Contains(stderr, "this is no escrow copy, or it is damaged") {
		t.Errorf("by a damaged copy: exit %d, %s", code, stderr)
	}
	if code, stdout, stderr := recover("escrow.age"); code != exitDone || !strings.Contains(stdout, "RECOVERED KEY") || !strings.Contains(stderr, "keybroker seal rotate") {
		t.Fatalf("recovering: exit %d\n%s%s", code, stdout, stderr)
	}
	i.serveOnce()
	if strings.Contains(stderr+stdout, identity.String()) {
		t.Error("it shows the identity")
	}
}

func TestSealCommandsSayWhatIsMissing(t *testing.T) {
	i := install(t, "127.0.0.1:0")
	for want, args := range map[string][]string{
		"--recipient is missing":       {"escrow"},
		"--out is missing":             {"escrow", "--recipient", "age1x"},
		"--identity is missing":        {"recover"},
		"--from is missing":            {"recover", "--identity", "x"},
		`unexpected argument "now"`:    {"rotate", "now"},
		"there is no command \"open\"": {"open"},
	} {
		if code, _, stderr := i.command(append([]string{"seal"}, args...)...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%v: exit %d, %s", args, code, stderr)
		}
	}
}
