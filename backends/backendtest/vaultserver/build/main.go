// Command build compiles the Vault core that tests start, so that the minutes
// this takes on a fresh machine are not spent inside a test's time limit.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	path, err := vaultserver.Build(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(path)
}
