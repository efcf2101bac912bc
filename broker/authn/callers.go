package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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
	tallies  *tallies
	verified *verified

	quarantines *quarantines

	touchAfter atomic.Int64 // nanoseconds of Unix time; 0: at any time
}

// NewCallers returns Callers that know no role and no method until they have Rules.
// The logger is told why nobody can be authenticated, which callers are not.
func NewCallers(tokens *Tokens, log Log, logger hclog.Logger) *Callers {
	c := &Callers{Tokens: tokens, log: log, logger: logger, throttle: newThrottle(tokens.now), tallies: newTallies(tokens.now()), verified: newVerified(), quarantines: newQuarantines()}
	c.SetRules(Rules{})
	return c
}

// SetRules replaces the rules, for whoever calls from now on.
func (c *Callers) SetRules(r Rules) {
	c.rules.Store(&r)
	c.verified.forget()
}

// Rules are those in force. They must not be changed.
func (c *Callers) Rules() *Rules { return c.rules.Load() }

// RulesOf are the rules that p was found out by, in force or not: what p may do is
// decided by no others, else somebody would be who they were and may what is allowed by
// now. For one whom no rules found out they are those in force.
func (c *Callers) RulesOf(p Principal) *Rules {
	if p.rules != nil {
		return p.rules
	}
	return c.Rules()
}

// refusal is why credentials are not accepted: whose they seem to be, as far as that
// is known, and what the audit log and the caller are told of it.
type refusal struct {
	actor, tenant, method string
	why                   string
	told                  string   // empty: nothing
	proven                bool     // it is certain who it is, who merely has no role: nothing is guessed
	kept                  *KeptOut // the role is in quarantine, which is told
}

// The actions in the audit log of who is refused.
const (
	byTokenAction       = "auth.token"
	byCertificateAction = "auth.certificate"
)

// Authenticate returns who shows credentials: who shows a token is its holder,
// whatever certificate the connection has. ErrDenied if they are not accepted (any
// more), which is audited, and answered the later the more often that happens to an
// address, a *Slowed in the end; a *KeptOut if it is certain who calls, whose role is in
// quarantine; ErrUnavailable, whose text has no cause, if it cannot
// be told now.
func (c *Callers) Authenticate(ctx context.Context, shown Credentials) (p Principal, err error) {
	rules := c.rules.Load()
	var refused *refusal
	action := byTokenAction
	switch {
	case shown.Token != "":
		p, refused, err = c.byToken(ctx, shown, rules)
	case len(shown.Certificates) > 0:
		action = byCertificateAction
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
		ev.Actor = Anonymous
	}
	if c.Apart(Principal{ID: ev.Actor, Tenant: ev.Tenant, Address: shown.Address}) {
		if err := c.log.Write(ctx, audit.Record{AuditEvent: ev}, audit.Written); err != nil {
			return c.cannotTell(ctx, err)
		}
	}
	if !r.proven && (shown.Token != "" || len(shown.Certificates) > 0) { // else nothing was tried
		if err := c.Failed(ctx, shown.Address); err != nil {
			return err
		}
	}
	if r.kept != nil {
		return r.kept
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

// Again returns who p is by now, by the rules in force and by what has become of the
// token, for what takes longer than to authenticate does. ErrDenied, which is audited,
// if p would not be authenticated any more; ErrUnavailable, whose text has no cause, if
// that cannot be told now.
func (c *Callers) Again(ctx context.Context, p Principal) (again Principal, err error) {
	rules := c.rules.Load()
	var refused *refusal
	action := byTokenAction
	if p.HasToken() {
		again, refused, err = c.byTokenAgain(ctx, p, rules)
	} else {
		action = byCertificateAction
		again, refused, err = c.byCertificate(Credentials{Certificates: p.chain, Role: p.Role, Address: p.Address, Request: p.Request}, rules)
		if err == nil && refused == nil && again.ID != p.ID {
			refused = &refusal{actor: p.ID, tenant: p.Tenant, method: p.Method, why: "the certificate is somebody else's by now"}
		}
	}
	if err != nil {
		return Principal{}, c.cannotTell(ctx, err)
	}
	if refused == nil {
		return again, nil
	}
	return Principal{}, c.refuse(ctx, action, Credentials{Address: p.Address, Request: p.Request}, refused) // nothing new was tried
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

// Ended tells whether a token is good for nothing any more: it never works again, or
// there is none.
func (c *Callers) Ended(ctx context.Context, text backends.SecretString) (ended bool, err error) {
	err = c.db.View(ctx, func(tx *store.Tx) error {
		rec, err := tx.TokenByHash(ctx, c.hash(text.Reveal()))
		if errors.Is(err, backends.ErrNotFound) {
			ended = true
			return nil
		}
		if err != nil {
			return err
		}
		state, err := c.State(ctx, tx, rec)
		ended = slices.Contains([]string{StateRevoked, StateExpired, StateIdle}, state)
		return err
	})
	return ended, err
}

func (c *Callers) cannotTell(ctx context.Context, cause error) error {
	if ctx.Err() == nil { // else the caller is gone
		c.logger.Error("a caller cannot be authenticated", "error", cause)
	}
	return errCannotTell
}
