package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// progress shows what becomes of an incident: a line for each fact as it becomes known, and
// how far it is. On a terminal that is drawn in place, below the facts; anywhere else it is
// a line whenever it has changed, and at least every heartbeat.
type progress struct {
	screen
	now   func() time.Time
	until string
	each  func(client.Event) error // is given every event; may be nil

	incident client.Incident // as it was told last
	known    bool            // it was told
	shown    map[string]bool // keys of the facts
	stuck    map[string]fact // what does not go on now
	pending  []fact
	lost     bool   // the server cannot be reached
	standing string // how far it is, as it was drawn last
	drawn    int    // lines of the terminal that are drawn over
	drawnAt  time.Time
}

// heartbeat is how long nothing is printed at most where there is no terminal.
const heartbeat = 10 * time.Second

func newProgress(out io.Writer, now func() time.Time) *progress {
	return &progress{screen: newScreen(out), now: now, until: untilProven, shown: map[string]bool{}, stuck: map[string]fact{}}
}

// errEnough ends following where nothing more is waited for.
var errEnough = errors.New("it has come as far as is wanted")

// follow shows events until the incident is as far as is wanted, or nothing more can be shown.
func (p *progress) follow(ctx context.Context, watch watching) error {
	err := receive(ctx, watch, p.take, func() { p.flush(false) })
	p.flush(true)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// take works one event in.
func (p *progress) take(e client.Event) error {
	p.connection(e)
	if e.Type == client.EventIncident {
		p.incident, p.known = *e.Incident, true
		p.add(incidentFacts(p.incident)...)
		p.takeStuck(p.incident.Stuck)
	}
	if p.each != nil {
		if err := p.each(e); err != nil {
			return err
		}
	}
	if p.known && p.enough() {
		return errEnough
	}
	return nil
}

// enough tells whether it is as far as is wanted, or as it can be: nobody waits for the
// proof of what cannot be proven.
func (p *progress) enough() bool {
	i := p.incident
	switch {
	case i.State == client.IncidentProposed:
		return false
	case i.State != client.IncidentOpen:
		return true
	case p.until == untilContained && i.Progress.AllContained():
		return true
	}
	return i.Progress.Settled()
}

// connection tells when the server is lost, and when it is back.
func (p *progress) connection(e client.Event) {
	lost := e.Type == client.EventInterrupted
	if lost == p.lost {
		return
	}
	p.lost = lost
	f := fact{at: p.now(), label: "connected", tone: warning}
	if lost {
		f.label, f.detail = "disconnected", e.Err.Error()+"; trying again"
	}
	f.key = f.label + f.at.String()
	p.add(f)
}

func (p *progress) add(facts ...fact) {
	for _, f := range facts {
		if !p.shown[f.key] {
			p.shown[f.key] = true
			p.pending = append(p.pending, f)
		}
	}
}

// takeStuck tells what has got stuck since, and what goes on again.
func (p *progress) takeStuck(now []client.IncidentStuck) {
	stuck := map[string]fact{}
	for _, s := range now {
		f := stuckFact(s)
		stuck[f.key] = f
		if _, was := p.stuck[f.key]; !was {
			f.at = p.now()
			p.pending = append(p.pending, f)
		}
	}
	if len(now) == p.incident.Progress.Stuck { // else the list was cut, and what is missing may be stuck yet
		for _, key := range slices.Sorted(maps.Keys(p.stuck)) {
			if _, still := stuck[key]; !still {
				p.pending = append(p.pending, fact{at: p.now(), label: "goes on", detail: key, tone: good})
			}
		}
	}
	p.stuck = stuck
}

// stuckFact is what does not go on, why, and what to do about it. Its key is what people
// know it by.
func stuckFact(s client.IncidentStuck) fact {
	f := fact{key: nameOf(s.Tenant, s.Secret, s.Version) + ": " + s.What, label: "stuck", tone: warning}
	f.detail = f.key + ": " + inWords(s.Why)
	if s.Next != "" {
		f.detail += "; do: " + s.Next
	}
	return f
}

func nameOf(tenant, secret string, version int) string {
	if version == 0 {
		return qualified(tenant, secret)
	}
	return fmt.Sprintf("%s version %d", qualified(tenant, secret), version)
}

// incidentFacts are the facts that an incident's own record tells.
func incidentFacts(i client.Incident) []fact {
	facts := []fact{{key: "declared", at: i.DeclaredAt, label: "declared", detail: fmt.Sprintf("%s, by %s: %s", several(i.Progress.Secrets, "secret"), declarer(i), i.Reason)}}
	if i.State == client.IncidentProposed {
		facts = append(facts, fact{key: "proposed", at: i.DeclaredAt, label: "NOT BEGUN", detail: approvalNeeded(i), tone: bad})
	}
	if !i.ApprovedAt.IsZero() {
		facts = append(facts, fact{key: "approved", at: i.ApprovedAt, label: "approved", detail: "by " + i.ApprovedBy})
	}
	for _, t := range i.Targets {
		facts = append(facts, targetFacts(t, i.DeclaredAt)...)
	}
	p := i.Progress
	if at := p.FirstContainedAt; at.After(i.DeclaredAt) && len(i.Targets) == 0 {
		facts = append(facts, fact{key: "first", at: at, label: "contained", detail: "the first version", tone: good})
	}
	if at := later(p.LastContainedAt, i.DeclaredAt); p.Versions > 0 && p.AllContained() {
		facts = append(facts, fact{key: "contained" + at.String(), at: at, label: "contained", detail: "everything: " + extent(p), tone: good})
	}
	if at := later(i.ProvenAt, i.DeclaredAt); p.Versions > 0 && !i.ProvenAt.IsZero() {
		facts = append(facts, fact{key: "proven" + at.String(), at: at, label: "proven dead", detail: "everything: " + extent(p), tone: good})
	}
	if at := i.ClosedAt; !at.IsZero() {
		facts = append(facts, fact{key: i.State, at: at, label: i.State, detail: byWhom(i)})
	}
	return facts
}

// targetFacts are those of one secret since the incident was declared; there are none in
// the events of a large incident.
func targetFacts(t client.IncidentTarget, declared time.Time) []fact {
	name := qualified(t.Tenant, t.Secret)
	var facts []fact
	for _, v := range t.Versions {
		what := fmt.Sprintf("%s version %d", name, v.Version)
		if v.State == client.TargetAlreadyDead {
			facts = append(facts, fact{key: "dead" + what, at: declared, label: "dead already", detail: what + ", proven before; it is tried once more", tone: good})
		}
		for _, f := range []fact{
			{at: v.RequestedAt, label: "revoking", detail: what},
			{at: v.ContainedAt, label: "contained", detail: what + " is rejected", tone: good},
			{at: v.ProvenAt, label: "proven dead", detail: what, tone: good},
		} {
			if f.key = f.label + what + f.at.String(); !f.at.Before(declared) {
				facts = append(facts, f)
			}
		}
	}
	return facts
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// approvalNeeded says that nothing happens, and what to do about it.
func approvalNeeded(i client.Incident) string {
	text := "somebody else than " + i.DeclaredBy + " has to approve it"
	if !i.ApproveBy.IsZero() {
		text += ", until " + stamp(i.ApproveBy)
	}
	return text + ": keybroker incident approve " + i.ID
}

// began is where its zero is.
func (p *progress) began() time.Time {
	if !p.incident.ApprovedAt.IsZero() {
		return p.incident.ApprovedAt
	}
	return p.incident.DeclaredAt
}
