// Package vaultdb is the issuer of database credentials that a Vault makes and drops:
// dynamic credentials of its database engine.
//
// Vault revokes a lease together with the token that it was given to. So each
// credential is asked for by a login of its own, which nobody renews and nobody ends,
// and it expires, as far as the broker is concerned, when the lease or that login's
// token does, whichever is first: a restart of the broker ends no credential, and none
// ends before its NotAfter. With batch tokens nothing is left in Vault by that.
//
// A lease is never renewed. What expires is rotated in time instead.
package vaultdb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vaultconn"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// leaseID is the one part of a handle, since it is all that a list of leases tells.
const leaseID = "lease_id"

// Paths of Vault's own, to be followed by a lease, or what leases begin with.
const (
	revoking = "sys/leases/revoke/"
	listing  = "sys/leases/lookup/"
)

// Issuer asks one database engine of a Vault.
type Issuer struct {
	Config
	conn *vaultconn.Conn
	now  func() time.Time
}

// ListingIssuer is an Issuer that may list leases.
type ListingIssuer struct{ *Issuer }

var (
	_ issuer.Issuer          = (*Issuer)(nil)
	_ issuer.SettingsChecker = (*Issuer)(nil)
	_ issuer.SessionEnder    = (*Issuer)(nil)
	_ issuer.Checker         = (*Issuer)(nil)
	_ issuer.Lister          = (*ListingIssuer)(nil)
)

// Open makes an issuer, which is an issuer.Lister if and only if cfg says so. The
// server need not be up: see vaultconn.Dial. Close it.
func Open(ctx context.Context, cfg Config, logger hclog.Logger) (issuer.Issuer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := vaultconn.Dial(ctx, cfg.Conn, logger)
	if err != nil {
		return nil, err
	}
	i := &Issuer{Config: cfg, conn: conn, now: time.Now}
	if cfg.ListLeases {
		return &ListingIssuer{i}, nil
	}
	return i, nil
}

// Close ends the login that revokes and lists, and cuts off what is under way. It
// ends no credential.
func (i *Issuer) Close() { i.conn.Close() }

// Format prints where nothing secret is.
func (i *Issuer) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "database engine %s of %v", i.mount(), i.conn)
}

// Issue implements issuer.Issuer. Vault takes no tag along.
func (i *Issuer) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	role, err := roleIn(req.Subject.Settings)
	if err != nil {
		return issuer.Credential{}, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	path := i.mount() + "/creds/" + role
	began := i.now() // before Vault begins to count
	login, err := i.conn.LogIn(ctx)
	if errors.Is(err, backends.ErrUnavailable) {
		err = fmt.Errorf("%w (%w)", err, issuer.ErrNotSent)
	}
	if err != nil {
		return issuer.Credential{}, fmt.Errorf("asking Vault for %s: %w", path, err)
	}
	answer, err := login.Read(ctx, path)
	if errors.Is(err, backends.ErrNotFound) {
		err = fmt.Errorf("%w: there is no such path: is a database engine mounted at %s?", backends.ErrInvalid, i.mount())
	}
	if err == nil {
		err = i.usable(ctx, answer)
	}
	if err != nil {
		return issuer.Credential{}, fmt.Errorf("asking Vault for %s: %w", path, err)
	}
	username, password, _ := pair(answer)
	return issuer.Credential{
		Value:    backends.NewValue(map[string]string{"username": username, "password": password}),
		Handle:   issuer.Handle{leaseID: answer.LeaseID},
		NotAfter: began.Add(life(answer, login.Token)),
	}, nil
}

// life is how long a credential works unless it is revoked. Vault binds the lease of a
// batch token to the token's life, but does not say so in the lease_duration that it
// answers (vault/expiration.go, Register), and the lease of a service token goes with it.
func life(answer *api.Secret, token vaultconn.Token) time.Duration {
	lease := time.Duration(answer.LeaseDuration) * time.Second
	if token.TTL > 0 {
		return min(lease, token.TTL)
	}
	return lease
}

