package sink

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/broker/audit"
)

// File keeps a copy in a file, such as on another disk. In the format jsonl it has the
// journal's lines as they are, each once, so that it can be verified like it.
type File struct {
	Path    string `hcl:"path"`
	Format  string `hcl:"format,optional"`   // jsonl, ocsf or ecs
	MaxSize string `hcl:"max_size,optional"` // such as "100MiB"; it is not divided if there is none
	Keep    int    `hcl:"keep,optional"`     // how many that are full; 0: all
}

// Validate implements Config.
func (c File) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.Path) {
		errs = append(errs, invalid("path %q is not absolute: write where the copy is to be, from / on", c.Path))
	}
	if _, err := ParseSize(c.MaxSize); err != nil {
		errs = append(errs, err)
	}
	if c.Keep < 0 || c.Keep > 0 && c.MaxSize == "" {
		errs = append(errs, invalid("keep is %d: it is how many files of max_size are kept, 0 for all", c.Keep))
	}
	return errors.Join(append(errs, checkFormat(c.Format, formJSONL, formOCSF, formECS))...)
}

// ParseSize reads "100MiB", "1GiB", "4096"; 0 for an empty text.
// Its error is ErrInvalid, and speaks of max_size.
func ParseSize(text string) (int64, error) {
	digits, unit := strings.TrimRight(text, "kKMGiB"), int64(1)
	switch text[len(digits):] {
	case "KiB", "kiB":
		unit = 1 << 10
	case "MiB":
		unit = 1 << 20
	case "GiB":
		unit = 1 << 30
	case "":
	default:
		digits = "x"
	}
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n <= 0 {
		return 0, invalid(`max_size %q is no size: write it as in "100MiB"`, text)
	}
	return n * unit, nil
}

// Open implements Config.
func (c File) Open(node string) (audit.Sink, error) {
	size, err := ParseSize(c.MaxSize)
	return &copying{cfg: c, node: node, max: size, last: -1}, err
}

type copying struct {
	cfg  File
	node string
	max  int64

	mu   sync.Mutex
	file *os.File
	size int64
	last int64  // index of the last line that it has; -1: none
	leaf string // of that line; empty: unknown

	doubt atomic.Pointer[string]
}

// Doubt implements audit.Doubter: the copy is of several logs.
func (s *copying) Doubt() string {
	if d := s.doubt.Load(); d != nil {
		return *d
	}
	return ""
}

// Confirms implements audit.Sink: it is synced.
func (s *copying) Confirms() bool { return true }

// Close implements audit.Sink.
func (s *copying) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return f.Close()
}

// Send implements audit.Sink.
func (s *copying) Send(_ context.Context, lines []audit.Line) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(lines) > 0 && lines[0].Index < 0 {
		return s.aside(lines)
	}
	err := s.send(lines)
	if err != nil {
		if s.file != nil {
			_ = s.file.Close() // it has failed already; it is opened anew
			s.file = nil
		}
		return fmt.Errorf("%w: writing the copy of the audit log: %w", backends.ErrUnavailable, err)
	}
	return nil
}

// aside keeps what the journal does not have yet: it has no place among its lines.
func (s *copying) aside(lines []audit.Line) error {
	f, err := os.OpenFile(s.cfg.Path+".direct", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("%w: writing beside the copy of the audit log: %w", backends.ErrUnavailable, err)
	}
	text, err := formOf(s.cfg.Format).lines(lines, s.node)
	if err == nil {
		_, err = f.Write(text)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("%w: writing beside the copy of the audit log: %w", backends.ErrUnavailable, err)
	}
	return nil
}

func (s *copying) send(lines []audit.Line) error {
	if s.file == nil {
		if err := s.open(); err != nil {
			return err
		}
	}
	same, err := s.same(lines)
	if err != nil {
		return err
	}
	if same {
		lines = slices.DeleteFunc(slices.Clone(lines), func(ln audit.Line) bool { return ln.Index <= s.last })
	}
	if len(lines) == 0 {
		return nil
	}
	if !same {
		text := fmt.Sprintf("from record %d on it is sent another log than the one that the copy had; that is kept beside it", lines[0].Index)
		s.doubt.Store(&text)
	}
	if s.size > 0 && (!same || s.max > 0 && s.size >= s.max) {
		if err := s.rotate(lines[0].Index); err != nil {
			return err
		}
	}
	var rest []audit.Line
	if s.max > 0 {
		lines, rest = s.fitting(lines)
	}
	text, err := formOf(s.cfg.Format).lines(lines, s.node)
	if err != nil {
		return err
	}
	n, err := s.file.Write(text)
	if err != nil {
		return errors.Join(err, s.file.Truncate(s.size))
	}
	s.size += int64(n)
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.last, s.leaf = lines[len(lines)-1].Index, lines[len(lines)-1].Leaf()
	if len(rest) > 0 {
		return s.send(rest)
	}
	return nil
}

