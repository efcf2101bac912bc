package alert

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

const (
	slowDelivery = time.Hour        // pending for longer is stuck: four attempts have failed
	driftGrace   = 15 * time.Minute // in which what is out of step is brought in step by itself
	staleNode    = 15 * time.Minute // after which a node that says nothing of its alerts is gone
	seeEvery     = time.Minute
	most         = 1000 // alerts of one kind and tenant that a sweep has open, save critical ones
)

// overflow is the subject of the alert that there are more than most.
var overflow = "more than " + strconv.Itoa(most)

// finding is what one sweep has found.
type finding struct {
	raises []store.Raise
	open   []store.Alert
	unsure []string // kinds of which the node may know more

	known  map[id]bool // of open
	counts map[id]int  // by kind and tenant: open alerts, and those to be raised
	beyond map[id]int  // what is one too many
}

// id is what there is one open alert of.
type id struct{ kind, tenant, subject string }

func idOf(r store.Raise) id { return id{r.Kind, r.Tenant, r.Subject} }

func newFinding(open []store.Alert) *finding {
	f := &finding{open: open, known: map[id]bool{}, counts: map[id]int{}, beyond: map[id]int{}}
	for _, a := range open {
		f.known[idOf(a.Raise)] = true
		if a.Subject != overflow {
			f.counts[id{kind: a.Kind, tenant: a.Tenant}]++
		}
	}
	return f
}

// add takes what is wrong. Where it is one too many, so that nobody would read it, it
// is only counted: one tenant's troubles hide neither those of others nor what is
// critical.
func (f *finding) add(r store.Raise) {
	of := id{kind: r.Kind, tenant: r.Tenant}
	switch {
	case f.known[idOf(r)] || SeverityOf(r.Kind) == Critical:
	case f.counts[of] >= most:
		f.beyond[of]++
		return
	default:
		f.counts[of]++
	}
	f.raises = append(f.raises, r)
}

// close says in one alert what add has only counted.
func (f *finding) close() {
	for of, n := range f.beyond {
		f.raises = append(f.raises, store.Raise{Kind: of.kind, Tenant: of.tenant, Subject: overflow, Next: "keybroker alert list --kind " + of.kind,
			Text: fmt.Sprintf("there is more of this than the %d alerts that are open: %d at first", most, n)})
	}
}

// Sweep opens alerts for what is wrong and not told of yet, and ends those of what is
// over.
func (r *Runner) Sweep(ctx context.Context) error {
	f, err := r.look(ctx)
	if err != nil {
		return fmt.Errorf("looking for what is wrong: %w", err)
	}
	now := r.Now()
	raise, over := Diff(f.open, f.raises, func(kind, node string) bool {
		switch {
		case node != "" && node != r.Node:
			return false
		case node != "":
			return !slices.Contains(f.unsure, kind)
		}
		return kind != NewRootToken && kind != BreakGlass && kind != Reissued && kind != TriggerExceeded && kind != EventUnresolved && kind != EmergencyOverride
	})
	see := false
	for _, a := range f.open {
		mine := a.Node == r.Node && a.Node != ""
		see = see || mine && now.Sub(a.SeenAt) >= seeEvery
		if a.Node != "" && !mine && now.Sub(a.SeenAt) >= staleNode {
			over = append(over, a)
		}
	}
	if len(raise) == 0 && len(over) == 0 && !see {
		return nil
	}
	err = r.Store.Update(ctx, func(tx *store.Tx) error {
		for _, one := range raise {
			if err := tx.OpenAlert(ctx, one); err != nil {
				return err
			}
		}
		for _, a := range over {
			a.ResolvedAt = now
			if err := tx.SaveAlert(ctx, &a); err != nil && !errors.Is(err, store.ErrStale) {
				return err // stale: it was raised once more, or somebody else has ended it
			}
		}
		if !see {
			return nil
		}
		return tx.SeeAlerts(ctx, r.Node)
	})
	if err != nil {
		return fmt.Errorf("keeping alerts: %w", err)
	}
	for _, one := range raise {
		r.Logger.Warn("an alert is raised", "kind", one.Kind, "tenant", one.Tenant, "subject", one.Subject, "text", one.Text)
	}
	for _, a := range over {
		r.Logger.Info("an alert is over", "kind", a.Kind, "tenant", a.Tenant, "subject", a.Subject, "alert", a.ID)
	}
	return nil
}

