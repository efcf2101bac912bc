package engine_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/probe"
)

// TestSimulation drives the engine through a world in which everything goes
// wrong, a few thousand times. KEYBROKER_SEEDS is how many worlds to try,
// KEYBROKER_SEED the first one; a failure names its seed and tells its story.
func TestSimulation(t *testing.T) {
	const shards = 2
	survey := os.Getenv("KEYBROKER_SURVEY") != "" // name all that fail, without their stories
	seeds, first := number(t, "KEYBROKER_SEEDS", 2000), uint64(number(t, "KEYBROKER_SEED", 1))
	var mu sync.Mutex
	total := map[string]int{}
	t.Run("worlds", func(t *testing.T) {
		for shard := range shards {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for i := shard; i < seeds && (!t.Failed() || survey); i += shards {
					w := simulate(t, first+uint64(i), false)
					mu.Lock()
					for what, n := range w.counts {
						total[what] += n
					}
					mu.Unlock()
					switch {
					case len(w.wrong) > 0 && survey:
						t.Errorf("seed %d: %s", first+uint64(i), strings.Join(w.wrong, "; "))
					case len(w.wrong) > 0:
						tell(t, first+uint64(i), w)
					}
				}
			})
		}
	})
	t.Logf("%d worlds: %v", seeds, total)
}

func number(t *testing.T, env string, otherwise int) int {
	text := os.Getenv(env)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return n
}

// tell runs a world again for its story.
func tell(t *testing.T, seed uint64, first *world) {
	w := simulate(t, seed, true)
	if fmt.Sprint(w.wrong) != fmt.Sprint(first.wrong) {
		t.Errorf("seed %d does not give the same story again", seed)
	}
	lines := w.log
	if most := number(t, "KEYBROKER_LINES", 150); len(lines) > most {
		lines = lines[len(lines)-most:]
	}
	t.Errorf("seed %d:\n%s\n\n%s", seed, strings.Join(first.wrong, "\n"), w.shorten(strings.Join(lines, "\n")))
}

func simulate(t *testing.T, seed uint64, verbose bool) *world {
	var w *world
	synctest.Test(t, func(*testing.T) {
		w = newWorld(seed, verbose)
		w.furnish()
		w.misbehave()
		w.calmDown()
		w.settle()
		w.lookAtIncidents()
		w.ending()
	})
	return w
}

// furnish makes the components, the secret and two nodes.
func (w *world) furnish() {
	window := w.duration(0, time.Minute, 25*time.Minute)
	for _, name := range []string{"finding", "blind", "prepared", "pair", "single", "listed", "soaking"} {
		i := &issuerOf{w: w, name: name, slowest: window, traits: issuer.Traits{Kind: issuer.Mint, RevocationBudget: window}}
		if w.intn(3) == 0 && name != "pair" && name != "single" {
			i.traits.MaxLive = 2 + w.intn(2)
		}
		w.issuers[name] = i
	}
	w.issuers["listed"].traits.Exclusive = w.intn(4) > 0
	w.issuers["soaking"].traits.Soak = w.duration(time.Minute, time.Hour, 26*time.Hour)
	w.catalog = map[string]issuer.Issuer{"finding": showOnce{w.issuers["finding"]}, "blind": blind{w.issuers["blind"]}, "prepared": prepared{w.issuers["prepared"]},
		"pair": w.slotted("pair", "a", "b"), "single": w.slotted("single", "a"), "listed": listed{w.issuers["listed"]}, "soaking": soaking{showOnce{w.issuers["soaking"]}}}
	tried := prober{w: w, lockout: []int{0, 0, 0, 6}[w.intn(4)]}
	if w.probe = tried; w.intn(2) == 0 {
		w.probe = canaried{tried}
	}
	for _, name := range []string{"one", "two"} {
		w.inboxes[name] = &inbox{w: w, name: name, values: w.intn(2) == 0, collects: name == "two" && w.intn(2) == 0}
	}
	s := rotation.Secret{ID: secretID, Ref: secretRef, Origin: rotation.OriginConfig, State: rotation.SecretActive,
		Definition: w.definition(window), CreatedAt: time.Now(), UpdatedAt: time.Now(), Revision: 1}
	w.store.state.secrets.put(s.ID, s)
	stages := w.intn(2) == 0
	for _, name := range []string{"a", "b"} {
		w.nodes = append(w.nodes, nil)
		w.boot(len(w.nodes)-1, name, stages)
	}
}

func (w *world) duration(of ...time.Duration) time.Duration { return of[w.intn(len(of))] }

