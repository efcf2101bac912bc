package broker

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/report"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

const (
	reportLines = 50_000 // of the audit log, that a report takes
	reportReads = 1000   // of one version
	reportTries = 200    // of one retirement, of those that follow each other and say the same: half at each end
	// reportBack is how long before the declaration a version may have been made that the
	// whole of its history in the audit log is looked for.
	reportBack = 7 * 24 * time.Hour
	// reportPatience is how long a report waits for the audit log to have what was committed.
	reportPatience = 3 * time.Second
)

// reports lets one report be made at a time: each holds all of it in memory.
type reports struct{ one chan struct{} }

func newReports() reports { return reports{make(chan struct{}, 1)} }

// ReportKey is the public key that reports are signed with, which anybody may have.
func (b *Broker) ReportKey() client.ReportKey {
	return report.KeyOf(b.ReportSigner.Public().(ed25519.PublicKey))
}

// IncidentReport makes the report of an incident, signed, for whoever sees the incident.
func (b *Broker) IncidentReport(ctx context.Context, p authn.Principal, id string) (out report.Signed, err error) {
	r := request{action: "incident.report", path: incidentPath(id), detail: map[string]string{"incident": id}}
	_, may, missing := b.seenIncident(ctx, p, id)
	switch {
	case missing != nil:
		return out, b.refuse(ctx, p, r, itemwise, missing)
	case !may.sees:
		return out, b.unseen(ctx, p, r, "incident", id)
	}
	err = b.serve(ctx, p, r, may.by, func() (_ map[string]string, err error) {
		out, err = b.makeReport(ctx, p, id)
		return nil, err
	})
	return out, err
}

// makeReport makes and signs the report of an incident, cut to what p sees.
func (b *Broker) makeReport(ctx context.Context, p authn.Principal, id string) (out report.Signed, err error) {
	select {
	case b.reports.one <- struct{}{}:
		defer func() { <-b.reports.one }()
	case <-ctx.Done():
		return out, fmt.Errorf("%w: waiting for another report to be made: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	c := collecting{b: b, p: p, r: report.Report{MadeBy: b.Engine.Node, MadeFor: p.ID, Secrets: []report.Secret{}}, about: map[backends.Ref]bool{}}
	if p.Identity != "" {
		c.r.MadeFor = p.Identity
	}
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		c.r.MadeAt = b.Now().UTC() // nothing that is in it is later
		return c.collect(ctx, tx, id)
	})
	if err != nil {
		return out, err
	}
	if err := c.journal(ctx); err != nil {
		return out, err
	}
	if c.r, err = report.Make(c.r); err != nil {
		return out, err
	}
	return report.Sign(c.r, b.ReportSigner)
}

// collecting gathers what a report is made of.
type collecting struct {
	b     *Broker
	p     authn.Principal
	r     report.Report
	about map[backends.Ref]bool // the secrets that are in it
	seq   int64                 // of the newest event that was committed before
	logs  map[string]string     // the newest checkpoints of all nodes' logs
}

func (c *collecting) collect(ctx context.Context, tx *store.Tx, id string) error {
	i, err := tx.Incident(ctx, id)
	if err != nil {
		return err
	}
	if c.seq, err = tx.AuditSeq(ctx); err != nil {
		return err
	}
	if c.logs, err = tx.AuditCheckpoints(ctx); err != nil {
		return err
	}
	if err := c.incident(ctx, tx, i); err != nil {
		return err
	}
	secrets, err := tx.TargetSecrets(ctx, id)
	if err != nil {
		return err
	}
	by := map[string]rotation.Secret{}
	for _, s := range secrets {
		may, err := c.b.sight(ctx, tx, c.p, s.Secret)
		if err != nil {
			return err
		}
		if !may.sees && !(may.reaches && own(c.p, i)) {
			c.r.Partial = true
			continue
		}
		by[s.ID] = s.Secret
	}
	return c.targets(ctx, tx, i, by)
}

// incident is the record of the emergency with what people wrote down.
func (c *collecting) incident(ctx context.Context, tx *store.Tx, i rotation.Incident) error {
	r := &c.r.Incident
	*r = report.Incident{ID: i.ID, State: string(i.State), Cause: string(i.Cause), Trigger: i.Trigger, Tenant: i.Tenant, Reason: i.Reason, Contain: i.Contain,
		DeclaredBy: i.Actor, Identity: i.Identity, ApprovedBy: i.ApprovedBy, Overridden: i.Overridden, ClosedBy: i.ClosedBy, Closing: i.Closing, Hold: i.Hold,
		LeakedAt: utc(i.LeakedAt), DetectedAt: utc(i.DetectedAt), DeclaredAt: utc(i.DeclaredAt), ApprovedAt: utc(i.ApprovedAt), ClosedAt: utc(i.ClosedAt)}
	if len(i.Selector) > 0 {
		if err := json.Unmarshal(i.Selector, &r.Selector); err != nil {
			return fmt.Errorf("reading what incident %s was declared for: %w", i.ID, err)
		}
	}
	var said client.Incident
	if err := c.b.written(ctx, tx, c.p, i, &said); err != nil {
		return err
	}
	r.Skipped, r.Quarantine, r.Notes, r.Checklist = said.Skipped, said.Quarantine, said.Notes, said.Checklist
	return nil
}

