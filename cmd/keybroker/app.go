package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keybroker/keybroker/broker/client"
)

const defaultAddr = "http://127.0.0.1:8400"

// streams are what the program reads from and writes to.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// app is one run of the program: its streams and the flags that all commands share.
type app struct {
	streams
	now     func() time.Time
	started bool // a command's own work has begun: errors are no longer about usage

	addr      string
	token     string
	tokenFile string
	caFile    string
	certFile  string
	keyFile   string
	role      string
	format    string
}

func newApp(s streams) *app { return &app{streams: s, now: time.Now} }

// flags declares what all commands share. The environment is not a default, so
// that --help shows no token.
func (a *app) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.addr, "addr", "", "address of the server; default $KEYBROKER_ADDR, or "+defaultAddr)
	f.StringVar(&a.token, "token", "", "token to authenticate with; default $KEYBROKER_TOKEN")
	f.StringVar(&a.tokenFile, "token-file", "", "file that holds the token; default $KEYBROKER_TOKEN_FILE")
	f.StringVar(&a.caFile, "ca-file", "", "PEM certificates to trust instead of the system's")
	f.StringVar(&a.certFile, "client-cert", "", "PEM certificate to show to the server; default $KEYBROKER_CLIENT_CERT")
	f.StringVar(&a.keyFile, "client-key", "", "PEM key of the client certificate; default $KEYBROKER_CLIENT_KEY")
	f.StringVar(&a.role, "as", "", "role to act in, where several are bound to the client certificate; default $KEYBROKER_ROLE")
	f.StringVar(&a.format, "format", "table", "how to print: table or json")
	_ = root.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// check finds mistakes in the shared flags before a command begins.
func (a *app) check(cmd *cobra.Command) error {
	if a.token != "" && a.tokenFile != "" {
		return usagef("--token and --token-file are both given")
	}
	return oneOf("format", a.format, append([]string{"table", "json"}, strings.Fields(cmd.Annotations[moreFormats])...)...)
}

// moreFormats is the annotation of a command that has more formats than others.
const moreFormats = "formats"

func (a *app) json() bool { return a.format == "json" }

// address is where the server is.
func (a *app) address() string { return cmp.Or(a.addr, os.Getenv("KEYBROKER_ADDR"), defaultAddr) }

// client makes a client of the server.
func (a *app) client() (*client.Client, error) {
	token, err := a.findToken()
	if err != nil {
		return nil, err
	}
	return a.clientWith(token)
}

// clientWith makes a client that shows a token, or none.
func (a *app) clientWith(token string) (*client.Client, error) {
	cert, key := a.certificate()
	c, err := client.New(a.address(), token, client.Options{CAFile: a.caFile, CertFile: cert, KeyFile: key,
		Role: cmp.Or(a.role, os.Getenv("KEYBROKER_ROLE"))})
	if err != nil {
		return nil, &hintError{err, "see --addr, --token, --ca-file and --client-cert"}
	}
	return c, nil
}

// certificate is where the client certificate and its key are; empty: there is none.
func (a *app) certificate() (cert, key string) {
	return cmp.Or(a.certFile, os.Getenv("KEYBROKER_CLIENT_CERT")), cmp.Or(a.keyFile, os.Getenv("KEYBROKER_CLIENT_KEY"))
}

// showsCertificate tells whether there is a client certificate.
func (a *app) showsCertificate() bool {
	cert, _ := a.certificate()
	return cert != ""
}

