package seal

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keybroker/keybroker/backends"
)

// File is a KEK of 32 random bytes in a file that only its owner can read.
// Whoever has that file and the sealed values has the secrets: keep it apart.
type File struct {
	id  string
	key [keySize]byte
}

var _ KEK = (*File)(nil)

// LoadFile reads a key file. ErrNotFound if there is none; ErrInvalid if others
// than its owner may read or write it, or if it does not hold exactly 32 bytes.
func LoadFile(path string) (*File, error) {
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
	k := &File{}
	if _, err := io.ReadFull(f, k.key[:]); err != nil {
		return nil, fmt.Errorf("reading the seal key: %w", err)
	}
	k.identify()
	return k, nil
}

// CreateFile makes a new key file of mode 0600 and returns once it is on disk.
// It never replaces a file: ErrConflict if there is one. Call it only where
// nothing has been sealed yet; a new key opens nothing old.
func CreateFile(path string) (*File, error) {
	k := &File{}
	rand.Read(k.key[:]) // never fails
	k.identify()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%w: %w", backends.ErrConflict, err)
		}
		return nil, fmt.Errorf("creating the seal key: %w", err)
	}
	_, err = f.Write(k.key[:])
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = os.Remove(path) // a short or volatile key is worse than none
		return nil, fmt.Errorf("creating the seal key: %w", err)
	}
	return k, nil
}

// syncDir makes the new name survive a power failure.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// identify derives the id from the key, so that the wrong file is told apart
// from damage. It gives nothing away that would help to find the key.
func (k *File) identify() {
	mac := hmac.New(sha256.New, k.key[:])
	mac.Write([]byte("keybroker seal key id"))
	k.id = "file:" + hex.EncodeToString(mac.Sum(nil)[:8])
}

// ID implements KEK.
func (k *File) ID() string { return k.id }

// String, and every other way of printing or encoding, gives the id, never the key.
func (k File) String() string               { return k.id }
func (k File) GoString() string             { return k.id }
func (k File) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, k.id) }
func (k File) MarshalText() ([]byte, error) { return []byte(k.id), nil }

// Wrap implements KEK.
func (k *File) Wrap(_ context.Context, dek, ad []byte) ([]byte, error) {
	return encrypt(k.key[:], nil, dek, ad), nil
}

// Unwrap implements KEK.
func (k *File) Unwrap(_ context.Context, wrapped, ad []byte) ([]byte, error) {
	return decrypt(k.key[:], wrapped, ad)
}
