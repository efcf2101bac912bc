package crashtest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
)

// number is an environment variable's number, or what stands for it.
func number(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q, not a number from 1", name, text)
	}
	return n
}

// checkEvery is after how many kills a site comes to rest and is checked.
const checkEvery = 25

// TestRandomKills kills sites at random moments while all their secrets rotate.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	kills := number(t, "CHAOS_KILLS", 60)
	sum := newSummary(uint64(number(t, "CHAOS_SEED", time.Now().UnixNano())))
	t.Logf("%d kills, CHAOS_SEED=%d", kills, sum.seed)
	sites := min(number(t, "CHAOS_SITES", 8), max(kills/20, 1))
	var left atomic.Int64
	left.Store(kills)
	report := make(chan struct{})
	var reporter sync.WaitGroup
	reporter.Go(func() { progress(sum, kills, report) })
	t.Cleanup(func() {
		close(report)
		reporter.Wait()
		t.Logf("\n%s", sum.figures())
		if testing.Verbose() {
			t.Logf("kills by the point passed last:\n%s", sum.byPoint())
		}
		if name := os.Getenv("CHAOS_REPORT"); name != "" {
			if err := os.WriteFile(name, []byte(sum.figures()+"\n"+sum.byPoint()), 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	var running sync.WaitGroup
	for n := range sites {
		var vault *vaultserver.Server
		if n%4 == 1 {
			vault = vaultserver.Shared(t)
		}
		seed := sum.seed + uint64(n)
		s := newSite(t, fmt.Sprintf("site %d", n), seed, sum, vault)
		if n%4 == 2 { // revoked keys go on working for a while, almost as long as the budget, here and there
			s.keys.slow(450*time.Millisecond, 2)
		}
		running.Go(func() { s.chaos(seed, &left) })
	}
	running.Wait()
	if t.Failed() {
		return
	}
	if n := int64(sum.kills()); n != kills {
		t.Errorf("%d kills were made, %d were asked for", n, kills)
	}
	ends := []string{client.RotationDone}
	if kills >= 1000 { // then also what is rare must have come
		ends = append(ends, client.RotationSuperseded, client.RotationRolledBack, client.RotationCancelled)
	}
	for _, end := range ends {
		if sum.ends[end] == 0 {
			t.Errorf("no rotation came to the end %s", end)
		}
	}
}

// progress writes a line now and then: a full run is long.
func progress(sum *summary, kills int64, stop <-chan struct{}) {
	tick := time.NewTicker(15 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			n := sum.kills()
			fmt.Fprintf(os.Stderr, "chaos: %d of %d kills, %.1f/s, %d checks, %d violations\n", n, kills, float64(n)/time.Since(sum.began).Seconds(), sum.checks.Load(), sum.violations.Load())
		}
	}
}

// chaos kills the site again and again, as long as kills are left, and checks it
// now and then and at the end.
func (s *site) chaos(seed uint64, left *atomic.Int64) {
	defer s.gather()
	if !s.start("", "") || !s.first() {
		return
	}
	s.proc.kill()
	l := s.load(seed)
	defer l.end()
	for n := 1; !s.broken.Load(); n++ {
		more := left.Add(-1) >= 0
		if !more || n%checkEvery == 0 {
			s.rest(l)
		}
		if !more || s.broken.Load() {
			return
		}
		s.keys.restless(0.02)
		s.hook.restless(0.05)
		if s.rng.IntN(20) == 0 {
			s.keys.outage(downEverywhere, time.Duration(100+s.rng.IntN(400))*time.Millisecond)
		}
		s.randomKill()
	}
}

// rest lets nothing new begin, waits until nothing is under way and checks.
func (s *site) rest(l *load) {
	l.pause.Lock()
	defer l.pause.Unlock()
	if s.start("", "") {
		s.settle()
		s.list()
		s.proc.kill()
	}
}

// randomKill runs the daemon for a while, or to a point, and kills it by one of
// three ways to be killed.
func (s *site) randomKill() {
	record := filepath.Join(s.dir, "points")
	_ = os.Remove(record)
	kind := "moment"
	switch n := s.rng.IntN(100); {
	case n < 10:
		kind = "starting"
		if !s.launch("", record) {
			return
		}
		s.proc.dead(time.Duration(s.rng.IntN(40)) * time.Millisecond)
	case n < 35: // at a point, whatever its name
		if !s.start(fmt.Sprintf("*#%d", 1+s.rng.IntN(80)), record) {
			return
		}
		if s.proc.dead(time.Second) {
			kind = "point"
		}
	default: // at any moment
		if !s.start("", record) {
			return
		}
		s.proc.dead(time.Duration(5+s.rng.IntN(395)) * time.Millisecond)
	}
	if !s.proc.kill() {
		s.violation("the daemon has ended by itself")
		return
	}
	s.sum.killed(kind, lastLine(record))
}

// first gives every secret its first version; false: it could not.
func (s *site) first() bool {
	for name := range s.subject {
		if err := s.rotate(name); err != nil {
			s.violation("the first rotation of %s: %v", name, err)
			return false
		}
	}
	s.settle()
	return !s.broken.Load()
}
