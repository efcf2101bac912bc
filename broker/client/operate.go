package client

import (
	"context"
	"net/url"
	"time"
)

// InterventionRequest is what an operator asks for. A dry run answers what would
// follow, and changes nothing.
type InterventionRequest struct {
	Reason string `json:"reason,omitempty"`
	DryRun bool   `json:"dry_run,omitempty"`
	// Expect is what a dry run has said, if that was agreed to: should something else
	// follow by now, but for the times in it, it is a conflict and nothing is done.
	Expect []string `json:"expect,omitempty"`
}

// Foretold is what follows from an intervention, in sentences for people: those
// of a dry run say what would.
type Foretold struct {
	DryRun bool     `json:"dry_run"`
	Will   []string `json:"will"`
}

// Sentences returns what follows.
func (f Foretold) Sentences() []string { return f.Will }

// RotationIntervention is what became, or would become, of a rotation.
type RotationIntervention struct {
	Foretold
	Rotation Rotation `json:"rotation"`
}

// RetirementIntervention is what became, or would become, of a retirement.
type RetirementIntervention struct {
	Foretold
	Retirement Retirement `json:"retirement"`
}

// DeliveryIntervention is what became, or would become, of a delivery.
type DeliveryIntervention struct {
	Foretold
	Delivery Delivery `json:"delivery"`
}

// FreezeIntervention is whether everything is frozen afterwards, or would be.
type FreezeIntervention struct {
	Foretold
	Freeze Freeze `json:"freeze"`
}

