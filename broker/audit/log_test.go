package audit_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/rotation"
)

func TestAJournalGoesOnOverRestarts(t *testing.T) {
	path := newPath(t)
	for run := range 3 {
		log := open(t, configAt(path))
		for n := range 3 {
			mustWrite(t, log, event(10*run+n), audit.Synced)
		}
		closeLog(t, log)
		if err := log.Write(t.Context(), event(1), audit.Written); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("written to a closed log: %v", err)
		}
	}
	if v := verify(t, path, open(t, configAt(path)).Checkpoint().Note); v.Fault != nil || v.Records != 12 || v.Proven != 11 {
		t.Errorf("%+v %+v", v, v.Fault)
	}
}

// TestSensitiveStringsAreHashed looks for a canary in the log.
func TestSensitiveStringsAreHashed(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	rec := event(1)
	rec.Sensitive = map[string]string{"field.key": "CANARY-s3cr3t"}
	mustWrite(t, log, rec, audit.Synced)
	mustWrite(t, log, event(2), audit.Synced)
	found, err := log.Query(t.Context(), audit.Query{Hash: log.Hash("CANARY-s3cr3t")})
	if err != nil || len(found.Lines) != 1 || found.Lines[0].Hashes["field.key"] != log.Hash("CANARY-s3cr3t") {
		t.Errorf("%+v (%v)", found, err)
	}
	if text := readFile(t, path); strings.Contains(text, "CANARY") || !strings.Contains(text, "hmac-sha256:") {
		t.Error("the log has a sensitive string")
	}
}

// TestATornLine cuts the last line off at every place, as a kill in a write may, and
// zeros it, as a machine without power may.
func TestATornLine(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	mustWrite(t, log, event(1), audit.Synced)
	closeLog(t, log)
	log = open(t, configAt(path))
	mustWrite(t, log, event(2), audit.Synced)
	text := readFile(t, path) // its last line is of event 2, and not signed yet
	closeLog(t, log)
	last := strings.LastIndexByte(strings.TrimSuffix(text, "\n"), '\n') + 1
	for n := last + 1; n < len(text); n += 9 {
		for _, tail := range []string{text[last:n], strings.Repeat("\x00", n-last)} {
			torn := filepath.Join(t.TempDir(), "audit.jsonl")
			if err := os.WriteFile(torn, []byte(text[:last]+tail), 0o600); err != nil {
				t.Fatal(err)
			}
			if v := verify(t, torn); v.Fault != nil || len(v.Notes) != 1 || !strings.Contains(v.Notes[0], "not whole") {
				t.Fatalf("before the next start: %+v %+v", v, v.Fault)
			}
			log := open(t, configAt(torn))
			mustWrite(t, log, event(3), audit.Synced)
			closeLog(t, log)
			v := verify(t, torn, log.Checkpoint().Note)
			if v.Fault != nil || len(v.Notes) != 1 || !strings.Contains(v.Notes[0], fmt.Sprintf("a crash has left %d bytes", len(tail))) {
				t.Fatalf("after it: %+v %+v", v, v.Fault)
			}
			kept, err := filepath.Glob(filepath.Join(filepath.Dir(torn), "audit.cut-*"))
			if err != nil || len(kept) != 1 || readFile(t, kept[0]) != tail {
				t.Fatalf("kept %v (%v)", kept, err)
			}
		}
	}
}

// TestLinesThatDoNotFollow changes a line that is not signed yet, while no process
// writes: the next start keeps what it cannot join, and says so for good.
func TestLinesThatDoNotFollow(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	for n := range 3 {
		mustWrite(t, log, event(n), audit.Synced)
	}
	text := strings.Replace(readFile(t, path), "app/key1", "app/key9", 1)
	closeLog(t, log)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log = open(t, configAt(path))
	mustWrite(t, log, event(7), audit.Synced)
	closeLog(t, log)
	v := verify(t, path)
	if v.Fault == nil || !strings.Contains(v.Fault.What, "the node itself found lines") || !v.Fault.Recorded {
		t.Errorf("%+v", v)
	}
}

