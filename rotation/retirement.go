package rotation

import "time"

// RetirementState is where a retirement stands.
type RetirementState string

// The states.
const (
	Requested    RetirementState = "requested"    // to be revoked
	Acknowledged RetirementState = "acknowledged" // the issuer said yes
	Rejecting    RetirementState = "rejecting"    // contained: it was rejected at least once
	ProvenDead   RetirementState = "proven_dead"
	Unconfirmed  RetirementState = "unconfirmed" // the budget has passed without proof; probing goes on
	Resurrected  RetirementState = "resurrected" // accepted after it was proven dead; to be revoked again
	Unprovable   RetirementState = "unprovable"  // no probe, or its bytes did not work before revoking either
)

// Cause is why a version is retired.
type Cause string

// The causes.
const (
	CauseRotated   Cause = "rotated"   // a newer version is current and the overlap is over
	CauseEmergency Cause = "emergency" // it is compromised
	CauseRevoked   Cause = "revoked"   // somebody revoked it
	CauseFailed    Cause = "failed"    // it was minted by a rotation that failed
	CauseOrphan    Cause = "orphan"    // its mint's answer was lost
	// CauseRolledBack: the version that it had replaced is current again.
	CauseRolledBack Cause = "rolled_back"
)

const (
	minRoundGap       = time.Second
	quickestRetry     = time.Second
	slowestFirstRound = 30 * time.Second
	unconfirmedEvery  = 5 * time.Minute
	// recheckPatience bounds how long the last re-check may be inconclusive before
	// the sealed copy is given up.
	recheckPatience = 7 * 24 * time.Hour
	// unprovablePatience bounds how long a credential that did not work before it was
	// revoked is watched all the same.
	unprovablePatience = 24 * time.Hour
	// patienceBefore bounds how long an inconclusive probe delays a revocation
	// outside an emergency.
	patienceBefore = time.Hour
	patienceUnused = time.Minute // of a version that nobody was given
	// refusedInEmergency is how long an issuer may refuse to revoke what is compromised
	// before people are told that they have to.
	refusedInEmergency = 15 * time.Second
	// slack is allowed on top of budget and window before a retirement counts as
	// unconfirmed: rounds themselves take time.
	slack = time.Minute
)

