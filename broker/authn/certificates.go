package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// byCertificate returns whom a certificate proves, in the role that is meant.
func (c *Callers) byCertificate(shown Credentials, rules *Rules) (Principal, *refusal, error) {
	found, err := c.identify(shown.Certificates, rules)
	if err != nil {
		return Principal{}, nil, err
	}
	if len(found) == 0 {
		return Principal{}, &refusal{why: "no method accepts the certificate", told: "the certificate is not accepted"}, nil
	}
	id, role, err := rules.roleFor(found, shown.Role)
	if err != nil {
		return Principal{}, &refusal{actor: found[0].name(), method: found[0].Method, why: err.Error(), told: err.Error(), proven: true}, nil
	}
	if !within(role.CIDRs, shown.Address) {
		return Principal{}, &refusal{actor: id.name(), tenant: role.Tenant, method: id.Method, why: "the role is bound to other addresses", told: "the certificate is not accepted from this address", proven: true}, nil
	}
	if q, is := c.quarantined(rules, rotation.KeptRole, role.Name); is {
		kept := &KeptOut{q}
		return Principal{}, &refusal{actor: id.name(), tenant: role.Tenant, method: id.Method, why: kept.Error(), kept: kept, proven: true}, nil
	}
	var networks [][]netip.Prefix
	if len(role.CIDRs) > 0 {
		networks = append(networks, role.CIDRs)
	}
	return Principal{ID: id.name(), Identity: id.name(), Name: id.Name, Method: id.Method, Role: role.Name, Tenant: role.Tenant, Environment: role.Environment,
		Policies: role.Policies, Lineage: id.lineage(), ExpiresAt: id.ExpiresAt, Address: shown.Address, Request: shown.Request, Limit: role.Limit,
		networks: networks, chain: shown.Certificates, rules: rules}, nil, nil
}

// name is how an identity without a token is called in logs.
func (id Identity) name() string { return id.Method + "/" + id.Subject }

// IdentifyBy tells whom a chain of certificates proves to the method of that name.
// ErrDenied if nobody, ErrUnavailable if that cannot be told.
func (r *Rules) IdentifyBy(method string, chain []*x509.Certificate, now time.Time) (Identity, error) {
	m := r.Certificates[method]
	if m == nil || len(chain) == 0 {
		return Identity{}, &Refused{text: "no certificate is shown that the method could accept"}
	}
	id, err := m.Identify(chain, now)
	id.Method = method
	return id, err
}

// RoleFor returns the role that an identity means: the one it names, if it is bound
// to the identity, else the only one that is. A *Refused otherwise, which names those
// that are.
func (r *Rules) RoleFor(id Identity, named string) (*policy.Role, error) {
	_, role, err := r.roleFor([]Identity{id}, named)
	return role, err
}

// Admits tells whether a role may be had from an address.
func Admits(role *policy.Role, from netip.Addr) bool { return within(role.CIDRs, from) }

// roleFor finds the role among those that are bound to one who has several
// identities, with the first of them that it is bound to.
func (r *Rules) roleFor(identities []Identity, named string) (Identity, *policy.Role, error) {
	bound := map[string]Identity{}
	for _, id := range identities {
		known := id.Known()
		for name, role := range r.Roles {
			_, has := bound[name]
			if !has && slices.ContainsFunc(role.Bindings, func(b policy.Binding) bool { return b.Matches(known) }) {
				bound[name] = id
			}
		}
	}
	names := slices.Sorted(maps.Keys(bound))
	id, ok := bound[named]
	switch {
	case ok:
		return id, r.Roles[named], nil
	case len(names) == 0:
		return Identity{}, nil, &Refused{text: fmt.Sprintf("no role is bound to %s, as which %q knows it", identities[0].Subject, identities[0].Method)}
	case named != "":
		return Identity{}, nil, &Refused{text: fmt.Sprintf("the role %q is none of those that are bound to the caller: %s", named, strings.Join(names, ", "))}
	case len(names) > 1:
		return Identity{}, nil, &Refused{text: "several roles are bound to the caller: name one of " + strings.Join(names, ", ")}
	}
	return bound[names[0]], r.Roles[names[0]], nil
}

// identify tells whom a chain proves to each of the methods, by their names' order;
// nobody if none accepts it. The error is ErrUnavailable, and given only then.
func (c *Callers) identify(chain []*x509.Certificate, rules *Rules) (found []Identity, unsure error) {
	now := c.now()
	sum := fingerprint(chain)
	for _, name := range slices.Sorted(maps.Keys(rules.Certificates)) {
		method := rules.Certificates[name]
		key := verifiedKey{sum, rules, name, revisionOf(method)} // of before: what changes meanwhile is another
		id, ok := c.verified.find(key, now)
		if !ok {
			var err error
			id, err = method.Identify(chain, now)
			if errors.Is(err, backends.ErrDenied) {
				continue
			}
			if err != nil {
				unsure = err
				continue
			}
			id.Method = name
			c.verified.keep(key, id, now)
		}
		found = append(found, id)
	}
	if len(found) > 0 {
		return found, nil
	}
	return nil, unsure
}

const (
	// keepVerified is how long it is believed that a certificate was verified, unless
	// the method is Revised or the rules are replaced.
	keepVerified = time.Minute
	keptVerified = 4096
)

// verified remembers which certificates were verified, so that not each request of a
// connection does it again. It is safe for concurrent use.
type verified struct {
	mu    sync.Mutex
	known *simplelru.LRU[verifiedKey, verifiedAt]
}

type verifiedKey struct {
	chain    [sha256.Size]byte
	rules    *Rules
	method   string
	revision uint64
}

type verifiedAt struct {
	id Identity
	at time.Time
}

func newVerified() *verified {
	known, _ := simplelru.NewLRU[verifiedKey, verifiedAt](keptVerified, nil) // fails for sizes below one
	return &verified{known: known}
}

// fingerprint is of the whole chain, each certificate's length before it.
func fingerprint(chain []*x509.Certificate) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, cert := range chain {
		fmt.Fprintf(h, "%d:", len(cert.Raw))
		h.Write(cert.Raw)
	}
	h.Sum(sum[:0])
	return sum
}

func revisionOf(m CertificateMethod) uint64 {
	if r, ok := m.(Revised); ok {
		return r.Revision()
	}
	return 0
}

func (v *verified) find(key verifiedKey, now time.Time) (Identity, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	k, ok := v.known.Get(key)
	ends := earlier(k.id.ExpiresAt, k.id.RecheckAt)
	if !ok || now.Before(k.at) || now.Sub(k.at) >= keepVerified || !ends.IsZero() && !now.Before(ends) {
		return Identity{}, false
	}
	return k.id, true
}

func (v *verified) keep(key verifiedKey, id Identity, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known.Add(key, verifiedAt{id, now})
}

// forget drops everything: what the rules of before said is asked for no more.
func (v *verified) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.known.Purge()
}