func (w *world) definition(window time.Duration) rotation.Definition {
	d := rotation.Definition{Backend: "vault", Probe: "probe",
		Issuer:    []string{"finding", "blind", "prepared", "finding", "prepared", "pair", "pair", "single", "single", "listed", "soaking"}[w.intn(11)],
		Consumers: []string{"one", "two"}[:w.intn(3)],
		Plan: rotation.Plan{
			Overlap: w.duration(0, time.Minute, time.Hour),
			Verify:  rotation.Verify{Successes: 1 + w.intn(3), Interval: w.duration(time.Second, 10*time.Second), Timeout: 2 * time.Minute},
			Confirm: rotation.Confirm{Rejections: 1 + w.intn(3), Window: window, Budget: window,
				Recheck: []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}[:w.intn(4)]},
			Acknowledgement: rotation.Acknowledgement{Require: []rotation.Requirement{rotation.RequireNone, rotation.RequireReceived, rotation.RequireApplied}[w.intn(3)],
				Timeout: w.duration(time.Minute, 2*time.Hour), Hold: w.intn(2) == 0},
			Emergency: rotation.Emergency{RevokeFirst: w.intn(3) == 0, ReplaceWithin: time.Minute},
		}}
	if w.intn(2) == 0 {
		d.Mirrors = []string{"mirror"}
		d.OnDrift = []rotation.DriftRule{rotation.DriftReport, rotation.DriftRestore, rotation.DriftRestore, rotation.DriftAdopt}[w.intn(4)]
		d.Plan.WaitForMirrors = w.intn(2) == 0
	}
	d.Plan.Approval = w.intn(12) == 0
	if w.seed%2 == 0 { // of a pair and a policy of its own: the gates open for it
		d.Pair, d.Policy, d.MaxConcurrent = "alone", "alone", 1
	}
	if d.Issuer == "single" {
		d.Plan.Overlap = 0
	}
	d.Plan.MaxOverlap = d.Plan.Overlap + w.duration(0, 3*time.Hour)
	if w.intn(6) == 0 {
		d.Plan.Confirm.None = true
		if w.intn(2) == 0 {
			d.Probe = ""
		}
	}
	return d
}

// boot starts a new process in place of node i.
func (w *world) boot(i int, name string, stages bool) {
	ctx, cancel := context.WithCancel(context.Background())
	logger := hclog.NewNullLogger()
	e := engine.New(engine.Config{Store: w.store, Sealer: sealer{w}, Fingerprint: func(_, value string) string { return value },
		Node: name, Now: time.Now, Logger: logger})
	var driver backends.Driver = w.vault
	var mirror backends.Driver = w.mirror
	if stages {
		driver = staging{w.vault}
	} else if w.seed%2 == 0 {
		mirror = staging{w.mirror}
	}
	// The timeout leaves no time for the mount to try again, which it does at random moments.
	mount := backends.NewMount("vault", driver, backends.Options{Limits: backends.Limits{Timeout: 20 * time.Millisecond}})
	second := backends.NewMount("mirror", mirror, backends.Options{Limits: backends.Limits{Timeout: 20 * time.Millisecond}})
	e.SetCatalog(&engine.Catalog{
		Backends:   map[string]*backends.Mount{"vault": mount, "mirror": second},
		DriftEvery: map[string]time.Duration{"vault": time.Duration(w.seed%3) * 90 * time.Hour, "mirror": time.Duration(20+160*(w.seed%2)) * time.Hour},
		Issuers:    w.catalog,
		Probes:     map[string]probe.Probe{"probe": w.probe},
		Consumers:  w.consumers(),
	})
	w.nodes[i] = &node{name: name, engine: e, ctx: ctx, cancel: cancel, busy: map[string]bool{}}
	w.nodes[i].stages = stages
}

func (w *world) consumers() map[string]engine.Deliverer {
	if w.told != nil {
		return w.told
	}
	return map[string]engine.Deliverer{"one": w.inboxes["one"], "two": w.inboxes["two"]}
}

// longestSleep is how long nobody looks at anything at most: after a week without
// the broker a re-check is given up.
const longestSleep = 24 * time.Hour

// misbehave lets things happen, at random.
func (w *world) misbehave() {
	w.request("rotate")
	for range 60 + w.intn(200) {
		if len(w.wrong) > 0 {
			return
		}
		switch n := w.intn(100); {
		case n < 50:
			w.step()
		case n < 68:
			w.resumeOne()
		case n < 82:
			w.pass(w.duration(100*time.Millisecond, time.Second, 5*time.Second, 30*time.Second, 2*time.Minute))
		case n < 90:
			w.pass(min(w.untilNext(), longestSleep))
		case n < 96:
			w.request(requests[w.intn(len(requests))])
		case n < 98:
			w.end(w.intn(2), w.intn(2) == 0)
		case n == 98 && w.intn(2) == 0:
			w.resurrect()
		case n == 98:
			w.meddle()
		default:
			what := []string{"vault", "probe", "issuer finding", "issuer blind", "issuer prepared", "mirror", "issuer " + w.secret().Definition.Issuer}[w.intn(7)]
			w.down[what] = !w.down[what]
			w.logf(context.Background(), "%s is down: %v", what, w.down[what])
		}
	}
}

