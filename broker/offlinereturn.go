package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

const (
	kitPath    = "sys/offline-kit"
	returnPath = "sys/offline-returns"
	// mostNamed is how many versions are named in the note of a return.
	mostNamed = 20
)

// MakeOfflineKit gives the file that contains when the broker is down, encrypted to those
// that the configuration names. It is of all tenants.
func (b *Broker) MakeOfflineKit(ctx context.Context, p authn.Principal) (kit []byte, err error) {
	err = b.do(ctx, p, policy.Read, request{action: "offline.kit", path: kitPath}, func() (err error) {
		kit, err = b.OfflineKit(ctx)
		return err
	})
	return kit, err
}

// ReturnOffline takes a journal of what was revoked while the broker was down: an incident
// of exactly those versions, which are revoked once more, proven dead and replaced. The
// same journal is the same incident. It takes what an emergency does: the journal is but
// what the caller says.
func (b *Broker) ReturnOffline(ctx context.Context, p authn.Principal, r client.OfflineReturn) (client.Incident, error) {
	d := returned(r)
	req := request{action: "offline.return", path: returnPath, detail: map[string]string{"incident": r.ID, "reason": r.Reason, "by": r.By, "host": r.Host,
		"versions": fmt.Sprint(len(r.Versions)), "override": fmt.Sprint(r.Override)}}
	by := decided{capability: policy.Emergency, Decision: itemwise.Decision, changes: true}
	err := b.checkReturn(&d, r)
	if err != nil {
		return client.Incident{}, b.refuse(ctx, p, req, by, err)
	}
	req.path = incidentPath(d.ID)
	known, err := b.returnedBefore(ctx, d)
	switch {
	case err != nil:
		return client.Incident{}, b.refuse(ctx, p, req, itemwise, err)
	case known:
		return b.Incident(ctx, p, d.ID)
	}
	if by, err := b.prepareReturn(ctx, p, &d, r); err != nil {
		return client.Incident{}, b.refuse(ctx, p, req, by, err)
	}
	wanted, note := d.opening, noteOf(r)
	err = b.contained(ctx, p, req, by, func(tx *store.Tx) error {
		d.opening = wanted // this may run again
		d.targets = slices.Clone(wanted.targets)
		if have, err := tx.Incident(ctx, d.ID); err == nil && same(have, d) {
			return nil // the request was sent twice, at once
		} else if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return err
		}
		if _, err := b.openIncident(ctx, tx, p, &d.opening); err != nil {
			return err
		}
		return tx.AddNote(ctx, d.incident.ID, store.Note{At: b.Now(), By: p.ID, Text: note})
	})
	if err != nil {
		return client.Incident{}, err
	}
	return b.incident(ctx, p, d.incident.ID)
}

// returned is what a return declares.
func returned(r client.OfflineReturn) declaration {
	d := declaration{IncidentRequest: client.IncidentRequest{ID: r.ID, Reason: r.Reason, Contain: client.RevokeFirst, Override: r.Override}}
	for _, v := range r.Versions {
		d.Selector.Names = append(d.Selector.Names, v.Secret)
	}
	slices.Sort(d.Selector.Names)
	d.Selector.Names = slices.Compact(d.Selector.Names)
	return d
}

// checkReturn reads what was handed in; ErrInvalid, or ErrConflict where it is another
// installation's.
func (b *Broker) checkReturn(d *declaration, r client.OfflineReturn) error {
	switch {
	case r.ID == "":
		return fmt.Errorf("%w: the id of the journal is missing", backends.ErrInvalid)
	case len(r.Versions) == 0:
		return fmt.Errorf("%w: nothing was revoked by this journal", backends.ErrInvalid)
	case len(r.Versions) > maxSelected:
		return fmt.Errorf("%w: at most %d versions are taken at once", backends.ErrInvalid, maxSelected)
	case r.Installation != b.Installation:
		return fmt.Errorf("%w: the journal was written by a kit of another installation (%q; this one is %q)", backends.ErrConflict, r.Installation, b.Installation)
	case slices.ContainsFunc(r.Versions, func(v client.OfflineVersion) bool { return v.Version < 1 || v.Secret == "" }):
		return fmt.Errorf("%w: versions have a secret, and are numbered from 1", backends.ErrInvalid)
	}
	if d.DetectedAt = r.From; d.DetectedAt.After(b.Now()) { // by the clock of another host
		d.DetectedAt = time.Time{}
	}
	return d.check(b.Now())
}

