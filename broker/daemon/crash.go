//go:build crashpoints

package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/apikey"
	issuerhttp "github.com/keybroker/keybroker/rotation/issuer/httpapi"
	"github.com/keybroker/keybroker/rotation/issuer/postgresql"
	"github.com/keybroker/keybroker/rotation/probe"
)

// The variables that crash points obey.
const (
	// crashAtVariable says where the process kills itself: "<point>#<n>" is the n-th
	// time that it comes to a point, "*#<n>" the n-th point of any name.
	crashAtVariable = "KEYBROKER_CRASH_AT"
	// crashLogVariable names a file that each point is written to before it is passed.
	crashLogVariable = "KEYBROKER_CRASH_LOG"
)

// crashPoints are where the process can die: before and after every commit and
// every effect of the engine. They exist only in a binary built with the tag
// crashpoints, for rotation/engine/crashtest.
type crashPoints struct {
	mu     sync.Mutex
	at     string
	times  int // until the process dies; 0: never
	record *os.File
}

var points = sync.OnceValue(func() *crashPoints {
	p := &crashPoints{}
	if at, n, ok := strings.Cut(os.Getenv(crashAtVariable), "#"); ok {
		times, err := strconv.Atoi(n)
		if err != nil || times < 1 {
			panic(crashAtVariable + " is no <point>#<number from 1>")
		}
		p.at, p.times = at, times
	}
	if name := os.Getenv(crashLogVariable); name != "" {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			panic(err)
		}
		p.record = f
	}
	return p
})

