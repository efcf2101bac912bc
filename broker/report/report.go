// Package report makes the report of an incident out of what was recorded of it, and
// verifies it without the broker: every claim follows from records that are in it.
package report

import (
	"time"

	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/client"
)

// Format is what a report says it is written as.
const Format = "keybroker/incident-report/1"

// Report is what was known of an incident when it was made: first the records, then what
// follows from them. Claims alone are derived; Make derives them.
type Report struct {
	Format  string    `json:"format"`
	MadeAt  time.Time `json:"made_at"`
	MadeBy  string    `json:"made_by"`           // the node that did
	MadeFor string    `json:"made_for"`          // who asked for it
	Partial bool      `json:"partial,omitempty"` // the incident has secrets that who asked may not see

	Incident  Incident `json:"incident"`
	Secrets   []Secret `json:"secrets"`
	Journal   Journal  `json:"journal"`
	OtherLogs []Log    `json:"other_logs,omitempty"` // of other nodes: this report has none of their lines

	Claims []Claim `json:"claims"`
}

// Incident is the record of the emergency itself.
type Incident struct {
	ID         string          `json:"id"`
	State      string          `json:"state"`
	Cause      string          `json:"cause"`
	Trigger    string          `json:"trigger,omitempty"`
	Tenant     string          `json:"tenant,omitempty"`
	Reason     string          `json:"reason"`
	Selector   client.Selector `json:"selector"`
	Contain    string          `json:"contain,omitempty"`
	DeclaredBy string          `json:"declared_by"`
	Identity   string          `json:"identity,omitempty"` // who had logged in to declare it
	ApprovedBy string          `json:"approved_by,omitempty"`
	Overridden bool            `json:"overridden,omitempty"`
	ClosedBy   string          `json:"closed_by,omitempty"`
	Closing    string          `json:"closing,omitempty"`
	Hold       bool            `json:"hold"`

	LeakedAt   time.Time `json:"leaked_at,omitzero"`
	DetectedAt time.Time `json:"detected_at,omitzero"`
	DeclaredAt time.Time `json:"declared_at,omitzero"`
	ApprovedAt time.Time `json:"approved_at,omitzero"`
	ClosedAt   time.Time `json:"closed_at,omitzero"`

	Skipped    []client.IncidentSkipped `json:"skipped,omitempty"`
	Quarantine []client.Quarantine      `json:"quarantine,omitempty"`
	Notes      []client.IncidentNote    `json:"notes,omitempty"`
	Checklist  []client.IncidentCheck   `json:"checklist,omitempty"`
}

// Secret is one target with all that was recorded of it.
type Secret struct {
	Name     string        `json:"name"`
	Tenant   string        `json:"tenant"`
	State    string        `json:"state"` // of the target
	Error    string        `json:"error,omitempty"`
	Pinned   []int         `json:"pinned,omitempty"`
	Backend  string        `json:"backend,omitempty"`
	Labels   client.Labels `json:"labels,omitempty"`
	Current  int           `json:"current,omitempty"` // the version that is current; 0: none
	Versions []Version     `json:"versions"`          // those that are compromised, and the current one
	// Rotation is the emergency, with its steps.
	Rotation   *client.Rotation  `json:"rotation,omitempty"`
	Consumers  []string          `json:"consumers,omitempty"` // that are to be told
	Deliveries []client.Delivery `json:"deliveries,omitempty"`
}

// Version is one of a secret.
type Version struct {
	Version     int             `json:"version"`
	Compromised bool            `json:"compromised"`
	Issuer      string          `json:"issuer,omitempty"`
	CreatedAt   time.Time       `json:"created_at,omitzero"`
	PublishedAt time.Time       `json:"published_at,omitzero"`
	Retirement  *Retirement     `json:"retirement,omitempty"`
	Reads       []client.Access `json:"reads,omitempty"` // who was given it
	MoreReads   bool            `json:"more_reads,omitempty"`
}

// Retirement is a proof record with what a proof took.
type Retirement struct {
	client.Retirement
	Required Required `json:"required"`
	// SeriesFrom and SeriesTo are when the first and the last of the rejected rounds were
	// committed that are the proof.
	SeriesFrom time.Time `json:"series_from,omitzero"`
	SeriesTo   time.Time `json:"series_to,omitzero"`
	// NothingAt is when its issuer was first found to have nothing under its tag.
	NothingAt time.Time `json:"nothing_at,omitzero"`
	// LeftOut are tries in the midst of many that all showed the same.
	LeftOut int `json:"left_out,omitempty"`
}

// Required is what a proof of death takes.
type Required struct {
	None       bool  `json:"none,omitempty"` // no proof: the issuer's word is enough
	Rejections int   `json:"rejections"`     // rejected rounds in a row
	WindowMS   int64 `json:"window_ms"`      // over which they are spread
}

// Journal are the lines of the node's audit log about the incident, which prove themselves.
type Journal struct {
	Node string `json:"node"`
	audit.Excerpt
	// Behind: when the report was made the log did not have all yet that was committed.
	Behind bool `json:"behind,omitempty"`
}

// Log is the audit log of another node.
type Log struct {
	Node string    `json:"node"`
	Size int64     `json:"size"` // records that its newest known checkpoint covers
	At   time.Time `json:"at,omitzero"`
}

// The kinds of claims.
const (
	KindLeaked       = "leaked"
	KindDetected     = "detected"
	KindDeclared     = "declared"
	KindApproved     = "approved"
	KindOverridden   = "overridden"
	KindRejected     = "rejected_by_person"
	KindClosed       = "closed"
	KindAct          = "act" // what somebody asked for
	KindCompromised  = "compromised"
	KindRequested    = "revocation_requested"
	KindAcknowledged = "revocation_acknowledged"
	KindContained    = "contained"
	KindProven       = "proven"
	KindResurrected  = "resurrected"
	KindLastUse      = "last_use"
	KindSessions     = "sessions"
	KindExposure     = "exposure"
	KindRead         = "read"
	KindReplaced     = "replaced"
	KindDelivered    = "delivered"
	KindQuarantined  = "quarantined"
	KindNote         = "note"
	KindCheck        = "check"
	KindSkipped      = "skipped"
	KindTotal        = "total"
	KindOpen         = "open"  // what is not done
	KindLimit        = "limit" // what the report cannot tell
)

// Claim is one thing that the report says, with the records that it follows from.
type Claim struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	Text    string    `json:"text"`
	Secret  string    `json:"secret,omitempty"` // NAME, or TENANT:NAME in another than the default tenant
	Version int       `json:"version,omitempty"`
	At      time.Time `json:"at,omitzero"`
	Until   time.Time `json:"until,omitzero"` // of an exposure, or of several reads
	By      string    `json:"by,omitempty"`
	// Evidence are records of the report:
	//
	//	incident, note:N, check:N, quarantine:N, skipped:N (N from 1)
	//	secret:NAME, version:NAME/V, read:NAME/V/N
	//	retirement:ID, try:ID/N, rotation:ID, step:ID/N, delivery:ID
	//	audit:INDEX, log:NODE
	Evidence []string `json:"evidence"`
}

// Make works out what follows from the records.
func Make(r Report) (Report, error) {
	lines, err := r.Journal.Verify()
	if err != nil {
		return r, err
	}
	r.Format = Format
	r.Claims = derive(&r, lines)
	return r, nil
}
