package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/local"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/backends/vault"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/apikey"
	issuerhttp "github.com/keybroker/keybroker/rotation/issuer/httpapi"
	"github.com/keybroker/keybroker/rotation/keys"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/probe/httpprobe"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// parts are what every configuration's components are made from.
type parts struct {
	db     *store.DB
	sealer *seal.Sealer
	hasher keys.Hasher
	mac    func(text string) string // keyed
	logger hclog.Logger
	now    func() time.Time
	source string // of events: this broker's URL
}

// setup is one configuration in working order. It is never changed once made.
type setup struct {
	cfg         *config.Config
	catalog     *engine.Catalog
	digests     map[block]string
	certificate *tls.Certificate // of the listener; nil without TLS
	closers     []io.Closer
}

// build makes a working component of every block of the configuration. None of
// them needs its server to be up. A trial writes no file.
func (p *parts) build(ctx context.Context, cfg *config.Config, trial bool) (_ *setup, err error) {
	s := &setup{cfg: cfg, digests: map[block]string{},
		catalog: &engine.Catalog{Backends: map[string]*backends.Mount{}, Issuers: map[string]issuer.Issuer{},
			Probes: map[string]probe.Probe{}, Consumers: map[string]engine.Deliverer{}, ProbeDigests: map[string]string{}}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	for _, b := range cfg.Backends {
		driver, err := p.backend(ctx, s, b)
		if err != nil {
			return nil, fmt.Errorf("backend %q: %w", b.Name, err)
		}
		s.catalog.Backends[b.Name] = backends.NewMount(b.Name, driver, b.Limits)
	}
	for _, i := range cfg.Issuers {
		is, err := p.issuer(i)
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", i.Name, err)
		}
		s.catalog.Issuers[i.Name] = is
	}
	for _, b := range cfg.Probes {
		pr, err := p.probe(b)
		if err != nil {
			return nil, fmt.Errorf("probe %q: %w", b.Name, err)
		}
		s.catalog.Probes[b.Name] = pr
	}
	if err := p.consumers(s, trial); err != nil {
		return nil, err
	}
	if err := p.certificate(s); err != nil {
		return nil, err
	}
	p.digest(s)
	return s, nil
}

// certificate loads the listener's.
func (p *parts) certificate(s *setup) error {
	if !s.cfg.Listener.TLS() {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(s.cfg.Listener.TLSCertFile, s.cfg.Listener.TLSKeyFile)
	if err != nil {
		return fmt.Errorf("loading the listener's certificate: %w", err)
	}
	s.certificate = &cert
	return nil
}

// close ends what the components keep running.
func (s *setup) close() {
	for _, c := range slices.Backward(s.closers) {
		_ = c.Close()
	}
	s.closers = nil
}

type closeFunc func()

// Close calls f.
func (f closeFunc) Close() error { f(); return nil }

func unknownType(kind, name string) error {
	return fmt.Errorf("%w: there is no %s type %q", backends.ErrUnsupported, kind, name)
}

func (p *parts) backend(ctx context.Context, s *setup, b *config.Backend) (backends.Driver, error) {
	switch b.Type {
	case typeLocal:
		return local.New(p.sealer, p.db.LocalStorage()), nil
	case typeVault:
		d, err := vault.Open(ctx, *b.Config.(*vault.Config), p.logger.Named("vault."+b.Name))
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, closeFunc(d.Close))
		return d, nil
	}
	return nil, unknownType("backend", b.Type)
}

func (p *parts) issuer(i *config.Issuer) (issuer.Issuer, error) {
	switch i.Type {
	case typeAPIKey:
		return apikey.New(p.db.APIKeys(), p.hasher, p.now), nil
	case typeHTTP:
		is, diags := issuerhttp.New(*i.Config.(*issuerhttp.Config))
		return is, orNil(diags)
	}
	return nil, unknownType("issuer", i.Type)
}

func (p *parts) probe(b *config.Probe) (probe.Probe, error) {
	switch b.Type {
	case typeHTTP:
		pr, diags := httpprobe.New(*b.Config.(*httpprobe.Config))
		return pr, orNil(diags)
	}
	return nil, unknownType("probe", b.Type)
}

func orNil(diags hcl.Diagnostics) error {
	if diags.HasErrors() {
		return fmt.Errorf("%w: %s", backends.ErrInvalid, diags.Error())
	}
	return nil
}

func (p *parts) consumers(s *setup, trial bool) error {
	public, err := outbound.New(outbound.Options{Timeout: webhook.Timeout})
	if err != nil {
		return err
	}
	private, err := outbound.New(outbound.Options{Timeout: webhook.Timeout, AllowPrivate: true})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, closeFunc(public.Close), closeFunc(private.Close))
	sender := webhook.NewSender(public, private, p.now)
	for _, k := range s.cfg.Consumers {
		secret, err := signingSecret(s.cfg, k, trial)
		if err != nil {
			return err
		}
		signer, err := webhook.NewSigner(secret)
		if err != nil {
			return fmt.Errorf("consumer %q: %w", k.Name, err)
		}
		s.catalog.Consumers[k.Name] = &webhookConsumer{endpoint: k.Webhook.Endpoint, signer: signer, sender: sender, source: p.source}
		s.digests[block{"consumer", k.Name}] = p.mac(fmt.Sprintf("%q %q %q %t %s", k.Tenant, k.Webhook.URL, k.Webhook.Payload, k.Webhook.AllowPrivate, secret.Reveal()))
	}
	return nil
}
