package rotation_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// population says what issuers and endpoints a simulation draws from.
type population struct {
	takes  float64 // how long a revocation takes, in declared budgets; 0: anything up to the whole budget
	loses  bool    // the issuer acknowledges the first revocation and forgets it
	partly bool    // also single servers behind a load balancer refuse everything for a while, not only all of them
	alone  float64 // share of runs without a current version or canary to try as control
	step   float64 // how far the broker's clock jumps ahead during the rounds, in budgets
}

// Issuers that keep their declared budget, amid all kinds of trouble.
var kept = population{partly: true, alone: 0.15}

// rule is what the simulated broker proves by; the zero rule is keybroker's own.
type rule struct {
	weaken func(*rotation.Confirm)
	judge  func([]rotation.Sighting, bool) (rotation.Verdict, rotation.Control)
}

// tally is what came of simulated retirements.
type tally struct {
	runs, rounds  int
	proofs, wrong int // wrong: some server still accepts the credential, then or later
	example       int // the number of a run with a wrong proof or without an end
	unproven      int // not proven when the simulated time was over
	unprovable    int // the probe was broken before revoking
	stuck         int // not proven although there was a control and the issuer kept its budget
	rose, caught  int // brought back by the issuer after they were dead everywhere; found by a re-check
	overtaken     int // brought back before they were proven, and proven all the same
	late, took    time.Duration
}

func (a *tally) add(b tally) {
	a.runs, a.rounds, a.proofs, a.wrong = a.runs+b.runs, a.rounds+b.rounds, a.proofs+b.proofs, a.wrong+b.wrong
	a.unproven, a.unprovable, a.stuck = a.unproven+b.unproven, a.unprovable+b.unprovable, a.stuck+b.stuck
	a.rose, a.caught, a.overtaken = a.rose+b.rose, a.caught+b.caught, a.overtaken+b.overtaken
	a.late, a.took = a.late+b.late, a.took+b.took
	if b.example != 0 {
		a.example = b.example
	}
}

// percent is how many of the retirements were proven wrongly.
func (a tally) percent() float64 { return 100 * float64(a.wrong) / float64(a.runs) }

func (a tally) String() string {
	n := max(time.Duration(a.proofs), 1)
	return fmt.Sprintf("%d retirements, %d rounds: %d proofs, %d of them wrong; %d not proven in time, %d unprovable; "+
		"%d came back, %d were caught by a re-check, %d came back before the proof; "+
		"a revocation took %s, its proof came %s after the last server had learnt (means)",
		a.runs, a.rounds, a.proofs, a.wrong, a.unproven, a.unprovable, a.rose, a.caught, a.overtaken,
		(a.took / max(time.Duration(a.runs), 1)).Round(time.Second), (a.late / n).Round(time.Second))
}

// simulate runs n retirements on all processors. Each draws from a generator of
// its own, seeded by seed and its number, so that the outcome does not depend on
// how many processors there are.
func simulate(n int, seed uint64, p population, by rule) tally {
	const batch = 256
	var (
		next  atomic.Int64
		total tally
		mu    sync.Mutex
		wg    sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			source := rand.NewPCG(0, 0)
			s := simulation{by: by, p: p, world: world{source: source, rnd: rand.New(source)}}
			for {
				end := int(next.Add(batch))
				for i := end - batch; i < min(end, n); i++ {
					source.Seed(seed, uint64(i))
					s.tally.runs++
					s.run(i)
				}
				if end >= n {
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total.add(s.tally)
		})
	}
	wg.Wait()
	return total
}

// simulation is one simulated retirement after another.
type simulation struct {
	by    rule
	p     population
	world world
	tally tally

	t       rotation.Retirement
	number  int
	now     time.Duration // true time since the run began
	stepAt  time.Duration // when the broker's clock jumps ahead, by step
	step    time.Duration
	limit   time.Duration // when a run without a proof is over
	owner   string
	control rotation.Control // what there is to try beside it, if anything
	seen    [4]rotation.Sighting
	out     uint // addresses out of reach in the last round, as engine's cover keeps them in the scope
}

func (s *simulation) clock() time.Time {
	if s.step > 0 && s.now >= s.stepAt {
		return start.Add(s.now + s.step)
	}
	return start.Add(s.now)
}

func (s *simulation) chance(one int) bool { return s.world.rnd.IntN(one) == 0 }

// set draws issuer, endpoint and retirement number i.
func (s *simulation) set(i int) {
	w := &s.world
	rnd := w.rnd
	*w = world{source: w.source, rnd: rnd, lost: s.p.loses}
	budget := between(rnd, time.Second, slowestRevocation)
	if s.chance(16) {
		budget = 0 // the broker's own keys
	}
	switch rnd.IntN(3) {
	case 0:
		w.takes = budget
	case 1:
		w.takes = uniform(rnd, budget)
	case 2:
		w.takes = between(rnd, min(time.Second, budget)+1, budget+1) - 1
	}
	if s.p.takes > 0 {
		w.takes = time.Duration(s.p.takes * float64(budget))
	}
	if s.chance(16) {
		w.restored = between(rnd, time.Minute, 8*24*time.Hour)
	}
	w.build(s.p, 2*budget+time.Minute)
	s.number, s.now, s.out, s.owner = i, 0, 0, me
	s.control = [...]rotation.Control{rotation.ControlCurrent, rotation.ControlCurrent, rotation.ControlCanary}[rnd.IntN(3)]
	if rnd.Float64() < s.p.alone {
		s.control = rotation.ControlNone
	}
	s.step = time.Duration(s.p.step * float64(budget))
	s.stepAt = uniform(rnd, 2*budget)
	confirm := rotation.Confirm{Rejections: 2 + rnd.IntN(3), Window: budget, Budget: budget, Recheck: rechecks}
	if s.by.weaken != nil {
		s.by.weaken(&confirm)
	}
	s.t = rotation.Retirement{Version: 1, Cause: causes[rnd.IntN(len(causes))], Confirm: confirm, HasProbe: true,
		State: rotation.Requested, RequestedAt: start, DueAt: start, NextAt: start}
	s.patience()
}

