package audit_test

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/rotation"
)

// TestCheckTellsOfAFailureUntilItIsOver writes to a pipe, whose reader goes away
// and comes back.
func TestCheckTellsOfAFailureUntilItIsOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader := openPipe(t, path)
	log, err := audit.Open(configAt(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() }) // a pipe cannot be synced
	event := rotation.AuditEvent{Actor: "a", Action: "secret.read", Path: "p", Outcome: "ok"}
	if err := errors.Join(log.Write(t.Context(), audit.Record{AuditEvent: event}, audit.Synced), log.Check(time.Now())); err != nil {
		t.Fatal(err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"record": log.Write(t.Context(), audit.Record{AuditEvent: event}, audit.Synced), "check": log.Check(time.Now())} {
		if !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s with nobody to read: %v", what, err)
		}
	}
	lines := bufio.NewReader(openPipe(t, path))
	if err := log.Check(time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"secret.read", "audit.resume"} {
		line, err := lines.ReadString('\n')
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("line %q (%v), want %q", line, err, want)
		}
	}
}

func openPipe(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}
