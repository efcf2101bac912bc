// Package privatefile writes files that only their owner can read, each wholly and
// so that it outlives a power failure, or not at all.
package privatefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Create makes a file of mode 0600 of what write gives. It never replaces one:
// fs.ErrExist if there is one, also if it came to be there meanwhile. What goes wrong
// leaves nothing, unless all that failed is to make sure of the name.
func Create(path string, write func(io.Writer) error) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("writing %s: %w", path, fs.ErrExist)
	}
	return put(path, os.Link, write)
}

// Replace is Create that replaces the file, if there is one.
func Replace(path string, write func(io.Writer) error) error { return put(path, os.Rename, write) }

// put has a file written under another name, and place give it its own.
func put(path string, place func(from, to string) error, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // of mode 0600
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		err = failed.Err // its other name says nothing to whoever gave the path
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if rmErr := os.Remove(f.Name()); !errors.Is(rmErr, fs.ErrNotExist) { // renamed
			err = errors.Join(err, rmErr)
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = place(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := SyncDir(dir); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// SyncDir makes the names that were given in a directory outlive a power failure.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
