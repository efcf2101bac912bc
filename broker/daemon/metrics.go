package daemon

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// scrapeTimeout bounds each look into the store for the metrics.
const scrapeTimeout = 2 * time.Second

// metrics counts what the node does. No label names a secret, save those of
// nameSecrets, which takes the operator's word.
type metrics struct {
	registry    *prometheus.Registry
	rotations   *prometheus.CounterVec
	rotationFor *prometheus.HistogramVec
	retirements *prometheus.CounterVec
	revocation  prometheus.Histogram
	deliveries  *prometheus.CounterVec
	drift       *prometheus.CounterVec
	requests    *prometheus.CounterVec
	requestFor  *prometheus.HistogramVec
	crowdedOut  *prometheus.CounterVec
	backendUp   *prometheus.GaugeVec
	calls       *prometheus.CounterVec
	callFor     *prometheus.HistogramVec
	breakers    *prometheus.GaugeVec
	sealUp      *prometheus.GaugeVec
	reloadOK    prometheus.Gauge
	loadedAt    prometheus.Gauge
	conflicts   prometheus.Gauge
	notified    *prometheus.CounterVec // see watchAlerts
	notifierUp  *prometheus.GaugeVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		rotations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keybroker_rotations_total",
			Help: "Rotations that ended, by trigger and end state."}, []string{"trigger", "state"}),
		rotationFor: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "keybroker_rotation_duration_seconds",
			Help: "From request to end of a rotation, its overlap included.", Buckets: prometheus.ExponentialBuckets(1, 4, 10)}, []string{"trigger"}),
		retirements: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keybroker_retirement_states_total",
			Help: "Retirements that entered a state. Alert on unconfirmed, unprovable and resurrected."}, []string{"state"}),
		revocation: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "keybroker_revocation_latency_seconds",
			Help: "From the request of a retirement to the first rejection of its credential.", Buckets: prometheus.ExponentialBuckets(0.01, 4, 10)}),
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keybroker_delivery_attempts_total",
			Help: "Attempts at webhooks, by outcome."}, []string{"outcome"}),
		drift: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keybroker_drift_total",
			Help: "Times that a vault was found to hold something else than it was given, by backend and kind."}, []string{"backend", "kind"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keybroker_http_requests_total",
			Help: "Answered requests, by route and status."}, []string{"route", "status"}),
		requestFor: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "keybroker_http_request_duration_seconds",
			Help: "Time to answer a request."}, []string{"route"}),
		crowdedOut: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keybroker_connections_closed_total",
			Help: "Connections that were closed for new ones, by the limit that was reached: of an address, of a site of IPv6, or in total."}, []string{"limit"}),
		backendUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "keybroker_backend_up",
			Help: "Whether a backend could be used at the last look (1) or not (0)."}, []string{"backend"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keybroker_backend_calls_total",
			Help: "Calls of backends with all their attempts, by operation and class of the error; ok is none."}, []string{"backend", "operation", "class"}),
		callFor: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "keybroker_backend_call_seconds",
			Help: "Time of a call of a backend, with all its attempts and the waits between them.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8)}, []string{"backend", "operation"}),
		breakers: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "keybroker_backend_breaker_open",
			Help: "Whether calls of a backend fail at once because the last ones all failed (1) or not (0)."}, []string{"backend"}),
		sealUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "keybroker_seal_up",
			Help: "Whether a seal could open every key at the last look (1) or not (0)."}, []string{"seal"}),
		reloadOK: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keybroker_config_last_reload_successful",
			Help: "Whether the last reload of the configuration succeeded (1) or was refused (0)."}),
		loadedAt: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keybroker_config_loaded_timestamp_seconds",
			Help: "When the configuration in force was loaded."}),
		conflicts: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keybroker_config_conflicts",
			Help: "Needs of rotations, retirements and deliveries under way that the configuration does not meet."}),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.rotations, m.rotationFor, m.retirements, m.revocation, m.deliveries, m.drift, m.requests, m.requestFor, m.crowdedOut, m.backendUp, m.calls, m.callFor, m.breakers,
		m.sealUp, m.reloadOK, m.loadedAt, m.conflicts)
	m.reloadOK.Set(1)
	return m
}

