package pinned

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Python returns a Python that has installed what requirements (a requirements.txt in
// which every version is pinned) names: in a virtual environment of its own, for each
// Python that one is made with.
func Python(ctx context.Context, name string, requirements []byte) (python string, err error) {
	version, err := pythonVersion(ctx)
	if err != nil {
		return "", err
	}
	dir, err := once(ctx, name, append(version, requirements...), func(ctx context.Context, dir string) error {
		return installPython(ctx, dir, requirements)
	})
	return inEnvironment(dir), err
}

func inEnvironment(dir string) string { return filepath.Join(dir, "bin", "python") }

// pythonVersion is everything that a virtual environment depends on.
func pythonVersion(ctx context.Context) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "python3", "-c",
		"import sys, venv, ensurepip; assert sys.version_info >= (3, 10); print(sys.version, sys.base_prefix)").Output()
	if err != nil {
		return nil, fmt.Errorf("looking for python3, 3.10 or newer, with its modules venv and ensurepip "+
			"(Debian: apt-get install python3-venv; or run make deps): %w", errors.Join(err, ctx.Err()))
	}
	return out, nil
}

func installPython(ctx context.Context, dir string, requirements []byte) error {
	if err := run(ctx, "", "python3", "-m", "venv", dir); err != nil {
		return err
	}
	list := filepath.Join(dir, "requirements.txt")
	if err := os.WriteFile(list, requirements, 0o600); err != nil {
		return err
	}
	return run(ctx, "", inEnvironment(dir), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "-r", list)
}
