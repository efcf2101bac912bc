package config

import (
	"fmt"
	"math"
	"time"

	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation/trigger/schedule"
)

// timing is what is to be known of one schedule in one time zone.
type timing struct {
	problems []policy.Problem
	schedule schedule.Schedule
	shortest time.Duration // between two runs; 0: not looked for yet
}

// timings remembers them: many secrets share few schedules.
type timings map[[2]string]*timing

func (t timings) of(r policy.Rotation) *timing {
	key := [2]string{r.Schedule, r.TimeZone}
	if t[key] == nil {
		t[key] = newTiming(r.Schedule, r.TimeZone)
	}
	return t[key]
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
	t.shortest = math.MaxInt64
	last := t.schedule.Next(time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC))
	for range runs {
		next := t.schedule.Next(last)
		if next.IsZero() {
			break
		}
		t.shortest = min(t.shortest, next.Sub(last))
		last = next
	}
	return t.shortest
}

// crowded tells whether a rotation takes longer than its schedule leaves to it.
func (t timings) crowded(r policy.Rotation) (policy.Problem, bool) {
	of := t.of(r)
	takes := r.Overlap + time.Duration(max(r.Verify.Successes-1, 0))*r.Verify.Interval
	if r.Schedule == "" || len(of.problems) > 0 || takes < of.interval() {
		return policy.Problem{}, false
	}
	return policy.Problem{
		Attribute:  "schedule",
		Text:       fmt.Sprintf("the schedule is due every %s, but overlap and verification take %s", of.interval(), takes),
		Suggestion: "what becomes due in an overlap waits: shorten the overlap or rotate less often",
	}, true
}