// patience sets how long a proof is waited for from now on.
func (s *simulation) patience() {
	s.limit = s.now + 10*max(s.world.takes, s.t.Confirm.Budget, 10*time.Minute)
	if s.control != rotation.ControlNone && !s.p.loses {
		s.limit += 24 * time.Hour
	}
}

var (
	rechecks = []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}
	causes   = []rotation.Cause{rotation.CauseRotated, rotation.CauseRotated, rotation.CauseEmergency, rotation.CauseRevoked, rotation.CauseFailed}
)

// run drives one retirement to its end, as rotation/engine does.
func (s *simulation) run(i int) {
	s.set(i)
	for {
		s.world.pass(s.now)
		a := s.t.Next(rotation.RetirementFacts{}, s.owner, s.clock())
		if a.Effect == rotation.NoEffect {
			if !s.t.PurgedAt.IsZero() {
				break
			}
			s.now += max(a.Until.Sub(s.clock()), 0) + uniform(s.world.rnd, time.Second)
			continue
		}
		if s.t.State != rotation.ProvenDead && s.now > s.limit {
			break
		}
		s.do(a.Effect)
	}
	s.tally.took += s.world.takes
	if s.world.revived {
		s.tally.rose++
	}
	switch {
	case !s.t.ProvenAt.IsZero():
	case s.t.AlreadyRejected:
		s.tally.unprovable++
	default:
		s.tally.unproven++
		if s.control != rotation.ControlNone && s.world.takes <= s.t.Confirm.Budget && !s.p.loses && !s.world.revived {
			s.tally.stuck++
			s.tally.example = i
		}
	}
}

// do performs one effect and records what came of it; now and then the process
// dies before that, and another takes over.
func (s *simulation) do(e rotation.Effect) {
	const lease = 90 * time.Second
	s.t.Begin(e, s.owner, lease, s.clock())
	if s.chance(100) {
		if e == rotation.Revoke && s.chance(2) {
			s.world.revoke(s.now)
		}
		s.now += uniform(s.world.rnd, lease)
		s.owner = map[string]string{me: "node/2", "node/2": me}[s.owner]
		return
	}
	switch e {
	case rotation.Revoke:
		s.revoke()
	case rotation.Purge:
		s.t.Purged(s.clock())
	default:
		s.round(e)
	}
}

func (s *simulation) revoke() {
	unheard := s.chance(10)
	if !unheard || s.chance(2) {
		s.world.revoke(s.now + uniform(s.world.rnd, time.Second)/2)
	}
	s.now += time.Second
	if unheard {
		s.t.RevokeFailed("timeout", true, s.clock())
		return
	}
	s.t.Revoked(s.clock())
}

// round tries control and subject at every address, as engine's round does.
func (s *simulation) round(e rotation.Effect) {
	w := &s.world
	seen := s.seen[:w.n]
	out, end := uint(0), s.now
	by := s.control
	if s.p.partly && s.chance(50) { // now and then the current version is being retired itself
		by = rotation.ControlNone
	}
	for i := range w.addresses[:w.n] {
		a, x, at := &w.addresses[i], &seen[i], s.now
		*x = rotation.Sighting{By: by}
		missed := true
		if by != rotation.ControlNone {
			v, lost, took := w.try(a, false, at)
			x.Control, missed, at = v, lost, at+took
		}
		w.pass(at)
		v, lost, took := w.try(a, true, at)
		x.Subject, x.Unreached = v, missed && lost
		if x.Unreached {
			out |= 1 << i
		}
		end = max(end, at+took)
	}
	s.now = end
	s.tally.rounds++
	judge := rotation.Judge
	if s.by.judge != nil {
		judge = s.by.judge
	}
	verdict, control := judge(seen, s.t.Before == rotation.Accepted)
	s.record(e, verdict, control, out)
}

func (s *simulation) record(e rotation.Effect, v rotation.Verdict, c rotation.Control, out uint) {
	switch e {
	case rotation.ProbeBefore:
		s.t.ProbedBefore(v, c, "", s.clock())
	case rotation.RecheckRound:
		s.t.Rechecked(v, c, "", s.clock())
		if s.t.State == rotation.Resurrected {
			s.patience()
			if s.world.revived {
				s.tally.caught++
			}
		}
	default:
		if s.t.Rejections > 0 && s.out&^out != 0 {
			s.t.Restart()
		}
		s.out = out
		s.t.RoundMade(v, c, "", s.clock())
		if s.t.State == rotation.ProvenDead {
			s.proof()
		}
	}
}

// proof looks whether what was just proven is true.
func (s *simulation) proof() {
	s.world.pass(s.now)
	s.tally.proofs++
	switch {
	case !s.world.alive(s.now):
		s.tally.late += s.now - s.world.deadAt()
	case s.world.revived:
		s.tally.overtaken++
	default:
		s.tally.wrong++
		s.tally.example = s.number
	}
}
