package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation"
)

// reads is about who was given a version that is compromised.
func (d *deriving) reads(name string, v *Version) {
	for n, r := range v.Reads {
		who := r.Actor
		if r.Identity != "" {
			who = r.Identity + " (" + who + ")"
		}
		text := "it was handed out"
		if r.Consumer != "" {
			text = "it was sent to consumer " + r.Consumer
		}
		if r.Role != "" {
			text += ", role " + r.Role
		}
		if r.Unanswered {
			text += ", which has not said that it arrived"
		}
		if r.Address != "" {
			text += ", at " + r.Address
		}
		text += ": " + d.when(r.FirstAt, r.LastAt)
		c := Claim{Kind: KindRead, Text: text, Secret: name, Version: v.Version, At: r.FirstAt, By: who}
		if !r.LastAt.Equal(r.FirstAt) {
			c.Until = r.LastAt
		}
		d.say(c, append([]string{fmt.Sprintf("read:%s/%d/%d", name, v.Version, n+1), "incident"}, d.readLines(name, v.Version, r)...)...)
	}
	if v.MoreReads {
		d.say(Claim{Kind: KindLimit, Secret: name, Version: v.Version, Text: fmt.Sprintf("it was given to more than the last %d that are listed", len(v.Reads))}, fmt.Sprintf("version:%s/%d", name, v.Version))
	}
}

// when places a time, or a span, before or after the leak and the declaration.
func (d *deriving) when(first, last time.Time) string {
	mark, what := d.Incident.LeakedAt, "it leaked"
	if mark.IsZero() {
		mark, what = d.Incident.DeclaredAt, "the incident was declared"
	}
	switch {
	case last.Before(mark):
		return "before " + what
	case first.Before(mark):
		return "before and after " + what
	case d.Incident.DeclaredAt.After(mark) && !first.Before(d.Incident.DeclaredAt):
		return "after the incident was declared"
	}
	return "after " + what
}

// readLines are the first and the last line of the log by which a version was handed to
// somebody.
func (d *deriving) readLines(name string, version int, r client.Access) []string {
	if d.readBy == nil {
		d.indexReads()
	}
	lines := d.readBy[readKey(name, version, r.Actor, r.Address)]
	if len(lines) > 2 {
		lines = []string{lines[0], lines[len(lines)-1]}
	}
	return lines
}

func (d *deriving) indexReads() {
	d.readBy = map[string][]string{}
	for _, ln := range d.lines {
		if ln.Kind == rotation.AuditResponse && ln.Outcome == "ok" && ln.Secret != "" && ln.Version > 0 {
			key := readKey(ln.Secret, ln.Version, ln.Actor, ln.Address)
			d.readBy[key] = append(d.readBy[key], fmt.Sprintf("audit:%d", ln.Index))
		}
	}
}

func readKey(secret string, version int, actor, address string) string {
	return strings.Join([]string{secret, strconv.Itoa(version), actor, address}, "|")
}

// acted is about what people asked for, and were refused, as the log has it.
func (d *deriving) acted() {
	came := map[string]audit.Line{} // by request
	for _, ln := range d.lines {
		if ln.Kind == rotation.AuditResponse && ln.Request != "" {
			came[ln.Request+"|"+ln.Action+"|"+ln.Path] = ln
		}
	}
	for _, ln := range d.lines {
		if ln.Kind != rotation.AuditRequest || !telling(ln) {
			continue
		}
		evidence := []string{fmt.Sprintf("audit:%d", ln.Index)}
		outcome := ln.Outcome
		if out, ok := came[ln.Request+"|"+ln.Action+"|"+ln.Path]; ok && ln.Request != "" {
			evidence, outcome = append(evidence, fmt.Sprintf("audit:%d", out.Index)), out.Outcome
		}
		about := ln.Secret
		if about == "" {
			about = ln.Path
		}
		text := fmt.Sprintf("%s of %s: %s", ln.Action, about, outcome)
		if ln.Address != "" {
			text += ", from " + ln.Address
		}
		if why := ln.Detail["reason"]; why != "" {
			text += ": " + why
		}
		d.say(Claim{Kind: KindAct, At: ln.At, By: whoOf(ln), Text: text, Secret: ln.Secret, Version: ln.Version}, evidence...)
	}
}

// telling tells whether a request changed something, or was refused.
func telling(ln audit.Line) bool {
	if ln.Outcome != "ok" {
		return true
	}
	switch ln.Capability {
	case "read", "read_previous", "read_pending", "list":
		return false
	case "":
		return strings.HasPrefix(ln.Action, "incident.") && ln.Action != "incident.list" && ln.Action != "incident.show" && ln.Action != "incident.report" && ln.Action != "incident.watch"
	}
	return true
}

func whoOf(ln audit.Line) string {
	if ln.Identity != "" {
		return ln.Identity + " (" + ln.Actor + ")"
	}
	if name := ln.Detail["name"]; name != "" {
		return name + " (" + ln.Actor + ")"
	}
	return ln.Actor
}

