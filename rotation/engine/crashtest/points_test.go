package crashtest_test

import (
	"fmt"
	"os"
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
		s.inbox.refuseNext(1)
		_ = s.rotate(internalSecret)
	}},
	{name: "emergency", begin: func(s *site) { _ = s.emergencyNow(carefulSecret, client.ReplaceFirst) }},
	{name: "revoking emergency", begin: func(s *site) { _ = s.emergencyNow(carefulSecret, client.RevokeFirst) }},
	{name: "emergency in a rotation", begin: func(s *site) {
		_ = s.rotate(quickSecret)
		_ = s.emergencyNow(quickSecret, client.RevokeFirst)
	}},
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
}

// target is a point in a scenario: the n-th time that it is passed.
type target struct {
	scenario scenario
	point    string
	n        int
}

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
}

// killedSites is how many sites TestEveryPoint kills side by side: they mostly wait.
const killedSites = 24

// killEach kills the site at one target after the other.
func (s *site) killEach(q *queue, vault bool) {
	s.start("", "")
	s.first()
	for !s.broken.Load() {
		one, ok := q.next(vault)
		if !ok {
			s.gather()
			return
		}
		s.killAt(one)
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
	s.start("", "")
	s.first()
	s.proc.kill()
	s.start("", file)
	sc.begin(s)
	s.settleAfter()
	s.proc.kill()
	times := map[string]int{}
	for _, point := range lines(file) {
		times[point]++
		if times[point] <= atMost {
			list = append(list, target{sc, point, times[point]})
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

// killAt lets the scenario run into the point, starts the daemon again and
// checks that everything comes right.
func (s *site) killAt(one target) {
	s.proc.kill()
	s.start(fmt.Sprintf("%s#%d", one.point, one.n), "")
	if s.proc.alive() {
		one.scenario.begin(s)
	}
	if s.proc.dead(6 * time.Second) {
		if !s.proc.kill() {
			s.violation("the daemon ended by itself on the way to %s", one.point)
			return
		}
		s.sum.killed("point", one.point)
	} else { // what is decided by a race may not come again
		s.sum.missed.Add(1)
		s.t.Logf("%s: %s#%d did not come again", one.scenario.name, one.point, one.n)
	}
	s.restart()
	s.settle()
	if s.broken.Load() {
		s.t.Errorf("after a kill at %s#%d in %q", one.point, one.n, one.scenario.name)
	}
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
