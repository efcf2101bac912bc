package audit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
)

// forge rewrites lines so that they follow from each other, without the key.
func forge(t *testing.T, path string, change func(lines []string) []string) string {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(readFile(t, path), "\n"), "\n")
	b := book{change(slices.Clone(lines)), []int{len(lines)}}.rechain(0)
	return strings.Join(b.lines, "\n") + "\n"
}

// forgeries are what somebody may do who can write the file and has no key.
var forgeries = map[string]func(lines []string) []string{
	"checkpoints replaced": func(l []string) []string {
		l[2] = strings.Replace(l[2], "app/key", "app/FORGED", 1)
		for i := range l {
			if strings.Contains(l[i], `"kind":"checkpoint"`) {
				l[i] = strings.Replace(l[1], "app/key", "app/FORGED", 1)
			}
		}
		return l
	},
	"checkpoints removed, and padded": func(l []string) []string {
		n := len(l)
		l = slices.DeleteFunc(l, func(s string) bool { return strings.Contains(s, `"kind":"checkpoint"`) })
		for len(l) < n+3 {
			l = append(l, strings.Replace(l[0], "app/key", "app/FORGED", 1))
		}
		return l
	},
	"all new": func(l []string) []string {
		return slices.Repeat([]string{strings.Replace(l[0], "app/key", "app/FORGED", 1)}, len(l)+5)
	},
	"shortened": func(l []string) []string { return l[:3] },
}

// TestANodeSignsNoForgery changes the file under a node, between two runs and within one:
// what is signed after is never held to be proven over what was forged.
func TestANodeSignsNoForgery(t *testing.T) {
	for name, change := range forgeries {
		for _, running := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, running %v", name, running), func(t *testing.T) {
				path := newPath(t)
				log := open(t, configAt(path))
				for n := range 10 {
					mustWrite(t, log, event(n), audit.Synced)
				}
				if _, err := log.Sign(t.Context()); err != nil {
					t.Fatal(err)
				}
				known := log.Checkpoint()
				if !running {
					closeLog(t, log)
					known = log.Checkpoint()
				}
				beside := path + ".forged"
				if err := os.WriteFile(beside, []byte(forge(t, path, change)), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(beside, path); err != nil {
					t.Fatal(err)
				}
				if running {
					for log.Doubts()["journal"] == "" { // it looks once a second
						mustWrite(t, log, event(50), audit.Synced)
					}
				} else {
					cfg := configAt(path)
					cfg.Known = known.Note
					log = open(t, cfg)
				}
				mustWrite(t, log, event(99), audit.Synced)
				if log.Doubts()["journal"] == "" {
					t.Error("nothing is said of it")
				}
				closeLog(t, log)
				v := verify(t, path)
				if v.Fault == nil {
					t.Fatalf("it is proven up to %d:\n%s", v.Proven, readFile(t, path))
				}
				if strings.Contains(readFile(t, path), "FORGED") {
					t.Error("what was forged is in the log")
				}
				var accept []int64
				for _, f := range v.Faults {
					if !f.Recorded {
						t.Errorf("not found by the node itself: %s", f)
					}
					accept = append(accept, f.Index)
				}
				again, err := audit.Verify(audit.Verification{Paths: []string{filepath.Dir(path)}, Key: log.PublicKey(), Partial: true, Accept: accept, Checkpoints: []string{log.Checkpoint().Note}})
				if err != nil || again.Fault != nil || again.Proven != log.Checkpoint().Size {
					t.Errorf("what is accepted: %+v, proven up to %d of %d (%v)", again.Fault, again.Proven, log.Checkpoint().Size, err)
				}
			})
		}
	}
}