// TestAJournalThatIsGone deletes it, and cuts it off, between two runs and within one:
// what is kept elsewhere knows where it was.
func TestAJournalThatIsGone(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"deleted": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"cut off": func(path string) error { return os.Truncate(path, 700) },
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			log := open(t, configAt(path))
			for n := range 5 {
				mustWrite(t, log, event(n), audit.Synced)
			}
			closeLog(t, log)
			if err := lose(path); err != nil {
				t.Fatal(err)
			}
			cfg := configAt(path)
			cfg.Known = log.Checkpoint().Note
			again := open(t, cfg)
			mustWrite(t, again, event(9), audit.Synced)
			closeLog(t, again)
			if v := verify(t, path); v.Fault == nil || !strings.Contains(v.Fault.What, "are missing") {
				t.Errorf("%+v %+v", v, v.Fault)
			}
			text := readFile(t, path)
			if !strings.HasPrefix(text, `{"index":5,`) || !strings.Contains(text, "audit.lost") || again.Checkpoint().Size < 8 {
				t.Errorf("it went on as\n%s", text)
			}
			v, err := audit.Verify(audit.Verification{Paths: []string{path}, Key: again.PublicKey(), Partial: true, Checkpoints: []string{again.Checkpoint().Note}})
			if err != nil || v.Fault != nil {
				t.Errorf("what is there is not right: %+v (%v)", v.Fault, err)
			}
		})
	}
}

