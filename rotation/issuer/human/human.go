// Package human is the issuer that is a person: somebody makes the credential where
// no API does, and hands it in; somebody turns the old one off, and the probe proves it.
package human

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Config is the block of the issuer.
type Config struct {
	// Instructions say how the credential is made, RevokeInstructions how it is turned off.
	Instructions       string `hcl:"instructions"`
	RevokeInstructions string `hcl:"revoke_instructions,optional"`

	Fields []string `hcl:"fields"`          // of the value that is handed in
	Handle []string `hcl:"handle,optional"` // of what its issuer calls it, to be turned off by

	Deadline         *time.Duration `hcl:"deadline,optional"`          // from asking; default 72h
	RevocationBudget *time.Duration `hcl:"revocation_budget,optional"` // from asking; default 24h
	MaxLive          int            `hcl:"max_live,optional"`          // credentials that can be live at once; 0: any number
}

// The defaults: a person may be away over a weekend, and is woken for a revocation.
const (
	DefaultDeadline = 72 * time.Hour
	DefaultBudget   = 24 * time.Hour
)

const maxText = 4096 // characters of instructions, which alerts repeat

// Validate returns every mistake, joined.
func (c Config) Validate() error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	for name, text := range map[string]string{"instructions": c.Instructions, "revoke_instructions": c.RevokeInstructions} {
		if len(text) > maxText {
			wrong("%s has more than %d characters: write where the whole is to be found", name, maxText)
		}
	}
	if strings.TrimSpace(c.Instructions) == "" {
		wrong("instructions is empty: write where and how the credential is made")
	}
	if len(c.Fields) == 0 {
		wrong("fields is empty: name what is handed in, as in [\"key\"]")
	}
	names := func(attribute string, of []string) {
		for i, name := range of {
			switch {
			case !hclsyntax.ValidIdentifier(name):
				wrong("%s has %q, which cannot be a name: use letters, digits, \"_\" and \"-\"", attribute, name)
			case slices.Contains(of[:i], name):
				wrong("%s has %q twice: leave one out", attribute, name)
			}
		}
	}
	names("fields", c.Fields)
	names("handle", c.Handle)
	for name, patience := range map[string]*time.Duration{"deadline": c.Deadline, "revocation_budget": c.RevocationBudget} {
		if patience != nil && *patience <= 0 {
			wrong("%s is %s, which leaves nobody any time: write for instance \"24h\"", name, *patience)
		}
	}
	if c.MaxLive < 0 || c.MaxLive == 1 {
		wrong("max_live is %d: a rotation needs two, the old one works until the new one is published", c.MaxLive)
	}
	return errors.Join(errs...)
}

// Issuer asks people.
type Issuer struct{ cfg Config }

var (
	_ issuer.Issuer = (*Issuer)(nil)
	_ issuer.Person = (*Issuer)(nil)
)

// New returns the issuer of a valid configuration.
func New(cfg Config) *Issuer {
	cfg.Deadline, cfg.RevocationBudget = cmp.Or(cfg.Deadline, new(DefaultDeadline)), cmp.Or(cfg.RevocationBudget, new(DefaultBudget))
	cfg.Fields, cfg.Handle = slices.Sorted(slices.Values(cfg.Fields)), slices.Sorted(slices.Values(cfg.Handle))
	return &Issuer{cfg: cfg}
}

// Traits implements issuer.Issuer.
func (i *Issuer) Traits() issuer.Traits {
	return issuer.Traits{Kind: issuer.Mint, Fields: i.cfg.Fields, Handle: i.handle(), MaxLive: i.cfg.MaxLive, RevocationBudget: *i.cfg.RevocationBudget}
}

const tagName = "tag"

func (i *Issuer) handle() []string {
	if len(i.cfg.Handle) == 0 {
		return []string{tagName}
	}
	return i.cfg.Handle
}

// Task implements issuer.Person.
func (i *Issuer) Task(_ issuer.Subject, tag string) issuer.Task {
	return issuer.Task{
		Mint:     fmt.Sprintf("%s (call it %s, if it takes a name)", strings.TrimSpace(i.cfg.Instructions), tag),
		Revoke:   i.revocation(),
		Deadline: *i.cfg.Deadline,
	}
}

func (i *Issuer) revocation() string {
	if text := strings.TrimSpace(i.cfg.RevokeInstructions); text != "" {
		return text
	}
	return "where it was made (" + strings.TrimSpace(i.cfg.Instructions) + ")"
}

// short is the length, in bytes, of texts that stand in others by chance.
const short = 8

// Accept implements issuer.Person.
func (i *Issuer) Accept(_ issuer.Subject, value backends.Value, h issuer.Handle) error {
	if have := value.FieldNames(); !slices.Equal(have, i.cfg.Fields) {
		return fmt.Errorf("%w: the value has the fields %s, and %s are wanted", backends.ErrInvalid, list(have), list(i.cfg.Fields))
	}
	for name, text := range value.Reveal() {
		switch {
		case text == "":
			return fmt.Errorf("%w: the field %s is empty", backends.ErrInvalid, name)
		case strings.TrimSpace(text) != text:
			return fmt.Errorf("%w: the field %s begins or ends with a space or a line break: it was hardly meant to", backends.ErrInvalid, name)
		}
		for part, id := range h {
			if id == text || len(text) >= short && strings.Contains(id, text) {
				return fmt.Errorf("%w: the handle's %s holds the field %s, but handles are shown", backends.ErrInvalid, part, name)
			}
		}
	}
	var have []string
	for name, text := range h {
		if text == "" {
			return fmt.Errorf("%w: the handle's %s is empty", backends.ErrInvalid, name)
		}
		have = append(have, name)
	}
	slices.Sort(have)
	if !slices.Equal(have, i.cfg.Handle) {
		return fmt.Errorf("%w: the handle has the parts %s, and %s are wanted", backends.ErrInvalid, list(have), list(i.cfg.Handle))
	}
	return nil
}

// Issue implements issuer.Issuer; the engine hands values in without asking for them here.
func (i *Issuer) Issue(context.Context, issuer.Request) (issuer.Credential, error) {
	return issuer.Credential{}, fmt.Errorf("issuing by hand: %w: the value is handed in by `keybroker rotation supply`", backends.ErrUnsupported)
}

// Revoke implements issuer.Issuer: it is issuer.ErrByHand, with what to do.
func (i *Issuer) Revoke(_ context.Context, _ issuer.Subject, h issuer.Handle) error {
	var parts []string
	for name, text := range h {
		parts = append(parts, name+" "+text)
	}
	slices.Sort(parts)
	return fmt.Errorf("%w: turn off %s %s", issuer.ErrByHand, strings.Join(parts, ", "), i.revocation())
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
