package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// request is what the audit log says of one call, in two records: the request with
// what was decided, before anything is done, and the response with what came of it.
// Both have an outcome: "ok", "denied", or "failed" for what was allowed, or needs
// no permission, and came to nothing.
type request struct {
	action  string
	path    string
	detail  map[string]string
	secret  rotation.Secret   // that it is about; zero: none that the caller reaches
	version int               // of the secret; 0: none in particular
	hashes  map[string]string // keyed, of what was sent, by its name
}

const (
	outcomeOK     = "ok"
	outcomeDenied = "denied"
	outcomeFailed = "failed"
)

// maxDetail bounds what a caller's words, such as a reason, take in the log and in
// all that is told of them, in bytes.
const maxDetail = 2048

// wordy refuses what says more than is kept.
func (r request) wordy() error {
	for name, text := range r.detail {
		if len(text) > maxDetail {
			return fmt.Errorf("%w: the %s is %d bytes long, at most %d are kept: say it in fewer words", backends.ErrInvalid, name, len(text), maxDetail)
		}
	}
	return nil
}

// cut shortens a text to what is kept of one.
func cut(text string) string {
	if len(text) <= maxDetail {
		return text
	}
	return strings.ToValidUTF8(text[:maxDetail], "") + "…"
}

// about says in r which secret it is about: s, or, where there is none, what the
// caller called it.
func (r request) about(name string, s rotation.Secret) request {
	detail := maps.Clone(r.detail)
	if detail == nil {
		detail = map[string]string{}
	}
	if detail["secret"] = name; s.ID != "" {
		detail["tenant"], detail["secret"] = s.Ref.Tenant, s.Ref.Name
	}
	r.detail, r.secret = detail, s
	return r
}

// decided is what was decided of a request, and by which rule.
type decided struct {
	capability policy.Capability // that decided; empty: it takes none, or its parts are decided one by one
	policy.Decision
	// changes: what it takes no capability for, or one that decides for others as well,
	// changes something.
	changes bool
}

// reading are the capabilities that change nothing.
var reading = []policy.Capability{policy.Read, policy.ReadPrevious, policy.ReadPending, policy.List}

// durability is how a request's record is to be written before it is served.
func (d decided) durability() audit.Durability {
	if d.changes || d.capability != "" && !slices.Contains(reading, d.capability) {
		return audit.Synced
	}
	return audit.Written
}

// event is one record of r.
func (b *Broker) event(p authn.Principal, r request, d decided, kind rotation.AuditKind, outcome string) rotation.AuditEvent {
	ev := rotation.AuditEvent{At: b.Now(), Kind: kind, Request: p.Request, Tenant: p.Tenant, Actor: p.ID, Role: p.Role, Method: p.Method, Identity: p.Identity,
		Address: p.Address.String(), Action: r.action, Path: cut(r.path), Outcome: outcome,
		Capability: string(d.capability), Policy: d.Policy, Rule: d.Path, Version: r.version, Hashes: r.hashes}
	if r.secret.ID != "" {
		ev.Secret = r.secret.Ref.String()
		ev.Tenant = r.secret.Ref.Tenant // also where an operator asks: it is about what is the tenant's
	}
	ev.Detail = map[string]string{"name": p.Name}
	for name, text := range r.detail {
		ev.Detail[name] = cut(text)
	}
	return ev
}

// record writes that r was decided. What was allowed must not happen if it fails.
func (b *Broker) record(ctx context.Context, p authn.Principal, r request, d decided, outcome string) error {
	err := b.Audit.Write(ctx, audit.Record{AuditEvent: b.event(p, r, d, rotation.AuditRequest, outcome)}, d.durability())
	if err != nil {
		return fmt.Errorf("%s: %w", r.action, err)
	}
	return nil
}