// watchStore counts what the store commits.
func (m *metrics) watchStore(db *store.DB) {
	m.registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "keybroker_store_transactions_total",
			Help: "Transactions that this node committed."},
			func() float64 { return float64(db.Stats().Transactions) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "keybroker_store_commits_total",
			Help: "Commits that took; on SQLite, transactions at the same time share one."},
			func() float64 { return float64(db.Stats().Commits) }),
		&placements{db: db, out: prometheus.NewDesc("keybroker_placements_out_of_step",
			"Secrets that a backend does not hold as it should, by state: behind (a mirror that was not brought to the newest version yet) or drifted.",
			[]string{"backend", "state"}, nil)})
}

// placements counts at each scrape what is out of step.
type placements struct {
	db  *store.DB
	out *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (p *placements) Describe(out chan<- *prometheus.Desc) { out <- p.out }

// Collect implements prometheus.Collector. A store that does not answer leaves the
// figures out.
func (p *placements) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	var counts []store.PlacementCount
	err := p.db.View(ctx, func(tx *store.Tx) (err error) {
		counts, err = tx.CountPlacements(ctx)
		return err
	})
	if err != nil {
		return
	}
	for _, c := range counts {
		out <- prometheus.MustNewConstMetric(p.out, prometheus.GaugeValue, float64(c.Count), c.Backend, string(c.State))
	}
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// sealUsable notes whether a seal could be used.
func (m *metrics) sealUsable(seal string, up bool) {
	value := 0.0
	if up {
		value = 1
	}
	m.sealUp.WithLabelValues(seal).Set(value)
}

// sealForgotten ends the series of a seal that is called otherwise by now.
func (m *metrics) sealForgotten(seal string) { m.sealUp.DeleteLabelValues(seal) }

// RotationEnded implements engine.Observer.
func (m *metrics) RotationEnded(trigger rotation.Trigger, state rotation.State, took time.Duration) {
	m.rotations.WithLabelValues(string(trigger), string(state)).Inc()
	m.rotationFor.WithLabelValues(string(trigger)).Observe(took.Seconds())
}

// RetirementProven implements engine.Observer.
func (m *metrics) RetirementProven(latency time.Duration) { m.revocation.Observe(latency.Seconds()) }

// RetirementState implements engine.Observer.
func (m *metrics) RetirementState(s rotation.RetirementState) {
	m.retirements.WithLabelValues(string(s)).Inc()
}

// DriftFound implements engine.Observer.
func (m *metrics) DriftFound(backend string, kind rotation.DriftKind) {
	m.drift.WithLabelValues(backend, string(kind)).Inc()
}

// DeliveryAttempted implements engine.Observer.
func (m *metrics) DeliveryAttempted(outcome string) { m.deliveries.WithLabelValues(outcome).Inc() }

// Called implements backends.Observer.
func (m *metrics) Called(backend, operation string, class error, took time.Duration) {
	label := "ok"
	if class != nil {
		label = strings.ReplaceAll(class.Error(), " ", "_")
	}
	m.calls.WithLabelValues(backend, operation, label).Inc()
	m.callFor.WithLabelValues(backend, operation).Observe(took.Seconds())
}

// Breaker implements backends.Observer.
func (m *metrics) Breaker(backend string, open bool) {
	state := 0.0
	if open {
		state = 1
	}
	m.breakers.WithLabelValues(backend).Set(state)
}

// forgetBackend ends the series of a backend that is no more.
func (m *metrics) forgetBackend(name string) {
	of := prometheus.Labels{"backend": name}
	for _, vector := range []interface {
		DeletePartialMatch(labels prometheus.Labels) int
	}{m.backendUp, m.calls, m.callFor, m.breakers} {
		vector.DeletePartialMatch(of)
	}
}

// observeRequest counts one answer; route is a pattern, never a path.
func (m *metrics) observeRequest(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.requestFor.WithLabelValues(route).Observe(took.Seconds())
}
