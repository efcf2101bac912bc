package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
)

// Restore puts a snapshot in the place of a database that no process has open.
type Restore struct {
	Path    string // of the database
	Replace bool   // also where there is one: it is kept aside
	// Check looks at the copy, migrated, before it is put in place: its error ends
	// the restore, and nothing has changed.
	Check  func(ctx context.Context, db *DB) error
	Logger hclog.Logger     // nil: none
	Now    func() time.Time // nil: time.Now
}

// Put is what a Restore has done.
type Put struct {
	Snapshot   Header
	RestoredAt time.Time
	KeptAs     string // where the database that was there is now; empty: there was none
}

// The names beside a database while a snapshot is put in its place. What is being
// written and checked is unpacking; ready is the whole of it, checked, from the moment
// on from which the database may be in no state to be opened.
const (
	unpackingSuffix = ".unpacking"
	readySuffix     = ".restoring"
)

// unfinishedRestore refuses data of which a restore was cut off: what is there may
// lack its log of writes, or be gone.
func unfinishedRestore(path string) error {
	if _, err := os.Stat(path + readySuffix); err != nil {
		return nil //nolint:nilerr // there is none
	}
	return fmt.Errorf("%w: a restore to %s was cut off: run `keybroker storage restore` again", backends.ErrConflict, path)
}

// Run restores from a snapshot. ErrConflict if a process has the data open, or there
// is some and Replace is not set; ErrInvalid if from is no whole snapshot, or of a
// newer version. After an error nothing has changed, or else the data cannot be opened
// until Run has succeeded.
func (r Restore) Run(ctx context.Context, from io.Reader) (put Put, err error) {
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.Path, err = filepath.Abs(r.Path); err != nil {
		return put, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	if err := os.MkdirAll(filepath.Dir(r.Path), 0o700); err != nil {
		return put, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	lock, err := lockData(r.Path)
	if err != nil {
		return put, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if info, err := os.Stat(r.Path); err == nil && info.Size() > 0 && !r.Replace {
		return put, fmt.Errorf("%w: there is a database at %s: --force keeps it aside and puts the snapshot in its place", backends.ErrConflict, r.Path)
	}
	put.RestoredAt = r.Now().UTC()
	if put.Snapshot, err = r.unpack(ctx, from, put.RestoredAt); err != nil {
		return put, errors.Join(err, discard(r.Path+unpackingSuffix))
	}
	put.KeptAs, err = r.swap(put.RestoredAt)
	return put, err
}

// unpack makes the copy, marks it as restored and checks it.
func (r Restore) unpack(ctx context.Context, from io.Reader, at time.Time) (h Header, err error) {
	name := r.Path + unpackingSuffix
	if err := discard(name); err != nil {
		return h, err
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return h, storageError(err)
	}
	h, err = ReadSnapshot(from, file)
	if err = errors.Join(err, storageError(file.Close())); err != nil {
		return h, err
	}
	db, err := r.open(ctx, name, h)
	if err != nil {
		return h, err
	}
	err = db.Update(ctx, func(tx *Tx) error { // before anything else numbers an event
		mark, err := tx.restoredFrom(ctx, h, at)
		if err != nil {
			return err
		}
		return tx.SetRestored(ctx, &mark)
	})
	if err == nil {
		err = r.Check(ctx, db)
	}
	if err = errors.Join(err, db.Close(context.WithoutCancel(ctx))); err != nil {
		return h, err
	}
	return h, wholeFile(name)
}

// open opens the copy as the database of this version, and looks through all of it.
func (r Restore) open(ctx context.Context, name string, h Header) (*DB, error) {
	known, err := newestMigration()
	if err != nil {
		return nil, err
	}
	if h.Schema > known {
		return nil, fmt.Errorf("%w: the snapshot is of schema %d, and this version of keybroker knows %d: restore it with the version that made it, or a newer one", backends.ErrInvalid, h.Schema, known)
	}
	db, err := Open(ctx, Config{SQLitePath: name, Logger: r.Logger, Now: r.Now})
	if err != nil {
		return nil, err
	}
	if err := integrity(ctx, db.driver); err != nil {
		return nil, errors.Join(err, db.Close(context.WithoutCancel(ctx)))
	}
	return db, nil
}

// integrity looks through the whole database for damage.
func integrity(ctx context.Context, d driver) error {
	var said string
	if err := d.single().queryRow(ctx, "PRAGMA quick_check(1)").Scan(&said); err != nil {
		return fmt.Errorf("checking the database: %w", err)
	}
	if said != "ok" {
		return fmt.Errorf("%w: the database in the snapshot is damaged", backends.ErrInvalid)
	}
	return nil
}

// wholeFile makes sure that a closed database is all in its one file, on the disk.
func wholeFile(name string) error {
	if info, err := os.Stat(name + "-wal"); err == nil && info.Size() > 0 {
		return fmt.Errorf("%w: SQLite has left a part of %s in its log", backends.ErrUnavailable, name)
	}
	return errors.Join(storageError(syncFile(name)), removeAll(name+"-wal", name+"-shm", name+".lock"))
}

// syncFile makes what a file holds, and its times, outlive a power failure.
func syncFile(name string) error {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// swap puts the checked copy in place. From its first step to its last the data
// cannot be opened by anybody, so that none sees half of it: see unfinishedRestore.
func (r Restore) swap(at time.Time) (keptAs string, err error) {
	dir := filepath.Dir(r.Path)
	aside, err := r.ready(at)
	if err != nil {
		return "", storageError(err)
	}
	for _, suffix := range []string{"", "-wal"} { // together they are the old state, whatever it was
		if err := os.Rename(r.Path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", storageError(err)
		}
	}
	if err := errors.Join(removeAll(r.Path+"-shm"), syncDir(dir)); err != nil {
		return "", err
	}
	if _, err := os.Stat(aside); err == nil {
		keptAs = aside
	}
	return keptAs, storageError(errors.Join(os.Rename(r.Path+readySuffix, r.Path), syncDir(dir)))
}

// ready makes the checked copy the one that is to be put in place, and names the old
// state. The name is from the time of the copy's file, which passes to the next copy
// if the restore is cut off: what was moved by then, and what was not, stay together.
func (r Restore) ready(at time.Time) (aside string, err error) {
	if info, err := os.Stat(r.Path + readySuffix); err == nil {
		at = info.ModTime()
	}
	copied := r.Path + unpackingSuffix
	if err := errors.Join(os.Chtimes(copied, at, at), syncFile(copied)); err != nil {
		return "", err
	}
	info, err := os.Stat(copied) // a file system may keep times less exactly
	if err != nil {
		return "", err
	}
	aside = fmt.Sprintf("%s.before-%s", r.Path, info.ModTime().UTC().Format("20060102T150405.000000Z"))
	return aside, errors.Join(os.Rename(copied, r.Path+readySuffix), syncDir(filepath.Dir(r.Path)))
}

// discard removes a copy with what SQLite and the lock left beside it.
func discard(name string) error {
	return removeAll(name, name+"-wal", name+"-shm", name+"-journal", name+".lock")
}