// replaced is about what came in the place of what is compromised, and who has it.
func (d *deriving) replaced(s *Secret) {
	name := nameOf(s.Tenant, s.Name)
	claim := Claim{Secret: name}
	i := slices.IndexFunc(s.Versions, func(v Version) bool { return v.Version == s.Current && !v.Compromised })
	if i < 0 {
		claim.Kind, claim.Text = KindOpen, "there is no replacement yet"
		if s.Rotation != nil && s.Rotation.WaitingFor != "" {
			claim.Text += ": it waits for " + s.Rotation.WaitingFor
		}
		if s.Rotation != nil {
			claim.Text = said(claim.Text, s.Rotation.Error)
			d.say(claim, "secret:"+name, "rotation:"+s.Rotation.ID)
			return
		}
		d.say(claim, "secret:"+name)
		return
	}
	v := s.Versions[i]
	claim.Version, claim.Kind, claim.At, claim.Text = v.Version, KindReplaced, v.PublishedAt, fmt.Sprintf("version %d is current, which is not compromised", v.Version)
	evidence := []string{"secret:" + name, fmt.Sprintf("version:%s/%d", name, v.Version)}
	if r := s.Rotation; r != nil && r.ToVersion == v.Version {
		evidence = append(evidence, "rotation:"+r.ID, publishing(r), d.did(r.ID, "rotation.publish"))
	}
	d.say(claim, evidence...)
	for _, consumer := range s.Consumers {
		d.delivered(s, consumer, v)
	}
}

func publishing(r *client.Rotation) string {
	for n, s := range r.Steps {
		if s.Step == "publish" && s.Outcome == "ok" {
			return fmt.Sprintf("step:%s/%d", r.ID, n+1)
		}
	}
	return ""
}

// delivered is about whether a consumer has the replacement.
func (d *deriving) delivered(s *Secret, consumer string, v Version) {
	name := nameOf(s.Tenant, s.Name)
	claim := Claim{Kind: KindOpen, Secret: name, Version: v.Version, By: consumer}
	for _, q := range d.Incident.Quarantine {
		if q.Kind == "consumer" && q.Name == consumer && (q.LiftedAt.IsZero() || q.LiftedAt.After(d.MadeAt)) {
			claim.Kind, claim.Text = KindDelivered, "consumer "+consumer+" is in quarantine, and is not told"
			d.say(claim, "incident")
			return
		}
	}
	var newest *client.Delivery
	for i := range s.Deliveries {
		m := &s.Deliveries[i]
		if m.Consumer == consumer && m.Version == v.Version && (newest == nil || standingOf(*m) > standingOf(*newest)) {
			newest = m
		}
	}
	if newest == nil {
		claim.Text = "consumer " + consumer + " was not told of the replacement"
		d.say(claim, "secret:"+name)
		return
	}
	evidence := []string{"delivery:" + newest.ID, d.did(newest.ID, "delivery.attempt", "delivery.collect")}
	switch standingOf(*newest) {
	case 3:
		claim.Kind, claim.At, claim.Text = KindDelivered, newest.AppliedAt, "consumer "+consumer+" says that it uses the replacement"
	case 2:
		claim.Kind, claim.At, claim.Text = KindDelivered, newest.FetchedAt, "consumer "+consumer+" has read the replacement"
	case 1:
		claim.Kind, claim.At, claim.Text = KindDelivered, newest.ReceivedAt, "consumer "+consumer+" was told of the replacement, and has answered"
	default:
		claim.Text = said(fmt.Sprintf("consumer %s has not received the replacement (%s, %d attempts)", consumer, newest.State, newest.Attempts), newest.Error)
	}
	d.say(claim, evidence...)
}

// standingOf orders deliveries by how much they show.
func standingOf(m client.Delivery) int {
	switch {
	case !m.AppliedAt.IsZero():
		return 3
	case !m.FetchedAt.IsZero():
		return 2
	case !m.ReceivedAt.IsZero():
		return 1
	}
	return 0
}

// people is about what people have written down.
func (d *deriving) people() {
	for n, q := range d.Incident.Quarantine {
		d.say(Claim{Kind: KindQuarantined, At: q.At, By: q.By, Text: said(fmt.Sprintf("%s %s is kept out", q.Kind, q.Name), q.Reason)}, fmt.Sprintf("quarantine:%d", n+1), d.did(q.Kind+"/"+q.Name, "quarantine.begin"))
		if !q.LiftedAt.IsZero() {
			d.say(Claim{Kind: KindQuarantined, At: q.LiftedAt, By: q.LiftedBy, Text: said(fmt.Sprintf("%s %s is no longer kept out", q.Kind, q.Name), q.Lifting)}, fmt.Sprintf("quarantine:%d", n+1), d.did(q.Kind+"/"+q.Name, "quarantine.lift"))
		}
	}
	for n, text := range d.Incident.Notes {
		d.say(Claim{Kind: KindNote, At: text.At, By: text.By, Text: text.Text}, fmt.Sprintf("note:%d", n+1))
	}
	for n, c := range d.Incident.Checklist {
		claim := Claim{Kind: KindCheck, At: c.DoneAt, By: c.DoneBy, Text: said("done: "+c.Text, c.Remark)}
		if c.DoneAt.IsZero() {
			claim = Claim{Kind: KindOpen, Text: "to be done by people: " + c.Text}
		}
		d.say(claim, fmt.Sprintf("check:%d", n+1))
	}
}
