package engine_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

func (tx *memTx) Secret(_ context.Context, id string) (rotation.Secret, error) {
	tx.pause()
	return find(&tx.own.secrets, &tx.s.state.secrets, id)
}

func (tx *memTx) SaveSecret(_ context.Context, s *rotation.Secret) error {
	return swap(tx, &tx.own.secrets, &tx.s.state.secrets, s.ID, &s.Revision, func(h rotation.Secret) int64 { return h.Revision },
		func(have rotation.Secret) rotation.Secret {
			row := *s
			row.LastVersion = have.LastVersion
			return row
		})
}

func (tx *memTx) rowsOfVersions(secretID string) []rotation.Version {
	return every(&tx.own.versions, &tx.s.state.versions, func(v rotation.Version) bool { return v.SecretID == secretID })
}

func (tx *memTx) retirementOf(secretID string, number int) (rotation.Retirement, bool) {
	for _, t := range every(&tx.own.retirements, &tx.s.state.retirements, func(t rotation.Retirement) bool {
		return t.SecretID == secretID && t.Version == number
	}) {
		return readRetirement(t), true
	}
	return rotation.Retirement{}, false
}

func (tx *memTx) open(v rotation.Version) bool {
	if v.Stage != rotation.StageRetired {
		return true
	}
	t, ok := tx.retirementOf(v.SecretID, v.Number)
	if v.Foreign() && v.Sealed != nil {
		return true
	}
	return ok && (t.Soaking() || t.State != rotation.ProvenDead && t.State != rotation.Unprovable && !t.NextAt.IsZero())
}

func (tx *memTx) Versions(_ context.Context, secretID string) ([]rotation.Version, error) {
	tx.pause()
	var out []rotation.Version
	for _, v := range tx.rowsOfVersions(secretID) {
		if tx.open(v) {
			out = append(out, v)
		}
	}
	return out, nil
}

// versionsAreLocked tells whether reading one version in a transaction that may
// write keeps others from changing it until the end (SELECT … FOR UPDATE).
const versionsAreLocked = true

func (tx *memTx) Version(_ context.Context, secretID string, number int) (rotation.Version, error) {
	tx.pause()
	k := versionKey{secretID, number}
	if versionsAreLocked && !tx.readOnly {
		if err := tx.lock(k); err != nil {
			return rotation.Version{}, err
		}
	}
	return find(&tx.own.versions, &tx.s.state.versions, k)
}

func (tx *memTx) AddVersion(_ context.Context, v *rotation.Version) error {
	tx.pause()
	if err := tx.lock(v.SecretID); err != nil {
		return err
	}
	s, err := find(&tx.own.secrets, &tx.s.state.secrets, v.SecretID)
	if err != nil {
		return err
	}
	s.LastVersion++
	tx.own.secrets.put(s.ID, s)
	v.Number = s.LastVersion
	return tx.writeVersion(v)
}

func (tx *memTx) writeVersion(v *rotation.Version) error {
	if tx.s.w.refused > 0 && v.Sealed != nil {
		tx.s.w.refused--
		return fmt.Errorf("version %d: %w", v.Number, engine.ErrKeyGone)
	}
	row := *v
	row.Fingerprints = nil
	if k := (versionKey{v.SecretID, v.Number}); len(v.Fingerprints) > 0 {
		if _, ok := look(&tx.own.prints, &tx.s.state.prints, k); !ok {
			tx.own.prints.put(k, v.Fingerprints)
		}
	}
	if row.Stage == rotation.StageCurrent {
		for _, o := range tx.rowsOfVersions(v.SecretID) {
			if o.Stage == rotation.StageCurrent && o.Number != v.Number {
				return fmt.Errorf("version %d: %w", v.Number, errTaken)
			}
		}
	}
	tx.own.versions.put(versionKey{v.SecretID, v.Number}, row)
	return nil
}

func (tx *memTx) SaveVersion(_ context.Context, v *rotation.Version) error {
	tx.pause()
	k := versionKey{v.SecretID, v.Number}
	if err := tx.lock(k); err != nil {
		return err
	}
	if _, ok := look(&tx.own.versions, &tx.s.state.versions, k); !ok {
		return fmt.Errorf("saving version %d: %w", v.Number, backends.ErrNotFound)
	}
	return tx.writeVersion(v)
}

