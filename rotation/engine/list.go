package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// seen lists, before a mint, what an issuer holds whose credentials carry no tag:
// what is new there after a lost answer may be ours.
func (e *Engine) seen(ctx context.Context, is issuer.Issuer, sub issuer.Subject) ([]map[string]string, error) {
	lister, ok := untagged(is)
	if !ok {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	handles, err := lister.List(ctx, sub)
	if err != nil {
		return nil, err
	}
	seen := make([]map[string]string, 0, len(handles))
	for _, h := range handles {
		seen = append(seen, h)
	}
	return seen, nil
}

// untagged returns the issuer as a Lister if that is the only way to find a mint.
func untagged(is issuer.Issuer) (issuer.Lister, bool) {
	if _, ok := is.(issuer.Finder); ok {
		return nil, false
	}
	if _, ok := is.(issuer.Preparer); ok {
		return nil, false
	}
	l, ok := is.(issuer.Lister)
	return l, ok
}

// findMint looks a version up whose handle nobody heard of. errNoHandle if its issuer
// cannot tell which of its credentials it is.
func (e *Engine) findMint(ctx context.Context, is issuer.Issuer, sub issuer.Subject, v rotation.Version) ([]issuer.Found, error) {
	if finder, ok := is.(issuer.Finder); ok {
		found, err := finder.Find(ctx, sub, v.Tag)
		return slices.DeleteFunc(found, func(f issuer.Found) bool { return f.Tag != v.Tag }), err
	}
	lister, ok := untagged(is)
	if !ok {
		return nil, fmt.Errorf("%w of tag %s, and issuer %s cannot look it up", errNoHandle, v.Tag, v.Issuer)
	}
	handles, err := lister.List(ctx, sub)
	if err != nil {
		return nil, err
	}
	fresh, err := e.unknown(ctx, v, handles)
	if err != nil || len(fresh) == 0 {
		return nil, err
	}
	if !issuer.TraitsOf(is, v.Settings).Exclusive {
		return nil, fmt.Errorf("%w: issuer %s lists %s, which nobody here has made; unless its block says exclusive = true, somebody else may have", errNoHandle, v.Issuer, handlesText(fresh))
	}
	return []issuer.Found{{Handle: fresh[0], Tag: v.Tag}}, nil // another one belongs to another attempt
}

// unknown picks the handles that are neither older than version v nor known as
// another version's. It waits while another mint of the secret may be under way:
// what is new may be its.
func (e *Engine) unknown(ctx context.Context, v rotation.Version, handles []issuer.Handle) (fresh []issuer.Handle, err error) {
	err = e.Store.View(ctx, func(tx Tx) error {
		fresh = nil
		for _, h := range handles {
			if slices.ContainsFunc(v.Seen, func(old map[string]string) bool { return maps.Equal(old, h) }) {
				continue
			}
			if _, err := tx.VersionByHandle(ctx, "", h); err == nil { // another block may be about the same system
				continue
			} else if !notFound(err) {
				return err
			}
			fresh = append(fresh, h)
		}
		if len(fresh) == 0 {
			return nil
		}
		open, err := tx.Versions(ctx, v.SecretID)
		if err != nil {
			return err
		}
		for _, other := range open {
			if other.Number != v.Number && other.Issuer == v.Issuer && other.Stage == rotation.StagePending && other.Handle == nil {
				return fmt.Errorf("%w: version %d is being minted, and what is new at the issuer may be it", backends.ErrUnavailable, other.Number)
			}
		}
		return nil
	})
	return fresh, err
}

func handlesText(handles []issuer.Handle) string {
	text := ""
	for i, h := range handles {
		if i > 0 {
			text += ", "
		}
		text += handleText(h)
	}
	return text
}
