package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones must be known in images without a zone database
)

// Window is when something may begin: at times of the week by the clock on the wall
// in a time zone. Where that is put forward or back, an hour of them is missing
// there, or comes twice. The zero Window is always open. It is immutable.
type Window struct {
	times windows // none: always open
	zone  *time.Location
}

// ParseWindow reads a window as Conditions.Time is written, "Mon-Fri 02:00-05:00, Sat
// 22:00-06:00", in an IANA time zone (empty: UTC); the empty text is always open.
// Problems have the attribute "window" or "time_zone"; with any, the Window is the zero one.
func ParseWindow(text, timeZone string) (Window, []Problem) {
	if text == "" {
		return Window{}, nil
	}
	var c checker
	times, wrong, suggestion := parseWindows(text)
	if wrong != "" {
		c.report("window", wrong, suggestion)
	}
	zone, wrong, suggestion := loadZone(timeZone)
	if wrong != "" {
		c.report("time_zone", wrong, suggestion)
	}
	if len(c.problems) > 0 {
		return Window{}, c.problems
	}
	return Window{times: times, zone: zone}, nil
}

// Open tells whether at is within the window: its first instant is, its last is not.
func (w Window) Open(at time.Time) bool {
	return len(w.times) == 0 || w.times.contain(at.In(w.zone))
}

// Next returns the first instant from at on at which the window is open: at itself if
// it is then.
func (w Window) Next(at time.Time) time.Time {
	if w.Open(at) {
		return at
	}
	// While the zone keeps its offset the clock on the wall goes as time does. Where it
	// changes it, the next opening is looked for anew: it may lie there already.
	for next := at.In(w.zone); ; {
		opens := next.Add(w.times.wait(next))
		_, change := next.ZoneBounds()
		if change.IsZero() || opens.Before(change) {
			return opens.In(at.Location())
		}
		next = change
	}
}

// Last returns the last instant up to at at which the window opened, or was open as the
// clock on the wall was put forward or back: at itself if it is always open.
func (w Window) Last(at time.Time) time.Time {
	if len(w.times) == 0 {
		return at
	}
	for last := at.In(w.zone); ; {
		opened := last.Add(-w.times.since(last))
		change, _ := last.ZoneBounds()
		switch {
		case change.IsZero() || !opened.Before(change):
			return opened.In(at.Location())
		case w.Open(change):
			return change.In(at.Location())
		}
		last = change.Add(-1) // the clock showed another time
	}
}

// windows are times of the week by the clock on the wall.
type windows []window

// window is from one minute of the week up to, not including, another. The week
// begins with Sunday.
type window struct{ from, to int }

const (
	minutesPerDay  = 24 * 60
	minutesPerWeek = 7 * minutesPerDay
)

// contain tells whether local, a time in the zone that is meant, is in one of them.
func (w windows) contain(local time.Time) bool {
	minute := int(local.Weekday())*minutesPerDay + local.Hour()*60 + local.Minute()
	return slices.ContainsFunc(w, func(one window) bool { return one.from <= minute && minute < one.to })
}

// wait is how long it takes from local until one of them is open, by a clock that is
// not put forward or back meanwhile; 0 if one is.
func (w windows) wait(local time.Time) time.Duration {
	now, shortest := sinceSunday(local), week
	for _, one := range w {
		from, to := time.Duration(one.from)*time.Minute, time.Duration(one.to)*time.Minute
		switch {
		case now < from:
			shortest = min(shortest, from-now)
		case now < to:
			return 0
		default:
			shortest = min(shortest, from+week-now)
		}
	}
	return shortest
}

// since is how long ago, at local, one of them opened, by a clock that was not put
// forward or back meanwhile.
func (w windows) since(local time.Time) time.Duration {
	now, shortest := sinceSunday(local), week
	for _, one := range w {
		from := time.Duration(one.from) * time.Minute
		shortest = min(shortest, (now-from+week)%week)
	}
	return shortest
}

const week = minutesPerWeek * time.Minute

