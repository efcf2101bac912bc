package schedule

import (
	"time"

	"github.com/robfig/cron/v3"
)

const everyHour = 1<<24 - 1 // bits of SpecSchedule.Hour

// calendar returns the function that finds spec's next due time in loc.
//
// The cron library drops a time that daylight saving skips and runs a repeated
// one twice. That is right for a schedule that runs every hour and wrong for one
// of given hours, so for those the library only reads the clock on the wall,
// and instant says when the wall shows that.
func calendar(spec cron.SpecSchedule, loc *time.Location) func(time.Time) time.Time {
	if spec.Hour&everyHour == everyHour {
		spec.Location = loc
		return func(after time.Time) time.Time { return spec.Next(after.In(loc)) }
	}
	spec.Location = time.UTC
	return func(after time.Time) time.Time {
		wall := onWall(after, loc)
		for {
			wall = spec.Next(wall)
			if wall.IsZero() {
				return wall
			}
			// The wall may show again what it showed before `after`.
			if at := instant(wall, loc); at.After(after) {
				return at
			}
		}
	}
}

// onWall returns what a clock in loc shows at t, written as if it were UTC.
func onWall(t time.Time, loc *time.Location) time.Time {
	_, offset := t.In(loc).Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instant returns the first moment at which a clock in loc shows wall, or, if it
// skips that, the moment of the change that skips it.
func instant(wall time.Time, loc *time.Location) time.Time {
	y, m, d := wall.Date()
	t := time.Date(y, m, d, wall.Hour(), wall.Minute(), wall.Second(), 0, loc)
	start, end := t.ZoneBounds()
	switch shown := onWall(t, loc); {
	case shown.After(wall): // skipped; t lies after the change
		return start
	case shown.Before(wall): // skipped; t lies before the change
		return end
	}
	if start.IsZero() {
		return t
	}
	_, before := start.Add(-time.Nanosecond).Zone()
	earlier := wall.Add(-time.Duration(before) * time.Second)
	if earlier.Before(start) {
		return earlier.In(loc)
	}
	return t
}
