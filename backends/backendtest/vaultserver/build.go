package vaultserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/gofrs/flock"
)

// Build returns the path of the core's binary, building it unless this machine
// has it already: a cold build takes minutes, so it is kept in the user's cache
// directory under a hash of its sources. Processes that want it at the same
// time wait for one of them.
func Build(ctx context.Context) (string, error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	version, err := sourceHash(source)
	if err != nil {
		return "", fmt.Errorf("hashing the sources of the Vault core: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "keybroker-test")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "vaultcore-"+version)
	if exists(binary) {
		return binary, nil
	}
	lock := flock.New(filepath.Join(dir, "vaultcore.lock"))
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return "", fmt.Errorf("waiting for another build of the Vault core: %w", err)
	}
	defer func() { _ = lock.Unlock() }()
	if exists(binary) {
		return binary, nil
	}
	return binary, compile(ctx, source, binary)
}

// compile builds beside the target and renames, so that a build cut short
// leaves nothing that looks finished.
func compile(ctx context.Context, source, binary string) error {
	unfinished := binary + ".unfinished"
	defer func() { _ = os.Remove(unfinished) }()
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w", "-o", unfinished, ".")
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the Vault core in %s: %w\n%s", source, errors.Join(err, ctx.Err()), out)
	}
	return os.Rename(unfinished, binary)
}

// sourceDir finds the core's module beside this file.
func sourceDir() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	dir := filepath.Join(filepath.Dir(file), "core")
	if !ok || !exists(filepath.Join(dir, "go.mod")) {
		return "", fmt.Errorf("the sources of the Vault core are not at %s: run the tests in their checkout and without -trimpath", dir)
	}
	return dir, nil
}

// sourceHash names what the binary is made of, the compiler included.
func sourceHash(dir string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, pattern := range []string{"*.go", "go.mod", "go.sum"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern)) // sorted
		if err != nil {
			return "", err
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			fmt.Fprintln(h, filepath.Base(file), len(content))
			h.Write(content)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
