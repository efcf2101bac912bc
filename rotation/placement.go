package rotation

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// DriftRule is what a secret says about a vault that holds something else than it
// was given.
type DriftRule string

// The rules.
const (
	DriftReport  DriftRule = "report"  // tell of it, touch nothing
	DriftRestore DriftRule = "restore" // write the current version over it
	DriftAdopt   DriftRule = "adopt"   // make it the current version, once its probe accepts it and somebody approves
)

// Role is what a vault is to a secret.
type Role string

// The roles.
const (
	RolePrimary Role = "primary" // holds the current version; rotations publish there
	RoleMirror  Role = "mirror"  // is brought to the current version afterwards
	RoleFormer  Role = "former"  // neither any more; it is only relieved of dead versions
)

// PlacementState is how a vault stands to what it should hold.
type PlacementState string

// The states.
const (
	InStep  PlacementState = "in_step"
	Behind  PlacementState = "behind"  // it has not been given the current version yet
	Drifted PlacementState = "drifted" // somebody else changed what it holds
)

// Effects of placements.
const (
	Place   Effect = "place"    // the guarded write that brings a vault to the current version
	Compare Effect = "compare"  // look what the vault holds
	TakeOut Effect = "take_out" // retire or destroy a dead version in the vault
)

// WaitMirror: a rotation's overlap waits for a mirror that is behind.
const WaitMirror = "mirror"

// DriftKind is how a vault differs from what the broker left in it.
type DriftKind string

// The kinds.
const (
	DriftChanged   DriftKind = "changed"   // it holds a value that is no version of ours
	DriftMoved     DriftKind = "moved"     // another version of ours is current, or a stage leads elsewhere
	DriftMissing   DriftKind = "missing"   // it holds nothing as current
	DriftDestroyed DriftKind = "destroyed" // a version that is still in its overlap is gone
)

// Drift is one finding about a vault, until a comparison finds it gone.
type Drift struct {
	Kind    DriftKind          `json:"kind"`
	ID      backends.VersionID `json:"id,omitempty"`      // what the vault holds as current
	Version int                `json:"version,omitempty"` // the version of ours that this is about, 0 = none of ours
	Detail  string             `json:"detail"`
	FoundAt time.Time          `json:"found_at"`
	// Prints are the keyed fingerprints of a stranger's value, so that another one is
	// told from it.
	Prints map[string]string `json:"prints,omitempty"`
	// Of an adoption: what the probe said of the value, in which words, and the rotation
	// that waits for an approval.
	Verdict    Verdict `json:"verdict,omitempty"`
	Said       string  `json:"said,omitempty"`
	RotationID string  `json:"rotation_id,omitempty"`
}

// same tells whether two findings are one.
func (d Drift) same(o Drift) bool { return d.Kind == o.Kind && d.ID == o.ID && d.Version == o.Version }

// overwritable tells whether writing the current version mends it.
func (d *Drift) overwritable() bool { return d.Kind != DriftDestroyed && !d.LabelOnly() }

// LabelOnly tells whether the current version is the right one, and only another
// stage moved.
func (d *Drift) LabelOnly() bool { return d.Kind == DriftMoved && d.ID == "" }

// Holding is one version of ours that a vault was given and may still keep.
type Holding struct {
	Version int                `json:"version"`
	ID      backends.VersionID `json:"id"`
	Retired bool               `json:"retired,omitempty"` // taken out of use there
}

// Fate is what is to become of a version in the vaults.
type Fate int

// The fates.
const (
	FateNone    Fate = iota
	FateRetire       // it is rejected: no stage shall lead to it
	FateDestroy      // it is proven dead and needed no more
	FateForget       // its retirement is over without a proof: it is taken out and no more
)

// String is the fate as the audit log says it.
func (f Fate) String() string {
	return map[Fate]string{FateNone: "keep", FateRetire: "retire", FateDestroy: "destroy", FateForget: "retire"}[f]
}

