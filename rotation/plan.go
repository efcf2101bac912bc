package rotation

import "time"

// Plan is how one rotation and the retirement after it proceed. It is resolved
// from policies, secret and issuer when the rotation is created and stored with
// it: a rotation finishes under the configuration it began with.
type Plan struct {
	Overlap         time.Duration   `json:"overlap"`
	MaxOverlap      time.Duration   `json:"max_overlap"` // a hold never goes beyond it; at least Overlap
	Verify          Verify          `json:"verify"`
	Confirm         Confirm         `json:"confirm"`
	Acknowledgement Acknowledgement `json:"acknowledgement"`
	Emergency       Emergency       `json:"emergency"`
	Key             KeySpec         `json:"key"`
	// MinLength is how many characters a value at least has that a person makes; 0: any
	// number.
	MinLength int `json:"min_length,omitempty"`
	// WaitForMirrors: after the overlap the old version is not revoked while a mirror
	// is behind, at most until MaxOverlap.
	WaitForMirrors bool `json:"wait_for_mirrors,omitempty"`
	// Approval: outside an emergency somebody else than who asked must say yes
	// before anything is done.
	Approval bool `json:"approval,omitempty"`
}

// Verify says when a new credential is taken for working.
type Verify struct {
	Successes int           `json:"successes"` // accepted tries in a row
	Interval  time.Duration `json:"interval"`  // between two tries
	Timeout   time.Duration `json:"timeout"`   // from the first try; then the rotation fails
}

// Confirm says when a revoked credential is taken for dead.
type Confirm struct {
	None       bool            `json:"none,omitempty"` // proof = "none": acknowledgement is enough
	Rejections int             `json:"rejections"`     // consecutive rejected rounds
	Window     time.Duration   `json:"window"`         // over which they are spread
	Budget     time.Duration   `json:"budget"`         // how long the issuer may take to revoke
	Recheck    []time.Duration `json:"recheck"`        // after the proof, ascending
}

// Requirement is how much of an acknowledgement the overlap waits for.
type Requirement string

// The requirements, each including those before it.
const (
	RequireNone     Requirement = "none"
	RequireReceived Requirement = "received"
	RequireFetched  Requirement = "fetched"
	RequireApplied  Requirement = "applied"
)

// Acknowledgement is the rule by which consumers hold an overlap.
type Acknowledgement struct {
	Require Requirement   `json:"require"`
	Timeout time.Duration `json:"timeout"` // from publishing
	Hold    bool          `json:"hold"`    // after the timeout: hold on (to MaxOverlap) instead of proceeding
}

// Emergency is how an emergency contains.
type Emergency struct {
	RevokeFirst   bool          `json:"revoke_first"`   // do not wait for the replacement
	ReplaceWithin time.Duration `json:"replace_within"` // how long to wait for it otherwise
}

// KeySpec is the strength asked of a value that the broker generates.
type KeySpec struct {
	Length   int      `json:"length,omitempty"`   // characters of the random part
	Alphabet string   `json:"alphabet,omitempty"` // "base62", "hex", …
	Classes  []string `json:"classes,omitempty"`  // "lower", "upper", "digit", "symbol": at least one character of each
	Prefix   string   `json:"prefix,omitempty"`
	Checksum bool     `json:"checksum,omitempty"`
}

// Backoff is the wait after the n-th failure in a row (n from 1): it doubles
// from 1 s to limit.
func Backoff(n int, limit time.Duration) time.Duration {
	d := time.Second
	for ; n > 1 && d < limit; n-- {
		d *= 2
	}
	return min(d, limit)
}
