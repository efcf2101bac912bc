package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

const (
	incidentsPath = "sys/incidents"
	// overridePath is what who does not wait for a second person must be allowed emergency on.
	overridePath = incidentsPath + "/override"
	// maxReason bounds why an incident is declared, in bytes: it stands in what everybody
	// is told of it.
	maxReason = 1024
)

// declaration is an emergency that somebody declares.
type declaration struct {
	client.IncidentRequest
	selector selector
	selection
	quarantine quarantining
	opening
}

// DeclareIncident declares an emergency of everything that is selected, or tells with
// DryRun what would follow. It is containment: its records are committed with it, so that
// it waits for no log. What p may not turn off is left out, and named if p sees it; the
// same ID again is the same incident.
func (b *Broker) DeclareIncident(ctx context.Context, p authn.Principal, r client.IncidentRequest) (client.Incident, error) {
	d := declaration{IncidentRequest: r}
	req := request{action: "incident.declare", path: incidentsPath, detail: d.detail()}
	if d.Selector.Value != "" {
		req.hashes = map[string]string{"value": b.Audit.Hash(d.Selector.Value.Reveal())}
	}
	if err := d.check(b.Now()); err != nil {
		return client.Incident{}, b.refuse(ctx, p, req, decided{capability: policy.Emergency, Decision: itemwise.Decision}, err)
	}
	req.path = incidentsPath + "/" + d.ID
	if known, err := b.declaredBefore(ctx, p, d); err != nil || known {
		if err != nil {
			return client.Incident{}, b.refuse(ctx, p, req, itemwise, err)
		}
		return b.Incident(ctx, p, d.ID)
	}
	if by, err := b.prepare(ctx, p, &d); err != nil {
		return client.Incident{}, b.refuse(ctx, p, req, by, err)
	}
	req.detail["secrets"], req.detail["state"] = fmt.Sprint(len(d.targets)), string(d.incident.State)
	by := decided{capability: policy.Emergency, Decision: itemwise.Decision, changes: true}
	if d.DryRun {
		req.detail["dry_run"] = "true"
		if err := b.looksOn(ctx, p, req, itemwise); err != nil {
			return client.Incident{}, err
		}
		return b.foretell(p, &d), nil
	}
	if err := b.declare(ctx, p, req, by, &d); err != nil {
		return client.Incident{}, err
	}
	return b.incident(ctx, p, d.incident.ID)
}

// detail is what the audit log says of a declaration.
func (d *declaration) detail() map[string]string {
	shown, _ := json.Marshal(selector{Selector: d.Selector}.shown()) // texts and numbers cannot fail
	if most := maxDetail - len("…"); len(shown) > most {
		shown = append(bytes.ToValidUTF8(shown[:most], nil), "…"...)
	}
	return map[string]string{"reason": d.Reason, "selector": string(shown), "contain": d.Contain, "override": fmt.Sprint(d.Override)}
}

// check reads what was asked for; ErrInvalid.
func (d *declaration) check(now time.Time) (err error) {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...)
	}
	if d.Reason = strings.TrimSpace(d.Reason); d.ID == "" {
		d.ID = uuid.Must(uuid.NewV7()).String()
	}
	d.LeakedAt, d.DetectedAt = stored(d.LeakedAt), stored(d.DetectedAt)
	id, badID := uuid.Parse(d.ID)
	switch {
	case badID != nil || id.String() != d.ID:
		return refuse("the id is no UUID in lower case")
	case d.Reason == "":
		return refuse("an emergency needs a reason")
	case len(d.Reason) > maxReason:
		return refuse("the reason is %d bytes long, at most %d are kept: say it in fewer words", len(d.Reason), maxReason)
	case d.Contain != "" && d.Contain != client.RevokeFirst && d.Contain != client.ReplaceFirst:
		return refuse("contain is %q or %q", client.ReplaceFirst, client.RevokeFirst)
	case d.LeakedAt.After(now):
		return refuse("leaked_at is in the future")
	case d.DetectedAt.After(now):
		return refuse("detected_at is in the future")
	case !d.DetectedAt.IsZero() && d.DetectedAt.Before(d.LeakedAt):
		return refuse("it was detected at %s, before it leaked at %s", d.DetectedAt.UTC().Format(time.RFC3339), d.LeakedAt.UTC().Format(time.RFC3339))
	}
	d.selector, err = newSelector(d.Selector)
	return err
}

