package broker

import (
	"maps"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// The wire forms of what the store holds. Nothing here reveals a value.

func viewSecret(s rotation.Secret, versions []rotation.Version, retirements []rotation.Retirement, placements []rotation.Placement, occupying *rotation.Rotation) client.Secret {
	d := s.Definition
	out := client.Secret{Name: s.Ref.Name, Tenant: s.Ref.Tenant, Backend: d.Backend, Labels: maps.Clone(d.Labels), Issuer: d.Issuer,
		Probe: d.Probe, Consumers: d.Consumers, Schedule: d.Schedule, Policy: d.Policy, Pair: d.Pair, State: string(s.State), Generation: s.Generation,
		Versions: []client.Version{}}
	out.Mirrors, out.Drift = viewMirrors(s, placements)
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if s.State == rotation.SecretActive {
		out.NextRotationAt = utc(rotation.NextByItself(s, occupying))
	}
	if occupying != nil && s.State == rotation.SecretActive {
		out.State = client.SecretRotating
	}
	for _, v := range versions {
		w := client.Version{Number: v.Number, Stage: string(v.Stage), CreatedAt: utc(v.CreatedAt),
			PublishedAt: utc(v.PublishedAt), OverlapUntil: utc(v.OverlapUntil),
			Foreign: v.Foreign(), HandleMissing: v.Foreign() && v.Handle == nil && v.Issuer != ""}
		for _, t := range retirements {
			if t.Version == v.Number {
				r := viewRetirement(store.RetirementOf{Retirement: t, Ref: s.Ref}, nil)
				w.Retirement = &r
			}
		}
		out.Versions = append(out.Versions, w)
	}
	return out
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

func viewRotation(r store.RotationOf, steps []rotation.Step) client.Rotation {
	out := client.Rotation{ID: r.ID, Secret: r.Ref.Name, Tenant: r.Ref.Tenant, Trigger: string(r.Trigger), Reason: r.Reason,
		State: string(r.State), WaitingFor: r.WaitingFor, Error: r.Error, FromVersion: r.From, ToVersion: r.To,
		Compromised: r.Compromised, StartedAt: utc(r.CreatedAt), PublishedAt: utc(r.PublishedAt),
		OverlapUntil: utc(r.OverlapUntil), EndedAt: utc(r.EndedAt), Actor: r.Actor, ApprovedBy: r.ApprovedBy,
		ApprovedAt: utc(r.ApprovedAt), RollBackBy: r.RollBackBy, NextAt: utc(r.NextAt),
		IgnoreWindow: r.IgnoreWindow, ValueBy: utc(r.ValueBy), Steps: []client.Step{}}
	if r.Adopts != nil {
		out.Adopts = r.Adopts.Backend
	}
	for _, s := range steps {
		out.Steps = append(out.Steps, client.Step{Step: s.Step, StartedAt: utc(s.StartedAt), EndedAt: utc(s.EndedAt),
			Outcome: s.Outcome, Detail: s.Detail})
	}
	return out
}

func viewRetirement(t store.RetirementOf, tries []rotation.Try) client.Retirement {
	out := client.Retirement{ID: t.ID, Secret: t.Ref.Name, Tenant: t.Ref.Tenant, Version: t.Version, Cause: string(t.Cause), Reason: t.Reason,
		State: string(t.State), WaitingFor: t.WaitingFor, Error: t.Why(), RotationID: t.RotationID,
		RequestedAt: utc(t.RequestedAt), AcknowledgedAt: utc(t.AcknowledgedAt), LastAcceptedAt: utc(t.LastAcceptedAt),
		ContainedAt: utc(t.ContainedAt), ProvenAt: utc(t.ProvenAt), ResurrectedAt: utc(t.ResurrectedAt),
		Control: string(t.Control), NeverMade: t.NeverMade, AlreadyRejected: t.AlreadyRejected, NextAt: utc(t.NextAt),
		ByHand: t.ByHand, LastUsedAt: utc(t.LastUsedAt), LastUse: t.LastUse, SessionsEndedAt: utc(t.SessionsEndedAt), RemoveAt: utc(t.RemoveAt), RemovedAt: utc(t.RemovedAt), Rechecks: viewRechecks(t.Retirement, tries)}
	if t.Scope != (rotation.Scope{}) {
		scope := client.Scope(t.Scope)
		out.Scope = &scope
	}
	if !t.ContainedAt.IsZero() {
		out.RevocationLatencyMS = t.ContainedAt.Sub(t.RequestedAt).Milliseconds()
	}
	for _, l := range tries {
		out.Tries = append(out.Tries, client.Try{Round: l.Round, Purpose: string(l.Purpose), Version: l.Version, At: utc(l.At),
			Probe: l.Probe, Node: l.Node, Address: l.Address, Verdict: string(l.Verdict), Detail: l.Detail,
			LatencyMS: l.Latency.Milliseconds()})
	}
	return out
}

// viewRechecks lists the re-checks due after the proof; those made carry their
// time and verdict where the tries are at hand.
func viewRechecks(t rotation.Retirement, tries []rotation.Try) []client.Recheck {
	if t.ProvenAt.IsZero() {
		return nil
	}
	var made []rotation.Try
	for _, l := range tries {
		if l.Purpose == rotation.PurposeRecheck && l.Verdict != rotation.Inconclusive && l.At.After(t.ProvenAt) {
			if len(made) == 0 || made[len(made)-1].Round != l.Round {
				made = append(made, l)
			}
		}
	}
	out := make([]client.Recheck, 0, len(t.Confirm.Recheck))
	for i, after := range t.Confirm.Recheck {
		r := client.Recheck{DueAt: utc(t.ProvenAt.Add(after))}
		for len(made) > 0 && made[0].At.Before(r.DueAt) { // somebody asked for it
			made = made[1:]
		}
		if i < t.Rechecks && len(made) > 0 {
			r.At, r.Verdict = utc(made[0].At), string(made[0].Verdict)
			made = made[1:]
		}
		out = append(out, r)
	}
	return out
}
