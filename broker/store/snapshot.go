package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/privatefile"
)

// A snapshot is one file:
//
//	snapshotMagic
//	Header as JSON, and a line feed
//	the database, Header.Size bytes: one SQLite file without a log beside it
//	32 bytes SHA-256 of all that comes before
//
// Its length is known from its beginning and its end proves the whole, so that one
// which was cut off, or damaged, is told before anything is done with it. It is no
// proof of origin: who can write the file can write the digest. What it holds of
// secret values is sealed, as in the database.
const snapshotMagic = "keybroker snapshot 1\n"

// maxSnapshotHeader bounds the bytes that are looked through for a header's end.
const maxSnapshotHeader = 4096

// Header is what a snapshot says of itself.
type Header struct {
	ID     string    `json:"id"`
	At     time.Time `json:"at"`     // nothing that was committed before is missing in it
	Schema int64     `json:"schema"` // number of the newest migration
	Size   int64     `json:"size"`   // of the database, in bytes
}

// Snapshot is a consistent copy of the database at one instant, to be written
// somewhere by WriteTo, once, and closed.
type Snapshot struct {
	Header
	head  []byte // magic and header as they are written
	file  *os.File
	close func() error // once
}

// Snapshot copies the database while it works: writers go on, and no value is
// unsealed. The copy takes as much room beside the database, until it is closed,
// as the data it holds; so there is one at a time. ErrUnsupported on PostgreSQL, which
// has tools of its own; ErrUnavailable while another snapshot is not closed.
func (db *DB) Snapshot(ctx context.Context) (*Snapshot, error) {
	d, ok := db.driver.(*sqliteDriver)
	if !ok {
		return nil, fmt.Errorf("%w: the state is in PostgreSQL: back it up with pg_dump or a base backup; a node notices after a restore that commits are missing, and freezes", backends.ErrUnsupported)
	}
	s, err := d.snapshot(ctx, db.now().UTC())
	if err != nil {
		return nil, fmt.Errorf("making a snapshot: %w", err)
	}
	return s, nil
}

func (d *sqliteDriver) snapshot(ctx context.Context, at time.Time) (_ *Snapshot, err error) {
	if !d.copying.TryLock() {
		return nil, fmt.Errorf("%w: another snapshot is being made; each takes as much room as the data, so there is one at a time", backends.ErrUnavailable)
	}
	s := &Snapshot{Header: Header{ID: uuid.Must(uuid.NewV7()).String(), At: at}}
	s.close = sync.OnceValue(func() error {
		defer d.copying.Unlock()
		if s.file == nil {
			return nil
		}
		return s.file.Close()
	})
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.Schema, err = newestMigration(); err != nil {
		return nil, err
	}
	if s.file, s.Size, err = d.copyOut(ctx); err != nil {
		return nil, err
	}
	text, err := json.Marshal(s.Header)
	if err != nil {
		return nil, err
	}
	s.head = append(append([]byte(snapshotMagic), text...), '\n')
	return s, nil
}

// Length is how many bytes WriteTo writes.
func (s *Snapshot) Length() int64 { return int64(len(s.head)) + s.Size + sha256.Size }

// WriteTo implements io.WriterTo.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, sum), io.MultiReader(bytes.NewReader(s.head), s.file))
	if err == nil && n != int64(len(s.head))+s.Size {
		err = fmt.Errorf("%w: the copy of the database has changed", backends.ErrInvalid)
	}
	if err != nil {
		return n, fmt.Errorf("writing a snapshot: %w", err)
	}
	m, err := w.Write(sum.Sum(nil))
	if err != nil {
		err = fmt.Errorf("writing a snapshot: %w", err)
	}
	return n + int64(m), err
}

// Close gives the copy's room back, and the next snapshot its turn. It is idempotent.
func (s *Snapshot) Close() error { return s.close() }

