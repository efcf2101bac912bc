// Package broker is the one place where a caller's request is authorised,
// audited and served.
package broker

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/keys"
)

// RootPolicy is the name of the built-in policy that allows everything.
const RootPolicy = policy.Root

// Rules are what one configuration says of access: who calls, and what they may do.
// They are never changed once the Broker has them.
type Rules struct {
	authn.Rules // but for Access, which the Broker sets
	Policies    []policy.Policy
	Triggers    map[string]Trigger
	Backends    map[string]*backends.Mount
	// Environments of each backend whose block has some.
	Environments map[string][]string
	Consumers    map[string]Consumer // by name
	Emergency    config.Emergency
	// Down tells whether a backend was found to be unusable, so that nobody waits
	// for it; nil: none ever is.
	Down func(backend string) bool
}

// Config is what a Broker is made of; every field is required.
type Config struct {
	Store     *store.DB
	Engine    *engine.Engine
	Audit     *audit.Log
	Authn     *authn.Callers
	Keys      *keys.Checker
	Pages     *Pages
	Node      Node
	Seal      SealKeeper
	Notifiers Notifiers
	// Components are the issuers and probes of the node.
	Components   Components
	Signing      Signing
	ReportSigner ed25519.PrivateKey // signs the reports of incidents
	// OfflineKit makes the file that contains when the broker is down; see package offline.
	OfflineKit   func(context.Context) ([]byte, error)
	Installation string // whose state it is, as offline kits name it
	// Doubts tells whether a version may have been replaced and revoked in a time that
	// a restored store has lost: it is given to nobody.
	Doubts func(ref backends.Ref, version int) bool
	Now    func() time.Time
	Logger hclog.Logger
}

// Broker serves callers. Its methods are safe for concurrent use; each one takes
// who is calling, decides by policy, writes the audit log (what cannot be written
// is refused) and acts. Their errors carry a class of package backends.
type Broker struct {
	Config
	streams streams
	inboxes inboxes
	sensed  sensed
	reads   *reads
	reports reports
	letGo   atomic.Bool // a consumer is in quarantine that overlaps may wait for
}

// compiled are the rules with the access lists of those who have called.
type compiled struct {
	Rules
	byName map[string]policy.Policy
	sets   sync.Map // names of policies joined by "\n" → *policySet
	acls   *lru.Cache[aclKey, *policy.ACL]
	// thresholds are the names of triggers that have one.
	thresholds []string
}

// policySet is a set of policies that somebody has.
type policySet struct {
	policies []policy.Policy
	uses     policy.Identity // what their templates use of an identity; the rest is empty
}

// aclKey is whose access list it is: of a set of policies, and of who it is made
// for, as far as their paths have templates.
type aclKey struct {
	set *policySet
	who policy.Identity
}

// keptACLs is how many access lists are kept compiled.
const keptACLs = 10_000

// New returns a Broker that allows nothing until it has Rules, except to holders
// of the root policy.
func New(cfg Config) *Broker {
	b := &Broker{Config: cfg, streams: streams{open: map[string]int{}}, reads: newReads(), sensed: newSensed(), reports: newReports()}
	b.SetRules(Rules{})
	return b
}

// SetRules replaces the rules, for callers who are authenticated from now on: all of
// them at once.
func (b *Broker) SetRules(r Rules) {
	if r.Down == nil {
		r.Down = func(string) bool { return false }
	}
	acls, _ := lru.New[aclKey, *policy.ACL](keptACLs) // fails for a size that is not positive
	c := &compiled{Rules: r, byName: map[string]policy.Policy{RootPolicy: policy.RootPolicy()}, acls: acls}
	for _, p := range r.Policies {
		c.byName[p.Name] = p
	}
	for name, t := range r.Triggers {
		if t.Reads > 0 || t.Denied > 0 {
			c.thresholds = append(c.thresholds, name)
		}
	}
	slices.Sort(c.thresholds)
	r.Rules.Access, r.Rules.Readers = c, map[string]string{}
	for name, k := range r.Consumers {
		r.Rules.Readers[name] = k.Role
	}
	b.Authn.SetRules(r.Rules)
}

