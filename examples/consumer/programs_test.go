package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/pinned"
)

// program is one of the example consumers, in whatever language.
type program struct {
	name    string
	command func(t *testing.T) []string // starts it; nil: run does, in this process
	instant string                      // the -key-interval that lets it always ask for keys
	env     []string
}

func programs() []program {
	return []program{
		{"go", nil, "1ns", nil},
		{"python", python, "0", nil},
		{"node", node, "0", nil},
	}
}

// eachProgram runs a test with each of them, side by side.
func eachProgram(t *testing.T, test func(t *testing.T, p program)) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

// running is a program that has said that it is ready.
type running struct {
	url  string // where it listens
	stop func() // ends it, and waits until all that it has said is here
	out  *output
	log  *output
}

func (p program) run(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{out: newOutput(), log: newOutput()}
	args = append([]string{"--addr", "127.0.0.1:0", "--instance", p.name}, args...)
	if p.command == nil {
		r.stop = startHere(t, r.out, r.log, args)
	} else {
		r.stop = startProcess(t, r.out, r.log, p.env, append(p.command(t), args...))
	}
	r.stop = sync.OnceFunc(r.stop)
	t.Cleanup(func() {
		r.stop()
		if said := r.out.String() + r.log.String(); strings.Contains(said, canary) {
			t.Errorf("the canary is in what it said:\n%s", said)
		}
	})
	first, ok := r.out.firstLine()
	if !ok {
		t.Fatalf("it did not get ready; it said:\n%s%s", r.out, r.log)
	}
	r.url, _ = strings.CutPrefix(first, "listening on ")
	return r
}

// lines are what it printed, from the second line on, until it was stopped.
func (r *running) lines() []string {
	r.stop()
	return strings.Split(strings.TrimSpace(r.out.String()), "\n")[1:]
}

// fails runs the program until it ends by itself, as it must with an error, and returns
// what it said.
func (p program) fails(t *testing.T, args ...string) string {
	t.Helper()
	said := newOutput()
	var err error
	if p.command == nil {
		err = run(t.Context(), args, said, said)
		_, _ = fmt.Fprintln(said, err)
	} else {
		argv := append(p.command(t), args...)
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = said, said
		err = cmd.Run()
	}
	if err == nil {
		t.Error("it ended well")
	}
	return said.String()
}

func startHere(t *testing.T, out, log *output, args []string) func() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, args, out, log) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func python(t *testing.T) []string {
	requirements, err := os.ReadFile(filepath.Join("python", "requirements.txt"))
	if err != nil {
		t.Fatal(err)
	}
	interpreter, err := pinned.Python(t.Context(), "consumer", requirements)
	if err != nil {
		t.Fatal(err)
	}
	return []string{interpreter, "-B", filepath.Join("python", "consumer.py")}
}

func node(t *testing.T) []string {
	var text [2][]byte
	for i, name := range []string{"package.json", "package-lock.json"} {
		var err error
		if text[i], err = os.ReadFile(filepath.Join("node", name)); err != nil {
			t.Fatal(err)
		}
	}
	modules, err := pinned.Node(t.Context(), "consumer", text[0], text[1])
	if err != nil {
		t.Fatal(err)
	}
	// A module is looked for beside the program.
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("node")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(modules.Dir, "node_modules"), filepath.Join(dir, "node_modules")); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	return []string{modules.Node, filepath.Join(dir, "consumer.mjs")}
}

// untilClosed runs a command until its own standard input is closed, as our end does
// however it comes.
const untilClosed = `"$@" & cat >/dev/null; kill $!; wait $!`

func startProcess(t *testing.T, out, log *output, env, command []string) func() {
	cmd := exec.Command("sh", append([]string{"-c", untilClosed, "sh"}, command...)...)
	cmd.Stdout, cmd.Stderr, cmd.Env = out, log, append(os.Environ(), env...)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = stdin.Close()
		_ = cmd.Wait() // however it ended: it was told to
	}
}

// output keeps what a program says.
type output struct {
	mu    sync.Mutex
	text  strings.Builder
	first chan string
}

var _ io.Writer = (*output)(nil)

func newOutput() *output { return &output{first: make(chan string, 1)} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, before := o.line()
	_, _ = o.text.Write(b) // never fails
	if line, complete := o.line(); complete && !before {
		o.first <- line
	}
	return len(b), nil
}

func (o *output) line() (string, bool) {
	line, _, complete := strings.Cut(o.text.String(), "\n")
	return line, complete
}

// firstLine waits for it.
func (o *output) firstLine() (string, bool) {
	select {
	case line := <-o.first:
		return line, true
	case <-time.After(time.Minute):
		return "", false
	}
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