// findToken looks for a token: flags before the environment, and that before what the
// last login has left. Who shows a certificate needs none.
func (a *app) findToken() (string, error) {
	file := a.tokenFile
	if file == "" {
		if token := cmp.Or(a.token, os.Getenv("KEYBROKER_TOKEN")); token != "" {
			return token, nil
		}
		if file = os.Getenv("KEYBROKER_TOKEN_FILE"); file == "" {
			if cert, _ := a.certificate(); cert != "" {
				return "", nil
			}
			if _, given := os.LookupEnv("KEYBROKER_TOKEN"); given && a.token == "" {
				// A command that was to print one has failed: nobody asked for another's login.
				return "", &hintError{errors.New("KEYBROKER_TOKEN is set, and empty"), "set it to a token, or unset it to use the login of `keybroker login`"}
			}
			return a.loginToken()
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("reading the token: %s is empty", file)
	}
	return token, nil
}

// call makes the RunE of a command that talks to the server.
func (a *app) call(act func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return a.does(func(ctx context.Context, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		return act(ctx, c, args)
	})
}

// note tells the person something that is no result: programs read stdout only.
func (a *app) note(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }

// complain reports an error with what to do about it.
func (a *app) complain(err error) {
	if errors.Is(err, context.Canceled) {
		a.note("keybroker: interrupted")
		return
	}
	a.note("keybroker: %s", printable(err.Error()))
	if hint := a.hint(err); hint != "" {
		a.note("hint: %s", printable(hint))
	}
}

// hintError is an error that says what to do about it.
type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }

func (a *app) hint(err error) string {
	if h, ok := errors.AsType[*hintError](err); ok {
		return h.hint
	}
	p, isProblem := errors.AsType[*client.Problem](err)
	token, _ := a.findToken()
	_, untrusted := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case client.Status(err) == http.StatusUnauthorized && a.usesLogin():
		return "the login has ended: keybroker login"
	case client.Status(err) == http.StatusUnauthorized && token == "" && a.showsCertificate():
		return "a role has to be bound to the certificate, and its authority to be one that the server takes; where several roles are bound, --as names one"
	case client.Status(err) == http.StatusUnauthorized && token == "":
		return "set KEYBROKER_TOKEN, or KEYBROKER_TOKEN_FILE to a file that holds it, e.g. data/root-token; people: keybroker login"
	case client.Status(err) == http.StatusUnauthorized:
		return "is the token one of the server at " + a.address() + "?"
	case isProblem && p.Hint != "":
		return p.Hint
	case isProblem && p.RetryAfter > 0:
		return fmt.Sprintf("try again in %s", p.RetryAfter)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "is `keybroker server` running at " + a.address() + "? set KEYBROKER_ADDR if it is elsewhere"
	case untrusted:
		return "give the certificate of its authority with --ca-file"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "the server speaks plain HTTP: write http:// in the address"
	}
	return ""
}

// terminal tells whether w is a terminal, and how wide it is.
func terminal(w any) (width int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
		return width, true
	}
	return 80, true
}

// confirm asks a question on the terminal. Where there is none nobody can be
// asked: the command line was explicit enough.
func (a *app) confirm(question string) error {
	if _, ok := terminal(a.in); !ok {
		return nil
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	var answer string
	_, _ = fmt.Fscanln(a.in, &answer) // an empty line is a no
	if !strings.EqualFold(answer, "y") && !strings.EqualFold(answer, "yes") {
		return errors.New("nothing was done")
	}
	return nil
}

// completeSecrets completes the names of secrets by asking the server; where it
// cannot be asked there are none.
func (a *app) completeSecrets(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return completeIDs(a, func(ctx context.Context, c *client.Client, p client.Page) ([]client.Secret, error) {
		list, err := c.Secrets(ctx, client.SecretQuery{Prefix: prefix, Page: p})
		return list.Items, err
	}, func(s client.Secret) (id, description string) { return s.Name, s.State })(cmd, args, prefix)
}

// completeIDs completes the one argument of a command with what the server lists
// and describe has an id for.
func completeIDs[T any](a *app, list func(context.Context, *client.Client, client.Page) ([]T, error), describe func(T) (id, description string)) cobra.CompletionFunc {
	const patience, most = 2 * time.Second, 200
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), patience)
		defer cancel()
		items, err := list(ctx, c, client.Page{Limit: most})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var found []string
		for _, item := range items {
			if id, description := describe(item); id != "" {
				found = append(found, cobra.CompletionWithDesc(id, printable(description)))
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}
