package vaultconn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
)

// requestTimeout bounds one request whose context has no earlier deadline,
// such as a renewal.
const requestTimeout = 30 * time.Second

// Conn is a Vault that we are logged in to whenever we talk to it. It is safe
// for concurrent use, retries nothing but a call that met an expired login, and
// wraps every error in a class of package backends.
type Conn struct {
	auth      Auth
	logger    hclog.Logger
	client    *api.Client // carries the session's token
	loginAs   *api.Client // carries none
	transport *http.Transport

	life    context.Context // ends with Close, and every request with it
	end     context.CancelFunc
	running sync.WaitGroup // renewals

	loggingIn chan struct{} // held by whoever logs in
	mu        sync.Mutex
	session   *session // nil: log in first
}

// Dial prepares a connection. It asks nothing of the server, which may be
// down: the login comes with the first call. It fails with ErrInvalid only
// (configuration, unreadable CA file).
func Dial(_ context.Context, cfg Config, logger hclog.Logger) (*Conn, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.tls()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	c := &Conn{
		auth:      cfg.Auth[0],
		logger:    logger,
		transport: cleanhttp.DefaultPooledTransport(),
		loggingIn: make(chan struct{}, 1),
	}
	c.transport.TLSClientConfig = tlsConfig
	c.transport.MaxIdleConnsPerHost = c.transport.MaxIdleConns // there is but one host
	c.life, c.end = context.WithCancel(context.Background())
	for _, client := range []**api.Client{&c.client, &c.loginAs} {
		if *client, err = c.newClient(cfg); err != nil {
			c.end()
			return nil, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
		}
	}
	return c, nil
}

func (c Config) tls() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	if c.CACertFile == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(c.CACertFile)
	if err != nil {
		return nil, fmt.Errorf("reading ca_cert_file: %w", err)
	}
	conf.RootCAs = x509.NewCertPool()
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_cert_file %s holds no PEM certificate", c.CACertFile)
	}
	return conf, nil
}

// newClient builds the SDK's client from cfg alone. api.DefaultConfig and
// api.NewClient both read VAULT_* variables; what comes in that way is replaced
// here, every piece of it. Only variables that the SDK cannot parse still make
// it refuse, whoever asks.
func (c *Conn) newClient(cfg Config) (*api.Client, error) {
	client, err := api.NewClient(&api.Config{
		Address: cfg.Address,
		HttpClient: &http.Client{
			Transport:     &lifeTransport{base: c.transport, life: c.life},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the SDK follows them
		},
		MinRetryWait: time.Millisecond, // never used: MaxRetries is 0
		MaxRetryWait: time.Millisecond,
		Timeout:      requestTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("the Vault SDK cannot start (are VAULT_* variables of the environment malformed?): %w", err)
	}
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	client.ClearNamespace()
	if cfg.Namespace != "" {
		client.SetNamespace(cfg.Namespace)
	}
	return client, nil
}

// Read reads a path with query parameters; ErrNotFound if there is nothing. A
// 404 that comes with data, such as a deleted version's, is returned as data.
func (c *Conn) Read(ctx context.Context, path string, query map[string][]string) (*api.Secret, error) {
	return c.call(ctx, nil, func(ctx context.Context) (*api.Secret, error) {
		return found(c.client.Logical().ReadWithDataWithContext(ctx, path, query))
	})
}

// List lists the keys below a path; ErrNotFound if there is nothing.
func (c *Conn) List(ctx context.Context, path string) (*api.Secret, error) {
	return c.call(ctx, nil, func(ctx context.Context) (*api.Secret, error) {
		return found(c.client.Logical().ListWithContext(ctx, path))
	})
}

// Write writes body to a path. The answer may be nil. Texts out of body are
// never part of an error.
func (c *Conn) Write(ctx context.Context, path string, body map[string]any) (*api.Secret, error) {
	return c.call(ctx, body, func(ctx context.Context) (*api.Secret, error) {
		return c.client.Logical().WriteWithContext(ctx, path, body)
	})
}

// Patch merges body into what is at a path (JSON merge patch). Texts out of
// body are never part of an error.
func (c *Conn) Patch(ctx context.Context, path string, body map[string]any) error {
	_, err := c.call(ctx, body, func(ctx context.Context) (*api.Secret, error) {
		return c.client.Logical().JSONMergePatch(ctx, path, body)
	})
	return err
}

// Check tells whether the server is reachable and unsealed and our login
// counts. The token's policies must let it look itself up, as Vault's "default"
// policy does.
func (c *Conn) Check(ctx context.Context) error {
	_, err := c.Read(ctx, "auth/token/lookup-self", nil)
	return err
}

var errNothing = fmt.Errorf("%w: nothing at this path", backends.ErrNotFound)

// found makes an error of the SDK's (nil, nil), which is its 404.
func found(secret *api.Secret, err error) (*api.Secret, error) {
	if err == nil && secret == nil {
		err = errNothing
	}
	return secret, err
}

// call runs op while logged in. If op is denied and the login turns out to be
// dead (revoked, expired, unknown to a restored server), it logs in again, once,
// and repeats op: a denied request had no effect.
func (c *Conn) call(ctx context.Context, sent any, op func(context.Context) (*api.Secret, error)) (*api.Secret, error) {
	for again := false; ; again = true {
		s, err := c.login(ctx)
		if err != nil {
			return nil, fmt.Errorf("logging in: %w", err)
		}
		secret, err := op(ctx)
		if err == nil || errors.Is(err, errNothing) {
			return secret, err
		}
		err = fault(err, sent)
		if again || !errors.Is(err, backends.ErrDenied) || !c.dead(ctx, s) {
			return nil, err
		}
		c.logger.Info("the login was refused, logging in again", "auth", c.auth.Method)
		c.forget(s)
	}
}

// Format prints where nothing secret is: fmt would print the unexported
// configuration in the clear.
func (c *Conn) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "vault at %s as %s", c.client.Address(), c.auth.Method)
}

// Close cuts off every call under way, stops renewing and waits for all of it.
// Calls made later fail with ErrUnavailable. It may be called again.
func (c *Conn) Close() {
	c.mu.Lock()
	c.end() // under the lock: login starts no renewal after this
	c.mu.Unlock()
	c.running.Wait()
	c.transport.CloseIdleConnections()
}

// lifeTransport ends every request with the connection, also those for which
// the SDK takes no context (renewals).
type lifeTransport struct {
	base http.RoundTripper
	life context.Context
}

func (t *lifeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	stop := context.AfterFunc(t.life, cancel)
	release := func() { stop(); cancel() }
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		release()
		return nil, err
	}
	resp.Body = &releasingBody{ReadCloser: resp.Body, release: release}
	return resp, nil
}

type releasingBody struct {
	io.ReadCloser
	release func()
}

func (b *releasingBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}
