// Package schedule computes when a cron schedule is due: pure arithmetic, no clock.
//
// # Daylight saving
//
// A schedule for given hours ("30 2 * * *") runs once on every day that it
// names: a time that the clock skips in spring runs at the instant of the change,
// a time that the clock repeats in autumn runs the first time only. A schedule
// for every hour ("*/10 * * * *") goes by elapsed time instead: it neither
// bunches up in spring nor pauses in autumn.
package schedule

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // zones must be known in images without a zone database

	"github.com/robfig/cron/v3"

	"github.com/keybroker/keybroker/backends"
)

// Schedule is a parsed expression in its time zone. The zero Schedule is never
// due; so is a secret's without a schedule.
type Schedule struct {
	expr string
	next func(after time.Time) time.Time // nil: never
}

// anchor is where the search begins that finds out whether an expression is ever
// due. The following five years, which is as far as cron looks, hold a leap day.
var anchor = time.Date(2023, time.January, 1, 0, 0, 0, 0, time.UTC)

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// Parse reads a cron expression of five fields (minute, hour, day of month,
// month, day of week), a descriptor such as "@daily", or "@every <duration>". The
// empty expression is the Schedule that is never due. timeZone is an IANA name;
// empty means UTC. Errors are ErrInvalid and say how to mend the expression.
func Parse(expr, timeZone string) (Schedule, error) {
	loc, err := zone(timeZone)
	if err != nil {
		return Schedule{}, err
	}
	expr = strings.TrimSpace(expr)
	switch {
	case expr == "":
		return Schedule{}, nil
	case strings.HasPrefix(expr, "@every"):
		return parseEvery(expr)
	}
	if err := checkForm(expr); err != nil {
		return Schedule{}, err
	}
	parsed, err := parser.Parse(expr)
	if err != nil {
		return Schedule{}, explain(expr, err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return Schedule{}, fmt.Errorf("%w: the schedule %q is of no known form", backends.ErrInvalid, expr)
	}
	s := Schedule{expr: expr, next: calendar(*spec, loc)}
	if s.Next(anchor).IsZero() {
		return Schedule{}, fmt.Errorf("%w: the schedule %q names a day that does not exist: it would never be due", backends.ErrInvalid, expr)
	}
	return s, nil
}

// String returns the expression as written.
func (s Schedule) String() string { return s.expr }

// Next returns the first due time after the given one, in UTC; zero if there is
// none. Asked from now, it skips every run that was missed: after a downtime the
// one run that is overdue is taken up (its time is the caller's record), and then
// the next is Next(now), however many lie between.
func (s Schedule) Next(after time.Time) time.Time {
	if s.next == nil {
		return time.Time{}
	}
	next := s.next(after)
	if next.IsZero() {
		return next
	}
	return next.UTC()
}

func zone(name string) (*time.Location, error) {
	if name == "Local" {
		return nil, fmt.Errorf(`%w: the time zone "Local" differs from machine to machine: write a name such as "Europe/Berlin"`, backends.ErrInvalid)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf(`%w: %q is no time zone: write "UTC" or a name such as "Europe/Berlin"`, backends.ErrInvalid, name)
	}
	return loc, nil
}

// checkForm refuses what the cron library would misread or explain badly.
func checkForm(expr string) error {
	if strings.Contains(expr, "TZ=") {
		return fmt.Errorf("%w: the schedule %q sets a time zone: write it as time_zone instead", backends.ErrInvalid, expr)
	}
	if strings.HasPrefix(expr, "@") {
		return nil
	}
	switch n := len(strings.Fields(expr)); n {
	case 5:
		return nil
	case 6:
		return fmt.Errorf("%w: the schedule %q has 6 fields: there is none for seconds; write minute, hour, day of month, month, day of week", backends.ErrInvalid, expr)
	default:
		return fmt.Errorf(`%w: the schedule %q has %d fields: write minute, hour, day of month, month, day of week, as in "0 3 1 * *"`, backends.ErrInvalid, expr, n)
	}
}

// explain says which field is at fault.
func explain(expr string, err error) error {
	if strings.HasPrefix(expr, "@") {
		return fmt.Errorf("%w: %q is no schedule: it is one of @hourly, @daily, @weekly, @monthly, @yearly, or @every with a duration", backends.ErrInvalid, expr)
	}
	names := []string{"minute", "hour", "day of month", "month", "day of week"}
	for i, field := range strings.Fields(expr) {
		alone := []string{"*", "*", "*", "*", "*"}
		alone[i] = field
		if _, err := parser.Parse(strings.Join(alone, " ")); err != nil {
			return fmt.Errorf("%w: in the schedule %q the %s %q is wrong: %s", backends.ErrInvalid, expr, names[i], field, err)
		}
	}
	return fmt.Errorf("%w: the schedule %q: %s", backends.ErrInvalid, expr, err)
}

// parseEvery reads "@every <duration>". The runs are counted from 1970-01-01 UTC,
// so they stay where they are over restarts, and jitter spreads secrets that came
// into being together.
func parseEvery(expr string) (Schedule, error) {
	period, err := time.ParseDuration(strings.TrimSpace(strings.TrimPrefix(expr, "@every")))
	if err != nil {
		return Schedule{}, fmt.Errorf(`%w: the schedule %q has no duration: write for instance "@every 12h"`, backends.ErrInvalid, expr)
	}
	if period < time.Second || period%time.Second != 0 {
		return Schedule{}, fmt.Errorf("%w: the schedule %q: the duration must be whole seconds, at least one", backends.ErrInvalid, expr)
	}
	seconds := int64(period / time.Second)
	return Schedule{expr: expr, next: func(after time.Time) time.Time {
		now := after.Unix()
		since := ((now % seconds) + seconds) % seconds // times before 1970, too
		return time.Unix(now-since+seconds, 0)
	}}, nil
}
