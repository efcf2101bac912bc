package client

import (
	"context"
	"net/url"
	"time"
)

// What a backend is to a secret.
const (
	RolePrimary = "primary" // rotations publish there
	RoleMirror  = "mirror"  // it is brought to the current version afterwards
	RoleFormer  = "former"  // neither any more: it is only relieved of dead versions
)

// How a backend stands to what it should hold of a secret.
const (
	InStep       = "in_step"
	Behind       = "behind"  // it was not brought to the current version yet
	Drifted      = "drifted" // somebody else changed what it holds
	StateUnknown = "unknown" // nothing is known of what it holds
)

// The kinds of drift.
const (
	DriftChanged   = "changed"   // it holds a value that is no version of the secret
	DriftMoved     = "moved"     // another version is current there, or a stage leads elsewhere
	DriftMissing   = "missing"   // it holds nothing as current
	DriftDestroyed = "destroyed" // a version that is still in its overlap is gone
)

// Drift is how what a backend holds differs from what it was given.
type Drift struct {
	Backend        string    `json:"backend,omitempty"`
	Kind           string    `json:"kind"`
	Detail         string    `json:"detail"`
	Version        int       `json:"version,omitempty"`         // of the secret that this is about, 0 = none
	BackendVersion string    `json:"backend_version,omitempty"` // what the backend holds as current
	FoundAt        time.Time `json:"found_at,omitzero"`
	Verdict        string    `json:"verdict,omitempty"`     // of the probe on the value that is there
	RotationID     string    `json:"rotation_id,omitempty"` // that waits for an approval to adopt it
}

// Placement is what one backend holds of one secret, and should hold.
type Placement struct {
	Secret        string    `json:"secret"`
	Tenant        string    `json:"tenant,omitempty"`
	Backend       string    `json:"backend"`
	Role          string    `json:"role"`
	State         string    `json:"state"`
	WantedVersion int       `json:"wanted_version,omitempty"`
	HeldVersion   int       `json:"held_version,omitempty"` // that it held last of the secret's own
	Drift         *Drift    `json:"drift,omitempty"`
	Error         string    `json:"error,omitempty"`      // of the last try to write or to compare
	Asked         bool      `json:"asked,omitempty"`      // a comparison was asked for and is still to come
	SyncedAt      time.Time `json:"synced_at,omitzero"`   // when it was last seen to be in step
	ComparedAt    time.Time `json:"compared_at,omitzero"` // when it was last looked at
	NextAt        time.Time `json:"next_at,omitzero"`     // when it is looked at next
}

// Detail says in words what is wrong; empty if nothing is.
func (p Placement) Detail() string {
	switch {
	case p.Drift != nil:
		return p.Drift.Detail
	case p.Error != "":
		return p.Error
	}
	return ""
}

// DriftQuery selects placements.
type DriftQuery struct {
	Secret  string
	Backend string
	All     bool // also those that are in step
	Page
}

func (q DriftQuery) values() url.Values {
	v := q.Page.values()
	set(v, "secret", q.Secret)
	set(v, "backend", q.Backend)
	if q.All {
		v.Set("all", "true")
	}
	return v
}

// CheckDriftRequest asks for the backends of a secret to be compared now.
type CheckDriftRequest struct {
	Reason string `json:"reason,omitempty"`
}

// DriftRequest is an intervention in what one backend holds.
type DriftRequest struct {
	Backend string `json:"backend,omitempty"`
	InterventionRequest
}

// Restoration is what became, or would become, of what a backend holds.
type Restoration struct {
	Foretold
	Placement Placement `json:"placement"`
}

// Placements lists what backends hold of secrets: those that are out of step, or
// all.
func (c *Client) Placements(ctx context.Context, q DriftQuery) (List[Placement], error) {
	return do[List[Placement]](ctx, c, api("GET", "drift").with(q.values()))
}

// CheckDrift asks for every backend of a secret to be compared now with what it
// should hold. The results are in Placements, once they are no longer Asked.
func (c *Client) CheckDrift(ctx context.Context, name string, r CheckDriftRequest) (List[Placement], error) {
	return do[List[Placement]](ctx, c, api("POST", "secrets", name, "drift", "check").send(r))
}

// RestoreDrift writes the current version of a secret over what a backend holds.
func (c *Client) RestoreDrift(ctx context.Context, name string, r DriftRequest) (Restoration, error) {
	return do[Restoration](ctx, c, api("POST", "secrets", name, "drift", "restore").send(r))
}

// AdoptDrift asks for the value that a backend holds, the primary unless another
// is named, to become the current version: by a rotation that waits for an approval.
func (c *Client) AdoptDrift(ctx context.Context, name string, r DriftRequest) (RotationIntervention, error) {
	return do[RotationIntervention](ctx, c, api("POST", "secrets", name, "drift", "adopt").send(r))
}
