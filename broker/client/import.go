package client

import (
	"context"
	"time"
)

// ImportRequest asks for a secret to be taken over that is in its backend already,
// or for the handle of a version that was taken over without one.
type ImportRequest struct {
	// Handle is what the issuer calls the credential of the current version, or of
	// Version, e.g. {"id": "key_123"}.
	Handle map[string]string `json:"handle,omitempty"`
	// VersionHandles are those of older versions, by the backend's own ids.
	VersionHandles map[string]map[string]string `json:"version_handles,omitempty"`
	// Version was imported or adopted before: all that is taken over is its Handle.
	Version int `json:"version,omitempty"`
	InterventionRequest
}

// Import is what was, or would be, taken over.
type Import struct {
	Foretold
	Backend  string            `json:"backend"`
	Versions []ImportedVersion `json:"versions"` // the oldest first
}

// ImportedVersion is one version that a backend holds, without its value.
type ImportedVersion struct {
	Number         int       `json:"number,omitempty"` // of a dry run 0: it has none yet
	BackendVersion string    `json:"backend_version"`
	Stage          string    `json:"stage"`
	CreatedAt      time.Time `json:"created_at,omitzero"`
	FieldNames     []string  `json:"field_names"`
	HandleMissing  bool      `json:"handle_missing,omitempty"` // the broker cannot revoke it
}

// Import takes over a secret that is in its backend already. Nothing is written
// there before the first rotation.
func (c *Client) Import(ctx context.Context, name string, r ImportRequest) (Import, error) {
	return do[Import](ctx, c, api("POST", "secrets", name, "import").send(r))
}
