package crashtest_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// summary counts what a run did.
type summary struct {
	seed  uint64
	began time.Time

	starts, reads, checks, violations, torn, missed, letters atomic.Int64
	minted                                                   atomic.Int64

	mu         sync.Mutex
	kinds      map[string]int // kills by kind
	points     map[string]int // kills by the point passed last
	ends       map[string]int // rotations by their end
	retirement map[string]int // by state
	deliveries map[string]int // that were checked, by event and state
	startTimes []time.Duration
	settles    []time.Duration
	problems   map[string]int // answers of 5xx, by what they said
	asks       map[string]int // what operators asked for and was not refused
	refusals   map[string]int

	proofs atomic.Int64 // that were compared with the witness
}

func newSummary(seed uint64) *summary {
	return &summary{seed: seed, began: time.Now(), kinds: map[string]int{}, points: map[string]int{}, ends: map[string]int{}, retirement: map[string]int{}, deliveries: map[string]int{}, problems: map[string]int{}, asks: map[string]int{}, refusals: map[string]int{}}
}

// ids are what differs between answers that say the same.
var ids = regexp.MustCompile(`version [0-9]+|[0-9a-f]{8}-[0-9a-f-]{27}|(127\.0\.0\.1:)?[0-9]{3,}|(quick|careful)/[a-z]+`)

func (s *summary) problem(p *client.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems[fmt.Sprint(p.Status, " ", ids.ReplaceAllString(p.Detail, "…"))]++
}

// asked counts what operators asked for; it returns err.
func (s *summary) asked(action string, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch p := (*client.Problem)(nil); {
	case err == nil:
		s.asks[action]++
	case errors.As(err, &p):
		s.refusals[action]++
	}
	return err
}

func (s *summary) killed(kind, point string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds[kind]++
	s.points[cmp.Or(point, "none yet")]++
}

func (s *summary) kills() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kinds {
		n += k
	}
	return n
}

func (s *summary) started(took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.startTimes = append(s.startTimes, took)
}

func (s *summary) settled(took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settles = append(s.settles, took)
}

func (s *summary) ended(r client.Rotation) {
	if !r.Ended() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[r.State]++
}

func (s *summary) delivered(d client.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliveries[strings.TrimPrefix(d.Event, "secret.")+"."+d.State]++
}

func (s *summary) retired(states map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for state, n := range states {
		s.retirement[state] += n
	}
}

// figures are the lines "name value unit", as make bench prints them.
func (s *summary) figures() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	wall := time.Since(s.began)
	total := 0
	line := func(name string, value any, unit string) { fmt.Fprintf(&b, "chaos.%s %v %s\n", name, value, unit) }
	for _, kind := range slices.Sorted(maps.Keys(s.kinds)) {
		total += s.kinds[kind]
		line("kills."+kind, s.kinds[kind], "kills")
	}
	line("kills", total, "kills")
	line("kills_rate", fmt.Sprintf("%.1f", float64(total)/wall.Seconds()), "kills/s")
	line("points", len(s.points), "points")
	line("starts", s.starts.Load(), "starts")
	line("start_median", median(s.startTimes).Milliseconds(), "ms")
	line("settle_median", median(s.settles).Milliseconds(), "ms")
	line("checks", s.checks.Load(), "checks")
	line("minted", s.minted.Load(), "keys")
	for _, end := range slices.Sorted(maps.Keys(s.ends)) {
		line("rotations."+end, s.ends[end], "rotations")
	}
	for _, state := range slices.Sorted(maps.Keys(s.retirement)) {
		line("retirements."+state, s.retirement[state], "versions")
	}
	for _, action := range slices.Sorted(maps.Keys(s.asks)) {
		line("asked."+action, s.asks[action], "requests")
	}
	for _, action := range slices.Sorted(maps.Keys(s.refusals)) {
		line("refused."+action, s.refusals[action], "requests")
	}
	line("proofs_compared", s.proofs.Load(), "proofs")
	line("reads", s.reads.Load(), "reads")
	line("messages", s.letters.Load(), "messages")
	for _, kind := range slices.Sorted(maps.Keys(s.deliveries)) {
		line("deliveries."+kind, s.deliveries[kind], "deliveries")
	}
	for _, what := range slices.Sorted(maps.Keys(s.problems)) {
		fmt.Fprintf(&b, "# %d answers %s\n", s.problems[what], what)
	}
	line("points_missed", s.missed.Load(), "points")
	line("audit_torn_lines", s.torn.Load(), "lines")
	line("violations", s.violations.Load(), "violations")
	line("wall", fmt.Sprintf("%.1f", wall.Seconds()), "s")
	return b.String()
}

// byPoint lists how many kills came after each point.
func (s *summary) byPoint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.SortedFunc(maps.Keys(s.points), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.points[b], s.points[a]), cmp.Compare(a, b))
	})
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%6d %s\n", s.points[name], name)
	}
	return b.String()
}

func median(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[len(ds)/2]
}

// gather adds up what a site's witnesses saw, also of one that is broken.
func (s *site) gather() {
	for _, a := range []*application{s.hook.application, s.collector.application} {
		a.mu.Lock()
		s.sum.letters.Add(int64(a.count))
		a.mu.Unlock()
	}
	for name := range s.subject {
		_, n := s.keys.made(name, 0)
		s.sum.minted.Add(int64(n))
	}
	s.sum.retired(s.states)
}

// list counts the retirements as they are now, for gather.
func (s *site) list() {
	states := map[string]int{}
	for name := range s.subject {
		for t, err := range client.All(func(after string) (client.List[client.Retirement], error) {
			return s.client.Retirements(s.t.Context(), client.RetirementQuery{Secret: name, Page: client.Page{Limit: 1000, After: after}})
		}) {
			if err != nil {
				s.violation("listing retirements: %v", err)
				return
			}
			kind := t.State
			if t.Cause == "orphan" || t.Cause == "failed" {
				kind = "disposed_" + t.State
			}
			states[kind]++
		}
	}
	s.states = states
}