// stored is a time as the store keeps it.
func stored(at time.Time) time.Time { return at.UTC().Truncate(time.Microsecond) }

// declaredBefore tells whether the same was declared under the id already; ErrConflict if
// something else was.
func (b *Broker) declaredBefore(ctx context.Context, p authn.Principal, d declaration) (known bool, err error) {
	var have rotation.Incident
	err = b.Store.View(ctx, func(tx *store.Tx) (err error) {
		have, err = tx.Incident(ctx, d.ID)
		return err
	})
	if errors.Is(err, backends.ErrNotFound) {
		return false, nil
	}
	if err == nil && !(same(have, d) && own(p, have)) {
		err = fmt.Errorf("%w: the id %s is of another incident: choose a new one", backends.ErrConflict, d.ID)
	}
	return err == nil, err
}

func same(have rotation.Incident, d declaration) bool {
	shown, _ := json.Marshal(d.selector.shown()) // texts and numbers cannot fail
	return have.Reason == d.Reason && string(have.Selector) == string(shown) && have.Contain == d.Contain && have.Overwrite == d.Overwrite && have.LeakedAt.Equal(d.LeakedAt)
}

// own tells whether p, or a token of the same hand, declared an incident.
func own(p authn.Principal, i rotation.Incident) bool {
	return p.ID == i.Actor || p.Lineage != "" && p.Lineage == i.Lineage || p.Identity != "" && p.Identity == i.Identity
}

// prepare looks up what is to be turned off, and whether p may.
func (b *Broker) prepare(ctx context.Context, p authn.Principal, d *declaration) (by decided, err error) {
	by = decided{capability: policy.Emergency, Decision: itemwise.Decision}
	if d.quarantine, err = b.planQuarantine(p, d.Quarantine); err != nil {
		return by, err
	}
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		if d.selection, err = b.selected(ctx, tx, p, d.selector); err != nil {
			return err
		}
		return b.fill(ctx, tx, d)
	})
	if err != nil {
		return by, err
	}
	if len(d.targets) == 0 {
		return b.nothing(p, d)
	}
	return by, b.secondPerson(p, d)
}

// nothing says why there is nothing to turn off.
func (b *Broker) nothing(p authn.Principal, d *declaration) (by decided, err error) {
	by = decided{capability: policy.Emergency, Decision: itemwise.Decision}
	switch {
	case len(d.hits) > 0: // none of them may be turned off
		s := d.hits[0].secret
		if by, err = b.decide(p, request{path: s.Ref.Name, secret: s}, policy.Emergency); err != nil && len(d.hits) > 1 {
			err = fmt.Errorf("%w, nor on the %d other secrets that it would be about", err, len(d.hits)-1)
		}
		return by, err
	case len(d.missing) == 1:
		return by, notThere("secret", d.missing[0])
	case len(d.missing) > 0:
		return by, fmt.Errorf("%w: there is no secret of any of these names", backends.ErrNotFound)
	case d.Selector.Value != "":
		return by, fmt.Errorf("%w: no version of a secret that you reach has this value: it is none of the broker's, turn it off where it was made", backends.ErrNotFound)
	}
	if err := b.unknown(p, d.Selector); err != nil {
		return by, err
	}
	return by, fmt.Errorf("%w: no secret that you reach is meant by that, or none of them can be alive", backends.ErrNotFound)
}

// unknown tells of a name in a selector that nothing of the configuration has, within p's
// reach. Backends, issuers
// and roles are the node's: nobody of a tenant is told which there are.
func (b *Broker) unknown(p authn.Principal, s client.Selector) error {
	rules := b.rulesOf(p)
	if s.Consumer != "" {
		if _, err := b.consumer(p, s.Consumer); err != nil {
			return err
		}
	}
	token := strings.HasPrefix(s.ReadBy, "tok_") || strings.Contains(s.ReadBy, "/")
	if p.Tenant != "" {
		return nil
	}
	if s.ReadBy != "" && !token && rules.Roles[s.ReadBy] == nil {
		return notThere("role", s.ReadBy)
	}
	if s.Backend != "" && rules.Backends[s.Backend] == nil {
		return notThere("backend", s.Backend)
	}
	if s.Issuer != "" && !slices.ContainsFunc(b.Components.Issuers(), func(c Component[issuer.Issuer]) bool { return c.Name == s.Issuer }) {
		return notThere("issuer", s.Issuer)
	}
	return nil
}

