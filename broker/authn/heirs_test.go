package authn_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
)

// TestAHeirMakesNoMoreThanItsParentsHave: a child that holds in name what the role of
// its parent has lost hands it to nobody.
func TestAHeirMakesNoMoreThanItsParentsHave(t *testing.T) {
	boss := policy.Role{Name: "boss", Policies: []string{"root"}}
	app := policy.Role{Name: "app", Policies: []string{"reader"}}
	o := newOffice(t, boss, app)
	_, text := o.make(o.root(), authn.Wanted{Role: "boss"})
	_, text = o.make(o.holder(text), authn.Wanted{Policies: []string{"root"}})
	if child := o.holder(text); !child.IsRoot() {
		t.Fatalf("at first: %+v", child)
	}
	boss.Policies = []string{"tokens"}
	o.rules(boss, app)
	child := o.holder(text)
	if child.IsRoot() {
		t.Error("it is root within one that is not")
	}
	for what, w := range map[string]authn.Wanted{
		"policies":       {Policies: []string{"reader"}},
		"root":           {Policies: []string{"root"}},
		"a role":         {Role: "app"},
		"in emergencies": {Role: "app", BreakGlass: true},
	} {
		if _, _, err := o.Make(child, w); !errors.Is(err, backends.ErrDenied) || !strings.Contains(err.Error(), "is not one of the caller's own") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if rec, _ := o.make(child, authn.Wanted{Policies: []string{"tokens"}}); rec.Parent != child.ID {
		t.Errorf("what it makes of its own has the parent %q", rec.Parent)
	}
}

func networks(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// TestBreakGlassLeavesNoNetwork: nothing that its maker descends from holds it to one.
func TestBreakGlassLeavesNoNetwork(t *testing.T) {
	bound := policy.Role{Name: "bound", Policies: []string{"reader"}, CIDRs: networks("10.0.0.0/8", "192.0.2.0/24")}
	o := newOffice(t, bound)
	_, text := o.make(o.root(), authn.Wanted{Role: "bound"})
	roles := o.holder(text)
	_, text = o.make(roles, authn.Wanted{Policies: []string{"reader"}, CIDRs: networks("10.1.0.0/16", "10.2.0.0/16")})
	_, text = o.make(o.holder(text), authn.Wanted{Policies: []string{"reader"}})
	childs := o.holder(text)
	for what, tt := range map[string]struct {
		maker        authn.Principal
		wanted, want []netip.Prefix // want nil: it is denied
	}{
		"of a role":                      {roles, nil, bound.CIDRs},
		"of a role, narrower":            {roles, networks("10.9.0.0/16"), networks("10.9.0.0/16")},
		"of a role, wider":               {roles, networks("10.9.0.0/16", "0.0.0.0/0"), nil},
		"of a parent and a role":         {childs, nil, networks("10.1.0.0/16", "10.2.0.0/16")},
		"of a parent, elsewhere":         {childs, networks("10.3.0.0/16"), nil},
		"of a parent, as the role could": {childs, networks("10.0.0.0/8"), nil},
		"of a parent, in another family": {childs, networks("::/0"), nil},
		"of a parent, within":            {childs, networks("10.2.3.0/24"), networks("10.2.3.0/24")},
	} {
		rec, _, err := o.Make(tt.maker, authn.Wanted{Name: "x", Role: "bound", BreakGlass: true, CIDRs: tt.wanted})
		if tt.want == nil && !errors.Is(err, backends.ErrDenied) || tt.want != nil && (err != nil || !slices.Equal(rec.CIDRs, tt.want)) {
			t.Errorf("%s: %v, %v", what, rec.CIDRs, err)
		}
	}
}

// TestNobodyWaitsForTheLastUse to be recorded: somebody may hold the row.
func TestNobodyWaitsForTheLastUse(t *testing.T) {
	o := newOffice(t)
	_, text := o.make(o.root(), authn.Wanted{Policies: []string{"reader"}})
	holding, let, held := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		held <- o.db.Update(context.Background(), func(*store.Tx) error {
			close(holding)
			<-let
			return nil
		})
	}()
	<-holding
	asked := make(chan error, 1)
	go func() {
		for range 20 { // each of which would wait
			if _, err := o.show(text, here); err != nil {
				asked <- err
				return
			}
		}
		asked <- nil
	}()
	select {
	case err := <-asked:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("callers wait for as long as the store cannot be written")
	}
	close(let)
	if err := <-held; err != nil {
		t.Error(err)
	}
	if n := strings.Count(o.said.String(), "cannot be recorded"); n != 1 {
		t.Errorf("the log says it %d times: %s", n, o.said.String())
	}
}

// TestOneHandByTwoMethods: an asker does not approve by another block what the same
// identity has asked for.
func TestOneHandByTwoMethods(t *testing.T) {
	g := newGate(t)
	for _, b := range []*badge{g.mesh, g.edge} {
		id := b.names["both"]
		id.Authority, id.DistinguishedName = authn.AuthorityX509, id.Subject
		b.names["both"] = id
	}
	g.roles["mesh"] = &policy.Role{Name: "mesh", Bindings: []policy.Binding{{Method: "mesh", Subject: "CN=both"}}}
	g.open()
	edge, err := g.enter("both", "edge")
	if err != nil {
		t.Fatal(err)
	}
	mesh, err := g.enter("both", "mesh")
	if err != nil {
		t.Fatal(err)
	}
	if edge.Method == mesh.Method || edge.Lineage != mesh.Lineage {
		t.Errorf("%s has the lineage %q, %s %q", edge.Method, edge.Lineage, mesh.Method, mesh.Lineage)
	}
	lineage := func(authority, subject string) string {
		rec, _ := g.MakeFor(authn.Identity{Method: "corp", Authority: authority, Subject: subject}, g.roles["one"], g.clock)
		return rec.Lineage
	}
	if a, b := lineage("https://one.example.com", "42"), lineage("https://two.example.com", "42"); a == b || strings.Contains(a, "/") {
		t.Errorf("people of two providers: %q and %q", a, b)
	}
}

// TestASubjectIsADistinguishedName, and no other name of a certificate passes for one.
func TestASubjectIsADistinguishedName(t *testing.T) {
	id := authn.Identity{Method: "mesh", Authority: authn.AuthorityX509, Subject: "dns:CN=app", DNSNames: []string{"CN=app"}}
	for _, subject := range []string{"CN=app", "dns:CN=app"} {
		if (policy.Binding{Method: "mesh", Subject: subject}).Matches(id.Known()) {
			t.Errorf("it matches %q", subject)
		}
	}
}

// TestAShortenedRoleShortensItsTokens, also those that were made before.
func TestAShortenedRoleShortensItsTokens(t *testing.T) {
	role := policy.Role{Name: "app", Policies: []string{"reader"}, TokenTTL: 8 * time.Hour, TokenMaxTTL: 8 * time.Hour}
	o := newOffice(t, role)
	root := o.root()
	_, text := o.make(root, authn.Wanted{Role: "app"})
	_, glass := o.make(root, authn.Wanted{Role: "app", BreakGlass: true})
	o.clock = o.clock.Add(2 * time.Hour)
	o.holder(text)
	shorter := role
	shorter.TokenMaxTTL = time.Hour
	o.rules(shorter)
	if got := o.why(text, here); got != "expired token" {
		t.Errorf("with a shorter life: %q", got)
	}
	shorter = role
	shorter.TokenIdle = time.Hour
	o.rules(shorter)
	o.clock = o.clock.Add(62 * time.Minute)
	if got := o.why(text, here); got != "token unused for too long" {
		t.Errorf("with less time unused: %q", got)
	}
	o.holder(glass)
}

// TestARefusedBreakGlassTokenIsNoticed: it may have been stolen.
func TestARefusedBreakGlassTokenIsNoticed(t *testing.T) {
	o := newOffice(t, policy.Role{Name: "app", Policies: []string{"reader"}})
	rec, text := o.make(o.root(), authn.Wanted{Role: "app", BreakGlass: true, CIDRs: []netip.Prefix{inner}})
	if got := o.why(text, there); got == "" {
		t.Fatal("it is accepted")
	}
	var alerts []store.Alert
	err := o.db.View(t.Context(), func(tx *store.Tx) (err error) {
		alerts, _, err = tx.AlertsPage(t.Context(), store.AlertFilter{}, store.Page{})
		return err
	})
	if err != nil || len(alerts) != 1 || alerts[0].Kind != "break_glass" || alerts[0].Subject != rec.ID || !strings.Contains(alerts[0].Text, "refused: the token is bound to other addresses") {
		t.Errorf("%+v, %v", alerts, err)
	}
}
