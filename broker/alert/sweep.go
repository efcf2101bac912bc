package alert

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

const (
	slowDelivery = time.Hour        // pending for longer is stuck: four attempts have failed
	driftGrace   = 15 * time.Minute // in which what is out of step is brought in step by itself
	staleNode    = 15 * time.Minute // after which a node that says nothing of its alerts is gone
	seeEvery     = time.Minute
	maxFound     = 1000 // of each kind that a sweep looks at, the oldest
)

// finding is what one sweep has found.
type finding struct {
	raises []store.Raise
	more   map[string]bool // kinds of which there is more than it looked at
	open   []store.Alert
	local  bool // what the node alone can tell is among it
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
			return f.local
		case kind == NewRootToken || kind == BreakGlass:
			return false
		}
		return !f.more[kind]
	})
	see := false
	for _, a := range f.open {
		mine := a.Node == r.Node && a.Node != ""
		see = see || mine && f.local && now.Sub(a.SeenAt) >= seeEvery
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

func (r *Runner) look(ctx context.Context) (f finding, err error) {
	local, complete := r.Local()
	f.local = complete
	err = r.Store.View(ctx, func(tx *store.Tx) error {
		f.raises, f.more = nil, map[string]bool{}
		all, err := tx.UnsettledAlerts(ctx)
		if err != nil {
			return err
		}
		f.open = slices.DeleteFunc(all, func(a store.Alert) bool { return !a.Open() })
		for _, look := range []func(context.Context, *store.Tx, *finding) error{retirements, r.deliveries, overlaps, r.placements, failures, standing} {
			if err := look(ctx, tx, &f); err != nil {
				return err
			}
		}
		return nil
	})
	for _, one := range local {
		one.Node = r.Node
		f.raises = append(f.raises, one)
	}
	return f, err
}

// add adds what each item is worth, and notes that there is more than was looked at.
func add[T any](f *finding, items []T, kinds []string, of func(T) (store.Raise, bool)) {
	for _, item := range items {
		if raise, ok := of(item); ok {
			f.raises = append(f.raises, raise)
		}
	}
	for _, kind := range kinds {
		f.more[kind] = f.more[kind] || len(items) >= maxFound
	}
}

func about(kind string, ref backends.Ref, subject, next, format string, args ...any) store.Raise {
	return store.Raise{Kind: kind, Tenant: ref.Tenant, Subject: subject, Text: fmt.Sprintf(format, args...), Next: next}
}

func retirements(ctx context.Context, tx *store.Tx, f *finding) error {
	found, err := tx.TroubledRetirements(ctx, Unprovable, maxFound)
	add(f, found, []string{Unconfirmed, Resurrected, Unprovable}, func(t store.RetirementOf) (store.Raise, bool) {
		next := "keybroker retirement show " + t.ID
		switch t.State {
		case rotation.Unconfirmed:
			return about(Unconfirmed, t.Ref, t.ID, next, "version %d of %s was revoked and is not proven dead: %s", t.Version, t.Ref, t.Why()), true
		case rotation.Resurrected:
			return about(Resurrected, t.Ref, t.ID, next, "version %d of %s was proven dead and is accepted again; it is being revoked once more", t.Version, t.Ref), true
		}
		return about(Unprovable, t.Ref, t.ID, next, "nobody can prove that version %d of %s is dead: %s", t.Version, t.Ref, t.Why()), !t.Confirm.None
	})
	return err
}

func (r *Runner) deliveries(ctx context.Context, tx *store.Tx, f *finding) error {
	found, err := tx.StuckDeliveries(ctx, r.Now().Add(-slowDelivery), maxFound)
	add(f, found, []string{StuckDelivery}, func(d rotation.Delivery) (store.Raise, bool) {
		subject := d.Consumer + " " + d.Ref.Name
		if d.State == rotation.DeliveryDead {
			return about(StuckDelivery, d.Ref, subject, "keybroker delivery replay "+d.ID, "consumer %s was not told of version %d of %s: given up after %s%s",
				d.Consumer, d.Version, d.Ref, counted(d.Attempts, "attempt"), because(d.Error)), true
		}
		return about(StuckDelivery, d.Ref, subject, "keybroker delivery list --consumer "+d.Consumer, "consumer %s cannot be told of version %d of %s since %s, by %s so far%s",
			d.Consumer, d.Version, d.Ref, stamp(d.CreatedAt), counted(d.Attempts, "attempt"), because(d.Error)), true
	})
	return err
}

func overlaps(ctx context.Context, tx *store.Tx, f *finding) error {
	found, err := tx.HeldOverlaps(ctx, maxFound)
	add(f, found, []string{MissingAcknowledgement}, func(o store.RotationOf) (store.Raise, bool) {
		return about(MissingAcknowledgement, o.Ref, o.ID, "keybroker delivery list --secret "+o.Ref.String(),
			"version %d of %s is not revoked yet, since consumers have not acknowledged version %d", o.From, o.Ref, o.To), true
	})
	return err
}

func (r *Runner) placements(ctx context.Context, tx *store.Tx, f *finding) error {
	found, err := tx.AstrayPlacements(ctx, maxFound)
	add(f, found, []string{Drift}, func(p store.Astray) (store.Raise, bool) {
		raise := about(Drift, p.Ref, p.Backend+" "+p.Ref.Name, "keybroker drift list --secret "+p.Ref.String(), "backend %s was not given version %d of %s yet%s",
			p.Backend, p.Want, p.Ref, because(p.Error))
		if p.Drift != nil {
			raise.Text = fmt.Sprintf("backend %s does not hold of %s what it was given: %s", p.Backend, p.Ref, p.Drift.Detail)
		}
		return raise, !p.Since.IsZero() && r.Now().Sub(p.Since) >= driftGrace
	})
	return err
}

func failures(ctx context.Context, tx *store.Tx, f *finding) error {
	found, err := tx.FailedRotations(ctx, maxFound)
	add(f, found, []string{RotationFailed}, func(o store.RotationOf) (store.Raise, bool) {
		raise := about(RotationFailed, o.Ref, o.Ref.Name, "keybroker rotation show "+o.ID, "the last rotation of %s failed%s", o.Ref, because(o.Error))
		if o.From > 0 {
			raise.Text += fmt.Sprintf("; version %d stays in use", o.From)
		}
		return raise, true
	})
	return err
}

// standing keeps the alerts of what a query does not find any more and is not over:
// a resurrected version that is not proven dead again, and acknowledgements that are
// missing after the overlap.
func standing(ctx context.Context, tx *store.Tx, f *finding) error {
	for _, a := range f.open {
		var stands bool
		var err error
		switch a.Kind {
		case Resurrected:
			var t rotation.Retirement
			t, err = tx.Retirement(ctx, a.Subject)
			stands = t.State != rotation.ProvenDead
		case MissingAcknowledgement:
			stands, err = unacknowledged(ctx, tx, a.Subject)
		}
		if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return err
		}
		if stands && err == nil {
			f.raises = append(f.raises, a.Raise)
		}
	}
	return nil
}

// unacknowledged tells whether a consumer has not acknowledged what a rotation has
// published, and nothing newer.
func unacknowledged(ctx context.Context, tx *store.Tx, rotationID string) (bool, error) {
	r, err := tx.Rotation(ctx, rotationID)
	if err != nil {
		return false, err
	}
	s, err := tx.Secret(ctx, r.SecretID)
	if err != nil || s.Current != r.To || r.State == rotation.Overlap {
		return false, err // in the overlap the query tells
	}
	all, err := tx.Deliveries(ctx, s.ID, s.Generation)
	return slices.ContainsFunc(all, func(d rotation.Delivery) bool { return !d.State.Satisfies(r.Plan.Acknowledgement.Require) }), err
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
