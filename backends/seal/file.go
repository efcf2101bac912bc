package seal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/privatefile"
)

// TypeFile is the type of seals that are a file.
const TypeFile = "file"

// File is a seal of 32 random bytes in a file that only its owner can read. It reads
// them each time that they are needed, so that a file which is lost or replaced is
// known before the next start needs it.
// Whoever has that file and the database has the secrets: keep it apart.
type File struct {
	id   string
	path string
}

var _ Seal = (*File)(nil)

// LoadFile makes a seal of a key file. ErrNotFound if there is none; ErrInvalid if
// others than its owner may read or write it, or if it does not hold exactly 32 bytes.
func LoadFile(path string) (*File, error) {
	key, err := readKey(path)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return &File{id: fileID(key), path: path}, nil
}

// CreateFile makes a new key file of mode 0600, and its directory, and returns once
// it is on disk. It never replaces a file: ErrConflict if there is one. Call it only
// where nothing has been sealed yet; a new key opens nothing old.
func CreateFile(path string) (*File, error) {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails
	defer clear(key)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = privatefile.Create(path, func(w io.Writer) error {
			_, err := w.Write(key)
			return err
		})
	}
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%w: %w", backends.ErrConflict, err)
	}
	if err != nil {
		return nil, fmt.Errorf("creating the seal key: %w", err)
	}
	return &File{id: fileID(key), path: path}, nil
}

func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", backends.ErrNotFound, err)
		}
		return nil, fmt.Errorf("opening the seal key: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat() // of what is open, not of what the path names by now
	if err != nil {
		return nil, fmt.Errorf("opening the seal key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: the seal key %s is not a regular file", backends.ErrInvalid, path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%w: the seal key %s has mode %04o, so others than its owner have access: chmod 600 it", backends.ErrInvalid, path, mode)
	}
	if info.Size() != keySize {
		return nil, fmt.Errorf("%w: the seal key %s holds %d bytes, not %d: it is no key, or was cut short", backends.ErrInvalid, path, info.Size(), keySize)
	}
	key := make([]byte, keySize)
	if _, err := io.ReadFull(f, key); err != nil {
		return nil, fmt.Errorf("reading the seal key: %w", err)
	}
	return key, nil
}

// fileID derives the id from the key, so that the wrong file is told apart from
// damage. It gives nothing away that would help to find the key.
func fileID(key []byte) string {
	return TypeFile + ":" + derivedID(key, "keybroker seal key id")[:idSize]
}

// ID implements Seal.
func (f *File) ID() string { return f.id }

// Path is where the key is.
func (f *File) Path() string { return f.path }

// Wrap implements Seal.
func (f *File) Wrap(_ context.Context, id string, kek []byte) ([]byte, error) {
	return f.use(func(key []byte) ([]byte, error) { return encrypt(aead(key), nil, kek, bindKEK(id)), nil })
}

// Unwrap implements Seal.
func (f *File) Unwrap(_ context.Context, id string, wrapped []byte) ([]byte, error) {
	return f.use(func(key []byte) ([]byte, error) { return decrypt(aead(key), wrapped, bindKEK(id)) })
}

// use calls fn with the key, if the file is still what it was. ErrUnavailable else,
// whatever became of the file: it may be put back.
func (f *File) use(fn func(key []byte) ([]byte, error)) ([]byte, error) {
	key, err := readKey(f.path)
	if err != nil {
		return nil, fmt.Errorf("%w: the seal key cannot be read any more: %v", backends.ErrUnavailable, err)
	}
	defer clear(key)
	if id := fileID(key); id != f.id {
		return nil, fmt.Errorf("%w: %s holds another key by now, %s: put back the one that was there", backends.ErrUnavailable, f.path, id)
	}
	return fn(key)
}

// bindKEK is what a wrapped KEK is bound to.
func bindKEK(id string) []byte { return []byte("keybroker key-encryption key 1 " + id) }