// pass writes the point down and dies there if it is the one.
func (p *crashPoints) pass(format string, args ...any) {
	point := fmt.Sprintf(format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.record != nil {
		_, _ = p.record.WriteString(point + "\n")
	}
	if p.times == 0 || p.at != point && p.at != "*" {
		return
	}
	if p.times--; p.times == 0 {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {} // no other goroutine passes a point any more
	}
}

// around passes the points before and after an effect.
func around[T any](effect string, f func() T) T {
	points().pass("effect:%s:before", effect)
	defer points().pass("effect:%s:after", effect)
	return f()
}

// result is what an effect gives that can fail.
type result[T any] struct {
	value T
	err   error
}

func aroundResult[T any](effect string, f func() (T, error)) (T, error) {
	r := around(effect, func() result[T] {
		value, err := f()
		return result[T]{value, err}
	})
	return r.value, r.err
}

// crashStore puts points around every commit of the engine.
func crashStore(s engine.Store) engine.Store { return crashingStore{s} }

type crashingStore struct{ engine.Store }

// Update implements engine.Store.
func (s crashingStore) Update(ctx context.Context, fn func(engine.Tx) error) error {
	name := ""
	err := s.Store.Update(ctx, func(tx engine.Tx) error {
		noted := &notingTx{Tx: tx}
		if err := fn(noted); err != nil {
			return err
		}
		name = strings.Join(noted.saved, "&")
		if name == "" {
			name = "wake-ups"
		}
		points().pass("commit:%s:before", name)
		return nil
	})
	if err == nil {
		points().pass("commit:%s:after", name)
	}
	return err
}

// notingTx notes what a transaction saves: its commit is called by that.
type notingTx struct {
	engine.Tx
	saved []string
}

func (t *notingTx) note(what string, err error) error {
	if err == nil && !slices.Contains(t.saved, what) {
		t.saved = append(t.saved, what)
	}
	return err
}

func intended(i *rotation.Intent) string {
	switch {
	case i == nil:
		return ""
	case i.Unheard:
		return "~" + string(i.Effect)
	}
	return "+" + string(i.Effect)
}

func noteOfRotation(r *rotation.Rotation) string {
	kind := "rotation"
	if r.Emergency() {
		kind = "emergency"
	}
	return kind + "." + string(r.State) + intended(r.Intent)
}

func noteOfRetirement(t *rotation.Retirement) string {
	kind := "retirement"
	switch t.Cause {
	case rotation.CauseEmergency:
		kind = "containment"
	case rotation.CauseOrphan, rotation.CauseFailed:
		kind = "disposal"
	}
	return kind + "." + string(t.State) + intended(t.Intent)
}

func (t *notingTx) SaveSecret(ctx context.Context, s *rotation.Secret) error {
	return t.note("secret", t.Tx.SaveSecret(ctx, s))
}

func (t *notingTx) AddVersion(ctx context.Context, v *rotation.Version) error {
	return t.note("version", t.Tx.AddVersion(ctx, v))
}

func (t *notingTx) SaveVersion(ctx context.Context, v *rotation.Version) error {
	return t.note("version."+string(v.Stage), t.Tx.SaveVersion(ctx, v))
}

func (t *notingTx) AddRotation(ctx context.Context, r *rotation.Rotation) error {
	return t.note("new-"+noteOfRotation(r), t.Tx.AddRotation(ctx, r))
}

func (t *notingTx) SaveRotation(ctx context.Context, r *rotation.Rotation) error {
	return t.note(noteOfRotation(r), t.Tx.SaveRotation(ctx, r))
}

func (t *notingTx) AddRetirement(ctx context.Context, r *rotation.Retirement) error {
	return t.note("new-"+noteOfRetirement(r), t.Tx.AddRetirement(ctx, r))
}

func (t *notingTx) SaveRetirement(ctx context.Context, r *rotation.Retirement) error {
	return t.note(noteOfRetirement(r), t.Tx.SaveRetirement(ctx, r))
}

func (t *notingTx) AddDeliveries(ctx context.Context, all []*rotation.Delivery) error {
	return t.note("new-delivery", t.Tx.AddDeliveries(ctx, all))
}

func (t *notingTx) LeaseDelivery(ctx context.Context, d *rotation.Delivery, now time.Time) error {
	return t.note("delivery."+string(d.State)+"+attempt", t.Tx.LeaseDelivery(ctx, d, now))
}

func (t *notingTx) SaveDelivery(ctx context.Context, d *rotation.Delivery) error {
	what := "delivery." + string(d.State)
	if !d.Lease.IsZero() { // it is handed out
		what += "+attempt"
	}
	return t.note(what, t.Tx.SaveDelivery(ctx, d))
}

func (t *notingTx) AddAck(ctx context.Context, a rotation.Ack) error {
	return t.note("ack", t.Tx.AddAck(ctx, a))
}

func (t *notingTx) SaveConsumerState(ctx context.Context, s rotation.ConsumerState) error {
	return t.note("consumer", t.Tx.SaveConsumerState(ctx, s))
}

// crashCatalog puts points around every effect that the components have.
func crashCatalog(c *engine.Catalog) *engine.Catalog {
	out := &engine.Catalog{Backends: map[string]*backends.Mount{}, Issuers: map[string]issuer.Issuer{},
		Probes: map[string]probe.Probe{}, Consumers: map[string]engine.Deliverer{}, ProbeDigests: c.ProbeDigests, Waiting: c.Waiting}
	for name, m := range c.Backends {
		out.Backends[name] = crashMount(m)
	}
	for name, is := range c.Issuers {
		out.Issuers[name] = crashIssuer(is)
	}
	for name, p := range c.Probes {
		out.Probes[name] = crashProbe(p)
	}
	for name, d := range c.Consumers {
		out.Consumers[name] = crashingDeliverer{d}
	}
	return out
}

// crashMount is a mount of the mount: below the points, everything is as it was.
func crashMount(m *backends.Mount) *backends.Mount {
	if s, ok := m.Stager(); ok {
		return backends.NewMount(m.Name(), crashingStager{crashingDriver{m}, s}, backends.Options{})
	}
	return backends.NewMount(m.Name(), crashingDriver{m}, backends.Options{})
}

type crashingDriver struct{ backends.Driver }

// Publish implements backends.Driver.
func (d crashingDriver) Publish(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	return aroundResult("vault.publish", func() (backends.VersionID, error) { return d.Driver.Publish(ctx, ref, w) })
}

// Destroy implements backends.Driver.
func (d crashingDriver) Destroy(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	return around("vault.destroy", func() error { return d.Driver.Destroy(ctx, ref, id) })
}

type crashingStager struct {
	crashingDriver
	stager backends.Stager
}

// Stage implements backends.Stager.
func (s crashingStager) Stage(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	return aroundResult("vault.stage", func() (backends.VersionID, error) { return s.stager.Stage(ctx, ref, w) })
}

// Promote implements backends.Stager.
func (s crashingStager) Promote(ctx context.Context, ref backends.Ref, id, expect backends.VersionID) error {
	return around("vault.promote", func() error { return s.stager.Promote(ctx, ref, id, expect) })
}

// crashIssuer puts points around the effects of an issuer. It embeds the issuer itself,
// which so keeps its abilities; those of other types have no points.
func crashIssuer(is issuer.Issuer) issuer.Issuer {
	switch is := is.(type) {
	case *apikey.Issuer:
		return crashingKeys{is}
	case *issuerhttp.Issuer:
		return crashingHTTP{is}
	case *issuerhttp.FindingIssuer:
		return crashingFinding{is}
	case *postgresql.Issuer:
		return crashingRoles{is}
	}
	return is
}

type (
	crashingKeys    struct{ *apikey.Issuer }
	crashingHTTP    struct{ *issuerhttp.Issuer }
	crashingFinding struct{ *issuerhttp.FindingIssuer }
	crashingRoles   struct{ *postgresql.Issuer }
)

func issuing(ctx context.Context, is issuer.Issuer, req issuer.Request) (issuer.Credential, error) {
	return aroundResult("issuer.issue", func() (issuer.Credential, error) { return is.Issue(ctx, req) })
}

func revoking(ctx context.Context, is issuer.Issuer, sub issuer.Subject, h issuer.Handle) error {
	return around("issuer.revoke", func() error { return is.Revoke(ctx, sub, h) })
}

func finding(ctx context.Context, is issuer.Finder, sub issuer.Subject, tag string) ([]issuer.Found, error) {
	return aroundResult("issuer.find", func() ([]issuer.Found, error) { return is.Find(ctx, sub, tag) })
}

// Issue implements issuer.Issuer.
func (c crashingKeys) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	return issuing(ctx, c.Issuer, req)
}

