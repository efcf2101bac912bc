package authn_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/policy"
)

func certificate(name string) []*x509.Certificate {
	return []*x509.Certificate{{Raw: []byte(name), Subject: pkix.Name{CommonName: name}}}
}

// gate is an office that knows certificates by two methods.
type gate struct {
	*office
	mesh, edge *badge
	roles      map[string]*policy.Role
}

func newGate(t *testing.T) *gate {
	t.Helper()
	binding := func(method, name string) policy.Binding { return policy.Binding{Method: method, CommonName: name} }
	id := func(name string) authn.Identity {
		return authn.Identity{Subject: "CN=" + name, Name: name, CommonName: name, ExpiresAt: began.Add(time.Hour)}
	}
	return &gate{office: newOffice(t),
		mesh: &badge{names: map[string]authn.Identity{"app": id("app"), "both": id("both"), "many": id("many"), "nobody": id("nobody"), "far": id("far")}},
		edge: &badge{names: map[string]authn.Identity{"both": id("both")}},
		roles: map[string]*policy.Role{
			"app":  {Name: "app", Tenant: "acme", Environment: "production", Policies: []string{"reader"}, Limit: policy.Limit{RequestsPerMinute: 7}, Bindings: []policy.Binding{binding("mesh", "app")}},
			"one":  {Name: "one", Bindings: []policy.Binding{binding("mesh", "many"), binding("edge", "app")}},
			"two":  {Name: "two", Bindings: []policy.Binding{binding("edge", "nobody"), binding("mesh", "many")}},
			"edge": {Name: "edge", Bindings: []policy.Binding{binding("edge", "both")}},
			"far":  {Name: "far", Bindings: []policy.Binding{binding("mesh", "far")}, CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
		}}
}

func (g *gate) open() {
	g.SetRules(authn.Rules{Roles: g.roles, Certificates: map[string]authn.CertificateMethod{"mesh": g.mesh, "edge": g.edge}})
}

func (g *gate) enter(name, role string) (authn.Principal, error) {
	return g.Authenticate(g.t.Context(), authn.Credentials{Certificates: certificate(name), Role: role, Address: here, Request: "req"})
}

func TestCertificates(t *testing.T) {
	g := newGate(t)
	g.open()
	p, err := g.enter("app", "")
	if err != nil {
		t.Fatal(err)
	}
	if p.ID != "mesh/CN=app" || p.Method != "mesh" || p.Lineage != "mesh:CN=app" || p.Role != "app" || p.Tenant != "acme" || p.Environment != "production" ||
		p.Limit.RequestsPerMinute != 7 || p.Address != here || p.Request != "req" || !p.ExpiresAt.Equal(began.Add(time.Hour)) || p.HasToken() {
		t.Errorf("%+v", p)
	}
	for _, tt := range []struct{ name, role, want, why string }{
		{"app", "app", "app", ""},
		{"many", "one", "one", ""},
		{"many", "two", "two", ""},
		{"both", "", "edge", ""},
		{"many", "", "", "several roles are bound to the caller: name one of one, two"},
		{"many", "app", "", `the role "app" is none of those that are bound to the caller: one, two`},
		{"nobody", "", "", `no role is bound to CN=nobody, as which "mesh" knows it`},
		{"nobody", "two", "", "no role is bound to CN=nobody"},
		{"stranger", "", "", "the certificate is not accepted"},
		{"stranger", "app", "", "the certificate is not accepted"},
		{"far", "", "", "the certificate is not accepted from this address"},
	} {
		p, err := g.enter(tt.name, tt.role)
		if tt.why == "" {
			if err != nil || p.Role != tt.want {
				t.Errorf("%s as %q: role %q, %v", tt.name, tt.role, p.Role, err)
			}
			continue
		}
		told, ok := errors.AsType[*authn.Refused](err)
		if !ok || !errors.Is(err, backends.ErrDenied) || !strings.Contains(told.Error(), tt.why) {
			t.Errorf("%s as %q: %v, want %s", tt.name, tt.role, err, tt.why)
		}
		if last := g.log.last(); last.Action != "auth.certificate" || last.Outcome != "denied" || last.Detail["why"] == "" || last.Address != here.String() {
			t.Errorf("%s as %q: audited %+v", tt.name, tt.role, last)
		}
	}
}

func TestATokenCountsMoreThanACertificate(t *testing.T) {
	g := newGate(t)
	g.open()
	_, err := g.Authenticate(t.Context(), authn.Credentials{Token: "kbt_wrong", Certificates: certificate("app"), Address: here})
	if !errors.Is(err, backends.ErrDenied) || g.log.last().Action != "auth.token" {
		t.Errorf("a wrong token with a right certificate: %v", err)
	}
}

func TestWhoseCertificateCannotBeTold(t *testing.T) {
	g := newGate(t)
	g.open()
	g.mesh.fail = backends.ErrUnavailable
	if _, err := g.enter("app", ""); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("one method cannot tell, the other does not know: %v", err)
	}
	if p, err := g.enter("both", ""); err != nil || p.Role != "edge" {
		t.Errorf("one method cannot tell, the other knows: %v", err)
	}
}

