package client

import (
	"net/url"
	"time"
)

// The states of an incident.
const (
	IncidentProposed = "proposed" // a second person must approve it before anything is done
	IncidentOpen     = "open"
	IncidentClosed   = "closed"
	IncidentRejected = "rejected" // somebody refused it, or nobody approved it in time
)

// IncidentStates lists them.
var IncidentStates = []string{IncidentProposed, IncidentOpen, IncidentClosed, IncidentRejected}

// Selector says which secrets an incident is about. What it says of several kinds must
// all hold; of Names and Patterns one must.
type Selector struct {
	Names    []string          `json:"names,omitempty"`
	Patterns []string          `json:"patterns,omitempty"` // policy paths: "payments/*"
	Labels   map[string]string `json:"labels,omitempty"`   // that a secret has, all of them
	Tenant   string            `json:"tenant,omitempty"`
	Backend  string            `json:"backend,omitempty"` // that holds it, as the primary or as a mirror
	Issuer   string            `json:"issuer,omitempty"`  // that any of its versions that may be alive came from
	Consumer string            `json:"consumer,omitempty"`
	// Value leaked: the versions that have it, whole or in one of their fields, are meant.
	// It is never shown again.
	Value SecretText `json:"value,omitempty"`
	// ReadBy is a role or an identity (METHOD/SUBJECT): the versions that it was given are meant.
	ReadBy  string    `json:"read_by,omitempty"`
	Address string    `json:"address,omitempty"` // an address or network: the versions that were given to it are meant
	Since   time.Time `json:"since,omitzero"`    // with ReadBy or Address: when it was given them, at the earliest
	All     bool      `json:"all,omitempty"`     // every secret
	// Versions are compromised, of the one secret that Names names; empty: every one that may be alive.
	Versions []int `json:"versions,omitempty"`
	// Leaked says, where it is shown, that there was a Value.
	Leaked bool `json:"leaked,omitempty"`
}

// IncidentRequest declares an emergency.
type IncidentRequest struct {
	// ID is a UUID of the caller's choice: the same one again is the same incident, so that
	// a request whose answer was lost can be repeated. Empty: the server makes one.
	ID       string   `json:"id,omitempty"`
	Reason   string   `json:"reason"`
	Selector Selector `json:"selector"`
	Contain  string   `json:"contain,omitempty"` // RevokeFirst or ReplaceFirst; empty: as the policies say
	// Overwrite: replacements may be written over values in vaults that are none of the broker's.
	Overwrite  bool      `json:"overwrite,omitempty"`
	LeakedAt   time.Time `json:"leaked_at,omitzero"`   // when it leaked, if anybody knows
	DetectedAt time.Time `json:"detected_at,omitzero"` // when somebody noticed; default: now
	// Quarantine keeps consumers and roles out until somebody lifts it.
	Quarantine QuarantineNames `json:"quarantine,omitzero"`
	Override   bool            `json:"override,omitempty"` // do not wait for a second person
	DryRun     bool            `json:"dry_run,omitempty"`
}

// QuarantineNames are those to be kept out.
type QuarantineNames struct {
	Consumers []string `json:"consumers,omitempty"` // the role that one reads as is kept out with it
	Roles     []string `json:"roles,omitempty"`
	// Force: also the role of the caller, who is kept out from then on.
	Force bool `json:"force,omitempty"`
}

// Incident is an emergency with all that is known of it.
type Incident struct {
	ID         string   `json:"id,omitempty"` // missing: of a dry run
	State      string   `json:"state"`
	Cause      string   `json:"cause"`             // "declared", "event", "resurrection", "offline"
	Trigger    string   `json:"trigger,omitempty"` // the block that declared it
	Tenant     string   `json:"tenant,omitempty"`  // whose secrets all are; empty: those of several
	Reason     string   `json:"reason"`
	Selector   Selector `json:"selector"`
	Contain    string   `json:"contain,omitempty"`
	DeclaredBy string   `json:"declared_by"`
	ApprovedBy string   `json:"approved_by,omitempty"` // the second person
	Overridden bool     `json:"overridden,omitempty"`  // it did not wait for one
	ClosedBy   string   `json:"closed_by,omitempty"`   // or who rejected it
	Closing    string   `json:"closing,omitempty"`     // what they said
	Hold       bool     `json:"hold"`                  // nothing is pruned that may be evidence
	DryRun     bool     `json:"dry_run,omitempty"`

	LeakedAt    time.Time `json:"leaked_at,omitzero"`
	DetectedAt  time.Time `json:"detected_at,omitzero"`
	DeclaredAt  time.Time `json:"declared_at,omitzero"`
	ApprovedAt  time.Time `json:"approved_at,omitzero"`
	ApproveBy   time.Time `json:"approve_by,omitzero"`   // while proposed: it is rejected then
	ContainedAt time.Time `json:"contained_at,omitzero"` // when the last of the versions was
	ProvenAt    time.Time `json:"proven_at,omitzero"`
	ClosedAt    time.Time `json:"closed_at,omitzero"`

	Progress IncidentProgress `json:"progress"`

	// The rest is only of a single incident, not of lists.
	Targets    []IncidentTarget   `json:"targets,omitempty"`
	Skipped    []IncidentSkipped  `json:"skipped,omitempty"` // matched, and the caller may not turn them off
	Consumers  []IncidentConsumer `json:"consumers,omitempty"`
	Stuck      []IncidentStuck    `json:"stuck,omitempty"`
	Quarantine []Quarantine       `json:"quarantine,omitempty"`
	Notes      []IncidentNote     `json:"notes,omitempty"`
	Checklist  []IncidentCheck    `json:"checklist,omitempty"` // what people have to do themselves
}

