package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Newest returns the highest sequence number of the outbox that the journal at path
// has, 0 if none: that of its newest checkpoint, or of a line after it.
func Newest(path string) (int64, error) {
	all, err := segments(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for _, s := range slices.Backward(all) {
		newest, err := newestIn(s.path)
		if err != nil || newest > 0 {
			return newest, err
		}
	}
	return 0, nil
}

func newestIn(path string) (newest int64, err error) {
	err = read(path, func(f *os.File, size int64) error {
		return backward(f, size, func(raw []byte, _ int64) bool {
			if ln, err := ParseLine(raw); err == nil {
				newest = max(newest, ln.Seq, noteSeq(ln.Note))
				return ln.Kind != KindCheckpoint
			}
			return true
		})
	})
	return newest, err
}

// noteSeq is what a checkpoint says of the outbox. Its signature is not looked at:
// it is the verifier's.
func noteSeq(note string) int64 {
	text, _, _ := strings.Cut(note, "\n\n")
	for line := range strings.Lines(text + "\n") {
		if digits, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "seq "); ok {
			n, _ := strconv.ParseInt(digits, 10, 64) // what is none is 0
			return n
		}
	}
	return 0
}

// read opens a file for fn; what is no regular file has no bytes.
func read(path string, fn func(f *os.File, size int64) error) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("reading the audit log: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the audit log: %w", err)
	}
	defer f.Close()
	return fn(f, info.Size())
}

// After returns the entries of the outbox beyond seq that the journal at path has, in
// their order and once each: a crash repeats lines. Where a store that was put back
// gave numbers anew, the log has other events of the same number; all are returned.
func After(path string, seq int64) ([]Entry, error) {
	all, err := segments(path)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, s := range all {
		err := read(s.path, func(f *os.File, size int64) error {
			return eachEntry(io.NewSectionReader(f, 0, size), func(e Entry) {
				if e.Seq > seq {
					entries = append(entries, e)
				}
			})
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return distinct(entries), nil
}

// distinct leaves out of sorted entries what repeats one of the same number.
func distinct(entries []Entry) []Entry {
	var out []Entry
	for _, e := range entries {
		repeated := false
		for i := len(out) - 1; i >= 0 && out[i].Seq == e.Seq && !repeated; i-- {
			repeated = reflect.DeepEqual(out[i].Event, e.Event)
		}
		if !repeated {
			out = append(out, e)
		}
	}
	return out
}

// eachEntry calls fn for every line of r that came from the outbox. What is no
// whole line, such as one that was being written in a crash, is left out.
func eachEntry(r io.Reader, fn func(Entry)) error {
	lines := bufio.NewReaderSize(r, blockSize)
	for {
		text, _, err := nextLine(lines)
		if bytes.Contains(text, []byte(`"seq":`)) {
			var b body
			if json.Unmarshal(text, &b) == nil && b.Seq > 0 {
				fn(Entry{Seq: b.Seq, Event: b.AuditEvent})
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the audit log: %w", err)
		}
	}
}
