package rotation

import (
	"fmt"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Freeze says that everything is frozen: no rotation begins, publishes or ends
// its overlap, and nothing is revoked, except in an emergency or because
// somebody asked for just that: a revocation of one version, a rollback. What has begun outside is finished, and
// probing goes on.
type Freeze struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
	// Restored: the store was put back from a snapshot. Then what has begun is not
	// finished either, and nothing is delivered.
	Restored bool `json:"restored,omitempty"`
}

// What operators do to a rotation or retirement. Each of these methods changes
// the record and says in sentences what follows; ErrConflict, with what to do
// instead, where it makes no sense in this state.

// Approve lets a rotation begin that waits for it. Who asked for the rotation
// cannot approve it, nor can a token of the same lineage: ErrDenied.
func (r *Rotation) Approve(by, lineage string, now time.Time) ([]string, error) {
	switch {
	case r.State != Queued || !r.Plan.Approval || r.Emergency():
		return nil, fmt.Errorf("%w: rotation %s waits for no approval, it is %s", backends.ErrConflict, r.ID, r.State)
	case r.ApprovedBy != "":
		return nil, fmt.Errorf("%w: rotation %s was approved by %s at %s", backends.ErrConflict, r.ID, r.ApprovedBy, stamp(r.ApprovedAt))
	case by == r.Actor:
		return nil, fmt.Errorf("%w: %s asked for rotation %s, and somebody else has to approve it", backends.ErrDenied, by, r.ID)
	case kin(lineage, r.Lineage):
		return nil, fmt.Errorf("%w: the token %s and the one that asked for rotation %s, %s, are of one hand, and somebody else has to approve it", backends.ErrDenied, by, r.ID, r.Actor)
	}
	r.ApprovedBy, r.ApprovedAt, r.NextAt, r.WaitingFor = by, now, now, ""
	return []string{"the rotation begins, once nothing else holds it up"}, nil
}

// kin tells whether two lineages, of ids joined by "/", are the same or one begins
// the other: whoever holds one of the tokens could have made, or had made, the other.
func kin(a, b string) bool {
	return a != "" && b != "" && (strings.HasPrefix(a+"/", b+"/") || strings.HasPrefix(b+"/", a+"/"))
}

// Cancel ends a rotation that has not published anything, or one that only waits
// for a proof. What it minted must be retired by the caller, and what an
// emergency contains goes on being contained.
func (r *Rotation) Cancel(by string, now time.Time) ([]string, error) {
	var will []string
	why := "cancelled by " + by
	switch r.State {
	case Queued:
		will = append(will, "the rotation ends; nothing was minted")
	case Minting, Staging, Verifying:
		if r.AwaitsValue() {
			will = append(will, "the rotation ends; "+r.IfMade())
			break
		}
		will = append(will, fmt.Sprintf("the rotation ends; version %d, if its issuer made it, is revoked and its death proven", r.To))
	case Publishing:
		if r.mayHold() {
			return nil, fmt.Errorf("%w: rotation %s is writing version %d to its vault: wait until it is published, then `keybroker rotation rollback %s`", backends.ErrConflict, r.ID, r.To, r.ID)
		}
		will = append(will, fmt.Sprintf("the rotation ends before it publishes; version %d is revoked and its death proven", r.To))
	case Overlap:
		if r.RollBackBy != "" && !r.mayHold() && !r.putBack() {
			r.RollBackRefused("the rollback was withdrawn by "+by, now)
			return []string{fmt.Sprintf("the rollback, which has written nothing, is withdrawn; version %d stays the current one and the overlap goes on", r.To)}, nil
		}
		return nil, fmt.Errorf("%w: rotation %s has published version %d: `keybroker rotation rollback %s` makes version %d current again", backends.ErrConflict, r.ID, r.To, r.ID, r.From)
	case Retiring:
		why += " without waiting for the proof"
		will = append(will, "the rotation ends without waiting for the proof of death; the retirement goes on by itself, and so does its probing")
	default:
		return nil, ended(r)
	}
	if r.Emergency() && r.State != Retiring {
		will = append(will, fmt.Sprintf("nothing replaces the compromised versions %v; they are revoked now", r.Compromised))
	}
	if r.mustPutBack() {
		r.giveUp(Cancelled, why, now)
		return append([]string{fmt.Sprintf("the value of version %d, which the mint has ended, is set again at its issuer first", r.From)}, will...), nil
	}
	if r.PuttingBack() {
		return nil, fmt.Errorf("%w: rotation %s is ending already: the value of version %d is being set again at its issuer", backends.ErrConflict, r.ID, r.From)
	}
	r.enter(Cancelled, now)
	r.Error = why
	return will, nil
}

