// Package postgresql is the issuer of logins to a PostgreSQL server: it sets the
// passwords of roles that exist, of two in turn or of a single one in place.
package postgresql

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/keys"
	"github.com/keybroker/keybroker/rotation/postgresconn"
)

// Fields of a value, and parts of a handle.
const (
	Username = "username"
	Password = "password"

	Role = "role"
	Tag  = "tag"

	// Imported is the tag of a password that was there before the broker.
	Imported = "imported"
)

// tagOf is the tag in a handle.
func tagOf(h issuer.Handle) string { return cmp.Or(h[Tag], Imported) }

// application is how the issuer's sessions are seen in pg_stat_activity.
const application = "keybroker"

// Issuer sets passwords of roles. A connection is made for each operation, and
// nothing is kept between them: what a role holds is said by its comment.
type Issuer struct {
	server   *postgresconn.Server
	place    string
	username string
	password backends.SecretString
	budget   time.Duration
	timeout  time.Duration
}

var (
	_ issuer.Issuer          = (*Issuer)(nil)
	_ issuer.Preparer        = (*Issuer)(nil)
	_ issuer.Setter          = (*Issuer)(nil)
	_ issuer.Finder          = (*Issuer)(nil)
	_ issuer.SessionEnder    = (*Issuer)(nil)
	_ issuer.UseReporter     = (*Issuer)(nil)
	_ issuer.Checker         = (*Issuer)(nil)
	_ issuer.Shaper          = (*Issuer)(nil)
	_ issuer.SettingsChecker = (*Issuer)(nil)
	_ issuer.KeyChecker      = (*Issuer)(nil)
)

// New makes the issuer of a valid configuration; ErrInvalid if its ca_file cannot
// be used. It connects to nothing.
func New(cfg Config) (*Issuer, error) {
	server, err := postgresconn.New(cfg.Conn)
	if err != nil {
		return nil, err
	}
	i := Describe(cfg)
	i.server = server
	return i, nil
}

// Describe makes an issuer that is only asked what it can do. It reads no file.
func Describe(cfg Config) *Issuer {
	i := &Issuer{place: cfg.Conn.Server(), username: cfg.Username, password: cfg.Password, budget: defaultBudget, timeout: defaultTimeout}
	if cfg.RevocationBudget != nil {
		i.budget = *cfg.RevocationBudget
	}
	if cfg.Timeout > 0 {
		i.timeout = cfg.Timeout
	}
	return i
}

// Traits implements issuer.Issuer.
func (i *Issuer) Traits() issuer.Traits {
	return issuer.Traits{
		Kind: issuer.Set, Fields: []string{Password, Username}, Handle: []string{Role, Tag},
		RevocationBudget: i.budget, DerivedSessions: true,
	}
}

// Place names the server whose roles the issuer sets.
func (i *Issuer) Place() string { return i.place }

// TraitsFor implements issuer.Shaper.
func (i *Issuer) TraitsFor(settings json.RawMessage) issuer.Traits {
	t := i.Traits()
	t.Slots = slots(settings)
	if t.InPlace() {
		t.MaxOverlap = -1
	}
	return t
}

// CheckSettings implements issuer.SettingsChecker.
func (i *Issuer) CheckSettings(raw json.RawMessage) []string {
	s, problems := parse(raw)
	if len(problems) == 0 && slices.Contains(s.slots(), i.username) {
		problems = append(problems, fmt.Sprintf("%q is the role that the issuer itself logs in as (username): name another, or have it rotated by another issuer", i.username))
	}
	return problems
}

// CheckKey implements issuer.KeyChecker.
func (i *Issuer) CheckKey(spec issuer.KeySpec) (issuer.KeySpec, error) {
	checked, err := keys.Check(keys.Spec(spec))
	return issuer.KeySpec(checked), err
}

// Prepare implements issuer.Preparer.
func (i *Issuer) Prepare(req issuer.Request) (backends.Value, error) {
	if req.Slot == "" {
		return backends.Value{}, fmt.Errorf("preparing a login: %w: no role is chosen", backends.ErrInvalid)
	}
	password, err := keys.Generate(keys.Spec(req.Key))
	if err != nil {
		return backends.Value{}, fmt.Errorf("preparing a login of %s: %w", req.Slot, err)
	}
	return backends.NewValue(map[string]string{Username: req.Slot, Password: password}), nil
}