func (tx *memTx) VersionWith(_ context.Context, s rotation.Secret, fingerprints map[string]string) (rotation.Version, error) {
	tx.pause()
	all := tx.rowsOfVersions(s.ID)
	for _, v := range slices.Backward(all) {
		if have, _ := look(&tx.own.prints, &tx.s.state.prints, versionKey{s.ID, v.Number}); maps.Equal(have, fingerprints) && !v.NotAdopted() {
			return v, nil
		}
	}
	return rotation.Version{}, fmt.Errorf("looking for fingerprints: %w", backends.ErrNotFound)
}

func (tx *memTx) VersionByHandle(_ context.Context, issuer string, handle map[string]string) (rotation.Version, error) {
	tx.pause()
	for _, v := range every(&tx.own.versions, &tx.s.state.versions, func(v rotation.Version) bool {
		return (issuer == "" || v.Issuer == issuer) && maps.Equal(v.Handle, handle)
	}) {
		return v, nil
	}
	return rotation.Version{}, fmt.Errorf("looking for a handle: %w", backends.ErrNotFound)
}

func readRotation(r rotation.Rotation) rotation.Rotation {
	if r.Intent != nil {
		i := *r.Intent
		r.Intent = &i
	}
	r.Compromised = slices.Clone(r.Compromised)
	return r
}

func readRetirement(t rotation.Retirement) rotation.Retirement {
	if t.Intent != nil {
		i := *t.Intent
		t.Intent = &i
	}
	return t
}

func (tx *memTx) Rotation(_ context.Context, id string) (rotation.Rotation, error) {
	tx.pause()
	r, err := find(&tx.own.rotations, &tx.s.state.rotations, id)
	return readRotation(r), err
}

func (tx *memTx) occupying(secretID string) []rotation.Rotation {
	return every(&tx.own.rotations, &tx.s.state.rotations, func(r rotation.Rotation) bool {
		return r.SecretID == secretID && r.State.Occupies()
	})
}

type occupies string // the lock that the unique index takes

func (tx *memTx) AddRotation(_ context.Context, r *rotation.Rotation) error {
	tx.pause()
	if _, ok := look(&tx.own.secrets, &tx.s.state.secrets, r.SecretID); !ok {
		return fmt.Errorf("adding a rotation: %w", backends.ErrNotFound)
	}
	if r.State.Occupies() {
		if err := tx.lock(occupies(r.SecretID)); err != nil {
			return err
		}
		if len(tx.occupying(r.SecretID)) > 0 {
			return fmt.Errorf("adding rotation %s: %w", r.ID, errTaken)
		}
	}
	r.Revision = 1
	tx.own.rotations.put(r.ID, readRotation(*r))
	return nil
}

func (tx *memTx) SaveRotation(_ context.Context, r *rotation.Rotation) error {
	return swap(tx, &tx.own.rotations, &tx.s.state.rotations, r.ID, &r.Revision, func(h rotation.Rotation) int64 { return h.Revision },
		func(rotation.Rotation) rotation.Rotation { return readRotation(*r) })
}

func (tx *memTx) Occupying(_ context.Context, secretID string) (rotation.Rotation, error) {
	tx.pause()
	for _, r := range tx.occupying(secretID) {
		return readRotation(r), nil
	}
	return rotation.Rotation{}, fmt.Errorf("reading the rotation that occupies: %w", backends.ErrNotFound)
}

func (tx *memTx) LiveRotations(_ context.Context, secretID string) ([]rotation.Rotation, error) {
	tx.pause()
	live := every(&tx.own.rotations, &tx.s.state.rotations, func(r rotation.Rotation) bool {
		return r.SecretID == secretID && r.EndedAt.IsZero()
	})
	for i := range live {
		live[i] = readRotation(live[i])
	}
	return live, nil
}

func (tx *memTx) LastRotation(_ context.Context, secretID string) (last rotation.Rotation, err error) {
	tx.pause()
	err = fmt.Errorf("reading the newest rotation: %w", backends.ErrNotFound)
	for _, r := range every(&tx.own.rotations, &tx.s.state.rotations, func(r rotation.Rotation) bool { return r.SecretID == secretID }) {
		if !r.CreatedAt.Before(last.CreatedAt) {
			last, err = readRotation(r), nil
		}
	}
	return last, err
}

