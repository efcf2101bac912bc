package alert_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is the time of a test.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// receiver is a notifier that keeps what it was told.
type receiver struct {
	mu   sync.Mutex
	told []alert.Notification
	fail error
	// hang, if set, keeps every attempt from returning after it has arrived.
	hang chan struct{}
}

func (r *receiver) Notify(ctx context.Context, n alert.Notification) error {
	r.mu.Lock()
	fail, hang := r.fail, r.hang
	if fail == nil {
		r.told = append(r.told, n)
	}
	r.mu.Unlock()
	if hang != nil {
		<-hang
		return ctx.Err()
	}
	return fail
}

func (r *receiver) events() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.told {
		out = append(out, strings.TrimSpace(string(n.Event)+" "+n.Alert.Subject))
	}
	return out
}

func (r *receiver) failing(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// local is what is wrong on a node.
type local struct {
	mu     sync.Mutex
	found  []store.Raise
	unsure []string
}

func (l *local) wrong() ([]store.Raise, []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.found), l.unsure
}

func (l *local) set(unsure []string, found ...store.Raise) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found, l.unsure = found, unsure
}

type uncounted struct{}

func (uncounted) Notified(string, error) {}

type node struct {
	*alert.Runner
	local *local
	log   *bytes.Buffer
}

func newNode(t *testing.T, db *store.DB, name string, c *clock, rules alert.Rules) *node {
	t.Helper()
	n := &node{local: &local{}, log: &bytes.Buffer{}}
	n.Runner = alert.NewRunner(alert.Config{Store: db, Node: name, Source: func() string { return "http://broker" }, Local: n.local.wrong, Disabled: disabled,
		Observer: uncounted{}, Now: c.Now, Logger: hclog.New(&hclog.LoggerOptions{Output: n.log, Level: hclog.Debug})})
	n.SetRules(rules)
	t.Cleanup(n.Wait)
	return n
}

// tick is one look, and all that is told then.
func (n *node) tick(t *testing.T) {
	t.Helper()
	if err := errors.Join(n.Sweep(t.Context()), n.Tell(t.Context())); err != nil {
		t.Fatal(err)
	}
	n.Wait()
}

// forEachDB runs fn on SQLite and on PostgreSQL, each with the clock of the test.
func forEachDB(t *testing.T, fn func(t *testing.T, db *store.DB, c *clock)) {
	t.Helper()
	for name, cfg := range map[string]func(t *testing.T) store.Config{
		"sqlite": func(t *testing.T) store.Config { return store.Config{SQLitePath: filepath.Join(t.TempDir(), "k.db")} },
		"postgresql": func(t *testing.T) store.Config {
			return store.Config{PostgresURL: backends.SecretString(postgresserver.Start(t).URL)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &clock{now: start}
			sc := cfg(t)
			sc.Now = c.Now
			db, err := store.Open(t.Context(), sc)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := db.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
			fn(t, db, c)
		})
	}
}

func raise(t *testing.T, db *store.DB, r store.Raise) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx *store.Tx) error { return tx.RaiseAlert(t.Context(), r) }); err != nil {
		t.Fatal(err)
	}
}

