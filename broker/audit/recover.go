package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// survey is what of a journal is on disk: up to where its lines follow from its newest
// checkpoint, and from each other.
type survey struct {
	progress
	newest  Checkpoint
	writing bool  // there is a file at the journal's path; it is open
	more    bool  // there are segments before it
	first   int64 // of the newest segment; -1: it has no line
	size    int64 // of the file, of which
	good    int64 // so many bytes belong to the journal
}

// open opens the file when the process begins, having made it whole, and finds out what
// the next line follows from. Known is what there has certainly been: a journal that has
// less, or another line in the place of that checkpoint, was changed by somebody else.
// It goes on behind a gap; never is anything signed over lines that contradict what was
// signed before.
func (j *journal) open(known Checkpoint) error {
	want := progress{tree: known.tree, seq: known.Seq}
	if special, err := j.special(want); special || err != nil {
		return err
	}
	all, err := segments(j.path)
	if err != nil {
		return err
	}
	untold, err := j.untold()
	if err != nil {
		return err
	}
	s, err := j.survey(all, math.MaxInt64)
	if err != nil {
		return err
	}
	changed := false
	if known.Note != "" {
		held, err := s.holds(all, known)
		if err != nil {
			return err
		}
		if changed = !held; s.tree.size <= known.Size || changed {
			j.newest = known
			return j.behind(s, want, changed && s.tree.size > known.Size, untold)
		}
	}
	j.newest = s.newest
	if err := j.goOn(s, &untold); err != nil {
		return err
	}
	if s.unsigned > 0 {
		untold = append(untold, adopted{s.tree.size - int64(s.unsigned), s.tree.size})
	}
	return j.tell(untold)
}

// reopen opens the file again in a process that knows what it has written: the journal
// ends exactly there. Whatever else is there, however well it follows, is not its own.
func (j *journal) reopen() error {
	want, offset := j.progress, j.offset
	if !j.regular {
		offset = math.MaxInt64 // of the file that it was before
	}
	if special, err := j.special(want); special || err != nil {
		return err
	}
	all, err := segments(j.path)
	if err != nil {
		return err
	}
	s, err := j.survey(all, offset)
	if err != nil {
		return err
	}
	if want.prev == "" { // nothing was written since it began, or since a gap
		s.progress, s.good = want, 0
	}
	if s.tree.size != want.tree.size || s.prev != want.prev || s.tree.root() != want.tree.root() {
		return j.behind(s, want, s.size >= offset || s.tree.size >= want.tree.size, nil)
	}
	s.progress = want
	var about []finding
	if err := j.goOn(s, &about); err != nil {
		return err
	}
	return j.tell(about)
}

// special opens what is no regular file, such as a pipe: nothing is read back from it.
func (j *journal) special(want progress) (bool, error) {
	info, err := os.Stat(j.path)
	if err != nil || info.Mode().IsRegular() {
		return false, nil //nolint:nilerr // what is wrong with it shows when it is opened
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return true, err
	}
	j.file, j.regular, j.offset, j.progress = &file{File: f}, false, 0, want
	return true, nil
}

// survey looks at the newest segment, up to limit where it is the one that is written,
// which it opens, and at those before it as long as they have no line.
func (j *journal) survey(all []segment, limit int64) (s survey, err error) {
	if len(all) == 0 {
		return s, nil
	}
	last := all[len(all)-1]
	s.writing, s.first, s.more = last.path == j.path, last.first, len(all) > 1
	mode := os.O_RDONLY
	if s.writing {
		mode = os.O_RDWR | os.O_APPEND
	}
	f, err := os.OpenFile(last.path, mode, 0o600)
	if err != nil {
		return s, err
	}
	info, err := f.Stat()
	if err != nil {
		return s, errors.Join(err, f.Close())
	}
	s.size = info.Size()
	upTo := s.size
	if s.writing {
		upTo = min(s.size, limit)
		j.file, j.regular = &file{File: f, regular: true}, true
	}
	s.progress, s.newest, s.good, err = j.lastOf(f, upTo)
	if !s.writing {
		err = errors.Join(err, f.Close())
	}
	if err == nil && s.good == 0 && s.more {
		var before survey
		before, err = (&journal{path: j.path, signer: j.signer}).survey(all[:len(all)-1], math.MaxInt64)
		s.progress, s.newest = before.progress, before.newest
	}
	return s, err
}

// holds tells whether a checkpoint that is kept elsewhere stands in the journal where it
// was written. Where its segment was moved away, a later checkpoint speaks for it.
func (s survey) holds(all []segment, known Checkpoint) (bool, error) {
	switch {
	case s.newest.Size < known.Size:
		return false, nil
	case s.newest.Size == known.Size:
		return s.newest.Note == known.Note, nil
	}
	ln, there, err := lineAt(all, known.Size)
	return !there || ln.Note == known.Note, err
}

// goOn goes on behind the last line that belongs to the journal, and keeps what is after it.
func (j *journal) goOn(s survey, about *[]finding) error {
	if s.writing && s.good < s.size {
		if err := j.trim(s, about); err != nil {
			return err
		}
	}
	j.progress, j.partial = s.progress, nil
	if s.writing && s.good == 0 && s.more { // it was just begun, or was nothing but damage
		j.drop()
		if err := os.Remove(j.path); err != nil {
			return err
		}
	}
	if j.file == nil {
		return j.create()
	}
	if j.first, j.offset = s.first, s.good; s.good == 0 {
		j.first = s.tree.size
	}
	return nil
}

