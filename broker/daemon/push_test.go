package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/webhook"
)

// failing is a consumer that fails in its way, and how it ends.
type failing struct {
	name, url, more string
	listener        *listener // nil: nobody listens
	says            string    // the error of an attempt
	state           string    // of the consumer
	// attempts is the most at one delivery; 0: any number.
	attempts int
}

// failingConsumers are one of each kind.
func failingConsumers(t *testing.T) (list []*failing) {
	closed, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	ca, stranger := certtest.New(t, "ours", nil), certtest.New(t, "a stranger", nil)
	wrong := []string{webhook.PinOf(stranger.Cert).String(), webhook.PinOf(certtest.New(t, "another", nil).Cert).String()}
	trusting := func(a *certtest.Authority) string { return fmt.Sprintf("ca_file = %q\n", certtest.File(t, a)) }

	list = []*failing{{name: "down", url: "http://" + closed, says: "refused", state: client.ConsumerFailing}}
	add := func(f failing, cert bool) *listener {
		f.listener = newListener(t, nil)
		if cert {
			f.listener = newListener(t, onLoopback(ca))
		}
		f.url = f.listener.url
		if f.state == "" {
			f.state = client.ConsumerFailing
		}
		list = append(list, &f)
		return f.listener
	}
	add(failing{name: "broken", says: "500"}, false).answer(answering(500))
	add(failing{name: "busy", says: "429", attempts: 1}, false).answer(answering(429, "Retry-After", "3600"))
	add(failing{name: "gone", says: "410", state: client.ConsumerDisabled, attempts: 1}, false).answer(answering(410))
	add(failing{name: "redirecting", says: "redirects are not followed"}, false).answer(answering(302, "Location", "http://169.254.169.254/latest/meta-data/"))
	add(failing{name: "strange", more: trusting(stranger), says: "certificate"}, true)
	add(failing{name: "repinned", more: trusting(ca) + fmt.Sprintf("pins = [%q, %q]", wrong[0], wrong[1]), says: "pin"}, true)
	add(failing{name: "hanging", says: "delivering to"}, false)
	return list
}

// Consumers that fail, each in its way, hold up neither rotations nor those that work,
// and each ends as it should.
func TestFailingConsumersHoldNobodyUp(t *testing.T) {
	t.Parallel()
	const secrets, rounds = 4, 3
	var p push
	bad := failingConsumers(t)
	for _, f := range bad {
		p.tell(f.name, f.url, f.more)
	}
	ca := certtest.New(t, "ours", nil)
	plain, pinned := newListener(t, nil), newListener(t, onLoopback(ca))
	p.tell("healthy", plain.url, `payload = "plain"`)
	p.tell("pinned", pinned.url, fmt.Sprintf("payload = \"plain\"\nca_file = %q\npins = [%q, %q]", certtest.File(t, ca),
		webhook.PinOf(ca.Cert), webhook.PinOf(certtest.New(t, "backup", nil).Cert)))
	s := p.site(t, secrets)
	s.adjust = func(o *daemon.Options) { o.LookForAlerts(100 * time.Millisecond) }
	n := s.start()
	hung := bad[len(bad)-1].listener
	hung.hangs()
	for round := range rounds {
		for i := range secrets {
			if rot, _ := n.rotate(t, pushed(i)); rot.State != client.RotationDone {
				t.Fatalf("%s: %s: %s", pushed(i), rot.State, rot.Error)
			}
		}
		for _, l := range []*listener{plain, pinned} {
			eventually(t, "all of a generation", func() bool {
				for i := range secrets {
					if l.has(pushed(i)) != int64(round+1) {
						return false
					}
				}
				return true
			})
		}
		if _, held, _ := hung.counts(); round == 0 && held == 0 {
			t.Error("what works was told when what hangs had been given up")
		}
	}
	for _, f := range bad {
		f.ended(t, n)
	}
	n.awaitAlert(t, "consumer_disabled", "gone")
	for _, name := range []string{"healthy", "pinned"} {
		if c := n.consumer(t, name); c.State != client.ConsumerTold || c.Waiting != 0 {
			t.Errorf("%s is %s, and %d deliveries wait", name, c.State, c.Waiting)
		}
		for _, d := range n.deliveries(t, name) {
			if d.State != client.DeliveryApplied || d.Attempts != 1 {
				t.Errorf("%s: generation %d is %s after %d attempts: %s", name, d.Generation, d.State, d.Attempts, d.Error)
			}
		}
	}
}

