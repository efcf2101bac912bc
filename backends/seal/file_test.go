package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
)

func TestKeyFileIsCreatedOnceAndLoaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.key")
	if _, err := seal.LoadFile(path); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("loading no file: %v", err)
	}
	created, err := seal.CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || info.Size() != 32 {
		t.Errorf("created with mode %v and %d bytes", info.Mode(), info.Size())
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.CreateFile(path); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("creating it again: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("creating it again changed the key")
	}
	loaded, err := seal.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.ID() != created.ID() || loaded.ID() == newKey(t).ID() {
		t.Errorf("ids: %s when created, %s when loaded", created.ID(), loaded.ID())
	}
	sealed := mustSeal(t, newSealer(t, created))
	if got, err := newSealer(t, loaded).Open(t.Context(), sealed, ad); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("opening with the loaded key: %v", err)
	}
}

func TestKeyFileMustBePrivateAndWhole(t *testing.T) {
	key := []byte(strings.Repeat("k", 32))
	tests := []struct {
		name    string
		content []byte
		mode    os.FileMode
		says    string // empty: accepted
	}{
		{"private", key, 0o600, ""},
		{"read-only", key, 0o400, ""},
		{"group may read", key, 0o640, "chmod 600"},
		{"others may read", key, 0o604, "chmod 600"},
		{"group may write", key, 0o620, "chmod 600"},
		{"empty", nil, 0o600, "holds 0 bytes, not 32"},
		{"short", key[:31], 0o600, "holds 31 bytes, not 32"},
		{"with a line break", append(bytes.Clone(key), '\n'), 0o600, "holds 33 bytes, not 32"},
	}
	for _, tt := range tests {
		path := filepath.Join(t.TempDir(), "seal.key")
		if err := os.WriteFile(path, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		_, err := seal.LoadFile(path)
		if tt.says == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want one that says %q", tt.name, err, tt.says)
		}
	}
	if _, err := seal.LoadFile(t.TempDir()); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("a directory: %v", err)
	}
}

func TestKeyIsNeverPrinted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.key")
	raw := []byte("0123456789abcdef" + canary + "01234")
	if err := os.WriteFile(path, raw[:32], 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := seal.LoadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprint(key), fmt.Sprintf("%+v %#v %x %s %d %v", key, key, key, *key, key, *key), string(encoded)} {
		for _, form := range []string{canary, fmt.Sprintf("%x", canary), strings.Trim(fmt.Sprint([]byte(canary)), "[]")} {
			if strings.Contains(out, form) {
				t.Errorf("printed as %q", out)
			}
		}
	}
}
