// Command consumer is a runnable receiver of keybroker's webhooks. It says which
// version it got, never the key.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/examples/consumer/receiver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "consumer:", err)
		os.Exit(1)
	}
}

// run serves until the context ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("consumer", flag.ContinueOnError)
	flags.SetOutput(out)
	addr := flags.String("addr", "127.0.0.1:8410", "`address` to listen on")
	secretFile := flags.String("secret-file", "", "`file` that holds the webhook's signing secret, whsec_…")
	apply := flags.String("apply", "ack", `"ack": acknowledge each version as applied; "none": only as received`)
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *secretFile == "":
		return errors.New("-secret-file is missing")
	case *apply != "ack" && *apply != "none":
		return fmt.Errorf(`-apply is "ack" or "none", not %q`, *apply)
	}
	secret, err := os.ReadFile(*secretFile)
	if err != nil {
		return fmt.Errorf("reading the signing secret: %w", err)
	}
	handler, err := receiver.New(backends.SecretString(secret), receiver.Options{
		ReceiveOnly: *apply == "none",
		OnApply: func(_ context.Context, u receiver.Update) error {
			_, err := fmt.Fprintf(out, "using %s version %d generation %d (%s)\n",
				u.Secret, u.Version, u.Generation, strings.Join(u.Value.FieldNames(), ", "))
			return err
		},
	})
	if err != nil {
		return err
	}
	return serve(ctx, *addr, handler, out)
}

func serve(ctx context.Context, addr string, handler http.Handler, out io.Writer) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	if _, err := fmt.Fprintf(out, "listening on http://%s\n", listener.Addr()); err != nil {
		return errors.Join(err, server.Close(), <-failed)
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = server.Shutdown(grace)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
