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
)

// firstLook is how much of the log's end is searched for its newest entry of the
// outbox; if there is none, twice as much is, and so on.
const firstLook = 64 << 10

// Newest returns the highest sequence number of the outbox that the log at path
// has, 0 if none.
func Newest(path string) (int64, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the audit log: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("reading the audit log: %w", err)
	}
	for look := int64(firstLook); ; look *= 2 {
		from := max(info.Size()-look, 0)
		newest := int64(0)
		err := eachEntry(io.NewSectionReader(f, from, info.Size()-from), func(e Entry) { newest = max(newest, e.Seq) })
		if err != nil || newest > 0 || from == 0 {
			return newest, err
		}
	}
}

// After returns the entries of the outbox beyond seq that the log at path has, in
// their order and once each: a crash repeats lines. Where a store that was put back
// gave numbers anew, the log has other events of the same number; all are returned.
func After(path string, seq int64) ([]Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	defer f.Close()
	var entries []Entry
	err = eachEntry(f, func(e Entry) {
		if e.Seq > seq {
			entries = append(entries, e)
		}
	})
	slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return distinct(entries), err
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
	lines := bufio.NewReaderSize(r, firstLook)
	for {
		text, err := lines.ReadBytes('\n')
		if bytes.Contains(text, []byte(`"seq":`)) {
			var ln line
			if json.Unmarshal(text, &ln) == nil && ln.Seq > 0 {
				fn(Entry{Seq: ln.Seq, Event: ln.AuditEvent})
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