func (tx *memTx) Abandoned(ctx context.Context, limit int) (left []rotation.Version, err error) {
	tx.pause()
	pending := every(&tx.own.versions, &tx.s.state.versions, func(v rotation.Version) bool { return v.Stage == rotation.StagePending })
	for _, v := range pending {
		if _, err := tx.RetirementOf(ctx, v.SecretID, v.Number); err == nil {
			continue
		}
		r, err := tx.Rotation(ctx, v.RotationID)
		if (err != nil || r.State.Ended() || r.To != v.Number) && len(left) < limit {
			left = append(left, v)
		}
	}
	return left, nil
}

func (tx *memTx) SkipVersions(_ context.Context, secretID string, number int) error {
	s, err := find(&tx.own.secrets, &tx.s.state.secrets, secretID)
	if err == nil {
		s.LastVersion = max(s.LastVersion, number)
		tx.own.secrets.put(s.ID, s)
	}
	return err
}

func (tx *memTx) Freeze(context.Context) (rotation.Freeze, error) {
	tx.pause()
	if f, _ := look(&tx.own.freeze, &tx.s.state.freeze, freezeRow{}); f != nil {
		return *f, nil
	}
	return rotation.Freeze{}, fmt.Errorf("reading the freeze: %w", backends.ErrNotFound)
}

func (tx *memTx) SetFreeze(_ context.Context, f *rotation.Freeze) error {
	tx.pause()
	if err := tx.lock(freezeRow{}); err != nil {
		return err
	}
	tx.own.freeze.put(freezeRow{}, f)
	return nil
}

func (tx *memTx) Waiting(_ context.Context, waitingFor string) (engine.Due, error) {
	tx.pause()
	var d engine.Due
	for _, r := range every(&tx.own.rotations, &tx.s.state.rotations, func(r rotation.Rotation) bool {
		return r.WaitingFor == waitingFor && r.EndedAt.IsZero()
	}) {
		d.Rotations = append(d.Rotations, r.ID)
	}
	for _, t := range every(&tx.own.retirements, &tx.s.state.retirements, func(t rotation.Retirement) bool {
		return t.WaitingFor == waitingFor && !t.NextAt.IsZero()
	}) {
		d.Retirements = append(d.Retirements, t.ID)
	}
	return d, nil
}

func (tx *memTx) Retirement(_ context.Context, id string) (rotation.Retirement, error) {
	tx.pause()
	t, err := find(&tx.own.retirements, &tx.s.state.retirements, id)
	return readRetirement(t), err
}

func (tx *memTx) RetirementOf(_ context.Context, secretID string, version int) (rotation.Retirement, error) {
	tx.pause()
	t, ok := tx.retirementOf(secretID, version)
	if !ok {
		return t, fmt.Errorf("reading the retirement of version %d: %w", version, backends.ErrNotFound)
	}
	return t, nil
}

func (tx *memTx) Retirements(_ context.Context, secretID string) ([]rotation.Retirement, error) {
	tx.pause()
	var out []rotation.Retirement
	for _, v := range tx.rowsOfVersions(secretID) {
		if t, ok := tx.retirementOf(secretID, v.Number); ok && tx.open(v) {
			out = append(out, t)
		}
	}
	return out, nil
}

type retires versionKey // the lock that the unique index takes

func (tx *memTx) AddRetirement(_ context.Context, t *rotation.Retirement) error {
	tx.pause()
	if err := tx.lock(retires{t.SecretID, t.Version}); err != nil {
		return err
	}
	if _, ok := tx.retirementOf(t.SecretID, t.Version); ok {
		return fmt.Errorf("adding retirement %s: %w", t.ID, errTaken)
	}
	t.Revision = 1
	tx.own.retirements.put(t.ID, readRetirement(*t))
	return nil
}

func (tx *memTx) SaveRetirement(_ context.Context, t *rotation.Retirement) error {
	return swap(tx, &tx.own.retirements, &tx.s.state.retirements, t.ID, &t.Revision, func(h rotation.Retirement) int64 { return h.Revision },
		func(rotation.Retirement) rotation.Retirement { return readRetirement(*t) })
}

