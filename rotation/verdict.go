package rotation

import "time"

// Verdict is what one try of a credential showed. See package probe.
type Verdict string

// The verdicts. Whatever a probe does not declare is inconclusive.
const (
	Accepted     Verdict = "accepted"
	Rejected     Verdict = "rejected"
	Inconclusive Verdict = "inconclusive"
)

// Purpose says why a credential was tried.
type Purpose string

const (
	PurposeVerify  Purpose = "verify"  // a new credential before it is published
	PurposeBefore  Purpose = "before"  // the old one before it is revoked
	PurposeControl Purpose = "control" // one that must work, in the same round
	PurposeDeath   Purpose = "death"   // the revoked one, until it is proven dead
	PurposeRecheck Purpose = "recheck" // the revoked one, after it was proven dead
)

// Try is the record of one try: a line of the proof.
type Try struct {
	RotationID   string        `json:"rotation_id,omitempty"`
	RetirementID string        `json:"retirement_id,omitempty"`
	Round        int           `json:"round"`
	Purpose      Purpose       `json:"purpose"`
	Version      int           `json:"version"`
	At           time.Time     `json:"at"`
	Probe        string        `json:"probe"`
	Node         string        `json:"node"`
	Address      string        `json:"address,omitempty"`
	Verdict      Verdict       `json:"verdict"`
	Detail       string        `json:"detail,omitempty"`
	Latency      time.Duration `json:"latency_ns"`
}

// Control names what showed that the probe itself works when it rejects.
type Control string

const (
	ControlNone    Control = ""                // nothing: a rejection proves nothing
	ControlCurrent Control = "current_version" // the current version was accepted in the same round
	ControlCanary  Control = "canary"          // the probe's canary was accepted in the same round
	ControlBefore  Control = "accepted_before" // the version itself was accepted before it was revoked
)

// Judge gives the verdict of a round from the tries of the revoked credential
// (one for each address) and from its control: accepted if any server accepts;
// rejected only if every address rejects and there is a control; inconclusive
// otherwise.
func Judge(subject []Verdict, control Control) Verdict {
	rejected := 0
	for _, v := range subject {
		switch v {
		case Accepted:
			return Accepted
		case Rejected:
			rejected++
		}
	}
	if rejected > 0 && rejected == len(subject) && control != ControlNone {
		return Rejected
	}
	return Inconclusive
}

// Scope says what a proof covers, and so what it does not.
type Scope struct {
	Endpoint        string `json:"endpoint,omitempty"`         // that was tried: "GET https://api.example/v1/me"
	Node            string `json:"node,omitempty"`             // from where
	SelfAttested    bool   `json:"self_attested,omitempty"`    // the broker itself decides whether the key is valid
	DerivedSessions string `json:"derived_sessions,omitempty"` // "none", or "not ended": sessions made from it may live on
}