// behind goes on in a segment of its own behind a gap: nobody has the line before. What
// was found is kept: as a segment where it only ends too early, and apart where it is
// not what was written.
func (j *journal) behind(s survey, want progress, changed bool, about []finding) error {
	gap := lost{s.tree.size, want.tree.size}
	if s.writing {
		if changed {
			gap.from = min(max(s.first, 0), want.tree.size)
			if err := j.keepAll(s, &about); err != nil {
				return err
			}
		} else if err := j.keepShort(s, &about); err != nil {
			return err
		}
	}
	gap.from = min(gap.from, gap.to)
	gap.to = max(gap.to, gap.from+1)
	want.prev, want.unsigned = "", 0
	j.progress, j.offset, j.partial = want, 0, nil
	if err := j.create(); err != nil {
		return err
	}
	return j.tell(append(about, gap))
}

// keepShort ends the segment that is open, if there is any line in it.
func (j *journal) keepShort(s survey, about *[]finding) error {
	if s.good < s.size {
		if err := j.trim(s, about); err != nil {
			return err
		}
	}
	j.drop()
	if s.good == 0 {
		return os.Remove(j.path)
	}
	j.first = s.first
	return j.rename()
}

// keepAll puts the whole file aside, as something that is not of the journal.
func (j *journal) keepAll(s survey, about *[]finding) error {
	c := cut{bytes: s.size}
	var err error
	if c.lines, err = linesIn(j.file, 0, s.size); err != nil {
		return err
	}
	c.lines = max(c.lines, 1)
	name := j.cutName(s.tree.size)
	j.drop()
	if err := os.Rename(j.path, name+untoldMark); err != nil {
		return err
	}
	c.keptAs = filepath.Base(name)
	j.keeping = append(j.keeping, name+untoldMark)
	*about = append(*about, c)
	return nil
}

// trim keeps the tail of the file beside it and cuts it off. What this process itself
// has left of a write that failed is nobody's.
func (j *journal) trim(s survey, about *[]finding) error {
	if n := s.size - s.good; n <= int64(len(j.partial)) {
		tail := make([]byte, n)
		if _, err := j.file.ReadAt(tail, s.good); err == nil && bytes.HasPrefix(j.partial, tail) {
			return j.file.Truncate(s.good)
		}
	}
	c, err := j.cutOff(j.file, s.good, s.size, s.tree.size)
	if err != nil {
		return err
	}
	*about = append(*about, c)
	return nil
}

// lastOf finds the newest checkpoint of a segment, and follows the lines from there:
// to the end, which is at good, or to where they do not follow from each other. A
// segment without any is followed from its first line, if that is the first of all.
func (j *journal) lastOf(f io.ReaderAt, size int64) (p progress, newest Checkpoint, good int64, err error) {
	err = backward(f, size, func(line []byte, at int64) bool {
		c, ok := j.signer.checkpointOf(line)
		if !ok {
			return true
		}
		p = progress{tree: c.tree.clone(), seq: c.Seq, signedAt: c.At}
		p.follow(line)
		newest, good = c, at+int64(len(line))+1
		return false
	})
	if err != nil {
		return p, newest, 0, err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, good, size-good), blockSize)
	for {
		line, n, err := nextLine(r)
		if errors.Is(err, io.EOF) {
			return p, newest, good, nil
		}
		if err != nil {
			return p, newest, good, fmt.Errorf("reading the audit log: %w", err)
		}
		ln, err := ParseLine(line)
		if err != nil || ln.Index != p.tree.size || ln.Prev != p.prev || p.unsigned >= maxUnsigned {
			return p, newest, good, nil //nolint:nilerr // it is cut off, and told of
		}
		p.follow(line)
		p.seq, p.unsigned, p.signedAt = max(p.seq, ln.Seq), p.unsigned+1, time.Time{} // to be signed at once
		good += n
	}
}

// checkpointOf reads a line that is a checkpoint of this log in its own place.
func (s *signer) checkpointOf(line []byte) (Checkpoint, bool) {
	var b signedBody
	index, ok := indexOf(line)
	if !ok || !bytes.Contains(line, []byte(`"kind":"checkpoint"`)) || json.Unmarshal(line, &b) != nil || b.Kind != KindCheckpoint {
		return Checkpoint{}, false
	}
	c, err := OpenCheckpoint(b.Note, s)
	return c, err == nil && c.Size == index
}

// lineAt reads the line with an index; false: its segment, or the line, is not there.
func lineAt(all []segment, index int64) (ln Line, there bool, err error) {
	for _, s := range slices.Backward(all) {
		if s.first < 0 || s.first > index {
			continue
		}
		err = read(s.path, func(f *os.File, size int64) error {
			raw, err := LineIn(f, size, index)
			if err != nil || raw == nil {
				return err
			}
			if ln, err = ParseLine(raw); err != nil {
				ln, err = Line{}, nil // it is there, and no record
			}
			there = true
			return err
		})
		return ln, there, err
	}
	return ln, false, nil
}

// LineIn reads the line with an index from a file of lines whose indices grow; nil:
// there is none.
func LineIn(f io.ReaderAt, size, index int64) ([]byte, error) {
	at, err := seek(f, size, index)
	if err != nil || at >= size {
		return nil, err
	}
	line, _, err := nextLine(bufio.NewReader(io.NewSectionReader(f, at, size-at)))
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if n, ok := indexOf(line); err != nil || !ok || n != index {
		return nil, err
	}
	return line, nil
}

// stem is what the names of all files of the journal begin with.
func (j *journal) stem() string { return strings.TrimSuffix(j.path, extension) }