// Placement is the record of what one vault holds of a secret, and should hold.
type Placement struct {
	ID       string       `json:"id,omitzero"`
	SecretID string       `json:"secret_id,omitzero"`
	Ref      backends.Ref `json:"-"` // from the secret's row
	Backend  string       `json:"backend,omitzero"`
	Role     Role         `json:"role,omitzero"`

	Want       int                `json:"want,omitzero"`       // the version that it should hold
	Have       int                `json:"have,omitzero"`       // the version of ours that it held last, 0 = none yet
	HaveID     backends.VersionID `json:"have_id,omitzero"`    // what the vault calls that
	HaveAt     time.Time          `json:"have_at,omitzero"`    // when the vault says that it was made; zero: not looked at yet
	Generation int64              `json:"generation,omitzero"` // of the secret when that was written
	Held       []Holding          `json:"held,omitempty"`
	// Stages are the vault's own names and the versions that they led to at the last
	// comparison since our own last write; nil: not compared yet.
	Stages map[string]backends.VersionID `json:"stages,omitempty"`

	Drift    *Drift  `json:"drift,omitempty"`
	Intent   *Intent `json:"intent,omitempty"`
	Failures int     `json:"failures,omitzero"`
	Error    string  `json:"error,omitzero"`
	Asked    bool    `json:"asked,omitzero"`  // somebody asked for a comparison now
	Blind    bool    `json:"blind,omitzero"`  // the last comparison failed: nothing waits for the next one
	Urgent   bool    `json:"urgent,omitzero"` // an emergency wants it written
	// Tries of strangers' values that may have been rejected, and the last of them.
	Tries     int       `json:"tries,omitzero"`
	TriedAt   time.Time `json:"tried_at,omitzero"`
	OutAt     time.Time `json:"out_at,omitzero"`     // before then nothing is taken out: the vault refused
	SyncedAt  time.Time `json:"synced_at,omitzero"`  // when it was last written or found in step
	CheckedAt time.Time `json:"checked_at,omitzero"` // when it was last compared
	CheckAt   time.Time `json:"check_at,omitzero"`   // when it is compared next
	NextAt    time.Time `json:"next_at,omitzero"`    // when to look again; zero: when woken
	Revision  int64     `json:"revision,omitzero"`
}

// State tells how the vault stands to what it should hold.
func (p *Placement) State() PlacementState {
	switch {
	case p.Drift != nil:
		return Drifted
	case p.Have != p.Want:
		return Behind
	}
	return InStep
}

// Serves is what the vault was last found to hold as current.
func (p *Placement) Serves() backends.VersionID {
	if d := p.Drift; d != nil && !d.LabelOnly() && d.Kind != DriftDestroyed {
		return d.ID
	}
	return p.HaveID
}

// Lags tells whether the vault is a mirror that does not hold the current version.
func (p *Placement) Lags() bool {
	return p.Role == RoleMirror && p.State() != InStep && !p.onlyOlderGone()
}

// onlyOlderGone: the drift is about something else than the current version.
func (p *Placement) onlyOlderGone() bool {
	return p.Drift != nil && !p.Drift.overwritable() && p.Have == p.Want
}

// PlacementFacts are what Placement.Next must know besides the record.
type PlacementFacts struct {
	Frozen  bool          // everything is frozen, and the current version is no emergency's
	Current int           // the version that may be written; 0: none, or it is being turned off itself
	Busy    bool          // a rotation may be writing to this vault
	Rule    DriftRule     // of the secret
	Every   time.Duration // how often the vault is compared; 0: when asked only
	Fates   map[int]Fate  // of the versions in Held
}

// Next says what is due now for the placement when owner looks at it.
func (p *Placement) Next(f PlacementFacts, owner string, now time.Time) Action {
	if p.Intent.Held(owner, now) {
		return wait(p.Intent.Lease, "")
	}
	if now.Before(p.NextAt) {
		return wait(p.NextAt, "")
	}
	switch {
	case p.Asked && !p.Blind && p.wantsCompare(f, now): // before a write is tried again that met what nobody knows
		return Action{Effect: Compare}
	case p.wantsWrite(f):
		return Action{Effect: Place}
	case p.wantsCompare(f, now):
		return Action{Effect: Compare}
	case p.wantsTakeOut(f, now):
		return Action{Effect: TakeOut}
	}
	return p.rest(f, now)
}

// rest waits for whatever comes next by itself.
func (p *Placement) rest(f PlacementFacts, now time.Time) Action {
	until := now.Add(idleEvery) // drift_check may be given by a new configuration
	if f.Every > 0 && p.Role != RoleFormer {
		until = p.CheckAt
		if f.Busy || until.Before(now) {
			until = latest(until, now.Add(busyEvery))
		}
	}
	_, fate := p.NextOut(f.Fates)
	if fate != FateNone && now.Before(p.OutAt) {
		until = earliest(until, p.OutAt)
	}
	switch {
	case f.Busy && p.Asked:
		until = earliest(until, now.Add(busyEvery))
	case f.Frozen && (p.Have != p.Want || p.Drift != nil || fate != FateNone):
		until = earliest(until, now.Add(pausedEvery))
	}
	return wait(until, "")
}