// rulesOf are the rules that p was found out by.
func (b *Broker) rulesOf(p authn.Principal) *compiled { return b.Authn.RulesOf(p).Access.(*compiled) }

// acl compiles the policies of p; a name that is not configured (any more) grants
// nothing.
func (c *compiled) acl(p authn.Principal) *policy.ACL {
	set := c.set(p.Policies)
	key := aclKey{set: set}
	if p.Method == authn.MethodBreakGlass {
		p.Name = p.ID // whoever makes such a token names it as they like
	}
	for _, part := range []struct{ into, from, uses *string }{
		{&key.who.Tenant, &p.Tenant, &set.uses.Tenant}, {&key.who.Role, &p.Role, &set.uses.Role},
		{&key.who.Name, &p.Name, &set.uses.Name}, {&key.who.Environment, &p.Environment, &set.uses.Environment},
	} {
		if *part.uses != "" {
			*part.into = *part.from
		}
	}
	if a, ok := c.acls.Get(key); ok {
		return a
	}
	a := policy.Compile(set.policies, key.who)
	c.acls.Add(key, a)
	return a
}

// set returns the policies of those names: there are few sets, roles have them.
func (c *compiled) set(names []string) *policySet {
	key := strings.Join(names, "\n")
	if s, ok := c.sets.Load(key); ok {
		return s.(*policySet)
	}
	s := &policySet{}
	for _, n := range names {
		if named, ok := c.byName[n]; ok {
			s.policies = append(s.policies, named)
		}
	}
	s.uses = policy.Identity{Tenant: "*", Role: "*", Name: "*", Environment: "*"}.Used(s.policies)
	kept, _ := c.sets.LoadOrStore(key, s)
	return kept.(*policySet)
}

func (c *compiled) decide(p authn.Principal, path string, capability policy.Capability, f policy.Facts) policy.Decision {
	d := c.acl(p).Decide(path, capability, f)
	for _, before := range p.Within {
		if !d.Allowed {
			break
		}
		d = c.acl(before).Decide(path, capability, f)
	}
	return d
}

// facts are what conditions are about, for a request of p about s.
func (b *Broker) facts(p authn.Principal, s rotation.Secret) policy.Facts {
	return policy.Facts{Environment: s.Definition.Environment(), Address: p.Address, At: b.Now()}
}

// allows tells whether p may do something to s, which is at path.
func (b *Broker) allows(p authn.Principal, path string, s rotation.Secret, c policy.Capability) bool {
	return b.rulesOf(p).decide(p, path, c, b.facts(p, s)).Allowed
}

// reaches tells whether no wall is between p and s: neither by what the configuration
// says of s, nor by where its versions were made and are kept.
func (b *Broker) reaches(ctx context.Context, tx *store.Tx, p authn.Principal, s rotation.Secret) (bool, error) {
	walls, environments := wallsOf(p), b.rulesOf(p).Environments
	h := policy.Holding{Tenant: s.Ref.Tenant, Environment: s.Definition.Environment()}
	for _, backend := range append([]string{s.Definition.Backend}, s.Definition.Mirrors...) {
		h.Declared = append(h.Declared, environments[backend])
	}
	if p.Environment == "" || !walls.Reaches(h) {
		return walls.Reaches(h), nil
	}
	standings, err := tx.Standings(ctx, s.ID)
	for _, at := range standings {
		if h.Declared = append(h.Declared, environments[at.Backend]); !at.Placed {
			h.Made = append(h.Made, at.Environment)
		}
	}
	return err == nil && walls.Reaches(h), err
}

// within leaves out the secrets that p does not reach.
func (b *Broker) within(ctx context.Context, tx *store.Tx, p authn.Principal, found []rotation.Secret) (reached []rotation.Secret, err error) {
	for _, s := range found {
		ok, err := b.reaches(ctx, tx, p, s)
		if err != nil {
			return nil, err
		}
		if ok {
			reached = append(reached, s)
		}
	}
	return reached, nil
}

// maxNamesakes is how many tenants' secrets of one name are looked at.
const maxNamesakes = 1000

