package rotation

import (
	"encoding/json"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
)

// SecretState is whether a secret is rotated.
type SecretState string

// The states of a secret as stored; a secret with an occupying rotation is
// shown as "rotating".
const (
	SecretActive    SecretState = "active"
	SecretPaused    SecretState = "paused"
	SecretUnmanaged SecretState = "unmanaged"
)

// Origin is who defines a secret.
type Origin string

// The origins.
const (
	OriginConfig Origin = "config"
	OriginAPI    Origin = "api"
)

// Definition is what an operator says of a secret, resolved: defaults and
// policies are worked in. It holds no secret.
type Definition struct {
	Backend   string            `json:"backend"`
	Mirrors   []string          `json:"mirrors,omitempty"`  // further backends that hold the current version
	OnDrift   DriftRule         `json:"on_drift,omitempty"` // empty: report
	Issuer    string            `json:"issuer"`
	Settings  json.RawMessage   `json:"settings,omitempty"` // of the secret's issuer block, a JSON object
	Probe     string            `json:"probe,omitempty"`
	Consumers []string          `json:"consumers,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Schedule  string            `json:"schedule,omitempty"` // cron expression; empty: never by itself
	TimeZone  string            `json:"time_zone,omitempty"`
	Jitter    time.Duration     `json:"jitter,omitempty"`
	// Window are the times of the week, in TimeZone, at which a rotation may begin; empty: any.
	Window string `json:"window,omitempty"`
	// MaxAge is how old the current version may become; 0: any.
	MaxAge time.Duration `json:"max_age,omitempty"`
	// Policy is the rotation policy that the settings come from; empty: none. Of its
	// secrets MaxConcurrent (0: any number) rotate at once.
	Policy        string `json:"policy,omitempty"`
	MaxConcurrent int    `json:"max_concurrent,omitempty"`
	// Pair names secrets, of one tenant, that never rotate within each other's overlap.
	Pair string `json:"pair,omitempty"`
	// NoticeBefore is how long ahead of a rotation that is due its consumers are told; 0: not at all.
	NoticeBefore time.Duration `json:"notice_before,omitempty"`
	// MinInterval is the least time between two publications, except in an emergency.
	MinInterval time.Duration `json:"min_interval,omitempty"`
	Plan        Plan          `json:"plan,omitzero"`
}

// Environment is the one that the secret's label names; empty: none.
func (d Definition) Environment() string { return d.Labels[policy.EnvironmentLabel] }

// Pinned is what a rotation keeps of the definition that it begins with: all but the plan.
func (d Definition) Pinned() *Definition {
	d.Plan = Plan{}
	return &d
}

// Secret is the record of one secret; its values live in its backend.
type Secret struct {
	ID          string
	Ref         backends.Ref
	Origin      Origin
	State       SecretState
	Definition  Definition
	Current     int   // number of the current version, 0 = none
	LastVersion int   // number of the newest version ever, 0 = none; kept by the store, never saved
	Generation  int64 // only grows
	NextDueAt   time.Time
	NoticeAt    time.Time // when consumers are to be told of NextDueAt; zero: they were, or are not told
	NoticedDue  time.Time // the NextDueAt that they were told of last
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Revision    int64
}

// VersionStage is the stage of one version of a secret.
type VersionStage string

// The stages.
const (
	StagePending  VersionStage = "pending"
	StageCurrent  VersionStage = "current"
	StagePrevious VersionStage = "previous" // overlap: still valid, until OverlapUntil
	StageRetired  VersionStage = "retired"
)

// Version is the record of one credential of a secret. It is written before
// the credential is minted, so that none can exist without a record.
type Version struct {
	SecretID   string
	Ref        backends.Ref
	Number     int // from 1, never reused
	Stage      VersionStage
	RotationID string
	Attempt    int
	Tag        string // at the issuer; empty: see Foreign

	// Environment is what the secret's label said when the version was made. A label that
	// is changed makes no credential one of another environment.
	Environment string

	// By what it was made, to be revoked and probed by the same.
	Backend  string
	Issuer   string
	Probe    string
	Settings json.RawMessage

	// Slot is the account that holds it, at issuers that have slots.
	Slot string
	// Seen are the handles that the issuer held before the mint, where it knows no tags.
	Seen []map[string]string

	Handle         map[string]string  // at the issuer; nil until it is known
	BackendVersion backends.VersionID // in the vault; empty until published or staged
	Sealed         []byte             // the value, sealed; nil once purged
	Fingerprints   map[string]string  // keyed fingerprint of the field's name → of its text; kept for ever

	CreatedAt    time.Time
	PublishedAt  time.Time
	OverlapUntil time.Time
	NotAfter     time.Time
}

// Foreign tells whether somebody else than the broker had the credential made: it
// was imported or adopted, and its issuer knows no tag of ours for it.
func (v Version) Foreign() bool { return v.Tag == "" }

// NotAdopted tells whether the version is a stranger's value that was to be adopted,
// and was not: it stays theirs.
func (v Version) NotAdopted() bool {
	return v.Foreign() && v.Stage == StageRetired && v.PublishedAt.IsZero()
}

// Step is one line of a rotation's timeline.
type Step struct {
	RotationID string
	Seq        int
	Step       string
	StartedAt  time.Time
	EndedAt    time.Time
	Outcome    string // "ok", "failed", "retry", "waiting"
	Detail     string
}

// Change is one entry of the feed that watchers, caches and other nodes follow;
// Seq is in the order of commits, without gaps that could still fill.
type Change struct {
	Seq        int64
	Tenant     string
	Secret     string // name
	Kind       string // "secret", "rotation", "retirement", "delivery"
	ID         string // of the rotation, retirement or delivery
	Generation int64
	At         time.Time
}

// AuditEvent is one fact for the audit log: who did what to what, and what came
// of it. It never holds a secret value.
type AuditEvent struct {
	At       time.Time         `json:"time"`
	Kind     AuditKind         `json:"kind,omitempty"`    // empty: AuditStep
	Request  string            `json:"request,omitempty"` // the id that the two records of a request share
	Tenant   string            `json:"tenant,omitempty"`
	Actor    string            `json:"actor"`              // principal, or "keybroker" for the engine
	Role     string            `json:"role,omitempty"`     // of the principal
	Method   string            `json:"method,omitempty"`   // how the principal was authenticated
	Identity string            `json:"identity,omitempty"` // who logged in for it: METHOD/SUBJECT
	Address  string            `json:"address,omitempty"`  // of the caller
	Action   string            `json:"action"`             // "secret.read", "rotation.publish", …
	Path     string            `json:"path"`               // policy path: a secret's name or sys/…
	Outcome  string            `json:"outcome"`            // "ok", "denied", "failed"
	Detail   map[string]string `json:"detail,omitempty"`

	// Of what was asked for: the capability it takes, and the rule that decided, by
	// its policy and its path as written.
	Capability string `json:"capability,omitempty"`
	Policy     string `json:"policy,omitempty"`
	Rule       string `json:"rule,omitempty"`
	// What it is about, where that is a secret: TENANT:NAME, and the version's number.
	Secret  string `json:"secret,omitempty"`
	Version int    `json:"version,omitempty"`
	// Hashes are keyed hashes of what was handed out, made or sent, by its name.
	Hashes map[string]string `json:"hashes,omitempty"`
}

// AuditKind is what a record of the audit log is of.
type AuditKind string

// The kinds. A request has two records: what was asked and decided, written before
// anything is done, and what came of it.
const (
	AuditRequest  AuditKind = "request"
	AuditResponse AuditKind = "response"
	AuditStep     AuditKind = "event" // a step, a verdict, a delivery: what the broker did
)