// SlotOf implements issuer.Setter.
func (i *Issuer) SlotOf(h issuer.Handle) string { return h[Role] }

// Issue implements issuer.Issuer: it sets the prepared password of the slot's role.
func (i *Issuer) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	fail := func(err error) (issuer.Credential, error) {
		return issuer.Credential{}, fmt.Errorf("setting the password of role %s: %w", req.Slot, err)
	}
	set, err := i.verifierFor(req)
	if err != nil {
		return fail(err)
	}
	err = i.change(ctx, req.Slot, func(a account) (change, error) {
		if err := a.settable(); err != nil {
			return change{}, err
		}
		next, err := a.note.set(req)
		return change{password: set, note: next}, err
	})
	if err != nil {
		return fail(err)
	}
	return issuer.Credential{Value: req.Prepared, Handle: issuer.Handle{Role: req.Slot, Tag: req.Tag}}, nil
}

// PutBack implements issuer.Setter.
func (i *Issuer) PutBack(ctx context.Context, req issuer.Request, h issuer.Handle, over int) error {
	req.Slot = h[Role]
	set, err := i.verifierFor(req)
	if err == nil {
		err = i.change(ctx, req.Slot, func(a account) (change, error) {
			if err := a.settable(); err != nil {
				return change{}, err
			}
			next, err := a.note.back(req, tagOf(h), over)
			return change{password: set, note: next}, err
		})
	}
	if err != nil {
		return fmt.Errorf("putting back the password of role %s: %w", req.Slot, err)
	}
	return nil
}

// verifierFor is what the server is given for the prepared password; ErrInvalid if
// it is not one for a role of the secret.
func (i *Issuer) verifierFor(req issuer.Request) (string, error) {
	fields := req.Prepared.Reveal()
	switch {
	case !slices.Contains(slots(req.Subject.Settings), req.Slot):
		return "", fmt.Errorf("%w: the secret's settings do not name it", backends.ErrInvalid)
	case fields[Username] != req.Slot:
		return "", fmt.Errorf("%w: the value's username is another role", backends.ErrInvalid)
	case fields[Password] == "":
		return "", fmt.Errorf("%w: the value has no password", backends.ErrInvalid)
	}
	return verifier(fields[Password])
}

// Revoke implements issuer.Issuer: a role that still holds the credential has no
// password afterwards, and nobody can log in as it. A role that is not there, or
// holds another one, is left alone.
func (i *Issuer) Revoke(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	if h[Role] == "" {
		return fmt.Errorf("revoking a login: %w: the handle has no %s", backends.ErrInvalid, Role)
	}
	err := i.change(ctx, h[Role], func(a account) (change, error) {
		if !a.exists {
			return change{nothing: true}, nil
		}
		next, held, err := a.note.without(sub.Ref, tagOf(h))
		if err != nil || !held {
			return change{nothing: true}, err
		}
		if !slices.Contains(slots(sub.Settings), h[Role]) {
			return change{}, fmt.Errorf("%w: the secret's settings do not name it", backends.ErrInvalid)
		}
		return change{note: next}, a.managed()
	})
	if err != nil {
		return fmt.Errorf("revoking the login of role %s: %w", h[Role], err)
	}
	return nil
}

// Find implements issuer.Finder.
func (i *Issuer) Find(ctx context.Context, sub issuer.Subject, tag string) ([]issuer.Found, error) {
	var found []issuer.Found
	err := i.within(ctx, func(ctx context.Context, tx session) error {
		for _, role := range slots(sub.Settings) {
			a, err := tx.account(ctx, role)
			if err != nil {
				return err
			}
			if a.note != nil && a.note.mine(sub.Ref) == nil && a.note.holds(tag) {
				found = append(found, issuer.Found{Handle: issuer.Handle{Role: role, Tag: tag}, Tag: tag})
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the login tagged %s: %w", tag, err)
	}
	return found, nil
}
