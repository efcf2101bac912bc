package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

const (
	// Managed secrets that components are made with are looked at after every commit of
	// this node, but not more often than managedPause, and for those of others each
	// managedPoll.
	managedPause = 100 * time.Millisecond
	managedPoll  = time.Second
	// managedRetry is the longest time after which it is tried again to take up a
	// version that could not be.
	managedRetry = 30 * time.Second
	// managedRead bounds reading one from its vault.
	managedRead = 10 * time.Second
)

// trouble is why a component is not made with the current version of a managed secret.
type trouble struct {
	why      string // as what follows `issuer "aws" `
	secret   string // that it is about; empty: not known
	unfilled bool   // the secret has no version yet
	stale    bool   // the component works, with the version or the configuration of before
}

// errUnfilled: there is nothing yet that a component could be made with.
var errUnfilled = fmt.Errorf("%w: it has no version yet", backends.ErrUnavailable)

// unready is the error of what concerns one managed secret.
type unready struct {
	ref backends.Ref
	err error
}

// Error implements error.
func (u *unready) Error() string {
	if errors.Is(u.err, errUnfilled) {
		return fmt.Sprintf("waits for %s, which has no version yet", u.ref)
	}
	return fmt.Sprintf("cannot take up %s: %v", u.ref, u.err)
}

// Unwrap gives the cause.
func (u *unready) Unwrap() error { return u.err }

func troubleOf(err error, stale bool) trouble {
	t := trouble{why: err.Error(), unfilled: errors.Is(err, errUnfilled), stale: stale}
	if u, ok := errors.AsType[*unready](err); ok {
		t.secret = u.ref.String()
	} else {
		t.why = "cannot be set up: " + t.why
	}
	switch {
	case stale && t.unfilled:
		t.why += "; until then, or a restart, it works as it was configured before"
	case stale:
		t.why += "; it works with the version of before, for as long as that does"
	}
	return t
}

// backendsInOrder are the backends, each behind those that hold what it logs in with,
// which may be others than the configuration says by now.
func (p *parts) backendsInOrder(ctx context.Context, cfg *config.Config) ([]*config.Backend, error) {
	named := map[string]*config.Backend{}
	for _, b := range cfg.Backends {
		named[b.Name] = b
	}
	holds, err := p.holders(ctx, cfg)
	if err != nil {
		return nil, err
	}
	var ordered []*config.Backend
	done := map[string]bool{}
	var put func(b *config.Backend)
	put = func(b *config.Backend) {
		if done[b.Name] {
			return
		}
		done[b.Name] = true
		for _, r := range b.References() {
			if other := named[holds[r.Ref]]; other != nil {
				put(other)
			}
		}
		ordered = append(ordered, b)
	}
	for _, b := range cfg.Backends {
		put(b)
	}
	return ordered, nil
}

// holders are the backends in which the current versions are that backends log in with.
func (p *parts) holders(ctx context.Context, cfg *config.Config) (map[backends.Ref]string, error) {
	holds := map[backends.Ref]string{}
	if !slices.ContainsFunc(cfg.Backends, func(b *config.Backend) bool { return len(b.References()) > 0 }) {
		return holds, nil
	}
	err := p.db.View(ctx, func(tx *store.Tx) error {
		clear(holds)
		for _, b := range cfg.Backends {
			for _, r := range b.References() {
				v, err := currentOf(ctx, tx, r.Ref)
				if err != nil && !errors.Is(err, errUnfilled) {
					return err
				}
				holds[r.Ref] = v.Backend
			}
		}
		return nil
	})
	return holds, err
}

// currentOf reads what is known of the current version of a managed secret.
func currentOf(ctx context.Context, tx *store.Tx, ref backends.Ref) (rotation.Version, error) {
	secret, err := tx.SecretByRef(ctx, ref)
	if errors.Is(err, backends.ErrNotFound) || err == nil && secret.Current == 0 {
		return rotation.Version{}, errUnfilled
	}
	if err != nil {
		return rotation.Version{}, err
	}
	return tx.Version(ctx, secret.ID, secret.Current)
}

// references are those of each block that has any.
func references(cfg *config.Config) map[block][]config.Reference {
	all := map[block][]config.Reference{}
	add := func(kind string, n config.Named) {
		if refs := n.References(); len(refs) > 0 {
			all[block{kind, n.Name}] = refs
		}
	}
	for _, b := range cfg.Backends {
		add("backend", b.Named)
	}
	for _, i := range cfg.Issuers {
		add("issuer", i.Named)
	}
	for _, b := range cfg.Probes {
		add("probe", b.Named)
	}
	return all
}

