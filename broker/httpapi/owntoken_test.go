package httpapi_test

import (
	"context"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

func (m *memory) OwnToken(_ context.Context, p authn.Principal) (client.Token, error) {
	return client.Token{ID: p.ID, Policies: []string{}}, m.serve(p, "own-token")
}

func (m *memory) RenewOwnToken(_ context.Context, p authn.Principal) (client.Token, error) {
	return client.Token{ID: p.ID, Policies: []string{}}, m.serve(p, "renew-own-token")
}

func (m *memory) RevokeOwnToken(_ context.Context, p authn.Principal) (client.Token, error) {
	return client.Token{ID: p.ID, Policies: []string{}}, m.serve(p, "revoke-own-token")
}
