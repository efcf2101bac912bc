package broker

import (
	"fmt"
	"maps"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// request is what the audit log says of one call. Its lines have an outcome:
// "ok" before what was allowed happens, "denied", and "failed" for what was
// allowed, or needs no permission, and came to nothing.
type request struct {
	action string
	path   string
	detail map[string]string
}

const (
	outcomeOK     = "ok"
	outcomeDenied = "denied"
	outcomeFailed = "failed"
)

// about says in r whose secret it is about: ref, or, where there is none, what
// the caller called it.
func (r request) about(name string, ref backends.Ref) request {
	detail := maps.Clone(r.detail)
	if detail == nil {
		detail = map[string]string{}
	}
	if detail["secret"] = name; ref != (backends.Ref{}) {
		detail["tenant"], detail["secret"] = ref.Tenant, ref.Name
	}
	r.detail = detail
	return r
}

// record writes one line about r. What it tells of must not happen if it fails.
func (b *Broker) record(p authn.Principal, r request, outcome string, more map[string]string) error {
	detail := map[string]string{"name": p.Name}
	maps.Copy(detail, r.detail)
	maps.Copy(detail, more)
	err := b.Audit.Record(rotation.AuditEvent{At: b.Now(), Tenant: p.Tenant, Actor: p.ID, Address: p.Address.String(),
		Action: r.action, Path: r.path, Outcome: outcome, Detail: detail})
	if err != nil {
		return fmt.Errorf("%s: %w", r.action, err)
	}
	return nil
}

// refuse writes that r came to nothing. If it cannot be written, nothing has
// happened that the log should tell of.
func (b *Broker) refuse(p authn.Principal, r request, outcome string, more map[string]string) {
	if err := b.record(p, r, outcome, more); err != nil {
		b.Logger.Error("a refused request is not in the audit log", "action", r.action, "outcome", outcome, "error", err)
	}
}

// authorize decides whether p may all that, and audits both answers. What it
// allows is in the audit log before it happens.
func (b *Broker) authorize(p authn.Principal, r request, all ...policy.Capability) error {
	var d policy.Decision
	var c policy.Capability
	for _, c = range all {
		if d = b.allows(p, r.path, c); !d.Allowed {
			break
		}
	}
	if d.Allowed {
		return b.record(p, r, outcomeOK, nil)
	}
	if err := b.record(p, r, outcomeDenied, map[string]string{"capability": string(c)}); err != nil {
		return err
	}
	why := "no policy of the token grants it"
	if d.Policy != "" {
		why = fmt.Sprintf("policy %q decides, by its path %q", d.Policy, d.Path)
	}
	return fmt.Errorf("%w: %s on %q is not allowed: %s", backends.ErrDenied, c, r.path, why)
}

// do authorises p for capability c and runs act.
func (b *Broker) do(p authn.Principal, c policy.Capability, r request, act func() error) error {
	return b.doAll(p, []policy.Capability{c}, r, act)
}

// doAll authorises p for every one of the capabilities and runs act.
func (b *Broker) doAll(p authn.Principal, all []policy.Capability, r request, act func() error) error {
	if err := b.authorize(p, r, all...); err != nil {
		return err
	}
	return b.failed(p, r, act())
}

// failed audits err, if it is one, and returns it. The log has its class alone:
// its text may quote what the caller sent.
func (b *Broker) failed(p authn.Principal, r request, err error) error {
	if err == nil {
		return nil
	}
	class := "internal"
	if c := backends.Class(err); c != nil {
		class = c.Error()
	}
	b.refuse(p, r, outcomeFailed, map[string]string{"error": class})
	return err
}
