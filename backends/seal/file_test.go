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
	if loaded.ID() != created.ID() || loaded.ID() == newFile(t).ID() {
		t.Errorf("ids: %s when created, %s when loaded", created.ID(), loaded.ID())
	}
	kek := seal.NewKEK()
	wrapped, err := kek.WrapBy(t.Context(), created)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.UnwrapKEK(t.Context(), loaded, kek.ID(), wrapped); err != nil {
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
	encoded, err := json.Marshal(map[string]any{"key": key})
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprint(key), fmt.Sprintf("%+v %#v %x %s %v", key, key, key, *key, *key), string(encoded)} {
		for _, form := range []string{canary, fmt.Sprintf("%x", canary), strings.Trim(fmt.Sprint([]byte(canary)), "[]")} {
			if strings.Contains(out, form) {
				t.Errorf("printed as %q", out)
			}
		}
	}
}

// A running broker has the seal, whose file is looked at each time: what became of it
// is known before the next start fails.
func TestLostOrReplacedKeyFileIsNoticed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	s, err := seal.CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kek := seal.NewKEK()
	wrapped, err := kek.WrapBy(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what, says string
		become     func() error
	}{
		{"gone", "no such file", func() error { return os.Remove(path) }},
		{"cut short", "holds 31 bytes", func() error { return os.WriteFile(path, key[:31], 0o600) }},
		{"replaced", "holds another key", func() error { return os.WriteFile(path, bytes.Repeat([]byte{7}, 32), 0o600) }},
		{"open to others", "chmod 600", func() error { return errors.Join(os.WriteFile(path, key, 0o600), os.Chmod(path, 0o640)) }},
		{"put back", "", func() error { return os.Chmod(path, 0o600) }},
	} {
		if err := test.become(); err != nil {
			t.Fatal(err)
		}
		_, wrapErr := kek.WrapBy(t.Context(), s)
		_, unwrapErr := seal.UnwrapKEK(t.Context(), s, kek.ID(), wrapped)
		for how, err := range map[string]error{"wrapping": wrapErr, "unwrapping": unwrapErr} {
			switch {
			case test.says == "" && err != nil:
				t.Errorf("%s, %s: %v", test.what, how, err)
			case test.says != "" && (backends.Class(err) != backends.ErrUnavailable || !strings.Contains(err.Error(), test.says)):
				t.Errorf("%s, %s: %v, want one that is unavailable and says %q", test.what, how, err, test.says)
			}
		}
	}
}
