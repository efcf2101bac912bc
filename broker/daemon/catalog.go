package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/keys"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/trigger/eventbridge"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// parts are what every configuration's components are made from.
type parts struct {
	db     *store.DB
	sealer *seal.Keyring
	hasher keys.Hasher
	check  *keys.Checker                            // of the API keys that the broker itself issued
	doubts func(ref backends.Ref, version int) bool // whether a version may have been revoked in time that was lost
	mac    func(text string) string                 // keyed
	logger hclog.Logger
	now    func() time.Time
	source string // of events: this broker's URL

	signing *signing // what consumers' messages are signed with

	open func(context.Context, rotation.Version) (backends.Value, error) // the broker's sealed copy
	node string                                                          // this node's id, in its audit log

	observer backends.Observer // of all mounts
}

// setup is one configuration in working order. It is never changed once made.
type setup struct {
	cfg     *config.Config
	catalog *engine.Catalog
	digests map[block]string
	running map[block]*running
	newKeys []func() error // write the signing secrets that were made for its notifiers

	wants    map[block]string // of blocks that refer to managed secrets: which versions are current
	takes    map[block]string // and with which they were made; none: they are not
	troubles map[block]trouble
	strict   bool // a trouble that waiting alone does not end is an error

	notifiers map[string]alert.Notifier
	receivers map[string]inbound.Receiver   // by trigger
	queues    map[string]*eventbridge.Queue // by trigger
	sinks     map[string]audit.Sink

	certificates map[string]authn.CertificateMethod // by the name of the auth block
	logins       map[string]authn.LoginMethod
}

// build makes a working component of every block of the configuration. None of
// them needs its server to be up. What is the same block in before, which may be
// nil, is taken over from it as it is, with its session and its limits. Nothing is
// written before keepKeys.
//
// What refers to managed secrets is made with their current versions. Where that cannot
// be, it is a trouble of the setup; only a reload is refused for one that waiting alone
// does not end.
func (p *parts) build(ctx context.Context, cfg *config.Config, before *setup) (_ *setup, err error) {
	s := newSetup(cfg)
	s.strict = before != nil
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if before == nil {
		before = &setup{catalog: &engine.Catalog{}}
	}
	p.digest(s) // before the components read the same files: what changes in between is seen by the next reload
	if err := p.components(ctx, s, before); err != nil {
		return nil, err
	}
	if err := p.consumers(s, before); err != nil {
		return nil, err
	}
	if err := p.notifiers(s, before); err != nil {
		return nil, err
	}
	if err := p.triggers(ctx, s, before); err != nil {
		return nil, err
	}
	if err := p.auditSinks(s, before); err != nil {
		return nil, err
	}
	if err := p.auths(s, before); err != nil {
		return nil, err
	}
	return s, p.certificate(s)
}

func newSetup(cfg *config.Config) *setup {
	return &setup{cfg: cfg, digests: map[block]string{}, running: map[block]*running{},
		wants: map[block]string{}, takes: map[block]string{}, troubles: map[block]trouble{},
		catalog: &engine.Catalog{Backends: map[string]*backends.Mount{}, Issuers: map[string]issuer.Issuer{}, Probes: map[string]probe.Probe{},
			Consumers: map[string]engine.Deliverer{}, ProbeDigests: map[string]string{}, DriftEvery: map[string]time.Duration{}, Waiting: map[engine.Part]string{}}}
}

// components makes what may refer to managed secrets: backends, issuers and probes.
func (p *parts) components(ctx context.Context, s, before *setup) error {
	if err := p.wants(ctx, s); err != nil {
		return err
	}
	inOrder, err := p.backendsInOrder(ctx, s.cfg)
	if err != nil {
		return err
	}
	for _, b := range inOrder {
		s.catalog.DriftEvery[b.Name] = b.DriftCheck
		err := component(s, before, block{"backend", b.Name}, s.catalog.Backends, before.catalog.Backends, func() (*backends.Mount, func(), error) {
			cfg, err := p.resolve(ctx, s, b.Named)
			if err != nil {
				return nil, nil, err
			}
			return p.backend(ctx, b, cfg)
		})
		if err != nil {
			return err
		}
	}
	for _, i := range s.cfg.Issuers {
		err := component(s, before, block{"issuer", i.Name}, s.catalog.Issuers, before.catalog.Issuers, func() (issuer.Issuer, func(), error) {
			cfg, err := p.resolve(ctx, s, i.Named)
			if err != nil {
				return nil, nil, err
			}
			return p.issuer(i, cfg)
		})
		if err != nil {
			return err
		}
	}
	for _, b := range s.cfg.Probes {
		at := block{"probe", b.Name}
		err := component(s, before, at, s.catalog.Probes, before.catalog.Probes, func() (probe.Probe, func(), error) {
			cfg, err := p.resolve(ctx, s, b.Named)
			if err != nil {
				return nil, nil, err
			}
			return p.probe(b, cfg)
		})
		if err != nil {
			return err
		}
		digest := s.digests[at]
		if took, refers := s.takes[at]; s.troubles[at].stale { // it is the probe of before
			digest = before.catalog.ProbeDigests[b.Name]
		} else if refers { // with another credential it is another probe
			digest = p.mac(digest + took)
		}
		s.catalog.ProbeDigests[b.Name] = digest
	}
	return nil
}

