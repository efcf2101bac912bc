package crashtest_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
)

// scenario is one thing that the daemon does, from one rest to the next.
type scenario struct {
	name  string
	vault bool // at a site whose secrets are in Vault
	begin func(s *site)
}

func rotates(name string) func(*site) { return func(s *site) { _ = s.rotate(name) } }

var scenarios = []scenario{
	{name: "rotation", begin: rotates(carefulSecret)},
	{name: "rotation of an internal key", begin: rotates(internalSecret)},
	{name: "rotation in Vault", vault: true, begin: rotates(carefulSecret)},
	{name: "lost mint", begin: func(s *site) {
		s.keys.script(mintRoute, drop)
		_ = s.rotate(quickSecret)
	}},
	{name: "refused mint", begin: func(s *site) {
		s.keys.script(mintRoute, invalid)
		_ = s.rotate(quickSecret)
	}},
	{name: "failing verification", begin: func(s *site) {
		s.keys.outage(tryRoute, 2*time.Second)
		_ = s.rotate(quickSecret)
	}},
	{name: "refused revocation", begin: func(s *site) {
		s.keys.script(revokeRoute, refuse, drop)
		_ = s.rotate(quickSecret)
	}},
	{name: "refused delivery", begin: func(s *site) {
		s.hook.refuseNext(1)
		_ = s.rotate(internalSecret)
	}},
	{name: "rollback", begin: rollsBack},
	{name: "rollback in Vault", vault: true, begin: rollsBack},
	{name: "cancelled rotation", begin: func(s *site) {
		s.keys.outage(tryRoute, time.Second)
		_ = s.rotate(quickSecret)
		_ = s.when(quickSecret, client.RotationVerifying)
		_ = s.cancel(quickSecret)
	}},
	{name: "retry", begin: func(s *site) {
		s.keys.script(mintRoute, refuse)
		_ = s.rotate(quickSecret)
		_ = s.retry(quickSecret)
		_ = s.when(quickSecret, client.RotationRetiring)
		_ = s.retry(quickSecret)
	}},
	{name: "freeze", begin: func(s *site) {
		s.held.Store(true)
		_ = s.rotate(carefulSecret)
		_ = s.ask(func(ctx context.Context) error {
			_, err := s.client.Freeze(ctx, intervention)
			return s.sum.asked("freeze", err)
		})
		_ = s.rotate(quickSecret)
		time.Sleep(overlaps[carefulSecret])
		_ = s.release()
	}},
	{name: "emergency", begin: func(s *site) { _ = s.emergencyNow(carefulSecret, client.ReplaceFirst) }},
	{name: "revoking emergency", begin: func(s *site) { _ = s.emergencyNow(carefulSecret, client.RevokeFirst) }},
	{name: "emergency in a rotation", begin: func(s *site) {
		_ = s.rotate(quickSecret)
		_ = s.emergencyNow(quickSecret, client.RevokeFirst)
	}},
}

// rollsBack rotates and, in the overlap, takes that back.
func rollsBack(s *site) {
	_ = s.rotate(carefulSecret)
	if s.when(carefulSecret, client.RotationOverlap) {
		_ = s.rollBack(carefulSecret)
	}
}

// when waits until a rotation of the secret is in a state; false: none came there.
func (s *site) when(name, state string) bool {
	for began := time.Now(); time.Since(began) < 5*time.Second && s.proc.alive(); time.Sleep(5 * time.Millisecond) {
		var live client.List[client.Rotation]
		err := s.ask(func(ctx context.Context) (err error) {
			live, err = s.client.Rotations(ctx, client.RotationQuery{Secret: name, Live: true})
			return err
		})
		if err == nil && slices.ContainsFunc(live.Items, func(r client.Rotation) bool { return r.State == state }) {
			return true
		}
	}
	return false
}

// TestPointsKeepAbilities runs the tests of the daemon that exist only where the
// crash points do: what is killed here must be what is shipped, but for those.
func TestPointsKeepAbilities(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "test", "-tags", "crashpoints", "-count", "1", "-v", "-run", "^TestCrashPoints",
		"github.com/keybroker/keybroker/broker/daemon").CombinedOutput()
	if err != nil || bytes.Count(out, []byte("--- PASS: TestCrashPoints")) < 2 {
		t.Errorf("%v\n%s", err, out)
	}
}

// essential are points that the scenarios must have come to, or the points are
// not where they should be.
var essential = []string{
	"commit:version&rotation.minting+mint:before", "commit:version&rotation.minting+mint:after",
	"effect:issuer.issue:before", "effect:issuer.issue:after",
	"effect:issuer.find:before", "effect:issuer.find:after",
	"effect:vault.publish:before", "effect:vault.publish:after",
	"effect:probe.try:before", "effect:probe.try:after",
	"effect:issuer.revoke:before", "effect:issuer.revoke:after",
	"effect:consumer.deliver:before", "effect:consumer.deliver:after",
	"commit:rotation.publishing+publish:before", "commit:rotation.publishing+publish:after",
	"commit:rotation.done:before", "commit:rotation.done:after",
	"commit:rotation.overlap+restore:before", "commit:rotation.overlap+restore:after",
}

// target is a point in a scenario: the n-th time that it is passed.
type target struct {
	scenario scenario
	point    string
	n        int
	tries    int // made so far
}

// What is decided by a race may not come again at once: a target is tried a few
// times, and still some may be missed.
const (
	triesOfTarget = 4
	mayMiss       = 0.03
)

// atMost is how often one point is a target in one scenario: a probe tries many times.
const atMost = 3

