package engine_test

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// slotted sets the values of accounts; listed knows no tags; soaking disables first,
// and what is disabled takes a place.
type (
	slotted struct {
		*issuerOf
		slots map[string]*account
	}
	listed  struct{ *issuerOf }
	soaking struct{ showOnce }
)

// account is a slot.
type account struct {
	holds   *credential // nil: nobody can log in
	highest int         // version that it ever held
}

func (w *world) slotted(name string, slots ...string) slotted {
	i := slotted{w.issuers[name], map[string]*account{}}
	i.traits.Kind, i.traits.Slots = issuer.Set, slots
	for _, s := range slots {
		i.slots[s] = &account{}
	}
	return i
}

func (i slotted) Prepare(req issuer.Request) (backends.Value, error) {
	return prepared{i.issuerOf}.Prepare(req)
}

func (i slotted) SlotOf(h issuer.Handle) string { return h["slot"] }

// set lets the account hold c alone.
func (i slotted) set(slot string, c *credential) {
	a := i.slots[slot]
	if old := a.holds; old != nil && old != c && old.revokedAt.IsZero() {
		old.revokedAt = time.Now()
	}
	c.revokedAt = time.Time{}
	a.holds = c
}

func (i slotted) made(tag string) *credential {
	for _, c := range i.issuerOf.made {
		if c.tag == tag {
			return c
		}
	}
	return nil
}

func (i slotted) Issue(ctx context.Context, req issuer.Request) (cred issuer.Credential, err error) {
	value := req.Prepared.Reveal()[valueField]
	err = i.w.remote(ctx, "issuer "+i.name, fmt.Sprintf("setting version %d in %s", req.Version, req.Slot), func() error {
		a, c := i.slots[req.Slot], i.made(req.Tag)
		switch {
		case req.Version < a.highest, req.Version == a.highest && (a.holds == nil || a.holds.tag != req.Tag):
			return fmt.Errorf("%w: the account has had version %d", backends.ErrConflict, a.highest)
		case c != nil && c.value != value:
			return fmt.Errorf("%w: another value", backends.ErrConflict)
		case c == nil:
			if c, err = i.create(req.Tag, value); err != nil {
				return err
			}
		}
		i.w.displaces(i.slots[req.Slot].holds, req)
		i.set(req.Slot, c)
		a.highest = req.Version
		cred = c.answer()
		cred.Handle["slot"] = req.Slot
		return nil
	})
	return cred, err
}

// displaces checks that setting an account ends nothing that is in use, unless there is
// no other account, or an emergency has none left.
func (w *world) displaces(c *credential, req issuer.Request) {
	if c == nil || !c.revokedAt.IsZero() || c.tag == req.Tag {
		return
	}
	v, _ := w.versionOfTag(c.tag)
	t, retiring := w.retirementOf(v.Number)
	switch {
	case c.issuer == "single":
	case w.secret().Current == v.Number:
		w.violated("setting version %d ends the current version %d", req.Version, v.Number)
	case !retiring && v.Handle != nil:
		w.violated("setting version %d ends version %d, which nobody retires", req.Version, v.Number)
	case retiring && v.Handle != nil && t.AcknowledgedAt.IsZero() && !req.Urgent:
		w.violated("setting version %d ends version %d before its issuer was asked to", req.Version, v.Number)
	}
}

func (i slotted) PutBack(ctx context.Context, req issuer.Request, h issuer.Handle, over int) error {
	return i.w.remote(ctx, "issuer "+i.name, fmt.Sprintf("putting version %d back over %d", req.Version, over), func() error {
		a, c := i.slots[h["slot"]], i.made(req.Tag)
		if c == nil || a.highest > over {
			return fmt.Errorf("%w: the account has had version %d", backends.ErrConflict, a.highest)
		}
		if t, retiring := i.w.retirementOf(req.Version); retiring {
			i.w.violated("version %d is put back, whose retirement is %s", req.Version, t.State)
		}
		i.w.counts["put back"]++
		i.set(h["slot"], c)
		a.highest = over
		return nil
	})
}

func (i slotted) Revoke(ctx context.Context, _ issuer.Subject, h issuer.Handle) error {
	i.w.revoking(i.name, h["id"])
	return i.w.remote(ctx, "issuer "+i.name, "revoking "+h["id"], func() error {
		a := i.slots[h["slot"]]
		if a != nil && a.holds != nil && a.holds.id == h["id"] {
			if a.holds.revokedAt.IsZero() {
				a.holds.revokedAt = time.Now()
			}
			a.holds = nil
		}
		return nil
	})
}

func (i slotted) Find(ctx context.Context, _ issuer.Subject, tag string) (found []issuer.Found, err error) {
	err = i.w.remote(ctx, "issuer "+i.name, "finding "+tag[len(tag)-8:], func() error {
		found = nil
		for _, slot := range i.traits.Slots {
			a := i.slots[slot]
			if a.holds != nil && a.holds.tag == tag {
				found = append(found, issuer.Found{Handle: issuer.Handle{"id": a.holds.id, "slot": slot}, Tag: tag})
			}
		}
		return nil
	})
	return found, err
}

func (i listed) List(ctx context.Context, _ issuer.Subject) (handles []issuer.Handle, err error) {
	err = i.w.remote(ctx, "issuer "+i.name, "listing", func() error {
		handles = nil
		for _, c := range i.made {
			if c.revokedAt.IsZero() {
				handles = append(handles, issuer.Handle{"id": c.id})
			}
		}
		return nil
	})
	return handles, err
}

func (i soaking) Remove(ctx context.Context, _ issuer.Subject, h issuer.Handle) error {
	return i.w.remote(ctx, "issuer "+i.name, "removing "+h["id"], func() error {
		for _, c := range i.made {
			if c.id != h["id"] {
				continue
			}
			v, _ := i.w.versionOfTag(c.tag)
			if t, ok := i.w.retirementOf(v.Number); !ok || t.AcknowledgedAt.IsZero() {
				i.w.violated("%s is removed and was not revoked", c.id)
			}
			if c.removed = true; c.revokedAt.IsZero() { // it had come to life again
				c.revokedAt = time.Now()
			}
		}
		return nil
	})
}
