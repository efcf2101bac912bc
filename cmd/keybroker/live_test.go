package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
)

// theTest is where scripts keep their testing.TB.
type theTest struct{}

// theServer is where they keep their *liveServer.
type theServer struct{}

// anyCredential matches keys and tokens that keybroker makes.
var anyCredential = regexp.MustCompile(`kbt?_[0-9A-Za-z]{20,}`)

// serveScript is the command `serve` of the scripts: a real server with the
// configuration of testdata/live.hcl and the script's own config/*.hcl, which
// ends with the script. The environment tells the program where it is.
func serveScript(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: serve")
	}
	dir := ts.MkAbs("config")
	ts.Check(os.MkdirAll(dir, 0o700))
	tb := ts.Value(theTest{}).(testing.TB)
	for try := 1; ; try++ {
		s, addr := startLive(ts, dir)
		select {
		case <-s.ready:
			running := ts.Value(theServer{}).(**liveServer)
			*running = s
			ts.Defer(func() {
				if *running == s {
					s.stop(tb)
				}
			})
			ts.Setenv("KEYBROKER_ADDR", "http://"+addr)
			ts.Setenv("KEYBROKER_TOKEN_FILE", filepath.Join(dir, "data", "root-token"))
			return
		case <-s.ended:
			// Somebody else may have got the port since it was seen to be free.
			if try == 5 || !strings.Contains(s.log.String(), "address already in use") {
				ts.Fatalf("the server does not start: %v\n%s", s.err, &s.log)
			}
		}
	}
}

// liveServer is a running `keybroker server`; err is to be read when it has ended.
type liveServer struct {
	cmd   *exec.Cmd
	ready chan struct{}
	ended chan struct{}
	log   serverLog
	err   error
}

func startLive(ts *testscript.TestScript, dir string) (s *liveServer, addr string) {
	addr, err := loopback.Address()
	ts.Check(err)
	hcl, err := os.ReadFile("testdata/live.hcl")
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "live.hcl"), bytes.ReplaceAll(hcl, []byte("ADDR"), []byte(addr)), 0o600))

	s = &liveServer{cmd: exec.Command("keybroker", "server", "--config", dir), ready: make(chan struct{}), ended: make(chan struct{})}
	s.cmd.Stdout = &s.log // it prints nothing there
	stderr, err := s.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(s.cmd.Start())
	go s.follow(stderr)
	return s, addr
}

// follow reads the log until the server has ended.
func (s *liveServer) follow(stderr io.Reader) {
	defer close(s.ended)
	serving := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		fmt.Fprintln(&s.log, lines.Text())
		if !serving && strings.Contains(lines.Text(), "keybroker is serving") {
			serving = true
			close(s.ready)
		}
	}
	s.err = s.cmd.Wait()
}

// stop tells the server to end; it must have done well, and said no secret.
func (s *liveServer) stop(tb testing.TB) {
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		tb.Errorf("stopping the server: %v", err)
	}
	<-s.ended
	if anyCredential.MatchString(s.log.String()) {
		tb.Error("the server's log has a credential in it")
	}
	if s.err != nil || tb.Failed() {
		tb.Errorf("the server has ended: %v\n%s", s.err, anyCredential.ReplaceAllString(s.log.String(), "REDACTED"))
	}
}

// halt is the command `halt` of the scripts: it ends the server, which `serve` may
// start again.
func halt(ts *testscript.TestScript, neg bool, args []string) {
	running := ts.Value(theServer{}).(**liveServer)
	if neg || len(args) > 0 || *running == nil {
		ts.Fatalf("usage: halt, after serve")
	}
	(*running).stop(ts.Value(theTest{}).(testing.TB))
	*running = nil
}

// remember is the command `remember NAME REGEXP` of the scripts: it sets the
// environment variable to what the group of the expression finds in the stdout of
// the last command.
func remember(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: remember NAME REGEXP")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	found := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("stdout has no %s with one group", args[1])
	}
	ts.Setenv(args[0], found[1])
}
