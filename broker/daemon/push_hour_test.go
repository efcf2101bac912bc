package daemon_test

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// skipping is a clock that goes on like any other and can be moved ahead.
type skipping struct{ ahead atomic.Int64 }

func (c *skipping) now() time.Time {
	return time.Now().Add(time.Duration(c.ahead.Load())).UTC().Truncate(time.Microsecond)
}

// downtime is a node one of whose consumers is down, beside one that works.
type downtime struct {
	*node
	t     *testing.T
	d     *daemon.Daemon
	clock *skipping
	began time.Time

	addr          string // of the one that is down
	down, healthy *listener
}

// skip moves the clock ahead, lets the node look what is due, and returns the time
// before it did.
func (w *downtime) skip(d time.Duration) time.Time {
	w.t.Helper()
	w.clock.ahead.Add(int64(max(d, 0)))
	at := w.clock.now()
	if _, _, err := w.d.LookForDue(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return at
}

// until is how long it is until then.
func (w *downtime) until(at time.Time) time.Duration { return at.Sub(w.clock.now()) }

// newest is the newest delivery of a secret to the consumer that is down.
func (w *downtime) newest(secret string) client.Delivery {
	w.t.Helper()
	list := w.deliveries(w.t, "down")
	i := slices.IndexFunc(list, func(d client.Delivery) bool { return d.Secret == secret })
	if i < 0 {
		w.t.Fatalf("there is no delivery of %s", secret)
	}
	return list[i]
}

// fails waits until so many attempts at the newest delivery have failed, and returns
// it. Its last attempt must have been after a moment, and the next one follow when the
// schedule says: within a fifth of the wait.
func (w *downtime) fails(secret string, attempts int, after time.Time, wait time.Duration) (d client.Delivery) {
	w.t.Helper()
	eventually(w.t, "a failed attempt", func() bool {
		d = w.newest(secret)
		return d.Attempts == attempts && d.Error != "" && d.NextAttemptAt.After(after)
	})
	least, most := after.Add(wait*8/10), w.clock.now().Add(wait*12/10)
	if d.NextAttemptAt.Before(least) || d.NextAttemptAt.After(most) || !strings.Contains(d.Error, "refused") {
		w.t.Errorf("after attempt %d at generation %d of %s the next one is at %s, not between %s and %s: %s", attempts, d.Generation, secret, d.NextAttemptAt, least, most, d.Error)
	}
	return d
}

// publish rotates a secret; who works is told of it while the other is down.
func (w *downtime) publish(secret string, generation int64) (before time.Time) {
	w.t.Helper()
	eventually(w.t, "a rotation begins", func() bool {
		before = w.clock.now()
		_, err := w.Rotate(w.t.Context(), secret, client.RotateRequest{})
		return err == nil
	})
	eventually(w.t, "who works is told", func() bool { return w.healthy.has(secret) == generation })
	return before
}

// comesUp lets the consumer listen again.
func (w *downtime) comesUp() {
	w.t.Helper()
	l, err := net.Listen("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{Handler: w.down, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	w.t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
}

// A consumer that is down for an hour is tried on the schedule, left alone when it keeps
// failing, and gets exactly the newest generation of each secret when it is back: all of
// it as soon as one attempt succeeds. Who works is told of everything at once meanwhile.
func TestConsumerThatIsDownForAnHour(t *testing.T) {
	t.Parallel()
	addr, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	w := &downtime{t: t, clock: &skipping{}, addr: addr, down: newListener(t, nil), healthy: newListener(t, nil)}
	var p push
	p.tell("down", "http://"+addr, "")
	p.tell("healthy", w.healthy.url, "")
	s := p.site(t, 2)
	s.adjust = func(o *daemon.Options) { o.EngineClock(w.clock.now) }
	s.opened = func(d *daemon.Daemon) { w.d = d }
	w.node, w.began = s.start(), w.clock.now()
	busy, quiet := pushed(0), pushed(1)

	// Four attempts at the first generation: at once, after 5 s, 5 min, 30 min.
	at := w.publish(busy, 1)
	for i, wait := range []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour} {
		d := w.fails(busy, i+1, at, wait)
		if i < 3 { // the wake-up that is in the queue goes by another clock: the sweep comes a minute later
			at = w.skip(w.until(d.NextAttemptAt) + 61*time.Second)
		}
	}
	// The next generations take its place, each tried at once. The fifth failure in a row
	// has the consumer left alone for 30 s, and each that follows for twice as long.
	w.skip(5 * time.Minute)
	w.publish(busy, 2)
	var c client.Consumer
	eventually(t, "it to be left alone", func() bool { c = w.consumer(t, "down"); return !c.LeftAloneUntil.IsZero() })
	if d := w.newest(busy); c.State != client.ConsumerFailing || d.Attempts != 1 || !d.NextAttemptAt.Equal(c.LeftAloneUntil) {
		t.Errorf("after five failures in a row it is %s, left alone until %s; the next attempt, after %d, is at %s", c.State, c.LeftAloneUntil, d.Attempts, d.NextAttemptAt)
	}
	w.publish(quiet, 1)
	if d := w.newest(quiet); d.Attempts != 0 || d.State != client.DeliveryPending {
		t.Errorf("it was tried %d times while it was left alone", d.Attempts)
	}
	w.skip(w.until(w.began.Add(59 * time.Minute)))
	eventually(t, "a trial", func() bool { return w.newest(busy).Attempts+w.newest(quiet).Attempts >= 2 })
	w.publish(busy, 3)

	w.skip(w.until(w.began.Add(time.Hour)))
	w.comesUp()
	for began := time.Now(); w.down.has(busy) != 3 || w.down.has(quiet) != 1; {
		if time.Since(began) > time.Minute {
			t.Fatalf("an hour after it came back it has generation %d and %d, not 3 and 1", w.down.has(busy), w.down.has(quiet))
		}
		w.skip(5 * time.Second)
		time.Sleep(10 * time.Millisecond)
	}
	if back := -w.until(w.began.Add(time.Hour)); back > 6*time.Minute {
		t.Errorf("it was told %s after it came back: nobody is left alone for longer than 5 minutes", back)
	}
	eventually(t, "nothing waits", func() bool { c := w.consumer(t, "down"); return c.State == client.ConsumerTold && c.Waiting == 0 })
	w.ended(busy, quiet)
}

// ended looks what has become of every delivery.
func (w *downtime) ended(busy, quiet string) {
	w.t.Helper()
	if got := w.down.all(); len(got) != 2 {
		w.t.Errorf("it was told %+v", got)
	}
	var received, superseded int
	for _, d := range w.deliveries(w.t, "down") {
		newest := d.Secret == busy && d.Generation == 3 || d.Secret == quiet
		want := map[bool]string{true: client.DeliveryReceived, false: client.DeliverySuperseded}[newest]
		if d.State != want {
			w.t.Errorf("generation %d of %s is %s, want %s", d.Generation, d.Secret, d.State, want)
		}
		if d.State == client.DeliverySuperseded {
			superseded++
		}
	}
	for _, d := range w.deliveries(w.t, "healthy") {
		if d.State == client.DeliveryReceived && d.Attempts == 1 {
			received++
		}
	}
	if superseded != 2 || received != 4 {
		w.t.Errorf("%d deliveries are superseded, want 2; who works received %d at the first attempt, want 4", superseded, received)
	}
	list, err := w.Deliveries(context.Background(), client.DeliveryQuery{State: client.DeliveryPending})
	if err != nil || len(list.Items) != 0 {
		w.t.Errorf("%d deliveries are pending (%v)", len(list.Items), err)
	}
}
