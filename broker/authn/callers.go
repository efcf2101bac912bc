package authn

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// Log is the audit log.
type Log interface {
	// Write returns when the record is as durable as asked for; what it tells of must
	// not happen after an error.
	Write(ctx context.Context, rec audit.Record, d audit.Durability) error
}

// Callers tells who is calling, by the tokens and the certificates that the rules
// accept. It is safe for concurrent use.
type Callers struct {
	*Tokens
	log      Log
	logger   hclog.Logger
	rules    atomic.Pointer[Rules]
	throttle *throttle
	verified *verified
}

// NewCallers returns Callers that know no role and no method until they have Rules.
// The logger is told why nobody can be authenticated, which callers are not.
func NewCallers(tokens *Tokens, log Log, logger hclog.Logger) *Callers {
	c := &Callers{Tokens: tokens, log: log, logger: logger, throttle: newThrottle(tokens.now), verified: newVerified()}
	c.SetRules(Rules{})
	return c
}

// SetRules replaces the rules, for whoever calls from now on.
func (c *Callers) SetRules(r Rules) {
	c.rules.Store(&r)
	c.verified.forget()
}

// Rules are those in force. They must not be changed.
func (c *Callers) Rules() Rules { return *c.rules.Load() }

// refusal is why credentials are not accepted: whose they seem to be, as far as that
// is known, and what the audit log and the caller are told of it.
type refusal struct {
	actor, tenant, method string
	why                   string
	told                  string // empty: nothing
}

// Authenticate returns who shows credentials: who shows a token is its holder,
// whatever certificate the connection has. ErrDenied if they are not accepted (any
// more), which is audited, and answered the later the more often that happens to an
// address, a *Slowed in the end; ErrUnavailable, whose text has no cause, if it cannot
// be told now.
func (c *Callers) Authenticate(ctx context.Context, shown Credentials) (p Principal, err error) {
	rules := c.rules.Load()
	var refused *refusal
	action := "auth.token"
	switch {
	case shown.Token != "":
		p, refused, err = c.byToken(ctx, shown, rules)
	case len(shown.Certificates) > 0:
		action = "auth.certificate"
		p, refused, err = c.byCertificate(shown, rules)
	default:
		refused = &refusal{why: "no credentials"}
	}
	if err != nil {
		return Principal{}, c.cannotTell(ctx, err)
	}
	if refused == nil {
		return p, nil
	}
	return Principal{}, c.refuse(ctx, action, shown, refused)
}

// refuse audits a refusal and returns the error of it, in time.
func (c *Callers) refuse(ctx context.Context, action string, shown Credentials, r *refusal) error {
	ev := rotation.AuditEvent{At: c.now(), Kind: rotation.AuditRequest, Request: shown.Request, Tenant: r.tenant, Actor: r.actor, Method: r.method,
		Address: shown.Address.String(), Action: action, Path: "sys/auth", Outcome: "denied", Detail: map[string]string{"why": r.why}}
	if ev.Actor == "" {
		ev.Actor = "anonymous"
	}
	if err := c.log.Write(ctx, audit.Record{AuditEvent: ev}, audit.Written); err != nil {
		return c.cannotTell(ctx, err)
	}
	if shown.Token != "" || len(shown.Certificates) > 0 { // else nothing was tried
		if err := c.Failed(ctx, shown.Address); err != nil {
			return err
		}
	}
	if r.told != "" {
		return &Refused{text: r.told}
	}
	return fmt.Errorf("authenticating: %w: %s", backends.ErrDenied, r.why)
}

// Failed is called when somebody has failed to authenticate, and returns when they
// may be answered: with a *Slowed if they are to stay away.
func (c *Callers) Failed(ctx context.Context, from netip.Addr) error {
	if after := c.throttle.failed(ctx, from); after > 0 {
		return &Slowed{after: after}
	}
	return nil
}

// Valid tells whether p would still be authenticated, for what goes on for longer
// than a request.
func (c *Callers) Valid(ctx context.Context, p Principal) (bool, error) {
	rules := c.rules.Load()
	if p.chain == nil {
		return c.valid(ctx, p, rules)
	}
	again, refused, err := c.byCertificate(Credentials{Certificates: p.chain, Role: p.Role, Address: p.Address}, rules)
	return err == nil && refused == nil && again.ID == p.ID && again.Tenant == p.Tenant && again.Environment == p.Environment, err
}

// State tells how a token stands now: one of the states of this package.
func (c *Callers) State(ctx context.Context, tx *store.Tx, rec store.Token) (string, error) {
	l, err := lineOf(ctx, tx, rec)
	if err != nil {
		return "", err
	}
	_, state := l.stand(c.rules.Load(), c.now())
	if state == StateActive && rec.Uses > 0 && rec.UsesLeft == 0 {
		state = StateUsedUp
	}
	return state, nil
}

func (c *Callers) cannotTell(ctx context.Context, cause error) error {
	if ctx.Err() == nil { // else the caller is gone
		c.logger.Error("a caller cannot be authenticated", "error", cause)
	}
	return errCannotTell
}
