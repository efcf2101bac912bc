package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// ErrKeyGone: AddVersion and SaveVersion refuse a sealed value whose key the store has
// forgotten, since nobody could open it any more. It is to be sealed anew.
var ErrKeyGone = fmt.Errorf("%w: the key that it was sealed by is gone", backends.ErrUnavailable)

// Store is the durable state that the engine needs. Errors carry a class of
// package backends: ErrNotFound, ErrConflict (a compare-and-swap lost, or a
// constraint refused the row), ErrUnavailable.
type Store interface {
	// Update runs fn in one read-write transaction, committed if fn returns nil.
	// It may run fn again after a serialisation failure, so fn has no effect
	// outside of tx.
	Update(ctx context.Context, fn func(Tx) error) error
	// View runs fn in one read-only transaction with one consistent snapshot.
	View(ctx context.Context, fn func(Tx) error) error
}

// Tx is one transaction. Save methods compare and swap: they write only if the
// row still has the record's Revision, increase it in the row and in the record,
// and return ErrConflict otherwise. They also publish what changed (AddChange).
type Tx interface {
	// Secret returns a secret by its id.
	Secret(ctx context.Context, id string) (rotation.Secret, error)
	SaveSecret(ctx context.Context, s *rotation.Secret) error

	// Versions returns a secret's open versions, the oldest first: those that are
	// not retired, those imported as no longer current, and those with a retirement that goes on (neither proven_dead nor
	// unprovable, with a NextAt, or Soaking). Version returns any; neither reads Fingerprints back.
	Versions(ctx context.Context, secretID string) ([]rotation.Version, error)
	Version(ctx context.Context, secretID string, number int) (rotation.Version, error)
	// Abandoned returns pending versions, of any secret, without a retirement, whose
	// rotation has ended or is bringing another one.
	Abandoned(ctx context.Context, limit int) ([]rotation.Version, error)
	// SkipVersions lets the versions to come be numbered beyond number.
	SkipVersions(ctx context.Context, secretID string, number int) error
	// AddVersion allocates v.Number (the highest ever used + 1) and inserts v.
	AddVersion(ctx context.Context, v *rotation.Version) error
	SaveVersion(ctx context.Context, v *rotation.Version) error // last write wins; guarded by its rotation's or retirement's revision
	// VersionByHandle returns a version of any secret that the issuer calls by this
	// handle, or ErrNotFound. Without an issuer it is one that any calls so.
	VersionByHandle(ctx context.Context, issuer string, handle map[string]string) (rotation.Version, error)
	// VersionWith returns the newest version of the secret, of any stage, that has
	// exactly these keyed fingerprints (as Version.Fingerprints has them), or ErrNotFound.
	VersionWith(ctx context.Context, s rotation.Secret, fingerprints map[string]string) (rotation.Version, error)

	Rotation(ctx context.Context, id string) (rotation.Rotation, error)
	// AddRotation inserts r; ErrConflict if another rotation occupies the secret.
	AddRotation(ctx context.Context, r *rotation.Rotation) error
	SaveRotation(ctx context.Context, r *rotation.Rotation) error
	// Occupying returns the rotation that occupies the secret, or ErrNotFound.
	Occupying(ctx context.Context, secretID string) (rotation.Rotation, error)
	// LiveRotations returns all rotations of the secret that have not ended.
	LiveRotations(ctx context.Context, secretID string) ([]rotation.Rotation, error)
	// LastRotation returns the newest rotation of the secret, or ErrNotFound.
	LastRotation(ctx context.Context, secretID string) (rotation.Rotation, error)

	Retirement(ctx context.Context, id string) (rotation.Retirement, error)
	// RetirementOf returns the retirement of one version, or ErrNotFound.
	RetirementOf(ctx context.Context, secretID string, version int) (rotation.Retirement, error)
	// Retirements returns those of a secret's open versions (see Versions), whatever
	// their state, ordered by version; a version has at most one.
	Retirements(ctx context.Context, secretID string) ([]rotation.Retirement, error)
	AddRetirement(ctx context.Context, t *rotation.Retirement) error
	SaveRetirement(ctx context.Context, t *rotation.Retirement) error

	// Placements returns what the vaults hold of a secret, ordered by backend.
	Placements(ctx context.Context, secretID string) ([]rotation.Placement, error)
	Placement(ctx context.Context, id string) (rotation.Placement, error)
	// AddPlacement inserts p; ErrConflict if the secret has one in that backend.
	AddPlacement(ctx context.Context, p *rotation.Placement) error
	SavePlacement(ctx context.Context, p *rotation.Placement) error
	// RemovePlacement deletes the row, as it was read.
	RemovePlacement(ctx context.Context, p *rotation.Placement) error

	// StartStep opens a line of the rotation's timeline, unless the same step is
	// open already. EndStep closes the open line of that step, or inserts a line
	// that starts and ends at the same instant if there is none. Lines of different
	// steps may be open side by side (an overlap and a push).
	StartStep(ctx context.Context, rotationID, step string, at time.Time) error
	// NoteStep adds a line that starts and ends at the same instant.
	EndStep(ctx context.Context, rotationID, step, outcome, detail string, at time.Time) error
	NoteStep(ctx context.Context, rotationID, step, outcome, detail string, at time.Time) error
	// AddTry records one verdict.
	AddTry(ctx context.Context, secretID string, t rotation.Try) error

	// AddDeliveries inserts deliveries to several consumers, of one event of one secret or
	// of none, as pending, and marks as superseded what still waits for the same consumers
	// and secret, if it is of an older generation or the event replaces its.
	AddDeliveries(ctx context.Context, all []*rotation.Delivery) error
	Delivery(ctx context.Context, id string) (rotation.Delivery, error)
	// Sending returns a delivery with what an attempt at it goes by. LeaseDelivery saves its
	// attempts and lease, without telling the feed of changes; ErrConflict also if an
	// attempt at another one of the same consumer and secret is under way.
	Sending(ctx context.Context, id string, now time.Time) (Sending, error)
	LeaseDelivery(ctx context.Context, d *rotation.Delivery, now time.Time) error
	SaveDelivery(ctx context.Context, d *rotation.Delivery) error
	// Deliveries returns those that tell of what one generation of a secret made current.
	Deliveries(ctx context.Context, secretID string, generation int64) ([]rotation.Delivery, error)
	// LastTold returns the newest delivery to a consumer that makes a version of the
	// secret current, of a number or, if that is 0, of any; ErrNotFound if there is none.
	LastTold(ctx context.Context, secretID, consumer string, version int) (rotation.Delivery, error)
	// DueTo returns deliveries to one consumer whose time has come, at most limit, in order.
	DueTo(ctx context.Context, consumer string, now time.Time, limit int) ([]DueDelivery, error)
	// PendingTo returns what waits for an instance of a consumer and is not leased, the
	// oldest first, at most limit that come after another (zero: from the beginning). For
	// an instance without a name nothing waits that another one has acknowledged.
	PendingTo(ctx context.Context, consumer, instance string, now time.Time, after rotation.Delivery, limit int) ([]rotation.Delivery, error)
	// WakeDeliveries makes what waits for a consumer due now; HoldDeliveries makes it wait
	// until then, without a time.
	WakeDeliveries(ctx context.Context, consumer string, now time.Time) error
	HoldDeliveries(ctx context.Context, consumer string) error
	// HeldConsumers are the names of those for whom something waits without a time.
	HeldConsumers(ctx context.Context) ([]string, error)
	// AddAck records one instance's acknowledgement, unless it has said as much already.
	// Acks returns those of a delivery, the first given first.
	AddAck(ctx context.Context, a rotation.Ack) error
	Acks(ctx context.Context, deliveryID string) ([]rotation.Ack, error)
	DropAcks(ctx context.Context, deliveryID string) error
	// ConsumerState returns what is kept of a consumer: nothing, at first.
	ConsumerState(ctx context.Context, name string) (rotation.ConsumerState, error)
	ConsumerStates(ctx context.Context) ([]rotation.ConsumerState, error)
	SaveConsumerState(ctx context.Context, s rotation.ConsumerState) error
	// AddQuarantine begins one, unless one of the same name and incident goes on, which it
	// returns then; added is false.
	// LiftQuarantines ends those of a name that go on, and returns them. The states of
	// consumers tell of theirs.
	AddQuarantine(ctx context.Context, q rotation.Quarantine) (now rotation.Quarantine, added bool, err error)
	LiftQuarantines(ctx context.Context, kind rotation.Kept, name, by, why string, at time.Time) ([]rotation.Quarantine, error)
	// Untold returns the ids of secrets that name a consumer and have a current version that
	// it neither was nor is being told of, or was given up.
	Untold(ctx context.Context, consumer string) ([]string, error)
	// HeldBy tells whether a rotation is in its overlap and waits there for what is named.
	HeldBy(ctx context.Context, rotationID, waitingFor string) (bool, error)

	// AddIncident inserts an incident with its targets; ErrConflict if there is one of its id.
	AddIncident(ctx context.Context, i *rotation.Incident, targets []rotation.Target) error
	Incident(ctx context.Context, id string) (rotation.Incident, error)
	SaveIncident(ctx context.Context, i *rotation.Incident) error
	// Target returns one of an incident. SaveTarget writes it over what there is of it, and
	// adds what of its versions is new.
	Target(ctx context.Context, incidentID, secretID string) (rotation.Target, error)
	SaveTarget(ctx context.Context, t rotation.Target, compromised []rotation.Compromised) error
	// Undeclared returns targets that are pending or, behind those, failed, at most limit.
	Undeclared(ctx context.Context, incidentID string, limit int) ([]rotation.Target, error)
	// Tally counts how far an incident is.
	Tally(ctx context.Context, incidentID string) (rotation.Tally, error)
	// IncidentsOfRotation returns the ids of the open incidents that a rotation belongs to as
	// a target's emergency, the oldest first; IncidentsOfVersion those that a version is
	// compromised in.
	IncidentsOfRotation(ctx context.Context, rotationID string) ([]string, error)
	IncidentsOfVersion(ctx context.Context, secretID string, version int) ([]string, error)

	// Due returns what is under way, should be looked at by now and is not leased, at most
	// limit of each: no secrets.
	Due(ctx context.Context, now time.Time, limit int) (Due, error)
	// Beginning returns the secrets that are due and not occupied, or only by what is
	// Proposed and waits for its approval, and the rotations whose window has opened, at
	// most limit of each, the longest due first.
	Beginning(ctx context.Context, now time.Time, limit int) (Due, error)

	// Serialize keeps every other transaction that asks for the same key waiting until
	// this one ends.
	Serialize(ctx context.Context, key string) error
	// Through returns the rotations of secrets, other than one, that are through a gate and
	// not yet beyond, at most as many as it has room for. Waiters returns those that stand
	// at it, the oldest first, at most limit: all, or those older than a rotation.
	Through(ctx context.Context, g Gate, exceptSecretID string) ([]string, error)
	Waiters(ctx context.Context, g Gate, olderThan string, limit int) ([]string, error)

	// Freeze returns who has frozen everything, or ErrNotFound; SetFreeze(nil) ends that.
	Freeze(ctx context.Context) (rotation.Freeze, error)
	SetFreeze(ctx context.Context, f *rotation.Freeze) error
	// Waiting returns the rotations and retirements that wait for what is named.
	Waiting(ctx context.Context, waitingFor string) (Due, error)

	// AddAudit commits ev with the transaction; it reaches the audit log after.
	AddAudit(ctx context.Context, ev rotation.AuditEvent) error
	// Enqueue inserts River jobs with the transaction.
	Enqueue(ctx context.Context, jobs ...river.InsertManyParams) error
}

// Due are ids of rows whose time has come.
type Due struct {
	Secrets     []string // NextDueAt has come, active, not occupied (see Tx.Beginning)
	Rotations   []string // NextAt has come
	Emergencies []string // those of them that are of emergencies, which have urgent workers
	Retirements []string
	Placements  []string
	Incidents   []string
	Notices     []string // secrets whose NoticeAt has come
	Deliveries  []DueDelivery
}

// Sending is all of the store that an attempt at a delivery goes by.
type Sending struct {
	Delivery rotation.Delivery
	Consumer rotation.ConsumerState
	// Version is the one that it tells of: zero if there is none, else as much of it as a
	// message needs and Open. Previous is the one in its overlap beside it, as little.
	Version  rotation.Version
	Previous *rotation.Version
	Outdated bool // the consumer has a delivery of a newer generation
	InFlight bool // an attempt at another delivery of the same consumer and secret is under way
	Revoking bool // the version's revocation has begun
	TakenOut bool // the secret's definition does not name the consumer any more
}

// DueDelivery is a delivery whose time has come.
type DueDelivery struct {
	ID       string
	Consumer string
	SecretID string // empty: of none
}