// ended looks how the consumer stands when it has failed for a while.
func (f *failing) ended(t *testing.T, n *node) {
	t.Helper()
	var seen string
	eventually(t, f.name+" is "+f.state, func() bool {
		seen = n.consumer(t, f.name).State
		said := false
		for _, d := range n.deliveries(t, f.name) {
			said = said || strings.Contains(d.Error, f.says)
		}
		return said && seen == f.state
	})
	attempts := 0
	for _, d := range n.deliveries(t, f.name) {
		attempts += d.Attempts
		switch d.State {
		case client.DeliveryReceived, client.DeliveryApplied:
			t.Errorf("%s: generation %d of %s is %s", f.name, d.Generation, d.Secret, d.State)
		case client.DeliveryPending:
			if f.name == "busy" && d.Attempts > 0 && time.Until(d.NextAttemptAt) < 50*time.Minute {
				t.Errorf("busy: the next attempt is at %s", d.NextAttemptAt)
			}
			if f.state == client.ConsumerDisabled && !d.NextAttemptAt.IsZero() {
				t.Errorf("gone: the next attempt is at %s", d.NextAttemptAt)
			}
		}
		if f.attempts > 0 && d.Attempts > f.attempts {
			t.Errorf("%s: %d attempts at generation %d of %s", f.name, d.Attempts, d.Generation, d.Secret)
		}
	}
	if f.listener != nil {
		if requests, _, most := f.listener.counts(); requests > attempts || most > 4 {
			t.Errorf("%s: %d requests for %d attempts, %d at once", f.name, requests, attempts, most)
		}
	}
}

// Rotations go on while every worker that delivers hangs.
func TestRotationsDoNotWaitForHangingConsumers(t *testing.T) {
	t.Parallel()
	const secrets, workers = 4, 2
	var p push
	hung := make([]*listener, workers)
	for i := range hung {
		hung[i] = newListener(t, nil)
		p.tell(fmt.Sprint("hanging", i), hung[i].url, "concurrency = 4")
	}
	s := p.site(t, secrets)
	s.adjust = func(o *daemon.Options) { o.PushWorkers(workers) }
	n := s.start()
	for _, l := range hung {
		l.hangs()
	}
	n.rotate(t, pushed(0))
	eventually(t, "hanging deliveries", func() bool {
		_, first, _ := hung[0].counts()
		_, second, _ := hung[1].counts()
		return first+second >= workers
	})
	for i := range secrets {
		if rot, _ := n.rotate(t, pushed(i)); rot.State != client.RotationDone {
			t.Errorf("%s: %s: %s", pushed(i), rot.State, rot.Error)
		}
	}
	for _, l := range hung {
		if requests, held, most := l.counts(); held == 0 || most > 4 {
			t.Errorf("%d of %d requests hang, %d did at once", held, requests, most)
		}
	}
}

