package oidcserver

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

//go:embed package.json
var manifest []byte

//go:embed package-lock.json
var lockfile []byte

// Built is what was installed.
type Built struct {
	Node    string // the program
	Modules string // the folder that has the provider's modules
}

// Build installs the provider's modules, unless this machine has them already, and a
// Node.js where the system has none that would do: in the user's cache directory, under
// hashes of what is pinned.
func Build(ctx context.Context) (Built, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return Built{}, err
	}
	base := filepath.Join(cache, "keybroker-test")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return Built{}, err
	}
	n, err := findNode(ctx, base)
	if err != nil {
		return Built{}, err
	}
	modules, err := once(ctx, base, "oidc", lockfile, n.installModules)
	if err != nil {
		return Built{}, fmt.Errorf("installing the OpenID provider: %w", err)
	}
	return Built{Node: n.bin, Modules: modules}, nil
}

// once has a folder below base filled by install, unless that was done before with the
// same pinned. Processes that want it at the same time wait for one of them.
func once(ctx context.Context, base, name string, pinned []byte, install func(ctx context.Context, dir string) error) (dir string, err error) {
	sum := sha256.Sum256(pinned)
	dir = filepath.Join(base, name+"-"+hex.EncodeToString(sum[:8]))
	finished := filepath.Join(dir, "finished")
	if exists(finished) {
		return dir, nil
	}
	lock := flock.New(filepath.Join(base, name+".lock"))
	if _, err := lock.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return "", fmt.Errorf("waiting for another installation of the same: %w", err)
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
		return "", err
	}
	return dir, os.WriteFile(finished, nil, 0o600)
}

func (n node) installModules(ctx context.Context, dir string) error {
	for name, content := range map[string][]byte{"package.json": manifest, "package-lock.json": lockfile} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	args := append(n.npm[1:len(n.npm):len(n.npm)], "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	return run(ctx, dir, n.npm[0], args...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