// Retirement is the record of turning one version off.
type Retirement struct {
	ID         string  `json:"id,omitzero"`
	SecretID   string  `json:"secret_id,omitzero"`
	RotationID string  `json:"rotation_id,omitzero"` // that waits for it; empty: none
	Version    int     `json:"version,omitzero"`
	Cause      Cause   `json:"cause,omitzero"`
	Reason     string  `json:"reason,omitzero"`
	Actor      string  `json:"actor,omitzero"`
	Confirm    Confirm `json:"confirm,omitzero"`
	HasProbe   bool    `json:"has_probe,omitzero"`

	State           RetirementState `json:"state,omitzero"`
	WaitingFor      string          `json:"waiting_for,omitzero"`
	Intent          *Intent         `json:"intent,omitzero"`
	Failures        int             `json:"failures,omitzero"`
	Error           string          `json:"error,omitzero"`
	NeverMade       bool            `json:"never_made,omitzero"`       // the mint's answer was lost, and the issuer has nothing under its tag
	AlreadyRejected bool            `json:"already_rejected,omitzero"` // the bytes did not work before revoking: never a proof
	Before          Verdict         `json:"before,omitzero"`           // of the try before revoking; empty: there was none

	BeforeFrom time.Time `json:"before_from,omitzero"` // of the first try before revoking

	RequestedAt    time.Time `json:"requested_at,omitzero"`
	DueAt          time.Time `json:"due_at,omitzero"`          // when it was to begin: at once, or at the end of an overlap
	RevokeBegunAt  time.Time `json:"revoke_begun_at,omitzero"` // from then on nobody is given the version
	AcknowledgedAt time.Time `json:"acknowledged_at,omitzero"`
	LastAcceptedAt time.Time `json:"last_accepted_at,omitzero"`
	ContainedAt    time.Time `json:"contained_at,omitzero"` // first rejected round
	ProvenAt       time.Time `json:"proven_at,omitzero"`
	ResurrectedAt  time.Time `json:"resurrected_at,omitzero"`
	PurgedAt       time.Time `json:"purged_at,omitzero"` // the sealed copy is gone, re-checks are over

	Round      int       `json:"round,omitzero"`      // rounds made so far, of any verdict
	Rejections int       `json:"rejections,omitzero"` // consecutive rejected rounds
	FirstAt    time.Time `json:"first_at,omitzero"`
	LastAt     time.Time `json:"last_at,omitzero"`   // first and last of those
	Control    Control   `json:"control,omitzero"`   // weakest control among those
	BeforeBy   string    `json:"before_by,omitzero"` // endpoint and digest of the probe that was used before revoking
	Scope      Scope     `json:"scope,omitzero"`
	Rechecks   int       `json:"rechecks,omitzero"` // made after the proof, or after nothing was found
	Hastened   bool      `json:"hastened,omitzero"` // somebody asked for it to begin before its time
	Asked      bool      `json:"asked,omitzero"`    // somebody asked for a round beside the scheduled re-checks

	// RevokedAgainAt is when the issuer was last asked once more, since the
	// credential went on being accepted.
	RevokedAgainAt time.Time `json:"revoked_again_at,omitzero"`
	// NothingAt is when the issuer was first taken to have nothing (NeverMade).
	NothingAt time.Time `json:"nothing_at,omitzero"`

	// Tries of the credential that may count towards a lockout, and the last of them:
	// an hour after it they are forgiven.
	Tries   int       `json:"tries,omitzero"`
	TriedAt time.Time `json:"tried_at,omitzero"`

	ByHand bool `json:"by_hand,omitempty"` // a person has to turn it off, or says to have done so
	// Refusals of its issuer in a row, when it is asked again, and when the next round is
	// due beside that, once the credential is probed on although nobody has revoked it.
	RevokeFailures int       `json:"revoke_failures,omitzero"`
	AskAgainAt     time.Time `json:"ask_again_at,omitzero"`
	RoundAt        time.Time `json:"round_at,omitzero"`
	// RemoveAt is when the issuer is to delete for good what it has disabled, RemovedAt
	// when it did; zero: revoking does all.
	RemoveAt  time.Time `json:"remove_at,omitzero"`
	RemovedAt time.Time `json:"removed_at,omitzero"`
	// RemoveFailures are those of deleting it, in a row.
	RemoveFailures int `json:"remove_failures,omitzero"`

	Sessions        Sessions  `json:"sessions,omitempty"`
	SessionsEndedAt time.Time `json:"sessions_ended_at,omitzero"`
	LastUsedAt      time.Time `json:"last_used_at,omitzero"` // as its issuer said before it was revoked
	LastUse         string    `json:"last_use,omitempty"`    // the same in words

	NextAt   time.Time `json:"next_at,omitzero"`
	Revision int64     `json:"revision,omitzero"`
}

// Emergency tells whether nothing may delay the revocation.
func (t *Retirement) Emergency() bool { return t.Cause == CauseEmergency }

// Settled tells whether whoever waits for the retirement may go on: the version
// is proven dead, or never existed, or its plan asks for no proof and the issuer
// has acknowledged.
func (t *Retirement) Settled() bool {
	return t.State == ProvenDead || t.NeverMade || (t.Confirm.None && !t.AcknowledgedAt.IsZero() && t.State != Resurrected)
}

// RetirementFacts are what Retirement.Next must know besides the record.
type RetirementFacts struct {
	Frozen bool // everything is frozen
}

// Next says what is due now for the retirement when owner looks at it.
func (t *Retirement) Next(f RetirementFacts, owner string, now time.Time) Action {
	if !t.PurgedAt.IsZero() {
		return Action{}
	}
	if t.Intent.Held(owner, now) {
		return wait(t.Intent.Lease, t.WaitingFor)
	}
	thawed := t.WaitingFor == WaitFreeze && !f.Frozen
	switch {
	case t.removalPending() && !now.Before(t.RemoveAt):
		return Action{Effect: Remove}
	case now.Before(t.NextAt) && !thawed:
		return t.untilRemoval(wait(t.NextAt, t.WaitingFor), now)
	}
	return t.untilRemoval(t.due(f, now), now)
}

