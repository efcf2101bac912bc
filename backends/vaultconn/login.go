package vaultconn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/keybroker/keybroker/backends"
)

// session is one login.
type session struct {
	auth *api.SecretAuth
	over chan struct{} // closed when it is forgotten
}

// login returns the present session or begins one. Of many callers one logs
// in; the others wait for it, each as long as its own context lasts.
func (c *Conn) login(ctx context.Context) (*session, error) {
	if s, err := c.present(); s != nil || err != nil {
		return s, err
	}
	select {
	case c.loggingIn <- struct{}{}:
		defer func() { <-c.loggingIn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	if s, err := c.present(); s != nil || err != nil {
		return s, err
	}
	auth, err := c.authenticate(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{auth: auth, over: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		return nil, errClosed
	}
	c.client.SetToken(auth.ClientToken)
	c.session = s
	if auth.LeaseDuration > 0 { // else it never expires
		c.keepAlive(s)
	}
	return s, nil
}

var errClosed = fmt.Errorf("%w: the connection is closed", backends.ErrUnavailable)

func (c *Conn) present() (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		return nil, errClosed
	}
	return c.session, nil
}

// forget makes the next call log in, unless one has done so already.
func (c *Conn) forget(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == s {
		c.session = nil
		close(s.over)
	}
}

func (c *Conn) authenticate(ctx context.Context) (*api.SecretAuth, error) {
	if c.auth.Method == methodToken {
		return c.adoptToken(ctx)
	}
	secretID := &approle.SecretID{FromString: c.auth.SecretID.Reveal(), FromFile: c.auth.SecretIDFile}
	var options []approle.LoginOption
	if c.auth.Mount != "" {
		options = append(options, approle.WithMountPath(c.auth.Mount))
	}
	method, err := approle.NewAppRoleAuth(c.auth.RoleID.Reveal(), secretID, options...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	login, err := method.Login(ctx, c.loginAs)
	if err == nil && (login == nil || login.Auth == nil || login.Auth.ClientToken == "") {
		return nil, fmt.Errorf("%w: vault answered a login without a token", backends.ErrUnavailable)
	}
	if err != nil {
		return nil, loginFault(err, c.auth)
	}
	return login.Auth, nil
}

// loginFault differs from fault in that a refused login is ErrDenied whatever
// its status: AppRole answers 400 to a wrong role or secret id, and a mount that
// does not exist must never look like a secret that does not. An unreadable
// secret_id_file stays ErrUnavailable: it may be written a moment later.
func loginFault(err error, auth Auth) error {
	sent := map[string]any{"role_id": auth.RoleID.Reveal(), "secret_id": auth.SecretID.Reveal()}
	return faultAs(err, sent, func(class error) error {
		if errors.Is(class, backends.ErrUnavailable) {
			return class
		}
		return backends.ErrDenied
	})
}

// adoptToken makes a session of a token that the operator gave. How long it
// lives and whether it can be renewed is asked of the server; a token that may
// not look itself up is used as it is.
func (c *Conn) adoptToken(ctx context.Context) (*api.SecretAuth, error) {
	auth := &api.SecretAuth{ClientToken: c.auth.Token.Reveal()}
	c.client.SetToken(auth.ClientToken)
	self, err := found(c.client.Auth().Token().LookupSelfWithContext(ctx))
	if err != nil {
		if err = fault(err, nil); !errors.Is(err, backends.ErrDenied) {
			return nil, err
		}
		c.logger.Warn("the token cannot look itself up, so it is not renewed: expired, or its policies lack auth/token/lookup-self")
		return auth, nil
	}
	if ttl, ok := self.Data["ttl"].(json.Number); ok {
		seconds, _ := ttl.Int64()
		auth.LeaseDuration = int(seconds)
	}
	auth.Renewable, _ = self.Data["renewable"].(bool)
	return auth, nil
}

// dead tells whether the server no longer knows the session's token, as far as
// that can be told: a login that cannot even look itself up counts as dead.
// Without this question every request that our policies deny would cost a
// login, and Vault a lease.
func (c *Conn) dead(ctx context.Context, s *session) bool {
	if c.auth.Method == methodToken {
		return false // there is no other login to be had
	}
	c.mu.Lock()
	replaced := c.session != s
	c.mu.Unlock()
	if replaced {
		return true
	}
	_, err := c.client.Auth().Token().LookupSelfWithContext(ctx)
	return errors.Is(fault(err, nil), backends.ErrDenied)
}

// keepAlive renews the session until it cannot be renewed any more, and then
// has the next call log in again. c.mu is held.
func (c *Conn) keepAlive(s *session) {
	watcher, err := c.client.NewLifetimeWatcher(&api.LifetimeWatcherInput{
		Secret:        &api.Secret{Auth: s.auth},
		RenewBehavior: api.RenewBehaviorIgnoreErrors, // go on until the token is about to expire
	})
	if err != nil { // for want of a secret only, which is there
		c.logger.Error("the login is not renewed", "error", err)
		return
	}
	c.running.Go(watcher.Start)
	c.running.Go(func() {
		defer watcher.Stop()
		for {
			select {
			case <-c.life.Done():
				return
			case <-s.over:
				return
			case renewed := <-watcher.RenewCh():
				c.logger.Debug("login renewed", "ttl_seconds", renewed.Secret.Auth.LeaseDuration)
			case err := <-watcher.DoneCh(): // also nil means: log in again
				if c.life.Err() != nil {
					return
				}
				c.logger.Info("the login ends, logging in again with the next call", "auth", c.auth.Method, "cause", fault(err, nil))
				c.forget(s)
				return
			}
		}
	})
}