// respond writes what came of r. What is sensitive in the answer is in the log as
// keyed hashes, so that whoever got a value can be found by it.
func (b *Broker) respond(ctx context.Context, p authn.Principal, r request, d decided, result error, sensitive map[string]string) error {
	ev := b.event(p, r, d, rotation.AuditResponse, outcomeOK)
	if result != nil {
		ev.Outcome = outcomeFailed
		if ev.Detail["error"] = classOf(result); !d.Allowed {
			ev.Outcome = outcomeDenied
		}
	}
	err := b.Audit.Write(context.WithoutCancel(ctx), audit.Record{AuditEvent: ev, Sensitive: sensitive}, audit.Written)
	if err != nil {
		return fmt.Errorf("%s: %w", r.action, err)
	}
	return nil
}

// classOf names the class of an error: its text may quote what the caller sent.
func classOf(err error) string {
	if c := backends.Class(err); c != nil {
		return c.Error()
	}
	return "internal"
}

// refuse writes both records of r, which came to nothing, and returns why. If that
// cannot be written, nothing has happened that the log should tell of.
func (b *Broker) refuse(ctx context.Context, p authn.Principal, r request, d decided, why error) error {
	outcome := outcomeOK
	if !d.Allowed {
		outcome = outcomeDenied
	}
	err := b.record(ctx, p, r, d, outcome)
	if err == nil {
		err = b.respond(ctx, p, r, d, why, nil)
	}
	if err != nil {
		b.Logger.Error("a refused request is not in the audit log", "action", r.action, "outcome", outcome, "error", err)
	}
	return why
}

// decide tells whether p may all that.
func (b *Broker) decide(p authn.Principal, r request, all ...policy.Capability) (d decided, err error) {
	if err := b.Authn.Barred(p); err != nil { // since who calls was found out
		return decided{capability: all[0], changes: true}, err
	}
	for _, c := range all {
		changes := d.changes || !slices.Contains(reading, c)
		d = decided{capability: c, changes: changes, Decision: b.rulesOf(p).decide(p, r.path, c, b.facts(p, r.secret))}
		why := d.reason()
		if wall := wallsOf(p).Before(r.path, c); wall != policy.NoWall {
			d.Allowed, why = false, fmt.Sprintf("it concerns every %s, and the caller is bound to one", wall)
		}
		if !d.Allowed {
			return d, fmt.Errorf("%w: %s on %q is not allowed: %s", backends.ErrDenied, c, r.path, why)
		}
	}
	return d, nil
}

func wallsOf(p authn.Principal) policy.Walls {
	return policy.Walls{Tenant: p.Tenant, Environment: p.Environment}
}

// reason says why it was decided so.
func (d decided) reason() string {
	switch {
	case d.Path == "":
		return "no policy of the caller grants it"
	case d.Unmet != "":
		// Which ones is not told: it would tell whether there is such a secret.
		return fmt.Sprintf("policy %q decides, by its path %q, and its conditions do not hold here and now (`keybroker policy check` tells which)", d.Policy, d.Path)
	}
	return fmt.Sprintf("policy %q decides, by its path %q", d.Policy, d.Path)
}

// do authorises p for capability c and runs act.
func (b *Broker) do(ctx context.Context, p authn.Principal, c policy.Capability, r request, act func() error) error {
	return b.doAll(ctx, p, []policy.Capability{c}, r, act)
}

// doAll authorises p for every one of the capabilities and runs act.
func (b *Broker) doAll(ctx context.Context, p authn.Principal, all []policy.Capability, r request, act func() error) error {
	return b.doSensitive(ctx, p, all, r, func() (map[string]string, error) { return nil, act() })
}

// doSensitive is doAll for an act that tells what of its answer is sensitive.
func (b *Broker) doSensitive(ctx context.Context, p authn.Principal, all []policy.Capability, r request, act func() (map[string]string, error)) error {
	d, denied := b.decide(p, r, all...)
	if denied != nil {
		if err := b.record(ctx, p, r, d, outcomeDenied); err != nil {
			return err
		}
		return errorOr(b.respond(ctx, p, r, d, denied, nil), denied)
	}
	return b.serve(ctx, p, r, d, act)
}

func errorOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// serve runs act, which was allowed, between the two records of r. What is read is
// handed out only if both are written. What was changed is changed whether or not
// the second can be written: the events committed with it tell of it, too.
func (b *Broker) serve(ctx context.Context, p authn.Principal, r request, d decided, act func() (sensitive map[string]string, err error)) error {
	if err := r.wordy(); err != nil {
		return b.refuse(ctx, p, r, d, err)
	}
	if err := b.record(ctx, p, r, d, outcomeOK); err != nil {
		return err
	}
	sensitive, result := act()
	err := b.respond(ctx, p, r, d, result, sensitive)
	switch {
	case err == nil || result != nil:
		return result
	case d.durability() == audit.Written:
		return err
	}
	b.Logger.Error("what came of a request is not in the audit log; the events committed with it will be", "action", r.action, "error", err)
	return nil
}

// containing is serve for what goes on with an emergency and cannot be one transaction:
// its records are committed to the store, and wait for no log.
func (b *Broker) containing(ctx context.Context, p authn.Principal, r request, d decided, act func() error) error {
	if err := r.wordy(); err != nil {
		return b.refuse(ctx, p, r, d, err)
	}
	add := func(kind rotation.AuditKind, outcome string, result error) error {
		ev := b.event(p, r, d, kind, outcome)
		if result != nil {
			ev.Detail["error"] = classOf(result)
		}
		return b.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error { return tx.AddAudit(ctx, ev) })
	}
	if err := add(rotation.AuditRequest, outcomeOK, nil); err != nil {
		return err
	}
	result, outcome := act(), outcomeOK
	if result != nil {
		outcome = outcomeFailed
	}
	if err := add(rotation.AuditResponse, outcome, result); err != nil {
		b.Logger.Error("what came of a request is not in the audit log; the events committed with it will be", "action", r.action, "error", err)
	}
	return result
}

// contain authorises p for capability c and runs act in a read-write transaction,
// which turns something off: the records are committed with it, so that it waits
// for no log, however long that takes to be written.
func (b *Broker) contain(ctx context.Context, p authn.Principal, c policy.Capability, r request, act func(*store.Tx) error) error {
	d, err := b.decide(p, r, c)
	if err == nil {
		err = r.wordy()
	}
	if err != nil {
		return b.refuse(ctx, p, r, d, err)
	}
	return b.contained(ctx, p, r, d, act)
}

// contained is contain for what was decided already.
func (b *Broker) contained(ctx context.Context, p authn.Principal, r request, d decided, act func(*store.Tx) error) error {
	err := b.Store.UpdateLatest(engine.First(ctx), func(tx *store.Tx) error {
		if err := tx.AddAudit(ctx, b.event(p, r, d, rotation.AuditRequest, outcomeOK)); err != nil {
			return err
		}
		if err := act(tx); err != nil {
			return err
		}
		return tx.AddAudit(ctx, b.event(p, r, d, rotation.AuditResponse, outcomeOK))
	})
	if err != nil {
		return b.cameToNothing(ctx, p, r, d, err)
	}
	return nil
}

// cameToNothing is refuse for what waits for no log: both records are committed to the
// store. Where not even that answers, there is nothing to wait for.
func (b *Broker) cameToNothing(ctx context.Context, p authn.Principal, r request, d decided, why error) error {
	ctx = context.WithoutCancel(ctx)
	err := b.Store.Update(ctx, func(tx *store.Tx) error {
		response := b.event(p, r, d, rotation.AuditResponse, outcomeFailed)
		response.Detail["error"] = classOf(why)
		return errors.Join(tx.AddAudit(ctx, b.event(p, r, d, rotation.AuditRequest, outcomeOK)), tx.AddAudit(ctx, response))
	})
	if err != nil {
		b.Logger.Error("a refused request is not in the audit log", "action", r.action, "outcome", outcomeFailed, "error", err)
	}
	return why
}
