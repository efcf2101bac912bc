package broker

import (
	"context"
	"time"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

const (
	// watchIncidentEvery is how often an incident is looked at, at most.
	watchIncidentEvery = 250 * time.Millisecond
	// fewTargets are so few that an event has them all, with the consumers.
	fewTargets = 20
	// fewStuck is how many lines an event has of what is stuck.
	fewStuck = 20
)

// WatchIncident sends the present state of an incident, again whenever it changed, but
// for long lists, and client.EventEnd once it is settled: everything of it is proven
// dead or can never be, or it is closed or rejected. It ends as WatchRotation does.
func (b *Broker) WatchIncident(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error) {
	var took latencies // from before the incident: they stay what they are
	read := func(ctx context.Context, tx *store.Tx, who authn.Principal, id string) ([]client.Event, bool, error) {
		i, err := tx.Incident(ctx, id)
		if err != nil {
			return nil, false, err
		}
		if took == nil {
			if took, err = latenciesBefore(ctx, tx, i); err != nil {
				return nil, false, err
			}
		}
		x, err := b.incidentState(ctx, tx, who, i, took)
		if err != nil {
			return nil, false, err
		}
		v := brief(x.view(b.Now()))
		return []client.Event{{Type: client.EventIncident, Incident: &v}}, i.Over() || i.State == rotation.IncidentOpen && v.Progress.Settled(), nil
	}
	return b.watch(ctx, p, "incident", id, watchIncidentEvery, read, func() (stillMay, error) {
		may := func(ctx context.Context, tx *store.Tx, who authn.Principal, _ bool) (bool, error) {
			i, err := tx.Incident(ctx, id)
			return b.incidentSight(who, i).sees, err
		}
		return may, b.seeIncident(ctx, p, id)
	})
}

// seeIncident refuses who does not see an incident.
func (b *Broker) seeIncident(ctx context.Context, p authn.Principal, id string) error {
	r := request{action: "incident.watch", path: incidentPath(id), detail: map[string]string{"incident": id}}
	_, may, missing := b.seenIncident(ctx, p, id)
	switch {
	case missing != nil:
		return b.refuse(ctx, p, r, itemwise, missing)
	case !may.sees:
		return b.unseen(ctx, p, r, "incident", id)
	}
	return b.looksOn(ctx, p, r, may.by)
}

// brief is an incident without its long lists.
func brief(v client.Incident) client.Incident {
	if len(v.Targets) > fewTargets {
		v.Targets, v.Consumers = nil, nil
	}
	v.Stuck = v.Stuck[:min(len(v.Stuck), fewStuck)]
	return v
}
