package alert_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
)

var start = time.Date(2031, 3, 9, 1, 59, 58, 0, time.UTC)

// event is what a notifier got, and when it was planned.
type event struct {
	rule, notifier, alert, event string
	seq                          int
	planned, sent                time.Time
}

// world is what a store, notifiers that fail at times, and people do.
type world struct {
	t       *testing.T
	rnd     *rand.Rand
	now     time.Time
	rules   []config.Alert
	alerts  []store.Alert
	notices []store.Notice
	got     []event
}

func (w *world) unsettled() (out []store.Alert) {
	for _, a := range w.alerts {
		if a.SettledAt.IsZero() {
			out = append(out, a)
		}
	}
	return out
}

// visible are the notices that a store gives: see store.UnsettledNotices.
func (w *world) visible() (out []store.Notice) {
	for _, n := range w.notices {
		if n.AlertID == "" || slices.ContainsFunc(w.unsettled(), func(a store.Alert) bool { return a.ID == n.AlertID }) {
			out = append(out, n)
		}
	}
	return out
}

func (w *world) alert(id string) *store.Alert {
	i := slices.IndexFunc(w.alerts, func(a store.Alert) bool { return a.ID == id })
	return &w.alerts[i]
}

func (w *world) rule(name string) config.Alert {
	return w.rules[slices.IndexFunc(w.rules, func(r config.Alert) bool { return r.Name == name })]
}

// plan applies what Plan says, and checks each change.
func (w *world) plan() {
	c := alert.Plan(w.unsettled(), w.visible(), w.rules, w.now)
	for _, n := range c.Add {
		if slices.ContainsFunc(w.notices, func(o store.Notice) bool {
			return o.AlertID == n.AlertID && o.Rule == n.Rule && o.Notifier == n.Notifier
		}) {
			w.t.Fatalf("two notices of one thing: %+v", n)
		}
		w.check(store.Notice{}, n)
		w.notices = append(w.notices, n)
	}
	for _, n := range c.Save {
		i := slices.IndexFunc(w.notices, func(o store.Notice) bool { return o.ID == n.ID })
		if was := w.notices[i]; w.now.Before(was.Lease) {
			w.t.Fatalf("a notice that is being told was changed: %+v → %+v", was, n)
		} else if n.Seq != was.Seq {
			w.check(was, n)
		}
		w.notices[i] = n
	}
	for _, a := range c.Settled {
		for _, n := range w.notices {
			if n.AlertID == a.ID && n.State == store.NoticePending {
				w.t.Fatalf("settled while something is to be told: %+v", n)
			}
		}
		*w.alert(a.ID) = a
	}
	if again := alert.Plan(w.unsettled(), w.visible(), w.rules, w.now); len(again.Add)+len(again.Save)+len(again.Settled) > 0 {
		w.t.Fatalf("planned twice at the same time, it differs: %+v", again)
	}
}

// check judges a new event by the rules as they are written down.
func (w *world) check(was, n store.Notice) {
	r := w.rule(n.Rule)
	bad := func(why string) { w.t.Fatalf("at %s: %s: %+v after %+v", w.now.Sub(start), why, n, was) }
	if n.AlertID == "" {
		if n.Event != string(alert.Heartbeat) || r.Heartbeat == 0 || was.ID != "" && w.now.Before(was.CreatedAt.Add(r.Heartbeat)) {
			bad("a heartbeat out of its time")
		}
		return
	}
	a := w.alert(n.AlertID)
	open, acked := a.Open(), !a.AckedAt.IsZero()
	switch alert.Event(n.Event) {
	case alert.Raised:
		if n.Notifier != r.Notifier || was.Told > 0 {
			bad("raised to somebody else, or again")
		}
	case alert.Reminder:
		if !open || acked || r.Repeat == 0 || was.Told == 0 || w.now.Before(was.SentAt.Add(r.Repeat)) {
			bad("a reminder that nobody needs")
		}
	case alert.Escalated:
		if !open || acked || n.Notifier != r.Escalate.Notifier || w.now.Before(a.OpenedAt.Add(r.Escalate.After)) {
			bad("an escalation without a reason")
		}
	case alert.Resolved:
		if open || was.Told == 0 || was.Event == n.Event {
			bad("the end of what goes on, was never told, or twice")
		}
	default:
		bad("no such event")
	}
}

// send tells some of what is pending; some of it fails, some is under way for a while.
func (w *world) send(all bool) {
	for i := range w.notices {
		n := &w.notices[i]
		if n.State != store.NoticePending || w.now.Before(n.NextAt) && !all || w.now.Before(n.Lease) {
			continue
		}
		switch dice := w.rnd.IntN(4); {
		case !all && dice == 0:
			n.Attempts++
			n.Error, n.NextAt = "down", w.now.Add(time.Duration(n.Attempts)*time.Minute)
		case !all && dice == 1:
			n.Lease = w.now.Add(time.Minute) // whoever has it dies
		default:
			n.State, n.SentAt, n.Error, n.Lease = store.NoticeSent, w.now, "", time.Time{}
			n.Told++
			w.got = append(w.got, event{n.Rule, n.Notifier, n.AlertID, n.Event, n.Seq, n.CreatedAt, w.now})
		}
	}
}

