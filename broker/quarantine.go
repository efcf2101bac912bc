package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// A quarantine is a row, and the tokens of its role are revoked with it. Who is kept out is
// asked for with every request and every step of a stream, so each node has it in memory
// (authn.Callers), looks anew as soon as it has changed something itself, and every
// quarantineLook for what other nodes did. The engine goes by the row.

const (
	quarantinePath = "sys/quarantine"
	// quarantineLook is how old at most is what a node knows of who is kept out.
	quarantineLook = 400 * time.Millisecond
)

// kept is one whom somebody wants to keep out.
type kept struct {
	rotation.Quarantine
	also []string // other consumers that read as its role
}

// role is the one that is kept out; empty: none.
func (k kept) role() string {
	if k.Kind == rotation.KeptRole {
		return k.Name
	}
	return k.Role
}

// quarantining is all whom somebody wants to keep out, and may.
type quarantining []kept

// planQuarantine finds those to be kept out, if p may do that. ErrDenied if not;
// ErrNotFound for what is not configured, or not within p's reach; ErrConflict for a role
// of p's own, unless it is forced.
func (b *Broker) planQuarantine(p authn.Principal, names client.QuarantineNames) (plan quarantining, err error) {
	for _, of := range []struct {
		kind  rotation.Kept
		names []string
	}{{rotation.KeptConsumer, names.Consumers}, {rotation.KeptRole, names.Roles}} {
		for _, name := range slices.Compact(slices.Sorted(slices.Values(of.names))) {
			if _, err := b.decide(p, request{path: engine.QuarantinePath(of.kind, name)}, policy.Update); err != nil {
				return nil, err
			}
			k, err := b.toKeepOut(p, of.kind, name)
			if err != nil {
				return nil, err
			}
			if !names.Force && ownRole(p, k.role()) {
				return nil, fmt.Errorf("%w: %q is the role of the caller, who could not even lift the quarantine again: with --force it is done all the same", backends.ErrConflict, k.role())
			}
			plan = append(plan, k)
		}
	}
	return plan, nil
}

// approvedQuarantine is planQuarantine by who approves an incident: what is not configured
// any more since it was declared is gone, and stands in the way of no containment.
func (b *Broker) approvedQuarantine(p authn.Principal, names client.QuarantineNames) (plan quarantining, gone []string, err error) {
	one := func(what string, names client.QuarantineNames) {
		k, wrong := b.planQuarantine(p, names)
		switch {
		case errors.Is(wrong, backends.ErrNotFound):
			gone = append(gone, what)
		case wrong != nil:
			err = wrong
		}
		plan = append(plan, k...)
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names.Consumers))) {
		one("consumer "+name, client.QuarantineNames{Consumers: []string{name}, Force: names.Force})
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names.Roles))) {
		one("role "+name, client.QuarantineNames{Roles: []string{name}, Force: names.Force})
	}
	return plan, gone, err
}

// toKeepOut finds a consumer or role of the configuration that p reaches.
func (b *Broker) toKeepOut(p authn.Principal, kind rotation.Kept, name string) (k kept, err error) {
	k.Kind, k.Name = kind, name
	rules := b.rulesOf(p)
	switch kind {
	case rotation.KeptConsumer:
		c, err := b.consumer(p, name)
		if err != nil {
			return k, err
		}
		k.Tenant, k.Role = c.Tenant, c.Role
	case rotation.KeptRole:
		role := rules.Roles[name]
		if role == nil || p.Tenant != "" && role.Tenant != p.Tenant {
			return k, notThere("role", name)
		}
		k.Tenant = role.Tenant
	default:
		return k, fmt.Errorf("%w: what is in quarantine is a consumer or a role, not a %q", backends.ErrInvalid, string(kind))
	}
	k.also = rules.readers(p, k.role(), k)
	return k, nil
}

// readers are the consumers of p's reach that read as a role, but the one that is kept out
// by its own name.
func (c *compiled) readers(p authn.Principal, role string, but kept) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(c.Consumers)) {
		k := c.Consumers[name]
		itself := but.Kind == rotation.KeptConsumer && but.Name == name
		if role != "" && k.Role == role && !itself && (p.Tenant == "" || p.Tenant == k.Tenant) {
			names = append(names, name)
		}
	}
	return names
}

