package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/keybroker/keybroker/backends"
)

// Verification is what a journal is verified with.
type Verification struct {
	// Paths are segments of one journal in any order, or directories that have them
	// (audit.jsonl, audit-INDEX.jsonl).
	Paths []string
	Key   string // public, as PublicKey gives it
	// Checkpoints are signed notes that were kept elsewhere: what they cover must be there.
	Checkpoints []string
	// Partial accepts that the first segments are not there.
	Partial bool
}

// Fault is the first thing that is wrong with a journal.
type Fault struct {
	File  string `json:"file"`
	Line  int    `json:"line"`  // of it, or where it is missed; from 1 on; 0: it is in a file before
	Index int64  `json:"index"` // of the first record that is bad, or that is missing
	What  string `json:"what"`
}

func (f Fault) String() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: record %d: %s", f.File, f.Index, f.What)
	}
	return fmt.Sprintf("%s:%d: record %d: %s", f.File, f.Line, f.Index, f.What)
}

// Verdict is what came of verifying a journal.
type Verdict struct {
	Origin   string   `json:"origin"`   // the name of the log
	Files    []string `json:"files"`    // in the order of their records
	From     int64    `json:"from"`     // the first record that was looked at
	Records  int64    `json:"records"`  // that follow from each other, from there on
	Proven   int64    `json:"proven"`   // the records before this index are as they were signed
	Fault    *Fault   `json:"fault"`    // null: nothing is wrong
	Notes    []string `json:"notes"`    // what is no fault, and worth knowing
	Unsigned int64    `json:"unsigned"` // records after the last checkpoint: nothing but their chain was checked
}

// verifier goes over the lines of a journal once.
type verifier struct {
	by      note.Verifier
	outside map[int64][]Checkpoint // that were kept elsewhere, by their size
	newest  Checkpoint             // of those
	tree    tree
	prev    string
	last    where // of the line before
	since   int64 // lines since the last checkpoint
	good    int64 // the index after the last good checkpoint's line
	signed  int   // good checkpoints
	verdict Verdict

	waiting []byte // the line that is to be judged
	waitsAt where
}

// where is where a line stands.
type where struct {
	file string
	line int
}

// Verify reads a whole journal and says what is wrong with it first, if anything is.
// Its error means that it could not be read: ErrInvalid, or that of a file.
func Verify(v Verification) (Verdict, error) {
	by, err := NewVerifier(v.Key)
	if err != nil {
		return Verdict{}, err
	}
	all, err := collect(v.Paths)
	if err != nil {
		return Verdict{}, err
	}
	w := &verifier{by: by, outside: map[int64][]Checkpoint{}, verdict: Verdict{Origin: by.Name(), Notes: []string{}}}
	for _, text := range v.Checkpoints {
		c, err := OpenCheckpoint(text, by)
		if err != nil {
			return Verdict{}, fmt.Errorf("the checkpoint to verify against: %w", err)
		}
		w.outside[c.Size] = append(w.outside[c.Size], c)
		if c.Size > w.newest.Size {
			w.newest = c
		}
	}
	for i, s := range all {
		w.verdict.Files = append(w.verdict.Files, s.path)
		if i == 0 {
			if done, err := w.begin(s, v.Partial); done || err != nil {
				return w.verdict, err
			}
		}
		if err := w.segment(s, i == len(all)-1); err != nil || w.verdict.Fault != nil {
			return w.finish(), err
		}
	}
	w.judge(nil)
	w.end()
	return w.finish(), nil
}

// collect lists the segments that paths name.
func collect(paths []string) ([]segment, error) {
	var out []segment
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
		}
		if info.IsDir() {
			all, err := segments(filepath.Join(p, "audit"+extension))
			if err != nil {
				return nil, err
			}
			out = append(out, all...)
			continue
		}
		first, err := firstIndex(p)
		if err != nil {
			return nil, err
		}
		out = append(out, segment{p, first})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: there is no audit log in %s", backends.ErrInvalid, strings.Join(paths, ", "))
	}
	// By their first lines; the one that is written, which may be empty, last.
	slices.SortStableFunc(out, func(a, b segment) int {
		switch {
		case a.first < 0 && b.first >= 0:
			return 1
		case b.first < 0 && a.first >= 0:
			return -1
		}
		return int(a.first - b.first)
	})
	return out, nil
}