// marks say of each block with references which versions of managed secrets are current:
// by the secrets' ids and generations, never by what they hold.
func (p *parts) marks(ctx context.Context, cfg *config.Config) (map[block]string, error) {
	all := references(cfg)
	if len(all) == 0 {
		return nil, nil
	}
	var marks map[block]string
	err := p.db.View(ctx, func(tx *store.Tx) error {
		marks = map[block]string{}
		known := map[backends.Ref]string{}
		for at, refs := range all {
			for _, r := range refs {
				mark, seen := known[r.Ref]
				if !seen {
					s, err := tx.SecretByRef(ctx, r.Ref)
					if err != nil && !errors.Is(err, backends.ErrNotFound) {
						return err
					}
					mark = fmt.Sprintf("%s %s generation %d version %d\n", r.Ref, s.ID, s.Generation, s.Current)
					known[r.Ref] = mark
				}
				if !strings.Contains(marks[at], mark) {
					marks[at] += mark
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the versions of managed secrets: %w", err)
	}
	return marks, nil
}

// wants notes for a setup what its components are to be made with.
func (p *parts) wants(ctx context.Context, s *setup) error {
	marks, err := p.marks(ctx, s.cfg)
	maps.Copy(s.wants, marks)
	return err
}

// resolve gives the configuration of a block with the current values of the secrets that
// it refers to: the only place where they leave the broker's keeping for its own use.
func (p *parts) resolve(ctx context.Context, s *setup, n config.Named) (any, error) {
	values := map[backends.Ref]backends.Value{}
	for _, r := range n.References() {
		if _, have := values[r.Ref]; have {
			continue
		}
		value, err := p.current(ctx, s, r.Ref)
		if err != nil {
			return nil, &unready{r.Ref, err}
		}
		values[r.Ref] = value
	}
	return n.Resolve(values)
}

// current reads the current version of a managed secret: the broker's sealed copy, which
// takes no vault to be up, or else what the vault holds of it. It is used also while it
// is being revoked: until another one is current, containments may need what it opens.
func (p *parts) current(ctx context.Context, s *setup, ref backends.Ref) (backends.Value, error) {
	var v rotation.Version
	err := p.db.View(ctx, func(tx *store.Tx) (err error) {
		v, err = currentOf(ctx, tx, ref)
		return err
	})
	if err != nil {
		return backends.Value{}, err
	}
	value, err := p.open(ctx, v)
	if err == nil {
		return value, nil
	}
	mount := s.catalog.Backends[v.Backend]
	if mount == nil || v.BackendVersion == "" {
		return backends.Value{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, managedRead)
	defer cancel()
	value, _, held := mount.Read(ctx, ref, v.BackendVersion)
	if held != nil {
		return backends.Value{}, errors.Join(err, held)
	}
	return value, nil
}

// rebuild makes a setup of the same configuration in which the components are made with
// the versions of managed secrets that are current now. All others are those of before.
func (p *parts) rebuild(ctx context.Context, before *setup) (_ *setup, err error) {
	s := newSetup(before.cfg)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	s.digests = before.digests
	s.notifiers, s.sinks = before.notifiers, before.sinks
	s.receivers, s.queues = before.receivers, before.queues
	s.certificates, s.logins = before.certificates, before.logins
	s.catalog.Consumers = before.catalog.Consumers
	for at, r := range before.running {
		if !slices.Contains([]string{"backend", "issuer", "probe"}, at.kind) {
			s.running[at] = r.share()
		}
	}
	return s, p.components(ctx, s, before)
}

// followManaged has the components made anew whenever a secret that they are made with
// has another current version, here or at another node, and until that has succeeded.
func (d *Daemon) followManaged(ctx context.Context) {
	poll := time.NewTicker(managedPoll)
	defer poll.Stop()
	var retry time.Duration // 0: the last look left nothing to be tried again
	again := time.Now()
	for {
		changed := d.db.Changed()
		pause := time.NewTimer(managedPause)
		if failing, looked := d.takeUp(ctx, !time.Now().Before(again)); looked {
			if failing {
				retry = min(max(2*retry, managedPoll), managedRetry)
				again = time.Now().Add(retry)
			} else {
				retry = 0
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-poll.C:
		}
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// takeUp has the components made anew if a version that they are made with was replaced
// or, where it is time to try again, could not be taken up. It tells whether it has
// tried, and whether there is something that it has to try again.
func (d *Daemon) takeUp(ctx context.Context, again bool) (failing, tried bool) {
	s := d.setup.Load()
	marks, err := d.parts.marks(ctx, s.cfg)
	if err != nil { // told by whoever else needs the store
		return s.failing(), false
	}
	if maps.Equal(marks, s.wants) && (!again || !s.failing()) {
		return s.failing(), false
	}
	if err := d.beginReload(ctx); err != nil {
		return true, false
	}
	defer func() { <-d.reloading }()
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	before := d.setup.Load()
	next, err := d.parts.rebuild(ctx, before)
	if err != nil {
		d.log.Named("config").Error("current versions of managed secrets could not be taken up; it is tried again", "error", err)
		return true, true
	}
	if maps.Equal(before.takes, next.takes) && maps.Equal(before.troubles, next.troubles) && maps.Equal(before.wants, next.wants) {
		next.close()
		return next.failing(), true
	}
	d.useComponents(next)
	d.retire(before)
	d.tellTroubles(before, next)
	if err := d.engine.Reconfigured(ctx); err != nil {
		d.log.Warn("not everything that waits for a component was woken: it looks again by itself", "error", err)
	}
	return next.failing(), true
}

// failing tells whether a component has a trouble that another try may end.
func (s *setup) failing() bool {
	for _, t := range s.troubles {
		if !t.unfilled {
			return true
		}
	}
	return false
}

// troubled are the blocks that have a trouble, in order.
func (s *setup) troubled() []block {
	return slices.SortedFunc(maps.Keys(s.troubles), func(a, b block) int { return strings.Compare(a.String(), b.String()) })
}

// missing tells why a component of the configuration is not made, if it is not.
func (s *setup) missing(kind, name string) (why string, missing bool) {
	why, missing = s.catalog.Waiting[engine.Part{Kind: kind, Name: name}]
	return why, missing
}

// owner is the tenant that a component is for; empty: all.
func (s *setup) owner(at block) string {
	for _, b := range s.cfg.Backends {
		if at == (block{"backend", b.Name}) {
			return b.Tenant
		}
	}
	for _, i := range s.cfg.Issuers {
		if at == (block{"issuer", i.Name}) {
			return i.Tenant
		}
	}
	for _, b := range s.cfg.Probes {
		if at == (block{"probe", b.Name}) {
			return b.Tenant
		}
	}
	return ""
}

// notices returns what the components do not do, in texts that anybody may see.
func (s *setup) notices() (found []string) {
	if n := s.count(func(t trouble) bool { return !t.unfilled }); n > 0 {
		found = append(found, fmt.Sprintf("%s cannot take up a secret", componentsText(n)))
	}
	if n := s.count(func(t trouble) bool { return t.unfilled }); n > 0 {
		found = append(found, fmt.Sprintf("waiting: %s for a secret that has no version yet", componentsText(n)))
	}
	return found
}

func (s *setup) count(of func(trouble) bool) (n int) {
	for _, t := range s.troubles {
		if of(t) {
			n++
		}
	}
	return n
}

func componentsText(n int) string {
	if n == 1 {
		return "one of the backends, issuers and probes"
	}
	return fmt.Sprintf("%d of the backends, issuers and probes", n)
}

// unfilled warns of what a configuration lets wait.
func (s *setup) unfilled() []client.ConfigFinding {
	var out []client.ConfigFinding
	for _, at := range s.troubled() {
		t := s.troubles[at]
		var remedy []string
		if !t.stale {
			remedy = append(remedy, "what needs it waits until then")
		}
		if t.unfilled {
			remedy = append(remedy, fmt.Sprintf("`keybroker secret rotate %s` makes a version", t.secret))
		}
		out = append(out, client.ConfigFinding{What: fmt.Sprintf("%s %s", at, t.why), Remedy: strings.Join(remedy, "; ")})
	}
	return out
}

// tellTroubles logs what is new of how the components stand.
func (d *Daemon) tellTroubles(before, s *setup) {
	log := d.log.Named("config")
	for _, at := range s.troubled() {
		t := s.troubles[at]
		if before != nil && before.troubles[at] == t {
			continue
		}
		if t.unfilled {
			log.Warn("a component waits for a managed secret", "component", at, "why", t.why)
		} else {
			log.Error("a component cannot take up the current version of a managed secret; it is tried again", "component", at, "why", t.why)
		}
	}
	if before == nil {
		return
	}
	for at, took := range s.takes {
		if before.takes[at] != took {
			log.Info("a component took up the current version of a managed secret", "component", at)
		}
	}
}