// Revoke implements issuer.Issuer.
func (c crashingKeys) Revoke(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	return revoking(ctx, c.Issuer, sub, h)
}

// Find implements issuer.Finder.
func (c crashingKeys) Find(ctx context.Context, sub issuer.Subject, tag string) ([]issuer.Found, error) {
	return finding(ctx, c.Issuer, sub, tag)
}

// Issue implements issuer.Issuer.
func (c crashingHTTP) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	return issuing(ctx, c.Issuer, req)
}

// Revoke implements issuer.Issuer.
func (c crashingHTTP) Revoke(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	return revoking(ctx, c.Issuer, sub, h)
}

// Issue implements issuer.Issuer.
func (c crashingFinding) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	return issuing(ctx, c.FindingIssuer, req)
}

// Revoke implements issuer.Issuer.
func (c crashingFinding) Revoke(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	return revoking(ctx, c.FindingIssuer, sub, h)
}

// Find implements issuer.Finder.
func (c crashingFinding) Find(ctx context.Context, sub issuer.Subject, tag string) ([]issuer.Found, error) {
	return finding(ctx, c.FindingIssuer, sub, tag)
}

// Issue implements issuer.Issuer.
func (c crashingRoles) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	return issuing(ctx, c.Issuer, req)
}

// Revoke implements issuer.Issuer.
func (c crashingRoles) Revoke(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	return revoking(ctx, c.Issuer, sub, h)
}

// Find implements issuer.Finder.
func (c crashingRoles) Find(ctx context.Context, sub issuer.Subject, tag string) ([]issuer.Found, error) {
	return finding(ctx, c.Issuer, sub, tag)
}

// PutBack implements issuer.Setter.
func (c crashingRoles) PutBack(ctx context.Context, req issuer.Request, h issuer.Handle, over int) error {
	return around("issuer.put_back", func() error { return c.Issuer.PutBack(ctx, req, h, over) })
}

// crashProbe keeps the optional abilities that the probe has, and no others.
func crashProbe(p probe.Probe) probe.Probe {
	if c, ok := p.(probe.Canarier); ok {
		return struct {
			crashingProbe
			probe.Canarier
		}{crashingProbe{p}, c}
	}
	return crashingProbe{p}
}

type crashingProbe struct{ probe.Probe }

// Try implements probe.Probe.
func (c crashingProbe) Try(ctx context.Context, t probe.Try) probe.Result {
	return around("probe.try", func() probe.Result { return c.Probe.Try(ctx, t) })
}

type crashingDeliverer struct{ engine.Deliverer }

// Deliver implements engine.Deliverer.
func (c crashingDeliverer) Deliver(ctx context.Context, m engine.Message) engine.Outcome {
	return around("consumer.deliver", func() engine.Outcome { return c.Deliverer.Deliver(ctx, m) })
}
