package daemon

import (
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/rotation/engine"
)

// issuersWrong tells of the issuers that keep failing, as this node sees it.
func (d *Daemon) issuersWrong(add func(kind, tenant, what, next, format string, args ...any)) {
	owners := map[string]string{} // of what serves one tenant alone
	for _, i := range d.setup.Load().cfg.Issuers {
		owners[i.Name] = i.Tenant
	}
	down := d.engine.IssuersDown()
	for _, name := range slices.Sorted(maps.Keys(down)) {
		if now := down[name]; now != nil {
			add(alert.IssuerDown, owners[name], name, "keybroker rotation list --live", "issuer %s keeps failing; rotations that need it wait, except in an emergency: %s", name, now.Error)
		}
	}
}

// issuersNotices returns how many issuers keep failing, for anybody.
func (d *Daemon) issuersNotices() []string {
	n := 0
	for _, down := range d.engine.IssuersDown() {
		if down != nil {
			n++
		}
	}
	switch n {
	case 0:
		return nil
	case 1:
		return []string{"an issuer keeps failing"}
	}
	return []string{fmt.Sprintf("%d issuers keep failing", n)}
}

// issuersUp tells at each scrape which issuers work.
type issuersUp struct {
	engine *engine.Engine
	out    *prometheus.Desc
}

// watchIssuers makes a metric of the engine's breakers.
func (m *metrics) watchIssuers(e *engine.Engine) {
	m.registry.MustRegister(&issuersUp{e, prometheus.NewDesc("keybroker_issuer_up",
		"Whether an issuer works (1) or its last requests all failed, so that it is left alone (0).", []string{"issuer"}, nil)})
}

// Describe implements prometheus.Collector.
func (i *issuersUp) Describe(out chan<- *prometheus.Desc) { out <- i.out }

// Collect implements prometheus.Collector.
func (i *issuersUp) Collect(out chan<- prometheus.Metric) {
	for name, down := range i.engine.IssuersDown() {
		up := 1.0
		if down != nil {
			up = 0
		}
		out <- prometheus.MustNewConstMetric(i.out, prometheus.GaugeValue, up, name)
	}
}
