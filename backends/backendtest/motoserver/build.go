package motoserver

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

//go:embed requirements.txt
var requirements []byte

// Build returns the Python that has moto installed, installing it unless this
// machine has it already: in a virtual environment of its own in the user's
// cache directory, under a hash of the pinned requirements and the Python that
// it is made with. Processes that want it at the same time wait for one of them.
func Build(ctx context.Context) (string, error) {
	version, err := pythonVersion(ctx)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	base := filepath.Join(cache, "keybroker-test")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte(version), requirements...))
	dir := filepath.Join(base, "moto-"+hex.EncodeToString(sum[:8]))
	python, finished := filepath.Join(dir, "bin", "python"), filepath.Join(dir, "finished")
	if exists(finished) {
		return python, nil
	}
	lock := flock.New(filepath.Join(base, "moto.lock"))
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return "", fmt.Errorf("waiting for another installation of moto: %w", err)
	}
	defer func() { _ = lock.Unlock() }()
	if exists(finished) {
		return python, nil
	}
	if err := install(ctx, dir, python); err != nil {
		return "", err
	}
	return python, os.WriteFile(finished, nil, 0o600)
}

// pythonVersion is everything that a virtual environment depends on.
func pythonVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "python3", "-c",
		"import sys, venv, ensurepip; assert sys.version_info >= (3, 10); print(sys.version, sys.base_prefix)").Output()
	if err != nil {
		return "", fmt.Errorf("looking for python3, 3.10 or newer, with its modules venv and ensurepip "+
			"(Debian: apt-get install python3-venv; or run make deps): %w", errors.Join(err, ctx.Err()))
	}
	return string(out), nil
}

// install starts from nothing: what is there was left by one that was cut short.
func install(ctx context.Context, dir, python string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	run := func(name string, args ...string) error {
		if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("installing moto in %s: %s %v: %w\n%s", dir, name, args, errors.Join(err, ctx.Err()), out)
		}
		return nil
	}
	if err := run("python3", "-m", "venv", dir); err != nil {
		return err
	}
	list := filepath.Join(dir, "requirements.txt")
	if err := os.WriteFile(list, requirements, 0o600); err != nil {
		return err
	}
	return run(python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "-r", list)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
