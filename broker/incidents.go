package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// Incidents belong to their tenant, if all of their secrets do, and to whoever declared
// them. Who is bound to an environment knows of those that they declared themselves. What
// is asked of them waits for no log, not even to look at one: its records are committed
// to the store.

// incidentSight is what p may know of an incident: who declared it sees it.
func (b *Broker) incidentSight(p authn.Principal, i rotation.Incident) (may sight) {
	mine := own(p, i)
	if p.Tenant != "" && p.Tenant != i.Tenant || p.Environment != "" && !mine {
		return may
	}
	may.reaches = true
	var denied error
	may.by, denied = b.decide(p, request{path: incidentPath(i.ID)}, policy.Read)
	if may.sees = denied == nil; !may.sees && mine {
		may.sees, may.by = true, itemwise
	}
	return may
}

func incidentPath(id string) string { return incidentsPath + "/" + id }

// seenIncident looks one up. What p does not reach is missing.
func (b *Broker) seenIncident(ctx context.Context, p authn.Principal, id string) (i rotation.Incident, may sight, missing error) {
	missing = b.Store.View(ctx, func(tx *store.Tx) (err error) {
		i, err = tx.Incident(ctx, id)
		return err
	})
	if missing == nil {
		may = b.incidentSight(p, i)
	}
	if errors.Is(missing, backends.ErrNotFound) || missing == nil && !may.reaches {
		missing = notThere("incident", id)
	}
	return i, may, missing
}

// Incidents lists incidents, the latest first: who may list them all those within their
// walls, others those that they declared.
func (b *Broker) Incidents(ctx context.Context, p authn.Principal, q client.IncidentQuery) (client.List[client.Incident], error) {
	list := client.List[client.Incident]{Items: []client.Incident{}}
	const action = "incident.list"
	r := request{action: action, path: incidentsPath}
	var of rotation.Secret
	if q.Secret != "" {
		found, about, missing := b.resolve(ctx, p, q.Secret, r)
		if !b.allows(p, pathOf(q.Secret), found, policy.List) && !b.allows(p, pathOf(q.Secret), found, policy.Read) {
			return list, b.unseen(ctx, p, r, "secret", q.Secret)
		}
		if missing != nil {
			return list, b.refuse(ctx, p, r, itemwise, missing)
		}
		r, of = about, found
	}
	_, denied := b.decide(p, request{path: incidentsPath}, policy.List)
	at, err := b.Pages.open(p, action, q.Page)
	if err != nil {
		return list, b.refuse(ctx, p, r, itemwise, err)
	}
	if err := b.looksOn(ctx, p, r, itemwise); err != nil {
		return list, err
	}
	return list, b.Store.View(ctx, func(tx *store.Tx) error {
		list.Items = list.Items[:0]
		at := at
		for { // until there is one that p sees
			found, next, err := tx.Incidents(ctx, store.IncidentFilter{Tenant: p.Tenant, State: rotation.IncidentState(q.State), SecretID: of.ID}, at)
			if err != nil {
				return err
			}
			for _, i := range found {
				if !b.incidentSight(p, i).reaches || denied != nil && !own(p, i) {
					continue
				}
				v, err := b.listed(ctx, tx, i)
				if err != nil {
					return err
				}
				list.Items = append(list.Items, v)
			}
			if at.After = next; len(list.Items) > 0 || next == "" {
				list.Next = b.Pages.next(p, action, next)
				return nil
			}
		}
	})
}

func (b *Broker) listed(ctx context.Context, tx *store.Tx, i rotation.Incident) (client.Incident, error) {
	n, err := tx.Tally(ctx, i.ID)
	if err != nil {
		return client.Incident{}, err
	}
	v := viewIncident(i, n, b.Now())
	v.Progress.Replaced, err = tx.ReplacedTargets(ctx, i.ID)
	return v, err
}

// Incident shows one incident with all that is known of it, cut to the secrets that p sees.
func (b *Broker) Incident(ctx context.Context, p authn.Principal, id string) (client.Incident, error) {
	r := request{action: "incident.show", path: incidentPath(id), detail: map[string]string{"incident": id}}
	_, may, missing := b.seenIncident(ctx, p, id)
	switch {
	case missing != nil:
		return client.Incident{}, b.refuse(ctx, p, r, itemwise, missing)
	case !may.sees:
		return client.Incident{}, b.unseen(ctx, p, r, "incident", id)
	}
	if err := b.looksOn(ctx, p, r, may.by); err != nil {
		return client.Incident{}, err
	}
	return b.incident(ctx, p, id)
}

// looksOn records that p looks at incidents.
func (b *Broker) looksOn(ctx context.Context, p authn.Principal, r request, by decided) error {
	return b.contained(ctx, p, r, by, func(*store.Tx) error { return nil })
}

