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
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/keybroker/keybroker/backends"
)

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
	covered int64 // the records before it are signed for, whatever is wrong before
	broken  bool  // something is wrong that is not accepted: nothing more is proven
	astray  bool  // nothing follows any more, up to the next good checkpoint
	removed []claim
	gone    []claim // that it has found lost
	adopted []claim
	accept  map[int64]bool
	verdict Verdict

	waiting []byte // the line that is to be judged
	waitsAt where
}

// claim is what a record at index says of others; it counts once that is signed.
type claim struct {
	Span
	index int64
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
	w := &verifier{by: by, outside: map[int64][]Checkpoint{}, accept: map[int64]bool{}, verdict: Verdict{Origin: by.Name(), Faults: []Fault{}, Adopted: []Span{}, Notes: []string{}}}
	for _, index := range v.Accept {
		w.accept[index] = true
	}
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
			if err := w.begin(s); err != nil {
				return w.verdict, err
			}
		}
		if err := w.segment(s, i == len(all)-1); err != nil {
			return w.finish(), err
		}
	}
	w.judge(nil)
	w.beginning(all[0], v.Partial)
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
func (w *verifier) begin(s segment) error {
	if s.first <= 0 {
		return nil
	}
	w.verdict.From, w.good = s.first, s.first
	return read(s.path, func(f *os.File, size int64) error {
		raw, _, err := nextLine(bufio.NewReaderSize(io.NewSectionReader(f, 0, size), blockSize))
		if err != nil {
			return nil //nolint:nilerr // segment tells what is wrong with the line
		}
		ln, c, ok := w.checkpointIn(raw)
		if !ok {
			w.fault(where{s.path, 1}, s.first, "it is no checkpoint that is signed by this key, which a segment begins with")
			return nil
		}
		w.tree, w.prev = c.tree.clone(), ln.Prev
		return nil
	})
}

// beginning judges that the records before the first one are not there: they are kept
// elsewhere, or the node has recorded that it removed them.
func (w *verifier) beginning(s segment, partial bool) {
	from := w.verdict.From
	if from == 0 {
		return
	}
	for size, all := range w.outside {
		if size < from {
			w.note("the checkpoint of %s that is kept elsewhere is of records before the first one: nothing here can be held against it", stamp(all[0]))
		}
	}
	for _, c := range w.removed {
		if c.To == from-1 && c.index < w.covered {
			w.note("the records up to %d were removed by the node, which has recorded it (record %d)", from-1, c.index)
			return
		}
	}
	if partial {
		return
	}
	f := Fault{File: s.path, Line: 1, Index: 0, by: -1, What: fmt.Sprintf("the records from 0 to %d are missing: the segments before this one (if they are kept elsewhere, verify with --partial)", from-1)}
	for _, c := range w.gone {
		if c.From == 0 && c.To == from-1 {
			f.by, f.What = c.index, fmt.Sprintf("the records from 0 to %d are missing: the node itself found it so", from-1)
		}
	}
	w.verdict.Faults = slices.Insert(w.verdict.Faults, 0, f)
	if f.by < 0 || !w.accept[0] {
		w.verdict.Proven = from
	}
}

// checkpointIn reads a line that is a good checkpoint by itself, wherever it stands.
func (w *verifier) checkpointIn(raw []byte) (Line, Checkpoint, bool) {
	ln, err := ParseLine(raw)
	if err != nil || ln.Kind != KindCheckpoint {
		return ln, Checkpoint{}, false
	}
	c, err := OpenCheckpoint(ln.Note, w.by)
	return ln, c, err == nil && c.Size == ln.Index && bytes.Equal(raw, canonical(ln))
}

// fault keeps what is wrong. From here on nothing follows, until a good checkpoint says
// again what has been.
func (w *verifier) fault(at where, index int64, format string, args ...any) {
	w.blame(at, index, -1, format, args...)
	w.astray = true
}