// Retry lets a rotation that is waiting look again now.
func (r *Rotation) Retry(now time.Time) ([]string, error) {
	switch {
	case r.State.Ended():
		return nil, ended(r)
	case r.State == Overlap && r.RollBackBy == "":
		return nil, fmt.Errorf("%w: rotation %s is in its overlap until %s: `keybroker secret revoke --version %d` ends it", backends.ErrConflict, r.ID, stamp(r.OverlapUntil), r.From)
	case r.State == Queued && r.Plan.Approval && r.ApprovedBy == "" && !r.Emergency():
		return nil, fmt.Errorf("%w: rotation %s waits for an approval: `keybroker rotation approve %s`", backends.ErrConflict, r.ID, r.ID)
	case r.AwaitsValue():
		return nil, fmt.Errorf("%w: rotation %s waits until %s for a person to hand its value in: `keybroker rotation supply %s`", backends.ErrConflict, r.ID, stamp(r.ValueBy), r.ID)
	}
	if i := r.Intent; i != nil && !i.Unheard && now.Before(i.Lease) {
		return nil, fmt.Errorf("%w: rotation %s is being worked on (%s since %s): wait for the answer, at most until %s", backends.ErrConflict, r.ID, i.Effect, stamp(i.At), stamp(i.Lease))
	}
	r.NextAt, r.Failures = now, 0
	return []string{fmt.Sprintf("the rotation, which is %s, goes on now instead of waiting for its next look", r.State)}, nil
}

// RollBack asks for the previous version to be made current again (rule 18:
// until its retirement was requested).
func (r *Rotation) RollBack(by string, now time.Time) ([]string, error) {
	switch {
	case r.State.Ended():
		return nil, ended(r)
	case r.Emergency():
		return nil, fmt.Errorf("%w: rotation %s is an emergency: what it replaces is compromised", backends.ErrConflict, r.ID)
	case r.State == Retiring:
		return nil, fmt.Errorf("%w: the retirement of version %d was requested: it cannot come back; rotate again instead", backends.ErrConflict, r.From)
	case r.State != Overlap:
		return nil, fmt.Errorf("%w: rotation %s is %s and has published nothing: `keybroker rotation cancel %s`", backends.ErrConflict, r.ID, r.State, r.ID)
	case r.RollBackBy != "":
		return nil, fmt.Errorf("%w: rotation %s is being rolled back already", backends.ErrConflict, r.ID)
	}
	r.RollBackBy, r.NextAt, r.Failures, r.Refusals, r.WaitingFor, r.UnheardAt = by, now, 0, 0, "", time.Time{}
	return []string{
		fmt.Sprintf("version %d is tried, and unless it is rejected written to the vault as the current one, in a new generation", r.From),
		"the consumers are told of it",
		fmt.Sprintf("version %d stays valid for those who have it already until %s, then it is revoked and its death proven", r.To, stamp(r.RollBackOverlap(now))),
	}, nil
}

