package daemon

import (
	"context"
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

// parts are what a catalog is built from.
type parts struct {
	cfg    *config.Config
	db     *store.DB
	sealer *seal.Sealer
	hasher keys.Hasher
	logger hclog.Logger
	now    func() time.Time
	source string // of events: this broker's URL

	closers []io.Closer
}

// catalog makes a working component of every block of the configuration. None
// of them needs its server to be up.
func (p *parts) catalog(ctx context.Context) (*engine.Catalog, error) {
	c := &engine.Catalog{Backends: map[string]*backends.Mount{}, Issuers: map[string]issuer.Issuer{},
		Probes: map[string]probe.Probe{}, Consumers: map[string]engine.Deliverer{}}
	for _, b := range p.cfg.Backends {
		driver, err := p.backend(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("backend %q: %w", b.Name, err)
		}
		c.Backends[b.Name] = backends.NewMount(b.Name, driver, b.Limits)
	}
	for _, i := range p.cfg.Issuers {
		is, err := p.issuer(i)
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", i.Name, err)
		}
		c.Issuers[i.Name] = is
	}
	for _, b := range p.cfg.Probes {
		pr, err := p.probe(b)
		if err != nil {
			return nil, fmt.Errorf("probe %q: %w", b.Name, err)
		}
		c.Probes[b.Name] = pr
	}
	return c, p.consumers(c)
}

// close ends what the components keep running.
func (p *parts) close() {
	for _, c := range slices.Backward(p.closers) {
		_ = c.Close()
	}
}

type closeFunc func()

// Close calls f.
func (f closeFunc) Close() error { f(); return nil }

func unknownType(kind, name string) error {
	return fmt.Errorf("%w: there is no %s type %q", backends.ErrUnsupported, kind, name)
}

func (p *parts) backend(ctx context.Context, b *config.Backend) (backends.Driver, error) {
	switch b.Type {
	case typeLocal:
		return local.New(p.sealer, p.db.LocalStorage()), nil
	case typeVault:
		d, err := vault.Open(ctx, *b.Config.(*vault.Config), p.logger.Named("vault."+b.Name))
		if err != nil {
			return nil, err
		}
		p.closers = append(p.closers, closeFunc(d.Close))
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

func (p *parts) consumers(c *engine.Catalog) error {
	public, err := outbound.New(outbound.Options{Timeout: webhook.Timeout})
	if err != nil {
		return err
	}
	private, err := outbound.New(outbound.Options{Timeout: webhook.Timeout, AllowPrivate: true})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, closeFunc(public.Close), closeFunc(private.Close))
	sender := webhook.NewSender(public, private, p.now)
	for _, k := range p.cfg.Consumers {
		secret, err := signingSecret(p.cfg, k)
		if err != nil {
			return err
		}
		signer, err := webhook.NewSigner(secret)
		if err != nil {
			return fmt.Errorf("consumer %q: %w", k.Name, err)
		}
		c.Consumers[k.Name] = &webhookConsumer{endpoint: k.Webhook.Endpoint, signer: signer, sender: sender, source: p.source}
	}
	return nil
}
