package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// Walls are what a caller never gets across, whatever its policies say: those of
// its role, or of a token that was made with some.
type Walls struct {
	Tenant      string // empty: none
	Environment string // empty: none
}

// Walls returns the role's.
func (r Role) Walls() Walls { return Walls{Tenant: r.Tenant, Environment: r.Environment} }

// Holding is where a secret stands.
type Holding struct {
	Tenant      string
	Environment string     // its label "environment"
	Made        []string   // the environments that its live versions were made in; a label that was changed since moves none of them
	Declared    [][]string // of every backend that holds any of it: the environments that it declares
}

// Wall is what stands between a caller and a secret.
type Wall string

// The walls.
const (
	NoWall          Wall = ""
	TenantWall      Wall = "tenant"      // the secret is another tenant's
	EnvironmentWall Wall = "environment" // the secret's label is missing, or another one, or was so when a live version was made
	BackendWall     Wall = "backend"     // a backend that holds it does not declare the environment
)

// Between returns the first wall between a caller with these walls and a secret.
// What is missing is behind the wall: a secret without the label is in no
// environment, and neither is a backend that declares none.
func (w Walls) Between(h Holding) Wall {
	switch {
	case w.Tenant != "" && w.Tenant != h.Tenant:
		return TenantWall
	case w.Environment == "":
		return NoWall
	case w.Environment != h.Environment || slices.ContainsFunc(h.Made, func(made string) bool { return made != w.Environment }):
		return EnvironmentWall
	case len(h.Declared) == 0 || slices.ContainsFunc(h.Declared, func(declared []string) bool { return !slices.Contains(declared, w.Environment) }):
		return BackendWall
	default:
		return NoWall
	}
}

// Reaches tells whether no wall is between.
func (w Walls) Reaches(h Holding) bool { return w.Between(h) == NoWall }

// Controls of what concerns everybody, and of what is told apart by tenant alone.
var (
	wholeNode  = []string{"sys/config", "sys/metrics", "sys/offline-kit", "sys/seal", "sys/storage"}
	ofATenant  = []string{"sys/alerts", "sys/audit", "sys/events", "sys/issuers", "sys/probes"}
	freezePath = "sys/freeze" // who is bound may know of a freeze, and make or end none
)

// Before returns the wall between a caller with these walls and a control of the
// broker: a path below "sys/".
func (w Walls) Before(control string, c Capability) Wall {
	everybody := slices.Contains(wholeNode, control) || control == freezePath && c != Read
	tenants := slices.Contains(ofATenant, control) || strings.HasPrefix(control, consumers) || control == quarantine || strings.HasPrefix(control, quarantine+"/")
	switch {
	case w.Tenant != "" && everybody:
		return TenantWall
	case w.Environment != "" && (everybody || tenants):
		return EnvironmentWall
	}
	return NoWall
}

// Admits tells whether who has the role may call from address.
func (r Role) Admits(address netip.Addr) bool {
	return len(r.CIDRs) == 0 || within(r.CIDRs, address)
}