// component puts into made what the block at is in working order: what stood for
// the same block before, or what fresh makes of it, with what ends it.
func component[T any](s, before *setup, at block, made, had map[string]T, fresh func() (T, func(), error)) error {
	old, worked := had[at.name]
	there := worked && before.digests[at] == s.digests[at]
	if there && before.takes[at] == s.wants[at] {
		made[at.name] = old
		s.takeOver(before, at)
		return nil
	}
	c, stop, err := fresh()
	_, refers := s.wants[at]
	// What works as another configuration of the block said goes on so until there is what
	// the new one takes: what is under way may need it, and nobody can fill that at once.
	waits := errors.Is(err, errUnfilled) && worked && types(before.cfg)[at] == types(s.cfg)[at]
	switch {
	case err != nil && refers && (there || waits): // better than nothing, and it may have worked
		made[at.name] = old
		s.takeOver(before, at)
		s.troubles[at] = troubleOf(err, true)
		return nil
	case err != nil && refers && (!s.strict || errors.Is(err, errUnfilled)):
		s.troubles[at] = troubleOf(err, false)
		s.catalog.Waiting[engine.Part{Kind: at.kind, Name: at.name}] = s.troubles[at].why
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", at, err)
	case refers:
		s.takes[at] = s.wants[at]
	}
	made[at.name] = c
	if stop != nil {
		s.running[at] = &running{stop: stop, users: 1}
	}
	return nil
}

// takeOver keeps running what a component of before does, with what it was made with.
func (s *setup) takeOver(before *setup, at block) {
	if r := before.running[at]; r != nil {
		s.running[at] = r.share()
	}
	if took, ok := before.takes[at]; ok {
		s.takes[at] = took
	}
}

// running is what a component keeps running, for all the setups that have it.
type running struct {
	stop  func()
	mu    sync.Mutex
	users int
}

// share counts one more user. There must be one already.
func (r *running) share() *running {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users++
	return r
}

// leave ends what runs with its last user.
func (r *running) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users--; r.users == 0 {
		r.stop()
	}
}

// certificate refuses a listener's that could not be used.
func (p *parts) certificate(s *setup) error {
	if !s.cfg.Listener.TLS() {
		return nil
	}
	_, _, err := readPair(s.cfg.Listener.TLSCertFile, s.cfg.Listener.TLSKeyFile)
	return err
}

// close ends what the components keep running that no other setup has. It is not
// for two callers at once.
func (s *setup) close() {
	for _, r := range s.running {
		r.leave()
	}
	s.running = nil
}

// keepKeys writes the signing secrets that were made for new notifiers.
func (s *setup) keepKeys() error {
	for _, write := range s.newKeys {
		if err := write(); err != nil {
			return err
		}
	}
	return nil
}

func unknownType(kind, name string) error {
	return fmt.Errorf("%w: there is no %s type %q", backends.ErrUnsupported, kind, name)
}

// backend mounts a vault, and tells what ends it.
func (p *parts) backend(ctx context.Context, b *config.Backend, cfg any) (*backends.Mount, func(), error) {
	t, ok := backendTypes[b.Type]
	if !ok {
		return nil, nil, unknownType("backend", b.Type)
	}
	driver, err := t.open(ctx, p, cfg, p.logger.Named(b.Type+"."+b.Name))
	if err != nil {
		return nil, nil, err
	}
	return backends.NewMount(b.Name, driver, backends.Options{Limits: b.Limits, ReadOnly: b.ReadOnly, Observer: p.observer}), closing(driver), nil
}

func (p *parts) issuer(i *config.Issuer, cfg any) (issuer.Issuer, func(), error) {
	t, ok := issuerTypes[i.Type]
	if !ok {
		return nil, nil, unknownType("issuer", i.Type)
	}
	is, err := t.make(p, cfg)
	return is, closing(is), err
}

func (p *parts) probe(b *config.Probe, cfg any) (probe.Probe, func(), error) {
	t, ok := probeTypes[b.Type]
	if !ok {
		return nil, nil, unknownType("probe", b.Type)
	}
	pr, err := t.make(p, cfg)
	return pr, closing(pr), err
}

// closing is what ends a component that keeps connections; nil of one that keeps none.
func closing(component any) func() {
	if c, ok := component.(interface{ Close() }); ok {
		return c.Close
	}
	return nil
}

func orNil(diags hcl.Diagnostics) error {
	if diags.HasErrors() {
		return fmt.Errorf("%w: %s", backends.ErrInvalid, diags.Error())
	}
	return nil
}

// consumers makes those who are told.
func (p *parts) consumers(s, before *setup) error {
	for _, k := range s.cfg.Consumers {
		at := block{"consumer", k.Name}
		secrets, err := signingSecrets(k)
		if err != nil {
			return err
		}
		var text strings.Builder
		k.Digest(&text)
		for _, secret := range secrets {
			_, _ = fmt.Fprintf(&text, "%q", secret.Reveal())
		}
		s.digests[at] = p.mac(text.String())
		err = component(s, before, at, s.catalog.Consumers, before.catalog.Consumers, func() (engine.Deliverer, func(), error) {
			c, err := p.consumer(k, secrets)
			return c, closing(c), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// consumer makes one; secrets are the operator's to sign with, none: the broker has its
// own.
func (p *parts) consumer(k *config.Consumer, secrets []backends.SecretString) (_ *consumer, err error) {
	c := &consumer{config: k, endpoint: p.mac(k.Endpoint.URL), signing: p.signing, source: p.source, now: p.now}
	if len(secrets) > 0 {
		if c.secrets, err = webhook.NewSigner(secrets...); err != nil {
			return nil, err
		}
	}
	if k.Payload == webhook.Sealed {
		if c.recipients, err = webhook.ReadRecipients(k.PublicKeyFile); err != nil {
			return nil, err
		}
	}
	if !k.Inbox {
		if c.sender, err = webhook.NewSender(k.Endpoint, p.now); err != nil {
			return nil, err
		}
	}
	return c, nil
}
