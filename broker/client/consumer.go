package client

import (
	"context"
	"time"
)

// The kinds of consumers.
const (
	ConsumerWebhook = "webhook" // it is called
	ConsumerInbox   = "inbox"   // it collects its messages
)

// The states of a consumer.
const (
	ConsumerTold     = "told"        // nothing keeps the broker from telling it
	ConsumerFailing  = "failing"     // what it is to be told does not arrive; the broker goes on trying
	ConsumerKeptOut  = "quarantined" // what it is to be told waits until somebody lifts its quarantine
	ConsumerDisabled = "disabled"    // it wants no more deliveries (it answered 410): they wait until somebody enables it
)

// Consumer is an application that is told of new versions.
type Consumer struct {
	Name        string   `json:"name"`
	Tenant      string   `json:"tenant"`
	Role        string   `json:"role,omitempty"` // that it reads and acknowledges as
	Kind        string   `json:"kind"`           // "webhook" or "inbox"
	Payload     string   `json:"payload"`        // "reference", "sealed" or "plain"
	Endpoint    string   `json:"endpoint,omitempty"`
	Events      []string `json:"events"`                // that it is told of
	Instances   int      `json:"instances"`             // that are to say that they use a version
	Concurrency int      `json:"concurrency,omitempty"` // attempts at once on each node

	State          string       `json:"state"`
	Detail         string       `json:"detail,omitempty"`          // why it is not told
	Since          time.Time    `json:"since,omitzero"`            // it is disabled or in quarantine, or has failed
	LeftAloneUntil time.Time    `json:"left_alone_until,omitzero"` // by the node that answers: it has failed so often in a row
	Waiting        int          `json:"waiting"`                   // deliveries that it has not got yet
	WaitingSince   time.Time    `json:"waiting_since,omitzero"`    // the oldest of them
	NextAttemptAt  time.Time    `json:"next_attempt_at,omitzero"`  // of any of them
	Signature      string       `json:"signature"`                 // "ed25519" or "hmac"
	SigningKeys    []SigningKey `json:"signing_keys,omitempty"`    // not in lists
	LastDelivery   *Delivery    `json:"last_delivery,omitempty"`   // not in lists
}

// SigningKey is what a consumer's messages are signed with, without what is secret of it.
type SigningKey struct {
	ID        string    `json:"id"`
	Algorithm string    `json:"algorithm"`        // "ed25519" or "hmac"
	Public    string    `json:"public,omitempty"` // "whpk_…"; of hmac there is none
	CreatedAt time.Time `json:"created_at,omitzero"`
	Until     time.Time `json:"until,omitzero"` // it signs beside a newer one; missing: it is the newest
}

// SigningRotation is what came of the rotation of a consumer's signing key.
type SigningRotation struct {
	Consumer string       `json:"consumer"`
	Keys     []SigningKey `json:"keys"`             // all that sign now, the newest first
	Secret   SecretText   `json:"secret,omitempty"` // "whsec_…", of hmac: no other answer has it
}

// RotateSigningRequest asks for a new signing key.
type RotateSigningRequest struct {
	Overlap string `json:"overlap,omitempty"` // how long the key of before signs as well, such as "24h" (which it is if not given); "0s": no longer
	Reason  string `json:"reason,omitempty"`
}

// ConsumerRequest asks for something to be done to a consumer.
type ConsumerRequest struct {
	Reason string `json:"reason,omitempty"`
}

// SecretConsumers tells who was told of a secret's current version, and who may still
// use an older one.
type SecretConsumers struct {
	Secret     string           `json:"secret"`
	Tenant     string           `json:"tenant"`
	Version    int              `json:"version,omitempty"` // the current one; missing: there is none
	Generation int64            `json:"generation"`
	Require    string           `json:"require"` // of each consumer before an older version is revoked: "none", "received", "fetched" or "applied"
	Consumers  []SecretConsumer `json:"consumers"`
	Old        []OldVersion     `json:"old"` // versions that are not current and may work, the newest first
}