// busyEvery is how soon to look again at a vault that a rotation is writing to,
// idleEvery at one that nothing is due with, and refusedEvery at a dead version that
// the vault does not let us take out.
const (
	busyEvery    = 30 * time.Second
	idleEvery    = 24 * time.Hour
	refusedEvery = time.Hour
)

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// wantsWrite: a mirror goes straight to the newest version, and never over what
// is not ours unless the rule is to restore. A version that is being turned off
// is written nowhere.
func (p *Placement) wantsWrite(f PlacementFacts) bool {
	if f.Current == 0 || f.Current != p.Want || f.Frozen || f.Busy || p.Role == RoleFormer {
		return false
	}
	behind := p.Role == RoleMirror && p.Have != p.Want
	switch {
	case p.Drift == nil:
		return behind
	case f.Rule == DriftRestore && p.Drift.overwritable():
		return true
	case p.Drift.Kind == DriftChanged:
		return false
	}
	return behind // over what was ours, or nothing
}

func (p *Placement) wantsTakeOut(f PlacementFacts, now time.Time) bool {
	_, fate := p.NextOut(f.Fates)
	return fate != FateNone && !f.Frozen && !now.Before(p.OutAt)
}

// NextOut returns the next version that is to be taken out of the vault.
func (p *Placement) NextOut(fates map[int]Fate) (Holding, Fate) {
	for _, h := range p.Held {
		switch fate := fates[h.Version]; {
		case h.ID == p.HaveID, p.Drift != nil && h.ID == p.Drift.ID: // what the vault serves is never taken out
		case fate == FateNone, fate == FateRetire && h.Retired:
		default:
			return h, fate
		}
	}
	return Holding{}, FateNone
}

func (p *Placement) wantsCompare(f PlacementFacts, now time.Time) bool {
	due := f.Every > 0 && !now.Before(p.CheckAt)
	return (due || p.Asked) && !f.Busy && p.Role != RoleFormer
}

// Wanted says which version the vault should hold from now on.
func (p *Placement) Wanted(role Role, version int, urgent bool, now time.Time) {
	p.Role, p.Want, p.Urgent = role, version, urgent
	p.Failures, p.NextAt = 0, now
}

// Begin records the intent to perform e.
func (p *Placement) Begin(e Effect, owner string, lease time.Duration, now time.Time) {
	p.Intent = &Intent{Effect: e, Owner: owner, At: now, Lease: now.Add(lease)}
	p.NextAt = now
}

// Placed records that the vault holds version as id, by our own write.
func (p *Placement) Placed(version int, id backends.VersionID, generation int64, now time.Time) {
	p.Intent, p.Drift, p.Failures, p.Error, p.Stages = nil, nil, 0, "", nil
	p.HaveAt, p.Urgent, p.Blind = time.Time{}, false, false
	p.Have, p.HaveID, p.Generation, p.SyncedAt, p.NextAt = version, id, generation, now, now
	p.hold(version, id)
}

// Keeps records that the vault was given version as id without it being current,
// which may move stages.
func (p *Placement) Keeps(version int, id backends.VersionID) {
	p.Stages = nil
	p.hold(version, id)
}

func (p *Placement) hold(version int, id backends.VersionID) {
	if id == "" {
		return
	}
	if i := slices.IndexFunc(p.Held, func(h Holding) bool { return h.ID == id }); i >= 0 {
		p.Held[i] = Holding{Version: version, ID: id}
		return
	}
	p.Held = append(p.Held, Holding{Version: version, ID: id})
}

// slowestPlacing is the longest wait between two tries of a vault that fails.
const slowestPlacing = 2 * time.Minute

// Failed records that an effect did not succeed, or that its answer is not known.
func (p *Placement) Failed(why string, now time.Time) {
	p.Intent = nil
	p.Failures++
	limit := slowestPlacing
	if p.Urgent {
		limit = 15 * time.Second
	}
	p.Error, p.NextAt = why, now.Add(Backoff(p.Failures, limit))
}

// TookOut records what became of a version in the vault.
func (p *Placement) TookOut(id backends.VersionID, fate Fate, now time.Time) {
	p.Intent, p.Failures, p.Error, p.NextAt, p.Stages = nil, 0, "", now, nil
	p.Held = slices.Clone(p.Held)
	if fate == FateRetire {
		for i := range p.Held {
			p.Held[i].Retired = p.Held[i].Retired || p.Held[i].ID == id
		}
		return
	}
	p.Held = slices.DeleteFunc(p.Held, func(h Holding) bool { return h.ID == id })
}

// OutRefused records that the vault does not let a dead version be taken out.
func (p *Placement) OutRefused(why string, now time.Time) {
	p.Error, p.OutAt, p.NextAt = why, now.Add(refusedEvery), now
}

// MayTry tells whether a stranger's value may be tried once more where the account
// is locked after limit rejected tries (0: never), and counts the try.
func (p *Placement) MayTry(limit int, now time.Time) bool {
	if !now.Before(p.TriedAt.Add(LockoutPeriod)) {
		p.Tries = 0
	}
	if limit > 0 && p.Tries+1 >= limit {
		return false
	}
	p.Tries, p.TriedAt = p.Tries+1, now
	return true
}

