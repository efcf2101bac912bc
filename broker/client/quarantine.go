package client

import (
	"context"
	"time"
)

// What a quarantine keeps out.
const (
	QuarantineConsumer = "consumer" // it is told nothing, collects and acknowledges nothing; its role is kept out with it
	QuarantineRole     = "role"     // whatever its principals ask for is refused
)

// Quarantine keeps a consumer or a role out.
type Quarantine struct {
	Kind       string    `json:"kind"` // "consumer" or "role"
	Name       string    `json:"name"`
	Tenant     string    `json:"tenant,omitempty"`
	Role       string    `json:"role,omitempty"` // of a consumer: that is kept out with it
	Also       []string  `json:"also,omitempty"` // other consumers that read as the role: they can neither read nor acknowledge
	IncidentID string    `json:"incident_id,omitempty"`
	Reason     string    `json:"reason"`
	By         string    `json:"by"`
	At         time.Time `json:"at,omitzero"`        // missing: of a dry run
	LiftedAt   time.Time `json:"lifted_at,omitzero"` // missing: it goes on
	LiftedBy   string    `json:"lifted_by,omitempty"`
	Lifting    string    `json:"lifting,omitempty"` // why it was lifted
}

// QuarantineRequest puts a consumer or a role in quarantine, or lifts that.
type QuarantineRequest struct {
	InterventionRequest
	Kind       string `json:"kind"` // "consumer" or "role"
	Name       string `json:"name"`
	IncidentID string `json:"incident_id,omitempty"` // that it belongs to
	Force      bool   `json:"force,omitempty"`       // also the role of the caller, who is kept out from then on
}

// QuarantineIntervention is what is, or would be, in quarantine, or is no longer.
type QuarantineIntervention struct {
	Foretold
	Quarantine Quarantine `json:"quarantine"`
}

// Quarantines lists who is in quarantine.
func (c *Client) Quarantines(ctx context.Context) (List[Quarantine], error) {
	return do[List[Quarantine]](ctx, c, api("GET", "quarantine"))
}

// Quarantine keeps a consumer or a role out until it is lifted. It can be repeated.
func (c *Client) Quarantine(ctx context.Context, r QuarantineRequest) (QuarantineIntervention, error) {
	return do[QuarantineIntervention](ctx, c, api("POST", "quarantine").send(r))
}

// LiftQuarantine lets a consumer or a role in again.
func (c *Client) LiftQuarantine(ctx context.Context, r QuarantineRequest) (QuarantineIntervention, error) {
	return do[QuarantineIntervention](ctx, c, api("POST", "quarantine", "lift").send(r))
}
