package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// errDryRun ends the transaction of a dry run: everything was done in it, and
// nothing is kept.
var errDryRun = errors.New("a dry run")

// change runs fn in a read-write transaction, of which a dry run keeps nothing.
func (b *Broker) change(ctx context.Context, dryRun bool, fn func(*store.Tx) error) error {
	err := b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
		if err := fn(tx); err != nil || !dryRun {
			return err
		}
		return errDryRun
	})
	if errors.Is(err, errDryRun) {
		return nil
	}
	return err
}

// interventionDetail is what the audit log says of an intervention.
func interventionDetail(reason string, dryRun bool, more ...string) map[string]string {
	d := map[string]string{"reason": reason}
	if dryRun {
		d["dry_run"] = "true"
	}
	for i := 0; i < len(more); i += 2 {
		d[more[i]] = more[i+1]
	}
	return d
}

// target is what an intervention is about: a record of a secret.
type target struct {
	kind, id string
	// of returns whose it is, and whether it belongs to an emergency.
	of func(context.Context, *store.Tx) (s rotation.Secret, emergency bool, err error)
}

func onRotation(id string) target {
	return target{"rotation", id, func(ctx context.Context, tx *store.Tx) (rotation.Secret, bool, error) {
		r, err := tx.Rotation(ctx, id)
		if err != nil {
			return rotation.Secret{}, false, err
		}
		s, err := tx.Secret(ctx, r.SecretID)
		return s, r.Emergency(), err
	}}
}

func onRetirement(id string) target {
	return target{"retirement", id, func(ctx context.Context, tx *store.Tx) (rotation.Secret, bool, error) {
		t, err := tx.Retirement(ctx, id)
		if err != nil {
			return rotation.Secret{}, false, err
		}
		s, err := tx.Secret(ctx, t.SecretID)
		return s, t.Emergency(), err
	}}
}

func onDelivery(id string) target {
	return target{"delivery", id, func(ctx context.Context, tx *store.Tx) (rotation.Secret, bool, error) {
		d, err := tx.Delivery(ctx, id)
		if err != nil {
			return rotation.Secret{}, false, err
		}
		s, err := tx.Secret(ctx, d.SecretID)
		return s, d.Trigger == rotation.TriggerEmergency, err
	}}
}

// targeted looks up whose record at is, and what p may know of that secret. What p
// does not reach is missing.
func (b *Broker) targeted(ctx context.Context, p authn.Principal, at target) (of rotation.Secret, may sight, emergency bool, missing error) {
	missing = b.Store.View(ctx, func(tx *store.Tx) (err error) {
		if of, emergency, err = at.of(ctx, tx); err == nil {
			may, err = b.sight(ctx, tx, p, of)
		}
		return err
	})
	if errors.Is(missing, backends.ErrNotFound) || missing == nil && !may.reaches {
		missing = notThere(at.kind, at.id)
	}
	return of, may, emergency, missing
}

// intervene authorises p for capability c on the secret that at belongs to (in
// place of rotate, for emergency where it belongs to one), then runs fn in a
// read-write transaction. Who may neither do that nor see the secret is told that
// there is no such record.
func (b *Broker) intervene(ctx context.Context, p authn.Principal, c policy.Capability, action string, at target, r client.InterventionRequest, fn func(*store.Tx, backends.Ref) error) error {
	of, may, emergency, missing := b.targeted(ctx, p, at)
	if c == policy.Rotate && emergency {
		c = policy.Emergency
	}
	req := request{action: action, path: recordPath[at.kind] + at.id, detail: interventionDetail(r.Reason, r.DryRun, at.kind, at.id)}
	if missing != nil { // nobody needs a permission to be told
		return b.refuse(ctx, p, req, itemwise, missing)
	}
	req = req.about(of.Ref.Name, of)
	if req.path = of.Ref.Name; !may.sees && !b.allows(p, req.path, of, c) {
		return b.unseen(ctx, p, req, at.kind, at.id)
	}
	if emergency && !r.DryRun { // it goes on with a containment
		return b.contain(ctx, p, c, req, func(tx *store.Tx) error { return fn(tx, of.Ref) })
	}
	return b.do(ctx, p, c, req, func() error {
		return b.change(ctx, r.DryRun, func(tx *store.Tx) error { return fn(tx, of.Ref) })
	})
}

// operation is what the engine does to one rotation.
type operation func(ctx context.Context, tx engine.Tx, id string, asked engine.Asked) (rotation.Rotation, []string, error)

