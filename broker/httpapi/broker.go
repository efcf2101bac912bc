package httpapi

import (
	"context"
	"net/netip"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// Broker is what the API serves. Every method authorises and audits the call
// itself; errors carry a class of package backends (ErrDenied: the caller may
// not do that) and no secret. What has no class is reported as an internal error.
type Broker interface {
	Alerts
	Audits
	Components
	Consumers
	Inboxes
	Operations
	Planning
	Storage
	Drifts
	Events
	Incidents
	Offline
	Quarantines
	Reports
	Seals
	OwnTokens
	Logins
	WebhookKeys

	Secrets(ctx context.Context, p authn.Principal, q client.SecretQuery) (client.List[client.Secret], error)
	Secret(ctx context.Context, p authn.Principal, name string) (client.Secret, error)
	// Value returns the value of a version; 0 is the current one.
	Value(ctx context.Context, p authn.Principal, name string, version int) (client.Value, error)
	Rotate(ctx context.Context, p authn.Principal, name string, r client.RotateRequest) (client.Rotation, error)
	Revoke(ctx context.Context, p authn.Principal, name string, r client.RevokeRequest) (client.Retirement, error)
	Emergency(ctx context.Context, p authn.Principal, name string, r client.EmergencyRequest) (client.Rotation, error)
	Pause(ctx context.Context, p authn.Principal, name string, r client.PauseRequest) (client.Secret, error)
	Resume(ctx context.Context, p authn.Principal, name string) (client.Secret, error)

	Rotations(ctx context.Context, p authn.Principal, q client.RotationQuery) (client.List[client.Rotation], error)
	Rotation(ctx context.Context, p authn.Principal, id string) (client.Rotation, error)
	// WatchRotation sends the present state of a rotation and of the retirements it
	// waits for, then each whenever it changed, then client.EventEnd, and closes the
	// channel. It closes it without EventEnd when ctx ends, when it can no longer tell
	// or when p may not see it any more; it never blocks longer than ctx lasts.
	WatchRotation(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error)

	Retirements(ctx context.Context, p authn.Principal, q client.RetirementQuery) (client.List[client.Retirement], error)
	Retirement(ctx context.Context, p authn.Principal, id string) (client.Retirement, error)

	Tokens(ctx context.Context, p authn.Principal, page client.Page) (client.List[client.Token], error)
	CreateToken(ctx context.Context, p authn.Principal, r client.CreateTokenRequest) (client.Token, error)
	RevokeToken(ctx context.Context, p authn.Principal, id string) (client.Token, error)

	// Reload takes the configuration's files into use. An error with a method
	// Problems() []client.ConfigFinding has all that is wrong with them.
	Reload(ctx context.Context, p authn.Principal, r client.ReloadRequest) (client.Reload, error)
	Configuration(ctx context.Context, p authn.Principal) (client.Configuration, error)

	// ReadMetrics tells whether p may read the metrics of the node.
	ReadMetrics(ctx context.Context, p authn.Principal) error

	// CheckKey tells whether a key that the broker itself issued works. A wrong
	// key is no error.
	CheckKey(ctx context.Context, from netip.Addr, key backends.SecretString) (client.KeyCheck, error)
}

// Authenticator tells who shows credentials. It is asked for requests without any
// too, so that it can audit them all.
type Authenticator interface {
	// Authenticate returns ErrUnavailable if it cannot tell now; any other error
	// with a class means that the credentials are not accepted.
	Authenticate(ctx context.Context, c authn.Credentials) (authn.Principal, error)
	// Again returns who p is by now; its errors are those of Authenticate.
	Again(ctx context.Context, p authn.Principal) (authn.Principal, error)
}
