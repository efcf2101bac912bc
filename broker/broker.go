// Package broker is the one place where a caller's request is authorised,
// audited and served.
package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/keys"
)

// RootPolicy is the name of the built-in policy that allows everything.
const RootPolicy = policy.Root

var rootPolicy = policy.Policy{Name: RootPolicy, Rules: []policy.Rule{
	{Path: "*", Capabilities: everything()},
	{Path: "sys/*", Capabilities: everything()},
}}

func everything() []policy.Capability {
	return slices.DeleteFunc(policy.Capabilities(), func(c policy.Capability) bool { return c == policy.Deny })
}

// Trigger is an event from outside that may act on secrets.
type Trigger struct {
	Emergency bool // else it rotates
	Covers    func(secret string) bool
}

// Rules are what the configuration says of access. They are never changed once
// the Broker has them.
type Rules struct {
	Policies []policy.Policy
	Triggers map[string]Trigger
	Backends map[string]*backends.Mount
	// Down tells whether a backend was found to be unusable, so that nobody waits
	// for it; nil: none ever is.
	Down func(backend string) bool
}

// Config is what a Broker is made of; every field is required.
type Config struct {
	Store  *store.DB
	Engine *engine.Engine
	Audit  *audit.Log
	Authn  *authn.Tokens
	Keys   *keys.Checker
	Node   Node
	Seal   SealKeeper
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
	rules atomic.Pointer[compiled]
}

// compiled are the rules with the access lists of the sets of policies in use.
type compiled struct {
	Rules
	byName map[string]policy.Policy
	acls   sync.Map // names joined by "\n" → *policy.ACL
}

// New returns a Broker that allows nothing until it has Rules, except to holders
// of the root policy.
func New(cfg Config) *Broker {
	b := &Broker{Config: cfg}
	b.SetRules(Rules{})
	return b
}

// SetRules replaces the rules, for requests that begin from now on.
func (b *Broker) SetRules(r Rules) {
	if r.Down == nil {
		r.Down = func(string) bool { return false }
	}
	c := &compiled{Rules: r, byName: map[string]policy.Policy{RootPolicy: rootPolicy}}
	for _, p := range r.Policies {
		c.byName[p.Name] = p
	}
	b.rules.Store(c)
}

// acl compiles the named policies; a name that is not configured (any more)
// grants nothing.
func (c *compiled) acl(names []string) *policy.ACL {
	key := strings.Join(names, "\n")
	if a, ok := c.acls.Load(key); ok {
		return a.(*policy.ACL)
	}
	var set []policy.Policy
	for _, n := range names {
		if p, ok := c.byName[n]; ok {
			set = append(set, p)
		}
	}
	a, _ := c.acls.LoadOrStore(key, policy.Compile(set))
	return a.(*policy.ACL)
}

func (b *Broker) allows(p authn.Principal, path string, c policy.Capability) policy.Decision {
	return b.rules.Load().acl(p.Policies).Decide(path, c)
}

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
		if errors.Is(err, backends.ErrNotFound) {
			err = notThere("secret", name)
		}
		return s, err
	}
	found, _, err := tx.Secrets(ctx, store.SecretFilter{Name: bare}, store.Page{Limit: 2})
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
	return s, r.about(name, s.Ref), missing
}

// onSecret authorises p for capability c on the secret called name, then runs fn
// in a read-write transaction with it.
func (b *Broker) onSecret(ctx context.Context, p authn.Principal, c policy.Capability, action, name string, detail map[string]string, fn func(*store.Tx, rotation.Secret) error) error {
	found, r, missing := b.resolve(ctx, p, name, request{action: action, path: pathOf(name), detail: detail})
	return b.do(p, c, r, func() error {
		if missing != nil {
			return missing
		}
		return b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
			s, err := tx.Secret(ctx, found.ID)
			if err != nil {
				return err
			}
			return fn(tx, s)
		})
	})
}

// asked says for the engine who asks, and why.
func asked(p authn.Principal, reason string) engine.Asked {
	return engine.Asked{By: p.ID, Lineage: p.Lineage, Reason: reason}
}
