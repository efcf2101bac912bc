package broker

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// holding is a Checker that looks, too, whether the accounts of an issuer still say that
// they hold the versions in use: one that does not could not be told apart from another's
// when it is to be turned off.
type holding struct {
	issuer.Checker
	finder  issuer.Finder
	current map[backends.Ref]rotation.Version
}

// alsoHolding makes one of the checker of an issuer that sets accounts.
func (b *Broker) alsoHolding(ctx context.Context, is issuer.Issuer, checker issuer.Checker, secrets []rotation.Secret) (issuer.Checker, error) {
	_, sets := is.(issuer.Setter)
	finder, finds := is.(issuer.Finder)
	if !sets || !finds {
		return checker, nil
	}
	h := holding{checker, finder, map[backends.Ref]rotation.Version{}}
	err := b.Store.View(ctx, func(tx *store.Tx) error {
		for _, s := range secrets {
			if s.Current == 0 {
				continue
			}
			v, err := tx.Version(ctx, s.ID, s.Current)
			if err != nil {
				return err
			}
			if v.Issuer == s.Definition.Issuer && !v.Foreign() {
				h.current[s.Ref] = v
			}
		}
		return nil
	})
	return h, err
}

// Check implements issuer.Checker.
func (h holding) Check(ctx context.Context, sub issuer.Subject) []issuer.Finding {
	found := h.Checker.Check(ctx, sub)
	v, ok := h.current[sub.Ref]
	if !ok {
		return found
	}
	sub.Settings = v.Settings
	at, err := h.finder.Find(ctx, sub, v.Tag)
	if err != nil { // the checker has found that
		return found
	}
	f := issuer.Finding{What: fmt.Sprintf("account %s holds version %d, the current one", v.Slot, v.Number)}
	if len(at) == 0 {
		f.Unknown = true // within a rotation in place it holds the next one
		f.Problem = "it does not say so any more: unless a rotation is just setting it, the version could not be turned off when it is replaced"
		f.Mend = "undo what was changed at the account, or turn its credential off by hand once a rotation has replaced it"
	}
	return append(found, f)
}
