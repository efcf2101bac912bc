package audit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
)

// place is a sink in memory that can be down, and that tells when it was asked.
type place struct {
	mu       sync.Mutex
	fail     error
	got      []audit.Line
	asked    chan struct{}
	confirms bool
	closed   bool
}

func newPlace() *place { return &place{asked: make(chan struct{}, 10000), confirms: true} }

func (p *place) Send(_ context.Context, lines []audit.Line) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked <- struct{}{}
	if p.fail == nil {
		p.got = append(p.got, lines...)
	}
	return p.fail
}

func (p *place) Confirms() bool { return p.confirms }

func (p *place) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return nil
}

func (p *place) set(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

func (p *place) lines() []audit.Line {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]audit.Line(nil), p.got...)
}

// until waits until the place has been asked and ok.
func (p *place) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-p.asked:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func setSinks(t *testing.T, log *audit.Log, dir string, all map[string]audit.Sink) {
	t.Helper()
	if err := log.SetSinks(dir, all); err != nil {
		t.Fatal(err)
	}
}

// consecutive tells which indices a place has, and fails if one is left out.
func consecutive(t *testing.T, lines []audit.Line) int64 {
	t.Helper()
	next := int64(0)
	for _, ln := range lines {
		if ln.Index > next {
			t.Fatalf("line %d is missing before %d", next, ln.Index)
		}
		next = max(next, ln.Index+1)
	}
	return next
}

// TestASinkGetsEverything sends over segments, restarts and times in which it is down.
func TestASinkGetsEverything(t *testing.T) {
	path, cursors := newPath(t), t.TempDir()
	cfg := configAt(path)
	cfg.MaxSize = 3000
	p := newPlace()
	for run := range 4 {
		log := open(t, cfg)
		if run == 1 {
			p.set(fmt.Errorf("%w: it is down", backends.ErrUnavailable))
		}
		setSinks(t, log, cursors, map[string]audit.Sink{"p": p})
		for n := range 20 {
			mustWrite(t, log, event(n), audit.Synced)
		}
		if run != 1 {
			p.set(nil)
			end := log.Checkpoint().Size
			p.until(t, "the end", func() bool { return consecutive(t, p.lines()) >= end })
		}
		closeLog(t, log)
		if !p.closed {
			t.Error("the sink was not closed")
		}
	}
	if n := len(p.lines()); n > 130 {
		t.Errorf("%d lines: many were sent twice", n)
	}
}

func TestASinkIsReplaced(t *testing.T) {
	path, cursors := newPath(t), t.TempDir()
	log := open(t, configAt(path))
	first, second := newPlace(), newPlace()
	setSinks(t, log, cursors, map[string]audit.Sink{"p": first})
	mustWrite(t, log, event(1), audit.Synced)
	first.until(t, "a line", func() bool { return len(first.lines()) > 0 })
	setSinks(t, log, cursors, map[string]audit.Sink{"p": first}) // a reload that changes nothing
	if first.closed {
		t.Error("it was closed though nothing has changed")
	}
	setSinks(t, log, cursors, map[string]audit.Sink{"p": second})
	if !first.closed {
		t.Error("it is not closed")
	}
	mustWrite(t, log, event(2), audit.Synced)
	second.until(t, "the next line", func() bool { return len(second.lines()) > 0 })
	if got := second.lines()[0]; got.Index == 0 {
		t.Errorf("it begins anew, with %d", got.Index)
	}
	setSinks(t, log, cursors, nil)
	if !second.closed || len(log.Sinks()) != 0 {
		t.Error("it goes on without being configured")
	}
}

