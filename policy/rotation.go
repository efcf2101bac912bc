package policy

import "time"

// Rotation is how one secret rotates: the effective settings, after policies,
// the secret's own block and the defaults have been merged by Resolve.
type Rotation struct {
	Schedule        string          `json:"schedule"`         // cron expression; empty: only on demand
	TimeZone        string          `json:"time_zone"`        // of the schedule, an IANA name
	Jitter          time.Duration   `json:"jitter"`           // the schedule is put off by less than this, always as much for one secret
	Window          string          `json:"window"`           // times of the week in TimeZone at which a rotation may begin, except in an emergency; empty: any
	MaxAge          time.Duration   `json:"max_age"`          // of the current version: it is rotated by then, whatever the schedule; 0: any
	MaxConcurrent   int             `json:"max_concurrent"`   // rotations under way at once of the secrets of one policy; 0: any
	NoticeBefore    time.Duration   `json:"notice_before"`    // how long ahead of a rotation that is due its consumers are told; 0: not at all
	Overlap         time.Duration   `json:"overlap"`          // how long the previous version stays valid
	MaxOverlap      time.Duration   `json:"max_overlap"`      // that consumers and mirrors may hold it up to
	MinInterval     time.Duration   `json:"min_interval"`     // between two rotations, except in an emergency
	WaitForMirrors  bool            `json:"wait_for_mirrors"` // the previous version is not revoked while a mirror is behind, at most until MaxOverlap
	Approval        bool            `json:"approval"`         // somebody else than who asked must say yes first, except in an emergency
	Verify          Verify          `json:"verify"`
	Confirm         Confirm         `json:"confirm"`
	Acknowledgement Acknowledgement `json:"acknowledgement"`
	Key             KeySpec         `json:"key"`
	Emergency       Containment     `json:"emergency"`
	Proof           Proof           `json:"proof"`
}

// Verify says when a new credential is taken for working.
type Verify struct {
	Successes int           `json:"successes"` // accepted tries in a row
	Interval  time.Duration `json:"interval"`  // between two tries
	Timeout   time.Duration `json:"timeout"`   // from the first try; then the rotation fails
}

// Confirm says when a revoked credential is taken for dead.
type Confirm struct {
	Rejections int             `json:"rejections"` // consecutive rejected rounds
	Window     time.Duration   `json:"window"`     // over which they are spread; 0: the issuer's revocation budget
	Recheck    []time.Duration `json:"recheck"`    // after the proof, ascending
}

// Requirement is how much of an acknowledgement by its consumers the end of an
// overlap waits for.
type Requirement string

// The requirements, each including those before it.
const (
	RequireNone     Requirement = "none"
	RequireReceived Requirement = "received"
	RequireFetched  Requirement = "fetched"
	RequireApplied  Requirement = "applied"
)

// OnTimeout says what to do when an acknowledgement does not come.
type OnTimeout string

// What to do then. Both raise an alert.
const (
	Proceed OnTimeout = "proceed" // end the overlap all the same
	Hold    OnTimeout = "hold"    // go on waiting, at most to the end of MaxOverlap
)

// Acknowledgement is the rule by which consumers put off the end of an overlap.
type Acknowledgement struct {
	Require   Requirement   `json:"require"`
	Timeout   time.Duration `json:"timeout"` // from publishing
	OnTimeout OnTimeout     `json:"on_timeout"`
}

// KeySpec is the strength asked of a value that the broker itself generates.
// Zero fields leave the choice to the issuer.
type KeySpec struct {
	Length   int      `json:"length,omitempty"`   // characters of the random part
	Alphabet string   `json:"alphabet,omitempty"` // "base62", "hex", …
	Classes  []string `json:"classes,omitempty"`  // "lower", "upper", "digit", "symbol": at least one character of each
	Prefix   string   `json:"prefix,omitempty"`
	Checksum bool     `json:"checksum,omitempty"`
}

// The classes of characters.
const (
	ClassLower  = "lower"
	ClassUpper  = "upper"
	ClassDigit  = "digit"
	ClassSymbol = "symbol"
)

// Order is what an emergency does first.
type Order string

// The orders.
const (
	ReplaceFirst Order = "replace_first" // revoke when the replacement is published, or after ReplaceWithin
	RevokeFirst  Order = "revoke_first"  // revoke at once, replace beside it
)

// Containment is how an emergency stops a compromised version.
type Containment struct {
	Contain       Order         `json:"contain"`
	ReplaceWithin time.Duration `json:"replace_within"` // revoke after this, replaced or not
}

// Proof says whether a retirement has to be proven.
type Proof string

// The kinds of proof.
const (
	ProofByProbe Proof = ""     // the probe must see the revoked credential fail
	ProofNone    Proof = "none" // the issuer's word is enough: a secret without a probe
)

// Default returns the settings of a secret that no policy and no block of its
// own says anything about.
func Default() Rotation {
	return Rotation{
		TimeZone:        "UTC",
		Overlap:         24 * time.Hour,
		MaxOverlap:      48 * time.Hour,
		WaitForMirrors:  true,
		Verify:          Verify{Successes: 2, Interval: 2 * time.Second, Timeout: 5 * time.Minute},
		Confirm:         Confirm{Rejections: 3, Recheck: []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}},
		Acknowledgement: Acknowledgement{Require: RequireNone, Timeout: 24 * time.Hour, OnTimeout: Proceed},
		Emergency:       Containment{Contain: ReplaceFirst, ReplaceWithin: time.Minute},
	}
}
