// Package pinned installs programs of Python and Node.js that tests run, in the
// versions that their lock files pin, in the user's cache directory.
package pinned

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// once has a folder filled by install, unless that was done before with the same
// pinned. Processes that want it at the same time wait for one of them.
func once(ctx context.Context, name string, pinned []byte, install func(ctx context.Context, dir string) error) (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	base := filepath.Join(cache, "keybroker-test")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", err
	}
	sum := sha256.Sum256(pinned)
	dir = filepath.Join(base, name+"-"+hex.EncodeToString(sum[:8]))
	finished := filepath.Join(dir, "finished")
	if exists(finished) {
		return dir, nil
	}
	lock := flock.New(filepath.Join(base, name+".lock"))
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return "", fmt.Errorf("waiting for another installation of %s: %w", name, err)
	}
	defer func() { _ = lock.Unlock() }()
	if exists(finished) {
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil { // it was left by one that was cut short
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := install(ctx, dir); err != nil {
		return "", fmt.Errorf("installing %s in %s: %w", name, dir, err)
	}
	return dir, os.WriteFile(finished, nil, 0o600)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// run runs a command in a folder; the error has what it said.
func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, errors.Join(err, ctx.Err()), out)
	}
	return nil
}
