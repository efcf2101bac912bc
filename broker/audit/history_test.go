package audit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/rotation"
)

// box is an outbox whose entries are numbered from a number on.
type box struct{ entries []audit.Entry }

func (b *box) Pending(context.Context, int) ([]audit.Entry, error) { return b.entries, nil }

func (b *box) Written(context.Context, int64) error {
	b.entries = nil
	return nil
}

func write(t *testing.T, path string, numbers ...int64) {
	t.Helper()
	log, err := audit.Open(configAt(path))
	if err != nil {
		t.Fatal(err)
	}
	b := &box{}
	for _, n := range numbers {
		b.entries = append(b.entries, audit.Entry{Seq: n, Event: rotation.AuditEvent{Actor: "keybroker", Action: "a", Path: strings.Repeat("p", 2000), Outcome: "ok"}})
	}
	if err := log.Drain(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestHistory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if n, err := audit.Newest(path); n != 0 || err != nil {
		t.Fatalf("a log that is not there: %d, %v", n, err)
	}
	write(t, path, 1, 2, 3)
	write(t, path, 3, 4) // a crash repeats lines
	log, err := audit.Open(configAt(path))
	if err != nil {
		t.Fatal(err)
	}
	for range 200 { // requests have no number
		if err := log.Write(t.Context(), audit.Record{AuditEvent: rotation.AuditEvent{Actor: "tok", Action: "secret.read", Path: strings.Repeat("p", 1000), Outcome: "ok"}}, audit.Synced); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := audit.Newest(path); n != 4 || err != nil {
		t.Errorf("newest %d (%v), want 4", n, err)
	}
	lost, err := audit.After(path, 2)
	if err != nil || len(lost) != 2 || lost[0].Seq != 3 || lost[1].Seq != 4 {
		t.Errorf("after 2: %d entries (%v)", len(lost), err)
	}
}

// A store that was put back gave numbers a second time, before it was known: nothing
// that the log tells of is taken for a repetition of something else.
func TestNumbersThatWereGivenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write(t, path, 1, 2, 3)
	log, err := audit.Open(configAt(path))
	if err != nil {
		t.Fatal(err)
	}
	b := &box{entries: []audit.Entry{{Seq: 2, Event: rotation.AuditEvent{Actor: "keybroker", Action: "b", Path: "p", Outcome: "ok", Detail: map[string]string{"version": "1"}}}}}
	if err := errors.Join(log.Drain(t.Context(), b), log.Close()); err != nil {
		t.Fatal(err)
	}
	write(t, path, 2, 3)
	lost, err := audit.After(path, 1)
	if err != nil || len(lost) != 3 || lost[0].Event.Action != "a" || lost[1].Event.Action != "b" || lost[2].Seq != 3 {
		t.Errorf("%d entries: %+v (%v)", len(lost), lost, err)
	}
}

// TestATornLineIsNotJoined cuts the last line off, as a kill in a write may.
func TestATornLineIsNotJoined(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write(t, path, 1)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(whole, whole[:100]...), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, path, 2)
	if n, err := audit.Newest(path); n != 2 || err != nil {
		t.Errorf("newest %d (%v), want 2", n, err)
	}
}
