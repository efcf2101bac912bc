// Command consumer is a runnable receiver of keybroker's messages, by webhook or from
// its inbox. It says which version it got, never the key.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
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
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "consumer:", err)
		os.Exit(1)
	}
}

// maxHeader is for a receiver: who sends nothing genuine is not to fill the memory.
const maxHeader = 16 << 10

// settings are what the flags say.
type settings struct {
	addr, secretFile, keyFile, apply string
	inbox                            bool
	receiver.Options
}

func parse(args []string, out io.Writer) (s settings, err error) {
	flags := flag.NewFlagSet("consumer", flag.ContinueOnError)
	flags.SetOutput(out)
	host, _ := os.Hostname()
	flags.StringVar(&s.addr, "addr", "127.0.0.1:8410", "`address` to listen on")
	flags.BoolVar(&s.inbox, "inbox", false, "collect from the inbox at the broker instead of listening")
	flags.StringVar(&s.Consumer, "consumer", "", "our `name` in the broker's configuration")
	flags.StringVar(&s.Broker, "broker", "http://127.0.0.1:8400", "`URL` of the broker")
	flags.StringVar(&s.TokenFile, "token-file", "", "`file` with a token of the consumer's role, for values by reference and the inbox; read for each call")
	flags.StringVar(&s.secretFile, "secret-file", "", "`file` with the signing secret, whsec_…; none: the broker's public keys are fetched")
	flags.StringVar(&s.keyFile, "key-file", "", "`file` with the private keys (JWK, JWK set or PEM) that messages are sealed to")
	flags.StringVar(&s.Instance, "instance", host, "`name` of this one of several instances, the same after a restart")
	flags.DurationVar(&s.KeyInterval, "key-interval", time.Minute, "`time` for which the broker is not asked for its public keys again")
	flags.StringVar(&s.apply, "apply", "ack", `"ack": acknowledge each version as applied; "none": only as received`)
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	switch {
	case flags.NArg() > 0:
		return s, errors.New("there are arguments that are no flags")
	case s.secretFile == "" && s.Consumer == "":
		return s, errors.New("-consumer is missing, or -secret-file")
	case s.apply != "ack" && s.apply != "none":
		return s, fmt.Errorf(`-apply is "ack" or "none", not %q`, s.apply)
	}
	return s, nil
}

// run serves, or collects, until the context ends.
func run(ctx context.Context, args []string, out, log io.Writer) error {
	s, err := parse(args, out)
	if err != nil {
		return err
	}
	signing, err := read("the signing secret", s.secretFile)
	if err != nil {
		return err
	}
	keys, err := read("the keys", s.keyFile)
	if err != nil {
		return err
	}
	if s.keyFile != "" {
		if s.Keys, err = receiver.ReadKeys([]byte(keys.Reveal())); err != nil {
			return err
		}
	}
	s.ReceiveOnly = s.apply == "none"
	s.Log = slog.New(slog.NewTextHandler(log, nil))
	s.OnApply = func(_ context.Context, u receiver.Update) error {
		_, err := fmt.Fprintf(out, "using %s version %d generation %d (%s)\n",
			u.Secret, u.Version, u.Generation, strings.Join(u.Value.FieldNames(), ", "))
		return err
	}
	s.OnEvent = func(e receiver.Event) { _, _ = fmt.Fprintln(out, told(e)) }
	r, err := receiver.New(signing, s.Options)
	if err != nil {
		return err
	}
	if s.inbox {
		_, _ = fmt.Fprintln(out, "collecting from the inbox of", s.Consumer)
		return r.Collect(ctx)
	}
	return serve(ctx, s.addr, r, out)
}

// read returns what a file has, without the white space around it; nothing if it is not named.
func read(what, name string) (backends.SecretString, error) {
	if name == "" {
		return "", nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", what, err)
	}
	return backends.SecretString(strings.TrimSpace(string(text))), nil
}

// told is what an event means to us, who hold the newest version already.
func told(e receiver.Event) string {
	version := fmt.Sprintf("%s version %d", e.Secret, e.Version)
	switch e.Name {
	case "consumer.test":
		return "tested"
	case "secret.rotating":
		return version + " is to be replaced at " + e.DueAt.Format(time.RFC3339)
	case "secret.emergency":
		return "warning: " + version + " is compromised and about to be replaced"
	case "secret.resurrected":
		return "warning: " + version + " is accepted again, though it was proven dead"
	}
	return version + ": " + strings.TrimPrefix(e.Name, "secret.") // retiring, retired, proven_dead
}

func serve(ctx context.Context, addr string, handler http.Handler, out io.Writer) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, MaxHeaderBytes: maxHeader}
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
