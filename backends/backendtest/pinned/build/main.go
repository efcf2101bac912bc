// Command build installs what tests run programs of Python and Node.js with, so that
// the time this takes on a fresh machine is not spent inside a test's time limit:
//
//	build NAME requirements.txt|package.json…
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/keybroker/keybroker/backends/backendtest/pinned"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: build NAME requirements.txt|package.json…")
		os.Exit(2)
	}
	for _, file := range os.Args[2:] {
		where, err := install(ctx, os.Args[1], file)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stdout, where)
	}
}

func install(ctx context.Context, name, file string) (string, error) {
	pins, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if filepath.Base(file) != "package.json" {
		return pinned.Python(ctx, name, pins)
	}
	lock, err := os.ReadFile(filepath.Join(filepath.Dir(file), "package-lock.json"))
	if err != nil {
		return "", err
	}
	modules, err := pinned.Node(ctx, name, pins, lock)
	return modules.Dir, err
}