func (r *Runner) look(ctx context.Context) (f *finding, err error) {
	local, unsure := r.Local()
	err = r.Store.View(ctx, func(tx *store.Tx) error {
		all, err := tx.UnsettledAlerts(ctx)
		if err != nil {
			return err
		}
		f = newFinding(slices.DeleteFunc(all, func(a store.Alert) bool { return !a.Open() }))
		for _, look := range []func(context.Context, *store.Tx, *finding) error{retirements, removals, r.deliveries, r.consumers, quarantines, overlaps, replacements, valuesWanted, dead, r.endings, r.placements, failures, proposals} {
			if err := look(ctx, tx, f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	f.unsure = unsure
	for _, one := range local {
		one.Node = r.Node
		f.add(one)
	}
	f.close()
	return f, nil
}

func about(kind string, ref backends.Ref, subject, next, format string, args ...any) store.Raise {
	return store.Raise{Kind: kind, Tenant: ref.Tenant, Subject: subject, Text: fmt.Sprintf(format, args...), Next: next}
}

// retirements looks at what the engine raises (see engine.AlertOf): at what may be
// alive also in case that it was not, at the rest for whether it is over.
func retirements(ctx context.Context, tx *store.Tx, f *finding) error {
	err := tx.TroubledRetirements(ctx, func(t store.RetirementOf) {
		if kind, text, next := engine.AlertOf(t.Retirement, t.Ref); kind != "" {
			f.add(about(kind, t.Ref, t.ID, next, "%s", text))
		}
	})
	for kind, stands := range map[string]func(rotation.RetirementState) bool{
		Resurrected: func(now rotation.RetirementState) bool { return now != rotation.ProvenDead },
		Unprovable:  func(now rotation.RetirementState) bool { return now == rotation.Unprovable },
	} {
		if err != nil {
			return err
		}
		var states map[string]rotation.RetirementState
		states, err = tx.StatesOfSubjects(ctx, kind)
		for _, a := range f.open {
			if now, there := states[a.Subject]; there && a.Kind == kind && stands(now) {
				f.add(a.Raise)
			}
		}
	}
	return err
}

// removals looks at what people have to delete since its issuer refuses the broker.
func removals(ctx context.Context, tx *store.Tx, f *finding) error {
	return tx.StuckRemovals(ctx, func(t store.RetirementOf) {
		text, next := engine.StuckRemoval(t.Retirement, t.Ref)
		f.add(about(RevokeByHand, t.Ref, t.ID, next, "%s", text))
	})
}

// endings looks at the current versions that end by themselves, or are to be replaced,
// and are not in time, whatever it is that a rotation waits for.
func (r *Runner) endings(ctx context.Context, tx *store.Tx, f *finding) error {
	var ending []rotation.Version
	err := tx.EndingVersions(ctx, r.Now(), func(v rotation.Version) {
		if v.Expiring(r.Now()) {
			ending = append(ending, v)
		}
	})
	if err != nil {
		return err
	}
	told := map[string]bool{}
	for _, v := range ending {
		why, next := "no rotation of it is under way", "keybroker secret plan "+v.Ref.String()
		switch rot, err := tx.Occupying(ctx, v.SecretID); {
		case err == nil:
			why, next = underWay(rot), "keybroker rotation show "+rot.ID
		case !errors.Is(err, backends.ErrNotFound):
			return err
		}
		f.add(about(Expiring, v.Ref, v.Ref.Name, next, "version %d of %s ends by itself at %s, and nothing has replaced it yet: %s", v.Number, v.Ref, stamp(v.NotAfter), why))
		told[v.SecretID] = true
	}
	for _, waitingFor := range []string{rotation.WaitIssuer, rotation.WaitBackend, rotation.WaitSeal, rotation.WaitRepair, rotation.WaitProbe} {
		err := tx.WaitingRotations(ctx, waitingFor, func(o store.RotationOf) {
			if !told[o.SecretID] && o.Late(r.Now()) {
				f.add(about(Expiring, o.Ref, o.Ref.Name, "keybroker rotation show "+o.ID, "%s was to be rotated at %s (%s), and is not yet: %s",
					o.Ref, stamp(o.CreatedAt), o.Reason, underWay(o.Rotation)))
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// underWay says where a rotation stands.
func underWay(r rotation.Rotation) string {
	text := fmt.Sprintf("its rotation is %s", r.State)
	if r.WaitingFor != "" {
		text += " and waits for " + r.WaitingFor
	}
	return text + because(r.Error)
}

func (r *Runner) deliveries(ctx context.Context, tx *store.Tx, f *finding) error {
	states, err := tx.ConsumerStates(ctx)
	if err != nil {
		return err
	}
	return tx.StuckDeliveries(ctx, r.Now().Add(-slowDelivery), func(d rotation.Delivery) {
		if d.State == rotation.DeliveryPending && len(engine.Awaited([]string{d.Consumer}, states)) == 0 {
			return // it is not to arrive
		}
		subject, of := d.Consumer+" "+d.Ref.Name, fmt.Sprintf("of version %d of %s", d.Version, d.Ref)
		if !d.Event.MakesCurrent() {
			of += " (" + string(d.Event) + ")"
		}
		if d.State == rotation.DeliveryDead {
			f.add(about(StuckDelivery, d.Ref, subject, "keybroker delivery replay "+d.ID, "consumer %s was not told %s: given up after %s%s",
				d.Consumer, of, counted(d.Attempts, "attempt"), because(d.Error)))
			return
		}
		f.add(about(StuckDelivery, d.Ref, subject, "keybroker delivery list --consumer "+d.Consumer, "consumer %s cannot be told %s since %s, by %s so far%s",
			d.Consumer, of, stamp(d.CreatedAt), counted(d.Attempts, "attempt"), because(d.Error)))
	})
}

// quarantines looks at who is kept out: it is for people to end that.
func quarantines(ctx context.Context, tx *store.Tx, f *finding) error {
	found, err := tx.Quarantines(ctx) // the oldest of a name first
	found = slices.CompactFunc(found, func(a, b rotation.Quarantine) bool { return a.Kind == b.Kind && a.Name == b.Name })
	for _, q := range found {
		next := "keybroker quarantine lift " + string(q.Kind) + " " + q.Name + " --reason TEXT"
		f.add(store.Raise{Kind: Quarantined, Tenant: q.Tenant, Subject: string(q.Kind) + " " + q.Name, Next: next, Text: fmt.Sprintf("the %s %s is %s%s", q.Kind, q.Name, q, because(q.Reason))})
	}
	return err
}

// consumers looks at those that want no more deliveries.
func (r *Runner) consumers(ctx context.Context, tx *store.Tx, f *finding) error {
	states, err := tx.ConsumerStates(ctx)
	for _, s := range states {
		if tenant, is := r.Disabled(s); is {
			f.add(store.Raise{Kind: ConsumerDisabled, Tenant: tenant, Subject: s.Name, Next: "keybroker consumer enable " + s.Name,
				Text: fmt.Sprintf("consumer %s is told nothing since %s%s: what it is to be told waits", s.Name, stamp(s.DisabledAt), because(s.Why))})
		}
	}
	return err
}

// overlaps looks at those that wait for consumers, and at those that were ended without.
func overlaps(ctx context.Context, tx *store.Tx, f *finding) error {
	var held []store.RotationOf
	if err := tx.HeldOverlaps(ctx, func(o store.RotationOf) { held = append(held, o) }); err != nil {
		return err
	}
	for _, o := range held {
		missing, kept, err := unacknowledged(ctx, tx, o.Rotation)
		if err != nil {
			return err
		}
		if kept && len(missing) == 0 {
			continue // it is about to go on
		}
		who := "consumers have not acknowledged"
		if len(missing) > 0 {
			who = engine.Unacknowledged(missing)
		}
		f.add(about(MissingAcknowledgement, o.Ref, o.ID, "keybroker secret consumers "+o.Ref.String(),
			"version %d of %s is not revoked yet, since %s version %d", o.From, o.Ref, who, o.To))
	}
	for _, a := range f.open { // those that are missing after the overlap
		if a.Kind != MissingAcknowledgement {
			continue
		}
		rot, err := tx.Rotation(ctx, a.Subject)
		if errors.Is(err, backends.ErrNotFound) || err == nil && rot.State == rotation.Overlap { // which the query tells
			continue
		}
		var missing []string
		if err == nil {
			missing, _, err = unacknowledged(ctx, tx, rot)
		}
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			f.add(a.Raise)
		}
	}
	return nil
}

// replacements looks at consumers that have not got what replaces compromised versions,
// which no longer work: whatever they were to acknowledge, they have no key.
func replacements(ctx context.Context, tx *store.Tx, f *finding) error {
	type emergency struct {
		rotation.Delivery
		consumers []string
	}
	var waiting []string // secrets, in order
	late := map[string]*emergency{}
	err := tx.UnreplacedDeliveries(ctx, func(d rotation.Delivery) {
		if late[d.SecretID] == nil {
			late[d.SecretID] = &emergency{Delivery: d}
			waiting = append(waiting, d.SecretID)
		}
		late[d.SecretID].consumers = append(late[d.SecretID].consumers, d.Consumer)
	})
	if err != nil {
		return err
	}
	states, err := tx.ConsumerStates(ctx)
	if err != nil {
		return err
	}
	for _, secretID := range waiting {
		of := late[secretID]
		if of.consumers = engine.Awaited(of.consumers, states); len(of.consumers) == 0 {
			continue
		}
		v, err := tx.Version(ctx, secretID, of.Version)
		if err != nil {
			return err
		}
		compromised, err := tx.RetirementsOfRotation(ctx, v.RotationID)
		if err != nil {
			return err
		}
		var revoked []int
		for _, t := range compromised {
			if !t.RevokeBegunAt.IsZero() && !t.NeverMade {
				revoked = append(revoked, t.Version)
			}
		}
		if len(revoked) > 0 {
			f.add(about(MissingAcknowledgement, of.Ref, v.RotationID, "keybroker secret consumers "+of.Ref.String(),
				"the compromised versions %v of %s are revoked, and %s version %d, which replaces them", revoked, of.Ref, engine.Unreceived(of.consumers), of.Version))
		}
	}
	return nil
}

// valuesWanted looks whether what people are asked for is still wanted.
func valuesWanted(ctx context.Context, tx *store.Tx, f *finding) error {
	for _, a := range f.open {
		if a.Kind != ValueWanted {
			continue
		}
		rot, err := tx.Rotation(ctx, a.Subject)
		if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return err
		}
		if err == nil && rot.AwaitsValue() {
			f.add(a.Raise)
		}
	}
	return nil
}

// dead looks whether a secret of which no version worked has one by now.
func dead(ctx context.Context, tx *store.Tx, f *finding) error {
	for _, a := range f.open {
		if a.Kind != DeadCurrent {
			continue
		}
		rot, err := tx.Rotation(ctx, a.Subject)
		if errors.Is(err, backends.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		s, err := tx.Secret(ctx, rot.SecretID)
		if err != nil {
			return err
		}
		if text := engine.DeadCurrent(rot, s.Ref); text != "" && s.Current == rot.From {
			f.add(a.Raise)
		}
	}
	return nil
}

// unacknowledged are the consumers that are still told and have not acknowledged what a
// rotation has published, nor anything newer. Nobody waits for those that are in
// quarantine: kept tells whether there are some.
func unacknowledged(ctx context.Context, tx *store.Tx, r rotation.Rotation) (missing []string, kept bool, err error) {
	s, err := tx.Secret(ctx, r.SecretID)
	if err != nil || s.Current != r.To || s.State == rotation.SecretUnmanaged {
		return nil, false, err
	}
	all, err := tx.Deliveries(ctx, s.ID, s.Generation)
	for _, d := range all {
		if slices.Contains(s.Definition.Consumers, d.Consumer) && !d.Satisfies(r.Plan.Acknowledgement.Require) {
			missing = append(missing, d.Consumer)
		}
	}
	if err != nil || len(missing) == 0 {
		return nil, false, err
	}
	states, err := tx.ConsumerStates(ctx)
	awaited := engine.Awaited(missing, states)
	return awaited, len(awaited) < len(missing), err
}

func (r *Runner) placements(ctx context.Context, tx *store.Tx, f *finding) error {
	return tx.AstrayPlacements(ctx, func(p store.Astray) {
		if p.Since.IsZero() || r.Now().Sub(p.Since) < driftGrace {
			return
		}
		raise := about(Drift, p.Ref, p.Backend+" "+p.Ref.Name, "keybroker drift list --secret "+p.Ref.String(), "backend %s was not given version %d of %s yet%s",
			p.Backend, p.Want, p.Ref, because(p.Error))
		if p.Drift != nil {
			raise.Text = fmt.Sprintf("backend %s does not hold of %s what it was given: %s", p.Backend, p.Ref, p.Drift.Detail)
		}
		f.add(raise)
	})
}

func failures(ctx context.Context, tx *store.Tx, f *finding) error {
	return tx.FailedRotations(ctx, func(o store.RotationOf) {
		raise := about(RotationFailed, o.Ref, o.Ref.Name, "keybroker rotation show "+o.ID, "the last rotation of %s failed%s", o.Ref, because(o.Error))
		if text := engine.DeadCurrent(o.Rotation, o.Ref); text != "" {
			raise.Text += "; " + text
		} else if o.Emergency() {
			raise.Text += fmt.Sprintf("; nothing replaces the compromised versions %v, which are being revoked, until `keybroker rotation retry %s`", o.Compromised, o.ID)
		} else if o.From > 0 {
			raise.Text += fmt.Sprintf("; version %d stays in use", o.From)
		}
		f.add(raise)
	})
}

// proposals looks at emergencies that wait for a second person. Those that a trigger has
// proposed have an alert of their own.
func proposals(ctx context.Context, tx *store.Tx, f *finding) error {
	at := store.Page{Limit: most}
	for {
		waiting, next, err := tx.Incidents(ctx, store.IncidentFilter{State: rotation.IncidentProposed}, at)
		for _, i := range waiting {
			if err == nil && i.Cause != rotation.IncidentEvent {
				var n rotation.Tally
				n, err = tx.Tally(ctx, i.ID)
				f.add(Proposal(i, n.Secrets))
			}
		}
		if err != nil || next == "" {
			return err
		}
		at.After = next
	}
}

// Proposal is what people are told of an emergency that waits for a second person.
func Proposal(i rotation.Incident, secrets int) store.Raise {
	return store.Raise{Kind: EmergencyProposed, Tenant: i.Tenant, Subject: i.ID, Next: "keybroker incident approve " + i.ID,
		Text: fmt.Sprintf("an emergency of %s waits for a second person until %s: %s wants it (%s)", counted(secrets, "secret"), stamp(i.ApproveBy), i.Actor, i.Reason)}
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + strings.TrimSpace(why) + ")"
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