// targets are the secrets, by their tenants and names.
func (c *collecting) targets(ctx context.Context, tx *store.Tx, i rotation.Incident, by map[string]rotation.Secret) error {
	targets, err := tx.Targets(ctx, i.ID)
	if err != nil {
		return err
	}
	compromised, err := tx.CompromisedOf(ctx, i.ID)
	if err != nil {
		return err
	}
	versions := map[string][]rotation.Compromised{}
	for _, v := range compromised {
		versions[v.SecretID] = append(versions[v.SecretID], v)
	}
	deliveries, err := tx.ReplacementDeliveries(ctx, i.ID)
	if err != nil {
		return err
	}
	told := map[string][]client.Delivery{}
	for _, d := range deliveries {
		told[d.SecretID] = append(told[d.SecretID], viewDelivery(d, nil))
	}
	for _, t := range targets {
		s, seen := by[t.SecretID]
		if !seen {
			continue
		}
		one, err := c.secret(ctx, tx, t, s, versions[s.ID])
		if err != nil {
			return err
		}
		one.Deliveries = told[s.ID]
		c.r.Secrets = append(c.r.Secrets, one)
		c.about[s.Ref] = true
	}
	return nil
}

func (c *collecting) secret(ctx context.Context, tx *store.Tx, t rotation.Target, s rotation.Secret, compromised []rotation.Compromised) (report.Secret, error) {
	d := s.Definition
	out := report.Secret{Name: s.Ref.Name, Tenant: s.Ref.Tenant, State: string(t.State), Error: t.Error, Pinned: t.Versions, Backend: d.Backend, Labels: d.Labels,
		Current: s.Current, Versions: []report.Version{}, Consumers: d.Consumers}
	for _, k := range compromised {
		v, err := c.version(ctx, tx, s, k)
		if err != nil {
			return out, err
		}
		out.Versions = append(out.Versions, v)
	}
	if s.Current > 0 && !slices.ContainsFunc(compromised, func(k rotation.Compromised) bool { return k.Version == s.Current }) {
		v, err := tx.Version(ctx, s.ID, s.Current)
		if err != nil {
			return out, err
		}
		out.Versions = append(out.Versions, report.Version{Version: v.Number, Issuer: v.Issuer, CreatedAt: utc(v.CreatedAt), PublishedAt: utc(v.PublishedAt)})
	}
	if t.RotationID == "" {
		return out, nil
	}
	r, err := tx.Rotation(ctx, t.RotationID)
	if err != nil {
		return out, err
	}
	steps, err := tx.Steps(ctx, r.ID)
	if err != nil {
		return out, err
	}
	view := viewRotation(store.RotationOf{Rotation: r, Ref: s.Ref}, steps)
	out.Rotation = &view
	return out, nil
}

// version is one that is compromised, with its proof and who was given it.
func (c *collecting) version(ctx context.Context, tx *store.Tx, s rotation.Secret, k rotation.Compromised) (out report.Version, err error) {
	v, err := tx.Version(ctx, s.ID, k.Version)
	if err != nil {
		return out, err
	}
	tries, err := allTries(ctx, tx, k.Retirement.ID)
	if err != nil {
		return out, err
	}
	t := k.Retirement
	proof := report.Retirement{Retirement: viewRetirement(store.RetirementOf{Retirement: t, Ref: s.Ref}, tries),
		Required:   report.Required{None: t.Confirm.None, Rejections: t.Confirm.Rejections, WindowMS: t.Confirm.Window.Milliseconds()},
		SeriesFrom: utc(t.FirstAt), SeriesTo: utc(t.LastAt), NothingAt: utc(t.NothingAt)}
	proof.Tries, proof.LeftOut = thinned(proof.Tries)
	out = report.Version{Version: v.Number, Compromised: true, Issuer: v.Issuer, CreatedAt: utc(v.CreatedAt), PublishedAt: utc(v.PublishedAt), Retirement: &proof}
	if out.Reads, err = c.b.accesses(ctx, tx, s, k.Version, reportReads+1); err != nil {
		return out, err
	}
	if out.MoreReads = len(out.Reads) > reportReads; out.MoreReads {
		out.Reads = out.Reads[:reportReads]
	}
	for i := range out.Reads {
		out.Reads[i].FirstAt, out.Reads[i].LastAt = utc(out.Reads[i].FirstAt), utc(out.Reads[i].LastAt)
	}
	return out, nil
}