// begin takes up the first segment, which may be one from the midst of the journal.
func (w *verifier) begin(s segment, partial bool) (done bool, err error) {
	if s.first <= 0 {
		return false, nil
	}
	if !partial {
		w.fault(where{s.path, 1}, 0, "the records from 0 to %d are missing: the segments before this one (if they are kept elsewhere, verify with --partial)", s.first-1)
		return true, nil
	}
	err = read(s.path, func(f *os.File, size int64) error {
		raw, err := bufio.NewReaderSize(io.NewSectionReader(f, 0, size), blockSize).ReadBytes('\n')
		if err != nil {
			return nil //nolint:nilerr // segment tells what is wrong with the line
		}
		ln, err := ParseLine(bytes.TrimSuffix(raw, []byte("\n")))
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		c, err := OpenCheckpoint(ln.Note, w.by)
		if err != nil || c.Size != ln.Index {
			w.fault(where{s.path, 1}, ln.Index, "it is no checkpoint that is signed by this key, which a segment begins with")
			return nil
		}
		w.tree, w.prev, w.verdict.From = c.tree, ln.Prev, c.Size
		return nil
	})
	return w.verdict.Fault != nil, err
}

func (w *verifier) fault(at where, index int64, format string, args ...any) {
	if w.verdict.Fault == nil {
		w.verdict.Fault = &Fault{File: at.file, Line: at.line, Index: index, What: fmt.Sprintf(format, args...)}
	}
}

func (w *verifier) note(format string, args ...any) {
	w.verdict.Notes = append(w.verdict.Notes, fmt.Sprintf(format, args...))
}

// segment goes over the lines of one file. Each is judged when the next is known,
// which may tell where a break is.
func (w *verifier) segment(s segment, last bool) error {
	return read(s.path, func(f *os.File, size int64) error {
		r := bufio.NewReaderSize(io.NewSectionReader(f, 0, size), blockSize)
		for at := (where{s.path, 1}); ; at.line++ {
			raw, err := r.ReadBytes('\n')
			switch {
			case err == nil:
				w.judge(raw[:len(raw)-1])
				w.waiting, w.waitsAt = raw[:len(raw)-1], at
			case !errors.Is(err, io.EOF):
				return fmt.Errorf("reading the audit log: %w", err)
			case len(raw) > 0:
				w.judge(nil)
				w.torn(at, len(raw), last)
			}
			if err != nil || w.verdict.Fault != nil {
				return nil
			}
		}
	})
}

// judge judges the line that waits. Next is the one after it, nil if there is none.
func (w *verifier) judge(next []byte) {
	if raw := w.waiting; raw != nil {
		w.waiting = nil
		w.line(w.waitsAt, raw, next)
	}
}

// torn judges a line without an end.
func (w *verifier) torn(at where, size int, last bool) {
	if !last {
		w.fault(at, w.tree.size, "it is cut off")
		return
	}
	w.note("%s:%d: the last line is not whole (%d bytes): it is being written, or a crash has cut it off, which the next start records", at.file, at.line, size)
}

// line judges one line. Next is the one after it, empty if that is not known.
func (w *verifier) line(at where, raw, next []byte) {
	ln, err := ParseLine(raw)
	if err != nil {
		w.fault(at, w.tree.size, "it is no record: it was changed")
		return
	}
	if !w.follows(at, ln, next) {
		return
	}
	if ln.Kind == KindCheckpoint && !w.checkpoint(at, ln, next) {
		return
	}
	if ln.Action == actionDamaged {
		w.fault(at, ln.Index, "the node itself found lines here that did not follow from the ones before, and has kept them as %s", ln.Detail["kept_as"])
		return
	}
	if ln.Action == actionTorn {
		w.note("%s:%d: record %d: a crash has left %s bytes of a line, which are kept as %s", at.file, at.line, ln.Index, ln.Detail["bytes"], ln.Detail["kept_as"])
	}
	leaf := leafOf(raw)
	w.tree.add(leaf)
	w.prev, w.last = leaf.String(), at
	if w.since++; ln.Kind == KindCheckpoint {
		w.since, w.good = 0, w.tree.size
	}
	if w.since > maxUnsigned {
		w.fault(at, w.good, "more than %d records follow the last good checkpoint without another: checkpoints were removed, and nothing from here on is proven", maxUnsigned)
		return
	}
	if next == nil || prevOf(next) == w.prev { // else the next line tells better what is wrong
		w.compare(at, ln)
	}
}

// compare looks whether a line is what checkpoints say that were kept elsewhere: the
// line of each was synced before anybody was given it.
func (w *verifier) compare(at where, ln Line) {
	for _, c := range w.outside[ln.Index] {
		if c.Note != ln.Note || !bytes.Equal(ln.Raw, canonical(ln)) {
			w.fault(at, ln.Index, "it is not the checkpoint of %s that is kept elsewhere and was written here: it was changed", stamp(c))
		}
	}
	for _, c := range w.outside[w.tree.size] {
		if c.Root != w.tree.root() {
			w.fault(w.afterGood(at), w.good, "from this record on nothing is proven: the checkpoint of %s that is kept elsewhere was signed over other records, up to record %d", stamp(c), w.tree.size-1)
			return
		}
		w.verdict.Proven = w.tree.size
	}
}

