package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

// loginOptions are the flags of `keybroker login`.
type loginOptions struct {
	method  string
	role    string
	jwtFile string
	device  bool
	noStore bool
	timeout time.Duration
}

func (a *app) loginCommand() *cobra.Command {
	var o loginOptions
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in, by an identity provider or a certificate",
		Long: "Log in and keep the token for the commands that follow, until it expires or\n" +
			"`keybroker logout`; the one before at the same server is revoked. --token, KEYBROKER_TOKEN\n" +
			"and KEYBROKER_TOKEN_FILE come before it.\n\n" +
			"People are sent to their identity provider in a browser; with --device they open its\n" +
			"page anywhere, as on a phone. Programs give a JWT that they have with --jwt-file, or a\n" +
			"certificate with --client-cert and --client-key.",
		Example: "  keybroker login\n" +
			"  keybroker login --device --role on-call\n" +
			"  keybroker login --method cluster --jwt-file /var/run/secrets/tokens/keybroker\n" +
			"  keybroker login --client-cert app.crt --client-key app.key --no-store",
		Args: takes(),
		RunE: a.does(func(ctx context.Context, _ []string) error { return a.logIn(ctx, o) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.method, "method", "", "auth method to log in by; needed if the server has several that would do")
	f.StringVar(&o.role, "role", "", "role to have, where several are bound to who logs in")
	f.StringVar(&o.jwtFile, "jwt-file", "", "file that holds a JWT, - for stdin, instead of a browser")
	f.BoolVar(&o.device, "device", false, "print an address and a code to log in with on any device, instead of opening a browser here")
	f.BoolVar(&o.noStore, "no-store", false, "print the token alone on stdout, and keep it nowhere")
	f.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long to wait for the person")
	cmd.MarkFlagsMutuallyExclusive("device", "jwt-file")
	return cmd
}

func (a *app) logIn(ctx context.Context, o loginOptions) error {
	if err := a.checkServer(); err != nil {
		return err
	}
	if _, _, err := a.lastLogin(); err != nil && !o.noStore {
		return err // the new one could not be kept either
	}
	c, err := a.clientWith("")
	if err != nil {
		return err
	}
	defer c.Close()
	methods, err := c.AuthMethods(ctx)
	if err != nil {
		return err
	}
	method, err := a.pick(methods.Items, o)
	if err != nil {
		return err
	}
	request := client.LoginRequest{Role: cmp.Or(o.role, a.role, os.Getenv("KEYBROKER_ROLE"))}
	if request.JWT, err = a.proof(ctx, method, o); err != nil {
		return err
	}
	t, err := c.LogIn(ctx, method.Name, request)
	if err != nil {
		return loginError(err, method)
	}
	return a.loggedIn(ctx, t, o)
}

// loginError adds what to do about a login that the server refuses.
func loginError(err error, m client.AuthMethod) error {
	switch {
	case client.Status(err) == http.StatusUnauthorized && strings.Contains(err.Error(), "several roles"):
		return &hintError{err, "choose one with --role"}
	case client.Status(err) == http.StatusUnauthorized:
		return &hintError{err, fmt.Sprintf("the server's audit log has the same under auth.login; see its auth %q and the bind blocks of its roles", m.Name)}
	case client.Status(err) == http.StatusServiceUnavailable:
		return &hintError{err, "tokens that were given before go on working; if it takes too long, use a break-glass token"}
	}
	return err
}

// pick chooses the auth method: the named one, or the only one that fits what is given.
func (a *app) pick(methods []client.AuthMethod, o loginOptions) (client.AuthMethod, error) {
	if o.method != "" {
		for _, m := range methods {
			if m.Name == o.method {
				return m, a.fits(m, o)
			}
		}
		return client.AuthMethod{}, &hintError{fmt.Errorf("the server has no auth method %q", o.method), "it has " + methodNames(methods)}
	}
	fitting := slices.DeleteFunc(slices.Clone(methods), func(m client.AuthMethod) bool { return a.fits(m, o) != nil })
	if cert, _ := a.certificate(); cert != "" && slices.ContainsFunc(fitting, ofCertificates) { // it was given for them
		fitting = slices.DeleteFunc(fitting, func(m client.AuthMethod) bool { return !ofCertificates(m) })
	}
	switch {
	case len(fitting) == 1:
		return fitting[0], nil
	case len(methods) == 0:
		return client.AuthMethod{}, &hintError{errors.New("nobody can log in at this server: it has no auth method"), "use a token: KEYBROKER_TOKEN"}
	case len(fitting) == 0:
		return client.AuthMethod{}, &hintError{errors.New("no auth method of the server fits what is given"), "it has " + methodNames(methods) + "; see --jwt-file, --client-cert and keybroker login --help"}
	}
	return client.AuthMethod{}, &hintError{errors.New("the server has several auth methods that would do"), "choose one with --method: " + methodNames(fitting)}
}

func ofCertificates(m client.AuthMethod) bool { return m.Type == client.AuthCertificate }

// fits tells whether what is given is what a method takes; the error says what it takes.
func (a *app) fits(m client.AuthMethod, o loginOptions) error {
	cert, _ := a.certificate()
	switch {
	case m.Type == client.AuthCertificate && cert == "":
		return usagef("the auth method %s takes --client-cert and --client-key", m.Name)
	case m.Type == client.AuthCertificate && (o.jwtFile != "" || o.device):
		return usagef("the auth method %s takes a certificate, and neither --jwt-file nor --device", m.Name)
	case m.Type == client.AuthPrograms && o.jwtFile == "":
		return usagef("the auth method %s takes --jwt-file", m.Name)
	}
	return nil
}

func methodNames(methods []client.AuthMethod) string {
	var names []string
	for _, m := range methods {
		names = append(names, fmt.Sprintf("%s (%s)", m.Name, m.Type))
	}
	return strings.Join(names, ", ")
}

// proof gets the JWT that the method takes; empty for a certificate.
func (a *app) proof(ctx context.Context, m client.AuthMethod, o loginOptions) (client.SecretText, error) {
	switch {
	case m.Type == client.AuthCertificate:
		return "", nil
	case o.jwtFile != "":
		return a.readJWT(o.jwtFile)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("nobody has logged in within %s", o.timeout))
	defer cancel()
	p, err := a.findProvider(ctx, m)
	if err != nil {
		return "", err
	}
	if o.device {
		return p.byDevice(ctx)
	}
	return p.byBrowser(ctx)
}

func (a *app) readJWT(file string) (client.SecretText, error) {
	const most = 1 << 20
	in := a.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the JWT: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, most))
	if err != nil {
		return "", fmt.Errorf("reading the JWT: %w", err)
	}
	jwt := strings.TrimSpace(string(b))
	if jwt == "" {
		return "", fmt.Errorf("reading the JWT: %s is empty", file)
	}
	return client.SecretText(jwt), nil
}