// incident is what p sees of one, who sees it.
func (b *Broker) incident(ctx context.Context, p authn.Principal, id string) (out client.Incident, err error) {
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		i, err := tx.Incident(ctx, id)
		if err != nil {
			return err
		}
		took, err := latenciesBefore(ctx, tx, i)
		if err != nil {
			return err
		}
		x, err := b.incidentState(ctx, tx, p, i, took)
		if err != nil {
			return err
		}
		out = x.view(b.Now())
		return b.written(ctx, tx, p, i, &out)
	})
	return out, err
}

// written adds what people wrote, and whom they keep out.
func (b *Broker) written(ctx context.Context, tx *store.Tx, p authn.Principal, i rotation.Incident, out *client.Incident) error {
	left, err := tx.SkippedOf(ctx, i.ID)
	if err != nil {
		return err
	}
	for _, s := range left {
		secret, err := tx.Secret(ctx, s.SecretID)
		if err != nil {
			return err
		}
		if may, err := b.sight(ctx, tx, p, secret); err != nil {
			return err
		} else if may.sees {
			out.Skipped = append(out.Skipped, client.IncidentSkipped{Secret: s.Ref.Name, Tenant: s.Ref.Tenant, Why: s.Why})
		}
	}
	notes, err := tx.Notes(ctx, i.ID)
	if err != nil {
		return err
	}
	for _, n := range notes {
		out.Notes = append(out.Notes, client.IncidentNote{At: utc(n.At), By: n.By, Text: n.Text})
	}
	checks, err := tx.Checks(ctx, i.ID)
	if err != nil {
		return err
	}
	for _, c := range checks {
		out.Checklist = append(out.Checklist, client.IncidentCheck{Item: c.Item, Text: c.Text, DoneAt: utc(c.DoneAt), DoneBy: c.DoneBy, Remark: c.Remark})
	}
	out.Quarantine, err = b.quarantinesOf(ctx, tx, p, i.ID)
	return err
}

// act is what somebody does to an incident.
type act struct {
	action string
	takes  policy.Capability
	reason string
	detail map[string]string
	change func(*store.Tx, rotation.Incident) error
}

// onIncident authorises p for an act on an incident, and returns what became of that. Who
// may neither do it nor see the incident is told that there is none.
func (b *Broker) onIncident(ctx context.Context, p authn.Principal, id string, a act) (out client.Incident, err error) {
	r := request{action: a.action, path: incidentPath(id), detail: map[string]string{"incident": id, "reason": a.reason}}
	for name, text := range a.detail {
		r.detail[name] = text
	}
	i, may, missing := b.seenIncident(ctx, p, id)
	if missing != nil {
		return out, b.refuse(ctx, p, r, itemwise, missing)
	}
	if _, denied := b.decide(p, r, a.takes); denied != nil && !may.sees {
		return out, b.unseen(ctx, p, r, "incident", id)
	}
	if err := b.contain(ctx, p, a.takes, r, func(tx *store.Tx) error { return a.change(tx, i) }); err != nil {
		return out, err
	}
	return b.incident(ctx, p, id)
}

// ApproveIncident has a proposed incident done. p must be somebody else than whoever
// declared it, and allowed to turn off every secret of it.
func (b *Broker) ApproveIncident(ctx context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error) {
	var plan quarantining
	out, err := b.onIncident(ctx, p, id, act{action: "incident.approve", takes: policy.Approve, reason: r.Reason, change: func(tx *store.Tx, i rotation.Incident) error {
		if err := b.mayTurnAllOff(ctx, tx, p, i); err != nil {
			return err
		}
		if len(i.Quarantine) > 0 {
			var names client.QuarantineNames
			if err := json.Unmarshal(i.Quarantine, &names); err != nil {
				return fmt.Errorf("reading whom the incident keeps out: %w", err)
			}
			var gone []string
			var err error
			if plan, gone, err = b.approvedQuarantine(p, names); err != nil {
				return fmt.Errorf("keeping out whom the incident names: %w", err)
			}
			if len(gone) > 0 {
				text := "not kept out, since the configuration has it no more: " + strings.Join(gone, ", ")
				if err := tx.AddNote(ctx, id, store.Note{At: b.Now(), By: "keybroker", Text: text}); err != nil {
					return err
				}
			}
		}
		if _, err := b.Engine.ApproveIncident(ctx, tx, id, asked(p, r.Reason)); err != nil {
			return err
		}
		_, err := b.quarantine(ctx, tx, p, plan, id, i.Reason)
		return err
	}})
	if err == nil && len(plan) > 0 {
		b.lookAtQuarantines(ctx)
	}
	return out, err
}