// copyOut copies the database to a file that nobody else can open and that is gone
// when it is closed. VACUUM INTO reads one consistent state, under which writers go
// on, and leaves out what was deleted.
func (d *sqliteDriver) copyOut(ctx context.Context) (file *os.File, size int64, err error) {
	name := d.path + ".snapshot"
	if err := removeAll(name, name+"-journal"); err != nil { // of a process that was killed
		return nil, 0, err
	}
	if file, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil { // SQLite fills an empty file
		return nil, 0, storageError(err)
	}
	defer func() {
		err = errors.Join(err, removeAll(name, name+"-journal"))
		if err != nil {
			err = errors.Join(err, file.Close())
			file = nil
		}
	}()
	pool := sql.OpenDB(d.writer.connector) // a connection of its own: it waits for no writer, and keeps none waiting
	_, err = pool.ExecContext(ctx, "VACUUM INTO $1", name)
	if err = errors.Join(sqliteError(err), sqliteError(pool.Close())); err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, storageError(err)
	}
	return file, info.Size(), nil
}

// ReadSnapshot reads a whole snapshot from r and writes the database in it to w.
// What it wrote is good for nothing unless it returns nil: ErrInvalid if r is no
// snapshot, or was cut off or damaged.
func ReadSnapshot(r io.Reader, w io.Writer) (Header, error) {
	sum := sha256.New()
	h, err := readHeader(r, sum)
	if err != nil {
		return h, err
	}
	switch n, err := io.CopyN(io.MultiWriter(w, sum), r, h.Size); {
	case errors.Is(err, io.EOF):
		return h, fmt.Errorf("%w: the snapshot was cut off: it holds %d of %d bytes of the database", backends.ErrInvalid, n, h.Size)
	case err != nil:
		return h, fmt.Errorf("reading the snapshot: %w", storageError(err))
	}
	var want [sha256.Size + 1]byte // one more than there may be
	switch n, err := io.ReadFull(r, want[:]); {
	case err == nil:
		return h, fmt.Errorf("%w: there is more after the end of the snapshot", backends.ErrInvalid)
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return h, fmt.Errorf("reading the snapshot: %w", storageError(err))
	case n < sha256.Size:
		return h, fmt.Errorf("%w: the snapshot was cut off: its digest is missing", backends.ErrInvalid)
	}
	if !bytes.Equal(sum.Sum(nil), want[:sha256.Size]) {
		return h, fmt.Errorf("%w: the snapshot is damaged: its digest is another", backends.ErrInvalid)
	}
	return h, nil
}

// readHeader reads up to the end of the header and no byte more.
func readHeader(r io.Reader, sum hash.Hash) (h Header, err error) {
	r = io.TeeReader(r, sum)
	magic := make([]byte, len(snapshotMagic))
	switch _, err := io.ReadFull(r, magic); {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || err == nil && string(magic) != snapshotMagic:
		return h, fmt.Errorf("%w: it is no snapshot that `keybroker storage snapshot` of this version has made", backends.ErrInvalid)
	case err != nil:
		return h, fmt.Errorf("reading the snapshot: %w", storageError(err))
	}
	var text []byte
	for one := make([]byte, 1); one[0] != '\n'; text = append(text, one[0]) {
		if _, err := io.ReadFull(r, one); err != nil || len(text) == maxSnapshotHeader {
			return h, fmt.Errorf("%w: the snapshot was cut off within its header", backends.ErrInvalid)
		}
	}
	if err := json.Unmarshal(text, &h); err != nil || h.ID == "" || h.At.IsZero() || h.Size <= 0 {
		return h, fmt.Errorf("%w: the header of the snapshot is damaged", backends.ErrInvalid)
	}
	return h, nil
}

// storageError gives an error of the file system its class.
func storageError(err error) error {
	if err == nil || backends.Class(err) != nil {
		return err
	}
	return fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
}

// removeAll removes files that need not exist.
func removeAll(names ...string) error {
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return storageError(err)
		}
	}
	return nil
}

// syncDir makes names that were given in a directory outlive a power failure.
func syncDir(dir string) error { return storageError(privatefile.SyncDir(dir)) }
