package broker

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
)

// NewPages returns the pages of lists, by a key of 32 bytes that all nodes have.
func NewPages(key []byte) (*Pages, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("making the key of cursors: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("making the key of cursors: %w", err)
	}
	return &Pages{aead}, nil
}

// Pages seals where a list goes on: that place is a record's, which the caller may
// not be one to see.
type Pages struct{ aead cipher.AEAD }

// next seals a place for p, who is listing by an action. The end of the list stays it.
func (g *Pages) next(p authn.Principal, action, place string) string {
	if place == "" {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(g.aead.Seal(nil, nil, []byte(place), boundTo(p, action)))
}

// open returns the page that p asks for by an action. ErrInvalid if it does not begin
// where a page of that list ended for p.
func (g *Pages) open(p authn.Principal, action string, q client.Page) (store.Page, error) {
	if q.After == "" {
		return store.Page{Limit: q.Limit}, nil
	}
	sealed, err := base64.RawURLEncoding.DecodeString(q.After)
	if err == nil {
		var place []byte
		if place, err = g.aead.Open(nil, nil, sealed, boundTo(p, action)); err == nil {
			return store.Page{After: string(place), Limit: q.Limit}, nil
		}
	}
	return store.Page{}, fmt.Errorf("%w: the list does not go on there: give what the page before had as next, of the same list", backends.ErrInvalid)
}

// boundTo is who a place in a list is for: whose walls and policies it was read behind.
func boundTo(p authn.Principal, action string) []byte {
	return fmt.Appendf(nil, "%q %q %q %q", action, p.ID, p.Tenant, p.Environment)
}
