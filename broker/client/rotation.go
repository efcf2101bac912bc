package client

import (
	"net/url"
	"time"
)

// The states of a rotation; the last five are its ends.
const (
	RotationQueued     = "queued"
	RotationMinting    = "minting"
	RotationStaging    = "staging"
	RotationVerifying  = "verifying"
	RotationPublishing = "publishing"
	RotationOverlap    = "overlap"
	RotationRetiring   = "retiring"

	RotationDone       = "done"
	RotationFailed     = "failed"
	RotationRolledBack = "rolled_back"
	RotationCancelled  = "cancelled"
	RotationSuperseded = "superseded"
)

// Rotation brings a new version of a secret into use.
type Rotation struct {
	ID           string    `json:"id"`
	Secret       string    `json:"secret"`
	Tenant       string    `json:"tenant,omitempty"`
	Trigger      string    `json:"trigger"` // schedule, event, manual, emergency
	Reason       string    `json:"reason,omitempty"`
	Adopts       string    `json:"adopts,omitempty"` // the backend whose value it makes current, instead of one from the issuer
	State        string    `json:"state"`
	WaitingFor   string    `json:"waiting_for,omitempty"`
	Error        string    `json:"error,omitempty"` // of the last failure
	FromVersion  int       `json:"from_version,omitempty"`
	ToVersion    int       `json:"to_version,omitempty"`
	Compromised  []int     `json:"compromised,omitempty"` // versions that an emergency pinned
	IncidentID   string    `json:"incident_id,omitempty"` // in the answer to an emergency: the incident that it is of
	StartedAt    time.Time `json:"started_at,omitzero"`
	PublishedAt  time.Time `json:"published_at,omitzero"`
	OverlapUntil time.Time `json:"overlap_until,omitzero"`
	EndedAt      time.Time `json:"ended_at,omitzero"`
	ApprovedBy   string    `json:"approved_by,omitempty"`
	ApprovedAt   time.Time `json:"approved_at,omitzero"`
	RollBackBy   string    `json:"roll_back_by,omitempty"`  // who asked for the previous version to be current again
	Actor        string    `json:"actor,omitempty"`         // who asked for it
	IgnoreWindow bool      `json:"ignore_window,omitempty"` // it may begin outside of the maintenance window
	ValueBy      time.Time `json:"value_by,omitzero"`       // until when a person is to hand the credential in
	NextAt       time.Time `json:"next_at,omitzero"`        // when it goes on by itself
	Steps        []Step    `json:"steps"`
}

// Step is one line of a rotation's timeline; without EndedAt it is under way.
type Step struct {
	Step      string    `json:"step"` // mint, stage, verify, publish, push, acknowledge, overlap, revoke, contain, prove, …
	StartedAt time.Time `json:"started_at,omitzero"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	Outcome   string    `json:"outcome,omitempty"` // ok, failed, retry, superseded
	Detail    string    `json:"detail,omitempty"`
}

// Ended tells whether the rotation has come to an end, good or bad.
func (r Rotation) Ended() bool {
	switch r.State {
	case RotationDone, RotationFailed, RotationRolledBack, RotationCancelled, RotationSuperseded:
		return true
	}
	return false
}

// RotationQuery selects rotations, the latest first.
type RotationQuery struct {
	Secret string
	State  string // only in this state
	Live   bool   // only those that have not ended
	Page
}

func (q RotationQuery) values() url.Values {
	v := q.Page.values()
	set(v, "secret", q.Secret)
	set(v, "state", q.State)
	if q.Live {
		v.Set("live", "true")
	}
	return v
}

// The types of Event. All but EventInterrupted are those of the wire.
const (
	EventRotation   = "rotation"   // the rotation, whenever it changed
	EventRetirement = "retirement" // a retirement that it waits for, with its tries
	EventIncident   = "incident"   // the incident, whenever its progress changed
	EventEnd        = "end"        // what is watched has ended: nothing follows
	// EventInterrupted is made by the client: the stream broke (Err says how) and
	// is being opened again.
	EventInterrupted = "interrupted"
)

// Event tells what became of a rotation and of what it waits for, or of a
// retirement. Each carries
// the whole present state of its object, and a stream begins with the present
// state of all of them: an event that was missed needs no replay.
type Event struct {
	ID         string // grows; opaque
	Type       string
	Rotation   *Rotation   // of EventRotation
	Retirement *Retirement // of EventRetirement
	Incident   *Incident   // of EventIncident
	Err        error       // of EventInterrupted
}
