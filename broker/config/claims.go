package config

import (
	"encoding/json"
	"fmt"

	"github.com/keybroker/keybroker/rotation/issuer"
)

// Claim is what a secret has of an issuer's for itself: an account whose value is set
// for it, or whatever is made as it asks for. Two of them are equal where two secrets
// would have the same.
type Claim struct {
	place   string // of the issuer
	account string // empty: it is about what is asked for
	asked   string
}

// String says it for people.
func (c Claim) String() string {
	if c.account != "" {
		return fmt.Sprintf("the account %q", c.account)
	}
	return "whatever is made as it asks for"
}

// Claims returns what a secret with these settings has of an issuer's for itself; none
// of an issuer that is not in the configuration.
func (c *Config) Claims(name string, settings json.RawMessage) []Claim {
	i, ok := c.issuers[name]
	if !ok || i.broken {
		return nil
	}
	traits := i.For(settings)
	claims := i.accounts(traits)
	if traits.Exclusive {
		claims = append(claims, i.asked(settings))
	}
	return claims
}

// where names what an issuer leads to: the same text for what certainly is the same.
func (i *Issuer) where() string {
	if i.place == "" {
		return fmt.Sprintf("block %q", i.Name)
	}
	return i.Type + " " + i.place
}

func (i *Issuer) accounts(t issuer.Traits) []Claim {
	var claims []Claim
	for _, slot := range t.Slots {
		claims = append(claims, Claim{place: i.where(), account: slot})
	}
	return claims
}

func (i *Issuer) asked(settings json.RawMessage) Claim {
	return Claim{place: i.where(), asked: string(settings)}
}

// shared refuses to have one account set for two secrets, and one set of settings
// credited to two where the issuer's credentials are told apart by that alone.
func (l *loader) shared(s *Secret, issuer *Issuer) {
	traits := issuer.of(s)
	where := blockOf(s.block, "issuer").DefRange()
	for _, claim := range issuer.accounts(traits) {
		if first := l.take(s, claim); first != nil && first != s {
			l.mistake(where, fmt.Sprintf("The issuer %s sets %s for the secret %q already", l.as(first, issuer), claim, first.Ref),
				fmt.Sprintf("Two secrets would take it from each other: name another account; the first is at %s.", place(first.Range)))
		}
	}
	if !traits.Exclusive && issuer.place == "" {
		return // no other issuer is known to lead there
	}
	first := l.take(s, issuer.asked(s.Settings))
	if first == nil || !traits.Exclusive && !l.cfg.issuers[first.Issuer].of(first).Exclusive {
		return
	}
	which := "It"
	if first.Issuer != issuer.Name {
		which = "One of the two"
	}
	l.mistake(where, fmt.Sprintf("The issuer %s makes credentials as are asked for here for the secret %q already", l.as(first, issuer), first.Ref),
		fmt.Sprintf("%s is exclusive: whatever is new there belongs to one secret alone. Ask for something else; the first is at %s.", which, place(first.Range)))
}

// as names the issuer of a secret to who has named another one, or the same.
func (l *loader) as(s *Secret, here *Issuer) string {
	if s.Issuer == here.Name {
		return fmt.Sprintf("%q", s.Issuer)
	}
	return fmt.Sprintf("%q, which leads to the same place,", s.Issuer)
}

// take notes that s has something for itself, and returns the secret that has it already.
func (l *loader) take(s *Secret, claim Claim) (first *Secret) {
	if first = l.alone[claim]; first == nil {
		l.alone[claim] = s
	}
	return first
}