func readPlacement(p rotation.Placement) rotation.Placement {
	if p.Intent != nil {
		i := *p.Intent
		p.Intent = &i
	}
	if p.Drift != nil {
		d := *p.Drift
		p.Drift = &d
	}
	p.Held, p.Stages = slices.Clone(p.Held), maps.Clone(p.Stages)
	return p
}

func (tx *memTx) Placements(_ context.Context, secretID string) ([]rotation.Placement, error) {
	tx.pause()
	out := every(&tx.own.placements, &tx.s.state.placements, func(p rotation.Placement) bool { return p.SecretID == secretID && p.Revision > 0 })
	for i := range out {
		out[i] = readPlacement(out[i])
	}
	return out, nil
}

func (tx *memTx) Placement(_ context.Context, id string) (rotation.Placement, error) {
	tx.pause()
	p, err := find(&tx.own.placements, &tx.s.state.placements, id)
	if err == nil && p.Revision == 0 {
		err = fmt.Errorf("reading placement %s: %w", id, backends.ErrNotFound)
	}
	return readPlacement(p), err
}

type placedIn struct{ secret, backend string } // the lock that the unique index takes

func (tx *memTx) AddPlacement(ctx context.Context, p *rotation.Placement) error {
	if err := tx.lock(placedIn{p.SecretID, p.Backend}); err != nil {
		return err
	}
	have, _ := tx.Placements(ctx, p.SecretID)
	if slices.ContainsFunc(have, func(o rotation.Placement) bool { return o.Backend == p.Backend }) {
		return fmt.Errorf("adding a placement: %w", errTaken)
	}
	p.Revision = 1
	tx.own.placements.put(p.ID, readPlacement(*p))
	return nil
}

func (tx *memTx) SavePlacement(_ context.Context, p *rotation.Placement) error {
	return swap(tx, &tx.own.placements, &tx.s.state.placements, p.ID, &p.Revision, func(h rotation.Placement) int64 { return h.Revision },
		func(rotation.Placement) rotation.Placement { return readPlacement(*p) })
}

func (tx *memTx) RemovePlacement(ctx context.Context, p *rotation.Placement) error {
	if err := tx.SavePlacement(ctx, p); err != nil {
		return err
	}
	tx.own.placements.put(p.ID, rotation.Placement{ID: p.ID})
	return nil
}

func (tx *memTx) StartStep(context.Context, string, string, time.Time) error { return nil }

func (tx *memTx) EndStep(context.Context, string, string, string, string, time.Time) error {
	return nil
}

func (tx *memTx) NoteStep(context.Context, string, string, string, string, time.Time) error {
	return nil
}

func (tx *memTx) AddTry(context.Context, string, rotation.Try) error { return nil }

func (tx *memTx) AddDeliveries(_ context.Context, all []*rotation.Delivery) error {
	tx.pause()
	for _, d := range all {
		if err := tx.addDelivery(d); err != nil {
			return err
		}
	}
	return nil
}

func (tx *memTx) addDelivery(d *rotation.Delivery) error {
	for _, o := range every(&tx.own.deliveries, &tx.s.state.deliveries, func(o rotation.Delivery) bool {
		replaced := o.Version == d.Version && slices.Contains(d.Event.Replaces(), o.Event)
		return o.SecretID == d.SecretID && o.Consumer == d.Consumer && (o.Generation < d.Generation || replaced || d.SecretID == "") && o.State == rotation.DeliveryPending
	}) {
		if err := tx.lock(o.ID); err != nil {
			return err
		}
		if o, _ = look(&tx.own.deliveries, &tx.s.state.deliveries, o.ID); o.State != rotation.DeliveryPending {
			continue
		}
		o.State, o.NextAttemptAt, o.Revision = rotation.DeliverySuperseded, time.Time{}, o.Revision+1
		tx.own.deliveries.put(o.ID, o)
	}
	if d.Since.IsZero() {
		d.Since = d.CreatedAt
	}
	d.State, d.Revision = rotation.DeliveryPending, 1
	tx.own.deliveries.put(d.ID, *d)
	return nil
}

