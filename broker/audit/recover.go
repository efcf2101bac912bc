package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cut is a tail that does not belong to the journal: what a crash has left of a line,
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
	return fmt.Sprintf("%d lines at its end that do not follow from the ones before were cut off, and kept as %s: somebody or something has changed them", c.lines, c.keptAs)
}

// The actions of what a journal tells of itself.
const (
	actionTorn    = "audit.torn"
	actionDamaged = "audit.damaged"
	actionLost    = "audit.lost"
	actionResume  = "audit.resume"
)

func (c cut) event() (action, outcome string, detail map[string]string) {
	detail = map[string]string{"bytes": strconv.FormatInt(c.bytes, 10), "kept_as": c.keptAs}
	if c.lines == 0 {
		return actionTorn, "ok", detail
	}
	detail["lines"] = strconv.Itoa(c.lines)
	return actionDamaged, "failed", detail
}

// lost are the indices of lines that there were and that are gone.
type lost struct{ from, to int64 }

func (g lost) String() string {
	return fmt.Sprintf("the lines from %d to %d are gone: it was deleted, moved away or cut off", g.from, g.to-1)
}

func (g lost) event() (action, outcome string, detail map[string]string) {
	return actionLost, "failed", map[string]string{"from": strconv.FormatInt(g.from, 10), "to": strconv.FormatInt(g.to-1, 10)}
}

// recover finds out what the newest segment's last line is, and opens it, if it is the
// one that is written. What does not belong to it is cut off and kept.
func (j *journal) recover(all []segment) (progress, []finding, error) {
	if len(all) == 0 {
		return progress{}, nil, nil
	}
	last := all[len(all)-1]
	writing := last.path == j.path
	mode := os.O_RDONLY
	if writing {
		mode = os.O_RDWR | os.O_APPEND
	}
	f, err := os.OpenFile(last.path, mode, 0o600)
	if err != nil {
		return progress{}, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return progress{}, nil, errors.Join(err, f.Close())
	}
	found, good, err := j.lastOf(f, info.Size())
	if err != nil || !writing {
		return found, nil, errors.Join(err, f.Close())
	}
	var about []finding
	if good < info.Size() {
		c, err := j.cutOff(f, good, info.Size(), found.tree.size)
		if err != nil {
			return found, nil, errors.Join(err, f.Close())
		}
		about = []finding{c}
	}
	if good == 0 && len(all) > 1 { // it was just begun, or was nothing but damage
		if err := errors.Join(f.Close(), os.Remove(j.path)); err != nil {
			return found, nil, err
		}
		found, before, err := j.recover(all[:len(all)-1])
		return found, append(before, about...), err
	}
	j.file, j.regular, j.offset = &file{File: f, regular: true}, true, good
	if j.first = last.first; good == 0 {
		j.first = found.tree.size
	}
	return found, about, nil
}

// cutOff keeps the tail of the file beside it and cuts it off.
func (j *journal) cutOff(f *os.File, from, to, index int64) (cut, error) {
	c := cut{bytes: to - from}
	path := fmt.Sprintf("%s.cut-%016d", strings.TrimSuffix(j.path, extension), index)
	err := copyTo(path, f, from, to)
	for n := 2; errors.Is(err, fs.ErrExist); n++ {
		path = fmt.Sprintf("%s.cut-%016d-%d", strings.TrimSuffix(j.path, extension), index, n)
		err = copyTo(path, f, from, to)
	}
	if err != nil {
		return c, fmt.Errorf("keeping what is cut off the audit log: %w", err)
	}
	c.keptAs = filepath.Base(path)
	r := bufio.NewReaderSize(io.NewSectionReader(f, from, to-from), blockSize)
	for {
		text, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c, err
		}
		if len(bytes.Trim(text, "\x00\n")) > 0 { // a machine that lost its power may leave zeros
			c.lines++
		}
	}
	return c, f.Truncate(from)
}

// lastOf finds the newest checkpoint of a segment, and follows the lines from there:
// to the end, which is at good, or to where they do not follow from each other. A
// segment without any is followed from its first line, if that is the first of all.
func (j *journal) lastOf(f io.ReaderAt, size int64) (p progress, good int64, err error) {
	err = backward(f, size, func(line []byte, at int64) bool {
		var b signedBody
		index, ok := indexOf(line)
		if !ok || !bytes.Contains(line, []byte(`"kind":"checkpoint"`)) || json.Unmarshal(line, &b) != nil || b.Kind != KindCheckpoint {
			return true
		}
		c, err := OpenCheckpoint(b.Note, j.signer)
		if err != nil || c.Size != index {
			return true
		}
		p = progress{tree: c.tree, seq: c.Seq, signedAt: c.At}
		p.follow(line)
		j.newest, good = c, at+int64(len(line))+1
		return false
	})
	if err != nil {
		return p, 0, err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(f, good, size-good), blockSize)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return p, good, nil
		}
		if err != nil {
			return p, good, fmt.Errorf("reading the audit log: %w", err)
		}
		ln, err := ParseLine(line[:len(line)-1])
		if err != nil || ln.Index != p.tree.size || ln.Prev != p.prev || p.unsigned >= maxUnsigned {
			return p, good, nil //nolint:nilerr // it is cut off, and told of
		}
		p.follow(line[:len(line)-1])
		p.seq, p.unsigned, p.signedAt = max(p.seq, ln.Seq), p.unsigned+1, time.Time{} // to be signed at once
		good += int64(len(line))
	}
}
