package daemon

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// metrics counts what the node does. No label ever names a secret.
type metrics struct {
	registry    *prometheus.Registry
	rotations   *prometheus.CounterVec
	rotationFor *prometheus.HistogramVec
	retirements *prometheus.CounterVec
	revocation  prometheus.Histogram
	deliveries  *prometheus.CounterVec
	requests    *prometheus.CounterVec
	requestFor  *prometheus.HistogramVec
	backendUp   *prometheus.GaugeVec
	reloadOK    prometheus.Gauge
	loadedAt    prometheus.Gauge
	conflicts   prometheus.Gauge
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
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keybroker_http_requests_total",
			Help: "Answered requests, by route and status."}, []string{"route", "status"}),
		requestFor: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "keybroker_http_request_duration_seconds",
			Help: "Time to answer a request."}, []string{"route"}),
		backendUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "keybroker_backend_up",
			Help: "Whether a backend could be used at the last look (1) or not (0)."}, []string{"backend"}),
		reloadOK: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keybroker_config_last_reload_successful",
			Help: "Whether the last reload of the configuration succeeded (1) or was refused (0)."}),
		loadedAt: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keybroker_config_loaded_timestamp_seconds",
			Help: "When the configuration in force was loaded."}),
		conflicts: prometheus.NewGauge(prometheus.GaugeOpts{Name: "keybroker_config_conflicts",
			Help: "Needs of rotations, retirements and deliveries under way that the configuration does not meet."}),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.rotations, m.rotationFor, m.retirements, m.revocation, m.deliveries, m.requests, m.requestFor, m.backendUp, m.reloadOK, m.loadedAt, m.conflicts)
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
			func() float64 { return float64(db.Stats().Commits) }))
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

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

// DeliveryAttempted implements engine.Observer.
func (m *metrics) DeliveryAttempted(outcome string) { m.deliveries.WithLabelValues(outcome).Inc() }

// observeRequest counts one answer; route is a pattern, never a path.
func (m *metrics) observeRequest(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.requestFor.WithLabelValues(route).Observe(took.Seconds())
}
