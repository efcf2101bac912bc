package rotation

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// IncidentState is where an incident stands.
type IncidentState string

// The states. Whether an open one is contained or proven follows from its versions.
const (
	IncidentProposed IncidentState = "proposed" // a second person must approve it before anything is done
	IncidentOpen     IncidentState = "open"
	IncidentClosed   IncidentState = "closed"
	IncidentRejected IncidentState = "rejected" // somebody refused it, or nobody approved it in time
)

// IncidentCause is how an incident came about.
type IncidentCause string

// The causes.
const (
	IncidentDeclared     IncidentCause = "declared"     // by a person
	IncidentEvent        IncidentCause = "event"        // by a trigger
	IncidentResurrection IncidentCause = "resurrection" // what was proven dead was accepted again
	IncidentOffline      IncidentCause = "offline"      // it was contained while the broker was down
)

// Incident is the record of an emergency: what was asked for, by whom, and when. What
// becomes of it stands in the rotations and retirements of its targets.
type Incident struct {
	ID     string        `json:"id"`
	Tenant string        `json:"tenant,omitempty"` // whose all its secrets are; empty: of several
	State  IncidentState `json:"state"`
	Cause  IncidentCause `json:"cause"`
	// Trigger is the block of the configuration that declared it; empty: none did.
	Trigger  string `json:"trigger,omitempty"`
	Reason   string `json:"reason"`
	Actor    string `json:"actor"`
	Lineage  string `json:"lineage,omitempty"` // whose token Actor's is; empty: nobody's
	Role     string `json:"role,omitempty"`
	Identity string `json:"identity,omitempty"`
	// Selector is what was asked for, as the API has it, without the value that leaked.
	Selector json.RawMessage `json:"selector,omitempty"`
	Contain  string          `json:"contain,omitempty"` // "revoke_first", "replace_first"; empty: as the secrets' policies say
	// Quarantine are those to be kept out once it is approved, as the API has them.
	Quarantine json.RawMessage `json:"quarantine,omitempty"`
	// Overwrite: replacements may be written over strangers' values in the vaults.
	Overwrite  bool   `json:"overwrite,omitempty"`
	Overridden bool   `json:"overridden,omitempty"` // it did not wait for a second person
	ApprovedBy string `json:"approved_by,omitempty"`
	ClosedBy   string `json:"closed_by,omitempty"`
	Closing    string `json:"closing,omitempty"` // what they said
	Hold       bool   `json:"hold,omitempty"`    // nothing is pruned that may be evidence

	LeakedAt    time.Time `json:"leaked_at,omitzero"`
	DetectedAt  time.Time `json:"detected_at,omitzero"`
	DeclaredAt  time.Time `json:"declared_at,omitzero"`
	ApprovedAt  time.Time `json:"approved_at,omitzero"`
	ApproveBy   time.Time `json:"approve_by,omitzero"` // while proposed: it is rejected then
	ContainedAt time.Time `json:"contained_at,omitzero"`
	ProvenAt    time.Time `json:"proven_at,omitzero"`
	ClosedAt    time.Time `json:"closed_at,omitzero"`

	NextAt   time.Time `json:"next_at,omitzero"` // when to look again; zero: nothing is going to change
	Revision int64     `json:"revision,omitzero"`
}

// Over tells whether nothing is done for it any more.
func (i *Incident) Over() bool { return i.State == IncidentClosed || i.State == IncidentRejected }

// TargetState is how far one secret of an incident is.
type TargetState string

// The states.
const (
	TargetPending     TargetState = "pending"
	TargetDeclared    TargetState = "declared"
	TargetAlreadyDead TargetState = "already_dead" // proven before the incident; tried again all the same
	// TargetUnprovable: it was revoked before the incident, and nobody can tell whether it works.
	TargetUnprovable   TargetState = "unprovable"
	TargetNothingAlive TargetState = "nothing_alive" // no version of it may work
	TargetFailed       TargetState = "failed"        // the emergency could not be declared; it is tried again
)

// Target is one secret that an incident is about.
type Target struct {
	IncidentID string
	SecretID   string
	Ref        backends.Ref // read from the store, never written
	// Versions are pinned as compromised; empty: every one that may be alive.
	Versions   []int
	State      TargetState
	RotationID string // the emergency; empty: there is none
	Error      string
}

// Compromised is one version of a target, with the retirement that turns it off.
type Compromised struct {
	SecretID   string
	Version    int
	Retirement Retirement
}

// Tally counts how far the versions of an incident are. Those that were proven dead before
// it began are AlreadyDead and nothing else: that is no doing of the incident.
type Tally struct {
	Secrets, Pending, Failed                              int // targets
	Versions, Acknowledged, Contained, Proven, Unprovable int
	AlreadyDead                                           int
	FirstContainedAt, LastContainedAt, LastProvenAt       time.Time
}

// Count adds one version of an incident that began at a time.
func (n *Tally) Count(t Retirement, began time.Time) {
	if t.ProvenBefore(began) {
		n.AlreadyDead++
		return
	}
	n.Versions++
	dead := t.Dead()
	if dead || !t.AcknowledgedAt.IsZero() {
		n.Acknowledged++
	}
	if dead {
		n.Contained++
		if at := t.DeadSince(); !at.IsZero() {
			if n.FirstContainedAt.IsZero() || at.Before(n.FirstContainedAt) {
				n.FirstContainedAt = at
			}
			n.LastContainedAt = latest(n.LastContainedAt, at)
		}
	}
	switch {
	case t.State == ProvenDead || t.NeverMade:
		n.Proven++
		n.LastProvenAt = latest(n.LastProvenAt, latest(t.ProvenAt, t.NothingAt))
	case t.State == Unprovable || t.Unasked():
		n.Unprovable++
	}
}