func (b *Broker) operate(ctx context.Context, p authn.Principal, c policy.Capability, action, id string, r client.InterventionRequest, op operation) (out client.RotationIntervention, err error) {
	err = b.intervene(ctx, p, c, action, onRotation(id), r, func(tx *store.Tx, of backends.Ref) error {
		rot, will, err := op(ctx, tx, id, asked(p, r.Reason))
		if err != nil {
			return err
		}
		if out.Foretold, err = foretold(r, will); err != nil {
			return err
		}
		steps, err := tx.Steps(ctx, rot.ID)
		if r.DryRun && rot.ID != id {
			rot.ID = "" // of a rotation that will not be
		}
		out.Rotation = viewRotation(store.RotationOf{Rotation: rot, Ref: of}, steps)
		return err
	})
	return out, err
}

// foretold says what follows; ErrConflict if whoever asks has agreed to something
// else.
func foretold(r client.InterventionRequest, will []string) (client.Foretold, error) {
	if will == nil {
		will = []string{}
	}
	return client.Foretold{DryRun: r.DryRun, Will: will}, agreed(r.Expect, will)
}

// moments are the times in sentences: they go on while somebody reads.
var moments = regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)

// agreed compares what was agreed to with what follows by now, but for the times
// in it; nil agrees to anything.
func agreed(to, will []string) error {
	timeless := func(a string) string { return moments.ReplaceAllLiteralString(a, "then") }
	if to == nil || slices.EqualFunc(to, will, func(a, b string) bool { return timeless(a) == timeless(b) }) {
		return nil
	}
	now := "nothing would follow"
	if len(will) > 0 {
		now = "what follows is: " + strings.Join(will, "; ")
	}
	return fmt.Errorf("%w: it has changed meanwhile, and nothing was done: now %s", backends.ErrConflict, now)
}

// Cancel ends a rotation that has published nothing, or only waits for a proof.
func (b *Broker) Cancel(ctx context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.RotationIntervention, error) {
	return b.operate(ctx, p, policy.Rotate, "rotation.cancel", id, r, b.Engine.Cancel)
}

// Retry lets a rotation that is waiting look again now, or begins another one in
// place of one that came to nothing.
func (b *Broker) Retry(ctx context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.RotationIntervention, error) {
	return b.operate(ctx, p, policy.Rotate, "rotation.retry", id, r, b.Engine.Retry)
}

// Approve lets a rotation begin that waits for it; who asked for it is refused.
func (b *Broker) Approve(ctx context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.RotationIntervention, error) {
	return b.operate(ctx, p, policy.Approve, "rotation.approve", id, r, b.Engine.Approve)
}

// RollBack makes the version current again that a rotation has replaced.
func (b *Broker) RollBack(ctx context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.RotationIntervention, error) {
	return b.operate(ctx, p, policy.Rotate, "rotation.rollback", id, r, b.Engine.RollBack)
}

// Probe asks for a round of tries of a revoked version now.
func (b *Broker) Probe(ctx context.Context, p authn.Principal, id string, r client.InterventionRequest) (out client.RetirementIntervention, err error) {
	err = b.intervene(ctx, p, policy.Rotate, "retirement.probe", onRetirement(id), r, func(tx *store.Tx, of backends.Ref) error {
		t, will, err := b.Engine.ProbeNow(ctx, tx, id, asked(p, r.Reason))
		if err != nil {
			return err
		}
		out.Retirement = viewRetirement(store.RetirementOf{Retirement: t, Ref: of}, nil)
		out.Foretold, err = foretold(r, will)
		return err
	})
	return out, err
}

// Orphans lists credentials whose mint's answer was lost or whose rotation
// failed, the newest first.
func (b *Broker) Orphans(ctx context.Context, p authn.Principal, q client.OrphanQuery) (client.List[client.Orphan], error) {
	return listOf(ctx, b, p, "orphan.list", q.Secret, q.Page,
		func(tx *store.Tx, id string, at store.Page) ([]store.RetirementOf, string, error) {
			f := store.RetirementFilter{Tenant: p.Tenant, SecretID: id, Causes: []rotation.Cause{rotation.CauseOrphan, rotation.CauseFailed}}
			return tx.RetirementsPage(ctx, f, at)
		},
		bySecret(b, p, func(t store.RetirementOf) backends.Ref { return t.Ref }),
		func(tx *store.Tx, t store.RetirementOf) (client.Orphan, error) {
			v, err := tx.Version(ctx, t.SecretID, t.Version)
			return viewOrphan(t, v), err
		})
}