// end ends a process, by a signal that lets it finish or by its death, and
// starts another one in its place.
func (w *world) end(i int, killed bool) {
	n := w.nodes[i]
	w.logf(context.Background(), "node %s ends, killed: %v", n.name, killed)
	w.counts["ends"]++
	n.dead = killed
	n.cancel()
	synctest.Wait()
	if killed {
		for _, wk := range w.parked {
			if wk.node != n {
				continue
			}
			if wk.unsent != nil && w.intn(2) == 0 {
				wk.unsent()
			}
			w.resume(wk)
		}
	}
	w.boot(i, n.name, n.stages)
}

// resurrect lets an issuer, which restores a backup, accept again what is proven
// dead, as long as a re-check is to come.
func (w *world) resurrect() {
	for _, id := range w.store.state.retirements.order {
		t := w.store.state.retirements.rows[id]
		v, _ := w.version(t.Version)
		c := w.credentialOf(v.Tag)
		if t.State == rotation.ProvenDead && t.Rechecks < len(t.Confirm.Recheck) && t.PurgedAt.IsZero() && c != nil && !c.removed && len(w.live) == 0 && len(w.issuers[c.issuer].traits.Slots) == 0 {
			w.logf(context.Background(), "version %d is accepted again", t.Version)
			w.counts["resurrected"]++
			c.revokedAt = time.Time{}
			return
		}
	}
}

// meddle lets somebody else change what the mirror holds: another value, an older
// version, nothing at all.
func (w *world) meddle() {
	m := w.mirror
	w.counts["meddled"]++
	switch choice := w.intn(3); {
	case choice == 0:
		text := fmt.Sprintf("stranger-%d", len(m.values))
		m.add(backends.NewValue(map[string]string{valueField: text}), text)
		m.current = len(m.values)
	case choice == 1 && m.current > 1 && !m.gone[vaultID(m.current-1)]:
		m.current--
	default:
		m.values, m.tokens, m.made, m.current, m.gone = nil, nil, nil, 0, map[backends.VersionID]bool{}
	}
	w.logf(context.Background(), "somebody lets the mirror hold %d of %d", m.current, len(m.values))
}

// step lets one of the nodes take a step of something that is due, or now and
// then of something that is not: a wake-up may come at any time.
func (w *world) step() {
	type record struct{ kind, id string }
	var records []record
	due, _ := (&memTx{s: w.store, readOnly: true}).Due(context.Background(), time.Now(), 0)
	for _, id := range due.Rotations {
		records = append(records, record{"rotation", id})
	}
	for _, id := range due.Retirements {
		if !w.faulty && w.hopeless(w.store.state.retirements.rows[id]) {
			continue
		}
		records = append(records, record{"retirement", id})
	}
	for _, d := range due.Deliveries {
		records = append(records, record{"delivery", d.ID})
	}
	for _, id := range due.Placements {
		records = append(records, record{"placement", id})
	}
	for _, id := range due.Incidents {
		if w.faulty { // they stay due for as long as they are open
			records = append(records, record{"incident", id})
		}
	}
	if w.faulty && w.intn(8) == 0 {
		records = nil
		for _, id := range w.store.state.rotations.order {
			records = append(records, record{"rotation", id})
		}
		for _, id := range w.store.state.retirements.order {
			records = append(records, record{"retirement", id})
		}
		for _, id := range w.store.state.deliveries.order {
			records = append(records, record{"delivery", id})
		}
		for _, id := range w.store.state.placements.order {
			if w.store.state.placements.rows[id].Revision > 0 {
				records = append(records, record{"placement", id})
			}
		}
	}
	if len(records) == 0 {
		if w.faulty && len(w.parked) == 0 {
			w.pass(min(w.untilNext(), longestSleep))
		}
		return
	}
	r, n := records[w.intn(len(records))], w.nodes[w.intn(len(w.nodes))]
	if n.busy[r.kind+r.id] {
		return
	}
	take := map[string]func(context.Context, string) (bool, error){
		"rotation": n.engine.StepRotation, "retirement": n.engine.StepRetirement, "delivery": n.engine.StepDelivery, "placement": n.engine.StepPlacement, "incident": n.engine.StepIncident}[r.kind]
	w.counts["steps"]++
	name := ""
	if w.verbose {
		name = w.short(map[string]string{"rotation": "r", "retirement": "t", "delivery": "d", "placement": "p", "incident": "i"}[r.kind], r.id)
	}
	w.start(n, name, r.kind+r.id, func(ctx context.Context) error {
		again, err := take(ctx, r.id)
		for limit := w.intn(4); again && err == nil && limit > 0; limit-- {
			again, err = take(ctx, r.id)
		}
		return err
	})
}