// mayTurnAllOff refuses who may not declare an emergency of every secret of an incident.
func (b *Broker) mayTurnAllOff(ctx context.Context, tx *store.Tx, p authn.Principal, i rotation.Incident) error {
	targets, err := tx.TargetSecrets(ctx, i.ID)
	if err != nil {
		return err
	}
	for _, s := range targets {
		may, sees, err := b.mayTurnOff(ctx, tx, p, s.Secret)
		switch {
		case err != nil:
			return err
		case !may && sees:
			return fmt.Errorf("%w: it takes the capability emergency on every secret of the incident, and you do not have it on %s", backends.ErrDenied, s.Ref)
		case !may:
			return fmt.Errorf("%w: it takes the capability emergency on every secret of the incident, and you do not see all of them", backends.ErrDenied)
		}
	}
	return nil
}

// RejectIncident refuses a proposed incident.
func (b *Broker) RejectIncident(ctx context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error) {
	return b.onIncident(ctx, p, id, act{action: "incident.reject", takes: policy.Approve, reason: r.Reason, change: func(tx *store.Tx, _ rotation.Incident) error {
		if err := reasoned(r, "an incident that is refused"); err != nil {
			return err
		}
		_, err := b.Engine.RejectIncident(ctx, tx, id, asked(p, r.Reason))
		return err
	}})
}

// CloseIncident says that people are done with it; its evidence is held no longer, unless
// that is asked for. What was begun goes on.
func (b *Broker) CloseIncident(ctx context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error) {
	hold := r.Hold != nil && *r.Hold
	return b.onIncident(ctx, p, id, act{action: "incident.close", takes: policy.Update, reason: r.Reason, detail: map[string]string{"hold": fmt.Sprint(hold)}, change: func(tx *store.Tx, _ rotation.Incident) error {
		if err := reasoned(r, "an incident that is closed"); err != nil {
			return err
		}
		n, err := tx.Tally(ctx, id)
		if err != nil {
			return err
		}
		if n.Pending > 0 {
			return fmt.Errorf("%w: the emergencies of %d secrets of it are not declared yet, and would not be any more: see `keybroker incident show %s`", backends.ErrConflict, n.Pending, id)
		}
		if n.Failed > 0 {
			text := fmt.Sprintf("closed although the emergencies of %d of its secrets could not be declared, which is not tried any more", n.Failed)
			if err := tx.AddNote(ctx, id, store.Note{At: b.Now(), By: p.ID, Text: text}); err != nil {
				return err
			}
		}
		_, err = b.Engine.CloseIncident(ctx, tx, id, hold, asked(p, r.Reason))
		return err
	}})
}

// HoldIncident keeps what may be evidence from being pruned, or with Hold false lets it be.
func (b *Broker) HoldIncident(ctx context.Context, p authn.Principal, id string, r client.IncidentActRequest) (client.Incident, error) {
	hold := r.Hold == nil || *r.Hold
	return b.onIncident(ctx, p, id, act{action: "incident.hold", takes: policy.Update, reason: r.Reason, detail: map[string]string{"hold": fmt.Sprint(hold)}, change: func(tx *store.Tx, _ rotation.Incident) error {
		_, err := b.Engine.HoldIncident(ctx, tx, id, hold, asked(p, r.Reason))
		return err
	}})
}

func reasoned(r client.IncidentActRequest, what string) error {
	if strings.TrimSpace(r.Reason) == "" {
		return fmt.Errorf("%w: %s needs a reason: whoever reads its report will want to know", backends.ErrInvalid, what)
	}
	return nil
}

// NoteIncident writes down what somebody says, adds something to be done to the
// checklist, or has one of its items done.
func (b *Broker) NoteIncident(ctx context.Context, p authn.Principal, id string, r client.IncidentNoteRequest) (client.Incident, error) {
	text := strings.TrimSpace(r.Text)
	detail := map[string]string{"text": text}
	if r.Done != 0 {
		detail["item"] = fmt.Sprint(r.Done)
	}
	return b.onIncident(ctx, p, id, act{action: "incident.note", takes: policy.Update, detail: detail, change: func(tx *store.Tx, _ rotation.Incident) error {
		switch {
		case r.Check && r.Done != 0:
			return fmt.Errorf("%w: an item is either added or done", backends.ErrInvalid)
		case r.Done != 0:
			return tx.SaveCheck(ctx, id, store.Check{Item: r.Done, DoneAt: b.Now(), DoneBy: p.ID, Remark: text})
		case text == "":
			return fmt.Errorf("%w: there is nothing in the note", backends.ErrInvalid)
		case r.Check:
			return tx.AddChecks(ctx, id, []string{text})
		}
		return tx.AddNote(ctx, id, store.Note{At: b.Now(), By: p.ID, Text: text})
	}})
}
