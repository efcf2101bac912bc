package broker

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// incidentState is what the store knows of an incident, from one snapshot.
type incidentState struct {
	inc        rotation.Incident
	tally      rotation.Tally
	replaced   int
	targets    []rotation.Target // those whose secrets the caller sees, by name
	secrets    map[string]store.TargetSecret
	versions   map[string][]rotation.Compromised // by secret
	issuers    map[store.VersionID]string
	replacing  map[string]rotation.Rotation // by id: what has published no replacement
	deliveries []rotation.Delivery          // of the replacements, by consumer
	took       latencies
	kept       func(consumer string) bool // it is in quarantine: nobody tells it
}

// incidentState reads an incident as p sees it; took is what is known of its issuers.
func (b *Broker) incidentState(ctx context.Context, tx *store.Tx, p authn.Principal, i rotation.Incident, took latencies) (*incidentState, error) {
	x := &incidentState{inc: i, took: took, kept: b.keptOut, secrets: map[string]store.TargetSecret{}, versions: map[string][]rotation.Compromised{}, replacing: map[string]rotation.Rotation{}}
	secrets, err := tx.TargetSecrets(ctx, i.ID)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, s := range secrets {
		may, err := b.sight(ctx, tx, p, s.Secret)
		if err != nil {
			return nil, err
		}
		x.secrets[s.ID] = s
		seen[s.ID] = may.sees || may.reaches && own(p, i)
	}
	if err := x.read(ctx, tx); err != nil {
		return nil, err
	}
	x.targets = slices.DeleteFunc(x.targets, func(t rotation.Target) bool { return !seen[t.SecretID] })
	hindered, err := b.hindrances(ctx, tx)
	for n, d := range x.deliveries {
		x.deliveries[n] = hindered.of(d)
	}
	return x, err
}

func (x *incidentState) read(ctx context.Context, tx *store.Tx) (err error) {
	id := x.inc.ID
	if x.targets, err = tx.Targets(ctx, id); err != nil {
		return err
	}
	for _, t := range x.targets {
		x.count(t)
	}
	compromised, err := tx.CompromisedOf(ctx, id)
	if err != nil {
		return err
	}
	for _, c := range compromised {
		x.tally.Count(c.Retirement, x.inc.Began())
		x.versions[c.SecretID] = append(x.versions[c.SecretID], c)
	}
	if x.replaced, err = tx.ReplacedTargets(ctx, id); err != nil {
		return err
	}
	replacing, err := tx.Replacing(ctx, id)
	if err != nil {
		return err
	}
	for _, r := range replacing {
		x.replacing[r.ID] = r
	}
	if x.issuers, err = tx.IssuersOf(ctx, id); err != nil {
		return err
	}
	x.deliveries, err = tx.ReplacementDeliveries(ctx, id)
	return err
}

// count adds a target to the tally.
func (x *incidentState) count(t rotation.Target) {
	switch x.tally.Secrets++; t.State {
	case rotation.TargetPending:
		x.tally.Pending++
	case rotation.TargetFailed:
		x.tally.Failed++
	}
}

// viewIncident is an incident without its lists.
func viewIncident(i rotation.Incident, n rotation.Tally, now time.Time) client.Incident {
	i.Looked(n, now) // nobody may have noted yet how far it is
	if i.State == rotation.IncidentProposed || i.State == rotation.IncidentRejected {
		i.ContainedAt, i.ProvenAt = time.Time{}, time.Time{}
	}
	out := client.Incident{ID: i.ID, State: string(i.State), Cause: string(i.Cause), Trigger: i.Trigger, Tenant: i.Tenant, Reason: i.Reason, Contain: i.Contain,
		DeclaredBy: i.Actor, ApprovedBy: i.ApprovedBy, Overridden: i.Overridden, ClosedBy: i.ClosedBy, Closing: i.Closing, Hold: i.Hold,
		LeakedAt: utc(i.LeakedAt), DetectedAt: utc(i.DetectedAt), DeclaredAt: utc(i.DeclaredAt), ApprovedAt: utc(i.ApprovedAt), ApproveBy: utc(i.ApproveBy),
		ContainedAt: utc(i.ContainedAt), ProvenAt: utc(i.ProvenAt), ClosedAt: utc(i.ClosedAt),
		Progress: client.IncidentProgress{Secrets: n.Secrets, Pending: n.Pending, Failed: n.Failed, Versions: n.Versions, Acknowledged: n.Acknowledged,
			Contained: n.Contained, Proven: n.Proven, Unprovable: n.Unprovable, AlreadyDead: n.AlreadyDead, FirstContainedAt: utc(n.FirstContainedAt), LastContainedAt: utc(n.LastContainedAt)}}
	if len(i.Selector) > 0 {
		_ = json.Unmarshal(i.Selector, &out.Selector) // it was made of one
	}
	return out
}

