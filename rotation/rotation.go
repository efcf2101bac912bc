package rotation

import (
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Trigger is why a rotation runs.
type Trigger string

// The triggers.
const (
	TriggerSchedule  Trigger = "schedule"
	TriggerEvent     Trigger = "event"
	TriggerManual    Trigger = "manual"
	TriggerEmergency Trigger = "emergency"
)

// State is where a rotation stands.
type State string

// The states; Done, Failed, RolledBack, Cancelled and Superseded are ends.
const (
	Queued     State = "queued"
	Minting    State = "minting"
	Staging    State = "staging"
	Verifying  State = "verifying"
	Publishing State = "publishing"
	Overlap    State = "overlap"
	Retiring   State = "retiring"
	Done       State = "done"
	Failed     State = "failed"
	RolledBack State = "rolled_back"
	Cancelled  State = "cancelled"
	Superseded State = "superseded"
)

// Ended tells whether s is an end.
func (s State) Ended() bool {
	switch s {
	case Done, Failed, RolledBack, Cancelled, Superseded:
		return true
	}
	return false
}

// Occupies tells whether a rotation in s keeps its secret from starting another.
func (s State) Occupies() bool { return !s.Ended() && s != Retiring }

// What a rotation or retirement can wait for.
const (
	WaitWindow         = "window"         // the next maintenance window
	WaitPair           = "pair"           // a secret of the same pair is rotating
	WaitConcurrency    = "concurrency"    // as many of its policy are rotating as may at once
	WaitValue          = "value"          // a person, who makes the credential
	WaitApproval       = "approval"       // somebody else's yes
	WaitPause          = "pause"          // the secret is paused
	WaitFreeze         = "freeze"         // everything is frozen
	WaitRepair         = "repair"         // vault and store are out of step
	WaitLockout        = "lockout"        // more rejected tries now would lock the account
	WaitBackend        = "backend"        // its vault cannot be used
	WaitIssuer         = "issuer"         // its issuer does not answer, or holds all it can
	WaitProbe          = "probe"          // its probe is inconclusive
	WaitOverlap        = "overlap"        // the deadline of the overlap
	WaitAcknowledgment = "acknowledgment" // consumers that have not acknowledged
	WaitProof          = "proof"          // the retirement of what it replaced
	WaitSeal           = "seal"           // the key that seals values cannot be used
	WaitHandle         = "handle"         // somebody has to say what its issuer calls it, or turn it off there
	WaitByHand         = "by_hand"        // a person, who turns the credential off
	WaitSoak           = "soak"           // its issuer is to delete for good what is disabled
	WaitReplacement    = "replacement"    // an emergency's new version, at most replace_within
)

// Effect is one thing to do outside the database.
type Effect string

// The effects of rotations and retirements.
const (
	NoEffect     Effect = ""
	Mint         Effect = "mint"          // ask the issuer for a credential
	RecoverMint  Effect = "recover_mint"  // find out what became of a mint
	Stage        Effect = "stage"         // write the pending value where the vault can hold it
	VerifyTry    Effect = "verify"        // try the new credential once
	Publish      Effect = "publish"       // the guarded write that makes it current
	BeginRetire  Effect = "begin_retire"  // start the retirements (a commit, nothing outside)
	Finish       Effect = "finish"        // everything is proven (a commit, nothing outside)
	ProbeBefore  Effect = "probe_before"  // try the old credential before revoking it
	Revoke       Effect = "revoke"        // ask the issuer to turn it off
	DeathRound   Effect = "death_round"   // a round of tries that should be rejected
	RecheckRound Effect = "recheck_round" // the same, after the proof
	PutBack      Effect = "put_back"      // set the old value again, which the mint has ended
	Remove       Effect = "remove"        // delete for good what is disabled
	Restore      Effect = "restore"       // the guarded write that makes the previous version current again
	Purge        Effect = "purge"         // forget the sealed copy (a commit, nothing outside)
)

// Intent is an effect that was begun. It is committed before the effect, so
// that whoever finds it later knows that the effect may have happened.
type Intent struct {
	Effect Effect    `json:"effect"`
	Owner  string    `json:"owner"` // node and start of the process that does it
	At     time.Time `json:"at"`
	Lease  time.Time `json:"lease"` // until then nobody else touches it
	// Unheard: the owner itself gave up waiting for the answer.
	Unheard bool `json:"unheard,omitempty"`
}

// Held tells whether another living owner may still be at it.
func (i *Intent) Held(owner string, now time.Time) bool {
	return i != nil && !i.Unheard && i.Owner != owner && now.Before(i.Lease)
}

// A queued rotation looks whether it can begin more and more rarely: a vault that
// is down for hours is not asked every few seconds by each secret in it.
const (
	blockedFirst = 5 * time.Second
	blockedLast  = time.Minute
)

func (r *Rotation) blocked(why string, now time.Time) Action {
	every := min(max(now.Sub(r.StepSince)/4, blockedFirst), blockedLast)
	return wait(now.Add(every), why)
}

// How often what is paused or frozen looks again without having been woken.
const (
	pausedEvery = time.Minute
	frozenEvery = 10 * time.Minute
	gateEvery   = 15 * time.Minute // whom another rotation holds up is woken by its end
)

// retiringEvery is how often a rotation that waits for a proof looks again
// without having been woken by it.
const retiringEvery = 10 * time.Minute

// MaxMints is how many credentials a rotation asks for before it fails.
const MaxMints = 3

// Patience is how long a rotation outside an emergency tries an issuer or vault
// that does not answer, before it fails; nothing was published by then.
const Patience = 24 * time.Hour

// Rotation is the record of one rotation.
type Rotation struct {
	ID       string  `json:"id,omitzero"`
	SecretID string  `json:"secret_id,omitzero"`
	Trigger  Trigger `json:"trigger,omitzero"`
	Reason   string  `json:"reason,omitzero"`
	Actor    string  `json:"actor,omitzero"` // who asked for it
	// Lineage is whose token Actor's is; empty: nobody's.
	Lineage string `json:"lineage,omitzero"`
	Plan    Plan   `json:"plan,omitzero"`
	// Under is the definition that the rotation began with, without its Plan: it is
	// finished under it, whatever the configuration says by then.
	Under *Definition `json:"under,omitzero"`

	State      State   `json:"state,omitzero"`
	WaitingFor string  `json:"waiting_for,omitzero"` // why NextAt is not now
	Attempt    int     `json:"attempt,omitzero"`     // mints begun
	From       int     `json:"from,omitzero"`        // version that it replaces, 0 = none
	To         int     `json:"to,omitzero"`          // version that it brings, 0 = none yet
	Intent     *Intent `json:"intent,omitzero"`
	// UnheardAt is when a write of the vault was begun whose answer nobody heard: it
	// may still arrive for a while.
	UnheardAt time.Time `json:"unheard_at,omitzero"`
	Failures  int       `json:"failures,omitzero"`   // of the present step, in a row
	Successes int       `json:"successes,omitzero"`  // accepted tries in a row
	Refusals  int       `json:"refusals,omitzero"`   // rejected tries since the last one that was accepted
	StepSince time.Time `json:"step_since,omitzero"` // when the present state was entered
	Error     string    `json:"error,omitzero"`      // of the last failure

	// IgnoreWindow: it may begin outside of its secret's window.
	IgnoreWindow bool `json:"ignore_window,omitempty"`
	// Overwrite: an emergency's replacement may be written over a stranger's value.
	Overwrite bool `json:"overwrite,omitempty"`
	// Compromised are the versions pinned by an emergency when it was declared.
	Compromised []int `json:"compromised,omitzero"`

	ApprovedBy string    `json:"approved_by,omitzero"`
	ApprovedAt time.Time `json:"approved_at,omitzero"`
	// Adopts is the value in a vault that the rotation makes current instead of one
	// from the issuer; nil: it mints.
	Adopts *Adoption `json:"adopts,omitempty"`
	// InPlace is what is kept of a mint that ends the old credential; nil: it does not.
	InPlace *InPlace `json:"in_place,omitempty"`
	// ValueBy is until when a person is to hand the new credential in; zero: nobody is.
	ValueBy time.Time `json:"value_by,omitzero"`
	// RollBackBy asked for the previous version to be made current again; empty: nobody.
	RollBackBy string `json:"roll_back_by,omitzero"`

	CreatedAt    time.Time `json:"created_at,omitzero"`
	PublishedAt  time.Time `json:"published_at,omitzero"`
	OverlapUntil time.Time `json:"overlap_until,omitzero"`
	EndedAt      time.Time `json:"ended_at,omitzero"`
	NextAt       time.Time `json:"next_at,omitzero"` // when to look again; zero: when woken
	Revision     int64     `json:"revision,omitzero"`
}

// Adoption names a value that somebody else wrote to a vault.
type Adoption struct {
	Backend string             `json:"backend"`
	ID      backends.VersionID `json:"id"` // what the vault calls it
	// Prints are the keyed fingerprints of the value: another one is not adopted.
	Prints map[string]string `json:"prints,omitempty"`
}

// Emergency tells whether the rotation replaces compromised versions.
func (r *Rotation) Emergency() bool { return r.Trigger == TriggerEmergency }

// Retires lists the versions whose proof of death the rotation waits for.
func (r *Rotation) Retires() []int {
	if r.Emergency() {
		return r.Compromised
	}
	if r.From > 0 {
		return []int{r.From}
	}
	return nil
}

// Facts are what Next must know besides the record.
type Facts struct {
	Paused        bool         // the secret is paused
	Frozen        bool         // everything is frozen
	BackendDown   bool         // its vault cannot be used now
	OutOfStep     bool         // its vault holds what the broker does not know
	ClosedUntil   time.Time    // its window opens then; zero: it is open
	Gate          string       // what it has to wait for among others: WaitPair, WaitConcurrency; empty: nothing
	IssuerFull    bool         // the issuer holds as many live credentials as it can, or keeps failing
	IssuerAlone   time.Time    // until then the issuer, which keeps failing, is left alone; zero: it is not
	MissingAcks   int          // consumers that have not acknowledged what the plan requires
	MirrorsBehind int          // mirrors that do not hold the new version yet
	Retirements   []Retirement // of the versions in Retires
	NoProbe       bool         // the secret has none (proof = "none")
}

// Action is what is due.
type Action struct {
	Effect     Effect    // NoEffect: wait
	Until      time.Time // with NoEffect: look again then; zero: when woken
	WaitingFor string    // with NoEffect
}

func wait(until time.Time, why string) Action { return Action{Until: until, WaitingFor: why} }

// Next says what is due now for the rotation when owner looks at it.
func (r *Rotation) Next(f Facts, owner string, now time.Time) Action {
	if r.State.Ended() {
		return Action{}
	}
	if r.Intent.Held(owner, now) {
		return wait(r.Intent.Lease, r.WaitingFor)
	}
	thawed := r.WaitingFor == WaitFreeze && !f.Frozen
	if now.Before(r.NextAt) && r.State != Overlap && r.State != Retiring && !thawed {
		return wait(r.NextAt, r.WaitingFor)
	}
	if r.PuttingBack() {
		return Action{Effect: PutBack}
	}
	switch r.State {
	case Queued:
		return r.nextInQueue(f, now)
	case Minting:
		switch {
		case r.Intent != nil:
			return Action{Effect: RecoverMint}
		case r.AwaitsValue() && now.Before(r.ValueBy):
			return wait(r.ValueBy, WaitValue)
		case f.Frozen && !r.Emergency() && !r.EndsOld(): // what was asked for is recovered; nothing new is
			return wait(now.Add(frozenEvery), WaitFreeze)
		}
		return Action{Effect: Mint}
	case Staging:
		return Action{Effect: Stage}
	case Verifying:
		if !f.NoProbe {
			return Action{Effect: VerifyTry}
		}
		return r.nextInPublishing(f, now)
	case Publishing:
		return r.nextInPublishing(f, now)
	case Overlap:
		return r.nextInOverlap(f, now)
	default: // Retiring
		return r.nextInRetiring(f, now)
	}
}

func (r *Rotation) nextInPublishing(f Facts, now time.Time) Action {
	if f.Frozen && !r.Emergency() && !r.mayHold() && !r.EndsOld() {
		return wait(now.Add(frozenEvery), WaitFreeze)
	}
	return Action{Effect: Publish}
}

// mayHold tells whether the vault may hold the version that is to be published.
func (r *Rotation) mayHold() bool { return r.Intent != nil || !r.UnheardAt.IsZero() }

func (r *Rotation) nextInQueue(f Facts, now time.Time) Action {
	switch {
	case r.Emergency():
	case f.Frozen:
		return wait(now.Add(frozenEvery), WaitFreeze)
	case f.Paused:
		return wait(now.Add(pausedEvery), WaitPause)
	case r.Plan.Approval && r.ApprovedBy == "":
		return wait(time.Time{}, WaitApproval)
	case !f.ClosedUntil.IsZero():
		return wait(f.ClosedUntil, WaitWindow)
	case f.Gate != "":
		return wait(now.Add(gateEvery), f.Gate)
	case f.OutOfStep && r.Adopts == nil: // an adoption is what brings them in step
		return r.blocked(WaitRepair, now)
	}
	switch {
	case f.BackendDown:
		return r.blocked(WaitBackend, now)
	case f.IssuerFull && r.Adopts == nil && now.Before(f.IssuerAlone):
		return wait(f.IssuerAlone, WaitIssuer)
	case f.IssuerFull && r.Adopts == nil:
		return r.blocked(WaitIssuer, now)
	}
	return Action{Effect: Mint}
}

func (r *Rotation) nextInOverlap(f Facts, now time.Time) Action {
	if r.RollBackBy != "" {
		if now.Before(r.NextAt) {
			return wait(r.NextAt, r.WaitingFor)
		}
		return Action{Effect: Restore}
	}
	if f.Frozen {
		return wait(latest(r.OverlapUntil, now.Add(frozenEvery)), WaitFreeze)
	}
	if now.Before(r.OverlapUntil) {
		return wait(r.OverlapUntil, WaitOverlap)
	}
	limit := r.PublishedAt.Add(r.Plan.MaxOverlap)
	if r.Plan.WaitForMirrors && f.MirrorsBehind > 0 && now.Before(limit) {
		return wait(limit, WaitMirror)
	}
	ack := r.Plan.Acknowledgement
	if ack.Require == RequireNone || ack.Require == "" || f.MissingAcks == 0 {
		return Action{Effect: BeginRetire}
	}
	hold := limit
	if byTimeout := r.PublishedAt.Add(ack.Timeout); !ack.Hold && byTimeout.Before(limit) {
		hold = byTimeout
	}
	if now.Before(hold) {
		return wait(hold, WaitAcknowledgment)
	}
	return Action{Effect: BeginRetire}
}

func (r *Rotation) nextInRetiring(f Facts, now time.Time) Action {
	settled, over := map[int]bool{}, map[int]bool{}
	for _, t := range f.Retirements {
		settled[t.Version] = t.Settled()
		over[t.Version] = t.Settled() || !t.PurgedAt.IsZero()
	}
	until := time.Time{} // nothing is going to change by itself
	done := true
	for _, v := range r.Retires() {
		done = done && settled[v]
		if !over[v] {
			until = now.Add(retiringEvery)
		}
	}
	if done {
		return Action{Effect: Finish}
	}
	if r.WaitingFor == WaitProof && now.Before(r.NextAt) && r.NextAt.Before(until) {
		until = r.NextAt
	}
	return wait(until, WaitProof)
}

// stateOf is the state that an effect belongs to.
func stateOf(e Effect) State {
	switch e {
	case Mint, RecoverMint:
		return Minting
	case Stage:
		return Staging
	case VerifyTry:
		return Verifying
	case Restore:
		return Overlap
	default:
		return Publishing
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Begin records the intent to perform e; for a Mint it opens the next attempt,
// whose version is to (allocated by the caller).
func (r *Rotation) Begin(e Effect, to int, owner string, lease time.Duration, now time.Time) {
	if s := stateOf(e); s != r.State && e != PutBack {
		r.enter(s, now)
	}
	if e == Mint && to != r.To { // else the attempt that never reached the issuer is made again
		r.Attempt++
		r.To = to
	}
	r.Intent = &Intent{Effect: e, Owner: owner, At: now, Lease: now.Add(lease)}
	r.WaitingFor = ""
	r.NextAt = now
}

func (r *Rotation) enter(s State, now time.Time) {
	r.State, r.StepSince, r.NextAt = s, now, now
	r.Intent, r.Failures, r.Error, r.WaitingFor, r.ValueBy = nil, 0, "", "", time.Time{}
	if s.Ended() {
		r.EndedAt, r.NextAt = now, time.Time{}
	}
}

// Wait records that there is nothing to do until a.Until.
func (r *Rotation) Wait(a Action) { r.NextAt, r.WaitingFor = a.Until, a.WaitingFor }

// Minted records that the issuer made version To.
func (r *Rotation) Minted(now time.Time) { r.enter(Staging, now) }

// NotMinted records that the request of the mint certainly did not reach the
// issuer: the same attempt is made again.
func (r *Rotation) NotMinted(why string, now time.Time) {
	r.Unheard(WaitIssuer, why, now)
	r.Intent = nil
}

// MintLost records that the mint left nothing to use: it is not there, or what
// was found cannot be read again and is being retired. Another one follows, as
// long as MaxMints allows; in an emergency without limit, unless the request
// itself is invalid.
func (r *Rotation) MintLost(why string, invalid bool, now time.Time) {
	if r.Attempt >= MaxMints && (invalid || !r.Emergency()) {
		r.Fail(why, now)
		return
	}
	r.Intent, r.Error = nil, why
	r.Failures++
	r.NextAt = now.Add(Backoff(r.Failures, time.Minute))
	r.WaitingFor = WaitIssuer
}

// Staged records that the pending value is safe.
func (r *Rotation) Staged(now time.Time) {
	r.enter(Verifying, now)
	r.Successes, r.Refusals = 0, 0
	if r.InPlace != nil { // it is the same account
		r.Refusals = r.InPlace.Rejections
	}
}

// Verified records one try of the new credential.
func (r *Rotation) Verified(v Verdict, detail string, now time.Time) {
	r.Intent = nil
	if v == Accepted {
		r.Refusals = 0
		if r.Successes++; r.Successes >= r.Plan.Verify.Successes {
			r.enter(Publishing, now)
			return
		}
	} else {
		r.Successes = 0
		if v == Rejected {
			r.Refusals++
		}
		r.Error = fmt.Sprintf("the new credential was %s: %s", v, detail)
		inDoubt := r.Emergency() && v == Inconclusive // nothing says that it is bad, and there is no other
		if now.Sub(r.StepSince) >= r.Plan.Verify.Timeout && !inDoubt {
			r.Fail(r.Error, now)
			return
		}
	}
	r.NextAt, r.WaitingFor = now.Add(r.Plan.Verify.Interval), WaitProbe
}

// Spread puts the next try of a rejected credential off where its account is locked
// after limit rejections (0: never), so that they last for the whole of the timeout:
// a fresh credential may take time to become valid.
func (r *Rotation) Spread(limit int, now time.Time) {
	if limit > 1 {
		r.NextAt = latest(r.NextAt, now.Add(r.Plan.Verify.Timeout/time.Duration(limit-1)))
	}
}

// Published records that To is current in the vault; dead tells whether From is
// being revoked already, which leaves nothing to overlap with.
func (r *Rotation) Published(dead bool, now time.Time) {
	r.PublishedAt = now
	if r.Emergency() {
		r.enter(Retiring, now)
		return
	}
	if r.From == 0 {
		r.enter(Done, now)
		return
	}
	r.enter(Overlap, now)
	r.OverlapUntil = now.Add(r.Plan.Overlap)
	if dead || r.InPlace != nil && r.InPlace.Begun {
		r.OverlapUntil = now
	}
	r.NextAt, r.WaitingFor = r.OverlapUntil, WaitOverlap
}

// BoundOverlap lets the overlap end by a time: the version that it is for ends then by itself.
func (r *Rotation) BoundOverlap(by, now time.Time) {
	if r.State != Overlap || by.IsZero() || !by.Before(r.PublishedAt.Add(r.Plan.MaxOverlap)) {
		return
	}
	r.Plan.MaxOverlap = max(0, by.Sub(r.PublishedAt)) // what may hold the end goes no further
	if by.Before(r.OverlapUntil) {
		r.OverlapUntil = latest(by, now)
		r.NextAt = r.OverlapUntil
	}
}

// CutOverlap ends the overlap now: the version that it was for is being revoked.
func (r *Rotation) CutOverlap(now time.Time) {
	r.OverlapUntil, r.NextAt = now, now
	r.Plan.Acknowledgement.Require = RequireNone
	r.Plan.WaitForMirrors = false
}

// RetireBegun records that the retirement of From has been started.
func (r *Rotation) RetireBegun(now time.Time) {
	r.enter(Retiring, now)
	r.NextAt, r.WaitingFor = now, WaitProof
}

// Finished records that everything the rotation retires is settled.
func (r *Rotation) Finished(now time.Time) { r.enter(Done, now) }

// Unheard records that the effect begun may or may not have happened: the
// issuer or vault did not answer. The intent stays, so that what comes next is
// recovery. Outside an emergency the rotation fails once Patience is over, but
// never while publishing: the vault may hold the new version by then.
func (r *Rotation) Unheard(waitingFor, why string, now time.Time) {
	r.Failures++
	r.Error, r.WaitingFor = why, waitingFor
	if r.Intent != nil {
		r.Intent.Unheard = true
	}
	if !r.Emergency() && r.PublishedAt.IsZero() && r.State != Publishing && !r.PuttingBack() && now.Sub(r.StepSince) >= Patience {
		r.Fail(why, now)
		return
	}
	limit := 5 * time.Minute
	if r.Emergency() {
		limit = 15 * time.Second
	}
	r.NextAt = now.Add(Backoff(r.Failures, limit))
}

// Fail ends the rotation: nothing was published, and To, if the issuer may have
// made it, must be retired by the caller. Where the mint has ended the old
// credential, that is set again first.
func (r *Rotation) Fail(why string, now time.Time) {
	if r.mustPutBack() {
		r.giveUp(Failed, why, now)
		return
	}
	r.enter(Failed, now)
	r.Error = why
}

// Supersede ends the rotation because an emergency took over.
func (r *Rotation) Supersede(now time.Time) {
	why := "an emergency took over"
	if r.AwaitsValue() {
		why += "; " + r.IfMade()
	}
	r.enter(Superseded, now)
	r.Error = why
}