// TestLinesThatNobodySaw appends lines that follow while the node does not run: they are
// signed as something that was found.
func TestLinesThatNobodySaw(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	mustWrite(t, log, event(1), audit.Synced)
	closeLog(t, log)
	text := forge(t, path, func(l []string) []string { return append(l, l[0], l[0]) })
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := configAt(path)
	cfg.Known = log.Checkpoint().Note
	log = open(t, cfg)
	closeLog(t, log)
	v := verify(t, path, log.Checkpoint().Note)
	if v.Fault != nil || len(v.Adopted) != 1 || v.Adopted[0] != (audit.Span{From: 2, To: 3}) {
		t.Errorf("%+v", v)
	}
}

// TestDamageDoesNotHideWhatComesAfter has the node find damage, and somebody edit a record
// behind it.
func TestDamageDoesNotHideWhatComesAfter(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	mustWrite(t, log, event(1), audit.Synced)
	closeLog(t, log)
	if err := os.WriteFile(path, []byte(readFile(t, path)+"x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log = open(t, configAt(path))
	for n := range 5 {
		mustWrite(t, log, event(n), audit.Synced)
	}
	closeLog(t, log)
	log = open(t, configAt(path))
	mustWrite(t, log, event(20), audit.Synced)
	closeLog(t, log)
	v := verify(t, path)
	if v.Fault == nil || !v.Fault.Recorded || len(v.Faults) != 1 {
		t.Fatalf("%+v", v.Faults)
	}
	accepting := audit.Verification{Paths: []string{path}, Key: log.PublicKey(), Accept: []int64{v.Fault.Index}, Checkpoints: []string{log.Checkpoint().Note}}
	if got, err := audit.Verify(accepting); err != nil || got.Fault != nil || got.Proven != log.Checkpoint().Size || !got.Faults[0].Accepted {
		t.Errorf("accepted: %+v (%v)", got, err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(readFile(t, path), "app/key3", "app/key9", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	accepting.Accept = append(accepting.Accept, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
	got, err := audit.Verify(accepting)
	if err != nil || got.Fault == nil || got.Fault.Recorded || len(got.Faults) < 2 || got.Fault.Index <= v.Fault.Index {
		t.Errorf("what is behind it: %+v (%v)", got.Faults, err)
	}
}

// TestWhatWasCutOffIsTold joins lines to one without an end, which no crash does, and has
// the node end before it writes anything.
func TestWhatWasCutOffIsTold(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	for n := range 20 {
		mustWrite(t, log, event(n), audit.Synced)
	}
	closeLog(t, log)
	joined := strings.ReplaceAll(readFile(t, path), "\n", "")
	if err := os.WriteFile(path, []byte(joined), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, path); v.Fault == nil {
		t.Error("it is taken for a torn line")
	}
	closeLog(t, open(t, configAt(path)))
	v := verify(t, path)
	if v.Fault == nil || !strings.Contains(v.Fault.What, "the node itself found lines") {
		t.Errorf("%+v", v)
	}
	kept, err := filepath.Glob(filepath.Join(filepath.Dir(path), "audit.cut-*"))
	if err != nil || len(kept) != 1 || strings.HasSuffix(kept[0], ".untold") || readFile(t, kept[0]) != joined {
		t.Errorf("kept %v (%v)", kept, err)
	}
}

// TestEveryTextIsBounded writes a record that is long everywhere.
func TestEveryTextIsBounded(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	long := strings.Repeat("ä", 60<<10)
	rec := event(1)
	for _, text := range []*string{&rec.Request, &rec.Tenant, &rec.Actor, &rec.Role, &rec.Method, &rec.Identity, &rec.Address, &rec.Action, &rec.Path, &rec.Outcome, &rec.Capability, &rec.Policy, &rec.Rule, &rec.Secret} {
		*text = long
	}
	rec.Detail = map[string]string{long: long}
	for n := range 300 {
		rec.Detail[fmt.Sprint(n)] = "x"
	}
	mustWrite(t, log, rec, audit.Synced)
	closeLog(t, log)
	line, _, _ := strings.Cut(readFile(t, path), "\n")
	ln, err := audit.ParseLine([]byte(line))
	if err != nil || len(line) > 200<<10 || len(ln.Detail) > 65 {
		t.Errorf("%d bytes, %d details (%v)", len(line), len(ln.Detail), err)
	}
	for name, text := range ln.Detail {
		if len(name) > 9<<10 || len(text) > 9<<10 {
			t.Errorf("a detail has %d bytes under a name of %d", len(text), len(name))
		}
	}
}

// TestOldSegmentsAreRemoved keeps what is not old, and what a sink lacks; and what is left
// verifies by the record of it, which nobody else can make.
func TestOldSegmentsAreRemoved(t *testing.T) {
	path := newPath(t)
	cfg := configAt(path)
	cfg.MaxSize = 2000
	clock := &atomic.Int64{}
	clock.Store(time.Now().UnixNano())
	cfg.Now = func() time.Time { return time.Unix(0, clock.Load()) }
	cfg.Keep = 48 * time.Hour
	log := open(t, cfg)
	p := newPlace()
	p.set(fmt.Errorf("%w: it is down", backends.ErrUnavailable))
	setSinks(t, log, t.TempDir(), map[string]audit.Sink{"p": p})
	for n := range 30 {
		mustWrite(t, log, event(n), audit.Synced)
	}
	prune := func(want string, some bool) int {
		t.Helper()
		n, err := log.Prune(t.Context())
		if err != nil || (n > 0) != some {
			t.Fatalf("%s: %d removed (%v)", want, n, err)
		}
		return n
	}
	p.set(nil)
	p.until(t, "the lines", func() bool { return len(log.Sinks()) > 0 && log.Status().Sinks[0].Lag == 0 })
	prune("not old", false)
	setSinks(t, log, t.TempDir(), map[string]audit.Sink{"p": p, "new": downPlace()})
	clock.Add(int64(100 * time.Hour))
	prune("a sink lacks them", false)
	setSinks(t, log, t.TempDir(), nil)
	before := segmentsOf(t, path)
	log.HoldWhile(func(context.Context) (bool, error) { return true, nil })
	prune("held as evidence", false)
	log.HoldWhile(func(context.Context) (bool, error) { return false, backends.ErrUnavailable })
	if n, err := log.Prune(t.Context()); n > 0 || !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("%d removed where nobody can tell whether evidence is held: %v", n, err)
	}
	log.HoldWhile(func(context.Context) (bool, error) { return false, nil })
	n := prune("old", true)
	if left := segmentsOf(t, path); len(left) > len(before)-n+1 || left[0] == before[0] {
		t.Errorf("%d of %d are left", len(left), len(before))
	}
	closeLog(t, log)
	v := verify(t, path, log.Checkpoint().Note)
	if v.Fault != nil || v.From == 0 || v.Proven != log.Checkpoint().Size {
		t.Errorf("%+v: %+v", v, v.Fault)
	}
	left := segmentsOf(t, path)
	if err := os.Remove(left[0]); err != nil { // by somebody else
		t.Fatal(err)
	}
	if len(left) > 1 {
		if v := verify(t, path, log.Checkpoint().Note); v.Fault == nil {
			t.Errorf("what the node did not remove: %+v", v)
		}
	}
}

// TestAJournalThatComesBack is replaced by a full disk for a while, and goes on where it was.
func TestAJournalThatComesBack(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	for n := range 5 {
		mustWrite(t, log, event(n), audit.Synced)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", path+".full"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".full", path); err != nil {
		t.Fatal(err)
	}
	newPlace().until(t, "the disk to be full", func() bool { return log.Write(t.Context(), event(6), audit.Written) != nil })
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	newPlace().until(t, "the disk to be there", func() bool { return log.Write(t.Context(), event(7), audit.Synced) == nil })
	closeLog(t, log)
	if v := verify(t, path, log.Checkpoint().Note); v.Fault != nil {
		t.Errorf("%s", v.Fault)
	}
}