// due says what is, once it is time for anything.
func (t *Retirement) due(f RetirementFacts, now time.Time) Action {
	switch t.State {
	case Requested:
		if f.Frozen && !t.Exempt() {
			return wait(now.Add(frozenEvery), WaitFreeze)
		}
		if t.wantsProbeBefore(now) {
			return Action{Effect: ProbeBefore}
		}
		return Action{Effect: Revoke}
	case Resurrected:
		return Action{Effect: Revoke}
	case ProvenDead:
		if t.Asked {
			return Action{Effect: RecheckRound}
		}
		return t.nextLook(t.ProvenAt, RecheckRound, now)
	case Unprovable:
		if t.HasProbe && !t.enough() && now.Sub(t.AcknowledgedAt) < unprovablePatience {
			return Action{Effect: DeathRound}
		}
		return Action{Effect: Purge}
	default: // Acknowledged, Rejecting, Unconfirmed
		switch {
		case t.NeverMade:
			return t.nextLook(t.NothingAt, Revoke, now)
		case t.refused() && !now.Before(t.AskAgainAt):
			return Action{Effect: Revoke}
		case t.refused() && (!t.HasProbe || now.Before(t.RoundAt)):
			return wait(t.nextTurn(), WaitIssuer)
		case t.ByHand && !t.HasProbe && t.AcknowledgedAt.IsZero():
			return wait(now.Add(byHandEvery), WaitByHand)
		case t.Confirm.None && !t.HasProbe:
			return Action{Effect: Purge}
		case t.wantsRevokeAgain(now):
			return Action{Effect: Revoke}
		}
		return Action{Effect: DeathRound}
	}
}

// Exempt tells whether a freeze does not hold the revocation up: it contains, or
// somebody asked for just this, or it has begun.
func (t *Retirement) Exempt() bool {
	return t.Emergency() || t.Cause == CauseRevoked || t.Hastened || !t.RevokeBegunAt.IsZero()
}

// nextLook spreads the looks after an outcome at since, by the plan's re-checks;
// then the sealed copy is purged.
func (t *Retirement) nextLook(since time.Time, look Effect, now time.Time) Action {
	if t.Rechecks >= len(t.Confirm.Recheck) {
		return Action{Effect: Purge}
	}
	due := since.Add(t.Confirm.Recheck[t.Rechecks])
	switch {
	case now.Before(due):
		return wait(due, "")
	case now.Sub(due) > recheckPatience:
		return Action{Effect: Purge}
	}
	return Action{Effect: look}
}

// enough tells whether the series of rejected rounds is as long as a proof takes.
func (t *Retirement) enough() bool {
	return t.Rejections > 0 && t.Rejections >= t.Confirm.Rejections && t.LastAt.Sub(t.FirstAt) >= t.Confirm.Window
}

// wantsRevokeAgain tells whether the issuer has to be asked once more: its budget
// has passed since it was asked, and the credential is accepted all the same.
func (t *Retirement) wantsRevokeAgain(now time.Time) bool {
	asked := latest(t.AcknowledgedAt, t.RevokedAgainAt)
	return t.State == Unconfirmed && !t.refused() && t.LastAcceptedAt.After(asked) && now.Sub(asked) >= t.Confirm.Budget+slack
}

func (t *Retirement) wantsProbeBefore(now time.Time) bool {
	patience := patienceBefore
	if t.Cause == CauseFailed || t.Cause == CauseOrphan { // nobody uses it
		patience = patienceUnused
	}
	return t.HasProbe && !t.Emergency() && t.Before == "" && (t.BeforeFrom.IsZero() || now.Sub(t.BeforeFrom) < patience)
}

// Escalate makes an existing retirement part of an emergency that contains by
// at: what waits for an overlap or a probe does not wait longer than that, what
// has begun goes on now.
func (t *Retirement) Escalate(at, now time.Time) {
	t.Cause, t.Failures = CauseEmergency, 0
	if t.refused() {
		t.AskAgainAt = now
	}
	if t.State != Requested || !at.After(now) {
		t.NextAt, t.WaitingFor = now, ""
		return
	}
	if t.NextAt.After(at) {
		t.NextAt = at
	}
	if t.NextAt.After(now) {
		t.WaitingFor = WaitReplacement
	}
}