// ownRole tells whether p would be kept out with a role.
func ownRole(p authn.Principal, role string) bool {
	return role != "" && slices.ContainsFunc(append([]authn.Principal{p}, p.Within...), func(one authn.Principal) bool {
		return one.Role == role && one.Method != authn.MethodBreakGlass
	})
}

// views are those to be kept out, as a dry run shows them.
func (plan quarantining) views() []client.Quarantine {
	out := []client.Quarantine{}
	for _, k := range plan {
		out = append(out, k.view())
	}
	return out
}

func (k kept) view() client.Quarantine {
	v := viewQuarantine(k.Quarantine)
	v.Also = k.also
	return v
}

func viewQuarantine(q rotation.Quarantine) client.Quarantine {
	return client.Quarantine{Kind: string(q.Kind), Name: q.Name, Tenant: q.Tenant, Role: q.Role, IncidentID: q.IncidentID, Reason: q.Reason, By: q.By,
		At: utc(q.At), LiftedAt: utc(q.LiftedAt), LiftedBy: q.LiftedBy, Lifting: q.Lifting}
}

// quarantine keeps all of them out, inside tx, and returns what they are in, for an
// incident or none: those that were for the same one stay in it. It waits for no log. Once
// it is committed, lookAtQuarantines has this node know at once.
func (b *Broker) quarantine(ctx context.Context, tx *store.Tx, p authn.Principal, plan quarantining, incidentID, reason string) (out []client.Quarantine, err error) {
	for _, k := range plan {
		k.IncidentID = incidentID
		if k.Quarantine, err = b.Engine.Quarantine(ctx, tx, k.Quarantine, asked(p, reason)); err != nil {
			return nil, err
		}
		if _, err := b.endTokensOf(ctx, tx, p, k.role()); err != nil {
			return nil, err
		}
		out = append(out, k.view())
	}
	return out, nil
}

// endTokensOf revokes the tokens of a role, with the events that tell of it.
func (b *Broker) endTokensOf(ctx context.Context, tx *store.Tx, by authn.Principal, role string) (int, error) {
	if role == "" {
		return 0, nil
	}
	ids, err := tx.RevokeTokensOfRole(ctx, role, b.Now())
	for _, id := range ids {
		if err == nil {
			err = tx.AddAudit(ctx, b.tokenEnded(by, id))
		}
	}
	return len(ids), err
}

// lookAtQuarantines has this node know who is kept out by now, and what waited for them go
// on. It is for after a commit, and has nobody wait for long: what fails is done by the
// next regular look.
func (b *Broker) lookAtQuarantines(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quarantineLook)
	defer cancel()
	if err := b.LookAtQuarantines(ctx); err != nil {
		b.Logger.Warn("who is in quarantine cannot be looked up; it is tried again", "error", err)
	}
}

// LookAtQuarantines has this node know who is kept out by now; before the first call it
// knows of nobody. What is new to it is told to the engine by FollowQuarantines.
func (b *Broker) LookAtQuarantines(ctx context.Context) error {
	fresh, err := b.Authn.LookAtQuarantines(ctx)
	for _, q := range fresh {
		b.Logger.Warn("in quarantine", "kind", q.Kind, "name", q.Name, "since", q.At, "by", q.By, "incident", q.IncidentID)
		if q.Kind == rotation.KeptConsumer {
			b.letGo.Store(true)
		}
	}
	return err
}

// FollowQuarantines looks regularly for what other nodes did, until ctx ends, and lets go
// on what waits for consumers that are in quarantine: also after a node has died between
// the commit of a quarantine and that.
func (b *Broker) FollowQuarantines(ctx context.Context) {
	t := time.NewTicker(quarantineLook)
	defer t.Stop()
	failing := ""
	for {
		changed, why := b.Authn.QuarantinesChanged(), ""
		err := b.LookAtQuarantines(ctx)
		if b.letGo.Swap(false) {
			if goErr := b.Engine.LetGo(ctx); goErr != nil {
				b.letGo.Store(true)
				err = errors.Join(err, goErr)
			}
		}
		if err != nil && ctx.Err() == nil {
			why = err.Error()
		}
		if why != "" && why != failing {
			b.Logger.Error("who is in quarantine cannot be looked up: what other nodes keep out is let in here", "error", why)
		}
		failing = why
		select {
		case <-ctx.Done():
			return
		case <-changed: // by this node
		case <-t.C:
		}
	}
}