// TestACertificateIsVerifiedOnce as long as nothing has changed.
func TestACertificateIsVerifiedOnce(t *testing.T) {
	g := newGate(t)
	g.open()
	times := func(what string, want int, before func()) {
		t.Helper()
		g.mesh.asked = 0
		before()
		for range 3 {
			_, _ = g.enter("app", "")
		}
		if g.mesh.asked != want {
			t.Errorf("%s: verified %d times, want %d", what, g.mesh.asked, want)
		}
	}
	times("at first", 1, func() {})
	times("then", 0, func() {})
	times("after a minute", 1, func() { g.clock = g.clock.Add(time.Minute) })
	times("after another CRL", 1, func() { g.mesh.revision++ })
	times("after a reload", 1, g.open)
	times("revoked by another CRL", 3, func() {
		delete(g.mesh.names, "app")
		g.mesh.revision++
	})
}

func TestAStreamEndsWithItsCertificate(t *testing.T) {
	g := newGate(t)
	g.open()
	p, err := g.enter("app", "")
	if err != nil {
		t.Fatal(err)
	}
	role := *g.roles["app"]
	g.roles["app"] = &role
	role.Tenant, role.Policies = "globex", []string{"writer"}
	g.open()
	again, err := g.Again(t.Context(), p)
	if err != nil || again.ID != p.ID || again.Tenant != "globex" || again.Role != "app" || !slices.Equal(again.Policies, role.Policies) || again.Address != here || again.Request != "req" {
		t.Errorf("its role is of another tenant, and it is %+v (%v)", again, err)
	}
	check := func(what string) {
		t.Helper()
		if _, err := g.Again(t.Context(), p); !errors.Is(err, backends.ErrDenied) {
			t.Errorf("%s: %v", what, err)
		}
		if last := g.log.last(); last.Action != "auth.certificate" || last.Outcome != "denied" || last.Request != "req" {
			t.Errorf("%s: audited %+v", what, last)
		}
	}
	role.Tenant, role.Bindings = "acme", nil
	g.open()
	check("its role is not bound to it any more")
	delete(g.roles, "app")
	g.open()
	check("its role is gone")
}

// TestACertificateAloneMakesNoToken which would have nothing to end with; what the
// root policy makes for others needs nothing.
func TestACertificateAloneMakesNoToken(t *testing.T) {
	g := newGate(t)
	g.roles["one"].Policies = []string{"root"}
	g.open()
	app, err := g.enter("app", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := g.Make(app, authn.Wanted{Name: "x", Policies: []string{"reader"}}); !errors.Is(err, backends.ErrDenied) || !strings.Contains(err.Error(), "log in with that") {
		t.Errorf("%v", err)
	}
	boss, err := g.enter("many", "one")
	if err != nil {
		t.Fatal(err)
	}
	rec, _ := g.make(boss, authn.Wanted{Role: "app"})
	if rec.Parent != "" || !strings.HasPrefix(rec.Lineage, "mesh:CN=many/tok_") {
		t.Errorf("parent %q, lineage %q", rec.Parent, rec.Lineage)
	}
}

// TestWhoIsProvenIsToldWhy, however many others fail at the same address: who lacks
// a role guesses nothing.
func TestWhoIsProvenIsToldWhy(t *testing.T) {
	g := newGate(t)
	g.open()
	for range 50 {
		if _, err := g.enter("many", ""); err == nil || !strings.Contains(err.Error(), "name one of") {
			t.Fatalf("%v", err)
		}
	}
}

func TestLoginsByCertificate(t *testing.T) {
	g := newGate(t)
	g.open()
	rules := g.Rules()
	id, err := rules.IdentifyBy("mesh", certificate("many"), g.clock)
	if err != nil || id.Method != "mesh" || id.Subject != "CN=many" {
		t.Fatalf("%+v, %v", id, err)
	}
	if role, err := rules.RoleFor(id, "two"); err != nil || role.Name != "two" {
		t.Errorf("%v, %v", role, err)
	}
	if _, err := rules.RoleFor(id, ""); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("several roles: %v", err)
	}
	for method, chain := range map[string][]*x509.Certificate{"nosuch": certificate("app"), "mesh": nil, "edge": certificate("app")} {
		if _, err := rules.IdentifyBy(method, chain, g.clock); !errors.Is(err, backends.ErrDenied) {
			t.Errorf("%s: %v", method, err)
		}
	}
}