// find returns the secret that name means to p: of p's own tenant, or, for one
// who is bound to none, of whichever tenant has it; "tenant:name" is exact. What
// belongs to others is not found. The secret's own name is always pathOf(name),
// which is what p was authorised for.
func (b *Broker) find(ctx context.Context, tx *store.Tx, p authn.Principal, name string) (rotation.Secret, error) {
	tenant, bare, qualified := strings.Cut(name, ":")
	if !qualified {
		tenant, bare = p.Tenant, name
	}
	if p.Tenant != "" && tenant != p.Tenant || backends.ParseName(bare) != nil {
		return rotation.Secret{}, notThere("secret", name)
	}
	if tenant != "" {
		s, err := tx.SecretByRef(ctx, backends.Ref{Tenant: tenant, Name: bare})
		reached := false
		if err == nil {
			reached, err = b.reaches(ctx, tx, p, s)
		}
		if errors.Is(err, backends.ErrNotFound) || err == nil && !reached {
			return rotation.Secret{}, notThere("secret", name)
		}
		return s, err
	}
	found, _, err := tx.Secrets(ctx, store.SecretFilter{Name: bare}, store.Page{Limit: maxNamesakes})
	if err == nil {
		found, err = b.within(ctx, tx, p, found)
	}
	switch {
	case err != nil:
		return rotation.Secret{}, err
	case len(found) == 0:
		return rotation.Secret{}, notThere("secret", name)
	case len(found) > 1:
		return rotation.Secret{}, fmt.Errorf("%w: several tenants have a secret %q: say TENANT:%s", backends.ErrInvalid, bare, bare)
	}
	return found[0], nil
}

// pathOf is the policy path of a name as a caller gives it.
func pathOf(name string) string {
	if _, bare, ok := strings.Cut(name, ":"); ok {
		return bare
	}
	return name
}

// resolve finds out for a request which secret name means to p, and whose it is.
// The caller is not authorised yet: why there is none is told only after that.
func (b *Broker) resolve(ctx context.Context, p authn.Principal, name string, r request) (s rotation.Secret, named request, missing error) {
	missing = b.Store.View(ctx, func(tx *store.Tx) (err error) {
		s, err = b.find(ctx, tx, p, name)
		return err
	})
	return s, r.about(name, s), missing
}

// onSecret authorises p for capability c on the secret called name, then runs fn
// in a read-write transaction with it.
func (b *Broker) onSecret(ctx context.Context, p authn.Principal, c policy.Capability, action, name string, detail map[string]string, fn func(*store.Tx, rotation.Secret) error) error {
	found, r, missing := b.resolve(ctx, p, name, request{action: action, path: pathOf(name), detail: detail})
	return b.do(ctx, p, c, r, func() error {
		if missing != nil {
			return missing
		}
		return b.Store.UpdateLatest(ctx, func(tx *store.Tx) error { return again(ctx, tx, found, fn) })
	})
}

// containSecret is onSecret for what turns a version off.
func (b *Broker) containSecret(ctx context.Context, p authn.Principal, c policy.Capability, action, name string, detail map[string]string, fn func(*store.Tx, rotation.Secret) error) error {
	found, r, missing := b.resolve(ctx, p, name, request{action: action, path: pathOf(name), detail: detail})
	return b.contain(ctx, p, c, r, func(tx *store.Tx) error {
		if missing != nil {
			return missing
		}
		return again(ctx, tx, found, fn)
	})
}

// again reads a secret in the transaction that fn changes it in.
func again(ctx context.Context, tx *store.Tx, found rotation.Secret, fn func(*store.Tx, rotation.Secret) error) error {
	s, err := tx.Secret(ctx, found.ID)
	if err != nil {
		return err
	}
	return fn(tx, s)
}

// asked says for the engine who asks, and why.
func asked(p authn.Principal, reason string) engine.Asked {
	return engine.Asked{By: p.ID, Lineage: p.Lineage, Reason: reason, Role: p.Role, Method: p.Method, Identity: p.Identity, Address: p.Address.String()}
}