// IncidentProgress counts. Of secrets: Pending, Failed, Replaced; the others are of versions.
type IncidentProgress struct {
	Secrets      int `json:"secrets"`
	Pending      int `json:"pending"`  // nothing was begun yet
	Failed       int `json:"failed"`   // the emergency could not be declared; it is tried again
	Replaced     int `json:"replaced"` // have a current version that is not compromised
	Versions     int `json:"versions"`
	Acknowledged int `json:"acknowledged"` // their issuer said yes, or they are further
	Contained    int `json:"contained"`    // were rejected, or are known to work no more
	Proven       int `json:"proven"`
	Unprovable   int `json:"unprovable"` // nobody will be able to tell; not counted as contained unless they were rejected
	// AlreadyDead were proven dead before the incident, and are in none of the other counts.
	AlreadyDead int `json:"already_dead,omitempty"`
	// ToTell counts pairs of a secret and a consumer that is to be told of its replacement;
	// Told are those that have received it.
	ToTell int `json:"to_tell"`
	Told   int `json:"told"`
	Stuck  int `json:"stuck"` // what is, all of it; the list may be cut short
	// FirstContainedAt and LastContainedAt are of what is contained by now.
	FirstContainedAt time.Time `json:"first_contained_at,omitzero"`
	LastContainedAt  time.Time `json:"last_contained_at,omitzero"`
	// ContainedBy and ProvenBy are estimates, by how long their issuers took lately; missing: nobody can tell.
	ContainedBy time.Time `json:"contained_by,omitzero"`
	ProvenBy    time.Time `json:"proven_by,omitzero"`
}

// AllContained tells whether nothing of the incident is known to work.
func (p IncidentProgress) AllContained() bool {
	return p.Pending == 0 && p.Failed == 0 && p.Contained == p.Versions
}

// AllProven tells whether everything of it is proven dead.
func (p IncidentProgress) AllProven() bool {
	return p.Pending == 0 && p.Failed == 0 && p.Proven == p.Versions
}

// Settled tells whether no more is going to be shown: each version is proven dead, or
// nobody will be able to tell.
func (p IncidentProgress) Settled() bool {
	return p.Pending == 0 && p.Failed == 0 && p.Proven+p.Unprovable == p.Versions
}

// The states of a target.
const (
	TargetPending      = "pending"
	TargetDeclared     = "declared"
	TargetAlreadyDead  = "already_dead"  // proven before; tried again all the same
	TargetUnprovable   = "unprovable"    // revoked before, and nobody can tell whether it works
	TargetNothingAlive = "nothing_alive" // no version of it may work
	TargetFailed       = "failed"        // could not be declared; it is tried again
)

// IncidentTarget is one secret that an incident is about.
type IncidentTarget struct {
	Secret     string `json:"secret"`
	Tenant     string `json:"tenant"`
	State      string `json:"state"`
	Error      string `json:"error,omitempty"`
	Pinned     []int  `json:"pinned,omitempty"` // the versions that were asked for; empty: all that may be alive
	RotationID string `json:"rotation_id,omitempty"`
	// Replacement is the version that is current now and not compromised; 0: there is none (yet).
	Replacement int               `json:"replacement,omitempty"`
	Waiting     string            `json:"waiting,omitempty"` // what the replacement waits for
	Versions    []IncidentVersion `json:"versions,omitempty"`
	Consumers   []string          `json:"consumers,omitempty"`
}

// IncidentVersion is one compromised version.
type IncidentVersion struct {
	Version      int       `json:"version"`
	RetirementID string    `json:"retirement_id,omitempty"`
	State        string    `json:"state"` // of the retirement; TargetAlreadyDead, without times: it was proven dead before the incident
	Issuer       string    `json:"issuer,omitempty"`
	RequestedAt  time.Time `json:"requested_at,omitzero"`
	ContainedAt  time.Time `json:"contained_at,omitzero"`
	ProvenAt     time.Time `json:"proven_at,omitzero"`
	WaitingFor   string    `json:"waiting_for,omitempty"`
	Error        string    `json:"error,omitempty"`
}

// IncidentSkipped is a secret that matched and is not turned off.
type IncidentSkipped struct {
	Secret string `json:"secret"`
	Tenant string `json:"tenant"`
	Why    string `json:"why"`
}