// fill makes of what was selected the incident's targets, and its checklist.
func (b *Broker) fill(ctx context.Context, tx *store.Tx, d *declaration) error {
	tenants := map[string]bool{}
	var turned []rotation.Secret
	var alive []store.Alive
	for _, m := range d.hits {
		if !m.may {
			d.skipped = append(d.skipped, store.Skipped{SecretID: m.secret.ID, Ref: m.secret.Ref, Why: "it takes the capability emergency on it"})
			continue
		}
		d.targets = append(d.targets, rotation.Target{SecretID: m.secret.ID, Ref: m.secret.Ref, Versions: m.pinned})
		turned, alive = append(turned, m.secret), append(alive, m.meant()...)
		tenants[m.secret.Ref.Tenant] = true
	}
	shown, err := json.Marshal(d.selector.shown())
	if err != nil {
		return fmt.Errorf("encoding the selector: %w", err)
	}
	d.incident = rotation.Incident{ID: d.ID, State: rotation.IncidentOpen, Cause: rotation.IncidentDeclared, Reason: d.Reason, Selector: shown,
		Contain: d.Contain, Overwrite: d.Overwrite, LeakedAt: d.LeakedAt, DetectedAt: d.DetectedAt, Hold: true}
	if len(tenants) == 1 {
		d.incident.Tenant = d.targets[0].Ref.Tenant
	}
	d.checks, err = b.checklist(ctx, tx, turned, alive)
	for _, name := range d.missing {
		d.checks = append(d.checks, fmt.Sprintf("%s is no secret here: find out what it is, and turn it off where it was made", name))
	}
	return err
}

// meant are those of a secret's versions that are to be turned off.
func (m matched) meant() []store.Alive {
	if len(m.pinned) == 0 {
		return m.alive
	}
	return slices.DeleteFunc(slices.Clone(m.alive), func(a store.Alive) bool { return !slices.Contains(m.pinned, a.Number) })
}

// secondPerson tells whether an incident has to wait for one, which who may override it
// can spare themselves.
func (b *Broker) secondPerson(p authn.Principal, d *declaration) error {
	asks := b.rulesOf(p).Emergency
	if asks.ApprovalAbove == 0 || len(d.targets) <= asks.ApprovalAbove {
		return nil
	}
	if !d.Override {
		d.incident.State, d.incident.ApproveBy = rotation.IncidentProposed, b.Now().Add(asks.ApprovalTimeout)
		return nil
	}
	if _, err := b.decide(p, request{path: overridePath}, policy.Emergency); err != nil {
		return fmt.Errorf("%w; without override it waits for a second person", err)
	}
	d.incident.Overridden = true
	return nil
}

// declare opens the incident.
func (b *Broker) declare(ctx context.Context, p authn.Principal, req request, by decided, d *declaration) error {
	if len(d.quarantine) > 0 && d.incident.State == rotation.IncidentProposed {
		names, err := json.Marshal(d.Quarantine)
		if err != nil {
			return fmt.Errorf("encoding who is to be kept out: %w", err)
		}
		d.incident.Quarantine = names
	}
	wanted := d.opening
	err := b.contained(ctx, p, req, by, func(tx *store.Tx) error {
		d.opening = wanted // this may run again
		d.targets = slices.Clone(wanted.targets)
		if have, err := tx.Incident(ctx, d.ID); err == nil && same(have, *d) && own(p, have) {
			return nil // the request was sent twice, at once
		} else if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return err
		}
		if _, err := b.openIncident(ctx, tx, p, &d.opening); err != nil || d.incident.State == rotation.IncidentProposed {
			return err
		}
		_, err := b.quarantine(ctx, tx, p, d.quarantine, d.incident.ID, d.Reason)
		return err
	})
	if err == nil && len(d.quarantine) > 0 {
		b.lookAtQuarantines(ctx)
	}
	return err
}