func (tx *memTx) Delivery(_ context.Context, id string) (rotation.Delivery, error) {
	tx.pause()
	return find(&tx.own.deliveries, &tx.s.state.deliveries, id)
}

func (tx *memTx) SaveDelivery(_ context.Context, d *rotation.Delivery) error {
	return swap(tx, &tx.own.deliveries, &tx.s.state.deliveries, d.ID, &d.Revision, func(h rotation.Delivery) int64 { return h.Revision },
		func(rotation.Delivery) rotation.Delivery { return *d })
}

func (tx *memTx) Deliveries(_ context.Context, secretID string, generation int64) ([]rotation.Delivery, error) {
	tx.pause()
	return every(&tx.own.deliveries, &tx.s.state.deliveries, func(d rotation.Delivery) bool {
		return d.SecretID == secretID && d.Generation == generation && d.Event.MakesCurrent()
	}), nil
}

func (tx *memTx) LastTold(_ context.Context, secretID, consumer string, version int) (rotation.Delivery, error) {
	tx.pause()
	told := every(&tx.own.deliveries, &tx.s.state.deliveries, func(d rotation.Delivery) bool {
		return d.SecretID == secretID && d.Consumer == consumer && d.Event.MakesCurrent() && (version == 0 || d.Version == version)
	})
	if len(told) == 0 {
		return rotation.Delivery{}, fmt.Errorf("%w: %s was told nothing", backends.ErrNotFound, consumer)
	}
	return slices.MaxFunc(told, func(a, b rotation.Delivery) int { return cmp.Compare(a.Generation, b.Generation) }), nil
}

func (tx *memTx) DueTo(_ context.Context, consumer string, now time.Time, _ int) (ids []engine.DueDelivery, _ error) {
	tx.pause()
	for _, o := range tx.pendingTo(consumer, now) {
		if due(o.NextAttemptAt, now) {
			ids = append(ids, engine.DueDelivery{ID: o.ID, Consumer: o.Consumer, SecretID: o.SecretID})
		}
	}
	return ids, nil
}

func (tx *memTx) pendingTo(consumer string, now time.Time) []rotation.Delivery {
	return every(&tx.own.deliveries, &tx.s.state.deliveries, func(o rotation.Delivery) bool {
		return o.Consumer == consumer && o.State == rotation.DeliveryPending && !o.Lease.After(now)
	})
}

func (tx *memTx) PendingTo(_ context.Context, consumer, instance string, now time.Time, after rotation.Delivery, limit int) ([]rotation.Delivery, error) {
	tx.pause()
	out := slices.DeleteFunc(tx.pendingTo(consumer, now), func(d rotation.Delivery) bool {
		ack, _ := look(&tx.own.acks, &tx.s.state.acks, ackKey{d.ID, instance})
		return !d.ReceivedAt.IsZero() && (instance == "" || ack.DeliveryID != "") || byCreation(d, after) <= 0
	})
	slices.SortFunc(out, byCreation)
	return out[:min(limit, len(out))], nil
}

func byCreation(a, b rotation.Delivery) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
}

func (tx *memTx) WakeDeliveries(_ context.Context, consumer string, now time.Time) error {
	return tx.reschedule(consumer, func(at time.Time) time.Time {
		if at.IsZero() || at.After(now) {
			return now
		}
		return at
	})
}

func (tx *memTx) HoldDeliveries(_ context.Context, consumer string) error {
	return tx.reschedule(consumer, func(time.Time) time.Time { return time.Time{} })
}

func (tx *memTx) reschedule(consumer string, next func(time.Time) time.Time) error {
	tx.pause()
	for _, o := range every(&tx.own.deliveries, &tx.s.state.deliveries, func(o rotation.Delivery) bool {
		return o.Consumer == consumer && o.State == rotation.DeliveryPending && !next(o.NextAttemptAt).Equal(o.NextAttemptAt)
	}) {
		if err := tx.lock(o.ID); err != nil {
			return err
		}
		if o, _ = look(&tx.own.deliveries, &tx.s.state.deliveries, o.ID); o.State != rotation.DeliveryPending {
			continue
		}
		if o.NextAttemptAt.IsZero() {
			o.Since = time.Now()
		}
		o.NextAttemptAt, o.Revision = next(o.NextAttemptAt), o.Revision+1
		tx.own.deliveries.put(o.ID, o)
	}
	return nil
}

