package audit

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/rotation"
)

const (
	// signEvery is how long a line stays without a checkpoint after it, and how long
	// one stays unsynced.
	signEvery = time.Second
	// maxUnsigned is how many lines stand between two checkpoints at most; a verifier
	// counts on it. The journal signs at half of it.
	maxUnsigned = 4096
)

// progress is what the next line follows from.
type progress struct {
	tree     tree
	prev     string    // of the next line
	seq      int64     // the highest of the outbox so far
	unsigned int       // lines since the last checkpoint
	signedAt time.Time // when that was written
}

func (p progress) clone() progress {
	p.tree = p.tree.clone()
	return p
}

// follow takes a line in.
func (p *progress) follow(line []byte) {
	leaf := leafOf(line)
	p.tree.add(leaf)
	p.prev = leaf.String()
}

// journal is the file that lines are appended to, and the segments before it. It is
// used by one goroutine at a time.
type journal struct {
	path    string
	signer  *signer
	maxSize *atomic.Int64
	now     func() time.Time
	logger  hclog.Logger

	file    *file // nil: it is to be opened before anything is written
	regular bool  // else nothing can be read back, cut off or synced: a device, a pipe
	fresh   bool  // the next lines belong in a segment of their own
	first   int64 // index of the segment's first line, or of the line to come
	offset  int64 // where the next line begins
	newest  Checkpoint
	pending []queued               // what opening has found, to be told by the next lines
	keeping []string               // files that were cut off the journal and that pending tells of
	partial []byte                 // what a write that failed may have left behind offset
	said    atomic.Pointer[string] // what was found wrong with it since this process began; nil: nothing
	progress
}

// queued is a line that has no place yet.
type queued struct {
	body []byte
	seq  int64
}

// append writes lines, with checkpoints between them as they are due. Of lines that
// could not be written nothing stays, as far as the file lets itself be cut off.
func (j *journal) append(lines []queued) error {
	if err := j.ready(); err != nil {
		return err
	}
	next, newest, now := j.progress.clone(), j.newest, j.now()
	var text []byte
	add := func(body []byte) {
		line := place(next.tree.size, next.prev, body)
		next.follow(line)
		text = append(append(text, line...), '\n')
	}
	sign := func() (err error) {
		if newest, err = j.signer.sign(next.tree, next.seq, now); err != nil {
			return err
		}
		body, err := json.Marshal(signedBody{KindCheckpoint, newest.Note})
		add(body)
		next.unsigned, next.signedAt = 0, now
		return err
	}
	if j.offset == 0 && next.tree.size > 0 || next.unsigned > 0 && now.Sub(next.signedAt) >= signEvery {
		if err := sign(); err != nil {
			return err
		}
	}
	for _, q := range slices.Concat(j.pending, lines) {
		if next.unsigned == 0 {
			next.signedAt = now // the time counts from here
		}
		add(q.body)
		next.seq = max(next.seq, q.seq)
		if next.unsigned++; next.unsigned >= maxUnsigned/2 {
			if err := sign(); err != nil {
				return err
			}
		}
	}
	if err := j.write(text); err != nil {
		return err
	}
	j.progress, j.newest, j.pending = next, newest, nil
	return nil
}

// confess has what opening found on disk before anything else is: until then the files
// that were cut off have names that tell the next start to find it again.
func (j *journal) confess() error {
	if len(j.pending) > 0 {
		if err := j.append(nil); err != nil {
			return err
		}
		if err := j.file.sync(); err != nil {
			return err
		}
	}
	return j.keepCuts()
}

// ready opens the file, or another segment, where that has to be.
func (j *journal) ready() error {
	if j.file == nil {
		if err := j.reopen(); err != nil {
			j.drop()
			return err
		}
	}
	if j.regular && j.offset > 0 && (j.fresh || j.offset >= j.maxSize.Load()) {
		return j.rotate()
	}
	return nil
}

func (j *journal) write(text []byte) error {
	n, err := j.file.Write(text)
	if err == nil {
		j.offset += int64(n)
		return nil
	}
	if j.regular && j.file.Truncate(j.offset) != nil {
		j.partial = text
		j.drop() // what is there is found out when it is opened again
	}
	return err
}

// drop closes the file, which is in an unknown state.
func (j *journal) drop() {
	if j.file != nil {
		_ = j.file.Close() // it has failed already
		j.file = nil
	}
}

// rotate gives the segment that is full its own name, and begins another.
func (j *journal) rotate() error {
	if err := j.file.sync(); err != nil && !j.fresh {
		j.drop()
		return err
	}
	j.file.whole.Store(!j.fresh)
	j.drop()
	if err := j.rename(); err != nil {
		return err
	}
	return j.create()
}

// create begins a segment where the journal has come to.
func (j *journal) create() error {
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := privatefile.SyncDir(filepath.Dir(j.path)); err != nil {
		return errors.Join(err, f.Close())
	}
	j.file, j.regular, j.fresh, j.first, j.offset = &file{File: f, regular: true}, true, false, j.tree.size, 0
	return nil
}

// moved tells whether the file at path is another than the one that is written.
func (j *journal) moved() bool {
	if j.file == nil {
		return false
	}
	here, err := j.file.Stat()
	there, statErr := os.Stat(j.path)
	return err == nil && (statErr != nil || !os.SameFile(here, there))
}

// file is one that is written by one goroutine and synced by another.
type file struct {
	*os.File
	regular bool
	whole   atomic.Bool // it was synced before it was closed
	failed  atomic.Bool // a sync of it has failed
}

var errUnsynced = errors.New("an earlier sync of the file has failed: what was written to it is in doubt")

// sync makes everything that was written outlive the machine's power. Where that has
// failed once it never succeeds again: the system forgets what it could not write.
func (f *file) sync() error {
	switch {
	case !f.regular:
		return nil
	case f.failed.Load():
		return errUnsynced
	}
	if err := f.Sync(); err != nil && !(errors.Is(err, os.ErrClosed) && f.whole.Load()) {
		f.failed.Store(true)
		return err
	}
	return nil
}

// close signs what is not signed yet, syncs and closes.
func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	var err error
	if j.unsigned > 0 || len(j.pending) > 0 {
		j.signedAt = time.Time{}
		err = j.append(nil)
	}
	if j.file == nil {
		return err
	}
	syncErr := j.file.sync()
	j.file.whole.Store(syncErr == nil)
	err = errors.Join(err, syncErr, j.file.Close())
	j.file = nil
	return err
}

// note is a line about the journal itself.
func (j *journal) note(action, outcome string, detail map[string]string) (queued, error) {
	text, err := body{AuditEvent: rotation.AuditEvent{At: j.now(), Kind: rotation.AuditStep, Actor: "keybroker", Action: action, Path: "sys/audit", Outcome: outcome, Detail: detail}}.encode()
	return queued{body: text}, err
}

// rename gives the segment its own name; never that of another.
func (j *journal) rename() error {
	to := segmentPath(j.path, j.first)
	if _, err := os.Lstat(to); err == nil {
		to = j.cutName(j.first)
	}
	return os.Rename(j.path, to)
}
