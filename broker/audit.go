package broker

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/policy"
)

const auditPath = "sys/audit"

// AuditRecords looks through the audit log of this node. Who is bound to a tenant sees
// its records only.
func (b *Broker) AuditRecords(ctx context.Context, p authn.Principal, q client.AuditQuery) (client.List[client.AuditRecord], error) {
	out := client.List[client.AuditRecord]{Items: []client.AuditRecord{}}
	detail, mistaken := auditDetail(q)
	err := b.do(ctx, p, policy.Read, request{action: "audit.query", path: auditPath, detail: detail}, func() error {
		if mistaken != nil {
			return mistaken
		}
		if p.Tenant != "" && q.Tenant != "" && q.Tenant != p.Tenant {
			return nil
		}
		if p.Tenant != "" {
			q.Tenant = p.Tenant
		}
		found, err := pageOfAudit(q, func(q audit.Query) (audit.Found, error) { return b.Audit.Query(ctx, q) })
		if err == nil {
			out = found
		}
		return err
	})
	return out, err
}

// SearchAudit looks through the files of a log, the newest of which is at path.
func SearchAudit(ctx context.Context, path string, q client.AuditQuery) (client.List[client.AuditRecord], error) {
	return pageOfAudit(q, func(q audit.Query) (audit.Found, error) { return audit.Search(ctx, path, q) })
}

func pageOfAudit(q client.AuditQuery, search func(audit.Query) (audit.Found, error)) (client.List[client.AuditRecord], error) {
	out := client.List[client.AuditRecord]{Items: []client.AuditRecord{}}
	before, err := indexAfter(q.After)
	if err != nil {
		return out, err
	}
	found, err := search(audit.Query{Tenant: q.Tenant, Actor: q.Actor, Action: q.Action, Secret: q.Secret, Path: q.Path, Outcome: q.Outcome,
		Request: q.Request, Hash: q.Hash, Since: q.Since, Until: q.Until, Before: before, Limit: q.Limit})
	for _, ln := range found.Lines {
		out.Items = append(out.Items, ViewAudit(ln))
	}
	if found.Next > 0 {
		out.Next = strconv.FormatInt(found.Next, 10)
	}
	return out, err
}

// hashForm is what a hash is recognised by: what else is given for one may be what was
// to be hashed.
var hashForm = regexp.MustCompile(`^hmac-sha256:[0-9a-f]{64}$`)

var outcomes = []string{outcomeOK, outcomeDenied, outcomeFailed}

// auditDetail is what was looked for; a hash is not secret. What may be a secret is
// left out, and refused.
func auditDetail(q client.AuditQuery) (d map[string]string, mistaken error) {
	d = map[string]string{}
	for name, text := range map[string]string{"actor": q.Actor, "action": q.Action, "secret": q.Secret, "path": q.Path, "outcome": q.Outcome, "request": q.Request, "hash": q.Hash, "tenant": q.Tenant} {
		switch {
		case text == "":
		case isToken(text) || name == "hash" && !hashForm.MatchString(text):
			mistaken = fmt.Errorf("%w: the parameter %s may hold a secret itself, or is no whole hash: ask for it (keybroker audit hash), and look for hmac-sha256: and 64 digits", backends.ErrInvalid, name)
		default:
			d["query_"+name] = text
		}
	}
	if q.Outcome != "" && !slices.Contains(outcomes, q.Outcome) {
		mistaken = fmt.Errorf("%w: the parameter outcome is one of %s", backends.ErrInvalid, strings.Join(outcomes, ", "))
	}
	for name, at := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !at.IsZero() {
			d["query_"+name] = at.UTC().Format(time.RFC3339)
		}
	}
	return d, mistaken
}

func indexAfter(after string) (int64, error) {
	if after == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(after, 10, 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%w: this is no place to go on from: give what the page before had as next", backends.ErrInvalid)
	}
	return n, nil
}

// AuditHash tells what the log has in the place of a text.
func (b *Broker) AuditHash(ctx context.Context, p authn.Principal, r client.AuditHashRequest) (out client.AuditHash, err error) {
	detail := map[string]string{} // who tries texts that may be somebody's leaves all that they tried
	if r.Text.Reveal() != "" {
		detail["hash"] = b.Audit.Hash(r.Text.Reveal())
	}
	err = b.do(ctx, p, policy.Read, request{action: "audit.hash", path: auditPath, detail: detail}, func() error {
		if detail["hash"] == "" {
			return fmt.Errorf("%w: there is no text to hash", backends.ErrInvalid)
		}
		out.Hash = detail["hash"]
		return nil
	})
	return out, err
}

// AuditCheckpoint returns the newest checkpoint of this node's log, which is of all
// tenants.
func (b *Broker) AuditCheckpoint(ctx context.Context, p authn.Principal) (out client.AuditCheckpoint, err error) {
	err = b.do(ctx, p, policy.Read, request{action: "audit.checkpoint", path: auditPath}, func() error {
		if p.Tenant != "" {
			return fmt.Errorf("%w: the audit log is of all tenants, and the caller is bound to %q", backends.ErrDenied, p.Tenant)
		}
		c, err := b.Audit.Sign(ctx)
		if err != nil {
			return err
		}
		out = client.AuditCheckpoint{Key: b.Audit.PublicKey(), Origin: b.Audit.Origin(), Size: c.Size, Time: c.At, Checkpoint: c.Note}
		return nil
	})
	return out, err
}

// ViewAudit is a record as callers see it.
func ViewAudit(ln audit.Line) client.AuditRecord {
	return client.AuditRecord{Index: ln.Index, Time: ln.At, Kind: string(ln.Kind), Request: ln.Request, Tenant: ln.Tenant, Actor: ln.Actor, Role: ln.Role,
		Method: ln.Method, Identity: ln.Identity, Address: ln.Address, Action: ln.Action, Path: ln.Path, Capability: ln.Capability, Policy: ln.Policy, Rule: ln.Rule,
		Secret: ln.Secret, Version: ln.Version, Outcome: ln.Outcome, Detail: ln.Detail, Hashes: ln.Hashes}
}