func TestAJournalThatIsDeletedWhileItIsWritten(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	mustWrite(t, log, event(1), audit.Synced)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for !exists(path) {
		mustWrite(t, log, event(2), audit.Synced)
	}
	closeLog(t, log)
	if text := readFile(t, path); !strings.Contains(text, "audit.lost") {
		t.Errorf("it went on as\n%s", text)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestADiskThatHangs opens a pipe that nobody reads: writing to it never ends.
func TestADiskThatHangs(t *testing.T) {
	path := newPath(t)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader := openPipe(t, path)
	cfg := configAt(path)
	cfg.Timeout = 200 * time.Millisecond
	log := open(t, cfg)
	rec := event(1)
	rec.Detail = map[string]string{}
	for n := range 16 {
		rec.Detail[fmt.Sprint(n)] = strings.Repeat("x", 8<<10) // a pipe has 64 KiB
	}
	began := time.Now()
	for range 3 {
		if err := log.Write(t.Context(), rec, audit.Written); !errors.Is(err, backends.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("three callers waited for %s", took)
	}
	if err := log.Check(time.Now()); err == nil || log.Down()["journal"] == "" {
		t.Errorf("it counts as well: %v", err)
	}
	if err := reader.Close(); err != nil { // which ends the write
		t.Fatal(err)
	}
}

// TestManyWriters has many write at once: each line is there once, in one chain.
func TestManyWriters(t *testing.T) {
	path := newPath(t)
	cfg := configAt(path)
	cfg.MaxSize = 20000
	log := open(t, cfg)
	var wg sync.WaitGroup
	const writers, each = 20, 20
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				if err := log.Write(t.Context(), event(w*each+n), audit.Durability(n%2)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	closeLog(t, log)
	v := verify(t, path, log.Checkpoint().Note)
	if v.Fault != nil || len(v.Files) < 3 {
		t.Errorf("%+v %+v", v, v.Fault)
	}
	found, err := audit.Search(t.Context(), path, audit.Query{Limit: 1000})
	if err != nil || len(found.Lines) != writers*each || found.Next != 0 {
		t.Errorf("%d records (%v)", len(found.Lines), err)
	}
	seen := map[string]bool{}
	for _, ln := range found.Lines {
		seen[ln.Path] = true
	}
	if len(seen) != writers*each {
		t.Errorf("%d different ones", len(seen))
	}
}

func TestHistoryOverSegments(t *testing.T) {
	path := newPath(t)
	cfg := configAt(path)
	cfg.MaxSize = 2000
	log := open(t, cfg)
	for n := range 40 {
		b := &box{entries: []audit.Entry{{Seq: int64(n + 1), Event: rotation.AuditEvent{Actor: "keybroker", Action: "a", Path: fmt.Sprint(n), Outcome: "ok"}}}}
		if err := log.Drain(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if log.Newest() != 40 {
		t.Errorf("newest %d", log.Newest())
	}
	closeLog(t, log)
	if n := len(segmentsOf(t, path)); n < 4 {
		t.Fatalf("%d segments", n)
	}
	for _, seq := range []int64{0, 1, 17, 39, 40} {
		got, err := audit.After(path, seq)
		if err != nil || int64(len(got)) != 40-seq || len(got) > 0 && got[0].Seq != seq+1 {
			t.Errorf("after %d: %d (%v)", seq, len(got), err)
		}
	}
	if n, err := audit.Newest(path); n != 40 || err != nil {
		t.Errorf("newest %d (%v)", n, err)
	}
}

func TestQuery(t *testing.T) {
	path := newPath(t)
	cfg := configAt(path)
	cfg.MaxSize = 4000
	log := open(t, cfg)
	for n := range 60 {
		rec := event(n)
		rec.Tenant, rec.Request = []string{"", "a", "b"}[n%3], fmt.Sprint("req", n/2)
		rec.Secret, rec.Version = "a:app/key", n
		if n%10 == 7 {
			rec.Outcome, rec.Action = "denied", "token.create"
		}
		mustWrite(t, log, rec, audit.Written)
	}
	at := event(30).At
	for name, c := range map[string]struct {
		query audit.Query
		want  int
		first int // version of the newest
	}{
		"all":        {audit.Query{Limit: 1000}, 60, 59},
		"a page":     {audit.Query{}, 60, 59},
		"tenant":     {audit.Query{Tenant: "a"}, 20, 58},
		"outcome":    {audit.Query{Outcome: "denied"}, 6, 57},
		"action":     {audit.Query{Action: "token."}, 6, 57},
		"part":       {audit.Query{Action: "token"}, 0, 0},
		"request":    {audit.Query{Request: "req3"}, 2, 7},
		"since":      {audit.Query{Since: at}, 30, 59},
		"until":      {audit.Query{Until: at}, 31, 30},
		"between":    {audit.Query{Since: at, Until: at}, 1, 30},
		"secret":     {audit.Query{Secret: "app/key"}, 60, 59},
		"qualified":  {audit.Query{Secret: "a:app/key", Tenant: "b"}, 20, 59},
		"others":     {audit.Query{Secret: "b:app/key"}, 0, 0},
		"path":       {audit.Query{Path: "app/key5"}, 1, 5},
		"nobody":     {audit.Query{Actor: "tok_2"}, 0, 0},
		"everything": {audit.Query{Actor: "tok_1", Outcome: "denied", Tenant: "b", Action: "token.create"}, 2, 47},
	} {
		var all []audit.Line
		q := c.query
		for q.Limit = max(q.Limit, 7); ; { // pages of 7
			found, err := log.Query(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, found.Lines...)
			if q.Before = found.Next; found.Next == 0 {
				break
			}
		}
		if len(all) != c.want || c.want > 0 && all[0].Version != c.first {
			t.Errorf("%s: %d records", name, len(all))
		}
		if !slices.IsSortedFunc(all, func(a, b audit.Line) int { return int(b.Index - a.Index) }) {
			t.Errorf("%s: not the newest first", name)
		}
	}
}

// TestALineIsJSONAsDocumented reads a line as anybody would.
func TestALineIsJSONAsDocumented(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	mustWrite(t, log, event(1), audit.Synced)
	mustWrite(t, log, event(2), audit.Synced)
	closeLog(t, log)
	var got map[string]any
	lines := strings.Split(readFile(t, path), "\n")
	if err := json.Unmarshal([]byte(lines[1]), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"index": 1.0, "prev": got["prev"], "time": "2026-09-21T14:13:22Z", "kind": "request", "actor": "tok_1", "action": "secret.read", "path": "app/key2", "outcome": "ok"}
	if fmt.Sprint(got) != fmt.Sprint(want) || len(got["prev"].(string)) != 44 {
		t.Errorf("%v", got)
	}
}
