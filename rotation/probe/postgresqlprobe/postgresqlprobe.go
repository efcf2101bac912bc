// Package postgresqlprobe is the probe that tries a credential by logging in to a
// PostgreSQL server.
package postgresqlprobe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/postgresconn"
	"github.com/keybroker/keybroker/rotation/probe"
)

// Fields of a value that is tried.
const (
	username = "username"
	password = "password"
)

// application marks probe traffic in pg_stat_activity and the server's log.
const application = "keybroker-probe"

// Config is the block `probe "postgresql" NAME`.
type Config struct {
	Conn postgresconn.Config `hcl:",remain"`

	LockoutAfter int `hcl:"lockout_after,optional"` // rejected tries in a row, 0: no limit known
	// Canary is a login that must always work, username and password, e.g. of a test role.
	Canary map[string]backends.SecretString `hcl:"canary,optional"`
}

// Validate returns every mistake in c, joined, each an ErrInvalid in one line that
// begins with the attribute's name. It opens nothing.
func (c Config) Validate() error {
	mistakes := []error{c.Conn.Validate()}
	if c.LockoutAfter < 0 {
		mistakes = append(mistakes, fmt.Errorf("%w: lockout_after is negative: leave it out if there is no limit", backends.ErrInvalid))
	}
	if c.Canary != nil && !(slices.Equal(slices.Sorted(maps.Keys(c.Canary)), []string{password, username}) && c.Canary[username] != "" && c.Canary[password] != "") {
		mistakes = append(mistakes, fmt.Errorf(`%w: canary is no login: write canary = { username = file("…"), password = file("…") }, or leave it out`, backends.ErrInvalid))
	}
	return errors.Join(mistakes...)
}

// Probe logs in once per try, on a connection of its own, and asks SELECT 1.
type Probe struct {
	server       *postgresconn.Server
	lockoutAfter int
	canary       backends.Value // zero: none
}

var (
	_ probe.Probe    = (*Probe)(nil)
	_ probe.Canarier = (*Probe)(nil)
)

// New makes the probe of a valid configuration; ErrInvalid if its ca_file cannot be
// used. It connects to nothing.
func New(cfg Config) (*Probe, error) {
	server, err := postgresconn.New(cfg.Conn)
	if err != nil {
		return nil, err
	}
	p := &Probe{server: server, lockoutAfter: cfg.LockoutAfter}
	if cfg.Canary != nil {
		p.canary = backends.NewValue(map[string]string{username: cfg.Canary[username].Reveal(), password: cfg.Canary[password].Reveal()})
	}
	return p, nil
}

// Try implements probe.Probe.
//
// Accepted is a login after which the server answers SELECT 1: a password alone is of
// no use to an application whose database is gone. Rejected is SQLSTATE 28P01
// (invalid_password), which is what servers say of a wrong password, of a role without
// one, of one past its VALID UNTIL and of one that is not there. All else is
// inconclusive, 28000 (invalid_authorization_specification) among it: it says that the
// role may not log in from here at all (pg_hba.conf, NOLOGIN), which tells nothing of
// whether the password is dead elsewhere.
func (p *Probe) Try(ctx context.Context, t probe.Try) probe.Result {
	start := time.Now()
	result := p.try(ctx, t)
	result.Latency = time.Since(start)
	return result
}

func (p *Probe) try(ctx context.Context, t probe.Try) probe.Result {
	fields := t.Value.Reveal()
	for _, name := range []string{username, password} {
		if fields[name] == "" {
			return probe.Result{Verdict: probe.Inconclusive, Detail: "the value has no field " + name}
		}
	}
	conn, address, err := p.server.Connect(ctx, postgresconn.Login{
		User: fields[username], Password: backends.SecretString(fields[password]),
		Application: application, Address: t.Address, Once: true,
	})
	switch {
	case postgresconn.Code(err) == postgresconn.InvalidPassword:
		return probe.Result{Verdict: probe.Rejected, Detail: "the login is refused: SQLSTATE 28P01, invalid_password", Address: address}
	case err != nil:
		return probe.Result{Verdict: probe.Inconclusive, Detail: err.Error(), Address: address}
	}
	defer postgresconn.Close(ctx, conn)
	ctx, cancel := context.WithTimeout(ctx, p.server.Timeout())
	defer cancel()
	var one int
	if err := conn.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
		return probe.Result{Verdict: probe.Inconclusive, Detail: "logged in, but SELECT 1: " + postgresconn.Explain(err).Error(), Address: address}
	}
	return probe.Result{Verdict: probe.Accepted, Detail: "logged in by SCRAM-SHA-256, and SELECT 1 was answered", Address: address}
}

// Addresses implements probe.Probe.
func (p *Probe) Addresses(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.server.Timeout())
	defer cancel()
	return p.server.Addresses(ctx)
}

// Scope implements probe.Probe.
func (p *Probe) Scope() string { return "login to postgresql://" + p.server.Place() }

// LockoutAfter implements probe.Probe.
func (p *Probe) LockoutAfter() int { return p.lockoutAfter }

// Canary implements probe.Canarier.
func (p *Probe) Canary() (backends.Value, bool) { return p.canary, !p.canary.IsZero() }
