package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The journal is a file, PATH.jsonl, and the segments before it, PATH-INDEX.jsonl, of
// which each is named by the index of its first line.
const extension = ".jsonl"

type segment struct {
	path  string
	first int64 // index of its first line; -1: it has none
}

// segmentPath is where the segment that begins with that index goes when another is begun.
func segmentPath(path string, first int64) string {
	return fmt.Sprintf("%s-%016d%s", strings.TrimSuffix(path, extension), first, extension)
}

// segments lists what there is of the journal at path, the oldest first. It lists the
// newest only if it is there.
func segments(path string) ([]segment, error) {
	stem := strings.TrimSuffix(filepath.Base(path), extension) + "-"
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("listing the audit log: %w", err)
	}
	var out []segment
	for _, n := range names {
		digits, of := strings.CutPrefix(n.Name(), stem)
		digits, ends := strings.CutSuffix(digits, extension)
		if !of || !ends {
			continue
		}
		if first, err := strconv.ParseInt(digits, 10, 64); err == nil && first >= 0 {
			out = append(out, segment{filepath.Join(filepath.Dir(path), n.Name()), first})
		}
	}
	slices.SortFunc(out, func(a, b segment) int { return int(a.first - b.first) })
	first, err := firstIndex(path)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	return append(out, segment{path, first}), err
}

// Exists tells whether there is anything of a journal at path.
func Exists(path string) (bool, error) {
	all, err := segments(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return len(all) > 1 || len(all) == 1 && all[0].first >= 0, err
}

// firstIndex reads the index of a file's first line; -1 if it has none.
func firstIndex(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return -1, err
	}
	if !info.Mode().IsRegular() {
		return -1, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return -1, fmt.Errorf("reading the audit log: %w", err)
	}
	defer f.Close()
	start := make([]byte, len(indexKey)+21)
	n, err := f.ReadAt(start, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return -1, fmt.Errorf("reading the audit log: %w", err)
	}
	if first, ok := indexOf(start[:n]); ok {
		return first, nil
	}
	return -1, nil
}

const (
	blockSize = 64 << 10 // how much is read at a time
	// maxLine is more bytes than any line has: what is longer is no record.
	maxLine = 4 << 20
)

// nextLine reads a line without its end, and tells how many bytes it takes with it. Of
// one that is longer than any it returns the beginning, which is no record. Its error is
// io.EOF where there is no whole line any more; what is left of one is returned as well.
func nextLine(r *bufio.Reader) (line []byte, size int64, err error) {
	for {
		part, err := r.ReadSlice('\n')
		size += int64(len(part))
		if len(line) <= maxLine {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err == nil && size == int64(len(line)) {
			line = line[:len(line)-1]
		}
		return line, size, err
	}
}

// seek returns the offset of the first line of f, which has size bytes, whose index is
// not below index; size if there is none. Lines without an index count as lower.
func seek(f io.ReaderAt, size, index int64) (int64, error) {
	low, high := int64(0), size // the line is at low or later; one that is enough begins at high
	for low < high {
		from, line, n, err := lineAfter(f, size, low+(high-low)/2, low)
		if err != nil {
			return 0, err
		}
		if from >= high || n == 0 {
			// No line begins in the upper half: what is left is few lines.
			return walk(f, low, high, index)
		}
		if is, ok := indexOf(line); ok && is >= index {
			high = from
		} else {
			low = from + n
		}
	}
	return low, nil
}

// lineAfter reads the first line that begins at or after at, or at low if at is in its line.
func lineAfter(f io.ReaderAt, end, at, low int64) (from int64, line []byte, size int64, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(f, at, end-at), 4<<10)
	from = at
	if at > low {
		_, skipped, err := nextLine(r)
		if errors.Is(err, io.EOF) {
			return end, nil, 0, nil
		}
		if err != nil {
			return 0, nil, 0, fmt.Errorf("reading the audit log: %w", err)
		}
		from += skipped
	}
	line, size, err = nextLine(r)
	if errors.Is(err, io.EOF) {
		return end, nil, 0, nil
	}
	if err != nil {
		return 0, nil, 0, fmt.Errorf("reading the audit log: %w", err)
	}
	return from, line, size, nil
}

// walk is seek from low to high, line by line.
func walk(f io.ReaderAt, low, high, index int64) (int64, error) {
	r := bufio.NewReaderSize(io.NewSectionReader(f, low, high-low), blockSize)
	for low < high {
		line, n, err := nextLine(r)
		if errors.Is(err, io.EOF) {
			return high, nil
		}
		if err != nil {
			return 0, fmt.Errorf("reading the audit log: %w", err)
		}
		if is, ok := indexOf(line); ok && is >= index {
			return low, nil
		}
		low += n
	}
	return high, nil
}

// backward calls fn for the lines of f that end before size, the last one first, until
// fn says false. A last line without an end is left out. What fn is given is its own.
func backward(f io.ReaderAt, size int64, fn func(line []byte, at int64) bool) error {
	var tail []byte // of lines whose beginning is not read yet
	begun := false  // the end of the last whole line was seen
	for end := size; end > 0; {
		from := max(end-blockSize, 0)
		block := make([]byte, end-from, end-from+int64(len(tail)))
		if _, err := f.ReadAt(block, from); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the audit log: %w", err)
		}
		text := append(block, tail...)
		if !begun {
			last := bytes.LastIndexByte(text, '\n')
			if begun = last >= 0; !begun {
				tail, end = nil, from
				continue
			}
			text = text[:last+1]
		}
		for {
			start := bytes.LastIndexByte(text[:max(len(text)-1, 0)], '\n') + 1
			if start == 0 && from > 0 || len(text) == 0 {
				break
			}
			if !fn(bytes.Clone(text[start:len(text)-1]), from+int64(start)) {
				return nil
			}
			text = text[:start]
		}
		if tail, end = text, from; len(tail) > maxLine {
			tail, begun = nil, false // it is no record: what comes next ends before it
		}
	}
	return nil
}