// viewOrphan is suspected for as long as nothing shows that it cannot be used.
func viewOrphan(t store.RetirementOf, v rotation.Version) client.Orphan {
	return client.Orphan{Secret: t.Ref.Name, Tenant: t.Ref.Tenant, Version: t.Version, RotationID: v.RotationID, Issuer: v.Issuer, Tag: v.Tag,
		Handle: maps.Clone(v.Handle), Suspected: !t.Settled(), Retirement: viewRetirement(t, nil)}
}

// Plan tells what would happen to a secret, when, and why not. It looks at its
// vault.
func (b *Broker) Plan(ctx context.Context, p authn.Principal, name string) (out client.Plan, err error) {
	found, r, missing := b.resolve(ctx, p, name, request{action: "secret.plan", path: pathOf(name)})
	c := policy.List
	if !b.allows(p, r.path, found, c) {
		c = policy.Read // as for Secret
	}
	err = b.do(ctx, p, c, r, func() error {
		if missing != nil {
			return missing
		}
		o, err := b.Engine.Outlook(ctx, found.ID)
		if err != nil {
			return err
		}
		if out = viewPlan(o); wallsOf(p) != (policy.Walls{}) {
			for i, w := range out.WhyNot {
				if w.WaitingFor == rotation.WaitFreeze {
					out.WhyNot[i].Detail = "everything is frozen" // by whom and why tells of others
				}
			}
		}
		return b.Store.View(ctx, func(tx *store.Tx) error {
			s, err := tx.Secret(ctx, found.ID)
			if err == nil {
				out.Effective, err = b.effective(ctx, tx, p, s)
			}
			return err
		})
	})
	return out, err
}

func viewPlan(o rotation.Outlook) client.Plan {
	out := client.Plan{Ready: o.Ready, WhyNot: []client.Blocker{}, NextAt: utc(o.NextAt),
		Trigger: string(o.Trigger), RotationID: o.RotationID, Steps: viewExpected(o.Steps), Retirements: viewExpected(o.Retirements)}
	for _, w := range o.WhyNot {
		out.WhyNot = append(out.WhyNot, client.Blocker(w))
	}
	return out
}

func viewExpected(all []rotation.Expected) []client.Expected {
	out := []client.Expected{}
	for _, e := range all {
		out = append(out, client.Expected{Step: e.Step, Detail: e.Detail, State: string(e.State), AfterMS: e.After.Milliseconds(), At: utc(e.At)})
	}
	return out
}

// Repair finds what is out of step between the store and the vault of a secret,
// and mends it unless it is a dry run. It changes what is in use, as a rotation
// does; to overwrite what somebody else wrote takes the right to write there, too,
// and while an emergency goes on it is a matter of that.
func (b *Broker) Repair(ctx context.Context, p authn.Principal, name string, r client.RepairRequest) (client.Repair, error) {
	out := client.Repair{DryRun: r.DryRun, Findings: []client.Finding{}}
	detail := interventionDetail(r.Reason, r.DryRun, "overwrite", fmt.Sprint(r.Overwrite))
	var takes []policy.Capability
	if r.Overwrite {
		takes = append(takes, policy.Update)
	}
	err := b.onVault(ctx, p, "secret.repair", name, detail, takes, func(found rotation.Secret) error {
		ask := engine.RepairRequest{Asked: asked(p, r.Reason), DryRun: r.DryRun, Overwrite: r.Overwrite}
		if r.Expect != nil && !r.DryRun { // what it does is guarded one by one; this is for who agreed to it
			look := ask
			look.DryRun = true
			found, err := b.Engine.Repair(ctx, found.ID, look)
			if err == nil {
				err = agreed(r.Expect, client.Repair{Findings: viewFindings(found)}.Sentences())
			}
			if err != nil {
				return err
			}
		}
		findings, err := b.Engine.Repair(ctx, found.ID, ask)
		out.Findings = viewFindings(findings)
		return err
	})
	return out, err
}

// inEmergency tells whether an emergency occupies a secret.
func (b *Broker) inEmergency(ctx context.Context, secretID string) (is bool, err error) {
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		r, err := tx.Occupying(ctx, secretID)
		if errors.Is(err, backends.ErrNotFound) {
			return nil
		}
		is = r.Emergency()
		return err
	})
	return is, err
}

func viewFindings(all []rotation.Finding) []client.Finding {
	out := []client.Finding{}
	for _, f := range all {
		out = append(out, client.Finding{Kind: f.Kind, Detail: f.Detail, Version: f.Version, Mend: f.Mend,
			Mendable: f.Mendable, Mended: f.Mended, Error: f.Error})
	}
	return out
}