func (w *world) people() {
	switch w.rnd.IntN(6) {
	case 0:
		kind := client.AlertKinds[w.rnd.IntN(3)]
		w.alerts = append(w.alerts, store.Alert{ID: fmt.Sprint("a", len(w.alerts)), OpenedAt: w.now, LastAt: w.now, Count: 1,
			Raise: store.Raise{Kind: kind, Tenant: []string{"", "acme", "umbrella"}[w.rnd.IntN(3)], Subject: "s"}})
	case 1:
		if open := w.open(); len(open) > 0 {
			w.alert(open[w.rnd.IntN(len(open))]).AckedAt = w.now
		}
	case 2:
		if open := w.open(); len(open) > 0 {
			w.alert(open[w.rnd.IntN(len(open))]).ResolvedAt = w.now
		}
	}
}

func (w *world) open() (ids []string) {
	for _, a := range w.alerts {
		if a.Open() {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

// TestPlanKeepsItsRules: whatever happens in whichever order, each event keeps the
// rules (see check), and in the end everybody who was told of an alert was told, once,
// that it is over.
func TestPlanKeepsItsRules(t *testing.T) {
	for seed := range uint64(60) {
		w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), now: start, rules: []config.Alert{
			{Name: "all", Notifier: "log", Heartbeat: 20 * time.Minute},
			{Name: "security", Notifier: "pager", On: client.AlertKinds[:2], Repeat: time.Hour, Escalate: &config.Escalation{After: 30 * time.Minute, Notifier: "boss"}},
			{Name: "acme", Notifier: "acme-mail", Tenant: "acme", Repeat: 2 * time.Hour},
		}}
		for range 120 {
			w.people()
			w.plan()
			w.send(false)
			w.now = w.now.Add(time.Duration(1+w.rnd.IntN(900)) * time.Second)
		}
		for i := range w.alerts {
			if w.alerts[i].Open() {
				w.alerts[i].ResolvedAt = w.now
			}
		}
		for range 5 {
			w.now = w.now.Add(2 * time.Minute)
			w.plan()
			w.send(true)
		}
		w.plan()
		w.final()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func (w *world) final() {
	if len(w.unsettled()) > 0 {
		w.t.Errorf("not settled in the end: %+v", w.unsettled())
	}
	type key struct{ rule, notifier, alert string }
	told := map[key][]event{}
	for _, e := range w.got {
		if e.alert != "" {
			told[key{e.rule, e.notifier, e.alert}] = append(told[key{e.rule, e.notifier, e.alert}], e)
		}
	}
	for k, all := range told {
		for i, e := range all {
			first, last := i == 0, i == len(all)-1
			if first != (e.event == "raised" || e.event == "escalated") || last != (e.event == "resolved") || !first && e.seq <= all[i-1].seq {
				w.t.Errorf("%+v was told %+v", k, all)
			}
		}
		if a := w.alert(k.alert); !alert.Matches(w.rule(k.rule), *a) {
			w.t.Errorf("%+v was told of what is not its business", k)
		}
	}
	for _, a := range w.alerts {
		for _, r := range w.rules {
			dropped := slices.ContainsFunc(w.notices, func(n store.Notice) bool {
				return n.AlertID == a.ID && n.Rule == r.Name && n.Notifier == r.Notifier && n.State == store.NoticeDropped
			})
			if alert.Matches(r, a) && !dropped && len(told[key{r.Name, r.Notifier, a.ID}]) == 0 {
				w.t.Errorf("%s was never told of %+v", r.Name, a)
			}
		}
	}
}

// TestPlanByTheClock goes through one alert's life, as docs/alerts.md tells it.
func TestPlanByTheClock(t *testing.T) {
	rule := config.Alert{Name: "security", Notifier: "pager", Repeat: time.Hour, Escalate: &config.Escalation{After: 90 * time.Minute, Notifier: "boss"}}
	w := &world{t: t, rnd: rand.New(rand.NewPCG(1, 1)), rules: []config.Alert{rule}, now: start,
		alerts: []store.Alert{{ID: "a0", OpenedAt: start, Raise: store.Raise{Kind: alert.Drift, Subject: "s"}}}}
	at := func(minutes int, want ...string) {
		t.Helper()
		w.now, w.got = start.Add(time.Duration(minutes)*time.Minute), nil
		w.plan()
		w.send(true)
		var got []string
		for _, e := range w.got {
			got = append(got, e.notifier+" "+e.event)
		}
		if !slices.Equal(got, want) {
			t.Errorf("after %d minutes: told %q, want %q", minutes, got, want)
		}
	}
	at(0, "pager raised")
	at(59)
	at(60, "pager reminder")
	at(89)
	at(90, "boss escalated")
	at(120, "pager reminder")
	at(150, "boss reminder")
	w.alerts[0].AckedAt = w.now
	at(1000)
	w.alerts[0].ResolvedAt = w.now
	at(1001, "pager resolved", "boss resolved")
	at(5000)
	if w.alerts[0].SettledAt.IsZero() {
		t.Error("not settled")
	}
}

// TestRulesThatGo: what is pending of a rule or notifier that is gone is dropped, and a
// rule that comes finds what is open.
func TestRulesThatGo(t *testing.T) {
	old, fresh := config.Alert{Name: "r", Notifier: "old", Heartbeat: time.Minute}, config.Alert{Name: "r", Notifier: "fresh"}
	w := &world{t: t, rnd: rand.New(rand.NewPCG(1, 1)), rules: []config.Alert{old}, now: start,
		alerts: []store.Alert{{ID: "a0", OpenedAt: start, Raise: store.Raise{Kind: alert.Drift, Subject: "s"}}}}
	w.plan()
	w.rules = []config.Alert{fresh}
	w.now = w.now.Add(time.Minute)
	w.plan()
	w.send(true)
	if len(w.got) != 1 || w.got[0].notifier != "fresh" || w.got[0].event != "raised" {
		t.Errorf("told %+v", w.got)
	}
	w.rules, w.got = []config.Alert{old}, nil
	w.now = w.now.Add(time.Minute)
	w.plan()
	w.send(true)
	if len(w.got) != 2 { // raised, and a heartbeat
		t.Errorf("told %+v by the rule that is back", w.got)
	}
}

// TestTooLate: what did not arrive for a day after the end is given up.
func TestTooLate(t *testing.T) {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(1, 1)), rules: []config.Alert{{Name: "r", Notifier: "n"}}, now: start,
		alerts: []store.Alert{{ID: "a0", OpenedAt: start, ResolvedAt: start, Raise: store.Raise{Kind: alert.Drift, Subject: "s"}}}}
	w.plan()
	if w.now = start.Add(alert.GiveUp - time.Second); len(w.unsettled()) != 1 {
		t.Fatal("given up at once")
	}
	w.plan()
	if len(w.unsettled()) != 1 {
		t.Error("given up too early")
	}
	w.now = start.Add(alert.GiveUp)
	w.plan()
	w.plan()
	if len(w.unsettled()) != 0 || w.notices[0].State != store.NoticeDropped {
		t.Errorf("not given up: %+v", w.notices)
	}
}

func TestDiff(t *testing.T) {
	raise := func(kind, subject, node string) store.Raise {
		return store.Raise{Kind: kind, Subject: subject, Node: node}
	}
	open := []store.Alert{
		{ID: "stays", Raise: raise(alert.Drift, "a", "")}, {ID: "over", Raise: raise(alert.Drift, "b", "")},
		{ID: "other-node", Raise: raise(alert.BackendDown, "c on x", "x")}, {ID: "happened", Raise: raise(alert.NewRootToken, "d", "")},
	}
	found := []store.Raise{raise(alert.Drift, "a", ""), raise(alert.Drift, "new", ""), raise(alert.Drift, "new", "")}
	got, over := alert.Diff(open, found, func(kind, node string) bool { return kind == alert.Drift && node == "" })
	if len(got) != 1 || got[0].Subject != "new" || len(over) != 1 || over[0].ID != "over" {
		t.Errorf("raise %+v, over %+v", got, over)
	}
}

func TestKinds(t *testing.T) {
	known := []string{alert.Unconfirmed, alert.Resurrected, alert.Unprovable, alert.StuckDelivery, alert.ConsumerDisabled, alert.MissingAcknowledgement, alert.Drift, alert.RotationFailed,
		alert.DeadCurrent, alert.Expiring, alert.IssuerDown, alert.ValueWanted, alert.RevokeByHand, alert.Reissued, alert.BackendDown, alert.StaleCredential, alert.SealDown, alert.AuditSinkDown, alert.AuditDiskLow, alert.AuditLogDamaged, alert.NewRootToken, alert.BreakGlass, alert.CertificateExpiring, alert.Quarantined, alert.TriggerExceeded, alert.EventUnresolved, alert.EmergencyProposed, alert.EmergencyOverride, alert.OfflineKitStale, alert.OfflineReturnWanted}
	if !slices.Equal(known, client.AlertKinds) {
		t.Errorf("the configuration knows %q, alerts are raised of %q", client.AlertKinds, known)
	}
}