// follows tells whether a line stands behind the one before it.
func (w *verifier) follows(at where, ln Line, next []byte) bool {
	want := w.tree.size
	first := want == w.verdict.From // there is none before it
	switch {
	case ln.Index == want && ln.Prev == w.prev:
		return true
	case ln.Index > want && ln.Prev != w.prev:
		w.fault(at, want, "the records from %d to %d are missing before this line", want, ln.Index-1)
	case ln.Index < want:
		w.fault(at, ln.Index, "it stands here a second time, or out of its order")
	case ln.Index > want:
		w.fault(at, want, "its index is %d: it was changed", ln.Index)
	case !first && !w.attests(ln) && (next == nil || prevOf(next) == leafOf(ln.Raw).String()):
		// What comes after this line says that it is as it was: so the one before is not.
		w.fault(w.last, want-1, "it is not what the next record says that it was: it was changed")
	default:
		w.fault(at, want, "it does not follow from the record before it: it was changed, or put here")
	}
	return false
}

// attests tells whether a line is a checkpoint by which all lines before it are right.
func (w *verifier) attests(ln Line) bool {
	c, err := OpenCheckpoint(ln.Note, w.by)
	return ln.Kind == KindCheckpoint && err == nil && c.Size == w.tree.size && c.Root == w.tree.root()
}

func prevOf(raw []byte) string {
	ln, err := ParseLine(raw)
	if err != nil {
		return ""
	}
	return ln.Prev
}

// checkpoint judges a signed line. Where the next line still follows from a bad one,
// the chain was written anew by somebody without the key, and any record since the last
// good checkpoint may be another than it was.
func (w *verifier) checkpoint(at where, ln Line, next []byte) bool {
	c, err := OpenCheckpoint(ln.Note, w.by)
	what := ""
	switch {
	case errors.Is(err, backends.ErrDenied) && w.signed == 0:
		what = text(err) + ": is it the wrong key?"
	case err != nil:
		what = text(err)
	case c.Size != ln.Index:
		what = fmt.Sprintf("it is that of record %d", c.Size)
	case c.Root != w.tree.root():
		what = "it was signed over other records"
	case !bytes.Equal(ln.Raw, canonical(ln)):
		w.fault(at, ln.Index, "it is not as it was written: it was changed")
		return false
	default:
		w.verdict.Proven, w.signed = w.tree.size, w.signed+1
		return true
	}
	if next != nil && prevOf(next) != leafOf(ln.Raw).String() {
		w.fault(at, ln.Index, "the checkpoint was changed: %s", what)
	} else {
		w.fault(w.afterGood(at), w.good, "from this record on nothing is proven: the next checkpoint (record %d, %s:%d) does not hold: %s", ln.Index, at.file, at.line, what)
	}
	return false
}

// canonical is how the broker writes the checkpoint that a line has.
func canonical(ln Line) []byte {
	body, err := json.Marshal(signedBody{KindCheckpoint, ln.Note})
	if err != nil {
		return nil
	}
	return place(ln.Index, ln.Prev, body)
}

// afterGood is the place of the first record that is not covered by a good checkpoint.
func (w *verifier) afterGood(at where) where {
	if back := int(w.tree.size - w.good); back < at.line {
		return where{at.file, at.line - back}
	}
	return where{at.file, 0} // it stands in a segment before
}

// text is an error without its class.
func text(err error) string {
	_, what, ok := strings.Cut(err.Error(), ": ")
	if !ok {
		return err.Error()
	}
	return what
}

func stamp(c Checkpoint) string { return c.At.UTC().Format("2006-01-02T15:04:05Z") }

// end judges what a journal ends with.
func (w *verifier) end() {
	if w.verdict.Fault != nil {
		return
	}
	if w.newest.Size >= w.tree.size && w.newest.Size > 0 {
		at := w.last
		at.line++
		w.fault(at, w.tree.size, "the records from %d to %d are missing at the end: the checkpoint of %s that is kept elsewhere stood there", w.tree.size, w.newest.Size, stamp(w.newest))
		return
	}
	if w.since > 0 {
		w.note("the %d records from %d on stand after the last checkpoint: their chain is right, and nothing but a later checkpoint can prove them", w.since, w.good)
	}
}

func (w *verifier) finish() Verdict {
	w.verdict.Records = w.tree.size - w.verdict.From
	w.verdict.Unsigned = w.since
	return w.verdict
}