// A consumer gets as many attempts at once as it says it bears.
func TestConcurrencyOfAConsumer(t *testing.T) {
	t.Parallel()
	const secrets, width = 7, 2
	var p push
	l := newListener(t, nil)
	open := make(chan struct{})
	l.answer(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-open:
			l.take(w, r)
		case <-r.Context().Done():
		}
	})
	p.tell("narrow", l.url, fmt.Sprint("concurrency = ", width))
	n := p.site(t, secrets).start()
	for i := range secrets {
		if _, err := n.Rotate(t.Context(), pushed(i), client.RotateRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	attempts := 0
	eventually(t, "all deliveries, and two attempts", func() bool {
		list := n.deliveries(t, "narrow")
		attempts = 0
		for _, d := range list {
			attempts += d.Attempts
		}
		_, held, _ := l.counts()
		return len(list) == secrets && held == width
	})
	if attempts != width {
		t.Errorf("%d attempts are under way", attempts)
	}
	close(open)
	eventually(t, "the end of all deliveries", func() bool { return len(l.all()) == secrets })
	if _, _, most := l.counts(); most != width {
		t.Errorf("%d attempts at once", most)
	}
}

// A consumer that answered 410 is told nothing, over restarts, until somebody enables it:
// then it is told of the newest generation only. What was given up can be delivered again
// as long as nothing newer is.
func TestGoneConsumerIsEnabled(t *testing.T) {
	t.Parallel()
	var p push
	l := newListener(t, nil)
	l.answer(answering(410))
	p.tell("app", l.url, `payload = "plain"`)
	s := p.site(t, 2)
	s.adjust = func(o *daemon.Options) { o.LookForAlerts(100 * time.Millisecond) }
	n := s.start()
	ctx := t.Context()
	n.rotate(t, pushed(0))
	eventually(t, "the end of the first delivery", func() bool { return n.consumer(t, "app").State == client.ConsumerDisabled })
	n.awaitAlert(t, "consumer_disabled", "app")
	eventually(t, "a record of it", func() bool {
		found := must(n.Audit(ctx, client.AuditQuery{Action: "consumer.disabled"}))(t).Items
		return len(found) == 1 && found[0].Path == "sys/consumers/app"
	})
	n.rotate(t, pushed(1))
	n.rotate(t, pushed(1))
	waiting := n.deliveries(t, "app")[0]
	shown := must(n.Delivery(ctx, waiting.ID))(t)
	ofSecret := must(n.SecretConsumers(ctx, pushed(1)))(t).Consumers[0]
	for where, why := range map[string]string{"the list": waiting.Error, "the delivery": shown.Error, "the secret": ofSecret.Error} {
		if !strings.Contains(why, "app is disabled since ") || !strings.Contains(why, "`keybroker consumer enable app`") {
			t.Errorf("%s says of what waits: %q", where, why)
		}
	}
	if _, err := n.TestConsumer(ctx, "app", client.ConsumerRequest{Reason: "is it back?"}); client.Status(err) != http.StatusConflict {
		t.Errorf("a test of a consumer that is disabled: %v", err)
	}
	n.stop()
	l.answer(nil)
	n = s.start()
	if c := n.consumer(t, "app"); c.State != client.ConsumerDisabled || c.Waiting != 1 {
		t.Fatalf("after a restart it is %s, and %d deliveries wait", c.State, c.Waiting)
	}
	if requests, _, _ := l.counts(); requests != 1 {
		t.Errorf("%d requests: it was asked again", requests)
	}
	dead := n.deliveries(t, "app")
	if d := dead[len(dead)-1]; d.State != client.DeliveryDead || d.Attempts != 1 || d.Secret != pushed(0) {
		t.Errorf("the first delivery, of %s, is %s after %d attempts", d.Secret, d.State, d.Attempts)
	}
	if _, err := n.EnableConsumer(ctx, "app", client.ConsumerRequest{Reason: "it is back"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what waited", func() bool { return l.has(pushed(1)) == 2 })
	if got := l.all(); len(got) != 1 {
		t.Errorf("it was told %+v", got)
	}
	if _, err := n.Replay(ctx, dead[len(dead)-1].ID, client.InterventionRequest{Reason: "it is back"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was given up", func() bool { return l.has(pushed(0)) == 1 })
	test, err := n.TestConsumer(ctx, "app", client.ConsumerRequest{Reason: "is it back?"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the test", func() bool {
		d, err := n.Delivery(ctx, test.ID)
		return err == nil && d.State == client.DeliveryReceived && slices.ContainsFunc(l.all(), func(m told) bool { return m.id == test.ID && m.kind == webhook.Type(rotation.EventTest) })
	})
	eventually(t, "nothing waits", func() bool {
		c := n.consumer(t, "app")
		return c.State == client.ConsumerTold && c.Waiting == 0
	})
	eventually(t, "the end of the alert", func() bool { return len(n.alerts(t, client.AlertQuery{Kind: "consumer_disabled"})) == 0 })
}
