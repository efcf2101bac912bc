package oidcserver

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

//go:embed package.json
var manifest []byte

//go:embed package-lock.json
var lockfile []byte

// Build returns the folder that has the provider's modules installed, installing
// them unless this machine has them already: in the user's cache directory, under a
// hash of their pinned versions. Processes that want them at the same time wait for
// one of them.
func Build(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	base := filepath.Join(cache, "keybroker-test")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", err
	}
	sum := sha256.Sum256(lockfile)
	dir := filepath.Join(base, "oidc-"+hex.EncodeToString(sum[:8]))
	finished := filepath.Join(dir, "finished")
	if exists(finished) {
		return dir, nil
	}
	lock := flock.New(filepath.Join(base, "oidc.lock"))
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return "", fmt.Errorf("waiting for another installation of the OpenID provider: %w", err)
	}
	defer func() { _ = lock.Unlock() }()
	if exists(finished) {
		return dir, nil
	}
	if err := install(ctx, dir); err != nil {
		return "", err
	}
	return dir, os.WriteFile(finished, nil, 0o600)
}

// install starts from nothing: what is there was left by one that was cut short.
func install(ctx context.Context, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"package.json": manifest, "package-lock.json": lockfile} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("installing the OpenID provider in %s by npm, which comes with Node.js 20 or newer (or run make deps): %w\n%s",
			dir, errors.Join(err, ctx.Err()), out)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
