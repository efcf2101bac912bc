package main

import (
	"regexp"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// hangup is the command `hangup` of the scripts: it sends SIGHUP to the server
// that `serve` has started.
func hangup(ts *testscript.TestScript, neg bool, args []string) {
	s := *ts.Value(theServer{}).(**liveServer)
	if neg || len(args) > 0 || s == nil {
		ts.Fatalf("usage: hangup, after serve")
	}
	ts.Check(s.cmd.Process.Signal(syscall.SIGHUP))
}

// logged is the command `logged REGEXP` of the scripts: the server's log has, or
// soon will have, a line that the expression matches.
func logged(ts *testscript.TestScript, neg bool, args []string) {
	s := *ts.Value(theServer{}).(**liveServer)
	if neg || len(args) != 1 || s == nil {
		ts.Fatalf("usage: logged REGEXP, after serve")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for deadline := time.Now().Add(30 * time.Second); !re.MatchString(s.log.String()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("the server does not log %q", args[0])
		}
	}
}
