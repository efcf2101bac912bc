package config

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
)

// Origins are where a configuration says how one secret is kept and rotated.
type Origins struct {
	Policy   string // the rotation policy that applies; empty: none
	Settings []Origin
	Limits   []LimitOrigin
}

// Origin is where one setting is said.
type Origin struct {
	policy.Origin
	Range hcl.Range // of the value, or of what is nearest to it; zero: nobody says it
}

// LimitOrigin is where a limit is said that holds.
type LimitOrigin struct {
	policy.Bound
	Range hcl.Range
}

// Origins tells where it is said how a secret is kept and rotated: of every setting of
// its rotation, and of those that its own block has. False: there is no such block.
func (c *Config) Origins(ref backends.Ref) (Origins, bool) {
	s, ok := c.secrets[ref]
	if !ok {
		return Origins{}, false
	}
	var out Origins
	add := func(o policy.Origin, at hcl.Range) { out.Settings = append(out.Settings, Origin{o, at}) }
	for _, name := range ownSettings(s) {
		add(policy.Origin{Setting: name, Source: policy.FromSecret}, at(s.block, name))
	}
	r := c.Resolve(s)
	out.Policy = r.Policy
	for _, o := range r.Origins {
		where, _ := said(s, o, c.rotationPolicies) // of a default nowhere
		add(o, where)
	}
	for _, b := range r.Bounds {
		out.Limits = append(out.Limits, LimitOrigin{b, limitAt(c.rotationPolicies[b.Policy], b.Limit)})
	}
	return out, true
}

// ownSettings are what a secret's block says beside its rotation.
func ownSettings(s *Secret) []string {
	var names []string
	for _, name := range []string{"backend", "mirrors", "on_drift", "probe", "consumers", "pair"} {
		if written(s.block, name) {
			names = append(names, name)
		}
	}
	for name := range s.Labels {
		names = append(names, "labels."+name)
	}
	if b := blockOf(s.block, "issuer"); b != nil {
		names = append(names, "issuer")
		for name := range b.Body.Attributes {
			names = append(names, "issuer."+name)
		}
	}
	return names
}

// index remembers the secrets by their names, once all are decoded.
func (c *Config) index() {
	c.secrets = make(map[backends.Ref]*Secret, len(c.Secrets))
	for _, s := range c.Secrets {
		c.secrets[s.Ref] = s
	}
}

// Written is a digest of what is written in the block, without comments and layout and
// without what env(), file() and secret() give: it is no secret, and tells two
// configurations apart that were read in different places.
func (n Named) Written() string { return writtenAs(n.source) }

// writtenAs is the digest of a block's tokens.
func writtenAs(source []byte) string {
	sum := sha256.Sum256([]byte(strings.TrimSpace(string(source))))
	return hex.EncodeToString(sum[:])
}