func pair(answer *api.Secret) (username, password string, ok bool) {
	username, _ = answer.Data["username"].(string)
	password, _ = answer.Data["password"].(string)
	return username, password, username != "" && password != ""
}

// usable refuses what is no dynamic credential. A role may give private keys or
// certificates instead of passwords; such a lease is revoked at once, so that ErrInvalid
// is true: nothing was made that lasts.
func (i *Issuer) usable(ctx context.Context, answer *api.Secret) error {
	if answer.LeaseID == "" || answer.LeaseDuration <= 0 {
		return fmt.Errorf("%w: the answer is no leased credential: is a database engine mounted at %s?", backends.ErrUnavailable, i.mount())
	}
	if _, _, ok := pair(answer); ok {
		return nil
	}
	if err := i.revoke(ctx, answer.LeaseID); err != nil {
		return fmt.Errorf("the role gives no user name and password, and what it gave stays until it expires: %w: %w", backends.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: the role gives no user name and password: its credential_type must be password", backends.ErrInvalid)
}

// Revoke implements issuer.Issuer. Vault answers when the user is dropped; where the
// database does not take that, the lease stays, and Revoke is ErrUnavailable. A lease
// that Vault does not know is no error.
func (i *Issuer) Revoke(ctx context.Context, _ issuer.Subject, h issuer.Handle) error {
	id := h[leaseID]
	if !isLease(id) {
		return fmt.Errorf("%w: revoking a lease: %q is no id of one", backends.ErrInvalid, id)
	}
	if err := i.revoke(ctx, id); err != nil {
		return fmt.Errorf("revoking the lease %s: %w", id, err)
	}
	return nil
}

// isLease tells whether id can be a lease's: a path, with a random last segment.
func isLease(id string) bool {
	segments := strings.Split(id, "/")
	return len(segments) > 1 && !slices.ContainsFunc(segments, func(s string) bool { return !roleName.MatchString(s) })
}

// revoke names the lease in the path, so that Vault's policies can tell those of our
// engine from others.
func (i *Issuer) revoke(ctx context.Context, id string) error {
	// Without sync Vault would answer at once, and try on its own when it likes.
	_, err := i.conn.Write(ctx, revoking+id, map[string]any{"sync": true})
	if errors.Is(err, backends.ErrNotFound) {
		return fmt.Errorf("%w: Vault has no %s", backends.ErrUnavailable, revoking)
	}
	return err
}

// EndSessions implements issuer.SessionEnder: where the role's revocation statements
// end the open sessions, they have been ended once Vault holds the lease no more.
func (i *Issuer) EndSessions(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	if !i.Config.EndsSessions {
		return fmt.Errorf("%w: Vault ends no open sessions by itself: have the role's revocation_statements do it, and set ends_sessions = true", backends.ErrUnsupported)
	}
	return i.Revoke(ctx, sub, h)
}

// List implements issuer.Lister: all leases of the role that Vault still holds, those
// included whose revocation has failed.
func (i *ListingIssuer) List(ctx context.Context, sub issuer.Subject) ([]issuer.Handle, error) {
	role, err := roleIn(sub.Settings)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", backends.ErrInvalid, err)
	}
	prefix := i.mount() + "/creds/" + role + "/"
	answer, err := i.conn.List(ctx, listing+prefix)
	if errors.Is(err, backends.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the leases of %s: %w", prefix, err)
	}
	keys, ok := answer.Data["keys"].([]any)
	if !ok {
		return nil, fmt.Errorf("listing the leases of %s: %w: the answer has no list", prefix, backends.ErrUnavailable)
	}
	var handles []issuer.Handle
	for _, key := range keys {
		if id, ok := key.(string); ok {
			handles = append(handles, issuer.Handle{leaseID: prefix + id})
		}
	}
	return handles, nil
}
