package vaultconn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
)

// Login is one of a caller's own, for what Vault leases to it. Vault revokes leases
// with the token that they were given to, so this one is neither renewed nor ended by
// us: it outlives its Conn, and ends when Token says.
type Login struct {
	Token  Token
	client *api.Client
}

// Token is what Vault says of a login's token (auth/token/lookup-self).
type Token struct {
	// TTL is how long it lives at least, from when the login began. Zero: it does not
	// expire.
	TTL time.Duration
	// Batch: Vault keeps no record of it, so that nobody can revoke it, and a lease
	// given to it is bound to its TTL alone.
	Batch bool
	// Orphan: no other token takes it along when it ends.
	Orphan bool
	// Period is how far each renewal prolongs it; zero: it cannot be prolonged for ever.
	Period time.Duration
}

// LogIn logs in once more; with auth "token" it adopts the operator's token as it is.
// Errors are as of other calls, and ErrDenied also where the token may not look itself
// up, as Vault's "default" policy lets it: nobody could tell when its leases end.
func (c *Conn) LogIn(ctx context.Context) (*Login, error) {
	// The shared login comes first: it unwraps a wrapped secret id for both.
	if _, err := c.login(ctx); err != nil {
		return nil, fmt.Errorf("logging in: %w", err)
	}
	client, err := c.clientOver(c.life, c.single)
	if err != nil {
		return nil, err
	}
	auth, err := c.logInAgain(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("logging in: %w", err)
	}
	client.SetToken(auth.ClientToken)
	l := &Login{client: client}
	self, err := l.Read(ctx, "auth/token/lookup-self")
	if err == nil {
		l.Token, err = readToken(self)
	}
	if errors.Is(err, backends.ErrDenied) {
		err = fmt.Errorf("%w (its policies must allow read on auth/token/lookup-self, as the policy \"default\" does)", err)
	}
	if err != nil {
		if c.credential.Method != methodToken {
			c.revoke(&session{auth: auth}) // nothing was leased to it yet, and nobody will use it
		}
		return nil, fmt.Errorf("asking what the login's token is: %w", err)
	}
	return l, nil
}

// logInAgain logs in by a client of its own, one caller after the other. A refused
// attempt is paced together with those of the shared login: Vault locks a role for
// everybody after a few.
func (c *Conn) logInAgain(ctx context.Context, client *api.Client) (*api.SecretAuth, error) {
	select {
	case c.own <- struct{}{}:
		defer func() { <-c.own }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	of := c.credential.state()
	c.mu.Lock()
	last := c.failure
	c.mu.Unlock()
	if last != nil && last.of.is(of) && c.now().Before(last.until) {
		return nil, last.err
	}
	var said notice
	auth, err := c.credential.login(ctx, client.WithResponseCallbacks(said.hear))
	err = said.on(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case errors.Is(err, backends.ErrDenied):
		c.pause(of, err)
	case err == nil && c.failure != nil && c.failure.of.is(of):
		c.failure = nil
	}
	return auth, err
}

// Read is Conn.Read by this login. It is sent once, whatever becomes of the
// connection: reading some paths makes something, such as a database's user.
func (l *Login) Read(ctx context.Context, path string) (*api.Secret, error) {
	var said notice
	secret, err := get(ctx, l.client.WithResponseCallbacks(said.hear).Logical(), path, nil)
	if err == nil || errors.Is(err, errNothing) {
		return secret, err
	}
	return nil, said.on(fault(err, nil))
}

// Format prints where nothing secret is, as Conn's does.
func (l *Login) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "a login at %s", l.client.Address())
}

func readToken(self *api.Secret) (Token, error) {
	var t Token
	kind, _ := self.Data["type"].(string)
	if kind == "" {
		return t, errNoVault
	}
	t.Batch = kind == "batch"
	t.Orphan, _ = self.Data["orphan"].(bool)
	t.Period = seconds(self.Data["period"])
	if at, _ := self.Data["expire_time"].(string); at != "" {
		// Vault reckons the ttl from a clock rounded to seconds (vault/token_store.go,
		// handleLookup), so it may be too long by half of one. Zero is "does not expire".
		t.TTL = max(seconds(self.Data["ttl"])-time.Second, time.Millisecond)
	}
	return t, nil
}

func seconds(of any) time.Duration {
	n, _ := of.(json.Number)
	s, _ := n.Int64()
	return time.Duration(s) * time.Second
}
