package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
)

// Replaced gives retire, which takes a setup out of use that closed is told the
// end of, and end, which ends all reloads.
func Replaced() (retire func(closed func()), end func()) {
	d := &Daemon{reloading: make(chan struct{}, 1), stopped: make(chan struct{}), stopServing: func() {}}
	return func(closed func()) {
		d.retire(&setup{running: map[block]*running{{"backend", "b"}: {users: 1, stop: closed}}})
	}, d.endReloads
}

// QuickSeal makes a node look after its seals every 50 ms, keep a key for as long as
// grace, and tell step, which may be nil, of each step of a rotation of the seal; an
// error of it is the end of the work there.
func (o *Options) QuickSeal(grace time.Duration, step func(string) error) {
	o.sealStep = step
	o.sealTimes = sealTimes{look: 50 * time.Millisecond, check: time.Second, retry: 50 * time.Millisecond, grace: grace}
}

// SigningSteps has step told of each step of a rotation of a signing key; an error of it
// is the end of the work there.
func (o *Options) SigningSteps(step func(string) error) { o.signingStep = step }

// LookForAlerts says how often a node looks for what is wrong, and tells it.
func (o *Options) LookForAlerts(every time.Duration) { o.alertEvery = every }

// CertificateTrouble is what is told of a certificate that lives for so long and has so
// much left of it.
func CertificateTrouble(lives, left time.Duration) (bool, string) {
	at := now()
	leaf := &x509.Certificate{NotBefore: at.Add(left - lives), NotAfter: at.Add(left)}
	return certificateTrouble(&certificate{inUse: &tls.Certificate{Leaf: leaf}}, at)
}

// EngineClock is what the engine takes for the time.
func (o *Options) EngineClock(now func() time.Time) { o.engineNow = now }

// PushWorkers says how many workers there are for deliveries.
func (o *Options) PushWorkers(n int) { o.pushWorkers = n }

// LookForCertificates says how often a node looks whether its certificate was replaced.
func (o *Options) LookForCertificates(every time.Duration) { o.certificateEvery = every }

// CertificateState is until when the listener's certificate is valid, and what is
// wrong with the one that is to replace it.
func (d *Daemon) CertificateState() (notAfter time.Time, problem error) {
	return d.wire.certificate.state()
}

// Telemetry is the address of the metrics' own listener.
func (d *Daemon) Telemetry() string { return d.telemetry.Addr().String() }

// SlowSealCheck makes a node whose seals are well ask them once an hour only.
func (o *Options) SlowSealCheck() { o.sealTimes.check = time.Hour }

// CloseAfter is how long a replaced setup stays usable.
const CloseAfter = closeAfter

// Rebuilt makes two setups of one backend, whose block the second has changed or
// not, and gives what closes each. Stopped is told of the end of a component.
func Rebuilt(changed bool, stopped func()) (closeFirst, closeSecond func()) {
	at := block{"backend", "b"}
	first, second := &setup{digests: map[block]string{at: "1"}, running: map[block]*running{}}, &setup{digests: map[block]string{at: "1"}, running: map[block]*running{}}
	if changed {
		second.digests[at] = "2"
	}
	had, has := map[string]int{}, map[string]int{}
	fresh := func() (int, func(), error) { return 1, stopped, nil }
	_ = component(first, &setup{}, at, had, nil, fresh)
	_ = component(second, first, at, has, had, fresh)
	return first.close, second.close
}

// Mount is the backend of that name in the setup in force.
func (d *Daemon) Mount(name string) *backends.Mount { return d.setup.Load().catalog.Backends[name] }

// LookForDue does what a node does every second, and every ten seconds, to find out what
// is due.
func (d *Daemon) LookForDue(ctx context.Context) (tick, sweep time.Duration, err error) {
	began := time.Now()
	err = d.engine.Tick(ctx)
	tick = time.Since(began)
	err = errors.Join(err, d.engine.Sweep(ctx))
	return tick, time.Since(began) - tick, err
}

// PruneNow forgets what is older than anybody looks back, as is done once an hour.
func (d *Daemon) PruneNow(ctx context.Context) error {
	return d.db.Update(ctx, func(tx *store.Tx) error { return d.pruneNow(ctx, tx) })
}
