// Command build installs the OpenID provider that tests start, so that the time this
// takes on a fresh machine is not spent inside a test's time limit.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/keybroker/keybroker/broker/authn/oidcserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	built, err := oidcserver.Build(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, built.Dir, "on", built.Node)
}