// lookAtIncidents lets a node find what has become of them.
func (w *world) lookAtIncidents() {
	n := w.nodes[0]
	for _, id := range w.store.state.incidents.order {
		w.start(n, "", "incident"+id, func(ctx context.Context) error {
			again, err := n.engine.StepIncident(ctx, id)
			for again && err == nil {
				again, err = n.engine.StepIncident(ctx, id)
			}
			return err
		})
	}
	w.settle()
}

func (w *world) resumeOne() {
	if len(w.parked) > 0 {
		w.resume(w.parked[w.intn(len(w.parked))])
	}
}

// untilNext is how long nothing is due.
func (w *world) untilNext() time.Duration {
	now, next := time.Now(), time.Time{}
	see := func(at time.Time) {
		if at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for _, r := range w.store.state.rotations.rows {
		if r.EndedAt.IsZero() && (w.faulty || r.State != rotation.Retiring || w.awaitsHope(r)) {
			see(r.NextAt)
			if r.Intent != nil {
				see(r.Intent.Lease)
			}
		}
	}
	for _, t := range w.store.state.retirements.rows {
		if t.PurgedAt.IsZero() && (w.faulty || !w.hopeless(t)) {
			see(t.NextAt)
			if t.Intent != nil {
				see(t.Intent.Lease)
			}
		}
	}
	for _, d := range w.store.state.deliveries.rows {
		if d.State == rotation.DeliveryPending {
			see(d.NextAttemptAt)
			see(d.Lease)
		}
	}
	for _, p := range w.store.state.placements.rows {
		if p.Revision > 0 {
			see(p.NextAt)
			if p.Intent != nil {
				see(p.Intent.Lease)
			}
		}
	}
	if next.IsZero() {
		return 0
	}
	return next.Sub(now)
}

// calmDown ends all faults and lets everybody who is held go on.
func (w *world) calmDown() {
	w.logf(context.Background(), "------ all faults cease")
	w.mu.Lock()
	w.faulty = false
	w.mu.Unlock()
	w.down = map[string]bool{}
	for range 100000 {
		if len(w.parked) > 0 {
			w.resumeOne()
			continue
		}
		if len(w.live) == 0 {
			return
		}
		w.pass(time.Second) // somebody sleeps
	}
	w.violated("some workers never end")
}

// settle lets time pass until nothing is going to happen any more. An operator
// sees to it that the secret has a version that works: without one there is no
// control for any proof.
func (w *world) settle() {
	for _, what := range []string{"resume", "unfreeze", "approve"} { // after all, nothing else holds anything up
		w.request(what)
		w.calmDown()
	}
	for range 3 {
		w.runDry(6 * time.Hour)
		s := w.secret()
		if _, dying := w.retirementOf(s.Current); s.Current > 0 && !dying && !w.lost(s) {
			break
		}
		w.counts["rotated in the end"]++
		w.request("rotate")
		w.calmDown()
		w.request("approve")
		w.calmDown()
	}
	w.runDry(60 * 24 * time.Hour)
}

// lost tells whether the current version has ended in place, and could not be set
// again: an alert asks for a rotation.
func (w *world) lost(s rotation.Secret) bool {
	for _, id := range w.store.state.rotations.order {
		r := w.store.state.rotations.rows[id]
		if r.InPlace != nil && r.InPlace.Lost && r.From == s.Current {
			return true
		}
	}
	return false
}

// runDry takes every step that is due until nothing is, within a time.
func (w *world) runDry(within time.Duration) {
	w.pass(longestWay("issuer"))
	end := time.Now().Add(within)
	for range 20000 {
		if len(w.wrong) > 0 {
			return
		}
		before := w.counts["steps"]
		w.step()
		if len(w.parked) > 0 || len(w.live) > 0 {
			w.calmDown()
		}
		if w.counts["steps"] > before {
			continue
		}
		d := w.untilNext()
		if d == 0 || time.Now().Add(d).After(end) {
			return
		}
		w.pass(d)
	}
	w.violated("there is no end of it")
}
