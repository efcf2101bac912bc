package authn_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// keepOut puts somebody in quarantine by the row alone, as another node does.
func (o *office) keepOut(q rotation.Quarantine) {
	o.t.Helper()
	q.ID, q.At = "q "+string(q.Kind)+q.Name, began
	o.update(func(tx *store.Tx) error {
		_, _, err := tx.AddQuarantine(o.t.Context(), q)
		return err
	})
}

func (o *office) lift(kind rotation.Kept, name string) {
	o.t.Helper()
	o.update(func(tx *store.Tx) error {
		_, err := tx.LiftQuarantines(o.t.Context(), kind, name, "", "", began)
		return err
	})
}

// look looks who is kept out, and wants so many that are new.
func (o *office) look(fresh int) {
	o.t.Helper()
	got, err := o.LookAtQuarantines(o.t.Context())
	if err != nil || len(got) != fresh {
		o.t.Errorf("%d quarantines are new, want %d: %v", len(got), fresh, err)
	}
}

// TestARoleInQuarantine: its tokens and those that descend from them are refused, which is
// told, and nobody has guessed anything by it; root and break-glass tokens go on, and so
// does everybody else.
func TestARoleInQuarantine(t *testing.T) {
	ci, cd := policy.Role{Name: "ci", Tenant: "acme", Policies: []string{"reader"}}, policy.Role{Name: "cd", Policies: []string{"reader"}}
	o := newOffice(t, ci, cd)
	root := o.root()
	_, token := o.make(root, authn.Wanted{Role: "ci"})
	_, heir := o.make(o.holder(token), authn.Wanted{Policies: []string{"reader"}})
	_, login := o.login("alice", "ci")
	glassRec, glass := o.make(root, authn.Wanted{Role: "ci", BreakGlass: true})
	_, other := o.make(root, authn.Wanted{Role: "cd"})
	p, g := o.holder(token), o.holder(glass)
	changed := o.QuarantinesChanged()
	o.look(0)
	o.keepOut(rotation.Quarantine{Kind: rotation.KeptRole, Name: "ci", Tenant: "acme", IncidentID: "i1"})
	if err := o.Barred(p); err != nil {
		t.Errorf("before anybody has looked: %v", err)
	}
	o.look(1)
	select {
	case <-changed:
	default:
		t.Error("who waits for a change is not told")
	}
	const why = `the role "ci" is in quarantine since 2026-03-01T12:00:00Z (incident i1)`
	for what, text := range map[string]backends.SecretString{"a token": token, "one that descends from it": heir, "that of a login": login} {
		_, err := o.show(text, here)
		kept, is := errors.AsType[*authn.KeptOut](err)
		if !is || !errors.Is(err, backends.ErrDenied) || kept.Error() != why || o.log.last().Detail["why"] != why || o.log.last().Outcome != "denied" {
			t.Errorf("%s: %v, audited %v", what, err, o.log.last().Detail)
		}
	}
	if _, err := o.Again(t.Context(), p); err == nil || err.Error() != why {
		t.Errorf("who is there already: %v", err)
	}
	if err := o.Barred(p); err == nil || err.Error() != why {
		t.Errorf("what is decided of who is there: %v", err)
	}
	for range 200 {
		if _, err := o.show(token, there); !strings.Contains(err.Error(), "in quarantine") {
			t.Fatalf("it counts as guessing: %v", err)
		}
	}
	for what, text := range map[string]backends.SecretString{"a break-glass token": glass, "that of another role": other} {
		if why := o.why(text, here); why != "" {
			t.Errorf("%s: %s", what, why)
		}
	}
	if err := errors.Join(o.Barred(root), o.Barred(g)); err != nil {
		t.Errorf("root and who breaks glass: %v", err)
	}
	o.update(func(tx *store.Tx) error {
		ids, err := tx.RevokeTokensOfRole(t.Context(), "ci", began.Add(time.Second))
		for _, id := range ids {
			if id == glassRec.ID {
				t.Error("the break-glass token is revoked")
			}
		}
		return err
	})
	if _, err := o.show(token, here); err == nil || err.Error() != why {
		t.Errorf("revoked with its role: %v", err)
	}
	o.look(0)
	o.lift(rotation.KeptRole, "ci")
	o.look(0)
	if err := o.Barred(p); err != nil {
		t.Errorf("once it is lifted: %v", err)
	}
	if why := o.why(token, here); why != "revoked token" {
		t.Errorf("once it is lifted: %q", why)
	}
	if why := o.why(heir, here); why != "a token that it descends from has ended" {
		t.Errorf("once it is lifted: %q", why)
	}
}

// TestTheRoleOfAConsumerInQuarantine is the one that it read as then, and that it reads as now.
func TestTheRoleOfAConsumerInQuarantine(t *testing.T) {
	o := newOffice(t)
	roles := map[string]*policy.Role{}
	tokens := map[string]backends.SecretString{}
	for _, name := range []string{"then", "now", "other"} {
		roles[name] = &policy.Role{Name: name, Policies: []string{"reader"}}
	}
	o.SetRules(authn.Rules{Roles: roles, Readers: map[string]string{"shop": "now", "silent": ""}})
	for name := range roles {
		_, tokens[name] = o.make(o.root(), authn.Wanted{Role: name})
	}
	_, roleless := o.make(o.root(), authn.Wanted{Policies: []string{"reader"}})
	o.keepOut(rotation.Quarantine{Kind: rotation.KeptConsumer, Name: "shop", Role: "then"})
	o.keepOut(rotation.Quarantine{Kind: rotation.KeptConsumer, Name: "silent"})
	o.look(2)
	for name, text := range tokens {
		if why := o.why(text, here); (why == `the consumer "shop", and its role with it, is in quarantine since 2026-03-01T12:00:00Z`) != (name != "other") {
			t.Errorf("%s: %q", name, why)
		}
	}
	if why := o.why(roleless, here); why != "" {
		t.Errorf("who has no role: %q", why)
	}
	if _, is := o.Quarantined(rotation.KeptConsumer, "shop"); !is {
		t.Error("the consumer is not")
	}
	for _, name := range []string{"shop", ""} {
		if _, is := o.Quarantined(rotation.KeptRole, name); is {
			t.Errorf("a role %q is in quarantine", name)
		}
	}
}

// TestACertificateInQuarantine: whose role is kept out, in that role alone, also where it is
// shown once more on the same connection.
func TestACertificateInQuarantine(t *testing.T) {
	g := newGate(t)
	g.open()
	p, err := g.enter("many", "one")
	if err != nil {
		t.Fatal(err)
	}
	g.keepOut(rotation.Quarantine{Kind: rotation.KeptRole, Name: "one"})
	g.look(1)
	const why = `the role "one" is in quarantine since 2026-03-01T12:00:00Z`
	if _, err := g.enter("many", "one"); err == nil || err.Error() != why || g.log.last().Action != "auth.certificate" || g.log.last().Actor != "mesh/CN=many" {
		t.Errorf("%v, audited %+v", err, g.log.last())
	}
	if _, err := g.Again(t.Context(), p); err == nil || err.Error() != why {
		t.Errorf("who is there already: %v", err)
	}
	if _, err := g.enter("many", "two"); err != nil {
		t.Errorf("in another role: %v", err)
	}
}
