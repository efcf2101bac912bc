package engine_test

import (
	"context"
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/rotation"
)

func (tx *memTx) AddIncident(_ context.Context, i *rotation.Incident, targets []rotation.Target) error {
	tx.pause()
	if _, ok := look(&tx.own.incidents, &tx.s.state.incidents, i.ID); ok {
		return fmt.Errorf("adding incident %s: %w", i.ID, errTaken)
	}
	if err := tx.lock(i.ID); err != nil {
		return err
	}
	i.Revision = 1
	tx.own.incidents.put(i.ID, *i)
	for _, t := range targets {
		tx.own.targets.put(targetKey{i.ID, t.SecretID}, t)
	}
	return nil
}

func (tx *memTx) Incident(_ context.Context, id string) (rotation.Incident, error) {
	tx.pause()
	return find(&tx.own.incidents, &tx.s.state.incidents, id)
}

func (tx *memTx) SaveIncident(_ context.Context, i *rotation.Incident) error {
	return swap(tx, &tx.own.incidents, &tx.s.state.incidents, i.ID, &i.Revision, func(h rotation.Incident) int64 { return h.Revision },
		func(rotation.Incident) rotation.Incident { return *i })
}

func (tx *memTx) Target(_ context.Context, incidentID, secretID string) (rotation.Target, error) {
	tx.pause()
	return find(&tx.own.targets, &tx.s.state.targets, targetKey{incidentID, secretID})
}

func (tx *memTx) SaveTarget(_ context.Context, t rotation.Target, compromised []rotation.Compromised) error {
	k := targetKey{t.IncidentID, t.SecretID}
	if err := tx.lock(k); err != nil {
		return err
	}
	tx.own.targets.put(k, t)
	for _, c := range compromised {
		tx.own.compromised.put(compromisedKey{t.IncidentID, c.SecretID, c.Version}, c.Retirement.ID)
	}
	return nil
}

func (tx *memTx) targets(incidentID string, of ...rotation.TargetState) []rotation.Target {
	return every(&tx.own.targets, &tx.s.state.targets, func(t rotation.Target) bool {
		return t.IncidentID == incidentID && (len(of) == 0 || slices.Contains(of, t.State))
	})
}

func (tx *memTx) Undeclared(_ context.Context, incidentID string, limit int) ([]rotation.Target, error) {
	tx.pause()
	all := append(tx.targets(incidentID, rotation.TargetPending), tx.targets(incidentID, rotation.TargetFailed)...)
	return all[:min(limit, len(all))], nil
}

func (tx *memTx) versionsOfIncidents(yes func(compromisedKey) bool) []compromisedKey {
	var keys []compromisedKey
	for _, table := range []*table[compromisedKey, string]{&tx.s.state.compromised, &tx.own.compromised} {
		for _, k := range table.order {
			if yes(k) && !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

func (tx *memTx) Tally(ctx context.Context, incidentID string) (rotation.Tally, error) {
	n := rotation.Tally{Secrets: len(tx.targets(incidentID)), Pending: len(tx.targets(incidentID, rotation.TargetPending)), Failed: len(tx.targets(incidentID, rotation.TargetFailed))}
	i, err := tx.Incident(ctx, incidentID)
	if err != nil {
		return n, err
	}
	for _, k := range tx.versionsOfIncidents(func(k compromisedKey) bool { return k.incident == incidentID }) {
		id, _ := look(&tx.own.compromised, &tx.s.state.compromised, k)
		t, err := tx.Retirement(ctx, id)
		if err != nil {
			return n, err
		}
		n.Count(t, i.Began())
	}
	return n, nil
}

func (tx *memTx) IncidentsOfRotation(_ context.Context, rotationID string) (ids []string, err error) {
	tx.pause()
	for _, t := range every(&tx.own.targets, &tx.s.state.targets, func(t rotation.Target) bool { return t.RotationID == rotationID }) {
		if i, _ := look(&tx.own.incidents, &tx.s.state.incidents, t.IncidentID); i.State == rotation.IncidentOpen {
			ids = append(ids, i.ID)
		}
	}
	return ids, nil
}

func (tx *memTx) IncidentsOfVersion(_ context.Context, secretID string, version int) (ids []string, err error) {
	tx.pause()
	for _, k := range tx.versionsOfIncidents(func(k compromisedKey) bool { return k.secret == secretID && k.version == version }) {
		ids = append(ids, k.incident)
	}
	return ids, nil
}
