// Command build installs moto, which tests start as their AWS, so that the
// minute this takes on a fresh machine is not spent inside a test's time limit.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	python, err := motoserver.Build(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, python)
}
