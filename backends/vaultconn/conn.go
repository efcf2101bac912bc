package vaultconn

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
)

// requestTimeout bounds one request whose context has no earlier deadline, such as
// a renewal, and all requests of one login together.
const requestTimeout = 30 * time.Second

// Conn is a Vault that we are logged in to whenever we talk to it. It is safe
// for concurrent use, retries nothing but a call that met an expired login, and
// wraps every error in a class of package backends; how long an answer says to wait is
// what backends.RetryAfter gives.
//
// A standby redirects to the active node, and the redirection is followed once,
// with the same TLS settings.
//
// A login that it made is ended by Close, and when another takes its place; what
// Vault leased to that login ends with it, so leases are for a Login of their own. A
// token that the operator gave is left alone.
type Conn struct {
	cfg       Config
	logger    hclog.Logger
	transport *http.Transport
	single    *http.Transport // for requests that may never be repeated: a connection for each
	now       func() time.Time

	life    context.Context // ends with Close, and every request with it
	end     context.CancelFunc
	running sync.WaitGroup // logins, renewals, and the ends of logins

	credential *credential   // safe for concurrent use
	own        chan struct{} // holds an element while somebody makes a Login

	mu       sync.Mutex
	underWay *attempt // at a login, nil: none
	session  *session // nil: log in first
	failure  *failure // of the last login, nil: it went well
}

// Dial prepares a connection. It asks nothing of the server, which may be
// down: the login comes with the first call. It fails with ErrInvalid only
// (configuration, unreadable certificates).
func Dial(_ context.Context, cfg Config, logger hclog.Logger) (*Conn, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	c := &Conn{
		cfg:        cfg,
		logger:     logger,
		transport:  transport,
		now:        time.Now,
		credential: newCredential(cfg, logger),
		own:        make(chan struct{}, 1),
	}
	// On a connection that was kept, a GET without an answer is sent again by net/http.
	c.single = transport.Clone()
	c.single.DisableKeepAlives = true
	c.life, c.end = context.WithCancel(context.Background())
	if _, err := c.newClient(c.life); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// Read reads a path with query parameters; ErrNotFound if there is nothing, and
// ErrUnavailable if there is not even an engine. A 404 that comes with data, such
// as a deleted version's, is returned as data.
func (c *Conn) Read(ctx context.Context, path string, query map[string][]string) (*api.Secret, error) {
	return c.call(ctx, nil, func(vault *api.Logical) (*api.Secret, error) {
		return get(ctx, vault, path, query)
	})
}

// List lists the keys below a path; ErrNotFound and ErrUnavailable as of Read.
func (c *Conn) List(ctx context.Context, path string) (*api.Secret, error) {
	return c.Read(ctx, path, map[string][]string{"list": {"true"}})
}

// Write writes body to a path. The answer may be nil. Texts out of body are
// never part of an error.
func (c *Conn) Write(ctx context.Context, path string, body map[string]any) (*api.Secret, error) {
	return c.call(ctx, body, func(vault *api.Logical) (*api.Secret, error) {
		return vault.WriteWithContext(ctx, path, body)
	})
}

// Patch merges body into what is at a path (JSON merge patch). Texts out of
// body are never part of an error.
func (c *Conn) Patch(ctx context.Context, path string, body map[string]any) error {
	_, err := c.call(ctx, body, func(vault *api.Logical) (*api.Secret, error) {
		return vault.JSONMergePatch(ctx, path, body)
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

// get makes an error of every 404 without data. The SDK would drop what such an
// answer says, so that a path without an engine looked like an engine without the
// secret.
func get(ctx context.Context, vault *api.Logical, path string, query map[string][]string) (*api.Secret, error) {
	ctx, cancel := context.WithCancel(ctx) // the SDK leaves a timer to it
	defer cancel()
	resp, err := vault.ReadRawWithDataWithContext(ctx, path, query)
	if astray(err) {
		return nil, err
	}
	secret, err := vault.ParseRawResponseAndCloseBody(resp, err)
	if err == nil && secret == nil {
		err = errNothing
	}
	return secret, err
}

// call runs op while logged in. If op is denied and the login turns out to be
// dead (revoked, expired, unknown to a restored server), it logs in again, once,
// and repeats op: a denied request had no effect.
func (c *Conn) call(ctx context.Context, sent any, op func(*api.Logical) (*api.Secret, error)) (*api.Secret, error) {
	for again := false; ; again = true {
		s, err := c.login(ctx)
		if err != nil {
			return nil, fmt.Errorf("logging in: %w", err)
		}
		var said notice
		secret, err := op(s.client.WithResponseCallbacks(said.hear).Logical())
		if err == nil || errors.Is(err, errNothing) {
			return secret, err
		}
		err = said.on(fault(err, sent))
		if again || !errors.Is(err, backends.ErrDenied) || !c.dead(ctx, s) {
			return nil, err
		}
		c.logger.Info("the login was refused, logging in again", "auth", c.credential.Method)
		c.forget(s, false)
	}
}

// Format prints where nothing secret is: fmt would print the unexported
// configuration in the clear.
func (c *Conn) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "vault at %s as %s", c.cfg.Address, c.credential.Method)
}

// Close cuts off every call under way, stops renewing, ends the login and waits for
// all of it, for no longer than the server takes or goodbye. Calls made later fail
// with ErrUnavailable. It may be called again.
func (c *Conn) Close() {
	c.mu.Lock()
	c.end() // under the lock: nobody begins anything after this
	if c.session != nil {
		c.leave(c.session)
		c.session = nil
	}
	c.mu.Unlock()
	c.running.Wait()
	c.transport.CloseIdleConnections()
}
