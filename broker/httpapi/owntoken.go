package httpapi

import (
	"context"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// OwnTokens are the requests of callers about what they call with.
type OwnTokens interface {
	OwnToken(ctx context.Context, p authn.Principal) (client.Token, error)
	RenewOwnToken(ctx context.Context, p authn.Principal) (client.Token, error)
	RevokeOwnToken(ctx context.Context, p authn.Principal) (client.Token, error)
}
