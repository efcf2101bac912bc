package main

import (
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/broker/client"
)

// drawForecast says what an emergency would hit, which was not declared.
func drawForecast(t *table, i client.Incident) {
	if len(i.Targets) == 0 {
		t.row("nothing that you may turn off is selected")
		drawSkipped(t, i.Skipped)
		return
	}
	t.row(fateOf(i))
	if i.State == client.IncidentProposed {
		t.row("NOTHING would be done before somebody else approves it. Who has emergency on sys/incidents/override need not wait: --override, which raises an alert")
	}
	t.section("SECRET", "VERSIONS", "ISSUER", "CONSUMERS", "NOTE")
	for one := range upTo(t, i.Targets) {
		t.row(qualified(one.Tenant, one.Secret), versionsOf(one), issuersOf(one), one.Consumers, noteOf(one))
	}
	if len(i.Consumers) > 0 {
		t.section("WOULD FEEL IT", "SECRETS", "QUARANTINED")
		for c := range upTo(t, i.Consumers) {
			kept := ""
			if c.Quarantined {
				kept = "yes"
			}
			t.row(c.Consumer, c.Secrets, kept)
		}
	}
	if len(i.Quarantine) > 0 {
		t.section("WOULD BE KEPT OUT", "NAME")
		for _, q := range i.Quarantine {
			t.row(q.Kind, q.Name)
		}
	}
	drawSkipped(t, i.Skipped)
	if len(i.Checklist) > 0 {
		t.section("PEOPLE WOULD HAVE TO")
		for c := range upTo(t, i.Checklist) {
			t.row(c.Text)
		}
	}
}

// fateOf says what would become of what is selected.
func fateOf(i client.Incident) string {
	secrets, versions := 0, 0
	for _, t := range i.Targets {
		if t.State == client.TargetPending {
			secrets, versions = secrets+1, versions+len(t.Versions)
		}
	}
	const fate = "would be revoked, proven dead and replaced: "
	switch {
	case secrets == 0:
		return "NOTHING would be revoked: see NOTE"
	case versions == 0:
		return fate + several(secrets, "secret")
	}
	return fate + several(versions, "version") + " of " + several(secrets, "secret")
}

// versionsOf are the versions of a target that count as compromised.
func versionsOf(t client.IncidentTarget) string {
	var all []string
	for _, v := range t.Versions {
		all = append(all, fmt.Sprint(v.Version))
	}
	if len(all) == 0 {
		for _, n := range t.Pinned {
			all = append(all, fmt.Sprint(n))
		}
	}
	return strings.Join(all, ", ")
}

func issuersOf(t client.IncidentTarget) string {
	var all []string
	seen := map[string]bool{}
	for _, v := range t.Versions {
		if v.Issuer != "" && !seen[v.Issuer] {
			seen[v.Issuer] = true
			all = append(all, v.Issuer)
		}
	}
	return strings.Join(all, ", ")
}

// noteOf says of a target what is out of the ordinary.
func noteOf(t client.IncidentTarget) string {
	switch {
	case t.Error != "":
		return t.Error
	case t.State == client.TargetAlreadyDead:
		return "proven dead already; would be tried once more"
	case t.State == client.TargetUnprovable:
		return "revoked before, as its issuer said; NOBODY CAN TELL whether it works: see to it by hand"
	case t.State == client.TargetNothingAlive:
		return "no version of it may work"
	}
	return ""
}

// announceIncident says what was declared, as the server has decided it.
func (a *app) announceIncident(i client.Incident) {
	if i.State == client.IncidentProposed {
		a.note("incident %s: NOTHING IS DONE YET: %s", i.ID, printable(approvalNeeded(i)))
		a.note("if nobody is there who could: the same command with --override, by who has emergency on sys/incidents/override; that raises an alert")
	} else {
		a.note("incident %s: %s: revoked and proven dead, whatever else happens; replacements are made beside it", i.ID, extent(i.Progress))
	}
	var told []string
	for _, c := range i.Consumers {
		if c.Quarantined {
			told = append(told, c.Consumer+" (in quarantine)")
			continue
		}
		told = append(told, c.Consumer)
	}
	if len(told) > 0 {
		a.note("who feels it: %s", printable(strings.Join(firstOf(told, 20), ", ")))
	}
	if n := len(i.Skipped); n > 0 {
		var names []string
		for _, s := range i.Skipped {
			names = append(names, qualified(s.Tenant, s.Secret)+" ("+s.Why+")")
		}
		a.note("NOT TURNED OFF: %s", printable(strings.Join(firstOf(names, 10), "; ")))
	}
}
