package audit_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keybroker/keybroker/broker/audit"
)

// book is a journal in memory: its lines, and how many each of its segments has.
type book struct {
	lines []string
	sizes []int
}

// written makes a journal of three segments, with checkpoints in their midst.
func written(t *testing.T) (b book, path string, newest audit.Checkpoint) {
	t.Helper()
	path = newPath(t)
	cfg := configAt(path)
	cfg.MaxSize = 4000
	at := time.Unix(1790000000, 0)
	cfg.Now = func() time.Time { return at }
	log := open(t, cfg)
	for n := range 36 {
		if n%5 == 4 {
			at = at.Add(2 * time.Second)
		}
		mustWrite(t, log, event(n), audit.Synced)
	}
	closeLog(t, log)
	for _, p := range segmentsOf(t, path) {
		lines := strings.Split(strings.TrimSuffix(readFile(t, p), "\n"), "\n")
		b.lines, b.sizes = append(b.lines, lines...), append(b.sizes, len(lines))
	}
	if len(b.sizes) < 3 {
		t.Fatalf("%d segments", len(b.sizes))
	}
	return b, path, log.Checkpoint()
}

func segmentsOf(t *testing.T, path string) []string {
	t.Helper()
	older, err := filepath.Glob(filepath.Join(filepath.Dir(path), "audit-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(older)
	return append(older, path)
}

// put writes a book to a directory of its own, in segments that begin where they did.
func (b book) put(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	rest, from := b.lines, 0
	for i, n := range b.sizes {
		n = min(n, len(rest))
		part := rest[:n]
		if i == len(b.sizes)-1 {
			part = rest
		}
		name := fmt.Sprintf("audit-%016d.jsonl", from)
		if i == len(b.sizes)-1 {
			name = "audit.jsonl"
		}
		text := strings.Join(part, "\n")
		if len(part) > 0 {
			text += "\n"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		rest, from = rest[n:], from+n
	}
	return filepath.Join(dir, "audit.jsonl")
}

// rechain gives all lines from i on the indices and hashes that they should have.
func (b book) rechain(from int) book {
	out := book{slices.Clone(b.lines), b.sizes}
	for i := from; i < len(out.lines); i++ {
		prev := ""
		if i > 0 {
			leaf := tlog.RecordHash([]byte(out.lines[i-1]))
			prev = base64.StdEncoding.EncodeToString(leaf[:])
		}
		_, rest, _ := strings.Cut(out.lines[i], `"prev":"`)
		_, rest, _ = strings.Cut(rest, `"`)
		out.lines[i] = fmt.Sprintf(`{"index":%d,"prev":"%s"%s`, i, prev, rest)
	}
	return out
}

func (b book) isCheckpoint(i int) bool { return strings.Contains(b.lines[i], `"kind":"checkpoint"`) }

// afterGood is the first index that no checkpoint before i proves.
func (b book) afterGood(i int) int64 {
	for k := i - 1; k >= 0; k-- {
		if b.isCheckpoint(k) {
			return int64(k) + 1
		}
	}
	return 0
}

// tampering changes line i; bad is the first record that is wrong then.
type tampering struct {
	name   string
	change func(lines []string, i int) []string
	bad    func(i int) int
}

var tamperings = []tampering{
	{"edit", func(l []string, i int) []string {
		l[i] = strings.Replace(l[i], `"kind":"`, `"kind":"x`, 1)
		return l
	}, func(i int) int { return i }},
	{"edit the outcome", func(l []string, i int) []string {
		if edited := strings.Replace(l[i], `"outcome":"ok"`, `"outcome":"denied"`, 1); edited != l[i] {
			l[i] = edited
		} else {
			l[i] = strings.Replace(l[i], `\ntime 20`, `\ntime 19`, 1)
		}
		return l
	}, func(i int) int { return i }},
	{"edit the hash", func(l []string, i int) []string {
		_, rest, _ := strings.Cut(l[i], `"prev":"`)
		_, rest, _ = strings.Cut(rest, `"`)
		l[i] = fmt.Sprintf(`{"index":%d,"prev":"%s"%s`, i, base64.StdEncoding.EncodeToString(make([]byte, 32)), rest)
		return l
	}, func(i int) int { return i }},
	{"edit the index", func(l []string, i int) []string {
		l[i] = strings.Replace(l[i], fmt.Sprintf(`"index":%d,`, i), fmt.Sprintf(`"index":%d,`, i+1), 1)
		return l
	}, func(i int) int { return i }},
	{"garble", func(l []string, i int) []string { l[i] = l[i][:len(l[i])/2]; return l }, func(i int) int { return i }},
	{"delete", func(l []string, i int) []string { return slices.Delete(l, i, i+1) }, func(i int) int { return i }},
	{"delete two", func(l []string, i int) []string { return slices.Delete(l, i, min(i+2, len(l))) }, func(i int) int { return i }},
	{"duplicate", func(l []string, i int) []string { return slices.Insert(l, i+1, l[i]) }, func(i int) int { return i + 1 }},
	{"insert", func(l []string, i int) []string {
		forged := strings.Replace(l[i], `"outcome":"ok"`, `"outcome":"denied"`, 1)
		return slices.Insert(l, i, strings.Replace(forged, `"kind":"checkpoint"`, `"kind":"request"`, 1))
	}, func(i int) int { return i }},
	{"swap", func(l []string, i int) []string { l[i], l[i+1] = l[i+1], l[i]; return l }, func(i int) int { return i }},
	{"move to the end", func(l []string, i int) []string { return append(slices.Delete(l, i, i+1), l[i]) }, func(i int) int { return i }},
}

// TestEveryTamperingIsFound tampers in every way at every place, leaving the chain as
// it is and writing it anew, and looks which record is named.
func TestEveryTamperingIsFound(t *testing.T) {
	b, path, newest := written(t)
	if v := verify(t, path, newest.Note); v.Fault != nil || v.Records != int64(len(b.lines)) || v.Proven != v.Records-1 || v.Unsigned != 0 {
		t.Fatalf("untouched: %+v", v)
	}
	for _, how := range tamperings {
		for i := range b.lines {
			if i == len(b.lines)-1 && (how.name == "swap" || how.name == "move to the end") {
				continue // there is nothing to change
			}
			changed := book{how.change(slices.Clone(b.lines), i), b.sizes}
			if slices.Equal(changed.lines, b.lines) {
				t.Fatalf("%s does nothing to line %d", how.name, i)
			}
			v := verify(t, changed.put(t), newest.Note)
			bad, from := int64(how.bad(i)), int64(how.bad(i))
			if how.name == "duplicate" { // the copy says that it is the one before
				from--
			}
			if i == len(b.lines)-1 { // nothing follows it: it may as well be one since the checkpoint before
				from = b.afterGood(i)
			}
			if v.Fault == nil || v.Fault.Index < from || v.Fault.Index > bad || v.Proven > bad {
				t.Errorf("%s at %d: %+v, proven up to %d, want record %d", how.name, i, v.Fault, v.Proven, bad)
			}
			anew := changed.rechain(min(i, len(changed.lines)))
			if slices.Equal(anew.lines, b.lines) {
				continue // that has put it right again
			}
			v = verify(t, anew.put(t), newest.Note)
			if v.Fault == nil || v.Fault.Index > bad || v.Proven > bad || v.Fault.Index < b.afterGood(i) {
				t.Errorf("%s at %d, chained anew: %+v, proven up to %d, want one from %d to %d", how.name, i, v.Fault, v.Proven, b.afterGood(i), bad)
			}
		}
	}
}

// TestTruncation cuts lines off the end: a checkpoint that was kept elsewhere shows it.
func TestTruncation(t *testing.T) {
	b, _, newest := written(t)
	for n := range len(b.lines) - 1 {
		cut := book{b.lines[:n], b.sizes}
		v := verify(t, cut.put(t), newest.Note)
		if v.Fault == nil || v.Fault.Index != int64(n) {
			t.Errorf("cut off at %d: %+v", n, v.Fault)
		}
	}
	// Without one, what is proven ends with the last checkpoint that is there.
	n := len(b.lines) - 2
	v := verify(t, book{b.lines[:n], b.sizes}.put(t))
	if v.Fault != nil || v.Proven != b.afterGood(n)-1 || v.Unsigned != int64(n)-b.afterGood(n) || v.Unsigned > 0 && len(v.Notes) != 1 {
		t.Errorf("nothing was kept elsewhere: %+v", v)
	}
}

func TestMissingSegments(t *testing.T) {
	b, path, newest := written(t)
	all := segmentsOf(t, path)
	for i, p := range all {
		text := readFile(t, p)
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
		first := int64(0)
		for _, n := range b.sizes[:i] {
			first += int64(n)
		}
		v := verify(t, path, newest.Note)
		if v.Fault == nil || v.Fault.Index != first {
			t.Errorf("without segment %d, from %d on: %+v", i, first, v.Fault)
		}
		if i == 0 {
			v, err := audit.Verify(audit.Verification{Paths: all[1:], Key: publicKey(t), Partial: true, Checkpoints: []string{newest.Note}})
			if err != nil || v.Fault != nil || v.From != int64(b.sizes[0]) || v.Records != int64(len(b.lines)-b.sizes[0]) {
				t.Errorf("a part: %+v (%v)", v, err)
			}
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheWrongKey(t *testing.T) {
	_, path, newest := written(t)
	cfg := configAt(newPath(t))
	cfg.SigningSeed = bytes.Repeat([]byte{9}, 32)
	other := open(t, cfg)
	v, err := audit.Verify(audit.Verification{Paths: []string{filepath.Dir(path)}, Key: other.PublicKey()})
	if err != nil || v.Fault == nil || v.Fault.Index != 0 || v.Proven != 0 || !strings.Contains(v.Fault.What, "the wrong key?") {
		t.Errorf("%+v (%v)", v.Fault, err)
	}
	if _, err := audit.Verify(audit.Verification{Paths: []string{filepath.Dir(path)}, Key: other.PublicKey(), Checkpoints: []string{newest.Note}}); err == nil {
		t.Error("a checkpoint of another log is taken")
	}
}

// TestCheckpointsRemoved takes all later checkpoints out and chains anew: what is not
// signed is never long.
func TestCheckpointsRemoved(t *testing.T) {
	path := newPath(t)
	log := open(t, configAt(path))
	for n := range 5000 {
		if err := log.Write(t.Context(), event(n), audit.Written); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, log)
	lines := strings.Split(strings.TrimSuffix(readFile(t, path), "\n"), "\n")
	kept := slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, `"kind":"checkpoint"`) })
	v := verify(t, book{kept, []int{len(kept)}}.rechain(0).put(t))
	if v.Fault == nil || v.Fault.Index != 0 || !strings.Contains(v.Fault.What, "checkpoints were removed") {
		t.Errorf("%+v", v)
	}
}

// TestCheckpointsAreThoseOfRFC6962 checks roots against another implementation, and
// the note against that of golang.org/x/mod.
func TestCheckpointsAreThoseOfRFC6962(t *testing.T) {
	b, _, newest := written(t)
	v, err := note.NewVerifier(publicKey(t))
	if err != nil {
		t.Fatal(err)
	}
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(at []int64) (out []tlog.Hash, err error) {
		for _, i := range at {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	seen := 0
	for i, line := range b.lines {
		if b.isCheckpoint(i) {
			var ln struct{ Checkpoint string }
			if err := json.Unmarshal([]byte(line), &ln); err != nil {
				t.Fatal(err)
			}
			n, err := note.Open([]byte(ln.Checkpoint), note.VerifierList(v))
			if err != nil {
				t.Fatal(err)
			}
			root, err := tlog.TreeHash(int64(i), reader)
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("keybroker/audit/n1\n%d\n%s\n", i, root); !strings.HasPrefix(n.Text, want) {
				t.Errorf("checkpoint %d:\n%s\nwant\n%s", i, n.Text, want)
			}
			seen++
		}
		more, err := tlog.StoredHashes(int64(i), []byte(line), reader)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, more...)
	}
	if seen < 5 || newest.Size != int64(len(b.lines)-1) {
		t.Errorf("%d checkpoints, the newest of %d lines", seen, newest.Size)
	}
}