// full is a journal on a disk that is full, which mend ends.
func full(t *testing.T) (path string, mend func()) {
	t.Helper()
	path = newPath(t)
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	return path, func() {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSinksTakeRecordsWhileTheDiskIsFull writes where nothing can be written.
func TestSinksTakeRecordsWhileTheDiskIsFull(t *testing.T) {
	path, mend := full(t)
	log := open(t, configAt(path))
	if err := log.Write(t.Context(), event(0), audit.Written); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("with no sink: %v", err)
	}
	blind, down, up := newPlace(), newPlace(), newPlace()
	blind.confirms = false
	down.set(fmt.Errorf("%w: it is down", backends.ErrUnavailable))
	setSinks(t, log, t.TempDir(), map[string]audit.Sink{"blind": blind, "down": down})
	if err := log.Write(t.Context(), event(1), audit.Written); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("with no sink that confirms: %v", err)
	}
	setSinks(t, log, t.TempDir(), map[string]audit.Sink{"blind": blind, "down": down, "up": up})
	for n := 2; n < 5; n++ {
		mustWrite(t, log, event(n), audit.Synced)
	}
	if s := log.Status(); s.Held != 3 || len(up.lines()) != 3 || up.lines()[0].Index != -1 || log.Down()["journal"] == "" {
		t.Errorf("%+v, %d lines", s, len(up.lines()))
	}
	b := &box{entries: []audit.Entry{{Seq: 1, Event: event(9).AuditEvent}}}
	if err := log.Drain(t.Context(), b); !errors.Is(err, backends.ErrUnavailable) || len(b.entries) != 1 {
		t.Errorf("the outbox is emptied: %v", err)
	}
	mend()
	up.until(t, "the journal", func() bool { return log.Status().Held == 0 && log.Down()["journal"] == "" })
	if err := log.Drain(t.Context(), b); err != nil || len(b.entries) != 0 {
		t.Errorf("the outbox: %v", err)
	}
	closeLog(t, log)
	v := verify(t, path, log.Checkpoint().Note)
	found, err := audit.Search(t.Context(), path, audit.Query{Actor: "tok_1"})
	if err != nil || v.Fault != nil || len(found.Lines) != 4 || found.Lines[3].Path != "app/key2" {
		t.Errorf("%+v, %d records (%v)", v.Fault, len(found.Lines), err)
	}
}

