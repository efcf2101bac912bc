package vaultconn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
)

// A login that was refused is asked for again after a second, then after twice as
// long each time up to a minute, or as soon as the credential's file changes:
// Vault locks a role for everybody after a few wrong secret ids.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// goodbye bounds the request that ends a login.
const goodbye = 2 * time.Second

// session is one login.
type session struct {
	client *api.Client // carries its token; each user has a copy, since copying reads what use changes
	auth   *api.SecretAuth
	of     state         // of the credential's file that logged in
	over   chan struct{} // closed when it is forgotten
}

// attempt is one at a login. It is on its own, whoever asked for it: Vault gives a
// wrapped secret id once, so that a caller who left would take it along.
type attempt struct {
	of   state         // of the credential's file
	done chan struct{} // closed once the rest is there

	session *session
	err     error
}

// failure is a login that is not tried again for a while.
type failure struct {
	err   error
	of    state // of the credential's file that was refused
	pause time.Duration
	until time.Time
}

// login returns the present session or waits for a new one, as long as the context
// lasts. Of many callers one begins the attempt, and all wait for it.
//
// When the credential's file changes, the next call logs in with what it holds
// then: a wrapped secret id does not wait until the present login ends, and
// neither does an operator who replaced a token. Where that fails, the login that
// we have is used on.
func (c *Conn) login(ctx context.Context) (*session, error) {
	for {
		s, a, err := c.present()
		if a == nil {
			return s, err
		}
		select {
		case <-a.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(ctx))
		}
		if a.of.is(c.credential.state()) {
			return a.session, a.err
		}
	}
}

var errClosed = fmt.Errorf("%w: the connection is closed", backends.ErrUnavailable)

// present returns the session to use or the error to give or, if it is time to log
// in, the attempt to wait for.
func (c *Conn) present() (*session, *attempt, error) {
	of := c.credential.state()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.life.Err() != nil:
		return nil, nil, errClosed
	case c.session != nil && c.session.of.is(of):
		return c.session, nil, nil
	case c.failure != nil && c.failure.of.is(of) && c.now().Before(c.failure.until):
		if c.session != nil {
			return c.session, nil, nil
		}
		return nil, nil, c.failure.err
	case c.underWay == nil:
		a := &attempt{of: of, done: make(chan struct{})} // before it is read: if it changes meanwhile, we log in twice
		c.underWay = a
		c.running.Go(func() { c.logIn(a) })
	}
	return nil, c.underWay, nil
}

// logIn makes the attempt, for as long as c lives.
func (c *Conn) logIn(a *attempt) {
	ctx, cancel := context.WithTimeout(c.life, requestTimeout)
	defer cancel()
	s := &session{of: a.of, over: make(chan struct{})}
	var said notice
	var err error
	if s.client, err = c.newClient(c.life); err == nil {
		s.auth, err = c.credential.login(ctx, s.client.WithResponseCallbacks(said.hear))
		err = said.on(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		s.client.SetToken(s.auth.ClientToken)
		a.session, a.err = c.begin(s)
	} else {
		a.session, a.err = c.failed(a.of, err)
	}
	c.underWay = nil
	close(a.done)
}

// begin makes s the session. c.mu is held.
func (c *Conn) begin(s *session) (*session, error) {
	if c.life.Err() != nil {
		c.leave(s)
		return nil, errClosed
	}
	if c.session != nil {
		c.leave(c.session)
	}
	c.session, c.failure = s, nil
	if s.auth.LeaseDuration > 0 { // else it never expires
		c.keepAlive(s)
	}
	return s, nil
}

// failed notes that a login failed, and returns the session that is left, if any.
// Without one, a server that cannot be reached is asked again by the next call.
// c.mu is held.
func (c *Conn) failed(of state, err error) (*session, error) {
	if c.life.Err() != nil {
		return nil, errClosed
	}
	if c.session == nil && !errors.Is(err, backends.ErrDenied) {
		return nil, err
	}
	c.pause(of, err)
	if c.session == nil {
		return nil, err
	}
	c.logger.Warn("the credential changed but does not log in, so the login from before is used on",
		"auth", c.credential.Method, "file", c.credential.file, "error", err)
	return c.session, nil
}

// pause has the next attempt wait, longer after each failure. c.mu is held.
func (c *Conn) pause(of state, err error) {
	next := &failure{err: err, of: of, pause: firstPause}
	if last := c.failure; last != nil && last.of.is(of) {
		next.pause = min(2*last.pause, lastPause)
	}
	next.until = c.now().Add(next.pause)
	c.failure = next
}

// leave ends a session that is no longer used, and Vault's side of it if it is our
// own; whoever is using it still is refused and takes the next. c.mu is held.
func (c *Conn) leave(s *session) {
	close(s.over)
	if c.credential.Method != methodToken {
		c.running.Go(func() { c.revoke(s) })
	}
}

// revoke outlives c by up to goodbye. A server that does not hear of it keeps the
// token until it expires.
func (c *Conn) revoke(s *session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.life), goodbye)
	defer cancel()
	client, err := c.newClient(ctx)
	if err == nil {
		client.SetToken(s.auth.ClientToken)
		err = client.Auth().Token().RevokeSelfWithContext(ctx, "") // the SDK ignores the text
	}
	if err != nil {
		c.logger.Debug("a login that is no longer used stays until it expires", "auth", c.credential.Method, "error", fault(err, nil))
	}
}

// forget makes the next call log in, unless one has done so already. Of a session
// that the server does not know there is nothing to revoke.
func (c *Conn) forget(s *session, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.session != s:
		return
	case known:
		c.leave(s)
	default:
		close(s.over)
	}
	c.session = nil
}

// dead tells whether the server no longer knows the session's token, as far as
// that can be told: a login that cannot even look itself up counts as dead, other
// than a token that the operator gave. Without this question every request that
// our policies deny would cost a login, and Vault a lease.
func (c *Conn) dead(ctx context.Context, s *session) bool {
	c.mu.Lock()
	replaced := c.session != s
	c.mu.Unlock()
	if replaced {
		return true
	}
	_, err := s.client.WithResponseCallbacks().Auth().Token().LookupSelfWithContext(ctx)
	if c.credential.Method == methodToken {
		return unknownToken(err)
	}
	return errors.Is(fault(err, nil), backends.ErrDenied)
}

// keepAlive renews the session until it cannot be renewed any more, and then
// has the next call log in again. c.mu is held.
func (c *Conn) keepAlive(s *session) {
	watcher, err := s.client.WithResponseCallbacks().NewLifetimeWatcher(&api.LifetimeWatcherInput{
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
				c.logger.Info("the login ends, logging in again with the next call", "auth", c.credential.Method, "cause", fault(err, nil))
				c.forget(s, true)
				return
			}
		}
	})
}