func (tx *memTx) HeldConsumers(context.Context) (names []string, _ error) {
	tx.pause()
	for _, o := range every(&tx.own.deliveries, &tx.s.state.deliveries, func(o rotation.Delivery) bool {
		return o.State == rotation.DeliveryPending && o.NextAttemptAt.IsZero()
	}) {
		if !slices.Contains(names, o.Consumer) {
			names = append(names, o.Consumer)
		}
	}
	return names, nil
}

func (tx *memTx) AddAck(_ context.Context, a rotation.Ack) error {
	if had, _ := look(&tx.own.acks, &tx.s.state.acks, ackKey{a.DeliveryID, a.Instance}); had.DeliveryID == "" || a.Applied && !had.Applied {
		tx.own.acks.put(ackKey{a.DeliveryID, a.Instance}, a)
	}
	return nil
}

func (tx *memTx) Acks(_ context.Context, deliveryID string) ([]rotation.Ack, error) {
	tx.pause()
	return every(&tx.own.acks, &tx.s.state.acks, func(a rotation.Ack) bool { return a.DeliveryID == deliveryID }), nil
}

func (tx *memTx) DropAcks(_ context.Context, deliveryID string) error {
	for _, a := range every(&tx.own.acks, &tx.s.state.acks, func(a rotation.Ack) bool { return a.DeliveryID == deliveryID }) {
		tx.own.acks.put(ackKey{deliveryID, a.Instance}, rotation.Ack{})
	}
	return nil
}

func (tx *memTx) ConsumerState(_ context.Context, name string) (rotation.ConsumerState, error) {
	tx.pause()
	return tx.consumerState(name), nil
}

func (tx *memTx) consumerState(name string) rotation.ConsumerState {
	s, _ := look(&tx.own.consumers, &tx.s.state.consumers, name)
	s.Name = name
	for _, q := range tx.keptOut(rotation.KeptConsumer, name) {
		if s.QuarantinedAt.IsZero() || q.At.Before(s.QuarantinedAt) {
			s.QuarantinedAt = q.At
		}
	}
	return s
}

