package config

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/trigger/schedule"
)

// timing is what is to be known of one schedule in one time zone.
type timing struct {
	problems []policy.Problem
	schedule schedule.Schedule
	shortest time.Duration // between two runs; 0: not looked for yet
	mean     time.Duration // known with shortest
	misses   map[opening]bool
}

// opening is when the runs of a schedule may begin, and by how much they are put off.
type opening struct {
	window string
	jitter time.Duration
}

// timings remembers them: many secrets share few schedules. What a timing finds out
// later is for whoever loads a configuration alone.
type timings struct {
	mu     sync.Mutex
	byText map[[2]string]*timing
}

func newTimings() *timings { return &timings{byText: map[[2]string]*timing{}} }

// of returns the timing of r; a nil t remembers nothing.
func (t *timings) of(r policy.Rotation) *timing {
	if t == nil {
		return newTiming(r.Schedule, r.TimeZone)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := [2]string{r.Schedule, r.TimeZone}
	if t.byText[key] == nil {
		t.byText[key] = newTiming(r.Schedule, r.TimeZone)
	}
	return t.byText[key]
}

// newTiming tells a wrong time zone from a wrong expression, which is judged in
// UTC where the zone is wrong.
func newTiming(expr, zone string) *timing {
	t := &timing{}
	problem := func(attribute, text string, err error) {
		t.problems = append(t.problems, policy.Problem{Rule: -1, Attribute: attribute, Text: text, Suggestion: reasonText(err)})
	}
	if _, err := schedule.Parse("", zone); err != nil {
		problem("time_zone", "the time zone cannot be used", err)
		zone = ""
	}
	var err error
	if t.schedule, err = schedule.Parse(expr, zone); err != nil {
		problem("schedule", "the schedule cannot be used", err)
	}
	return t
}

// interval returns the shortest time between two of the next runs.
func (t *timing) interval() time.Duration {
	const runs = 400 // a year of days
	if t.shortest > 0 {
		return t.shortest
	}
	t.shortest, t.mean = math.MaxInt64, math.MaxInt64
	first := t.schedule.Next(someday)
	last := first
	for n := range runs {
		next := t.schedule.Next(last)
		if next.IsZero() {
			break
		}
		t.shortest = min(t.shortest, next.Sub(last))
		last = next
		t.mean = last.Sub(first) / time.Duration(n+1)
	}
	return t.shortest
}

// someday is when the schedules begin that are looked at.
var someday = time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC)

// neverOpen tells whether no run falls into the window, however it is put off.
func (t *timing) neverOpen(o opening, zone string) bool {
	if missed, ok := t.misses[o]; ok {
		return missed
	}
	if t.misses == nil {
		t.misses = map[opening]bool{}
	}
	t.misses[o] = t.runsMiss(o, zone)
	return t.misses[o]
}

func (t *timing) runsMiss(o opening, zone string) bool {
	const tries = 400 // runs at least, and openings
	w, problems := policy.ParseWindow(o.window, zone)
	if len(problems) > 0 {
		return false // that is reported
	}
	late := max(o.jitter, 1) // by less than this
	run := t.schedule.Next(someday)
	for range tries {
		if run.IsZero() {
			break
		}
		opens := w.Next(run)
		if opens.Before(run.Add(late)) {
			return false
		}
		run = t.schedule.Next(latest(run, opens.Add(-late))) // the first that could meet it, or one after
	}
	return true
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// shut tells whether every run of the schedule finds the window closed.
func (t *timings) shut(r policy.Rotation) (policy.Problem, bool) {
	of := t.of(r)
	if r.Schedule == "" || r.Window == "" || len(of.problems) > 0 || !of.neverOpen(opening{r.Window, r.Jitter}, r.TimeZone) {
		return policy.Problem{}, false
	}
	return policy.Problem{
		Attribute:  "window",
		Text:       fmt.Sprintf("the schedule %q is never due within the window %q: every rotation waits until that opens", r.Schedule, r.Window),
		Suggestion: "let them meet, if that is not meant",
	}, true
}

// takes is how long after its beginning a rotation ends its overlap, at least.
func takes(r policy.Rotation) time.Duration {
	return r.Overlap + time.Duration(max(r.Verify.Successes-1, 0))*r.Verify.Interval
}

// share is how much of the time a secret is in rotation, from 0: never, by itself.
func (t *timings) share(r policy.Rotation) float64 {
	every := time.Duration(math.MaxInt64)
	if of := t.of(r); r.Schedule != "" && len(of.problems) == 0 {
		of.interval()
		every = of.mean
	}
	if r.MaxAge > 0 {
		every = min(every, r.MaxAge)
	}
	return float64(takes(r)) / float64(every)
}

// crowded tells whether a rotation takes longer than its schedule leaves to it.
func (t *timings) crowded(r policy.Rotation) (policy.Problem, bool) {
	of := t.of(r)
	if r.Schedule == "" || len(of.problems) > 0 || takes(r) < of.interval() {
		return policy.Problem{}, false
	}
	return policy.Problem{
		Attribute:  "schedule",
		Text:       fmt.Sprintf("the schedule is due every %s, but overlap and verification take %s", of.interval(), takes(r)),
		Suggestion: "what becomes due in an overlap waits: shorten the overlap or rotate less often",
	}, true
}

// soaking tells whether the issuer's places stay taken for longer than the schedule, or
// max_age, leaves to them: a credential takes its place until its soak is over.
func (t *timings) soaking(r policy.Rotation, traits issuer.Traits) (policy.Problem, bool) {
	if traits.Soak <= 0 || traits.MaxLive < 2 {
		return policy.Problem{}, false
	}
	attribute, every := "max_age", r.MaxAge
	if of := t.of(r); r.Schedule != "" && len(of.problems) == 0 && (every == 0 || of.interval() < every) {
		attribute, every = "schedule", of.interval()
	}
	taken := takes(r) + traits.Soak
	if every == 0 || taken <= every*time.Duration(traits.MaxLive-1) {
		return policy.Problem{}, false
	}
	return policy.Problem{
		Attribute: attribute,
		Text: fmt.Sprintf("a rotation is due every %s, but a credential takes one of the issuer's %d places until %s after its successor came, since it soaks for %s",
			every, traits.MaxLive, taken, traits.Soak),
		Suggestion: "rotations wait for a place, longer from one to the next: shorten the issuer's soak or the overlap, or rotate less often",
	}, true
}

// early tells whether consumers are told of nothing ahead of time, or of a rotation
// before the one that comes first.
func (t *timings) early(r policy.Rotation) (policy.Problem, bool) {
	of := t.of(r)
	every := r.MaxAge
	if r.Schedule != "" && len(of.problems) == 0 && (every == 0 || of.interval() < every) {
		every = of.interval()
	}
	switch {
	case r.NoticeBefore <= 0 || len(of.problems) > 0:
	case every == 0:
		return problem("notice_before", "write schedule or max_age, or leave it out",
			"there is no schedule and no max_age: consumers are told ahead only of what ends by itself"), true
	case r.NoticeBefore > every:
		return problem("notice_before", "shorten it, or rotate less often",
			"consumers are told %s ahead of a rotation, but one is due every %s: they are told of the next before the one under way is over", r.NoticeBefore, every), true
	}
	return policy.Problem{}, false
}