// Hasten lets a retirement that waits for a time begin now; it tells whether
// there was anything to hasten.
func (t *Retirement) Hasten(now time.Time) bool {
	if t.State != Requested || !t.NextAt.After(now) || t.WaitingFor == WaitProbe || t.WaitingFor == WaitIssuer {
		return false
	}
	t.NextAt, t.DueAt, t.WaitingFor, t.Hastened = now, now, "", true
	return true
}

// Fate tells what is to become of the version in the vaults that hold it. One that
// may still be alive stays where people can look at it.
func (t *Retirement) Fate() Fate {
	over := !t.PurgedAt.IsZero()
	switch {
	case over && (t.State == ProvenDead || t.NeverMade):
		return FateDestroy
	case over:
		return FateForget
	case t.State == ProvenDead || t.State == Rejecting || t.Settled() || t.State == Unconfirmed && !t.ContainedAt.IsZero() && !t.LastAcceptedAt.After(t.ContainedAt):
		return FateRetire
	}
	return FateNone
}

// Begin records the intent to perform e.
func (t *Retirement) Begin(e Effect, owner string, lease time.Duration, now time.Time) {
	t.Intent = &Intent{Effect: e, Owner: owner, At: now, Lease: now.Add(lease)}
	t.NextAt, t.WaitingFor = now, ""
	if e == Revoke && t.RevokeBegunAt.IsZero() {
		t.RevokeBegunAt = now
	}
}

// Wait records that there is nothing to do until a.Until.
func (t *Retirement) Wait(a Action) { t.NextAt, t.WaitingFor = a.Until, a.WaitingFor }

// ProbedBefore records a round of tries before revoking. One rejection is not
// believed (rule 12), nor one without a control: it takes as many in a row as a
// proof of death.
func (t *Retirement) ProbedBefore(v Verdict, c Control, detail string, now time.Time) {
	t.Intent = nil
	if t.BeforeFrom.IsZero() {
		t.BeforeFrom = now
	}
	switch {
	case v == Accepted:
		t.Before, t.LastAcceptedAt, t.NextAt, t.Failures = v, now, now, 0
		t.resetSeries()
	case v == Rejected && (c == ControlCurrent || c == ControlCanary):
		t.Rejections++
		t.NextAt, t.WaitingFor = now.Add(minRoundGap), WaitProbe
		if t.Rejections >= t.Confirm.Rejections {
			t.Before, t.AlreadyRejected, t.NextAt, t.Failures = v, true, now, 0
			t.resetSeries()
		}
	default:
		t.inconclusive(detail, now)
	}
}

// Revoked records the issuer's acknowledgement.
func (t *Retirement) Revoked(now time.Time) {
	t.Intent, t.Failures, t.Error, t.WaitingFor = nil, 0, "", ""
	t.NextAt = now
	t.resetSeries()
	t.RevokeFailures, t.AskAgainAt, t.RoundAt = 0, time.Time{}, time.Time{}
	if t.State == Unconfirmed && !t.AcknowledgedAt.IsZero() { // the first acknowledgement is what the latency is measured from
		t.RevokedAgainAt = now
		return
	}
	t.AcknowledgedAt, t.State = now, Acknowledged
	if t.NeverMade { // it was made after all, much later
		t.NeverMade, t.Rechecks = false, 0
	}
	if t.AlreadyRejected || (!t.HasProbe && !t.Confirm.None) {
		t.State = Unprovable
	}
}

// FoundNothing records that the issuer has nothing under the version's tag, long
// enough after the mint: there is nothing to revoke or to prove. The tag is looked
// up again when the re-checks would be due, since a worker that slept may mint
// late. A version that was seen to exist is not explained away like that: false.
func (t *Retirement) FoundNothing(now time.Time) bool {
	if !t.AcknowledgedAt.IsZero() || !t.LastAcceptedAt.IsZero() || t.Before == Accepted {
		return false
	}
	t.Intent, t.Failures, t.Error, t.WaitingFor = nil, 0, "", ""
	if t.NeverMade {
		t.Rechecks++
	} else {
		t.State, t.NeverMade, t.NothingAt, t.Rechecks = Acknowledged, true, now, 0
	}
	t.NextAt = now
	return true
}

