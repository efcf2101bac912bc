package client

import (
	"net/url"
	"time"
)

// The states of a retirement.
const (
	Requested    = "requested"
	Acknowledged = "acknowledged" // the issuer said yes
	Rejecting    = "rejecting"    // contained: it was rejected at least once
	ProvenDead   = "proven_dead"
	Unconfirmed  = "unconfirmed" // the issuer's budget has passed without proof; probing goes on
	Resurrected  = "resurrected" // accepted after it was proven dead
	Unprovable   = "unprovable"  // no probe, or its bytes did not work before either
)

// The purposes of a try.
const (
	PurposeVerify  = "verify"
	PurposeBefore  = "before"
	PurposeControl = "control"
	PurposeDeath   = "death"
	PurposeRecheck = "recheck"
	PurposeByHand  = "by_hand"
)

// The verdicts of a try.
const (
	Accepted     = "accepted"
	Rejected     = "rejected"
	Inconclusive = "inconclusive"
)

// Retirement turns one version off and proves it: this is the proof record.
type Retirement struct {
	ID                  string    `json:"id"`
	Secret              string    `json:"secret,omitempty"`
	Tenant              string    `json:"tenant,omitempty"`
	Version             int       `json:"version,omitempty"`
	Cause               string    `json:"cause,omitempty"` // rotated, emergency, revoked, failed, orphan, rolled_back
	Reason              string    `json:"reason,omitempty"`
	State               string    `json:"state"`
	WaitingFor          string    `json:"waiting_for,omitempty"`
	Error               string    `json:"error,omitempty"`
	RotationID          string    `json:"rotation_id,omitempty"`
	RequestedAt         time.Time `json:"requested_at,omitzero"`
	AcknowledgedAt      time.Time `json:"acknowledged_at,omitzero"`
	LastAcceptedAt      time.Time `json:"last_accepted_at,omitzero"`
	ContainedAt         time.Time `json:"contained_at,omitzero"` // first rejected round
	ProvenAt            time.Time `json:"proven_at,omitzero"`
	ResurrectedAt       time.Time `json:"resurrected_at,omitzero"`
	Control             string    `json:"control,omitempty"`    // what showed that the probe itself works
	NeverMade           bool      `json:"never_made,omitempty"` // the issuer has nothing under its tag: there is nothing to turn off
	AlreadyRejected     bool      `json:"already_rejected,omitempty"`
	Scope               *Scope    `json:"scope,omitempty"`
	RevocationLatencyMS int64     `json:"revocation_latency_ms,omitzero"` // from requested to contained
	ByHand              bool      `json:"by_hand,omitempty"`              // only a person can turn it off
	LastUsedAt          time.Time `json:"last_used_at,omitzero"`          // as its issuer said before it was revoked
	LastUse             string    `json:"last_use,omitempty"`             // the same in words
	SessionsEndedAt     time.Time `json:"sessions_ended_at,omitzero"`     // of the sessions that were derived from it
	RemoveAt            time.Time `json:"remove_at,omitzero"`             // when its issuer is to delete for good what it has disabled
	RemovedAt           time.Time `json:"removed_at,omitzero"`            // when it did
	Rechecks            []Recheck `json:"rechecks,omitempty"`
	NextAt              time.Time `json:"next_at,omitzero"`
	Tries               []Try     `json:"tries,omitempty"` // only of a single retirement, not in lists
}

// Scope is what a proof is about.
type Scope struct {
	Endpoint        string `json:"endpoint,omitempty"` // "GET https://api.example/v1/me"
	Config          string `json:"config,omitempty"`   // digest of the probe's configuration
	Node            string `json:"node,omitempty"`
	SelfAttested    bool   `json:"self_attested,omitempty"`    // the broker itself decided that the key is dead
	Spared          string `json:"spared,omitempty"`           // addresses left out in the last round, so as not to lock the account
	Unreached       string `json:"unreached,omitempty"`        // addresses that nothing could reach in the last round
	DerivedSessions string `json:"derived_sessions,omitempty"` // whether sessions made from it were ended
}

// Recheck is one look after the proof.
type Recheck struct {
	DueAt   time.Time `json:"due_at"`
	At      time.Time `json:"at,omitzero"`
	Verdict string    `json:"verdict,omitempty"`
}

// Try is one try of a credential: a line of the proof.
type Try struct {
	Round     int       `json:"round"`
	Purpose   string    `json:"purpose"`
	Version   int       `json:"version"`
	At        time.Time `json:"at"`
	Probe     string    `json:"probe"`
	Node      string    `json:"node"`
	Address   string    `json:"address,omitempty"`
	Verdict   string    `json:"verdict"`
	Detail    string    `json:"detail,omitempty"`
	LatencyMS int64     `json:"latency_ms"`
}

// Settled tells whether nothing more is going to be done before somebody looks
// at it: it is proven dead, cannot be proven, or needs attention.
func (r Retirement) Settled() bool {
	switch r.State {
	case ProvenDead, Unconfirmed, Resurrected, Unprovable:
		return true
	}
	return r.NeverMade || r.State == Acknowledged && r.NextAt.IsZero() // proof = "none"
}

// RetirementQuery selects retirements, the latest first.
type RetirementQuery struct {
	Secret string
	State  string // only in this state
	Page
}

func (q RetirementQuery) values() url.Values {
	v := q.Page.values()
	set(v, "secret", q.Secret)
	set(v, "state", q.State)
	return v
}