// quarantinesOf returns the quarantines of an incident that p reaches, lifted or not.
func (b *Broker) quarantinesOf(ctx context.Context, tx *store.Tx, p authn.Principal, incidentID string) ([]client.Quarantine, error) {
	found, err := tx.QuarantinesOf(ctx, incidentID)
	return b.viewQuarantines(p, found), err
}

func (b *Broker) viewQuarantines(p authn.Principal, found []rotation.Quarantine) []client.Quarantine {
	out := []client.Quarantine{}
	for _, q := range found {
		if p.Tenant != "" && q.Tenant != p.Tenant {
			continue
		}
		k := kept{Quarantine: q}
		k.also = b.rulesOf(p).readers(p, k.role(), k)
		out = append(out, k.view())
	}
	return out
}

// Quarantines lists who is in quarantine.
func (b *Broker) Quarantines(ctx context.Context, p authn.Principal) (list client.List[client.Quarantine], err error) {
	err = b.do(ctx, p, policy.List, request{action: "quarantine.list", path: quarantinePath}, func() error {
		return b.Store.View(ctx, func(tx *store.Tx) error {
			found, err := tx.Quarantines(ctx)
			list.Items = b.viewQuarantines(p, found)
			return err
		})
	})
	return list, err
}

// quarantineRequest is what the audit log says of r.
func quarantineRequest(action string, r client.QuarantineRequest) request {
	return request{action: action, path: engine.QuarantinePath(rotation.Kept(r.Kind), r.Name),
		detail: interventionDetail(r.Reason, r.DryRun, "kind", r.Kind, "name", r.Name, "incident", r.IncidentID)}
}

// Quarantine keeps a consumer or a role out until that is lifted. It waits for no log, and
// can be repeated.
func (b *Broker) Quarantine(ctx context.Context, p authn.Principal, r client.QuarantineRequest) (out client.QuarantineIntervention, err error) {
	req := quarantineRequest("quarantine.add", r)
	d, denied := b.decide(p, req, policy.Update)
	if denied != nil {
		return out, b.refuse(ctx, p, req, d, denied)
	}
	plan, err := b.planned(p, r)
	if err == nil {
		err = req.wordy()
	}
	if err != nil {
		return out, b.refuse(ctx, p, req, d, err)
	}
	act := func(tx *store.Tx) error {
		will, err := b.willKeepOut(ctx, tx, plan[0])
		if err != nil {
			return err
		}
		if out.Foretold, err = foretold(r.InterventionRequest, will); err != nil {
			return err
		}
		if err := b.ofIncident(ctx, tx, p, r.IncidentID); err != nil {
			return err
		}
		did, err := b.quarantine(ctx, tx, p, plan, r.IncidentID, r.Reason)
		if err == nil {
			out.Quarantine = did[0]
		}
		return err
	}
	if r.DryRun {
		err = b.serve(ctx, p, req, d, func() (map[string]string, error) { return nil, b.change(ctx, true, act) })
		out.Quarantine.At = time.Time{}
		return out, err
	}
	if err = b.contained(ctx, p, req, d, act); err == nil {
		b.lookAtQuarantines(ctx)
	}
	return out, err
}

// planned is what r asks for.
func (b *Broker) planned(p authn.Principal, r client.QuarantineRequest) (quarantining, error) {
	if strings.TrimSpace(r.Reason) == "" {
		return nil, fmt.Errorf("%w: a quarantine needs a reason: whoever wonders will read it", backends.ErrInvalid)
	}
	names := client.QuarantineNames{Force: r.Force}
	switch r.Kind {
	case client.QuarantineConsumer:
		names.Consumers = []string{r.Name}
	case client.QuarantineRole:
		names.Roles = []string{r.Name}
	default:
		return nil, fmt.Errorf("%w: what is put in quarantine is a consumer or a role", backends.ErrInvalid)
	}
	return b.planQuarantine(p, names)
}