// RollBackOverlap is until when the version that a rollback takes back stays
// valid: as long as an overlap lasts, and as long as consumers have to acknowledge
// the one that came back where the plan asks for that.
func (r *Rotation) RollBackOverlap(now time.Time) time.Time {
	takes := r.Plan.Overlap
	if ack := r.Plan.Acknowledgement; ack.Require != RequireNone && ack.Require != "" {
		takes = max(takes, min(ack.Timeout, r.Plan.MaxOverlap))
	}
	return latest(r.OverlapUntil, now.Add(takes))
}

// RolledBackNow records that From is current again.
func (r *Rotation) RolledBackNow(now time.Time) {
	r.enter(RolledBack, now)
	r.Error = "rolled back by " + r.RollBackBy
}

// TriedBack records that From was rejected before it was made current again.
func (r *Rotation) TriedBack(detail string, now time.Time) {
	r.Refusals++
	r.Intent, r.Error = nil, "the previous version was rejected: "+detail
	r.NextAt, r.WaitingFor = now.Add(minRoundGap), WaitProbe
}

// RollBackRefused gives a rollback up: From does not work any more. The overlap goes on.
func (r *Rotation) RollBackRefused(why string, now time.Time) {
	r.Intent, r.RollBackBy, r.Failures, r.UnheardAt = nil, "", 0, time.Time{}
	r.Error, r.NextAt, r.WaitingFor = why, latest(r.OverlapUntil, now), WaitOverlap
}

func ended(r *Rotation) error {
	return fmt.Errorf("%w: rotation %s has ended: %s", backends.ErrConflict, r.ID, r.State)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// ProbeNow asks for a round of tries now instead of at its time. It changes
// nothing about what a proof takes.
func (t *Retirement) ProbeNow(now time.Time) ([]string, error) {
	switch {
	case !t.PurgedAt.IsZero():
		return nil, fmt.Errorf("%w: the sealed copy of version %d was purged at %s: there is nothing left to try", backends.ErrConflict, t.Version, stamp(t.PurgedAt))
	case !t.HasProbe || t.NeverMade:
		return nil, fmt.Errorf("%w: version %d cannot be tried: %s", backends.ErrConflict, t.Version, t.Why())
	case t.State == Requested:
		how := "`keybroker secret revoke` begins it now"
		if t.RotationID != "" && !t.NextAt.After(latest(t.DueAt, now).Add(time.Hour)) && t.Failures > 0 {
			how = fmt.Sprintf("`keybroker rotation retry %s` tries it now", t.RotationID)
		}
		return nil, fmt.Errorf("%w: version %d is not revoked yet; it is looked at again at %s, and %s", backends.ErrConflict, t.Version, stamp(latest(t.NextAt, t.DueAt)), how)
	case t.WaitingFor == WaitLockout && t.NextAt.After(now):
		return nil, fmt.Errorf("%w: one more rejected try of version %d before %s would lock its account", backends.ErrConflict, t.Version, stamp(t.NextAt))
	}
	t.NextAt, t.RoundAt, t.Failures = now, now, 0
	if t.State == ProvenDead {
		t.Asked = true
		return []string{fmt.Sprintf("version %d, which is proven dead, is tried once more at every address; if it is accepted anywhere it is revoked again and alarm is raised", t.Version)}, nil
	}
	return []string{fmt.Sprintf("version %d is tried now at every address, beside its control", t.Version)}, nil
}

// Retry lets a revocation that failed, or waits for something, be tried now.
func (t *Retirement) Retry(now time.Time) ([]string, error) {
	if t.refused() {
		t.NextAt, t.AskAgainAt, t.RevokeFailures = now, now, 0
		return []string{fmt.Sprintf("its issuer is asked once more to revoke version %d", t.Version)}, nil
	}
	if t.State != Requested || t.WaitingFor == WaitOverlap || t.WaitingFor == WaitReplacement {
		return nil, fmt.Errorf("%w: the retirement of version %d waits for its time, %s", backends.ErrConflict, t.Version, stamp(t.NextAt))
	}
	t.NextAt, t.Failures = now, 0
	return []string{fmt.Sprintf("version %d is revoked now, if nothing holds that up any more", t.Version)}, nil
}
