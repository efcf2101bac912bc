package client

import (
	"context"
	"time"
)

// How a seal is.
const (
	SealReady     = "ready"     // it opened every key when it was last asked
	SealAway      = "away"      // it could not be used when it was last asked
	SealPending   = "pending"   // it has not wrapped every key yet
	SealUnchecked = "unchecked" // it was not asked yet
)

// Seal is one of the operator's keys that the broker's are wrapped by.
type Seal struct {
	ID        string    `json:"id"` // "file:…", "awskms:…", "vault_transit:…"; of a key file that cannot be read its path
	State     string    `json:"state"`
	Error     string    `json:"error,omitempty"`
	CheckedAt time.Time `json:"checked_at,omitzero"`
}

// SealKey is a key-encryption key. Only its id is ever shown.
type SealKey struct {
	ID        string    `json:"id"`
	Current   bool      `json:"current"` // it seals; others only open, until nothing is sealed by them
	CreatedAt time.Time `json:"created_at"`
	Values    int       `json:"values"`     // that it seals
	WrappedBy []string  `json:"wrapped_by"` // ids of seals
}

// SealStatus tells of the seals and of the keys that they keep.
type SealStatus struct {
	Seals []Seal    `json:"seals"`
	Keys  []SealKey `json:"keys"`  // the newest first
	Left  int       `json:"left"`  // values that older keys seal, and that are being re-wrapped
	Stuck int       `json:"stuck"` // those of them that could not be: SealVerification names them
	// Waiting is why the node that was asked does not go on re-wrapping what is left;
	// it goes on by itself once it can.
	Waiting string `json:"waiting,omitempty"`
}

// SealRotateRequest asks for a new key.
type SealRotateRequest struct {
	Reason string `json:"reason,omitempty"`
	// Force makes it also where a seal that opens the present key would not open it now.
	Force bool `json:"force,omitempty"`
}

// AwaySeal is a seal that has not wrapped a new key; it will as soon as it can.
type AwaySeal struct {
	Seal  string `json:"seal"`
	Error string `json:"error"`
}

// SealRotation is what came of asking for a new key.
type SealRotation struct {
	Key    string     `json:"key"`
	Away   []AwaySeal `json:"away"`
	Status SealStatus `json:"status"`
}

// SealVerifyRequest asks for values to be opened, from a cursor on.
type SealVerifyRequest struct {
	After string `json:"after,omitempty"`
}

// SealedFailure is a sealed value that does not open.
type SealedFailure struct {
	Table   string `json:"table"`
	Tenant  string `json:"tenant,omitempty"`
	Name    string `json:"name"`
	Version int    `json:"version,omitempty"`
	Key     string `json:"key,omitempty"` // that seals it; missing: the bytes are no sealed value
	Error   string `json:"error"`
}

// SealVerification is what came of opening values; none is shown.
type SealVerification struct {
	Seals  []Seal          `json:"seals,omitempty"` // where it began
	Opened int             `json:"opened"`
	Failed []SealedFailure `json:"failed"`
	Next   string          `json:"next,omitempty"` // where to go on; missing: that was all
}

// SealStatus tells of the seals and their keys.
func (c *Client) SealStatus(ctx context.Context) (SealStatus, error) {
	return do[SealStatus](ctx, c, api("GET", "seal"))
}

// RotateSeal makes a new key that seals from now on; values that others seal are
// re-wrapped from then on, which SealStatus tells of.
func (c *Client) RotateSeal(ctx context.Context, r SealRotateRequest) (SealRotation, error) {
	return do[SealRotation](ctx, c, api("POST", "seal", "rotate").send(r))
}

// VerifySeal opens a part of all sealed values, and at the beginning asks each seal.
func (c *Client) VerifySeal(ctx context.Context, after string) (SealVerification, error) {
	return do[SealVerification](ctx, c, api("POST", "seal", "verify").send(SealVerifyRequest{After: after}))
}

// VerifyWholeSeal opens all sealed values; each is told of every part that is done.
func (c *Client) VerifyWholeSeal(ctx context.Context, each func(SealVerification)) (SealVerification, error) {
	whole := SealVerification{Failed: []SealedFailure{}}
	for {
		part, err := c.VerifySeal(ctx, whole.Next)
		if err != nil {
			return whole, err
		}
		if whole.Next == "" {
			whole.Seals = part.Seals
		}
		whole.Opened += part.Opened
		whole.Failed = append(whole.Failed, part.Failed...)
		whole.Next = part.Next
		if each(whole); whole.Next == "" {
			return whole, nil
		}
	}
}