func (b *Broker) returnedBefore(ctx context.Context, d declaration) (known bool, err error) {
	var have rotation.Incident
	err = b.Store.View(ctx, func(tx *store.Tx) (err error) {
		have, err = tx.Incident(ctx, d.ID)
		return err
	})
	switch {
	case errors.Is(err, backends.ErrNotFound):
		return false, nil
	case err == nil && (have.Cause != rotation.IncidentOffline || !same(have, d)):
		err = fmt.Errorf("%w: the id %s is of another incident", backends.ErrConflict, d.ID)
	}
	return err == nil, err
}

// prepareReturn looks up what was revoked, and whether p may declare it.
func (b *Broker) prepareReturn(ctx context.Context, p authn.Principal, d *declaration, r client.OfflineReturn) (by decided, err error) {
	by = decided{capability: policy.Emergency, Decision: itemwise.Decision}
	of := map[string][]client.OfflineVersion{}
	for _, v := range r.Versions {
		of[v.Secret] = append(of[v.Secret], v)
	}
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		d.selection = selection{}
		var checks []string
		for _, name := range d.Selector.Names {
			more, err := b.returnedSecret(ctx, tx, p, d, name, of[name])
			if err != nil {
				return err
			}
			checks = append(checks, more...)
		}
		if err := living(ctx, tx, d.selector, &d.selection); err != nil {
			return err
		}
		if err := b.fill(ctx, tx, d); err != nil {
			return err
		}
		d.incident.Cause = rotation.IncidentOffline
		d.checks = append(d.checks, checks...)
		return nil
	})
	if err != nil {
		return by, err
	}
	if len(d.targets) == 0 {
		return b.nothing(p, d)
	}
	return by, b.secondPerson(p, d)
}

// returnedSecret finds one, and says what people have to look at: what the broker knows
// nothing of, and what the kit knew nothing of.
func (b *Broker) returnedSecret(ctx context.Context, tx *store.Tx, p authn.Principal, d *declaration, name string, versions []client.OfflineVersion) (checks []string, err error) {
	s, err := b.find(ctx, tx, p, name)
	if errors.Is(err, backends.ErrNotFound) {
		d.missing = append(d.missing, name)
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	may, sees, err := b.mayTurnOff(ctx, tx, p, s)
	if err != nil || !may && !sees {
		d.missing = append(d.missing, name)
		return nil, err
	}
	m, last := matched{secret: s, named: true, may: may}, 0
	for _, v := range versions {
		last = max(last, v.Last)
		_, err := tx.Version(ctx, s.ID, v.Version)
		switch {
		case errors.Is(err, backends.ErrNotFound):
			checks = append(checks, fmt.Sprintf("version %d of %s was revoked offline (%s), and nothing is known of it here: make sure that it is dead", v.Version, s.Ref, v.Result))
		case err != nil:
			return nil, err
		case !slices.Contains(m.pinned, v.Version):
			m.pinned = append(m.pinned, v.Version)
		}
	}
	if last > 0 && s.LastVersion > last {
		checks = append(checks, fmt.Sprintf("the kit was older than version %d of %s, which is not part of this: if it leaked, too, `keybroker emergency %s`", s.LastVersion, s.Ref, s.Ref))
	}
	if slices.Sort(m.pinned); len(m.pinned) > 0 {
		d.hits = append(d.hits, m)
	}
	return checks, nil
}

// noteOf is what the incident is to tell of what was done offline.
func noteOf(r client.OfflineReturn) string {
	revoked, open := 0, []string{}
	for _, v := range r.Versions {
		if v.Result == "revoked" {
			revoked++
		} else if len(open) < mostNamed {
			open = append(open, fmt.Sprintf("%s version %d", v.Secret, v.Version))
		}
	}
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	text := fmt.Sprintf("Revoked while the broker was down, from %s to %s, by %s on %s, with a kit of %s: %d of %d versions.", at(r.From), at(r.To), r.By, r.Host, at(r.KitMadeAt), revoked, len(r.Versions))
	if len(open) > 0 {
		text += " Open then: " + strings.Join(open, ", ")
		if more := len(r.Versions) - revoked - len(open); more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
	}
	return text
}
