package rotation

import (
	"slices"
	"time"
)

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
	PurposeByHand  Purpose = "by_hand" // any, since somebody asked for it; it counts for nothing but a lockout
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

// Sighting is what one round saw at one address of the endpoint.
type Sighting struct {
	Address string
	Control Verdict // of the credential that must work there; empty: there is none to try
	By      Control // which credential that is: ControlCurrent or ControlCanary
	Subject Verdict // of the revoked one
	// Unreached: no connection could be made there, for either.
	Unreached bool
}

// Judge gives the verdict of a round and its control. before tells whether the
// revoked credential was accepted before it was revoked, which has to serve where
// there is no other control.
//
//   - Accepted, if any server accepts the revoked credential.
//   - Rejected, if every address that can be reached rejects it, and at each of
//     them the control was accepted in this round (rule 13). Without any
//     credential to try as control the rejection is returned with ControlNone: the
//     credential is refused, but that counts for no proof.
//   - Inconclusive otherwise. An address that nothing can reach from here says
//     nothing and is left out, as long as another one can be reached.
func Judge(seen []Sighting, before bool) (Verdict, Control) {
	if slices.ContainsFunc(seen, func(s Sighting) bool { return s.Subject == Accepted }) {
		return Accepted, ControlNone
	}
	control, reached := ControlNone, 0
	for _, s := range seen {
		if s.Unreached {
			continue
		}
		if s.Subject != Rejected {
			return Inconclusive, ControlNone
		}
		by := ControlNone
		switch s.Control {
		case Accepted:
			by = s.By
		case "":
			if before {
				by = ControlBefore
			}
		default:
			return Inconclusive, ControlNone // whatever refuses the control refuses everything
		}
		if reached == 0 || weaker(by, control) {
			control = by
		}
		reached++
	}
	if reached == 0 {
		return Inconclusive, ControlNone
	}
	return Rejected, control
}

// Scope says what a proof covers, and so what it does not.
type Scope struct {
	Endpoint        string `json:"endpoint,omitempty"`         // that was tried: "GET https://api.example/v1/me"
	Config          string `json:"config,omitempty"`           // digest of the probe's configuration
	Node            string `json:"node,omitempty"`             // from where
	SelfAttested    bool   `json:"self_attested,omitempty"`    // the broker itself decides whether the key is valid
	Spared          string `json:"spared,omitempty"`           // addresses left out in the last round, so as not to lock the account
	Unreached       string `json:"unreached,omitempty"`        // addresses that nothing could reach in the last round
	DerivedSessions string `json:"derived_sessions,omitempty"` // "none", or "not ended": sessions made from it may live on
}
