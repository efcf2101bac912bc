package policy_test

import (
	"net/netip"
	"testing"

	"github.com/keybroker/keybroker/policy"
)

func TestWalls(t *testing.T) {
	production := [][]string{{"staging", "production"}, {"production"}}
	for _, c := range []struct {
		role policy.Role
		at   policy.Holding
		want policy.Wall
	}{
		{policy.Role{}, policy.Holding{}, policy.NoWall},
		{policy.Role{}, policy.Holding{Tenant: "acme", Environment: "production", Declared: [][]string{{"staging"}}}, policy.NoWall},
		{policy.Role{Tenant: "acme"}, policy.Holding{Tenant: "acme"}, policy.NoWall},
		{policy.Role{Tenant: "acme"}, policy.Holding{Tenant: "acme2"}, policy.TenantWall},
		{policy.Role{Tenant: "acme"}, policy.Holding{}, policy.TenantWall},
		{policy.Role{Tenant: "acme", Environment: "production"}, policy.Holding{Tenant: "other", Environment: "staging"}, policy.TenantWall},
		{policy.Role{Environment: "production"}, policy.Holding{Environment: "production", Declared: production}, policy.NoWall},
		{policy.Role{Environment: "staging"}, policy.Holding{Environment: "production", Declared: production}, policy.EnvironmentWall},
		// Missing matches nothing.
		{policy.Role{Environment: "production"}, policy.Holding{Declared: production}, policy.EnvironmentWall},
		{policy.Role{Environment: "production"}, policy.Holding{Environment: "production"}, policy.BackendWall},
		{policy.Role{Environment: "production"}, policy.Holding{Environment: "production", Declared: [][]string{{"production"}, nil}}, policy.BackendWall},
		// A mirror counts as the primary does.
		{policy.Role{Environment: "staging"}, policy.Holding{Environment: "staging", Declared: production}, policy.BackendWall},
	} {
		walls := c.role.Walls()
		if got := walls.Between(c.at); got != c.want || walls.Reaches(c.at) != (c.want == policy.NoWall) {
			t.Errorf("%+v and %+v: got %q, want %q", walls, c.at, got, c.want)
		}
	}
}

func TestRoleAdmitsAddresses(t *testing.T) {
	role := policy.Role{CIDRs: prefixes("10.20.0.0/16", "2001:db8::/32")}
	for address, want := range map[string]bool{
		"10.20.3.4": true, "::ffff:10.20.3.4": true, "2001:db8::1": true, "2001:db8::1%eth0": true,
		"10.21.3.4": false, "::1": false,
	} {
		if got := role.Admits(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: got %v", address, got)
		}
	}
	if role.Admits(netip.Addr{}) || !(policy.Role{}).Admits(netip.Addr{}) {
		t.Error("no address is in no range, and a role without ranges asks for none")
	}
}

func TestWallsBeforeControls(t *testing.T) {
	tenant, environment := policy.Walls{Tenant: "acme"}, policy.Walls{Environment: "production"}
	for _, c := range []struct {
		bound policy.Walls
		path  string
		c     policy.Capability
		want  policy.Wall
	}{
		{tenant, "sys/seal", policy.Read, policy.TenantWall},
		{tenant, "sys/config", policy.Update, policy.TenantWall},
		{tenant, "sys/freeze", policy.Update, policy.TenantWall},
		{tenant, "sys/freeze", policy.Read, policy.NoWall},
		{tenant, "sys/alerts", policy.Read, policy.NoWall},
		{tenant, "sys/audit", policy.Read, policy.NoWall},
		{tenant, "sys/tokens", policy.Create, policy.NoWall},
		{environment, "sys/seal", policy.Read, policy.EnvironmentWall},
		{environment, "sys/metrics", policy.Read, policy.EnvironmentWall},
		{environment, "sys/freeze", policy.Update, policy.EnvironmentWall},
		{environment, "sys/freeze", policy.Read, policy.NoWall},
		{environment, "sys/alerts", policy.Read, policy.EnvironmentWall},
		{environment, "sys/audit", policy.Read, policy.EnvironmentWall},
		{environment, "sys/tokens", policy.Create, policy.NoWall},
		{tenant, "sys/consumers/shop", policy.Update, policy.NoWall},
		{environment, "sys/consumers/shop", policy.List, policy.EnvironmentWall},
	} {
		if got := c.bound.Before(c.path, c.c); got != c.want {
			t.Errorf("%s on %s: got %q, want %q", c.c, c.path, got, c.want)
		}
		if got := (policy.Walls{}).Before(c.path, c.c); got != policy.NoWall {
			t.Errorf("%s on %s: %q is before who has no walls", c.c, c.path, got)
		}
	}
}