// Found is what a comparison saw in a vault.
type Found struct {
	ID      backends.VersionID            // current there; empty: nothing
	At      time.Time                     // when that was made, as the vault says
	Version int                           // the version of ours with that value, 0 = none
	Stages  map[string]backends.VersionID // the vault's own names and what they lead to
	Gone    []backends.VersionID          // versions whose values are gone
}

// Knows tells whether the vault's current version is the one that was looked at
// before, so that its value need not be read. Its id alone does not say so: a secret
// that was deleted with all its versions and made anew counts from 1 again.
func (p *Placement) Knows(id backends.VersionID, at time.Time) bool {
	return id == p.HaveID && !p.HaveAt.IsZero() && p.HaveAt.Equal(at)
}

// Compared records what the vault was found to hold. overlap is the version that
// is in its overlap, 0 = none; next is when to compare again.
func (p *Placement) Compared(f Found, overlap int, now, next time.Time) {
	p.Intent, p.Failures, p.Error, p.Asked, p.Blind = nil, 0, "", false, false
	p.CheckedAt, p.CheckAt, p.NextAt = now, next, now
	drift, right := p.judge(f), p.Drift == nil
	switch {
	case drift != nil:
	case f.ID != "" && (f.ID != p.HaveID || f.Version != p.Have): // ours, written by us without our hearing of it
		p.Have, p.HaveID, p.Stages = f.Version, f.ID, nil
		p.hold(f.Version, f.ID)
		fallthrough
	default:
		drift = p.judgeRest(f, overlap)
	}
	if drift == nil {
		p.Drift, p.Stages, p.HaveAt = nil, f.Stages, f.At
		if p.Have == p.Want {
			p.SyncedAt = now
		}
		return
	}
	if drift.Kind == DriftChanged || drift.Kind == DriftMissing {
		// Somebody may have made the secret anew, where ids count from 1 again: what has
		// the id of a version of ours may be theirs, and is left to them.
		p.Held = slices.DeleteFunc(slices.Clone(p.Held), func(h Holding) bool { return h.ID != p.HaveID })
	}
	if !right && drift.same(*p.Drift) {
		return
	}
	drift.FoundAt = now
	p.Drift = drift
}

// judge compares what is current in the vault with what should be.
func (p *Placement) judge(f Found) *Drift {
	switch {
	case f.ID == "" && p.Have == 0:
		return nil
	case f.ID == "":
		return &Drift{Kind: DriftMissing, Version: p.Have, Detail: fmt.Sprintf("%s held version %d and holds nothing now", p.Backend, p.Have)}
	case f.Version == 0:
		return &Drift{Kind: DriftChanged, ID: f.ID, Detail: fmt.Sprintf("%s holds a value that was never a version of this secret, as its version %s", p.Backend, f.ID)}
	case f.Version == p.Have || f.Version == p.Want:
		return nil
	}
	return &Drift{Kind: DriftMoved, ID: f.ID, Version: f.Version,
		Detail: fmt.Sprintf("%s serves version %d as the current one, not version %d", p.Backend, f.Version, p.Have)}
}

// judgeRest compares what is not current: versions in their overlap, and stages.
func (p *Placement) judgeRest(f Found, overlap int) *Drift {
	for _, h := range p.Held {
		if h.Version == overlap && !h.Retired && h.ID != p.HaveID && slices.Contains(f.Gone, h.ID) && !p.keptElsewhere(h, f) {
			return &Drift{Kind: DriftDestroyed, Version: overlap, Detail: fmt.Sprintf("version %d, which is in its overlap, was destroyed in %s", overlap, p.Backend)}
		}
	}
	if p.Stages == nil {
		return nil
	}
	for _, stage := range slices.Sorted(maps.Keys(p.Stages)) {
		if id, was := f.Stages[stage], p.Stages[stage]; id != was && !p.wasTakenOut(was) {
			return &Drift{Kind: DriftMoved, Version: p.Have, Detail: fmt.Sprintf("in %s the stage %s was moved", p.Backend, stage)}
		}
	}
	return nil
}

// keptElsewhere: the vault has the same version under another id, too.
func (p *Placement) keptElsewhere(h Holding, f Found) bool {
	return slices.ContainsFunc(p.Held, func(o Holding) bool {
		return o.Version == h.Version && o.ID != h.ID && !slices.Contains(f.Gone, o.ID)
	})
}

// wasTakenOut: we ourselves have taken id out of use, so its stages may be gone.
func (p *Placement) wasTakenOut(id backends.VersionID) bool {
	i := slices.IndexFunc(p.Held, func(h Holding) bool { return h.ID == id })
	return i < 0 || p.Held[i].Retired
}

// CheckNow asks for a comparison now instead of at its time.
func (p *Placement) CheckNow(now time.Time) {
	p.Asked, p.Blind, p.NextAt, p.Failures = true, false, now, 0
}