// Emergency turns compromised versions of one secret off and replaces them, in an incident
// of its own. Repeated while that lasts it is the same.
func (b *Broker) Emergency(ctx context.Context, p authn.Principal, name string, r client.EmergencyRequest) (out client.Rotation, err error) {
	detail := map[string]string{"reason": r.Reason, "contain": r.Contain, "versions": fmt.Sprint(r.Versions)}
	err = b.containSecret(ctx, p, policy.Emergency, "secret.emergency", name, detail, func(tx *store.Tx, s rotation.Secret) error {
		d := declaration{IncidentRequest: client.IncidentRequest{Reason: r.Reason, Contain: r.Contain, Overwrite: r.Overwrite,
			Selector: client.Selector{Names: []string{s.Ref.String()}, Versions: r.Versions}}}
		if err := d.check(b.Now()); err != nil {
			return err
		}
		alive, err := tx.AliveVersions(ctx, []string{s.ID})
		if err != nil {
			return err
		}
		for _, n := range r.Versions {
			if !slices.ContainsFunc(alive, func(a store.Alive) bool { return a.Number == n }) {
				return noneAlive(ctx, tx, s, n)
			}
		}
		d.hits = []matched{{secret: s, pinned: r.Versions, alive: alive, named: true, may: true}}
		if err := b.fill(ctx, tx, &d); err != nil {
			return err
		}
		if _, err := b.openIncident(ctx, tx, p, &d.opening); err != nil {
			return err
		}
		target, err := tx.Target(ctx, d.incident.ID, s.ID)
		if err != nil {
			return err
		}
		rot, err := tx.Rotation(ctx, target.RotationID)
		out = viewRotation(store.RotationOf{Rotation: rot, Ref: s.Ref}, nil)
		out.IncidentID = d.incident.ID
		return err
	})
	return out, err
}

// noneAlive says why a version that was named cannot be turned off.
func noneAlive(ctx context.Context, tx *store.Tx, s rotation.Secret, number int) error {
	if _, err := tx.Version(ctx, s.ID, number); err != nil {
		return fmt.Errorf("%w: there is no version %d of %s", backends.ErrNotFound, number, s.Ref)
	}
	return fmt.Errorf("%w: version %d is not alive: `keybroker secret show` tells what became of it", backends.ErrConflict, number)
}

// opening is an incident that is about to be opened.
type opening struct {
	incident rotation.Incident // but for who declares it
	targets  []rotation.Target
	skipped  []store.Skipped
	checks   []string // the first things that people have to do; see checklist
}

// openIncident opens one inside tx in the name of p, with its checklist, and tells people
// what they must know of it. Where an open one is about the same emergencies already,
// which p sees, o.incident becomes that one, and reused is true.
func (b *Broker) openIncident(ctx context.Context, tx *store.Tx, p authn.Principal, o *opening) (reused bool, err error) {
	i := &o.incident
	i.Actor, i.Lineage, i.Role, i.Identity = p.ID, p.Lineage, p.Role, p.Identity
	asked := i.Reason
	seen := func(have rotation.Incident) bool { return b.incidentSight(p, have).sees }
	if reused, err = b.Engine.OpenIncident(ctx, tx, i, o.targets, seen); err != nil {
		return reused, err
	}
	if reused {
		return true, b.declaredToo(ctx, tx, p, *i, asked)
	}
	if err := tx.AddSkipped(ctx, i.ID, o.skipped); err != nil {
		return false, err
	}
	if len(o.checks) > 0 {
		if err := tx.AddChecks(ctx, i.ID, o.checks); err != nil {
			return false, err
		}
	}
	switch {
	case i.State == rotation.IncidentProposed && i.Cause != rotation.IncidentEvent:
		return false, tx.RaiseAlert(ctx, alert.Proposal(*i, len(o.targets)))
	case i.Overridden:
		return false, tx.RaiseAlert(ctx, store.Raise{Kind: alert.EmergencyOverride, Tenant: i.Tenant, Subject: i.ID, Next: "keybroker incident show " + i.ID,
			Text: fmt.Sprintf("%s has declared an emergency of %d secrets, and did not wait for the second person that this takes (%s)", i.Actor, len(o.targets), i.Reason)})
	}
	return false, nil
}

// declaredToo notes that somebody declared what an incident is about once more, unless
// they say the same.
func (b *Broker) declaredToo(ctx context.Context, tx *store.Tx, p authn.Principal, i rotation.Incident, reason string) error {
	notes, err := tx.Notes(ctx, i.ID)
	text := "declared it, too: " + reason
	said := func(n store.Note) bool { return n.By == p.ID && n.Text == text }
	if err != nil || reason == i.Reason || slices.ContainsFunc(notes, said) {
		return err
	}
	return tx.AddNote(ctx, i.ID, store.Note{At: b.Now(), By: p.ID, Text: text})
}
