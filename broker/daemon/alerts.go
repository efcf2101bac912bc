package daemon

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/alert/notify"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// notifierTypes are the types of notifiers, by their first label.
var notifierTypes = map[string]notifierType{
	"webhook": {
		notifierConfig[notify.Webhook](),
		func(p *parts, s *setup, n *config.Notifier) (alert.Notifier, error) {
			c := *n.Config.(*notify.Webhook)
			secret, write, err := notifierSecret(n.Name, c.SigningSecret, c.SigningSecretFile, filepath.Join(s.cfg.DataDir, "notifiers", n.Name+".whsec"))
			if err != nil {
				return nil, err
			}
			if write != nil {
				s.newKeys = append(s.newKeys, write)
			}
			return notify.NewWebhook(c, secret, p.now)
		},
	},
	"slack": {
		notifierConfig[notify.Slack](),
		func(_ *parts, _ *setup, n *config.Notifier) (alert.Notifier, error) {
			return notify.NewSlack(*n.Config.(*notify.Slack))
		},
	},
	"pagerduty": {
		withoutHeartbeat(notifierConfig[notify.PagerDuty]()), // change events, on which nothing can be made to wait
		func(_ *parts, _ *setup, n *config.Notifier) (alert.Notifier, error) {
			return notify.NewPagerDuty(*n.Config.(*notify.PagerDuty))
		},
	},
	"email": {
		notifierConfig[notify.Email](),
		func(_ *parts, _ *setup, n *config.Notifier) (alert.Notifier, error) {
			return notify.NewEmail(*n.Config.(*notify.Email))
		},
	},
	"log": {
		notifierConfig[notify.Log](),
		func(p *parts, _ *setup, n *config.Notifier) (alert.Notifier, error) {
			return notify.NewLog(p.logger.Named("alert." + n.Name)), nil
		},
	},
}

// notifierType is how a notifier's block is read, and how the notifier is made.
type notifierType struct {
	config.NotifierType
	make func(p *parts, s *setup, n *config.Notifier) (alert.Notifier, error)
}

func notifierConfig[C interface{ Check(offline bool) error }]() config.NotifierType {
	return config.NotifierType{Type: config.Type{
		New: func() any { return new(C) },
		Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			return c.Mistakes(cfg, (*cfg.(*C)).Check(c.Offline))
		},
	}}
}

// withoutHeartbeat is t where nobody can be told that a heartbeat has stayed away.
func withoutHeartbeat(t config.NotifierType) config.NotifierType {
	t.NoHeartbeat = true
	return t
}

