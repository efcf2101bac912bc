package program_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/program"
)

const canary = "canary-of-the-program"

func shell(script string) program.Config {
	return program.Config{
		Command: "/bin/sh", Args: []string{"-c", script},
		Env: map[string]string{"PLAIN": "text"}, SecretEnv: map[string]backends.SecretString{"TOKEN": canary},
	}
}

var ask = program.Request{Operation: program.Issue, Tag: "kb-1-1", Value: map[string]string{"key": canary + "-value"},
	Secret: program.Secret{Tenant: "acme", Name: "app/one"}}

// The environment is what the block says, and nothing of ours.
func TestEnvironment(t *testing.T) {
	t.Setenv("BROKER_SECRET", "canary")
	dir := t.TempDir()
	cfg := shell(`/usr/bin/env >` + dir + `/env; pwd >` + dir + `/pwd; cat >` + dir + `/asked; echo '{"protocol":1}'`)
	if _, err := program.New(cfg).Run(t.Context(), ask); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, line := range strings.Fields(read(t, dir, "env")) {
		name, value, _ := strings.Cut(line, "=")
		got[name] = value
	}
	for _, own := range []string{"PWD", "SHLVL", "_", "OLDPWD"} { // the shell's own
		delete(got, own)
	}
	if fmt.Sprint(got) != fmt.Sprint(map[string]string{"PLAIN": "text", "TOKEN": canary}) {
		t.Errorf("the environment is %v", got)
	}
	if pwd := strings.TrimSpace(read(t, dir, "pwd")); pwd != "/" {
		t.Errorf("it runs in %s", pwd)
	}
	const want = `{"protocol":1,"operation":"issue","secret":{"tenant":"acme","name":"app/one","labels":{}},"tag":"kb-1-1","value":{"key":"` + canary + `-value"}}`
	if asked := read(t, dir, "asked"); asked != want {
		t.Errorf("it was asked %s", asked)
	}
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Exit statuses and errors have the classes that the documentation says, and the
// secrets that programs print are in none of them.
func TestFailures(t *testing.T) {
	const loud = `echo "$TOKEN" >&2; cat >&2; `
	for script, class := range map[string]error{
		`exit 1`:                         backends.ErrUnavailable,
		`exit 64`:                        backends.ErrInvalid,
		`exit 65`:                        backends.ErrInvalid,
		`exit 69`:                        backends.ErrUnavailable,
		`exit 75`:                        backends.ErrUnavailable,
		`exit 77`:                        backends.ErrDenied,
		`exit 78`:                        backends.ErrInvalid,
		`kill -KILL $$`:                  backends.ErrUnavailable,
		`echo '{"protocol":1}'; exit 77`: backends.ErrDenied,
		`echo "$TOKEN"; exit 77`:         backends.ErrDenied,
		`echo "$TOKEN"`:                  backends.ErrUnavailable,
		`echo '{"protocol":1,"error":{"class":"denied"}}'; exit 64`:                                                          backends.ErrDenied,
		`echo '{"protocol":1,"error":{"class":"not_found"}}'`:                                                                backends.ErrNotFound,
		`echo '{"protocol":1,"error":{"class":"conflict"}}'`:                                                                 backends.ErrConflict,
		`echo '{"protocol":1,"error":{"class":"unsupported"}}'`:                                                              backends.ErrUnsupported,
		`echo '{"protocol":1,"error":{"class":"unavailable"}}'; exit 64`:                                                     backends.ErrUnavailable,
		`printf '{"protocol":1,"error":{"class":"invalid","message":"it is %s"}}' "$TOKEN"`:                                  backends.ErrInvalid,
		`printf '{"protocol":1,"value":{"key":"made"},"error":{"class":"invalid","message":"it is made, by %s"}}' "$TOKEN" `: backends.ErrInvalid,
		`head -c 2000000 /dev/zero`:                                                                                          backends.ErrUnavailable,
	} {
		_, err := program.New(shell(loud+script)).Run(t.Context(), ask)
		text := fmt.Sprintf("%v %+v %#v", err, err, err)
		if !errors.Is(err, class) || errors.Is(err, program.ErrNotStarted) || strings.Contains(text, canary) {
			t.Errorf("%s: got %v, want %v", script, strings.ReplaceAll(text, canary, "(CANARY)"), class)
		}
	}
	_, err := program.New(shell(`echo '{"protocol":1,"error":{"class":"invalid","message":"no\u001b[31m such scope"}}'`)).Run(t.Context(), ask)
	if err == nil || !strings.HasSuffix(err.Error(), "invalid: no [31m such scope") {
		t.Errorf("a message of its own: %v", err)
	}
}

// However a message writes a secret, it is not shown.
func TestMessagesThatQuote(t *testing.T) {
	const secret = `top/canary+"tok`
	for how, message := range map[string]string{
		"as it is": secret, "in a URL": url.QueryEscape(secret), "in base64": base64.StdEncoding.EncodeToString([]byte(secret)), "in part": secret[:9],
	} {
		text, _ := json.Marshal(map[string]any{"protocol": 1, "error": map[string]string{"class": "denied", "message": "the token " + message + " is refused"}})
		cfg := shell("printf %s '" + string(text) + "'")
		cfg.SecretEnv = map[string]backends.SecretString{"TOKEN": secret}
		if _, err := program.New(cfg).Run(t.Context(), ask); !errors.Is(err, backends.ErrDenied) || !strings.Contains(err.Error(), "not shown") {
			t.Errorf("%s: %v", how, err)
		}
	}
}

// What is not started did nothing.
func TestNotStarted(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, path := range map[string]string{
		"missing":          filepath.Join(dir, "missing"),
		"a directory":      dir,
		"no program":       file("plain", "#!/bin/sh\n", 0o600),
		"anybody's":        file("open", "#!/bin/sh\n", 0o777),
		"no format at all": file("garbage", "\x00\x01", 0o700),
		"no interpreter":   file("nowhere", "#!/no/such/interpreter\n", 0o700),
	} {
		cfg := program.Config{Command: path, Args: []string{canary}}
		if _, err := program.New(cfg).Run(t.Context(), ask); !errors.Is(err, backends.ErrUnavailable) || !errors.Is(err, program.ErrNotStarted) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := program.New(shell("exit 0")).Run(ctx, ask); !errors.Is(err, backends.ErrUnavailable) || !errors.Is(err, program.ErrNotStarted) {
		t.Errorf("cancelled: %v", err)
	}
}

// At the deadline the program goes, and whom it has started.
func TestDeadline(t *testing.T) {
	for name, end := range map[string]func(program.Config) (program.Config, context.Context){
		"of the block": func(c program.Config) (program.Config, context.Context) {
			c.Timeout = time.Second
			return c, t.Context()
		},
		"of the caller": func(c program.Config) (program.Config, context.Context) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			t.Cleanup(cancel)
			return c, ctx
		},
	} {
		pids := filepath.Join(t.TempDir(), "pids")
		cfg, ctx := end(shell(`echo $$ >` + pids + `; sleep 600 & echo $! >>` + pids + `; wait`))
		_, err := program.New(cfg).Run(ctx, ask)
		if !errors.Is(err, backends.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		gone(t, pids, 2)
	}
}

// Whom a program leaves behind when it ends does not live on, nor hold it up.
func TestLeftBehind(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	if _, err := program.New(shell(`sleep 600 & echo $! >`+pids+`; echo '{"protocol":1}'`)).Run(t.Context(), ask); err != nil {
		t.Error(err)
	}
	gone(t, pids, 1)
}

func gone(t *testing.T, pids string, want int) {
	t.Helper()
	list := strings.Fields(read(t, pids))
	if len(list) != want {
		t.Fatalf("the processes were %q", list)
	}
	for _, text := range list {
		pid, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d lives on", pid)
			}
			<-time.After(5 * time.Millisecond)
		}
	}
}

// alive tells whether a process runs. One that nobody has buried yet does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}
