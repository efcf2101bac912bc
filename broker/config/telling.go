package config

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// telling is what is wrong with telling one of a secret's consumers of it as is asked.
type telling struct {
	policy.Problem             // about "consumers.0", …
	beside         []hcl.Range // what it contradicts
	setting        string      // of the rotation, that asks for it; empty: none
}

// tellingProblems returns what is wrong with telling the consumers of s, rotated by r.
func (c *Config) tellingProblems(s *Secret, r *policy.Resolved) []telling {
	var found []telling
	for i, name := range s.Consumers {
		k := c.consumers[name]
		if k == nil {
			continue
		}
		at := fmt.Sprintf("consumers.%d", i)
		if p, wrong := c.sameRole(k, at, s.Consumers[:i]); wrong {
			found = append(found, p)
		}
		if p, wrong := c.plainPayload(k, at, r); wrong {
			found = append(found, p)
		}
		if p, wrong := c.unseen(k, at, s, r); wrong {
			found = append(found, p)
		}
	}
	return found
}

// sameRole refuses two consumers of one secret that read as one role: what the one reads or
// says would count for the other.
func (c *Config) sameRole(k *Consumer, where string, before []string) (telling, bool) {
	if k.Role == "" || k.faulty {
		return telling{}, false
	}
	for _, name := range before {
		other := c.consumers[name]
		if name == k.Name || other == nil || other.Role != k.Role || other.faulty {
			continue
		}
		return telling{beside: []hcl.Range{attributeAt(other.block, "role"), attributeAt(k.block, "role")},
			Problem: problem(where, "give each application a role of its own",
				"the consumers %q and %q have the same role %q, so what the one fetches or acknowledges would count for the other", name, k.Name, k.Role)}, true
	}
	return telling{}, false
}

// plainPayload refuses to send what no policy lets out, or one forbids to.
func (c *Config) plainPayload(k *Consumer, where string, r *policy.Resolved) (telling, bool) {
	bound, said := r.PlainPayload()
	if k.Payload != webhook.Plain || k.faulty || said && bound.Allowed {
		return telling{}, false
	}
	p := telling{beside: []hcl.Range{attributeAt(k.block, k.way()+".payload")}}
	const instead = `let the consumer have payload = "sealed" or "reference"`
	if said {
		p.Problem = problem(where, instead+", or the policy allow it",
			"the consumer %q is sent the credential itself, which the rotation policy %q forbids", k.Name, bound.Policy)
		p.beside = append(p.beside, limitAt(c.rotationPolicies[bound.Policy], bound.Limit))
		return p, true
	}
	p.Problem = problem(where, instead+", or write limits { plain_payload = true } in a rotation policy of the secret",
		"the consumer %q is sent the credential itself, which no rotation policy of the secret allows", k.Name)
	return p, true
}

// unseen refuses to wait until a consumer has fetched where nobody could tell.
func (c *Config) unseen(k *Consumer, where string, s *Secret, r *policy.Resolved) (telling, bool) {
	if r.Acknowledgement.Require != policy.RequireFetched || s.Issuer == "" || k.faulty {
		return telling{}, false
	}
	p := telling{setting: "acknowledgement.require"}
	switch {
	case k.Role == "":
		p.beside, p.Problem = []hcl.Range{k.Range}, problem(where, `give it a role, or ask for "received" or "applied"`,
			"the consumer %q has no role, so nobody could see that it has fetched, as acknowledgement.require asks", k.Name)
	case k.refused(s):
		p.beside, p.Problem = []hcl.Range{attributeAt(k.block, "role")}, problem(where, `let a policy of the role grant "read", or ask for "received" or "applied"`,
			"the consumer %q cannot fetch, as acknowledgement.require asks: its role %q may not read the secret", k.Name, k.Role)
	default:
		return telling{}, false
	}
	if asked, ok := said(s, r.Origin(p.setting), c.rotationPolicies); ok {
		p.beside = append(p.beside, asked)
	}
	return p, true
}

// refused tells whether the consumer's role may read a secret at no time, from no address.
func (c *Consumer) refused(s *Secret) bool {
	facts := policy.Facts{Environment: s.Labels[EnvironmentLabel]}
	return c.reach != nil && !c.reach.Decide(s.Ref.Name, policy.Read, facts).Allowed
}

// way is the kind of the block that says how the consumer is told.
func (c *Consumer) way() string {
	if c.Inbox {
		return "inbox"
	}
	return "webhook"
}

// telling reports what is wrong with telling the secret's consumers, with the places of
// what it contradicts.
func (l *loader) telling(s *Secret, r *policy.Resolved) {
	if l.obscured || l.limitless || l.unlabelled(s) || l.spoilt(at(s.block, "consumers")) {
		return // which policies match is not known, or who is told
	}
	for _, p := range l.cfg.tellingProblems(s, r) {
		if l.spoilt(p.beside...) || p.setting != "" && l.guessed(s, r, p.setting) {
			continue
		}
		var places []string
		for _, at := range p.beside {
			places = append(places, l.quote(at))
		}
		l.mistake(at(s.block, p.Attribute), summary(p.Text), fmt.Sprintf("See %s. %s", strings.Join(places, " and "), sentence(p.Suggestion)))
	}
	l.carried(s, r)
	l.unreadable(s, r)
}

// unreadable warns of consumers that are told where to fetch what they may not read.
func (l *loader) unreadable(s *Secret, r *policy.Resolved) {
	if r.Acknowledgement.Require == policy.RequireFetched && s.Issuer != "" {
		return // that is a mistake
	}
	for i, name := range s.Consumers {
		if k := l.cfg.consumers[name]; k != nil && !k.faulty && k.Payload == webhook.Reference && k.refused(s) {
			role := attributeAt(k.block, "role")
			l.warn(element(s.block, "consumers", i), fmt.Sprintf("The consumer %q is told where to fetch what its role %q may not read", name, k.Role),
				fmt.Sprintf(`See %s. Grant "read" in a policy of the role; "keybroker policy check" tells what decides.`, l.quote(role)))
		}
	}
}

// carried warns of waiting for a fetch by who is handed the credential.
func (l *loader) carried(s *Secret, r *policy.Resolved) {
	if s.Issuer == "" || r.Acknowledgement.Require != policy.RequireFetched || l.guessed(s, r, "acknowledgement.require") {
		return
	}
	for _, name := range s.Consumers {
		if k := l.cfg.consumers[name]; k != nil && !k.faulty && k.Role != "" && k.Payload.CarriesValue() {
			l.warn(l.origin(s, r, "acknowledgement.require"), fmt.Sprintf("The consumer %q is given the credential with the message and need not fetch it", name),
				`Ask for "applied", which is what it can say.`)
		}
	}
}

// quote is a place and what stands there.
func (l *loader) quote(at hcl.Range) string {
	return fmt.Sprintf("%s: %s", place(at), at.SliceBytes(l.sources[at.Filename]))
}

// attributeAt returns where the attribute with that path stands, with its name, or else
// where at leads.
func attributeAt(b *hclsyntax.Block, path string) hcl.Range {
	head, rest, nested := strings.Cut(path, ".")
	if attr, ok := b.Body.Attributes[head]; ok {
		return attr.SrcRange
	}
	if inner := blockOf(b, head); inner != nil && nested {
		return attributeAt(inner, rest)
	}
	return at(b, path)
}