func alerts(t *testing.T, db *store.DB) (all []store.Alert) {
	t.Helper()
	err := db.View(t.Context(), func(tx *store.Tx) (err error) {
		all, _, err = tx.AlertsPage(t.Context(), store.AlertFilter{}, store.Page{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func only(to alert.Notifier, rule config.Alert) alert.Rules {
	rule.Name, rule.Notifier = "security", "pager"
	return alert.Rules{Alerts: []config.Alert{rule}, Notifiers: map[string]alert.Notifier{"pager": to}}
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

var rootToken = store.Raise{Kind: alert.NewRootToken, Subject: "tok_1", Text: "another root token was made", Next: "keybroker token list"}

// TestTwoNodesTellOnce: both look and tell at the same time, again and again.
func TestTwoNodesTellOnce(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		to := &receiver{}
		rules := only(to, config.Alert{Repeat: time.Hour, Heartbeat: 20 * time.Minute})
		nodes := []*node{newNode(t, db, "a", c, rules), newNode(t, db, "b", c, rules)}
		const many = 5
		for i := range many {
			r := rootToken
			r.Subject = fmt.Sprint("tok_", i)
			raise(t, db, r)
		}
		for range 13 { // two hours, in steps of ten minutes
			var both sync.WaitGroup
			for _, n := range nodes {
				both.Go(func() {
					if err := errors.Join(n.Sweep(t.Context()), n.Tell(t.Context())); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
			for _, n := range nodes {
				n.Wait()
			}
			nodes[0].tick(t) // what one of them had in its turn was not told by the other
			c.pass(10 * time.Minute)
		}
		count, ids := map[string]int{}, map[string]bool{}
		for _, n := range to.told {
			count[string(n.Event)]++
			if ids[n.ID] {
				t.Errorf("%s was sent twice", n.ID)
			}
			ids[n.ID] = true
		}
		if got := fmt.Sprint(count); got != fmt.Sprintf("map[heartbeat:7 raised:%d reminder:%d]", many, 2*many) {
			t.Errorf("told %s", got)
		}
	})
}

// TestDeadNodeIsReplaced: a node dies before it sends, or after: another sends, under
// the same id, once the lease is over.
func TestDeadNodeIsReplaced(t *testing.T) {
	for _, arrives := range []bool{false, true} {
		t.Run(fmt.Sprint("arrives ", arrives), func(t *testing.T) {
			forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
				dies := &receiver{hang: make(chan struct{})}
				var to alert.Notifier = dies
				if !arrives {
					to = lost{dies}
				}
				dead := newNode(t, db, "dead", c, only(to, config.Alert{}))
				t.Cleanup(func() { close(dies.hang) }) // before its Wait
				raise(t, db, rootToken)
				if err := dead.Tell(t.Context()); err != nil {
					t.Fatal(err)
				}
				await(t, func() bool { return claimed(t, db) })
				healthy := &receiver{}
				other := newNode(t, db, "other", c, only(healthy, config.Alert{}))
				other.tick(t)
				want(t, healthy.events()) // it is leased
				c.pass(time.Minute)
				other.tick(t)
				want(t, healthy.events(), "raised tok_1")
				if arrives {
					await(t, func() bool { return len(dies.events()) == 1 })
					if dies.told[0].ID != healthy.told[0].ID {
						t.Errorf("sent as %s, and again as %s", dies.told[0].ID, healthy.told[0].ID)
					}
				}
				c.pass(time.Hour)
				other.tick(t)
				want(t, healthy.events(), "raised tok_1")
			})
		})
	}
}

// lost hangs before anything arrives.
type lost struct{ r *receiver }

func (l lost) Notify(context.Context, alert.Notification) error {
	<-l.r.hang
	return context.Canceled
}

func claimed(t *testing.T, db *store.DB) (is bool) {
	err := db.View(t.Context(), func(tx *store.Tx) error {
		all, err := tx.UnsettledNotices(t.Context())
		is = len(all) == 1 && !all[0].Lease.IsZero()
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return is
}

// await looks until what other goroutines do has come to pass.
func await(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to pass")
		}
	}
}

// TestNotifierThatIsDown: it is tried again, more and more rarely, for as long as it
// takes; what is wrong with it is shown; and it is told only what is still worth it.
func TestNotifierThatIsDown(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		to, other := &receiver{fail: fmt.Errorf("%w: telling pager: it answered 503", backends.ErrUnavailable)}, &receiver{}
		rules := only(to, config.Alert{Repeat: 10 * time.Minute})
		rules.Alerts = append(rules.Alerts, config.Alert{Name: "log", Notifier: "log"})
		rules.Notifiers["log"] = other
		n := newNode(t, db, "a", c, rules)
		raise(t, db, rootToken)
		for range 6 * 60 {
			n.tick(t)
			c.pass(10 * time.Second)
		}
		want(t, other.events(), "raised tok_1")
		var notice store.Notice
		err := db.View(t.Context(), func(tx *store.Tx) error {
			all, err := tx.NoticesOf(t.Context(), []string{alerts(t, db)[0].ID})
			notice = all[slices.IndexFunc(all, func(n store.Notice) bool { return n.Notifier == "pager" })]
			return err
		})
		if err != nil || !strings.Contains(notice.Error, "it answered 503") || notice.State != store.NoticePending {
			t.Errorf("%v; the notice is %+v", err, notice)
		}
		if notice.Attempts < 12 || notice.Attempts > 25 { // quick at first, then every five minutes
			t.Errorf("%d attempts in an hour", notice.Attempts)
		}
		to.failing(nil)
		c.pass(5 * time.Minute)
		n.tick(t)
		want(t, to.events(), "raised tok_1")
		if !strings.Contains(n.log.String(), "a notifier can be used again") {
			t.Error("that it works again is not in the log")
		}
	})
}

// slow asks to be left alone for a while.
type slow struct{ error }

func (slow) RetryAfter() time.Duration { return 20 * time.Minute }

func TestRetryAfterIsHeeded(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		to := &receiver{fail: slow{fmt.Errorf("%w: it answered 429", backends.ErrUnavailable)}}
		n := newNode(t, db, "a", c, only(to, config.Alert{}))
		raise(t, db, rootToken)
		n.tick(t)
		to.failing(nil)
		c.pass(19 * time.Minute)
		n.tick(t)
		want(t, to.events())
		c.pass(time.Minute)
		n.tick(t)
		want(t, to.events(), "raised tok_1")
	})
}

// TestWhatANodeSees: what only one node can tell is raised and ended by it alone, or by
// others once it is gone.
func TestWhatANodeSees(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		to := &receiver{}
		rules := only(to, config.Alert{})
		a, b := newNode(t, db, "a", c, rules), newNode(t, db, "b", c, rules)
		down := store.Raise{Kind: alert.BackendDown, Subject: "prod on a", Text: "backend prod cannot be used"}
		a.local.set(nil, down)
		a.tick(t)
		b.tick(t)
		want(t, to.events(), "raised prod on a")
		a.local.set([]string{alert.BackendDown}) // it was started anew and has not looked yet
		a.tick(t)
		want(t, to.events(), "raised prod on a")
		for range 40 { // as long as it says so, others leave it alone
			a.local.set(nil, down)
			a.tick(t)
			b.tick(t)
			c.pass(time.Minute)
		}
		want(t, to.events(), "raised prod on a")
		a.local.set(nil)
		a.tick(t)
		want(t, to.events(), "raised prod on a", "resolved prod on a")
		a.local.set(nil, down)
		a.tick(t)
		c.pass(15 * time.Minute) // it is gone
		b.tick(t)
		want(t, to.events(), "raised prod on a", "resolved prod on a", "raised prod on a", "resolved prod on a")
		for _, one := range alerts(t, db) {
			if one.SettledAt.IsZero() && one.Open() {
				t.Errorf("open: %+v", one)
			}
		}
	})
}

// TestRunEnds: Run tells, and returns when its context ends.
func TestRunEnds(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		to := &receiver{}
		n := newNode(t, db, "a", c, only(to, config.Alert{Heartbeat: time.Minute}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); n.Run(ctx) }()
		await(t, func() bool { return len(to.events()) == 1 })
		cancel()
		<-done
		want(t, to.events(), "heartbeat")
		if err := n.Test(t.Context(), "nobody", "me"); !errors.Is(err, backends.ErrNotFound) {
			t.Errorf("a test of nobody: %v", err)
		}
		if err := n.Test(t.Context(), "pager", "me"); err != nil {
			t.Error(err)
		}
		want(t, to.events(), "heartbeat", "test")
	})
}