// view is the incident with all of its lists that are about secrets.
func (x *incidentState) view(now time.Time) client.Incident {
	out := viewIncident(x.inc, x.tally, now)
	out.Progress.Replaced = x.replaced
	out.Progress.ToTell, out.Progress.Told = x.told()
	if x.inc.State == rotation.IncidentOpen || x.inc.State == rotation.IncidentClosed {
		out.Progress.ContainedBy, out.Progress.ProvenBy = x.estimates(now)
	}
	for _, t := range x.targets {
		out.Targets = append(out.Targets, x.target(t))
	}
	out.Consumers = x.consumers()
	out.Stuck = x.stuck(now)
	out.Progress.Stuck = len(out.Stuck)
	return out
}

func (x *incidentState) target(t rotation.Target) client.IncidentTarget {
	s := x.secrets[t.SecretID]
	out := client.IncidentTarget{Secret: t.Ref.Name, Tenant: t.Ref.Tenant, State: string(t.State), Error: t.Error, Pinned: t.Versions, RotationID: t.RotationID,
		Consumers: s.Definition.Consumers}
	begun := t.State != rotation.TargetPending && t.State != rotation.TargetFailed
	if s.Current > 0 && begun && !x.compromised(t.SecretID, s.Current) {
		out.Replacement = s.Current
	}
	if r, is := x.replacing[t.RotationID]; is && out.Replacement == 0 {
		out.Waiting = waitingOf(r)
	}
	for _, c := range x.versions[t.SecretID] {
		r := c.Retirement
		v := client.IncidentVersion{Version: c.Version, RetirementID: r.ID, State: string(r.State), Issuer: x.issuerOf(c),
			RequestedAt: utc(r.RequestedAt), ProvenAt: utc(r.ProvenAt), WaitingFor: r.WaitingFor, Error: r.Why()}
		if r.ProvenBefore(x.inc.Began()) {
			out.Versions = append(out.Versions, client.IncidentVersion{Version: c.Version, RetirementID: r.ID, State: client.TargetAlreadyDead, Issuer: v.Issuer})
			continue
		}
		if r.Dead() {
			v.ContainedAt = utc(r.DeadSince())
		}
		if r.State == rotation.Resurrected {
			v.ProvenAt = time.Time{}
		}
		out.Versions = append(out.Versions, v)
	}
	return out
}

func (x *incidentState) compromised(secretID string, version int) bool {
	return slices.ContainsFunc(x.versions[secretID], func(c rotation.Compromised) bool { return c.Version == version })
}

// waitingOf says what a replacement waits for.
func waitingOf(r rotation.Rotation) string {
	text := r.WaitingFor
	if r.State == rotation.Failed {
		text = "nothing: it failed"
	}
	if r.Error != "" {
		text = strings.TrimPrefix(text+": "+r.Error, ": ")
	}
	return text
}

// replaces tells whether the consumers of a target are told of another version: because
// its current one is compromised, or was, and the emergency has replaced it.
func (x *incidentState) replaces(t rotation.Target) bool {
	s := x.secrets[t.SecretID]
	_, replacing := x.replacing[t.RotationID]
	return t.RotationID != "" && (replacing || s.BroughtBy == t.RotationID || x.compromised(s.ID, s.Current))
}

// told counts the pairs of a secret and a consumer that is to be told of its replacement,
// and of those that were.
func (x *incidentState) told() (all, told int) {
	received := map[[2]string]bool{}
	for _, d := range x.deliveries {
		received[[2]string{d.SecretID, d.Consumer}] = d.Satisfies(rotation.RequireReceived)
	}
	for _, t := range x.targets {
		if !x.replaces(t) {
			continue
		}
		for _, name := range x.secrets[t.SecretID].Definition.Consumers {
			if x.kept(name) {
				continue
			}
			if all++; received[[2]string{t.SecretID, name}] {
				told++
			}
		}
	}
	return all, told
}

// keptOut tells whether a consumer is in quarantine.
func (b *Broker) keptOut(consumer string) bool {
	_, is := b.Authn.Quarantined(rotation.KeptConsumer, consumer)
	return is
}

// mostWithout is how many secrets are named that a consumer has not received.
const mostWithout = 100

// consumers are the applications that feel it, by name.
func (x *incidentState) consumers() []client.IncidentConsumer {
	by := map[string]*client.IncidentConsumer{}
	state := map[[2]string]rotation.Delivery{}
	for _, d := range x.deliveries {
		state[[2]string{d.Consumer, d.SecretID}] = d
	}
	for _, t := range x.targets {
		for _, name := range x.secrets[t.SecretID].Definition.Consumers {
			c := by[name]
			if c == nil {
				c = &client.IncidentConsumer{Consumer: name, Quarantined: x.kept(name)}
				by[name] = c
			}
			c.Secrets++
			d, told := state[[2]string{name, t.SecretID}]
			if !x.replaces(t) || told && d.Satisfies(rotation.RequireReceived) {
				continue
			}
			if d.Error != "" {
				c.Error = d.Error
			}
			if len(c.Without) < mostWithout {
				c.Without = append(c.Without, t.Ref.String())
			}
		}
	}
	out := make([]client.IncidentConsumer, 0, len(by))
	for _, c := range by {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b client.IncidentConsumer) int { return strings.Compare(a.Consumer, b.Consumer) })
	return out
}