// Restart begins the series of rounds anew: what it covers has changed.
func (t *Retirement) Restart() { t.resetSeries() }

// MayLive tells whether the version may be alive as far as the retirement knows.
func (t *Retirement) MayLive() bool {
	return t.State != ProvenDead && t.State != Unprovable && !t.NeverMade && t.PurgedAt.IsZero()
}

func (t *Retirement) resetSeries() {
	t.Rejections, t.FirstAt, t.LastAt, t.Control = 0, time.Time{}, time.Time{}, ControlNone
}

// RoundMade records a round of tries before the proof. A rejection without a
// control (ControlNone) contains, but proves nothing.
func (t *Retirement) RoundMade(v Verdict, c Control, detail string, now time.Time) {
	t.Intent = nil
	t.Round++
	switch {
	case v == Accepted:
		t.accepted(now)
	case t.refused(): // nobody has turned it off: a rejection now is a server's mood, and proves nothing
		t.NextAt = now.Add(t.unconfirmedEvery(now))
	case v == Rejected:
		t.contained(now)
		if c == ControlNone {
			t.inconclusive(detail, now)
			if t.State == Unconfirmed && now.Sub(t.ContainedAt) >= recheckPatience { // nothing will ever show that the probe works
				t.State = Unprovable
			}
		} else {
			t.rejected(c, now)
		}
	default:
		t.inconclusive(detail, now)
	}
	t.judgeDeadline(now)
	if t.refused() {
		t.RoundAt = t.NextAt
		t.NextAt = t.nextTurn()
	}
}

func (t *Retirement) inconclusive(detail string, now time.Time) {
	t.Failures++
	t.Error, t.WaitingFor = detail, WaitProbe
	limit := slowestFirstRound
	if t.State == Unconfirmed || t.State == Unprovable {
		limit = unconfirmedEvery
	}
	t.NextAt = now.Add(Backoff(t.Failures, limit))
}

func (t *Retirement) accepted(now time.Time) {
	t.LastAcceptedAt = now
	t.resetSeries()
	t.Failures++
	if t.ByHand && !t.AcknowledgedAt.IsZero() { // whoever said so was wrong, or too early
		t.Error, t.WaitingFor = "somebody said at "+stamp(t.AcknowledgedAt)+" that it is turned off, and it is still accepted", WaitByHand
		t.State, t.AcknowledgedAt = Unconfirmed, time.Time{}
		if t.RevokeFailures > 0 { // its issuer, which had refused, is asked again
			t.AskAgainAt = now
		}
	} else if t.WaitingFor != WaitHandle && t.WaitingFor != WaitByHand && !t.refused() { // of one that nobody was asked to revoke
		t.Error, t.WaitingFor = "the revoked credential is still accepted", WaitProof
	}
	if t.State == Rejecting || t.State == Unprovable { // it works: whatever it looked like before
		t.State, t.AlreadyRejected = Acknowledged, false
	}
	t.NextAt = now.Add(Backoff(t.Failures, slowestFirstRound))
	if t.State == Unconfirmed {
		t.NextAt = now.Add(t.unconfirmedEvery(now))
	}
}

// contained records that it is refused, for the first time or again.
func (t *Retirement) contained(now time.Time) {
	if t.ContainedAt.IsZero() || t.LastAcceptedAt.After(t.ContainedAt) {
		t.ContainedAt = now
	}
	if t.State == Acknowledged {
		t.State = Rejecting
	}
}

func (t *Retirement) rejected(c Control, now time.Time) {
	t.Failures, t.Error, t.WaitingFor = 0, "", WaitProof
	if t.Rejections == 0 {
		t.FirstAt = now
	}
	t.Rejections++
	t.LastAt = now
	if t.Rejections == 1 || weaker(c, t.Control) {
		t.Control = c
	}
	switch {
	case !t.enough():
		t.NextAt = now.Add(t.roundGap(now))
	case t.State == Unprovable || t.AlreadyRejected: // it is refused now as before, which proves nothing
		t.State, t.NextAt = Unprovable, now
	default:
		t.prove(now)
	}
}