// loggedIn keeps or prints the token.
func (a *app) loggedIn(ctx context.Context, t client.Token, o loginOptions) error {
	for _, id := range t.EndedRoots {
		a.note("the root token %s has ended: this login can make tokens", id)
	}
	if o.noStore {
		if a.json() {
			return a.showJSON(t)
		}
		a.note("logged in as %s, role %s, expires %s", printable(t.Name), t.Role, expiry(t, a))
		return write(a.out, t.Token.Reveal()+"\n")
	}
	l := login{Name: t.Name, Method: t.Method, Role: t.Role, ID: t.ID, Token: t.Token, ExpiresAt: t.ExpiresAt}
	file, before, err := a.keepLogin(&l)
	if err != nil {
		a.endQuietly(ctx, l) // nobody has its token
		return err
	}
	if before.ID != l.ID {
		a.endQuietly(ctx, before)
	}
	if t.Token = ""; a.json() {
		return a.showJSON(t)
	}
	a.note("logged in as %s, role %s, expires %s", printable(t.Name), t.Role, expiry(t, a))
	a.note("the token is kept in %s", file)
	if !a.usesLogin() {
		a.note("it is not used while --token, KEYBROKER_TOKEN, KEYBROKER_TOKEN_FILE or a client certificate is given")
	}
	return nil
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Revoke the token of the last login and forget it",
		Args:  takes(),
		RunE: a.does(func(ctx context.Context, _ []string) error {
			l, ok, err := a.lastLogin()
			if err != nil {
				return err
			}
			if !ok {
				return &hintError{fmt.Errorf("nobody is logged in at %s", a.address()), "keybroker login"}
			}
			if err := a.endLogin(ctx, l); err != nil {
				return &hintError{fmt.Errorf("revoking the token %s, which is kept until it can be: %w", l.ID, err), "try again"}
			}
			if _, _, err := a.keepLogin(nil); err != nil {
				return err
			}
			a.note("the login of %s at %s has ended", printable(l.Name), a.address())
			return nil
		}),
	}
}

// endQuietly revokes the token of a login that is not kept any more, if there is one
// that lives, and says so if it could not.
func (a *app) endQuietly(ctx context.Context, l login) {
	if l.Token == "" || !l.ExpiresAt.IsZero() && !a.now().Before(l.ExpiresAt) {
		return
	}
	if err := a.endLogin(ctx, l); err != nil {
		a.note("the token %s of a login that is not kept any more could not be revoked, and works on: %v", printable(l.ID), err)
	}
}

// endLogin revokes the token of a login; one that is not accepted any more has ended.
func (a *app) endLogin(ctx context.Context, l login) error {
	c, err := a.clientWith(l.Token.Reveal())
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.RevokeOwnToken(ctx); err != nil && client.Status(err) != http.StatusUnauthorized {
		return err
	}
	return nil
}
