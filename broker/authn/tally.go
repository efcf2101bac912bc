package authn

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/rotation"
)

// Anonymous is called in logs who is nobody that we know.
const Anonymous = "anonymous"

// How refused attempts to authenticate are audited: the first of a minute by records of
// their own, what is beyond by one record for each caller, so that nobody fills the
// audit log who has no credentials. The numbers are of those that we know something of,
// by credentials that were good once, and of all others, each by itself: what becomes of
// a stolen token is not hidden among made-up ones.
const (
	sumUpEvery     = time.Minute
	apartOfOne     = 15 // of one caller from one network
	apartOfAll     = 1000
	callersSummed  = 1000 // what is beyond is in one record together
	refusalsAction = "auth.refused"
)

// tallies are those of one minute. They are safe for concurrent use.
type tallies struct {
	mu    sync.Mutex
	began time.Time
	known tally
	other tally
}

// tally counts who was refused.
type tally struct {
	apart int // with records of their own
	of    map[source]*sum
	rest  int // of those whom there was no room for
}

// source is an actor in a network.
type source struct {
	from          netip.Prefix
	actor, tenant string
}

// sum is how often.
type sum struct {
	apart, more int
	last        netip.Addr
}

func newTallies(at time.Time) *tallies {
	r := &tallies{}
	r.reset(at)
	return r
}

func (r *tallies) reset(at time.Time) {
	r.began, r.known, r.other = at, tally{of: map[source]*sum{}}, tally{of: map[source]*sum{}}
}

// Apart tells whether an attempt of p that was refused is audited by a record of its
// own. If not, it has been counted for the next one of all (SumRefusals).
func (c *Callers) Apart(p Principal) bool {
	r := c.tallies
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.known
	if p.ID == Anonymous {
		t = &r.other
	}
	return t.count(source{network(p.Address), p.ID, p.Tenant}, p.Address)
}

func (t *tally) count(who source, from netip.Addr) (apart bool) {
	s := t.of[who]
	if s == nil && len(t.of) >= callersSummed {
		t.rest++
		return false
	}
	if s == nil {
		s = &sum{}
		t.of[who] = s
	}
	if s.apart < apartOfOne && t.apart < apartOfAll {
		s.apart++
		t.apart++
		return true
	}
	s.more++
	s.last = from
	return false
}

// SumRefusals writes a record for everybody who was refused more often than has records
// of its own, each minute until ctx ends, and then once more.
func (c *Callers) SumRefusals(ctx context.Context) {
	t := time.NewTicker(sumUpEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			c.sumUp(context.WithoutCancel(ctx))
			return
		case <-t.C:
			c.sumUp(ctx)
		}
	}
}

// sumUp writes what was counted, and begins anew. What cannot be written now is counted
// again.
func (c *Callers) sumUp(ctx context.Context) {
	r := c.tallies
	r.mu.Lock()
	began, all := r.began, []tally{r.known, r.other}
	r.reset(c.now())
	r.mu.Unlock()
	var err error
	for i, t := range all {
		for who, s := range t.of {
			if s.more > 0 && err == nil {
				if err = c.writeSum(ctx, began, who, *s); err == nil {
					s.more = 0
				}
			}
		}
		if t.rest > 0 && err == nil {
			if err = c.writeSum(ctx, began, source{actor: Anonymous}, sum{more: t.rest}); err == nil {
				all[i].rest = 0
			}
		}
	}
	if err != nil {
		c.logger.Error("refused attempts to authenticate cannot be written to the audit log, and are counted on", "error", err)
		r.takeBack(began, all[0], all[1])
	}
}

// takeBack counts again what was counted since began and not written.
func (r *tallies) takeBack(began time.Time, known, other tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began = began
	r.known.add(known)
	r.other.add(other)
}

func (t *tally) add(before tally) {
	t.rest += before.rest
	for who, s := range before.of {
		now := t.of[who]
		switch {
		case s.more == 0:
		case now != nil:
			now.more += s.more
		case len(t.of) >= callersSummed:
			t.rest += s.more
		default:
			t.of[who] = &sum{more: s.more, last: s.last}
		}
	}
}

// writeSum writes one record: of which network, where it is of one, and how many
// attempts it stands for.
func (c *Callers) writeSum(ctx context.Context, since time.Time, who source, s sum) error {
	detail := map[string]string{"attempts": strconv.Itoa(s.more), "since": since.UTC().Format(time.RFC3339), "network": "many others"}
	ev := rotation.AuditEvent{At: c.now(), Kind: rotation.AuditRequest, Tenant: who.tenant, Actor: who.actor, Action: refusalsAction,
		Path: "sys/auth", Outcome: "denied", Detail: detail}
	if s.last.IsValid() {
		ev.Address, detail["network"] = s.last.String(), who.from.String()
	}
	return c.log.Write(ctx, audit.Record{AuditEvent: ev}, audit.Written)
}