// notifiers makes those of a setup.
func (p *parts) notifiers(s, before *setup) error {
	s.notifiers = map[string]alert.Notifier{}
	for _, n := range s.cfg.Notifiers {
		t, ok := notifierTypes[n.Type]
		if !ok {
			return unknownType("notifier", n.Type)
		}
		err := component(s, before, block{"notifier", n.Name}, s.notifiers, before.notifiers, func() (alert.Notifier, func(), error) {
			made, err := t.make(p, s, n)
			return made, closing(made), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// openAlerts makes what looks for what is wrong and tells it.
func (d *Daemon) openAlerts() {
	d.alerts = alert.NewRunner(alert.Config{Store: d.db, Node: d.nodeID(), Source: d.Addr, Local: d.wrongHere, Disabled: d.disabled, Observer: d.metrics, Every: d.opts.alertEvery,
		Now: now, Logger: d.log.Named("alert")})
	d.metrics.watchAlerts(d.db)
}

// disabled tells whether a consumer of the configuration wants no more deliveries, and
// whose it is.
func (d *Daemon) disabled(s rotation.ConsumerState) (tenant string, is bool) {
	for _, c := range d.setup.Load().cfg.Consumers {
		if c.Name == s.Name {
			return c.Tenant, d.engine.Disabled(s)
		}
	}
	return "", false
}

// nodeID is the node's name with its port: several may run on one host.
func (d *Daemon) nodeID() string {
	if u, err := url.Parse(d.Addr()); err == nil && u.Port() != "" {
		return nodeName() + ":" + u.Port()
	}
	return nodeName()
}

// alertRules are those of a setup.
func alertRules(s *setup) alert.Rules {
	rules := alert.Rules{Notifiers: s.notifiers}
	for _, a := range s.cfg.Alerts {
		rules.Alerts = append(rules.Alerts, *a)
	}
	return rules
}

// wrongHere tells what is wrong as this node sees it, and of which kinds that may not be
// all; others may see it otherwise.
func (d *Daemon) wrongHere() (found []store.Raise, unsure []string) {
	node := d.nodeID()
	add := func(kind, tenant, what, next, format string, args ...any) {
		found = append(found, store.Raise{Kind: kind, Tenant: tenant, Subject: what + " on " + node, Text: fmt.Sprintf(format, args...), Next: next})
	}
	backendsDown, looked := d.health.wrong()
	if !looked {
		unsure = append(unsure, alert.BackendDown)
	}
	owners := map[string]string{} // of what serves one tenant alone
	for _, b := range d.setup.Load().cfg.Backends {
		owners[b.Name] = b.Tenant
	}
	for _, name := range slices.Sorted(maps.Keys(backendsDown)) {
		add(alert.BackendDown, owners[name], name, "keybroker drift list --all --backend "+name, "backend %s cannot be used; rotations of its secrets wait: %s", name, backendsDown[name])
	}
	d.issuersWrong(add)
	sealsDown, asked := d.seals.away()
	if !asked {
		unsure = append(unsure, alert.SealDown)
	}
	for _, id := range slices.Sorted(maps.Keys(sealsDown)) {
		add(alert.SealDown, "", id, "keybroker seal status", "seal %s cannot be used; another one is needed at the next start: %s", id, sealsDown[id])
	}
	if d.audit.Unsure() {
		unsure = append(unsure, alert.AuditSinkDown)
	}
	sinksDown := d.audit.Down()
	for _, name := range slices.Sorted(maps.Keys(sinksDown)) {
		add(alert.AuditSinkDown, "", name, "keybroker audit query", "the audit log cannot be written to %s: %s", name, sinksDown[name])
	}
	d.auditTrouble(add)
	d.kitWrong(add)
	s := d.setup.Load()
	for _, at := range s.troubled() {
		if t := s.troubles[at]; !t.unfilled {
			add(alert.StaleCredential, s.owner(at), at.kind+" "+at.name, "keybroker secret show "+t.secret, "%s %s; it is tried again", at, t.why)
		}
	}
	if c := d.wire.certificate; c != nil {
		next := "keybroker reload # after its files were replaced"
		if problem, text := certificateTrouble(c, now()); problem {
			add(alert.CertificateExpiring, "", "listener", next, "%s", text)
		}
	}
	return found, unsure
}

// certificateNotice is how long before its end a certificate is told of, or a third
// of its time, if that is less.
const certificateNotice = 14 * 24 * time.Hour

func certificateTrouble(c *certificate, at time.Time) (bool, string) {
	_, problem := c.state()
	leaf := c.get().Leaf
	left := leaf.NotAfter.Sub(at)
	switch {
	case left <= 0:
		return true, fmt.Sprintf("the listener's certificate has expired at %s: nobody can call the node", leaf.NotAfter.UTC().Format(time.RFC3339))
	case problem != nil:
		return true, fmt.Sprintf("the listener's certificate was replaced by one that cannot be used; the one of before is valid until %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case left < min(certificateNotice, lifetime(leaf)/3):
		return true, fmt.Sprintf("the listener's certificate expires at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return false, ""
}

func lifetime(c *x509.Certificate) time.Duration { return c.NotAfter.Sub(c.NotBefore) }

// wrong returns why which backends cannot be used, and whether they were looked at.
func (h *health) wrong() (problems map[string]string, looked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.problems), h.looked
}

// away returns why which seals could not be used when they were last asked, and whether
// all were.
func (s *sealing) away() (away map[string]string, asked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	away, asked = map[string]string{}, true
	for _, by := range s.made {
		last, known := s.states[by.ID()]
		asked = asked && known
		if last.err != nil {
			away[by.ID()] = last.err.Error()
		}
	}
	for _, u := range s.unmade {
		away[u.id] = u.err.Error()
	}
	return away, asked
}

// asNotifiers is the Daemon as the Broker sees it.
type asNotifiers struct{ d *Daemon }

// TestNotifier implements broker.Notifiers.
func (n asNotifiers) TestNotifier(ctx context.Context, tenant, name, by string) (told, missing error) {
	for _, c := range n.d.setup.Load().cfg.Notifiers {
		if c.Name == name && (tenant == "" || c.Tenant == tenant) {
			return n.d.alerts.Test(ctx, name, by), nil
		}
	}
	return nil, fmt.Errorf("%w: there is no notifier %q in the configuration", backends.ErrNotFound, name)
}

// alertsOpen counts at each scrape what is wrong.
type alertsOpen struct {
	db  *store.DB
	out *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (a *alertsOpen) Describe(out chan<- *prometheus.Desc) { out <- a.out }

// Collect implements prometheus.Collector. A store that does not answer leaves the
// figures out.
func (a *alertsOpen) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var counts map[string]int
	err := a.db.View(ctx, func(tx *store.Tx) (err error) {
		counts, err = tx.CountAlerts(ctx)
		return err
	})
	if err != nil {
		return
	}
	for _, kind := range client.AlertKinds {
		out <- prometheus.MustNewConstMetric(a.out, prometheus.GaugeValue, float64(counts[kind]), kind)
	}
}

// watchAlerts makes metrics of what the store has of alerts.
func (m *metrics) watchAlerts(db *store.DB) {
	m.notified = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keybroker_notifications_total",
		Help: "Attempts of this node to tell people, by notifier and outcome (ok or failed)."}, []string{"notifier", "outcome"})
	m.notifierUp = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "keybroker_notifier_up",
		Help: "Whether the last attempt of this node to tell people by a notifier succeeded (1) or not (0)."}, []string{"notifier"})
	m.registry.MustRegister(m.notified, m.notifierUp, &alertsOpen{db: db,
		out: prometheus.NewDesc("keybroker_alerts_open", "Alerts that are not over, of all nodes, by kind.", []string{"kind"}, nil)})
}

// Notified implements alert.Observer.
func (m *metrics) Notified(notifier string, err error) {
	outcome, up := "ok", 1.0
	if err != nil {
		outcome, up = "failed", 0
	}
	m.notified.WithLabelValues(notifier, outcome).Inc()
	m.notifierUp.WithLabelValues(notifier).Set(up)
}