// thinned leaves out the midst of many rounds in a row that showed the same: what follows
// from the others follows from all.
func thinned(tries []client.Try) (kept []client.Try, left int) {
	if len(tries) <= reportTries {
		return tries, 0
	}
	showed := func(t client.Try) string { return strings.Join([]string{t.Purpose, t.Address, t.Verdict}, " ") }
	var rounds [][]client.Try
	for _, t := range tries {
		if n := len(rounds); n > 0 && rounds[n-1][0].Round == t.Round {
			rounds[n-1] = append(rounds[n-1], t)
			continue
		}
		rounds = append(rounds, []client.Try{t})
	}
	alike := func(a, b []client.Try) bool {
		return slices.EqualFunc(a, b, func(x, y client.Try) bool { return showed(x) == showed(y) })
	}
	for from := 0; from < len(rounds); {
		to := from + 1
		for to < len(rounds) && alike(rounds[from], rounds[to]) {
			to++
		}
		for i := from; i < to; i++ {
			if i-from < reportTries/2 || to-i <= reportTries/2 {
				kept = append(kept, rounds[i]...)
			} else {
				left += len(rounds[i])
			}
		}
		from = to
	}
	return kept, left
}

// journal takes what the node's audit log says of the incident.
func (c *collecting) journal(ctx context.Context) error {
	log, i := c.b.Audit, c.r.Incident
	since := c.since()
	c.r.Journal.Behind = !c.caughtUp(ctx)
	path := incidentPath(i.ID)
	about := audit.About{Since: since, Paths: map[string]bool{path: true}, Secrets: map[string]bool{}, Limit: reportLines}
	for ref := range c.about {
		about.Paths[ref.Name], about.Secrets[ref.String()] = true, true
	}
	for _, q := range i.Quarantine {
		about.Paths[quarantinePath+"/"+q.Kind+"/"+q.Name] = true
	}
	about.Choose = func(ln audit.Line) bool {
		if c.p.Tenant != "" && ln.Tenant != c.p.Tenant {
			return false
		}
		if ln.Path == path {
			return !looked(ln)
		}
		if strings.HasPrefix(ln.Path, quarantinePath+"/") {
			return ln.Detail["incident"] == i.ID
		}
		if ln.Secret != "" {
			return about.Secrets[ln.Secret]
		}
		return c.about[backends.Ref{Tenant: ln.Tenant, Name: ln.Path}]
	}
	found, err := log.Excerpt(ctx, about)
	if err != nil {
		return err
	}
	c.r.Journal.Excerpt = found
	c.r.Journal.Node = strings.TrimPrefix(found.Origin, audit.OriginPrefix)
	c.otherLogs(since)
	return nil
}

// since is from when on the audit log is looked through: from when it leaked or was
// noticed, and from when the first version was made that is compromised, unless that is
// long ago: who was given it stands in the records of reads in any case.
func (c *collecting) since() time.Time {
	i := c.r.Incident
	since := i.DeclaredAt
	earlier := func(at time.Time) {
		if !at.IsZero() && at.Before(since) {
			since = at
		}
	}
	earlier(i.LeakedAt)
	earlier(i.DetectedAt)
	for _, s := range c.r.Secrets {
		for _, v := range s.Versions {
			if v.Compromised && i.DeclaredAt.Sub(v.CreatedAt) < reportBack {
				earlier(v.CreatedAt)
			}
		}
	}
	return since.Add(-time.Minute) // a request is recorded before what comes of it
}

// looked tells whether somebody only looked at the incident.
func looked(ln audit.Line) bool {
	return ln.Outcome == outcomeOK && (ln.Capability == "read" || ln.Capability == "list" || slices.Contains([]string{"incident.show", "incident.list", "incident.watch", "incident.report"}, ln.Action))
}

// caughtUp waits until the log has what was committed when the report was begun. What
// another node's log takes it never has.
func (c *collecting) caughtUp(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	for c.b.Audit.Newest() < c.seq {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true
}

// otherLogs are those that were written to since the incident began.
func (c *collecting) otherLogs(since time.Time) {
	for node, note := range c.logs {
		if node == c.r.Journal.Node {
			continue
		}
		newest, err := audit.ReadCheckpoint(note)
		if err != nil {
			c.b.Logger.Warn("the checkpoint of another node's audit log cannot be read", "node", node, "error", err)
		}
		if err != nil || !newest.At.Before(since) {
			c.r.OtherLogs = append(c.r.OtherLogs, report.Log{Node: node, Size: newest.Size, At: utc(newest.At)})
		}
	}
	slices.SortFunc(c.r.OtherLogs, func(a, b report.Log) int { return strings.Compare(a.Node, b.Node) })
}