// sinceSunday is how far the clock on the wall is into its week.
func sinceSunday(local time.Time) time.Duration {
	return time.Duration(int(local.Weekday())*minutesPerDay+local.Hour()*60+local.Minute())*time.Minute +
		time.Duration(local.Second())*time.Second + time.Duration(local.Nanosecond())
}

// longestClosed is the longest time that none of them is open, by a clock that is not
// put forward or back.
func (w windows) longestClosed() time.Duration {
	sorted := slices.SortedFunc(slices.Values(w), func(a, b window) int { return a.from - b.from })
	longest, open := 0, 0 // until then the week is judged
	for _, one := range sorted {
		longest, open = max(longest, one.from-open), max(open, one.to)
	}
	if len(sorted) > 0 {
		longest = max(longest, minutesPerWeek-open+sorted[0].from) // over the end of the week
	}
	return time.Duration(longest) * time.Minute
}

// add notes length minutes from that minute of the week, which may go on into the
// next week.
func (w *windows) add(from, length int) {
	*w = append(*w, window{from, min(from+length, minutesPerWeek)})
	if over := from + length - minutesPerWeek; over > 0 {
		*w = append(*w, window{0, over})
	}
}

var (
	weekdays = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}
	form     = regexp.MustCompile(`^(?:([A-Za-z]+)(?:-([A-Za-z]+))? +)?([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})$`)
)

const windowExample = `write for instance "Mon-Fri 08:00-18:00", several joined by ","`

// parseWindows reads "Mon-Fri 08:00-18:00, Sat 22:00-06:00": days, or none for
// every day, and times. A window that ends before it begins goes on into the next
// day. problem is empty if it can be read.
func parseWindows(text string) (w windows, problem, suggestion string) {
	parts := strings.Split(text, ",")
	if len(parts) > maxConditions {
		return nil, fmt.Sprintf("these are %d times of the week, the limit is %d", len(parts), maxConditions), ""
	}
	for _, part := range parts {
		part = strings.TrimSpace(part)
		m := form.FindStringSubmatch(part)
		if m == nil {
			return nil, fmt.Sprintf("%q is no time of the week", part), withTimes(part)
		}
		first, last, unknown := days(m[1], m[2])
		if unknown != "" {
			return nil, fmt.Sprintf("%q is no day of the week", unknown), suggest(unknown, weekdays)
		}
		from, okFrom := minuteOfDay(m[3], m[4])
		to, okTo := minuteOfDay(m[5], m[6])
		switch {
		case !okFrom || !okTo || from == minutesPerDay:
			return nil, fmt.Sprintf("%q has a time that no clock shows", part), "a day goes from 00:00 to 24:00"
		case from == to:
			return nil, fmt.Sprintf("%q begins when it ends", part), `for a whole day write "00:00-24:00"`
		case to < from:
			to += minutesPerDay
		}
		for day := first; ; day = (day + 1) % 7 {
			w.add(day*minutesPerDay+from, to-from)
			if day == last {
				break
			}
		}
	}
	return w, "", ""
}

// withTimes says how to write what is no window. Days alone are none: "Mon, Tue
// 08:00-18:00" would mean another thing than it seems to.
func withTimes(part string) string {
	if days := strings.Split(part, "-"); len(days) <= 2 && !slices.ContainsFunc(days, func(d string) bool { return !slices.Contains(weekdays, d) }) {
		return fmt.Sprintf(`give it times of its own, as in "%s 00:00-24:00"`, part)
	}
	return windowExample
}

// days returns the first and last day of the week that are meant; unknown is what
// is no day.
func days(from, to string) (first, last int, unknown string) {
	if from == "" {
		return 0, 6, ""
	}
	if to == "" {
		to = from
	}
	for _, d := range []string{from, to} {
		if !slices.Contains(weekdays, d) {
			return 0, 0, d
		}
	}
	return slices.Index(weekdays, from), slices.Index(weekdays, to), ""
}

func minuteOfDay(hour, minute string) (n int, ok bool) {
	h, _ := strconv.Atoi(hour) // two digits, as m is
	m, _ := strconv.Atoi(minute)
	n = h*60 + m
	return n, m < 60 && n <= minutesPerDay
}