// IncidentConsumer is an application that feels it.
type IncidentConsumer struct {
	Consumer    string   `json:"consumer"`
	Secrets     int      `json:"secrets"`               // of the incident that it is told of
	Without     []string `json:"without,omitempty"`     // those whose replacement it has not received, at most a hundred
	Quarantined bool     `json:"quarantined,omitempty"` // it is not told
	Error       string   `json:"error,omitempty"`       // of the last attempt that failed
}

// IncidentStuck is what does not go on by itself for now, and why.
type IncidentStuck struct {
	Secret  string    `json:"secret"`
	Tenant  string    `json:"tenant"`
	Version int       `json:"version,omitempty"`
	What    string    `json:"what"` // "containment", "proof", "replacement", "delivery"
	Why     string    `json:"why"`
	Since   time.Time `json:"since,omitzero"`
	Next    string    `json:"next,omitempty"` // the command to run
}

// IncidentNote is what somebody wrote down.
type IncidentNote struct {
	At   time.Time `json:"at"`
	By   string    `json:"by"`
	Text string    `json:"text"`
}

// IncidentCheck is one thing that people have to do, since the broker does not manage it.
type IncidentCheck struct {
	Item   int       `json:"item"` // from 1
	Text   string    `json:"text"`
	DoneAt time.Time `json:"done_at,omitzero"`
	DoneBy string    `json:"done_by,omitempty"`
	Remark string    `json:"remark,omitempty"`
}

// IncidentQuery selects incidents, the latest first.
type IncidentQuery struct {
	State  string
	Secret string // only those about it
	Page
}

func (q IncidentQuery) values() url.Values {
	v := q.Page.values()
	set(v, "state", q.State)
	set(v, "secret", q.Secret)
	return v
}

// IncidentNoteRequest adds a note, or an item of the checklist.
type IncidentNoteRequest struct {
	Text  string `json:"text"`
	Check bool   `json:"check,omitempty"` // it is something to do
	Done  int    `json:"done,omitempty"`  // the item of the checklist that is done; Text remarks on it
}

// IncidentActRequest approves, rejects or closes an incident, or holds its evidence.
type IncidentActRequest struct {
	Reason string `json:"reason,omitempty"`
	Hold   *bool  `json:"hold,omitempty"` // of hold and close: whether evidence is held from now on; missing: as of the act
}

// IdentifyRequest asks what a text is.
type IdentifyRequest struct {
	Value SecretText `json:"value"`
	Probe bool       `json:"probe,omitempty"` // try it
}

// Identified is what the broker knows of a text.
type Identified struct {
	Matches []IdentifiedVersion `json:"matches"`
	Token   *Token              `json:"token,omitempty"` // it is a token of the broker itself
	// Looked is how many forms of the text were looked up: as it is, and what stands in it.
	Looked int    `json:"looked"`
	Cut    bool   `json:"cut,omitempty"`  // there are more matches
	Next   string `json:"next,omitempty"` // the command that ends the token
}

// IdentifiedVersion is a version that has the text.
type IdentifiedVersion struct {
	Secret  string `json:"secret"`
	Tenant  string `json:"tenant"`
	Version int    `json:"version"`
	Stage   string `json:"stage"`
	Whole   bool   `json:"whole"` // the text has every field of it
	// NameOnly: what the text has of it is the name of a user, a host or the like, which
	// opens nothing.
	NameOnly   bool      `json:"name_only,omitempty"`
	Issuer     string    `json:"issuer,omitempty"`
	Labels     Labels    `json:"labels,omitempty"`
	CreatedAt  time.Time `json:"created_at,omitzero"`
	RetiredAs  string    `json:"retired_as,omitempty"` // the state of its retirement
	Retirement string    `json:"retirement,omitempty"` // its id
	ProvenAt   time.Time `json:"proven_at,omitzero"`   // dead
	// Alive is "accepted", "rejected", "inconclusive", or why it was not tried.
	Alive      string    `json:"alive"`
	Detail     string    `json:"detail,omitempty"` // what the probe got
	TriedAt    time.Time `json:"tried_at,omitzero"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"` // as its issuer says
	LastUse    string    `json:"last_use,omitempty"`
	Consumers  []string  `json:"consumers,omitempty"`
	Readers    []Access  `json:"readers,omitempty"` // who was given it by the broker, the latest first
	Incidents  []string  `json:"incidents,omitempty"`
	Next       string    `json:"next,omitempty"`  // the command that turns it off, or shows that it is
	Needs      string    `json:"needs,omitempty"` // the capability that the caller lacks for that
}

// Labels are those of a secret.
type Labels map[string]string

// Access is that somebody was given a version.
type Access struct {
	Secret   string    `json:"secret,omitempty"`
	Tenant   string    `json:"tenant,omitempty"`
	Version  int       `json:"version"`
	Role     string    `json:"role,omitempty"`
	Actor    string    `json:"actor"`
	Identity string    `json:"identity,omitempty"`
	Address  string    `json:"address,omitempty"`
	Consumer string    `json:"consumer,omitempty"` // it was sent to it
	FirstAt  time.Time `json:"first_at"`
	LastAt   time.Time `json:"last_at"`
	// Unanswered: it was sent, and the consumer has not said that it arrived.
	Unanswered bool `json:"unanswered,omitempty"`
}
