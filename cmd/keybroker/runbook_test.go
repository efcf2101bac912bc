package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// runbook is what docs/runbook.md says to type.
type runbook struct {
	text   string
	blocks []string // of all sections
	demo   []string // of its first section
}

func readRunbook(t *testing.T) runbook {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	r := runbook{text: string(b)}
	block := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	found := func(text string) (all []string) {
		for _, m := range block.FindAllStringSubmatch(text, -1) {
			all = append(all, m[1])
		}
		return all
	}
	_, demo, ok := strings.Cut(r.text, "\n## Practise\n")
	if !ok {
		t.Fatal("it has no section Practise")
	}
	demo, _, _ = strings.Cut(demo, "\n## ")
	r.blocks, r.demo = found(r.text), found(demo)
	return r
}

// growing is output that a test waits for.
type growing struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (g *growing) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case g.more <- struct{}{}:
	default:
	}
	return g.text.Write(p)
}

func (g *growing) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}

// waitFor returns when it says something, or fails.
func (g *growing) waitFor(ctx context.Context, t *testing.T, text string) {
	t.Helper()
	for !strings.Contains(g.String(), text) {
		select {
		case <-g.more:
		case <-ctx.Done():
			t.Fatalf("it did not say %q:\n%s", text, anyCredential.ReplaceAllString(g.String(), "REDACTED"))
		}
	}
}

// TestRunbookIsFollowedWordForWord: a newcomer who types what docs/runbook.md says, into two
// terminals, has contained the leaked key of the demo within two minutes, and has the proof.
func TestRunbookIsFollowedWordForWord(t *testing.T) {
	r := readRunbook(t)
	if len(r.demo) != 3 {
		t.Fatalf("%d blocks in the demo, not 3", len(r.demo))
	}
	program, err := exec.LookPath("keybroker")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(program, filepath.Join(dir, "keybroker")); err != nil {
		t.Fatal(err)
	}
	const build = "go build -o keybroker ./cmd/keybroker\n" // that of the test is this one
	first, ok := strings.CutPrefix(r.demo[0], build)
	if !ok {
		t.Fatalf("it does not begin with %q", build)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	demo := shell(ctx, dir, "exec "+first)
	said := &growing{more: make(chan struct{}, 1)}
	demo.Stdout, demo.Stderr = said, said
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := demo.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := demo.Wait(); err != nil {
			t.Errorf("the demo ended: %v\n%s", err, said)
		}
		if _, err := os.Stat(filepath.Join(dir, "demo")); !os.IsNotExist(err) {
			t.Errorf("it left its directory: %v", err)
		}
	}()
	said.waitFor(ctx, t, "A node is serving")
	leaked, err := os.ReadFile(filepath.Join(dir, "demo", "leaked.env"))
	if err != nil || !anyCredential.Match(leaked) {
		t.Fatalf("no key has leaked: %v", err)
	}

	out, err := shell(ctx, dir, "set -e\n"+r.demo[1]).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, anyCredential.ReplaceAll(out, []byte("REDACTED")))
	}
	for _, want := range []string{"shop/payment-key", "demo-app", "YES: accepted now", "1 version of 1 secret proven dead"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("it does not say %q:\n%s", want, anyCredential.ReplaceAll(out, []byte("REDACTED")))
		}
	}
	after, err := shell(ctx, dir, "set -e\n. demo/env\n"+r.demo[2]).CombinedOutput()
	if err != nil || !bytes.Contains(after, []byte("no: rejected now")) {
		t.Errorf("%v\n%s", err, anyCredential.ReplaceAll(after, []byte("REDACTED")))
	}
	if anyCredential.Match(out) || anyCredential.Match(after) || anyCredential.MatchString(said.String()) {
		t.Error("a credential was printed")
	}
}

// shell runs what is typed; it hears nothing but that.
func shell(ctx context.Context, dir, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "KEYBROKER_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	return cmd
}

var (
	inCode  = regexp.MustCompile("`(keybroker [^`]+)`")
	comment = regexp.MustCompile(`\s+#.*$`)
	words   = regexp.MustCompile(`"([^"]*)"|'([^']*)'|(\S+)`)
)

// TestRunbookNamesCommandsThatExist, with flags that they have.
func TestRunbookNamesCommandsThatExist(t *testing.T) {
	r := readRunbook(t)
	var lines []string
	for _, b := range r.blocks {
		for line := range strings.Lines(b) {
			line = strings.TrimPrefix(comment.ReplaceAllString(strings.TrimSpace(line), ""), "./")
			if strings.HasPrefix(line, "keybroker ") {
				lines = append(lines, line)
			}
		}
	}
	for _, m := range inCode.FindAllStringSubmatch(r.text, -1) {
		lines = append(lines, m[1])
	}
	if len(lines) < 30 {
		t.Fatalf("only %d commands were found", len(lines))
	}
	for _, line := range lines {
		var args []string
		for _, w := range words.FindAllStringSubmatch(line, -1)[1:] {
			args = append(args, w[1]+w[2]+w[3])
		}
		a := newApp(streams{strings.NewReader(""), io.Discard, io.Discard})
		cmd, rest, err := a.root().Find(args)
		if err != nil || cmd.HasSubCommands() {
			t.Errorf("%s: there is no such command: %v", line, err)
			continue
		}
		if err := cmd.ParseFlags(placed(rest)); err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// placed puts a number where the runbook has an N for one.
func placed(args []string) []string {
	var out []string
	for _, a := range args {
		if a == "N" {
			a = "1"
		}
		out = append(out, a)
	}
	return out
}
