package main

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

// rowsShown bounds the lists of an incident that people are shown; programs get all.
const rowsShown = 50

func (a *app) incidentShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID|latest",
		Short: "Show an incident: every secret, who feels it, what is stuck, notes and checklist",
		Long: "Show an incident: when it leaked, was declared, contained and proven; every secret and\n" +
			"version; who feels it, and is without the replacement; what does not go on by itself,\n" +
			"with the command to run; notes, and what people have to do. Of long lists the first 50\n" +
			"rows are shown; --format json has all.",
		Args:              takes("ID|latest"),
		ValidArgsFunction: a.completeIncidents(),
		RunE: a.onOne(func(ctx context.Context, c *client.Client, id string, _ []string) error {
			i, err := c.Incident(ctx, id)
			if err != nil {
				return err
			}
			return a.show(i, func(t *table) { drawIncident(t, i) })
		}),
	}
}

func drawIncident(t *table, i client.Incident) {
	p := i.Progress
	t.pair("ID", i.ID)
	t.pair("State", inAWord(i))
	if i.State == client.IncidentProposed {
		t.pair("Next", approvalNeeded(i))
	}
	t.pair("Reason", i.Reason)
	t.pair("Selected by", selectedBy(i.Selector))
	t.pair("Tenant", i.Tenant)
	t.pair("Declared by", declarer(i))
	t.pair("Approved by", i.ApprovedBy)
	if i.Overridden {
		t.pair("Overridden", "yes: it did not wait for a second person")
	}
	t.moment("Leaked", i.LeakedAt)
	t.moment("Detected", i.DetectedAt)
	t.moment("Declared", i.DeclaredAt)
	t.moment("Approved", i.ApprovedAt)
	t.moment("First contained", p.FirstContainedAt)
	t.moment("Contained", i.ContainedAt)
	t.moment("Proven dead", i.ProvenAt)
	t.moment("Closed", i.ClosedAt)
	t.pair("Closed by", i.ClosedBy)
	t.pair("Closing", i.Closing)
	t.pair("Evidence", map[bool]string{true: "held: nothing is pruned", false: "not held"}[i.Hold])
	t.pair("Contained", of(p.Contained, p.Versions)+" versions")
	t.pair("Proven dead", of(p.Proven, p.Versions)+" versions")
	t.pair("Replaced", of(p.Replaced, p.Secrets)+" secrets")
	if p.Pending > 0 {
		t.pair("Pending", several(p.Pending, "secret"))
	}
	if p.Failed > 0 {
		t.pair("Failed", several(p.Failed, "secret")+", which are tried again")
	}
	if p.Unprovable > 0 {
		t.pair("Unprovable", several(p.Unprovable, "version"))
	}
	if p.AlreadyDead > 0 {
		t.pair("Dead already", several(p.AlreadyDead, "version")+", proven before it was declared")
	}
	if p.AlreadyDead > 0 {
		t.pair("Dead before", several(p.AlreadyDead, "version")+", which were proven dead before the incident and are tried once more")
	}
	drawStuck(t, i.Stuck)
	drawTargets(t, i.Targets)
	drawSkipped(t, i.Skipped)
	drawFelt(t, i.Consumers)
	drawQuarantines(t, i.Quarantine)
	drawNotes(t, i.Notes)
	drawChecklist(t, i.Checklist)
}

// selectedBy is a selector as it is given on the command line.
func selectedBy(s client.Selector) string {
	parts := append([]string{}, s.Names...)
	for _, p := range s.Patterns {
		parts = append(parts, "--match "+p)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
		parts = append(parts, "--label "+name+"="+s.Labels[name])
	}
	for _, one := range []struct{ flag, value string }{
		{"tenant", s.Tenant}, {"backend", s.Backend}, {"issuer", s.Issuer}, {"consumer", s.Consumer},
		{"read-by", s.ReadBy}, {"address", s.Address}, {"since", stamp(s.Since)},
	} {
		if one.value != "" {
			parts = append(parts, "--"+one.flag+" "+one.value)
		}
	}
	for _, n := range s.Versions {
		parts = append(parts, fmt.Sprintf("--version %d", n))
	}
	if s.Leaked {
		parts = append(parts, "--leaked-value (not kept)")
	}
	if s.All {
		parts = append(parts, "--all")
	}
	return strings.Join(parts, " ")
}

