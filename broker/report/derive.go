package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation"
)

// deriving works out the claims of a report. It depends on the records alone, so that
// whoever has them comes to the same.
type deriving struct {
	*Report
	claims []Claim

	tries map[string]string // what a verdict's line in the log says → "audit:INDEX"
	acts  map[string]string // action, secret and version of what the engine did → the same
	lines []audit.Line
	// readBy are lines by which a version was handed out; nil: not looked for yet.
	readBy map[string][]string
	total  total

	unlogged int // verdicts that the log has no line of
	left     int // verdicts that are not in the report
}

// total counts over all versions.
type total struct {
	versions, contained, proven, open int
	before                            int      // were proven dead before the incident, and are in none of the others
	evidence                          []string // the retirements
	// from when until when anything was exposed, and when the first was contained and the
	// last was proven.
	from, until, first, provenAt time.Time
}

func derive(r *Report, lines []audit.Line) []Claim {
	d := &deriving{Report: r, lines: lines, tries: map[string]string{}, acts: map[string]string{}}
	for _, ln := range lines {
		at := fmt.Sprintf("audit:%d", ln.Index)
		if ln.Action == "probe.verdict" {
			d.tries[strings.Join([]string{ln.Detail["retirement"], ln.Detail["round"], ln.Detail["purpose"], ln.Detail["address"], ln.Detail["verdict"], ln.At.UTC().Format(time.RFC3339Nano), strconv.Itoa(ln.Version)}, "|")] = at
			continue
		}
		for _, id := range []string{ln.Detail["retirement"], ln.Detail["rotation"], ln.Detail["incident"], ln.Detail["delivery"], ln.Detail["kind"] + "/" + ln.Detail["name"]} {
			if key := ln.Action + "|" + id; id != "" && ln.Outcome == "ok" && d.acts[key] == "" {
				d.acts[key] = at
			}
		}
	}
	d.declared()
	for i := range r.Secrets {
		d.secret(&r.Secrets[i])
	}
	d.acted()
	d.people()
	d.summed()
	d.limits()
	return d.claims
}

// say adds a claim. Evidence that is empty is left out.
func (d *deriving) say(c Claim, evidence ...string) {
	c.ID = "C" + strconv.Itoa(len(d.claims)+1)
	c.Evidence = []string{}
	for _, e := range evidence {
		if e != "" {
			c.Evidence = append(c.Evidence, e)
		}
	}
	c.At, c.Until = utc(c.At), utc(c.Until)
	d.claims = append(d.claims, c)
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC()
}

// did is the line of the log by which something was done to a record.
func (d *deriving) did(id string, actions ...string) string {
	for _, a := range actions {
		if at := d.acts[a+"|"+id]; at != "" {
			return at
		}
	}
	return ""
}

// declared is about the incident itself.
func (d *deriving) declared() {
	i := d.Incident
	who := i.DeclaredBy
	if i.Identity != "" {
		who = i.Identity + " (" + who + ")"
	}
	if !i.LeakedAt.IsZero() {
		d.say(Claim{Kind: KindLeaked, At: i.LeakedAt, By: who, Text: "it leaked, as whoever declared the incident says"}, "incident")
	} else {
		d.say(Claim{Kind: KindLimit, Text: "nobody has said when it leaked: exposure is counted from when each version was published"}, "incident")
	}
	if !i.DetectedAt.IsZero() {
		d.say(Claim{Kind: KindDetected, At: i.DetectedAt, By: who, Text: "somebody or something noticed it"}, "incident")
	}
	text := "the incident was declared: " + i.Reason
	if i.Trigger != "" {
		text = fmt.Sprintf("trigger %s declared the incident: %s", i.Trigger, i.Reason)
	}
	d.say(Claim{Kind: KindDeclared, At: i.DeclaredAt, By: who, Text: text}, "incident", d.did(i.ID, "incident.open"))
	if !i.ApprovedAt.IsZero() {
		d.say(Claim{Kind: KindApproved, At: i.ApprovedAt, By: i.ApprovedBy, Text: "a second person approved it"}, "incident", d.did(i.ID, "incident.approve"))
	}
	if i.Overridden {
		d.say(Claim{Kind: KindOverridden, At: i.DeclaredAt, By: who, Text: "it did not wait for a second person: that was overridden"}, "incident", d.did(i.ID, "incident.open"))
	}
	switch {
	case i.State == client.IncidentRejected:
		d.say(Claim{Kind: KindRejected, At: i.ClosedAt, By: i.ClosedBy, Text: said("the incident was rejected", i.Closing)}, "incident", d.did(i.ID, "incident.reject"))
	case !i.ClosedAt.IsZero():
		d.say(Claim{Kind: KindClosed, At: i.ClosedAt, By: i.ClosedBy, Text: said("the incident was closed", i.Closing)}, "incident", d.did(i.ID, "incident.close"))
	case i.State == client.IncidentProposed:
		d.say(Claim{Kind: KindOpen, Text: "nobody has approved the incident yet: nothing is done"}, "incident")
	}
	for n, s := range i.Skipped {
		d.say(Claim{Kind: KindSkipped, Secret: nameOf(s.Tenant, s.Secret), Text: "it matched and was not turned off: " + s.Why}, "skipped:"+strconv.Itoa(n+1))
	}
}