func (tx *memTx) ConsumerStates(context.Context) (states []rotation.ConsumerState, _ error) {
	tx.pause()
	names := map[string]bool{}
	for _, s := range every(&tx.own.consumers, &tx.s.state.consumers, func(rotation.ConsumerState) bool { return true }) {
		names[s.Name] = true
	}
	for _, q := range tx.keptOut(rotation.KeptConsumer, "") {
		names[q.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		states = append(states, tx.consumerState(name))
	}
	return states, nil
}

// keptOut are the quarantines of a kind that go on: of a name, or all.
func (tx *memTx) keptOut(kind rotation.Kept, name string) []rotation.Quarantine {
	return every(&tx.own.quarantines, &tx.s.state.quarantines, func(q rotation.Quarantine) bool {
		return q.Kind == kind && (name == "" || q.Name == name) && q.LiftedAt.IsZero()
	})
}

func (tx *memTx) AddQuarantine(_ context.Context, q rotation.Quarantine) (rotation.Quarantine, bool, error) {
	tx.pause()
	for _, o := range tx.keptOut(q.Kind, q.Name) {
		if o.IncidentID == q.IncidentID {
			return o, false, nil
		}
	}
	tx.own.quarantines.put(q.ID, q)
	return q, true, nil
}

func (tx *memTx) LiftQuarantines(_ context.Context, kind rotation.Kept, name, by, why string, at time.Time) ([]rotation.Quarantine, error) {
	tx.pause()
	lifted := tx.keptOut(kind, name)
	for i := range lifted {
		lifted[i].LiftedAt, lifted[i].LiftedBy, lifted[i].Lifting = at, by, why
		tx.own.quarantines.put(lifted[i].ID, lifted[i])
	}
	return lifted, nil
}

func (tx *memTx) Untold(_ context.Context, consumer string) (ids []string, _ error) {
	tx.pause()
	for _, s := range every(&tx.own.secrets, &tx.s.state.secrets, func(s rotation.Secret) bool {
		return s.Current > 0 && s.State != rotation.SecretUnmanaged && slices.Contains(s.Definition.Consumers, consumer)
	}) {
		told := every(&tx.own.deliveries, &tx.s.state.deliveries, func(d rotation.Delivery) bool {
			return d.SecretID == s.ID && d.Generation == s.Generation && d.Consumer == consumer && d.State != rotation.DeliveryDead && d.Event.MakesCurrent()
		})
		if len(told) == 0 {
			ids = append(ids, s.ID)
		}
	}
	return ids, nil
}

func (tx *memTx) SaveConsumerState(_ context.Context, s rotation.ConsumerState) error {
	tx.own.consumers.put(s.Name, s)
	return nil
}

func (tx *memTx) inFlight(d rotation.Delivery, now time.Time) bool {
	return d.SecretID != "" && len(every(&tx.own.deliveries, &tx.s.state.deliveries, func(o rotation.Delivery) bool {
		return o.SecretID == d.SecretID && o.Consumer == d.Consumer && o.ID != d.ID && o.Lease.After(now)
	})) > 0
}

func (tx *memTx) Sending(ctx context.Context, id string, now time.Time) (engine.Sending, error) {
	d, err := tx.Delivery(ctx, id)
	if err != nil {
		return engine.Sending{}, err
	}
	s := engine.Sending{Delivery: d, InFlight: tx.inFlight(d, now)}
	s.Consumer = tx.consumerState(d.Consumer)
	s.Version, _ = look(&tx.own.versions, &tx.s.state.versions, versionKey{d.SecretID, d.Version})
	for _, v := range every(&tx.own.versions, &tx.s.state.versions, func(v rotation.Version) bool {
		return v.SecretID == d.SecretID && v.Stage == rotation.StagePrevious && v.Number != d.Version
	}) {
		if s.Previous == nil {
			s.Previous = &v
		}
	}
	s.Outdated = len(every(&tx.own.deliveries, &tx.s.state.deliveries, func(o rotation.Delivery) bool {
		return o.SecretID == d.SecretID && o.Consumer == d.Consumer && o.Event.MakesCurrent() && o.Generation > d.Generation
	})) > 0
	of, _ := look(&tx.own.secrets, &tx.s.state.secrets, d.SecretID)
	s.TakenOut = d.SecretID != "" && !slices.Contains(of.Definition.Consumers, d.Consumer)
	s.Revoking = len(every(&tx.own.retirements, &tx.s.state.retirements, func(t rotation.Retirement) bool {
		return t.SecretID == d.SecretID && t.Version == d.Version && !t.RevokeBegunAt.IsZero()
	})) > 0
	return s, nil
}

func (tx *memTx) LeaseDelivery(ctx context.Context, d *rotation.Delivery, now time.Time) error {
	if tx.inFlight(*d, now) {
		return errStale
	}
	return tx.SaveDelivery(ctx, d)
}

func (tx *memTx) HeldBy(_ context.Context, rotationID, waitingFor string) (bool, error) {
	tx.pause()
	r, _ := look(&tx.own.rotations, &tx.s.state.rotations, rotationID)
	return r.State == rotation.Overlap && r.WaitingFor == waitingFor, nil
}

func leased(i *rotation.Intent, now time.Time) bool {
	return i != nil && !i.Unheard && i.Lease.After(now)
}

func due(at, now time.Time) bool { return !at.IsZero() && !at.After(now) }

func (tx *memTx) Due(_ context.Context, now time.Time, _ int) (engine.Due, error) {
	var d engine.Due
	for _, r := range every(&tx.own.rotations, &tx.s.state.rotations, func(r rotation.Rotation) bool {
		return due(r.NextAt, now) && r.EndedAt.IsZero() && !leased(r.Intent, now)
	}) {
		if d.Rotations = append(d.Rotations, r.ID); r.Emergency() {
			d.Emergencies = append(d.Emergencies, r.ID)
		}
	}
	for _, t := range every(&tx.own.retirements, &tx.s.state.retirements, func(t rotation.Retirement) bool {
		return due(t.NextAt, now) && !leased(t.Intent, now)
	}) {
		d.Retirements = append(d.Retirements, t.ID)
	}
	for _, o := range every(&tx.own.deliveries, &tx.s.state.deliveries, func(o rotation.Delivery) bool {
		late := o.NextAttemptAt.IsZero() && len(tx.keptOut(rotation.KeptConsumer, o.Consumer)) == 0 && !now.Before(o.Since.Add(engine.Uncollected))
		return (late || due(o.NextAttemptAt, now)) && o.State == rotation.DeliveryPending && !o.Lease.After(now)
	}) {
		d.Deliveries = append(d.Deliveries, engine.DueDelivery{ID: o.ID, Consumer: o.Consumer, SecretID: o.SecretID})
	}
	for _, p := range every(&tx.own.placements, &tx.s.state.placements, func(p rotation.Placement) bool {
		return p.Revision > 0 && due(p.NextAt, now) && !leased(p.Intent, now)
	}) {
		d.Placements = append(d.Placements, p.ID)
	}
	for _, i := range every(&tx.own.incidents, &tx.s.state.incidents, func(i rotation.Incident) bool { return due(i.NextAt, now) }) {
		d.Incidents = append(d.Incidents, i.ID)
	}
	return d, nil
}

func (tx *memTx) Beginning(_ context.Context, now time.Time, _ int) (engine.Due, error) {
	var d engine.Due
	for _, s := range every(&tx.own.secrets, &tx.s.state.secrets, func(s rotation.Secret) bool {
		return due(s.NextDueAt, now) && s.State == rotation.SecretActive && !slices.ContainsFunc(tx.occupying(s.ID), func(r rotation.Rotation) bool {
			return r.WaitingFor != rotation.WaitApproval || !engine.Proposed(r)
		})
	}) {
		d.Secrets = append(d.Secrets, s.ID)
	}
	for _, r := range every(&tx.own.rotations, &tx.s.state.rotations, func(r rotation.Rotation) bool {
		return due(r.NextAt, now) && r.WaitingFor == rotation.WaitWindow
	}) {
		d.Rotations = append(d.Rotations, r.ID)
	}
	for _, s := range every(&tx.own.secrets, &tx.s.state.secrets, func(s rotation.Secret) bool {
		return due(s.NoticeAt, now) && s.State == rotation.SecretActive
	}) {
		d.Notices = append(d.Notices, s.ID)
	}
	return d, nil
}

type serialized string // the lock that a key takes

func (tx *memTx) Serialize(_ context.Context, key string) error { return tx.lock(serialized(key)) }

// atGate are the rotations of a gate's pair or policy of which yes is true, the oldest first.
func (tx *memTx) atGate(g engine.Gate, limit int, yes func(rotation.Rotation) bool) (ids []string) {
	for _, r := range every(&tx.own.rotations, &tx.s.state.rotations, yes) {
		s, _ := look(&tx.own.secrets, &tx.s.state.secrets, r.SecretID)
		if g.Kind == rotation.WaitPair && s.Ref.Tenant == g.Tenant && s.Definition.Pair == g.Pair || g.Kind == rotation.WaitConcurrency && s.Definition.Policy == g.Policy {
			ids = append(ids, r.ID)
		}
	}
	slices.Sort(ids)
	return ids[:min(len(ids), limit)]
}

func (tx *memTx) Through(_ context.Context, g engine.Gate, exceptSecretID string) ([]string, error) {
	tx.pause()
	return tx.atGate(g, g.Room, func(r rotation.Rotation) bool {
		making := r.State.Occupies() && r.State != rotation.Queued
		return making && r.SecretID != exceptSecretID && (g.Kind == rotation.WaitPair || r.State != rotation.Overlap && r.WaitingFor != rotation.WaitValue)
	}), nil
}

func (tx *memTx) Waiters(_ context.Context, g engine.Gate, olderThan string, limit int) ([]string, error) {
	tx.pause()
	return tx.atGate(g, limit, func(r rotation.Rotation) bool {
		return r.WaitingFor == g.Kind && !r.State.Ended() && (olderThan == "" || r.ID < olderThan)
	}), nil
}

func (tx *memTx) AddAudit(context.Context, rotation.AuditEvent) error { return nil }

func (tx *memTx) Enqueue(context.Context, ...river.InsertManyParams) error { return nil } // a job that is lost does no harm