// Freeze says whether everything is frozen: then no rotation begins, publishes or
// ends its overlap, except in an emergency.
type Freeze struct {
	Frozen bool      `json:"frozen"`
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// Plan is what would happen to a secret now: by itself, or if somebody asked for
// a rotation.
type Plan struct {
	Effective
	Ready       bool       `json:"ready"`                 // a rotation asked for now would begin at once
	WhyNot      []Blocker  `json:"why_not"`               // what keeps one from beginning, or the one under way from going on
	NextAt      time.Time  `json:"next_at,omitzero"`      // when one begins by itself
	Trigger     string     `json:"trigger,omitempty"`     // of the rotation under way, or of the next one
	RotationID  string     `json:"rotation_id,omitempty"` // the one under way
	Steps       []Expected `json:"steps"`                 // of the rotation under way, else of the next one
	Retirements []Expected `json:"retirements,omitempty"` // of the versions that are being turned off
}

// Blocker is one thing that keeps a rotation waiting.
type Blocker struct {
	WaitingFor string `json:"waiting_for"`
	Detail     string `json:"detail,omitempty"`
	Mend       string `json:"mend,omitempty"` // what to do about it
}

// The states of what is expected.
const (
	ExpectedDone = "done"
	ExpectedNow  = "now"
	ExpectedNext = "next"
)

// Expected is one step that has been taken, is being taken or will be.
type Expected struct {
	Step    string    `json:"step"`
	Detail  string    `json:"detail,omitempty"`
	State   string    `json:"state,omitempty"`
	AfterMS int64     `json:"after_ms,omitzero"` // of one that has not begun: after its beginning, at the earliest
	At      time.Time `json:"at,omitzero"`       // where that is known
}

// RepairRequest asks for what is out of step between store and vault. What a
// stranger wrote into the vault is overwritten only if that is said.
type RepairRequest struct {
	Reason    string `json:"reason,omitempty"`
	DryRun    bool   `json:"dry_run,omitempty"`
	Overwrite bool   `json:"overwrite,omitempty"`
	// Expect is Repair.Sentences of a dry run, if that was agreed to: should something
	// else be mended by now it is a conflict and nothing is done.
	Expect []string `json:"expect,omitempty"`
}

// Repair is what was found, and what became of it.
type Repair struct {
	DryRun   bool      `json:"dry_run"`
	Findings []Finding `json:"findings"`
}

// Sentences returns what would be mended, and how.
func (r Repair) Sentences() []string {
	all := []string{}
	for _, f := range r.Findings {
		if f.Mendable {
			all = append(all, f.Detail+": "+f.Mend)
		}
	}
	return all
}

// Finding is one thing that is not as it should be.
type Finding struct {
	Kind     string `json:"kind"`
	Detail   string `json:"detail"`
	Version  int    `json:"version,omitempty"`
	Mend     string `json:"mend,omitempty"` // what mends it, or would
	Mendable bool   `json:"mendable"`
	Mended   bool   `json:"mended"`
	Error    string `json:"error,omitempty"` // why it could not be mended
}

// Orphan is a credential that no rotation brought to its end: its mint's answer
// was lost, or its rotation failed. It is being retired.
type Orphan struct {
	Secret     string            `json:"secret"`
	Tenant     string            `json:"tenant"`
	Version    int               `json:"version"`
	RotationID string            `json:"rotation_id,omitempty"`
	Issuer     string            `json:"issuer,omitempty"`
	Tag        string            `json:"tag,omitempty"`    // at the issuer
	Handle     map[string]string `json:"handle,omitempty"` // at the issuer; missing: nobody knows it
	Suspected  bool              `json:"suspected"`        // it may be alive: nothing proves the contrary
	Retirement Retirement        `json:"retirement"`
}

// OrphanQuery selects orphans, the latest first.
type OrphanQuery struct {
	Secret string
	Page
}

func (q OrphanQuery) values() url.Values {
	v := q.Page.values()
	set(v, "secret", q.Secret)
	return v
}

// Cancel ends a rotation that has published nothing, or only waits for a proof.
func (c *Client) Cancel(ctx context.Context, id string, r InterventionRequest) (RotationIntervention, error) {
	return do[RotationIntervention](ctx, c, api("POST", "rotations", id, "cancel").send(r))
}

// Retry lets a rotation that is waiting look again now, or begins another one in
// place of one that came to nothing: then the answer has the new one.
func (c *Client) Retry(ctx context.Context, id string, r InterventionRequest) (RotationIntervention, error) {
	return do[RotationIntervention](ctx, c, api("POST", "rotations", id, "retry").send(r))
}

// Approve lets a rotation begin that waits for it.
func (c *Client) Approve(ctx context.Context, id string, r InterventionRequest) (RotationIntervention, error) {
	return do[RotationIntervention](ctx, c, api("POST", "rotations", id, "approve").send(r))
}

// RollBack makes the version current again that a rotation has replaced.
func (c *Client) RollBack(ctx context.Context, id string, r InterventionRequest) (RotationIntervention, error) {
	return do[RotationIntervention](ctx, c, api("POST", "rotations", id, "rollback").send(r))
}

// Probe asks for a round of tries of a revoked version now.
func (c *Client) Probe(ctx context.Context, retirementID string, r InterventionRequest) (RetirementIntervention, error) {
	return do[RetirementIntervention](ctx, c, api("POST", "retirements", retirementID, "probe").send(r))
}

// Replay delivers once more what was given up.
func (c *Client) Replay(ctx context.Context, deliveryID string, r InterventionRequest) (DeliveryIntervention, error) {
	return do[DeliveryIntervention](ctx, c, api("POST", "deliveries", deliveryID, "replay").send(r))
}

// Orphans lists the credentials that no rotation brought to its end.
func (c *Client) Orphans(ctx context.Context, q OrphanQuery) (List[Orphan], error) {
	return do[List[Orphan]](ctx, c, api("GET", "orphans").with(q.values()))
}

// Plan returns what would happen to a secret, when, and why not.
func (c *Client) Plan(ctx context.Context, name string) (Plan, error) {
	return do[Plan](ctx, c, api("GET", "secrets", name, "plan"))
}

// Repair finds and mends what is out of step between store and vault.
func (c *Client) Repair(ctx context.Context, name string, r RepairRequest) (Repair, error) {
	return do[Repair](ctx, c, api("POST", "secrets", name, "repair").send(r))
}

// Frozen tells whether everything is frozen.
func (c *Client) Frozen(ctx context.Context) (Freeze, error) {
	return do[Freeze](ctx, c, api("GET", "sys", "freeze"))
}

// Freeze keeps everything as it is, except in emergencies.
func (c *Client) Freeze(ctx context.Context, r InterventionRequest) (FreezeIntervention, error) {
	return do[FreezeIntervention](ctx, c, api("POST", "sys", "freeze").send(r))
}

// Unfreeze ends a freeze.
func (c *Client) Unfreeze(ctx context.Context, r InterventionRequest) (FreezeIntervention, error) {
	return do[FreezeIntervention](ctx, c, api("POST", "sys", "unfreeze").send(r))
}