func drawTargets(t *table, targets []client.IncidentTarget) {
	if len(targets) == 0 {
		return
	}
	t.section("SECRET", "VERSION", "STATE", "ISSUER", "CONTAINED AFTER", "PROVEN AFTER", "REPLACED BY", "WAITING FOR", "WHY")
	rows := 0
	for n, one := range targets {
		if rows >= rowsShown {
			t.row(fmt.Sprintf("… and %s more", several(len(targets)-n, "secret")))
			return
		}
		name := qualified(one.Tenant, one.Secret)
		if len(one.Versions) == 0 {
			t.row(name, "", one.State, "", "", "", one.Replacement, one.Waiting, one.Error)
			rows++
		}
		for _, v := range one.Versions {
			why := v.Error
			if why == "" {
				why = one.Error
			}
			t.row(name, v.Version, v.State, v.Issuer, took(v.RequestedAt, v.ContainedAt), took(v.RequestedAt, v.ProvenAt), one.Replacement, v.WaitingFor, why)
			rows++
		}
	}
}

func drawStuck(t *table, stuck []client.IncidentStuck) {
	if len(stuck) == 0 {
		return
	}
	t.section("STUCK", "WHAT", "SINCE", "WHY", "DO")
	for s := range upTo(t, stuck) {
		t.row(nameOf(s.Tenant, s.Secret, s.Version), s.What, s.Since, inWords(s.Why), s.Next)
	}
}

func drawSkipped(t *table, skipped []client.IncidentSkipped) {
	if len(skipped) == 0 {
		return
	}
	t.section("SKIPPED", "WHY")
	for s := range upTo(t, skipped) {
		t.row(qualified(s.Tenant, s.Secret), s.Why)
	}
}

func drawFelt(t *table, consumers []client.IncidentConsumer) {
	if len(consumers) == 0 {
		return
	}
	t.section("CONSUMER", "SECRETS", "WITHOUT THE REPLACEMENT OF", "QUARANTINED", "ERROR")
	for c := range upTo(t, consumers) {
		kept := ""
		if c.Quarantined {
			kept = "yes"
		}
		t.row(c.Consumer, c.Secrets, firstOf(c.Without, 5), kept, c.Error)
	}
}

func drawQuarantines(t *table, all []client.Quarantine) {
	if len(all) == 0 {
		return
	}
	t.section("QUARANTINE", "NAME", "SINCE", "BY", "LIFT WITH")
	for _, q := range all {
		t.row(q.Kind, q.Name, q.At, q.By, "keybroker quarantine lift "+q.Kind+" "+q.Name+" --reason TEXT")
	}
}

func drawNotes(t *table, notes []client.IncidentNote) {
	if len(notes) == 0 {
		return
	}
	t.section("NOTE AT", "BY", "TEXT")
	for _, n := range notes {
		t.row(stamp(n.At), n.By, n.Text)
	}
}

func drawChecklist(t *table, checks []client.IncidentCheck) {
	if len(checks) == 0 {
		return
	}
	t.section(checklistColumns...)
	drawChecks(t, checks)
}

var checklistColumns = []any{"ITEM", "DONE", "BY", "TO DO", "REMARK"}

func drawChecks(t *table, checks []client.IncidentCheck) {
	for _, c := range checks {
		t.row(c.Item, c.DoneAt, c.DoneBy, c.Text, c.Remark)
	}
}

// upTo is as much of a list as is shown, and the last row says how much is not.
func upTo[T any](t *table, all []T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for i, one := range all {
			if i == rowsShown {
				t.row(fmt.Sprintf("… and %d more", len(all)-i))
				return
			}
			if !yield(one) {
				return
			}
		}
	}
}
