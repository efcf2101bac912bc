package audit_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/rotation"
)

// configAt is a log in a directory of its own, with keys that are always the same.
func configAt(path string) audit.Config {
	return audit.Config{Path: path, Node: "n1", HashKey: bytes.Repeat([]byte{1}, 32), SigningSeed: bytes.Repeat([]byte{2}, 32),
		Now: time.Now, Logger: hclog.NewNullLogger()}
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "audit.jsonl") }

func open(t testing.TB, cfg audit.Config) *audit.Log {
	t.Helper()
	log, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() }) // it is closed by the test, or has failed
	return log
}

func closeLog(t testing.TB, log *audit.Log) {
	t.Helper()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

func event(n int) audit.Record {
	return audit.Record{AuditEvent: rotation.AuditEvent{At: time.Unix(1790000000+int64(n), 0), Kind: rotation.AuditRequest, Actor: "tok_1", Action: "secret.read",
		Path: fmt.Sprintf("app/key%d", n), Outcome: "ok"}}
}

func mustWrite(t testing.TB, log *audit.Log, rec audit.Record, d audit.Durability) {
	t.Helper()
	if err := log.Write(t.Context(), rec, d); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// verify verifies the journal at path with the right key.
func verify(t testing.TB, path string, checkpoints ...string) audit.Verdict {
	t.Helper()
	v, err := audit.Verify(audit.Verification{Paths: []string{filepath.Dir(path)}, Key: publicKey(t), Checkpoints: checkpoints})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func publicKey(t testing.TB) string {
	t.Helper()
	log := open(t, configAt(newPath(t)))
	defer log.Close()
	return log.PublicKey()
}
