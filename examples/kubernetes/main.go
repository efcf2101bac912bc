// Command kubernetes is a consumer of keybroker inside a Kubernetes cluster: told that a
// secret has a new version, it makes the External Secrets Operator refresh its copies at
// once. It never has a value in its hands.
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
	"github.com/keybroker/keybroker/examples/kubernetes/externalsecrets"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "kubernetes:", err)
		os.Exit(1)
	}
}

// maxHeader is for webhooks: who sends nothing genuine is not to fill the memory.
const maxHeader = 16 << 10

// options are the command's flags.
type options struct {
	consumer, broker, tokenFile, secretFile, listen string
	access                                          externalsecrets.Access
	namespaces, prefixes                            []string
	named                                           map[string][]externalsecrets.Name
	allowNone                                       bool
	wait                                            time.Duration
}

func parse(args []string, out io.Writer) (options, error) {
	o := options{named: map[string][]externalsecrets.Name{}}
	flags := flag.NewFlagSet("kubernetes", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.consumer, "consumer", "", "our `name` in the broker's configuration")
	flags.StringVar(&o.broker, "broker", "", "the broker's `URL`, https except on this machine")
	flags.StringVar(&o.tokenFile, "token-file", "", "`file` with a broker token of the consumer's role, for its inbox; read for each call")
	flags.StringVar(&o.secretFile, "secret-file", "", "`file` with the signing secret, whsec_…; empty: the broker's public keys are asked for")
	flags.StringVar(&o.listen, "listen", "", "`address` to take webhooks at; empty: the inbox is collected")
	flags.StringVar(&o.access.Server, "server", "", "`URL` of the API server; empty, as the two below: what a pod is given")
	flags.StringVar(&o.access.TokenFile, "server-token-file", "", "`file` with a service account's token")
	flags.StringVar(&o.access.CAFile, "server-ca-file", "", "`file` with the API server's authority in PEM")
	flags.DurationVar(&o.wait, "wait", 0, "answer only when the operator has refreshed, and try again after this `time`; 0: answer at once")
	flags.Func("namespaces", "`names` of the namespaces to search, separated by commas", list(&o.namespaces))
	flags.Func("prefixes", "what stores put before a secret's name, `separated by commas`: secret/,secret/data/", list(&o.prefixes))
	flags.BoolVar(&o.allowNone, "allow-none", false, "acknowledge also where no ExternalSecret refers to the secret, or the operator never refreshes it")
	flags.Func("named", "an ExternalSecret that is always refreshed for a secret, `SECRET=NAMESPACE/NAME`; may be repeated", o.name)
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	return o, o.check(flags.Args())
}

func list(into *[]string) func(string) error {
	return func(text string) error {
		for element := range strings.SplitSeq(text, ",") {
			if element == "" {
				return errors.New("an element is empty")
			}
			*into = append(*into, element)
		}
		return nil
	}
}

// name takes one -named; a secret's name may hold an equals sign, a namespace none. A
// consumer's secrets are all of one tenant, which is not named.
func (o options) name(text string) error {
	at := strings.LastIndexByte(text, '=')
	if at < 1 || strings.Contains(text[:at], ":") {
		return errors.New("it is not SECRET=NAMESPACE/NAME, with the secret's name without a tenant")
	}
	namespace, name, ok := strings.Cut(text[at+1:], "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return errors.New("it is not SECRET=NAMESPACE/NAME")
	}
	o.named[text[:at]] = append(o.named[text[:at]], externalsecrets.Name{Namespace: namespace, Name: name})
	return nil
}

func (o *options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("%q is not understood", rest[0])
	case o.consumer == "":
		return errors.New("-consumer is missing")
	case o.listen == "" && (o.broker == "" || o.tokenFile == ""):
		return errors.New("-broker and -token-file are needed for the inbox, or -listen for webhooks")
	case len(o.namespaces) == 0 && len(o.named) == 0:
		return errors.New("neither -namespaces nor -named says which ExternalSecrets there are")
	case o.wait < 0:
		return errors.New("-wait is negative")
	}
	if o.access == (externalsecrets.Access{}) {
		var err error
		o.access, err = externalsecrets.InCluster()
		return err
	}
	return nil
}

// run collects or serves until the context ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args, out)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(out, nil))
	cluster, err := externalsecrets.Connect(o.access)
	if err != nil {
		return err
	}
	defer cluster.Close()
	syncer := &externalsecrets.Syncer{
		Cluster: cluster, Namespaces: o.namespaces, Prefixes: o.prefixes, Named: o.named, AllowNone: o.allowNone, Wait: o.wait, Log: log,
	}
	r, err := o.receiver(ctx, syncer)
	if err != nil {
		return err
	}
	check(ctx, syncer)
	if o.listen == "" {
		log.Info("collecting", "consumer", o.consumer, "broker", o.broker)
		return r.Collect(ctx)
	}
	return serve(ctx, o.listen, r, log)
}

// receiver takes messages, from wherever they come, to the syncer. What fails there is
// not acknowledged, so that the broker repeats it.
func (o options) receiver(ctx context.Context, s *externalsecrets.Syncer) (*receiver.Receiver, error) {
	secret, err := secretIn(o.secretFile)
	if err != nil {
		return nil, fmt.Errorf("reading the signing secret: %w", err)
	}
	return receiver.New(secret, receiver.Options{
		Consumer: o.consumer, Broker: o.broker, TokenFile: o.tokenFile, Log: s.Log,
		OnNews: func(ctx context.Context, u receiver.Update) error {
			return s.Sync(ctx, externalsecrets.News{Message: u.ID, Secret: u.Secret, Generation: u.Generation})
		},
		OnEvent: func(e receiver.Event) {
			if e.Name == "consumer.test" {
				check(ctx, s)
			}
		},
	})
}

// check says whether the ExternalSecrets may be read, before the first rotation shows it.
func check(ctx context.Context, s *externalsecrets.Syncer) {
	if err := s.Check(ctx); err != nil {
		s.Log.Error("the ExternalSecrets cannot be read", "reason", err)
		return
	}
	s.Log.Info("the ExternalSecrets can be read", "namespaces", s.Namespaces)
}

// secretIn reads a file; no name, no secret.
func secretIn(file string) (backends.SecretString, error) {
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	return backends.SecretString(strings.TrimSpace(string(text))), err
}

func serve(ctx context.Context, addr string, handler http.Handler, log *slog.Logger) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, MaxHeaderBytes: maxHeader}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	log.Info("listening", "address", "http://"+listener.Addr().String())
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
