package rotation

import (
	"fmt"
	"time"
)

// Kept is what a quarantine keeps out.
type Kept string

// The kinds of quarantines.
const (
	// KeptConsumer is told nothing, collects and acknowledges nothing, and nobody waits for
	// it. The role that it reads as is kept out with it.
	KeptConsumer Kept = "consumer"
	// KeptRole is refused whatever its principals ask for.
	KeptRole Kept = "role"
)

// Quarantine keeps a consumer or a role out from At until it is lifted. One name may be in
// several, each of another incident.
type Quarantine struct {
	ID         string
	Kind       Kept
	Name       string
	Tenant     string // of the consumer or role; empty: of none
	Role       string // of a consumer: the role that it read as then, which is kept out with it
	IncidentID string // empty: of none
	Reason     string
	By         string // principal
	At         time.Time
	LiftedAt   time.Time // zero: it goes on
	LiftedBy   string
	Lifting    string // why it was lifted
}

// String says it as callers are told: `in quarantine since 2026-11-22T03:00:00Z (incident …)`.
func (q Quarantine) String() string {
	text := "in quarantine since " + q.At.UTC().Format(time.RFC3339)
	if q.IncidentID != "" {
		text += fmt.Sprintf(" (incident %s)", q.IncidentID)
	}
	return text
}