func said(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// nameOf is what a secret is called: with its tenant, unless that is the default one.
func nameOf(tenant, name string) string {
	return backends.Ref{Tenant: tenant, Name: name}.String()
}

// secret is about one target.
func (d *deriving) secret(s *Secret) {
	name := nameOf(s.Tenant, s.Name)
	record := "secret:" + name
	switch s.State {
	case client.TargetPending:
		d.say(Claim{Kind: KindOpen, Secret: name, Text: "its emergency is not declared yet"}, record)
	case client.TargetFailed:
		d.say(Claim{Kind: KindOpen, Secret: name, Text: said("its emergency could not be declared", s.Error)}, record)
	case client.TargetNothingAlive:
		d.say(Claim{Kind: KindCompromised, Secret: name, Text: "no version of it could be alive: there was nothing to turn off"}, record)
	}
	if s.State == client.TargetPending || s.State == client.TargetFailed {
		d.total.open++
	}
	compromised := false
	for i := range s.Versions {
		if s.Versions[i].Compromised {
			compromised = true
			d.version(s, &s.Versions[i])
		}
	}
	if compromised {
		d.replaced(s)
	}
}

// version is about one that is compromised.
func (d *deriving) version(s *Secret, v *Version) {
	name := nameOf(s.Tenant, s.Name)
	record := fmt.Sprintf("version:%s/%d", name, v.Version)
	claim := Claim{Secret: name, Version: v.Version}
	put := func(kind string, at time.Time, text string, evidence ...string) {
		c := claim
		c.Kind, c.At, c.Text = kind, at, text
		d.say(c, evidence...)
	}
	put(KindCompromised, v.CreatedAt, said("a version that is compromised was made", issuerOf(v)), record)
	d.reads(name, v)
	t := v.Retirement
	if t == nil {
		d.total.versions++
		d.total.open++
		put(KindOpen, time.Time{}, "nothing turns it off yet", record)
		d.exposed(claim, v, standing{}, record)
		return
	}
	retirement := "retirement:" + t.ID
	d.total.evidence = append(d.total.evidence, retirement)
	d.left += t.LeftOut
	now := d.judge(t)
	if d.before(now) {
		d.total.before++
		kind, when, text := KindProven, now.proven, "it had been proven dead before the incident, which only has it tried once more"
		if now.never {
			kind, when, text = KindContained, now.contained, "nothing was ever made: its issuer had nothing under its tag before the incident"
		}
		put(kind, when, text, append([]string{retirement}, now.proof...)...)
		d.exposed(claim, v, now, retirement)
		return
	}
	d.total.versions++
	put(KindRequested, t.RequestedAt, said("its revocation was requested", t.Reason), retirement, d.did(t.ID, "retirement.request"))
	if !t.AcknowledgedAt.IsZero() && !t.NeverMade {
		text := "its issuer said that it is revoked"
		if t.ByHand {
			text = "a person said that it is turned off: no issuer did"
		}
		put(KindAcknowledged, t.AcknowledgedAt, text, retirement, d.did(t.ID, "retirement.revoke", "retirement.turned_off"))
	}
	if !t.LastUsedAt.IsZero() || t.LastUse != "" {
		put(KindLastUse, t.LastUsedAt, said("its last use, as its issuer knew before it was revoked", t.LastUse), retirement)
	} else {
		put(KindLimit, time.Time{}, "its issuer has not said when it was last used", retirement)
	}
	if !t.SessionsEndedAt.IsZero() {
		put(KindSessions, t.SessionsEndedAt, "the sessions that were derived from it were ended", retirement)
	} else if t.Scope != nil && t.Scope.DerivedSessions == "not ended" {
		put(KindOpen, time.Time{}, "sessions that were derived from it were not ended: they may live on", retirement)
	}
	d.fate(claim, v, now)
}

// before tells whether a version was proven dead before the incident began.
func (d *deriving) before(now standing) bool {
	since := now.proven
	if now.never {
		since = now.contained
	}
	return !since.IsZero() && since.Before(latest(d.Incident.DeclaredAt, d.Incident.ApprovedAt))
}

func issuerOf(v *Version) string {
	if v.Issuer == "" {
		return ""
	}
	return "issuer " + v.Issuer
}

// fate is about whether a version is dead.
func (d *deriving) fate(claim Claim, v *Version, now standing) {
	t := v.Retirement
	retirement := "retirement:" + t.ID
	put := func(kind string, at time.Time, text string, evidence ...string) {
		c := claim
		c.Kind, c.At, c.Text = kind, at, text
		d.say(c, append([]string{retirement}, evidence...)...)
	}
	if !t.ResurrectedAt.IsZero() {
		put(KindResurrected, t.ResurrectedAt, "it was accepted again after it had been proven dead", now.accepted...)
	}
	switch {
	case now.never:
		put(KindContained, now.contained, "nothing was ever made: its issuer has nothing under its tag")
	case !now.contained.IsZero():
		put(KindContained, now.contained, "it was tried and rejected", append(now.rejected, d.did(t.ID, "retirement.contain"))...)
	case now.doubt != "":
		put(KindOpen, time.Time{}, now.doubt, now.accepted...)
	default:
		put(KindOpen, time.Time{}, said("it is not contained: nothing shows that it is rejected ("+t.State+")", t.Error), now.accepted...)
	}
	if now.contained.IsZero() {
		d.total.open++
	} else {
		d.total.contained++
	}
	switch {
	case now.never:
		d.total.proven++
	case !now.proven.IsZero():
		d.total.proven++
		d.total.provenAt = latest(d.total.provenAt, now.proven)
		put(KindProven, now.proven, proofText(t), append(now.proof, d.did(t.ID, "retirement.prove"))...)
	case now.unproven != "":
		put(KindOpen, time.Time{}, now.unproven, now.proof...)
	case t.State == client.Unprovable:
		put(KindOpen, time.Time{}, said("nobody can prove that it is dead", t.Error))
	case !now.contained.IsZero():
		put(KindOpen, time.Time{}, said("it is contained and not proven dead yet ("+t.State+")", t.Error))
	}
	d.exposed(claim, v, now, retirement)
}

// proofText says what a proof took, and what it is about.
func proofText(t *Retirement) string {
	text := fmt.Sprintf("it is proven dead: %d rejected rounds in a row over %s", t.Required.Rejections, time.Duration(t.Required.WindowMS)*time.Millisecond)
	text += map[string]string{
		string(rotation.ControlCurrent): ", in each of which the current version was accepted",
		string(rotation.ControlCanary):  ", in each of which the probe's canary was accepted",
		string(rotation.ControlBefore):  "; it was accepted before it was revoked",
	}[t.Control]
	if sc := t.Scope; sc != nil {
		if sc.Endpoint != "" {
			text += "; tried at " + sc.Endpoint
		}
		if sc.Node != "" {
			text += " from " + sc.Node
		}
		if sc.SelfAttested {
			text += "; the broker itself decides whether it is accepted"
		}
		if sc.Unreached != "" {
			text += "; out of reach: " + sc.Unreached
		}
		if sc.Spared != "" {
			text += "; not tried, so as not to lock the account: " + sc.Spared
		}
	}
	return text
}

// exposed is from when until when a version could be misused.
func (d *deriving) exposed(claim Claim, v *Version, now standing, evidence string) {
	if now.never {
		return
	}
	from, since := v.PublishedAt, "it was published"
	if from.IsZero() {
		from, since = v.CreatedAt, "it was made"
	}
	if leaked := d.Incident.LeakedAt; !leaked.IsZero() && leaked.After(v.CreatedAt) {
		from, since = leaked, "it leaked"
	}
	claim.Kind, claim.At, claim.Until = KindExposure, from, now.contained
	until := now.contained
	switch {
	case until.IsZero():
		until = d.MadeAt
		claim.Text = fmt.Sprintf("it was exposed since %s, and is still: %s so far", since, lasted(from, until))
	case until.Before(from):
		claim.Text, claim.Until = "it was not exposed: it was dead before it leaked", time.Time{}
		d.say(claim, fmt.Sprintf("version:%s/%d", claim.Secret, v.Version), evidence, "incident")
		return
	default:
		claim.Text = fmt.Sprintf("it was exposed from when %s until it was contained: %s", since, lasted(from, until))
	}
	if d.before(now) {
		d.say(claim, fmt.Sprintf("version:%s/%d", claim.Secret, v.Version), evidence, "incident")
		return
	}
	d.total.until = latest(d.total.until, now.contained)
	if d.total.from.IsZero() || from.Before(d.total.from) {
		d.total.from = from
	}
	if c := now.contained; !c.IsZero() && (d.total.first.IsZero() || c.Before(d.total.first)) {
		d.total.first = c
	}
	d.say(claim, fmt.Sprintf("version:%s/%d", claim.Secret, v.Version), evidence, "incident")
}

// lasted is a duration that people can read.
func lasted(from, until time.Time) string {
	took := until.Sub(from)
	switch {
	case took >= time.Minute:
		took = took.Round(time.Second)
	default:
		took = took.Round(time.Millisecond)
	}
	if days := int(took / (24 * time.Hour)); days > 1 {
		return fmt.Sprintf("%d days %s", days, took%(24*time.Hour))
	}
	return took.String()
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// summed is about all versions together.
func (d *deriving) summed() {
	n := d.total
	put := func(kind string, from, until time.Time, format string, args ...any) {
		d.say(Claim{Kind: kind, At: from, Until: until, Text: fmt.Sprintf(format, args...)}, append([]string{"incident"}, n.evidence...)...)
	}
	if n.before > 0 {
		put(KindTotal, time.Time{}, time.Time{}, "%s had been proven dead before the incident", several(n.before, "version"))
	}
	if n.versions == 0 {
		return
	}
	after := func(at time.Time) string {
		if at.Before(d.Incident.DeclaredAt) { // of what was dead already
			return "before it was declared"
		}
		return lasted(d.Incident.DeclaredAt, at) + " after it was declared"
	}
	put(KindTotal, time.Time{}, time.Time{}, "%s of %s compromised: %d contained, %d proven dead", several(n.versions, "version"), several(len(d.Secrets), "secret"), n.contained, n.proven)
	if n.contained == n.versions && n.open == 0 && !n.until.IsZero() {
		put(KindTotal, n.from, n.until, "exposure of the whole incident, until the last version was contained: %s", lasted(n.from, n.until))
		put(KindTotal, n.until, time.Time{}, "all was contained, %s; the first version %s", after(n.until), after(n.first))
	} else if !n.from.IsZero() {
		put(KindOpen, n.from, time.Time{}, "not everything is contained: the incident is exposed for %s so far", lasted(n.from, d.MadeAt))
	}
	if n.proven == n.versions && n.open == 0 && !n.provenAt.IsZero() {
		put(KindTotal, n.provenAt, time.Time{}, "all was proven dead, %s", after(n.provenAt))
	}
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// limits is about what the report cannot tell.
func (d *deriving) limits() {
	limit := func(text string, evidence ...string) { d.say(Claim{Kind: KindLimit, Text: text}, evidence...) }
	if d.Partial {
		limit("the incident is about more secrets than whoever asked for the report may see", "incident")
	}
	for _, l := range d.OtherLogs {
		limit(fmt.Sprintf("node %s has an audit log of its own, of %d records when it was last signed: what requests it served, and what it did, is there, and not in this report", l.Node, l.Size), "log:"+l.Node)
	}
	if d.unlogged > 0 {
		limit(fmt.Sprintf("%d verdicts have no line in the audit log of this node: another node's log has them, or they were made before the time that was looked at", d.unlogged), "incident")
	}
	if d.left > 0 {
		limit(fmt.Sprintf("%d verdicts are left out: the broker has them (keybroker retirement show)", d.left), "incident")
	}
	switch {
	case d.Journal.Cut:
		limit(fmt.Sprintf("the audit log has more lines about the incident, behind record %d, than the report takes", d.Journal.To), "incident")
	case d.Journal.Behind:
		limit("the audit log did not have all yet that had been done when the report was made", "incident")
	}
	if !d.Journal.Since.IsZero() {
		limit("the audit log was looked through for what happened since "+d.Journal.Since.UTC().Format(time.RFC3339), "incident")
	}
}
