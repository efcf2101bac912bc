package client

import (
	"context"
	"encoding/json"
	"time"
)

// Where the value of a setting comes from.
const (
	FromDefault    = "default"    // nobody says anything
	FromPolicy     = "policy"     // the rotation policy that matches most specifically
	FromLimit      = "limit"      // the strictest limit of the policies that match
	FromIssuer     = "issuer"     // what the issuer declares
	FromSecret     = "secret"     // the secret's own block
	FromDefinition = "definition" // the secret's record: the configuration has no block of it
)

// Setting is one thing that is said of a secret, as it is in force.
type Setting struct {
	Name   string `json:"name"`             // as in the configuration: "overlap", "verify.successes"
	Value  string `json:"value"`            // as it is written there: "24h"; empty: none
	From   string `json:"from"`             // FromDefault, …
	Policy string `json:"policy,omitempty"` // of FromPolicy and FromLimit
	File   string `json:"file,omitempty"`   // where it is written
	Line   int    `json:"line,omitempty"`
}

// Limit is what a secret may not exceed, whatever it asks for. Those of all policies
// that match it hold.
type Limit struct {
	Name   string `json:"name"` // "max_overlap", "max_age", "min_length", "plain_payload"
	Value  string `json:"value"`
	Policy string `json:"policy"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
}

// Due is one rotation to come, as far as can be told: each counts from the one before.
type Due struct {
	At       time.Time `json:"at"`
	BeginsAt time.Time `json:"begins_at"`          // At, or when the maintenance window opens after it
	Why      string    `json:"why"`                // "schedule", "max_age", "not_after"
	NoticeAt time.Time `json:"notice_at,omitzero"` // when consumers are told of it, ahead of time
}

// Effective is how one secret rotates, and where that is said.
type Effective struct {
	Secret   string    `json:"secret"`
	Tenant   string    `json:"tenant"`
	Policy   string    `json:"policy,omitempty"` // the rotation policy that applies
	Settings []Setting `json:"settings"`
	Limits   []Limit   `json:"limits"`
	Upcoming []Due     `json:"upcoming"` // the next ten, if nothing else happens
}

// EffectivePlans lists how secrets rotate, in the order of their names.
func (c *Client) EffectivePlans(ctx context.Context, q SecretQuery) (List[Effective], error) {
	return do[List[Effective]](ctx, c, api("GET", "plans").with(q.values()))
}

// ConfigPlanRequest is another configuration, to be compared with what is in force. No
// secret is in it.
type ConfigPlanRequest struct {
	Secrets []PlannedSecret   `json:"secrets"`
	Blocks  []PlannedBlock    `json:"blocks"`
	Node    map[string]string `json:"node,omitempty"` // settings that take a restart, by their paths
}

// PlannedSecret is a secret as it would be.
type PlannedSecret struct {
	Name       string          `json:"name"`
	Tenant     string          `json:"tenant"`
	Definition json.RawMessage `json:"definition"` // resolved, as the broker keeps it
}

// PlannedBlock is a block as it would be.
type PlannedBlock struct {
	Kind string `json:"kind"` // "backend", "issuer", "probe", "consumer", …
	Name string `json:"name"`
	Type string `json:"type,omitempty"`
	// Digest is of what is written in the block, without comments and layout, and
	// without what env() and file() would give: what changes there is not seen.
	Digest string `json:"digest"`
}

// ConfigPlan is what another configuration would do. Nothing was changed.
type ConfigPlan struct {
	At       time.Time       `json:"at"`
	Changes  []PlannedChange `json:"changes"` // secrets first, then blocks
	Refused  []ConfigFinding `json:"refused"` // why a reload of it would be refused now
	Warnings []ConfigFinding `json:"warnings"`
}

// PlannedChange is what would become of one secret or block.
type PlannedChange struct {
	ConfigChange
	Settings []SettingChange `json:"settings,omitempty"` // of a changed secret
	DueFrom  time.Time       `json:"due_from,omitzero"`  // when it is due now; missing: never by itself
	DueTo    time.Time       `json:"due_to,omitzero"`    // when it would be due
	Effects  []string        `json:"effects,omitempty"`  // what comes next, in sentences
}

// SettingChange is one setting before and after.
type SettingChange struct {
	Name string `json:"name"`
	From string `json:"from"` // empty: none
	To   string `json:"to"`
}

// PlanConfig compares a configuration with the one in force.
func (c *Client) PlanConfig(ctx context.Context, r ConfigPlanRequest) (ConfigPlan, error) {
	return do[ConfigPlan](ctx, c, api("POST", "config", "plan").send(r))
}