// fitting are the lines up to the one that fills the file, and the rest.
func (s *copying) fitting(lines []audit.Line) (fit, rest []audit.Line) {
	size := s.size
	for i, ln := range lines {
		if size += int64(len(ln.Raw)) + 1; size >= s.max {
			return lines[:i+1], lines[i+1:]
		}
	}
	return lines, nil
}

// same tells whether lines are of the log that the copy has: those that it has already
// are as they stand there, and the first one that it has not follows from its last. They
// are of another after the node has lost its data_dir, or was put back.
func (s *copying) same(lines []audit.Line) (bool, error) {
	if s.last < 0 || s.leaf == "" {
		return true, nil
	}
	for i, ln := range lines {
		switch {
		case ln.Index == s.last && ln.Leaf() != s.leaf,
			ln.Index == s.last+1 && ln.Prev != "" && ln.Prev != s.leaf:
			return false, nil
		case i > 0 || ln.Index >= s.last:
			continue
		}
		there, err := audit.LineIn(s.file, s.size, ln.Index)
		if err != nil || !bytes.Equal(there, ln.Raw) {
			return false, err
		}
	}
	return true, nil
}

// open opens the file, cuts off a line that a crash has left, and looks which line of
// the journal it has last.
func (s *copying) open() error {
	f, err := os.OpenFile(s.cfg.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if info.Mode().IsRegular() {
		s.last, s.leaf = -1, ""
		s.size, err = whole(f, info.Size(), func(ln audit.Line) { s.last, s.leaf = ln.Index, ln.Leaf() })
		if err == nil {
			err = f.Truncate(s.size)
		}
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	s.file = f
	return privatefile.SyncDir(filepath.Dir(s.cfg.Path))
}

// whole returns the size of f without a part of a line at its end, and tells of the
// lines that are near it.
func whole(f *os.File, size int64, each func(audit.Line)) (int64, error) {
	const near = 8 << 20 // longer than any line
	from := max(0, size-near)
	r := bufio.NewReader(io.NewSectionReader(f, from, size-from))
	good, begun := from, from > 0
	for {
		raw, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if begun && from > 0 {
				return size, nil // it is nothing of ours: nothing is cut off it
			}
			return good, nil
		}
		if err != nil {
			return 0, err
		}
		good += int64(len(raw))
		begun = false
		if ln, err := audit.ParseLine(bytes.TrimSuffix(raw, []byte("\n"))); err == nil && bytes.HasPrefix(raw, []byte(`{"index":`)) {
			each(ln)
		}
	}
}

// rotate gives the file the index of the line that comes next as its name, and forgets
// those that are too many.
func (s *copying) rotate(next int64) error {
	stem := strings.TrimSuffix(s.cfg.Path, filepath.Ext(s.cfg.Path))
	to := fmt.Sprintf("%s-to-%016d%s", stem, next, filepath.Ext(s.cfg.Path))
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); err != nil {
			break // never the place of another
		}
		to = fmt.Sprintf("%s-to-%016d-%d%s", stem, next, n, filepath.Ext(s.cfg.Path))
	}
	err := errors.Join(s.file.Close(), os.Rename(s.cfg.Path, to))
	s.file = nil
	if err != nil {
		return err
	}
	last, leaf := s.last, s.leaf
	if err := s.open(); err != nil {
		return err
	}
	s.last, s.leaf = last, leaf
	if s.cfg.Keep == 0 {
		return nil
	}
	full, err := filepath.Glob(stem + "-to-*" + filepath.Ext(s.cfg.Path))
	if err != nil {
		return err
	}
	slices.Sort(full)
	for ; len(full) > s.cfg.Keep; full = full[1:] {
		if err := os.Remove(full[0]); err != nil {
			return err
		}
	}
	return nil
}
