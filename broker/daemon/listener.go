package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/httpapi"
	"github.com/keybroker/keybroker/broker/ratelimit"
	"github.com/keybroker/keybroker/policy"
)

// wire is where callers arrive.
type wire struct {
	listener    net.Listener
	certificate *certificate // nil without TLS
	every       time.Duration

	mu      sync.Mutex
	cfg     *config.Config // in force
	tls     *tls.Config    // of connections that begin from now on
	handler *httpapi.Handler
}

func (d *Daemon) listen(context.Context) error {
	cfg := d.opts.Config.Listener
	l := d.opts.Listener
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", cfg.Address); err != nil {
			return fmt.Errorf("listening: %w", err)
		}
	}
	d.onClose(func() error { return closeListener(l) })
	w := &d.wire
	w.every = certificateEvery
	if d.opts.certificateEvery > 0 {
		w.every = d.opts.certificateEvery
	}
	connections := httpapi.LimitConnections(l, httpapi.ConnectionLimits{Total: httpapi.MaxConnections, PerAddress: httpapi.MaxConnectionsPerAddress, Exempt: w.trusts,
		Closed: d.crowded(d.log.Named("listener"))})
	d.metrics.watchConnections(connections)
	w.listener = connections
	scheme := "http"
	if cfg.TLS() {
		var err error
		if w.certificate, err = openCertificate(cfg.TLSCertFile, cfg.TLSKeyFile, d.log.Named("listener")); err != nil {
			return err
		}
		d.metrics.watchCertificate(w.certificate)
		w.listener = tls.NewListener(w.listener, &tls.Config{MinVersion: tls.VersionTLS12, // as configFor says
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return w.configFor(), nil }})
		scheme = "https"
	}
	w.apply(d.opts.Config)
	d.parts.source = scheme + "://" + l.Addr().String()
	return d.listenTelemetry()
}

// crowdedEvery is how often it is logged that connections are closed for others.
const crowdedEvery = time.Minute

// crowded notes which connections are closed for others.
func (d *Daemon) crowded(log hclog.Logger) func(limit string, from netip.Addr) {
	told := rate.Sometimes{Interval: crowdedEvery}
	return func(limit string, from netip.Addr) {
		d.metrics.crowdedOut.WithLabelValues(limit).Inc()
		told.Do(func() {
			log.Warn("there are too many connections: those that are silent for the longest time are closed for new ones", "limit", limit, "now_of", from)
		})
	}
}

// closeListener closes l, which its server may have done already.
func closeListener(l net.Listener) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// apply puts what cfg says of the listener in force, for whatever begins from now on.
func (w *wire) apply(cfg *config.Config) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cfg = cfg
	if w.certificate != nil {
		w.tls = tlsConfig(cfg, w.certificate)
		_ = w.certificate.read() // whoever asks for a reload need not wait; what is wrong with it is in its state
	}
	if w.handler != nil {
		w.handler.SetLimits(limitsOf(cfg))
	}
}

// tlsConfig is TLS 1.3, or 1.2 as well where that was asked for, then with the suites
// alone that have forward secrecy and authenticated encryption (RFC 9325, section 4.2).
// Clients are asked for a certificate if somebody can be known by one; who it is that
// shows one is found out with each request.
func tlsConfig(cfg *config.Config, c *certificate) *tls.Config {
	t := &tls.Config{
		MinVersion: tls.VersionTLS13,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil },
	}
	if cfg.Listener.TLSMinVersion == tls.VersionTLS12 {
		t.MinVersion = tls.VersionTLS12
	}
	if slices.ContainsFunc(cfg.Auths, func(a *config.Auth) bool { _, by := certificateTypes[a.Type]; return by }) {
		t.ClientAuth = tls.RequestClientCert
	}
	return t
}

func (w *wire) configFor() *tls.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tls
}

// trusts tells whether an address is one of the proxies.
func (w *wire) trusts(a netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.cfg.Listener.TrustedProxies, a)
}

func limitsOf(cfg *config.Config) httpapi.Limits {
	l := cfg.Listener
	tenants := map[string]policy.Limit{}
	for _, t := range cfg.Tenants {
		tenants[t.Name] = t.Limit
	}
	return httpapi.Limits{MaxRequestSize: l.MaxRequestSize, TrustedProxies: l.TrustedProxies,
		Rates: ratelimit.Rates{Address: l.Limits.PerAddress, Identity: l.Limits.PerIdentity, Tenant: l.Limits.PerTenant, Tenants: tenants}}
}

// server makes the server of the API. Stopping ends the streams.
func (d *Daemon) server(stopping <-chan struct{}) *http.Server {
	w := &d.wire
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handler = httpapi.New(httpapi.Config{Broker: d.broker, Authenticator: d.authn, Logger: d.log.Named("http"), Limits: limitsOf(w.cfg),
		Ready: d.ready, Notices: d.notices,
		Metrics: d.apiMetrics(), Observe: d.metrics.observeRequest, Stopping: stopping})
	return httpapi.NewServer(w.handler, httpapi.DefaultTimeouts, d.log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}))
}

// watchCertificate looks after the certificate, if there is one.
func (d *Daemon) watchCertificate(ctx context.Context) {
	if c := d.wire.certificate; c != nil {
		c.watch(ctx, d.wire.every)
	}
}