// SecretConsumer is how one consumer stands to a secret.
type SecretConsumer struct {
	Consumer      string     `json:"consumer"`
	Role          string     `json:"role,omitempty"`
	Listed        bool       `json:"listed"`                // the secret still names it
	DeliveryID    string     `json:"delivery_id,omitempty"` // by which it is told of the version; missing: it is not
	Event         string     `json:"event,omitempty"`       // "secret.rotated" or "secret.rolled_back"
	Version       int        `json:"version,omitempty"`     // that it is told of
	Generation    int64      `json:"generation,omitempty"`  // the same
	State         string     `json:"state,omitempty"`       // of the delivery
	Sent          int        `json:"sent"`                  // attempts, or how often an inbox handed it out
	Error         string     `json:"error,omitempty"`       // of the last attempt, or of an acknowledgement that was refused
	NextAttemptAt time.Time  `json:"next_attempt_at,omitzero"`
	ReceivedAt    time.Time  `json:"received_at,omitzero"`
	FetchedAt     time.Time  `json:"fetched_at,omitzero"` // its role has read the version
	AppliedAt     time.Time  `json:"applied_at,omitzero"` // all its instances use the version
	Instances     []Instance `json:"instances"`           // that say so
	Wanted        int        `json:"wanted_instances,omitempty"`
	Uses          int        `json:"uses,omitempty"`      // the version that it last said to use, or fetched; missing: nothing is known
	LastRead      *LastRead  `json:"last_read,omitempty"` // by its role
	Old           bool       `json:"old"`                 // what it uses, or read last, is not the current version
}

// Instance is one of a consumer's that uses a version.
type Instance struct {
	Name string    `json:"name"` // as it calls itself; empty: the only one
	At   time.Time `json:"at"`   // when it said so
}

// LastRead is what a consumer's role has read last.
type LastRead struct {
	Version int       `json:"version"`
	At      time.Time `json:"at"` // to the minute
}

// OldVersion is a version that is not current and may still work.
type OldVersion struct {
	Version    int       `json:"version"`
	Stage      string    `json:"stage"`
	Until      time.Time `json:"until,omitzero"`        // it works at least until then; missing: it is being turned off
	Retirement string    `json:"retirement,omitempty"`  // how far that has come
	LastUsedAt time.Time `json:"last_used_at,omitzero"` // as its issuer knows
	LastUse    string    `json:"last_use,omitempty"`    // the same in words, or why it is not known
	UsedBy     []string  `json:"used_by"`               // the consumers that may use it
}

// Consumers lists the consumers of the configuration.
func (c *Client) Consumers(ctx context.Context) (List[Consumer], error) {
	return do[List[Consumer]](ctx, c, api("GET", "consumers"))
}

// Consumer shows a consumer, with its signing keys and its last delivery.
func (c *Client) Consumer(ctx context.Context, name string) (Consumer, error) {
	return do[Consumer](ctx, c, api("GET", "consumers", name))
}

// TestConsumer tells a consumer that somebody tries the way to it: the delivery that does
// is of no secret, and is retried like any other.
func (c *Client) TestConsumer(ctx context.Context, name string, r ConsumerRequest) (Delivery, error) {
	return do[Delivery](ctx, c, api("POST", "consumers", name, "test").send(r))
}

// EnableConsumer has a consumer told again that wanted no more deliveries: what waits is
// tried at once.
func (c *Client) EnableConsumer(ctx context.Context, name string, r ConsumerRequest) (Consumer, error) {
	return do[Consumer](ctx, c, api("POST", "consumers", name, "enable").send(r))
}

// RotateSigning makes a new key that a consumer's messages are signed with.
func (c *Client) RotateSigning(ctx context.Context, name string, r RotateSigningRequest) (SigningRotation, error) {
	return do[SigningRotation](ctx, c, api("POST", "consumers", name, "rotate-signing").send(r))
}

// SecretConsumers tells which consumer was told of what, and which version it uses.
func (c *Client) SecretConsumers(ctx context.Context, name string) (SecretConsumers, error) {
	return do[SecretConsumers](ctx, c, api("GET", "secrets", name, "consumers"))
}