// TestTheFileSizeLimit has a real file refuse to grow, in the midst of a line.
func TestAFileThatCannotGrow(t *testing.T) {
	if os.Getenv("AUDIT_LIMITED") == "" {
		limited(t)
		return
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	log := open(t, configAt(path))
	limit(t, 5000)
	written, refused := 0, 0
	for n := range 40 {
		if err := log.Write(t.Context(), event(n), audit.Synced); err == nil {
			written++
		} else if refused++; !errors.Is(err, backends.ErrUnavailable) {
			t.Error(err)
		}
	}
	unlimit(t)
	mustWrite(t, log, event(99), audit.Synced)
	closeLog(t, log)
	v := verify(t, path, log.Checkpoint().Note)
	found, err := audit.Search(t.Context(), path, audit.Query{Actor: "tok_1"})
	if written == 0 || refused == 0 || v.Fault != nil || err != nil || len(found.Lines) != written+1 || len(v.Notes) != 0 {
		t.Errorf("%d written, %d refused, %d there: %+v (%v)", written, refused, len(found.Lines), v, err)
	}
}

func downPlace() *place {
	p := newPlace()
	p.set(fmt.Errorf("%w: it is down", backends.ErrUnavailable))
	return p
}

// hanging is a sink that never answers, whatever its context says, until it is let go.
type hanging struct{ until chan struct{} }

func (h hanging) Send(context.Context, []audit.Line) error {
	<-h.until
	return nil
}

func (h hanging) Confirms() bool { return true }

func (h hanging) Close() error { return nil }

// TestASinkThatHangs has requests, a reload and the end wait for it no longer than they should.
func TestASinkThatHangs(t *testing.T) {
	path, _ := full(t)
	cfg := configAt(path)
	cfg.Timeout, cfg.SinkTimeout = 200*time.Millisecond, 200*time.Millisecond
	log := open(t, cfg)
	h := hanging{make(chan struct{})}
	defer close(h.until)
	setSinks(t, log, t.TempDir(), map[string]audit.Sink{"h": h})
	done := make(chan error)
	go func() {
		var err error
		for range 3 {
			err = log.Write(t.Context(), event(1), audit.Written)
		}
		if !errors.Is(err, backends.ErrUnavailable) {
			err = fmt.Errorf("written: %w", err)
		} else {
			err = nil
		}
		setErr := log.SetSinks(t.TempDir(), map[string]audit.Sink{"other": hanging{h.until}})
		_ = log.Close() // it has failed: the disk is full
		done <- errors.Join(err, setErr)
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it is waited for for ever")
	}
}

// TestASinkThatHangsIsDown asks how one is that was sent something and does not answer.
func TestASinkThatHangsIsDown(t *testing.T) {
	cfg := configAt(newPath(t))
	cfg.SinkTimeout = 100 * time.Millisecond
	log := open(t, cfg)
	h := hanging{make(chan struct{})}
	defer close(h.until)
	setSinks(t, log, t.TempDir(), map[string]audit.Sink{"h": h})
	mustWrite(t, log, event(1), audit.Synced)
	newPlace().until(t, "the sink to be down", func() bool { return log.Down()["h"] != "" })
}

// TestACursorOfAnotherLog begins anew where a cursor says what cannot be.
func TestACursorOfAnotherLog(t *testing.T) {
	for name, text := range map[string]string{
		"beyond the end":        `{"next":900000}`,
		"of another node":       `{"next":3,"origin":"keybroker/audit/other"}`,
		"behind another record": `{"next":3,"origin":"keybroker/audit/n1","leaf":"AAAA"}`,
	} {
		t.Run(name, func(t *testing.T) {
			log, cursors, p := open(t, configAt(newPath(t))), t.TempDir(), newPlace()
			for n := range 5 {
				mustWrite(t, log, event(n), audit.Synced)
			}
			if err := os.WriteFile(filepath.Join(cursors, "p"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			setSinks(t, log, cursors, map[string]audit.Sink{"p": p})
			p.until(t, "everything", func() bool { return consecutive(t, p.lines()) >= 5 })
			if log.Doubts()["p"] == "" {
				t.Error("nothing is said of it")
			}
		})
	}
}

// picky is a place that takes few lines at once, and some never.
type picky struct {
	*place
	most int
	hate string
}

func (p *picky) Send(ctx context.Context, lines []audit.Line) error {
	for _, ln := range lines {
		if len(lines) > p.most || p.hate != "" && strings.Contains(string(ln.Raw), p.hate) {
			return &audit.RefusedError{Err: fmt.Errorf("%w: it answered 413", backends.ErrInvalid)}
		}
	}
	return p.place.Send(ctx, lines)
}

// TestWhatASinkRefuses sends it less at once, and puts aside what it refuses while it takes others.
func TestWhatASinkRefuses(t *testing.T) {
	log, cursors := open(t, configAt(newPath(t))), t.TempDir()
	for n := range 40 {
		mustWrite(t, log, event(n), audit.Synced)
	}
	p := &picky{newPlace(), 3, `"path":"app/key7"`}
	setSinks(t, log, cursors, map[string]audit.Sink{"p": p})
	p.until(t, "all but one", func() bool { return len(p.lines()) >= 39 && log.Status().Sinks[0].Lag == 0 })
	aside := readFile(t, filepath.Join(cursors, "p.refused"))
	if strings.Count(aside, "\n") != 1 || !strings.Contains(aside, p.hate) || log.Doubts()["p"] == "" {
		t.Errorf("put aside: %s, doubts %v", aside, log.Doubts())
	}
}

// TestASinkThatRefusesEverything is down, and lacks nothing when it is right again.
func TestASinkThatRefusesEverything(t *testing.T) {
	log, cursors := open(t, configAt(newPath(t))), t.TempDir()
	for n := range 5 {
		mustWrite(t, log, event(n), audit.Synced)
	}
	p := newPlace()
	p.set(&audit.RefusedError{Err: fmt.Errorf("%w: it answered 400", backends.ErrInvalid)})
	setSinks(t, log, cursors, map[string]audit.Sink{"p": p})
	asked := 0
	p.until(t, "some tries", func() bool { asked++; return asked > 12 })
	p.set(nil)
	p.until(t, "everything", func() bool { return consecutive(t, p.lines()) >= 5 })
	if _, err := os.Stat(filepath.Join(cursors, "p.refused")); err == nil {
		t.Error("records were put aside")
	}
}