// ofIncident refuses an incident that there is not, or that is beyond p's walls.
func (b *Broker) ofIncident(ctx context.Context, tx *store.Tx, p authn.Principal, id string) error {
	if id == "" {
		return nil
	}
	i, err := tx.Incident(ctx, id)
	if errors.Is(err, backends.ErrNotFound) || err == nil && p.Tenant != "" && i.Tenant != p.Tenant {
		return notThere("incident", id)
	}
	return err
}

// willKeepOut says what follows from a quarantine.
func (b *Broker) willKeepOut(ctx context.Context, tx *store.Tx, k kept) (will []string, err error) {
	say := func(format string, args ...any) { will = append(will, fmt.Sprintf(format, args...)) }
	if k.Kind == rotation.KeptConsumer {
		say("consumer %s is told nothing, collects and acknowledges nothing, and nobody waits for it, until the quarantine is lifted; what it is to be told waits", k.Name)
	}
	role := k.role()
	if role == "" {
		return will, nil
	}
	say("every request of the role %s is refused, logins too, and its tokens are revoked with those that descend from them", role)
	if len(k.also) > 0 {
		say("kept out with it, since they read as the same role: %s: they are told, and can neither read nor acknowledge", strings.Join(k.also, ", "))
	}
	n, err := tx.BreakGlassOfRole(ctx, role, b.Now())
	if n > 0 {
		say("break-glass tokens of the role stay valid (%d): `keybroker token revoke` ends each", n)
	}
	return will, err
}

// LiftQuarantine lets a consumer or a role in again. Tokens of the role stay revoked, and
// those that were made meanwhile are.
func (b *Broker) LiftQuarantine(ctx context.Context, p authn.Principal, r client.QuarantineRequest) (out client.QuarantineIntervention, err error) {
	err = b.do(ctx, p, policy.Update, quarantineRequest("quarantine.lift", r), func() error {
		return b.change(ctx, r.DryRun, func(tx *store.Tx) (err error) {
			out, err = b.lift(ctx, tx, p, r)
			return err
		})
	})
	if err == nil && !r.DryRun {
		b.lookAtQuarantines(ctx)
	}
	return out, err
}

func (b *Broker) lift(ctx context.Context, tx *store.Tx, p authn.Principal, r client.QuarantineRequest) (out client.QuarantineIntervention, err error) {
	if strings.TrimSpace(r.Reason) == "" {
		return out, fmt.Errorf("%w: say why the quarantine is lifted", backends.ErrInvalid)
	}
	kind := rotation.Kept(r.Kind)
	lifted, err := b.Engine.LiftQuarantine(ctx, tx, kind, r.Name, asked(p, r.Reason))
	if err != nil {
		return out, err
	}
	if len(lifted) == 0 || p.Tenant != "" && slices.ContainsFunc(lifted, func(q rotation.Quarantine) bool { return q.Tenant != p.Tenant }) {
		return out, notThere("quarantine of the "+cmp.Or(r.Kind, client.QuarantineConsumer), r.Name)
	}
	k := kept{Quarantine: lifted[0]}
	if _, err := b.endTokensOf(ctx, tx, p, k.role()); err != nil {
		return out, err
	}
	left, err := tx.Quarantines(ctx)
	if err != nil {
		return out, err
	}
	if out.Foretold, err = foretold(r.InterventionRequest, willLetIn(k, left)); err != nil {
		return out, err
	}
	k.also = b.rulesOf(p).readers(p, k.role(), k)
	out.Quarantine = k.view()
	return out, nil
}

// willLetIn says what follows from the end of a quarantine, where others are left.
func willLetIn(k kept, left []rotation.Quarantine) (will []string) {
	if k.Kind == rotation.KeptConsumer {
		will = append(will, fmt.Sprintf("consumer %s is told of what waits for it and of the current versions of its secrets", k.Name))
	}
	role := k.role()
	if role == "" {
		return will
	}
	for _, q := range left {
		if other := (kept{Quarantine: q}); other.role() == role {
			return append(will, fmt.Sprintf("the role %s stays out: the %s %s is %s", role, q.Kind, q.Name, q))
		}
	}
	return append(will, fmt.Sprintf("the role %s is let in again; its tokens stay revoked: its principals log in anew, or are given others", role))
}
