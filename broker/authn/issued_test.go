package authn_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/policy"
)

// provider is a login method of one issuer.
type provider string

func (p provider) Issuer() string                   { return string(p) }
func (p provider) Describe() authn.LoginDescription { return authn.LoginDescription{} }
func (p provider) Verify(context.Context, string) (authn.Identity, error) {
	return authn.Identity{}, nil
}

// TestAnotherProviderOfTheSameName knows nobody who logged in by the one before.
func TestAnotherProviderOfTheSameName(t *testing.T) {
	role := policy.Role{Name: "on-call", Policies: []string{"reader"}}
	o := newOffice(t, role)
	by := func(issuer string) {
		o.SetRules(authn.Rules{Roles: map[string]*policy.Role{"on-call": &role}, Logins: map[string]authn.LoginMethod{"corp": provider(issuer)}})
	}
	by("https://old.example.com")
	rec, text := o.MakeFor(authn.Identity{Method: "corp", Authority: "https://old.example.com", Subject: "42"}, &role, o.clock)
	o.keep(rec)
	o.holder(text)
	by("https://new.example.com")
	if got := o.why(text, here); got != "the method of the login is not in the configuration" {
		t.Errorf("with another provider: %q", got)
	}
	o.SetRules(authn.Rules{Roles: map[string]*policy.Role{"on-call": &role}, Certificates: map[string]authn.CertificateMethod{"corp": nil}})
	if got := o.why(text, here); got != "the method of the login is not in the configuration" {
		t.Errorf("with an authority: %q", got)
	}
	by("https://old.example.com")
	o.holder(text)
}

// TestAdmits: an address is the same however it is written, and on whichever link.
func TestAdmits(t *testing.T) {
	role := &policy.Role{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")}}
	for from, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "fe80::1%eth0": true, "192.0.2.1": false, "2001:db8::1": false} {
		if authn.Admits(role, netip.MustParseAddr(from)) != want {
			t.Errorf("%s: %v", from, !want)
		}
	}
}
