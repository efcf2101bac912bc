package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/broker/client"
)

// ofNoTenant are the kinds of alerts that are about a node, or its operators.
var ofNoTenant = []string{"seal_down", "audit_sink_down", "audit_disk_low", "audit_log_damaged", "new_root_token", "certificate_expiring", "offline_kit_stale", "offline_return_wanted"}

// notifier decodes a way to tell people.
func (l *loader) notifier(b *hclsyntax.Block) {
	var spec tenantSpec
	n, t, ok := typed(l, "notifier", l.reg.Notifiers, func(t NotifierType) Type { return t.Type }, b, &spec)
	if !ok {
		return
	}
	l.belongs(b, spec.Tenant)
	l.cfg.Notifiers = append(l.cfg.Notifiers, &Notifier{Named: n, Tenant: spec.Tenant, NoHeartbeat: t.NoHeartbeat})
}

// alert decodes who is told of what.
func (l *loader) alert(b *hclsyntax.Block) {
	var spec struct {
		Name      string           `hcl:"name,label"`
		Tenant    string           `hcl:"tenant,optional"`
		Notifier  string           `hcl:"notifier"`
		On        []string         `hcl:"on,optional"`
		Repeat    time.Duration    `hcl:"repeat,optional"`
		Heartbeat time.Duration    `hcl:"heartbeat,optional"`
		Escalate  *hclsyntax.Block `hcl:"escalate,block"`
	}
	l.block(b, &spec)
	if len(b.Labels) != 1 || !l.declare("alert", spec.Name, b, b.LabelRanges[0]) {
		return
	}
	a := &Alert{
		Name: spec.Name, Tenant: spec.Tenant, Notifier: spec.Notifier, On: spec.On,
		Repeat: spec.Repeat, Heartbeat: spec.Heartbeat, Range: b.DefRange(),
	}
	l.cfg.Alerts = append(l.cfg.Alerts, a)
	l.belongs(b, spec.Tenant)
	l.notNegative(b, map[string]time.Duration{"repeat": spec.Repeat, "heartbeat": spec.Heartbeat}, "Leave it out for never.")
	l.kinds(b, spec.On)
	l.tells(b, b, spec.Notifier)
	if spec.Escalate != nil {
		a.Escalate = l.escalation(b, spec.Escalate, spec.Notifier)
	}
}

func (l *loader) kinds(b *hclsyntax.Block, on []string) {
	if where := at(b, "on"); written(b, "on") && len(on) == 0 && !l.spoilt(where) {
		l.mistake(where, "The alert is on nothing", "Name kinds of alerts, or leave it out for all of them.")
	}
	for i, kind := range on {
		switch {
		case !slices.Contains(client.AlertKinds, kind):
			l.mistake(element(b, "on", i), fmt.Sprintf("There is no kind of alert %q", kind), suggest(kind, client.AlertKinds))
		case slices.Contains(on[:i], kind):
			l.mistake(element(b, "on", i), fmt.Sprintf("The kind %q is listed twice", kind), "Remove one.")
		}
	}
}

// tells checks the notifier that the block named, which is the alert's own or one in it.
func (l *loader) tells(alert, named *hclsyntax.Block, notifier string) {
	where := at(named, "notifier")
	if written(named, "notifier") && !l.spoilt(where) && l.refer("notifier", notifier, where) {
		l.within("notifier", notifier, where, alert)
	}
}

func (l *loader) escalation(alert, b *hclsyntax.Block, first string) *Escalation {
	var spec struct {
		After    time.Duration `hcl:"after"`
		Notifier string        `hcl:"notifier"`
	}
	good := l.block(b, &spec)
	l.tells(alert, b, spec.Notifier)
	if !good {
		return nil
	}
	if spec.After <= 0 {
		l.mistake(at(b, "after"), "An alert escalates some time after it was told first", `Write for instance after = "30m".`)
	}
	if spec.Notifier == first {
		l.mistake(at(b, "notifier"), fmt.Sprintf("The alert escalates to the notifier %q, which was told already", first),
			"Name another one; to tell the same one again, write repeat.")
	}
	return &Escalation{After: spec.After, Notifier: spec.Notifier}
}
