package alert

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
)

// GiveUp is how long what has come too late to help is still tried: an alert that is
// over by now, or its end.
const GiveUp = 24 * time.Hour

// Changes are what Plan found to be done.
type Changes struct {
	Add     []store.Notice
	Save    []store.Notice
	Settled []store.Alert // of which there is nothing more to tell
}

// Plan tells what there is to tell now: alerts are those that are not settled, notices
// those of them and of heartbeats. It is pure, and where it is applied twice, also by
// two nodes at once, the second finds nothing to do or loses its swaps.
//
// Each notifier of each rule is told that an alert was raised, even if it is over
// already; then reminded of it for as long as it is open and not acknowledged; and at
// last that it is over, if anything of it has arrived there. The next event waits for
// the one before. The notifier of an escalation is told only of what nobody has
// acknowledged in time, and from then on like the first.
func Plan(alerts []store.Alert, notices []store.Notice, rules []config.Alert, now time.Time) Changes {
	p := planning{now: now, notices: map[key]store.Notice{}}
	of := map[string][]key{} // alert → of its notices
	for _, n := range notices {
		k := key{n.AlertID, n.Rule, n.Notifier}
		p.notices[k], of[k.alert] = n, append(of[k.alert], k)
	}
	used := map[key]bool{}
	for _, a := range alerts {
		told := true
		for _, t := range targets(a, rules) {
			used[t.key] = true
			told = p.tell(a, t) && told
		}
		told = p.dropUnused(of[a.ID], used) && told
		if told && !a.Open() {
			a.SettledAt = now
			p.Settled = append(p.Settled, a)
		}
	}
	for _, r := range rules {
		if k := (key{"", r.Name, r.Notifier}); r.Heartbeat > 0 {
			used[k] = true
			p.beat(k, r.Heartbeat)
		}
	}
	p.dropUnused(of[""], used)
	return p.Changes
}

// dropUnused gives up what is pending of rules and notifiers that are gone, and tells
// whether nothing of it is being told.
func (p *planning) dropUnused(all []key, used map[key]bool) (done bool) {
	done = true
	for _, k := range all {
		if n := p.notices[k]; !used[k] && n.State == store.NoticePending {
			p.drop(n)
			done = done && !p.now.Before(n.Lease)
		}
	}
	return done
}

type key struct{ alert, rule, notifier string }

type planning struct {
	Changes
	now     time.Time
	notices map[key]store.Notice
}

// target is a notifier that a rule tells of an alert.
type target struct {
	key
	first  Event
	from   time.Time     // not told before
	repeat time.Duration // 0: told once
}

// Matches tells whether a rule is about an alert.
func Matches(r config.Alert, a store.Alert) bool {
	return (r.Tenant == "" || r.Tenant == a.Tenant) && (len(r.On) == 0 || slices.Contains(r.On, a.Kind))
}

func targets(a store.Alert, rules []config.Alert) (all []target) {
	for _, r := range rules {
		if !Matches(r, a) {
			continue
		}
		all = append(all, target{key{a.ID, r.Name, r.Notifier}, Raised, a.OpenedAt, r.Repeat})
		if e := r.Escalate; e != nil && e.Notifier != r.Notifier {
			all = append(all, target{key{a.ID, r.Name, e.Notifier}, Escalated, a.OpenedAt.Add(e.After), r.Repeat})
		}
	}
	return all
}

// tell goes on with one notice, and tells whether nothing is left to be told.
func (p *planning) tell(a store.Alert, t target) (done bool) {
	n, known := p.notices[t.key]
	quiet := !a.Open() || !a.AckedAt.IsZero()
	switch {
	case !known && t.first == Escalated && (quiet || p.now.Before(t.from)):
		return true // so far
	case !known:
		p.add(t.key, t.first)
		return false
	case n.State == store.NoticeDropped && quiet:
		return true
	case n.State == store.NoticeDropped && n.Told == 0: // its rule is back
		p.next(n, t.first)
		return false
	case n.State == store.NoticePending:
		return p.pending(a, n, quiet)
	case !a.Open() && n.Event != string(Resolved):
		p.next(n, Resolved)
		return false
	case !quiet && t.repeat > 0 && !p.now.Before(n.SentAt.Add(t.repeat)):
		p.next(n, Reminder)
	}
	return true
}

// pending looks whether what is to be told is still worth telling.
func (p *planning) pending(a store.Alert, n store.Notice, quiet bool) (done bool) {
	late := !a.Open() && p.now.Sub(a.ResolvedAt) >= GiveUp
	urging := n.Event == string(Reminder) || n.Event == string(Escalated)
	switch {
	case p.now.Before(n.Lease): // it is being told
		return false
	case late:
		p.drop(n)
		return true
	case !urging || !quiet:
		return false
	case n.Told == 0: // nobody there knows of it, or needs to
		p.drop(n)
		return true
	case !a.Open():
		p.next(n, Resolved)
		return false
	}
	n.State, n.NextAt, n.Attempts = store.NoticeSent, time.Time{}, 0
	p.Save = append(p.Save, n)
	return true
}

// beat has a notifier told regularly. A beat that did not arrive in its time is
// replaced by the next one.
func (p *planning) beat(k key, every time.Duration) {
	n, known := p.notices[k]
	switch {
	case !known:
		p.add(k, Heartbeat)
	case n.State == store.NoticeDropped, !p.now.Before(n.CreatedAt.Add(every)) && !p.now.Before(n.Lease):
		p.next(n, Heartbeat)
	}
}

func (p *planning) add(k key, e Event) {
	p.Add = append(p.Add, store.Notice{ID: "ntc_" + uuid.Must(uuid.NewV7()).String(), AlertID: k.alert, Rule: k.rule, Notifier: k.notifier,
		Event: string(e), Seq: 1, State: store.NoticePending, CreatedAt: p.now, NextAt: p.now})
}

func (p *planning) next(n store.Notice, e Event) {
	n.Event, n.State, n.CreatedAt, n.NextAt, n.Attempts = string(e), store.NoticePending, p.now, p.now, 0
	n.Lease, n.Owner = time.Time{}, ""
	n.Seq++
	p.Save = append(p.Save, n)
}

func (p *planning) drop(n store.Notice) {
	if p.now.Before(n.Lease) {
		return
	}
	n.State, n.NextAt, n.Lease, n.Owner = store.NoticeDropped, time.Time{}, time.Time{}, ""
	p.Save = append(p.Save, n)
}

// Diff compares what was found with the open alerts: what is to be raised, and which
// are over. An alert of a kind that passes, or of a node that is not asked, is over
// only when somebody says so; asked tells of which kinds everything was found, on
// which nodes.
func Diff(open []store.Alert, found []store.Raise, asked func(kind, node string) bool) (raise []store.Raise, over []store.Alert) {
	known, there := map[id]bool{}, map[id]bool{}
	for _, a := range open {
		known[idOf(a.Raise)] = true
	}
	for _, r := range found {
		k := idOf(r)
		if !there[k] && !known[k] {
			raise = append(raise, r)
		}
		there[k] = true
	}
	for _, a := range open {
		if asked(a.Kind, a.Node) && !there[idOf(a.Raise)] {
			over = append(over, a)
		}
	}
	return raise, over
}
