package exec

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/program"
)

// Config is the block `issuer "exec" NAME`: a program, and what it can do.
type Config struct {
	Program program.Config `hcl:",remain"`

	Fields []string `hcl:"fields"` // of every value
	Handle []string `hcl:"handle"` // parts of every handle
	// Public are the fields that are no secret, such as a user's name: handles, which
	// everybody may see, can hold their texts.
	Public []string `hcl:"public,optional"`

	// Prepare: the broker makes the one field by the secret's key settings, and the
	// program sets it. The same request again must not make a second credential.
	Prepare bool `hcl:"prepare,optional"`
	// Find: the program can look a credential up by its tag.
	Find bool `hcl:"find,optional"`

	MaxLive          int            `hcl:"max_live,optional"`          // 0: no limit known
	ShowOnce         bool           `hcl:"show_once,optional"`         // the value is in the answer to issue only
	RevocationBudget *time.Duration `hcl:"revocation_budget,optional"` // default 30m
}

// Nobody but the program knows how long a revocation takes; that of issuer http is
// the longest that was measured of public services.
const defaultBudget = 30 * time.Minute

// Validate returns every mistake in c, joined, each an ErrInvalid in one line that
// begins with the attribute's name. It looks at no file.
func (c Config) Validate() error {
	mistakes := []error{c.Program.Validate()}
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	for name, list := range map[string][]string{"fields": c.Fields, "handle": c.Handle} {
		if len(list) == 0 || slices.Contains(list, "") || len(slices.Compact(slices.Sorted(slices.Values(list)))) != len(list) {
			wrong("%s is empty, or has an empty or repeated name: list what every answer to issue has", name)
		}
	}
	for _, name := range c.Public {
		if !slices.Contains(c.Fields, name) || c.Prepare {
			wrong("public names %q, which is none of fields, or is prepared: name fields that are no secret, such as a user's name", name)
		}
	}
	for _, name := range c.Handle {
		if slices.Contains(c.Fields, name) && !slices.Contains(c.Public, name) {
			wrong("handle has the part %q as fields has: handles are shown openly; write public = [%q] if it is no secret, or leave it out of handle", name, name)
		}
	}
	if c.Prepare && len(c.Fields) != 1 {
		wrong("prepare makes the value of one field: list that one in fields, or leave prepare out")
	}
	if c.MaxLive < 0 {
		wrong("max_live is negative: leave it out if there is no limit")
	}
	if c.RevocationBudget != nil && *c.RevocationBudget < 0 {
		wrong(`revocation_budget is negative: write "0s" if a revocation is known everywhere at once`)
	}
	return errors.Join(mistakes...)
}

// New makes the issuer of a valid configuration. It is an issuer.Finder and an
// issuer.Preparer (with KeyChecker) only if the block says so. It starts nothing.
func New(cfg Config) issuer.Issuer {
	i := &Issuer{runner: program.New(cfg.Program), public: cfg.Public, traits: issuer.Traits{
		Kind: issuer.Mint, Fields: slices.Sorted(slices.Values(cfg.Fields)), Handle: slices.Sorted(slices.Values(cfg.Handle)),
		MaxLive: cfg.MaxLive, ShowOnce: cfg.ShowOnce, RevocationBudget: defaultBudget,
	}}
	if cfg.RevocationBudget != nil {
		i.traits.RevocationBudget = *cfg.RevocationBudget
	}
	switch {
	case cfg.Find && cfg.Prepare:
		return struct {
			*Issuer
			finding
			preparing
		}{i, finding{i}, preparing{i}}
	case cfg.Find:
		return struct {
			*Issuer
			finding
		}{i, finding{i}}
	case cfg.Prepare:
		return struct {
			*Issuer
			preparing
		}{i, preparing{i}}
	}
	return i
}