// Unasked tells whether nobody asked for a proof, and none will come: all that is known
// of the version is that its issuer said yes.
func (t *Retirement) Unasked() bool {
	return t.Confirm.None && !t.AcknowledgedAt.IsZero() && !t.Dead() && t.State != Resurrected
}

// AllContained tells whether everything of the incident was rejected, and nothing accepted since.
func (n *Tally) AllContained() bool {
	return n.Pending == 0 && n.Failed == 0 && n.Contained == n.Versions
}

// AllProven tells whether everything of it is proven dead.
func (n *Tally) AllProven() bool {
	return n.Pending == 0 && n.Failed == 0 && n.Proven == n.Versions
}

// Dead tells whether the version was rejected, or never existed, and was not accepted since.
func (t *Retirement) Dead() bool {
	switch {
	case t.State == Resurrected:
		return false
	case t.State == ProvenDead || t.NeverMade || t.State == Rejecting:
		return true
	}
	return !t.ContainedAt.IsZero() && !t.LastAcceptedAt.After(t.ContainedAt)
}

// ProvenBefore tells whether the version was proven dead, or found never to have been made,
// before a time, and was not accepted since.
func (t *Retirement) ProvenBefore(at time.Time) bool {
	switch {
	case t.NeverMade:
		return t.NothingAt.Before(at)
	case t.State == ProvenDead:
		return t.ProvenAt.Before(at)
	}
	return false
}

// DeadSince is when it was first rejected, or found never to have been made.
func (t *Retirement) DeadSince() time.Time {
	if t.NeverMade {
		return t.NothingAt
	}
	return t.ContainedAt
}

// Looked records how far the incident is, and when to look again.
func (i *Incident) Looked(n Tally, now time.Time) {
	i.ContainedAt, i.ProvenAt = time.Time{}, time.Time{}
	if n.AllContained() {
		i.ContainedAt = latest(n.LastContainedAt, i.Began())
	}
	if n.AllProven() {
		i.ProvenAt = latest(n.LastProvenAt, i.Began())
	}
	switch age := now.Sub(i.Began()); {
	case i.Over():
		i.NextAt = time.Time{}
	case n.AllProven():
		i.NextAt = now.Add(lookAtProven)
	case age < 5*time.Minute:
		i.NextAt = now.Add(2 * time.Second)
	case age < time.Hour:
		i.NextAt = now.Add(10 * time.Second)
	default:
		i.NextAt = now.Add(time.Minute)
	}
}

// lookAtProven is how often an open incident whose versions are all proven dead is looked
// at: one of them may come to life again.
const lookAtProven = 10 * time.Minute

// Approve lets an incident begin that waits for a second person: neither whoever declared
// it, nor a token of the same hand (ErrDenied).
func (i *Incident) Approve(by, lineage string, now time.Time) error {
	switch {
	case i.State != IncidentProposed:
		return fmt.Errorf("%w: incident %s waits for no approval, it is %s", backends.ErrConflict, i.ID, i.State)
	case !i.ApproveBy.IsZero() && now.After(i.ApproveBy):
		return fmt.Errorf("%w: incident %s was to be approved by %s; declare it again", backends.ErrConflict, i.ID, stamp(i.ApproveBy))
	case by == i.Actor:
		return fmt.Errorf("%w: %s declared incident %s, and somebody else has to approve it", backends.ErrDenied, by, i.ID)
	case kin(lineage, i.Lineage):
		return fmt.Errorf("%w: the token %s and the one that declared incident %s, %s, are of one hand, and somebody else has to approve it", backends.ErrDenied, by, i.ID, i.Actor)
	}
	i.State, i.ApprovedBy, i.ApprovedAt, i.ApproveBy, i.NextAt = IncidentOpen, by, now, time.Time{}, now
	return nil
}

// Reject ends an incident that nobody has approved.
func (i *Incident) Reject(by, why string, now time.Time) error {
	if i.State != IncidentProposed {
		return fmt.Errorf("%w: incident %s waits for no approval, it is %s", backends.ErrConflict, i.ID, i.State)
	}
	i.State, i.ClosedBy, i.Closing, i.ClosedAt, i.Hold, i.NextAt = IncidentRejected, by, why, now, false, time.Time{}
	return nil
}

// Close ends an incident for people: what it has begun goes on.
func (i *Incident) Close(by, why string, hold bool, now time.Time) error {
	if i.State != IncidentOpen {
		return fmt.Errorf("%w: incident %s is %s", backends.ErrConflict, i.ID, i.State)
	}
	i.State, i.ClosedBy, i.Closing, i.ClosedAt, i.Hold, i.NextAt = IncidentClosed, by, why, now, hold, time.Time{}
	return nil
}

// Began is when the incident may have begun to do something: when it was declared, or approved.
func (i *Incident) Began() time.Time { return latest(i.DeclaredAt, i.ApprovedAt) }
