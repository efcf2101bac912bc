package privatefile_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/backends/privatefile"
)

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

// wantOnly wants one file of that name and text in dir, and nothing beside it.
func wantOnly(t *testing.T, dir, name, content string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Fatalf("%v in the directory, %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != content {
		t.Errorf("it holds %q, want %q (%v)", got, content, err)
	}
}

// TestWhatFailsIsNamedAsItWasGiven: nobody knows the name that it had meanwhile.
func TestWhatFailsIsNamedAsItWasGiven(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nowhere", "key")
	err := privatefile.Replace(path, text("x"))
	if !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), ".new-") || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
}

func TestCreateNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := privatefile.Create(path, text("first")); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, dir, "key", "first")
	if err := privatefile.Create(path, text("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	meanwhile := filepath.Join(t.TempDir(), "key")
	err := privatefile.Create(meanwhile, func(w io.Writer) error {
		return errors.Join(text("mine")(w), os.WriteFile(meanwhile, []byte("theirs"), 0o600))
	})
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file that came meanwhile: %v", err)
	}
	wantOnly(t, filepath.Dir(meanwhile), "key", "theirs")
	wantOnly(t, dir, "key", "first")
	if err := privatefile.Replace(path, text("second")); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, dir, "key", "second")
}

func TestAFailureLeavesWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	half := func(w io.Writer) error { return errors.Join(text("ha")(w), errors.New("no more")) }
	if err := privatefile.Create(path, half); err == nil {
		t.Error("half a file was made")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v is left, %v", entries, err)
	}
	if err := privatefile.Create(path, text("whole")); err != nil {
		t.Fatal(err)
	}
	if err := privatefile.Replace(path, half); err == nil {
		t.Error("half a file took the place of a whole one")
	}
	wantOnly(t, dir, "key", "whole")
	if err := privatefile.Create(filepath.Join(dir, "nosuch", "key"), text("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where there is no directory: %v", err)
	}
}

// Of many who create the same file at the same time one wins, and nobody ever sees
// a part of it.
func TestOneOfManyCreates(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	var all sync.WaitGroup
	won := make(chan string, 20)
	for i := range 20 {
		all.Go(func() {
			mine := fmt.Sprintf("key %02d", i)
			switch err := privatefile.Create(path, text(mine)); {
			case err == nil:
				won <- mine
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
			if got, err := os.ReadFile(path); err != nil || len(got) != len(mine) {
				t.Errorf("seen %q, %v", got, err)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Fatalf("%d have made it", len(won))
	}
	wantOnly(t, dir, "key", <-won)
}