// blame keeps what is wrong; by is the index of the record by which the node tells of it.
func (w *verifier) blame(at where, index, by int64, format string, args ...any) {
	w.broken = w.broken || by < 0 || !w.accept[index]
	if len(w.verdict.Faults) < maxFaults {
		w.verdict.Faults = append(w.verdict.Faults, Fault{File: at.file, Line: at.line, Index: index, What: fmt.Sprintf(format, args...), by: by})
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
			raw, n, err := nextLine(r)
			switch {
			case err == nil:
				w.judge(raw)
				w.waiting, w.waitsAt = raw, at
			case !errors.Is(err, io.EOF):
				return fmt.Errorf("reading the audit log: %w", err)
			case len(raw) > 0:
				w.judge(nil)
				w.torn(at, raw, n, last)
			}
			if err != nil {
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
func (w *verifier) torn(at where, raw []byte, size int64, last bool) {
	if !last || severalIn(raw, size) {
		w.fault(at, w.tree.size, "it is cut off")
		return
	}
	w.note("%s:%d: the last line is not whole (%d bytes): it is being written, or a crash has cut it off, which the next start records", at.file, at.line, size)
}

// line judges one line. Next is the one after it, empty if that is not known.
func (w *verifier) line(at where, raw, next []byte) {
	if w.astray && !w.found(raw) {
		return
	}
	ln, err := ParseLine(raw)
	if err != nil {
		w.fault(at, w.tree.size, "it is no record: it was changed")
		return
	}
	if !w.gap(at, ln, raw) && !w.follows(at, ln, next) {
		return
	}
	if ln.Kind == KindCheckpoint && !w.checkpoint(at, ln, next) {
		return
	}
	w.told(at, ln)
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

// found tells whether a line is a good checkpoint from which on the lines can be followed again.
func (w *verifier) found(raw []byte) bool {
	ln, c, ok := w.checkpointIn(raw)
	if !ok || c.Size < w.tree.size {
		return false
	}
	w.tree, w.prev, w.since, w.good, w.astray = c.tree.clone(), ln.Prev, 0, c.Size, false
	return true
}

// gap takes up a checkpoint by which the node itself goes on behind records that it lacks.
func (w *verifier) gap(at where, ln Line, raw []byte) bool {
	_, c, ok := w.checkpointIn(raw)
	if !ok || ln.Prev != "" || ln.Index < w.tree.size || ln.Index == w.verdict.From {
		return false
	}
	unproven := ""
	if w.since > 0 {
		unproven = fmt.Sprintf(", and those from %d on are not proven", w.good)
	}
	if ln.Index > w.tree.size || c.Root != w.tree.root() {
		w.blame(at, min(w.tree.size, ln.Index), ln.Index, "the records from %d to %d are missing before this line%s: the node itself found it so", w.tree.size, ln.Index-1, unproven)
	} else {
		w.blame(at, ln.Index, ln.Index, "the checkpoint that stood here is missing: the node itself found it so")
	}
	w.tree, w.prev, w.since, w.good = c.tree.clone(), "", 0, c.Size
	return true
}

// told takes in what the log says of itself.
func (w *verifier) told(at where, ln Line) {
	from, _ := strconv.ParseInt(ln.Detail["from"], 10, 64)
	to, _ := strconv.ParseInt(ln.Detail["to"], 10, 64)
	if ln.Path != "sys/audit" || ln.Actor != "keybroker" {
		return
	}
	switch ln.Action {
	case actionDamaged:
		w.blame(at, ln.Index, ln.Index, "the node itself found lines that are not what was written, and has kept them as %s", ln.Detail["kept_as"])
	case actionTorn:
		w.note("%s:%d: record %d: a crash has left %s bytes of a line, which are kept as %s", at.file, at.line, ln.Index, ln.Detail["bytes"], ln.Detail["kept_as"])
	case actionAdopted:
		w.adopted = append(w.adopted, claim{Span{from, to}, ln.Index})
		w.note("%s:%d: the records from %d to %d had no signature yet when the node began to run again: a crash leaves such, and nothing proves who wrote them", at.file, at.line, from, to)
	case actionLost:
		w.gone = append(w.gone, claim{Span{from, to}, ln.Index})
	case actionRemoved:
		w.removed = append(w.removed, claim{Span{from, to}, ln.Index})
	}
}

// compare looks whether a line is what checkpoints say that were kept elsewhere: the
// line of each was synced before anybody was given it.
func (w *verifier) compare(at where, ln Line) {
	for _, c := range w.outside[ln.Index] {
		if ln.Prev == "" && ln.Kind == KindCheckpoint { // behind a gap it was signed anew, over the same
			own, err := OpenCheckpoint(ln.Note, w.by)
			if err == nil && own.Root == c.Root {
				continue
			}
		}
		if c.Note != ln.Note || !bytes.Equal(ln.Raw, canonical(ln)) {
			w.fault(at, ln.Index, "it is not the checkpoint of %s that is kept elsewhere and was written here: it was changed", stamp(c))
		}
	}
	for _, c := range w.outside[w.tree.size] {
		if c.Root != w.tree.root() {
			w.fault(w.afterGood(at), w.good, "from this record on nothing is proven: the checkpoint of %s that is kept elsewhere was signed over other records, up to record %d", stamp(c), w.tree.size-1)
			return
		}
		w.prove()
	}
}

// prove has everything so far proven, up to what is wrong first.
func (w *verifier) prove() {
	if w.covered = w.tree.size; !w.broken {
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
		w.signed++
		w.prove()
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
	if w.astray {
		return
	}
	if w.newest.Size >= w.tree.size && w.newest.Size > 0 {
		at := w.last
		if at.line++; at.file == "" {
			at.file = w.verdict.Files[len(w.verdict.Files)-1]
		}
		w.fault(at, w.tree.size, "the records from %d to %d are missing at the end: the checkpoint of %s that is kept elsewhere stood there", w.tree.size, w.newest.Size, stamp(w.newest))
		return
	}
	if w.since > 0 {
		w.note("the %d records from %d on stand after the last checkpoint: their chain is right, and nothing but a later checkpoint can prove them", w.since, w.good)
	}
}
