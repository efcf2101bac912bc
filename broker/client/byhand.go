package client

import (
	"context"
	"encoding/json"
	"time"
)

// SupplyRequest hands in the credential that a rotation waits for, which a person has
// made at an issuer that is people.
type SupplyRequest struct {
	Fields Fields `json:"fields"`
	// Encodings is for the JSON alone, as in Value: in Fields they are as they are.
	Encodings Encodings `json:"encodings,omitempty"`
	// Handle is what its issuer calls the credential, e.g. {"id": "key_123"}; it may be
	// missing.
	Handle map[string]string `json:"handle,omitempty"`
	// NotAfter is when it ends by itself; it is rotated in time before that.
	NotAfter time.Time `json:"not_after,omitzero"`
	Reason   string    `json:"reason,omitempty"`
}

// MarshalJSON writes fields that are no UTF-8 text in base64, and says so.
func (r SupplyRequest) MarshalJSON() ([]byte, error) {
	type bare SupplyRequest
	r.Fields, r.Encodings = r.Fields.encoded()
	return json.Marshal(bare(r))
}

// Decode undoes what MarshalJSON does to the fields: reading a body does not, since
// unknown fields are refused there. Its error quotes nothing.
func (r *SupplyRequest) Decode() error {
	defer func() { r.Encodings = nil }()
	return r.Fields.decode(r.Encodings)
}

// Supply hands in the credential that a rotation waits for.
func (c *Client) Supply(ctx context.Context, rotationID string, r SupplyRequest) (Rotation, error) {
	return do[Rotation](ctx, c, api("POST", "rotations", rotationID, "value").send(r))
}

// TurnedOff says that a person has turned a credential off which only a person can.
func (c *Client) TurnedOff(ctx context.Context, retirementID string, r InterventionRequest) (RetirementIntervention, error) {
	return do[RetirementIntervention](ctx, c, api("POST", "retirements", retirementID, "done").send(r))
}
