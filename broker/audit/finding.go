package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/keybroker/keybroker/backends/privatefile"
)

// finding is something that opening a journal has found, and that it tells of.
type finding interface {
	fmt.Stringer
	event() (action, outcome string, detail map[string]string)
}

// The actions of what a journal tells of itself.
const (
	actionTorn    = "audit.torn"
	actionDamaged = "audit.damaged"
	actionLost    = "audit.lost"
	actionAdopted = "audit.adopted"
	actionRemoved = "audit.removed"
	actionResume  = "audit.resume"
)

// cut is something that does not belong to the journal: what a crash has left of a line,
// or lines that somebody else has written or changed.
type cut struct {
	bytes  int64
	lines  int // whole ones; 0: a line without its end, as a crash leaves it
	keptAs string
}

func (c cut) String() string {
	if c.lines == 0 {
		return fmt.Sprintf("%d bytes of a line that was never whole were cut off, and kept as %s", c.bytes, c.keptAs)
	}
	return fmt.Sprintf("%d lines that are not what was written were taken out of it, and kept as %s: somebody or something has changed them", c.lines, c.keptAs)
}

func (c cut) event() (action, outcome string, detail map[string]string) {
	detail = map[string]string{"bytes": strconv.FormatInt(c.bytes, 10), "kept_as": c.keptAs}
	if c.lines == 0 {
		return actionTorn, "ok", detail
	}
	detail["lines"] = strconv.Itoa(c.lines)
	return actionDamaged, "failed", detail
}

// span are the indices of lines, of which to is the first that is not meant.
type span struct{ from, to int64 }

func (s span) detail() map[string]string {
	return map[string]string{"from": strconv.FormatInt(s.from, 10), "to": strconv.FormatInt(s.to-1, 10)}
}

// lost are lines that there were and that are gone.
type lost span

func (g lost) String() string {
	return fmt.Sprintf("the lines from %d to %d are gone: it was deleted, moved away, cut off or replaced", g.from, g.to-1)
}

func (g lost) event() (action, outcome string, detail map[string]string) {
	return actionLost, "failed", span(g).detail()
}

// adopted are lines that stood behind the last checkpoint when the process began. They
// follow, as those do that a crash leaves; nothing shows that this node wrote them.
type adopted span

func (a adopted) String() string {
	return fmt.Sprintf("the lines from %d to %d were not signed yet when it was opened", a.from, a.to-1)
}

func (a adopted) event() (action, outcome string, detail map[string]string) {
	return actionAdopted, "ok", span(a).detail()
}

// untoldMark ends the name of what was cut off until the journal tells of it.
const untoldMark = ".untold"

// tell has what opening found written down as soon as anything can be.
func (j *journal) tell(about []finding) error {
	for _, f := range about {
		action, outcome, detail := f.event()
		if outcome == "ok" {
			j.logger.Warn("the audit log: "+f.String(), "file", j.path)
		} else {
			j.logger.Error("the audit log: "+f.String(), "file", j.path)
			text := f.String()
			j.said.Store(&text)
		}
		line, err := j.note(action, outcome, detail)
		if err != nil {
			return err
		}
		j.pending = append(j.pending, line)
	}
	return nil
}

// untold finds what an earlier process has cut off and did not come to tell of.
func (j *journal) untold() (about []finding, err error) {
	names, err := filepath.Glob(j.stem() + ".cut-*" + untoldMark)
	if err != nil {
		return nil, fmt.Errorf("looking for what was cut off the audit log: %w", err)
	}
	for _, name := range names {
		err := read(name, func(f *os.File, size int64) error {
			c := cut{bytes: size, keptAs: strings.TrimSuffix(filepath.Base(name), untoldMark)}
			c.lines, err = linesIn(f, 0, size)
			about = append(about, c)
			return err
		})
		if err != nil {
			return nil, err
		}
		if !slices.Contains(j.keeping, name) {
			j.keeping = append(j.keeping, name)
		}
	}
	return about, nil
}

// keepCuts gives what was cut off its own name, once the journal has told of it.
func (j *journal) keepCuts() error {
	for len(j.keeping) > 0 {
		if err := os.Rename(j.keeping[0], strings.TrimSuffix(j.keeping[0], untoldMark)); err != nil {
			return fmt.Errorf("keeping what was cut off the audit log: %w", err)
		}
		j.keeping = j.keeping[1:]
	}
	return nil
}

// cutName is a name that nothing has yet, for what is cut off at an index.
func (j *journal) cutName(index int64) string {
	path := fmt.Sprintf("%s.cut-%016d", j.stem(), index)
	for n := 2; ; n++ {
		_, told := os.Lstat(path)
		_, untold := os.Lstat(path + untoldMark)
		if told != nil && untold != nil {
			return path
		}
		path = fmt.Sprintf("%s.cut-%016d-%d", j.stem(), index, n)
	}
}

// cutOff keeps the tail of the file beside it and cuts it off.
func (j *journal) cutOff(f *file, from, to, index int64) (cut, error) {
	c := cut{bytes: to - from}
	path := j.cutName(index)
	err := privatefile.Create(path+untoldMark, func(w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(f, from, to-from))
		return err
	})
	if err != nil {
		return c, fmt.Errorf("keeping what is cut off the audit log: %w", err)
	}
	j.keeping, c.keptAs = append(j.keeping, path+untoldMark), filepath.Base(path)
	if c.lines, err = linesIn(f, from, to); err != nil {
		return c, err
	}
	return c, f.Truncate(from)
}

// linesIn counts the lines in a part of a file that are not there by a crash alone:
// whole ones, and what begins within another or is longer than any.
func linesIn(f io.ReaderAt, from, to int64) (n int, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(f, from, to-from), blockSize)
	for {
		text, size, err := nextLine(r)
		if err != nil && !errors.Is(err, io.EOF) {
			return n, fmt.Errorf("reading the audit log: %w", err)
		}
		whole := err == nil && len(bytes.Trim(text, "\x00")) > 0 // a machine that lost its power may leave zeros
		if whole || severalIn(text, size) {
			n++
		}
		if err != nil {
			return n, nil
		}
	}
}

// severalIn tells whether a line without an end is more than a crash leaves of one. In
// a record the text that each begins with can only stand with its quotes escaped.
func severalIn(text []byte, size int64) bool {
	return size > maxLine || len(text) > 0 && bytes.Contains(text[1:], []byte(indexKey))
}