// TestEveryPoint lets each scenario pass once, and then again for each point
// that it passed, to be killed there.
func TestEveryPoint(t *testing.T) {
	t.Parallel()
	sum := newSummary(1)
	targets := make(chan []target, len(scenarios))
	defer func() { t.Logf("\n%s", sum.figures()) }()
	var recording sync.WaitGroup
	for _, sc := range scenarios {
		s := newScenarioSite(t, sc, sum, 0)
		recording.Go(func() { targets <- s.record(sc) })
	}
	recording.Wait()
	close(targets)
	var list []target
	known := map[string]bool{}
	for some := range targets {
		for _, one := range some {
			known[one.point] = true
		}
		list = append(list, some...)
	}
	for _, point := range essential {
		if !known[point] {
			t.Errorf("no scenario came to %s", point)
		}
	}
	list = distinct(list)
	t.Logf("%d points, %d targets", len(known), len(list))
	if t.Failed() {
		return
	}
	queue := newQueue(list)
	var killing sync.WaitGroup
	for n := range killedSites {
		vault := n%8 == 0
		s := newScenarioSite(t, scenario{name: fmt.Sprint("killed site ", n), vault: vault}, sum, uint64(n))
		killing.Go(func() { s.killEach(queue, vault) })
	}
	killing.Wait()
	if missed := int(sum.missed.Load()); float64(missed) > mayMiss*float64(len(list)) {
		t.Errorf("%d of %d points did not come again", missed, len(list))
	}
	if n := sum.kills() + int(sum.missed.Load()); !t.Failed() && n != len(list) {
		t.Errorf("%d kills and misses for %d targets", n, len(list))
	}
	for _, point := range essential {
		if sum.points[point] == 0 {
			t.Errorf("nothing was killed at %s", point)
		}
	}
}

// killedSites is how many sites TestEveryPoint kills side by side: they mostly wait.
const killedSites = 24

// killEach kills the site at one target after the other.
func (s *site) killEach(q *queue, vault bool) {
	defer s.gather()
	if !s.start("", "") || !s.first() {
		return
	}
	for !s.broken.Load() {
		one, ok := q.next(vault)
		if !ok {
			s.list()
			return
		}
		if s.killAt(one) {
			continue
		}
		if one.tries++; one.tries < triesOfTarget {
			q.again(one)
			continue
		}
		s.sum.missed.Add(1)
		s.t.Logf("%s: %s#%d did not come again", one.scenario.name, one.point, one.n)
	}
}

func newScenarioSite(t *testing.T, sc scenario, sum *summary, seed uint64) *site {
	var vault *vaultserver.Server
	if sc.vault {
		vault = vaultserver.Shared(t)
	}
	return newSite(t, sc.name, seed, sum, vault)
}

// record lets a scenario pass and returns its points.
func (s *site) record(sc scenario) (list []target) {
	file := filepath.Join(s.dir, "points")
	if !s.start("", "") || !s.first() {
		return nil
	}
	s.proc.kill()
	if !s.start("", file) {
		return nil
	}
	sc.begin(s)
	s.settleAfter()
	s.proc.kill()
	times := map[string]int{}
	for _, point := range lines(file) {
		times[point]++
		if times[point] <= atMost {
			list = append(list, target{scenario: sc, point: point, n: times[point]})
		}
	}
	return list
}

// settleAfter waits for rest without ending the faults of the scenario before
// they have come.
func (s *site) settleAfter() {
	for _, sub := range s.subject {
		s.settleOne(sub, time.Now().Add(settleWithin))
	}
}

// distinct keeps each commit once, whatever the scenario; each effect once in
// every scenario, and its further times in one of them.
func distinct(list []target) (out []target) {
	seen := map[string]bool{}
	for _, one := range list {
		key := fmt.Sprint(one.point, "#", one.n)
		effect := strings.HasPrefix(one.point, "effect:")
		switch {
		case effect && one.n == 1:
			key += one.scenario.name
		case !effect && one.n > 1:
			continue
		}
		if !seen[key] {
			seen[key] = true
			out = append(out, one)
		}
	}
	return out
}

// queue gives targets to sites: those in Vault to sites in Vault.
type queue struct {
	mu   sync.Mutex
	list []target
}

func newQueue(list []target) *queue { return &queue{list: list} }

func (q *queue) next(vault bool) (target, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.IndexFunc(q.list, func(one target) bool { return one.scenario.vault == vault })
	if i < 0 {
		return target{}, false
	}
	one := q.list[i]
	q.list = slices.Delete(q.list, i, i+1)
	return one, true
}

func (q *queue) again(one target) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, one)
}

// killAt lets the scenario run into the point, starts the daemon again and
// checks that everything comes right; false: it did not come to the point.
func (s *site) killAt(one target) (killed bool) {
	s.proc.kill()
	if !s.start(fmt.Sprintf("%s#%d", one.point, one.n), "") {
		return true
	}
	if s.proc.alive() {
		one.scenario.begin(s)
	}
	if killed = s.proc.dead(6 * time.Second); killed {
		if !s.proc.kill() {
			s.violation("the daemon ended by itself on the way to %s", one.point)
			return true
		}
		s.sum.killed("point", one.point)
	}
	if s.restart() {
		s.settle()
	}
	if s.broken.Load() {
		s.t.Errorf("after a kill at %s#%d in %q", one.point, one.n, one.scenario.name)
	}
	return killed
}

func lines(file string) []string {
	b, _ := os.ReadFile(file)
	return strings.Fields(string(b))
}

func lastLine(file string) string {
	all := lines(file)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}