// roundGap spreads the rounds still missing over what is left of the window.
func (t *Retirement) roundGap(now time.Time) time.Duration {
	missing := max(t.Confirm.Rejections-t.Rejections, 1)
	left := t.Confirm.Window - now.Sub(t.FirstAt)
	return max(left/time.Duration(missing), minRoundGap)
}

// weaker orders controls: the current version is the strongest, since it is what
// applications use.
func weaker(a, b Control) bool {
	rank := map[Control]int{ControlCurrent: 3, ControlCanary: 2, ControlBefore: 1}
	return rank[a] < rank[b]
}

func (t *Retirement) prove(now time.Time) {
	t.State, t.ProvenAt, t.Rechecks = ProvenDead, now, 0
	t.WaitingFor, t.Error = "", ""
	t.NextAt = now
	if len(t.Confirm.Recheck) > 0 {
		t.NextAt = now.Add(t.Confirm.Recheck[0])
	}
}

// judgeDeadline turns a retirement without proof into an unconfirmed one once
// the issuer's budget, and the window that a proof needs, have passed.
func (t *Retirement) judgeDeadline(now time.Time) {
	if t.State != Acknowledged && t.State != Rejecting {
		return
	}
	deadline := t.AcknowledgedAt.Add(t.Confirm.Budget + slack)
	if t.State == Rejecting {
		deadline = deadline.Add(t.Confirm.Window)
	}
	if now.Before(deadline) {
		return
	}
	t.State = Unconfirmed
}

// Rechecked records a round of tries after the proof; a rejection without a
// control counts for nothing.
func (t *Retirement) Rechecked(v Verdict, c Control, detail string, now time.Time) {
	asked := t.Asked
	t.Intent, t.Asked = nil, false
	t.Round++
	if v == Rejected && c == ControlNone {
		v = Inconclusive
	}
	switch v {
	case Accepted:
		t.State, t.ResurrectedAt, t.LastAcceptedAt, t.NextAt = Resurrected, now, now, now
		t.ProvenAt, t.ContainedAt = time.Time{}, time.Time{}
		t.Error = "the credential is accepted again after it was proven dead"
		t.resetSeries()
	case Rejected:
		if !asked {
			t.Rechecks++
		}
		t.Failures, t.Error, t.WaitingFor = 0, "", ""
		t.NextAt = t.nextRecheck(now)
	default:
		if asked {
			t.Error, t.NextAt = detail, t.nextRecheck(now)
			return
		}
		t.Failures++
		t.Error, t.WaitingFor = detail, WaitProbe
		t.NextAt = now.Add(Backoff(t.Failures, unconfirmedEvery))
	}
}

func (t *Retirement) nextRecheck(now time.Time) time.Time {
	if t.Rechecks >= len(t.Confirm.Recheck) {
		return now
	}
	return latest(t.ProvenAt.Add(t.Confirm.Recheck[t.Rechecks]), now)
}

// Purged records that the sealed copy is gone.
func (t *Retirement) Purged(now time.Time) {
	t.PurgedAt, t.NextAt, t.WaitingFor = now, time.Time{}, ""
}

// Reopen starts a retirement over: what was thought never made was made after all.
func (t *Retirement) Reopen(hasProbe bool, now time.Time) {
	t.State, t.HasProbe, t.AlreadyRejected, t.NeverMade, t.Before = Requested, hasProbe, false, false, ""
	t.AcknowledgedAt, t.ContainedAt, t.ProvenAt, t.PurgedAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	t.NothingAt, t.RevokedAgainAt, t.Rechecks, t.Asked = time.Time{}, time.Time{}, 0, false
	t.Error, t.Failures = "", 0
	t.resetSeries()
	t.Intent, t.NextAt, t.WaitingFor = nil, now, ""
}

// Why says in a few words why there is no proof (yet); empty with a proof.
func (t *Retirement) Why() string {
	switch {
	case t.State == ProvenDead:
		return ""
	case t.NeverMade:
		return "nothing was ever made: the issuer has nothing under its tag"
	case t.AlreadyRejected && t.State != Requested:
		return "its bytes were rejected before it was revoked"
	case !t.HasProbe && t.Error != "":
		return t.Error
	case !t.HasProbe:
		return "there is no probe, or no copy of it to try"
	}
	return t.Error
}
