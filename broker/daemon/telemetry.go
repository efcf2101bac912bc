package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keybroker/keybroker/broker/httpapi"
	"github.com/keybroker/keybroker/broker/store"
)

// apiMetrics serves the metrics on the API's listener; nil: they are switched off, or
// on a listener of their own.
func (d *Daemon) apiMetrics() http.Handler {
	if t := d.opts.Config.Telemetry; !t.Prometheus || t.Address != "" {
		return nil
	}
	return d.metrics.handler()
}

// telemetryConnections are how many the metrics' own listener keeps at a time: few
// programs ask for metrics, and files are what the node needs for other things.
const telemetryConnections = 256

// listenTelemetry binds the metrics' own listener, if they have one.
func (d *Daemon) listenTelemetry() error {
	t := d.opts.Config.Telemetry
	if !t.Prometheus {
		return nil
	}
	if t.SecretNames {
		d.metrics.nameSecrets(d.db)
	}
	if t.Address == "" {
		return nil
	}
	l, err := net.Listen("tcp", t.Address)
	if err != nil {
		return fmt.Errorf("listening for telemetry: %w", err)
	}
	d.telemetry = httpapi.LimitConnections(l, httpapi.ConnectionLimits{Total: telemetryConnections, PerAddress: telemetryConnections / 4, Closed: d.crowded(d.log.Named("telemetry"))})
	d.onClose(func() error { return closeListener(l) })
	return nil
}

// serveTelemetry answers on the metrics' own listener, to anybody, until ctx ends.
func (d *Daemon) serveTelemetry(ctx context.Context) {
	if d.telemetry == nil {
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.metrics.handler())
	log := d.log.Named("telemetry")
	srv := httpapi.NewServer(mux, httpapi.DefaultTimeouts, log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}))
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	log.Info("metrics are served", "address", "http://"+d.telemetry.Addr().String()+"/metrics")
	if err := srv.Serve(d.telemetry); !errors.Is(err, http.ErrServerClosed) {
		log.Error("metrics are served no more", "error", err)
	}
}

// watchCertificate makes metrics of the listener's certificate.
func (m *metrics) watchCertificate(c *certificate) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keybroker_certificate_days_left",
			Help: "Days until the certificate of the listener expires; below 0: since then."},
			func() float64 {
				notAfter, _ := c.state()
				return time.Until(notAfter).Hours() / 24
			}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keybroker_certificate_last_reload_successful",
			Help: "Whether the certificate that is in the listener's files is in use (1), or cannot be (0)."},
			func() float64 {
				if _, problem := c.state(); problem != nil {
					return 0
				}
				return 1
			}))
}

// watchConnections makes a metric of the listener's connections.
func (m *metrics) watchConnections(l *httpapi.Connections) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keybroker_connections",
		Help: "Connections that the listener has."}, func() float64 { return float64(l.Open()) }))
}

// nameSecrets makes metrics of single secrets.
func (m *metrics) nameSecrets(db *store.DB) {
	m.registry.MustRegister(&ages{db: db, out: prometheus.NewDesc("keybroker_secret_current_version_age_seconds",
		"Since when a secret has its current version.", []string{"tenant", "secret"}, nil)})
}

// ages tells at each scrape how old current versions are.
type ages struct {
	db  *store.DB
	out *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (a *ages) Describe(out chan<- *prometheus.Desc) { out <- a.out }

// Collect implements prometheus.Collector. A store that does not answer leaves the
// figures out.
func (a *ages) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	var found []store.CurrentSince
	err := a.db.View(ctx, func(tx *store.Tx) (err error) {
		found, err = tx.CurrentSince(ctx)
		return err
	})
	if err != nil {
		return
	}
	for _, c := range found {
		out <- prometheus.MustNewConstMetric(a.out, prometheus.GaugeValue, now().Sub(c.PublishedAt).Seconds(), c.Ref.Tenant, c.Ref.Name)
	}
}
