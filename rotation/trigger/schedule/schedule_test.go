package schedule_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/trigger/schedule"
)

func parse(t *testing.T, expr, zone string) schedule.Schedule {
	t.Helper()
	s, err := schedule.Parse(expr, zone)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// runs returns the next n due times in the zone, as text.
func runs(t *testing.T, s schedule.Schedule, zone string, after time.Time, n int) string {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for range n {
		after = s.Next(after)
		if after.Location() != time.UTC {
			t.Errorf("%s: %s is not in UTC", s, after)
		}
		list = append(list, after.In(loc).Format("02 15:04 MST"))
	}
	return strings.Join(list, ", ")
}

func TestNext(t *testing.T) {
	for _, c := range []struct{ expr, zone, after, want string }{
		{"0 3 1 * *", "", "2026-01-15T00:00:00Z", "2026-02-01T03:00:00Z"},
		{"0 3 1 * *", "Europe/Berlin", "2026-01-15T00:00:00Z", "2026-02-01T02:00:00Z"},
		{"0 3 1 * *", "Europe/Berlin", "2026-06-15T00:00:00Z", "2026-07-01T01:00:00Z"},
		{"*/5 * * * *", "", "2026-01-15T00:00:00Z", "2026-01-15T00:05:00Z"},
		{"*/5 * * * *", "", "2026-01-15T00:04:59.999Z", "2026-01-15T00:05:00Z"},
		{"0 9 * * MON-FRI", "America/New_York", "2026-01-16T15:00:00Z", "2026-01-19T14:00:00Z"},
		{"0 0 29 2 *", "", "2025-01-01T00:00:00Z", "2028-02-29T00:00:00Z"},
		{" @daily ", "", "2026-01-15T12:00:00Z", "2026-01-16T00:00:00Z"},
		{"@monthly", "Asia/Tokyo", "2026-01-15T12:00:00Z", "2026-01-31T15:00:00Z"},
		{"@every 1m30s", "Asia/Tokyo", "2026-01-15T12:00:00Z", "2026-01-15T12:01:30Z"},
		{"@every 24h", "", "2026-01-15T12:00:00Z", "2026-01-16T00:00:00Z"},
		{"@every 1h", "", "1969-12-31T22:30:00Z", "1969-12-31T23:00:00Z"},
	} {
		if got := parse(t, c.expr, c.zone).Next(at(t, c.after)).Format(time.RFC3339); got != c.want {
			t.Errorf("%q in %q after %s: got %s, want %s", c.expr, c.zone, c.after, got, c.want)
		}
	}
}

func TestDaylightSaving(t *testing.T) {
	for _, c := range []struct{ name, expr, zone, after, want string }{
		{"spring, skipped hour runs at the change", "30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "29 03:00 CEST, 30 02:30 CEST"},
		{"spring, skipped times run once", "0,30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "29 03:00 CEST, 29 03:30 CEST, 30 02:00 CEST"},
		{"spring, a yearly run is not lost", "30 2 29 3 *", "Europe/Berlin", "2026-03-28T12:00:00Z", "29 03:00 CEST"},
		{"autumn, repeated hour runs once", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "25 02:30 CEST, 26 02:30 CET"},
		{"autumn, asked within the repetition", "30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", "26 02:30 CET"},
		{"autumn, asked before it", "30 2 * * *", "Europe/Berlin", "2026-10-25T00:10:00Z", "25 02:30 CEST, 26 02:30 CET"},
		{"spring, every hour goes on", "30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", "29 01:30 CET, 29 03:30 CEST"},
		{"autumn, every hour goes on", "30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", "25 02:30 CEST, 25 02:30 CET, 25 03:30 CET"},
		{"midnight does not exist", "@daily", "America/Sao_Paulo", "2018-11-03T12:00:00Z", "04 01:00 -02, 05 00:00 -02"},
		{"half an hour", "15 2 * * *", "Australia/Lord_Howe", "2026-10-02T16:00:00Z", "04 02:30 +11, 05 02:15 +11"},
		{"a day that does not exist", "0 12 30 * *", "Pacific/Apia", "2011-12-29T00:00:00Z", "31 00:00 +14, 30 12:00 +14"},
		{"@every knows no daylight saving", "@every 12h", "Europe/Berlin", "2026-03-28T12:00:00Z", "29 01:00 CET, 29 14:00 CEST"},
	} {
		n := strings.Count(c.want, ",") + 1
		if got := runs(t, parse(t, c.expr, c.zone), c.zone, at(t, c.after), n); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// TestAgreesWithWallClock walks minute by minute through days with a change of
// the clock, as somebody would who stands before it.
func TestAgreesWithWallClock(t *testing.T) {
	for _, c := range []struct{ zone, day string }{
		{"Europe/Berlin", "2026-03-29T00:00:00Z"},
		{"Europe/Berlin", "2026-10-25T00:00:00Z"},
		{"America/New_York", "2026-03-08T00:00:00Z"},
		{"America/New_York", "2026-11-01T00:00:00Z"},
		{"Australia/Lord_Howe", "2026-04-05T00:00:00Z"},
		{"Australia/Lord_Howe", "2026-10-03T00:00:00Z"},
		{"America/Sao_Paulo", "2018-11-04T00:00:00Z"},
		{"America/Sao_Paulo", "2019-02-17T00:00:00Z"},
		{"Pacific/Apia", "2011-12-30T00:00:00Z"},
		{"UTC", "2026-10-25T00:00:00Z"},
	} {
		r := rand.New(rand.NewPCG(1, 2))
		for range 12 {
			minute, hour := r.IntN(60), r.IntN(24)
			if r.IntN(2) == 0 {
				hour = r.IntN(4) // where the changes are
			}
			compareWithWall(t, c.zone, at(t, c.day).Add(-48*time.Hour), minute, hour)
		}
	}
}

func compareWithWall(t *testing.T, zone string, from time.Time, minute, hour int) {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	until := from.Add(96 * time.Hour)
	var want []string
	seen := map[string]bool{}
	previous := wallMinute(from, loc)
	for now := from.Add(time.Minute); !now.After(until); now = now.Add(time.Minute) {
		shown := wallMinute(now, loc)
		due := false
		for w := previous.Add(time.Minute); !w.After(shown); w = w.Add(time.Minute) {
			key := w.Format(time.DateTime)
			if w.Minute() == minute && w.Hour() == hour && !seen[key] {
				due, seen[key] = true, true
			}
		}
		previous = shown
		if due {
			want = append(want, now.Format(time.RFC3339))
		}
	}
	s := parse(t, fmt.Sprintf("%d %d * * *", minute, hour), zone)
	var got []string
	for next := s.Next(from); !next.After(until); next = s.Next(next) {
		got = append(got, next.Format(time.RFC3339))
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s %s: got %v, want %v", s, zone, got, want)
	}
}

func wallMinute(t time.Time, loc *time.Location) time.Time {
	t = t.In(loc)
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
}

func TestMissedRunsAreOneRun(t *testing.T) {
	s := parse(t, "*/10 * * * *", "UTC")
	due := s.Next(at(t, "2026-01-15T00:00:00Z"))
	back := at(t, "2026-01-15T05:03:00Z") // the daemon was down since midnight
	if due.After(back) {
		t.Fatalf("%s is not overdue", due)
	}
	if next := s.Next(back); !next.Equal(at(t, "2026-01-15T05:10:00Z")) {
		t.Errorf("after the overdue run comes %s", next)
	}
}

func TestEmptyScheduleIsNeverDue(t *testing.T) {
	for _, s := range []schedule.Schedule{{}, parse(t, " ", "Europe/Berlin")} {
		if next := s.Next(at(t, "2026-01-15T00:00:00Z")); !next.IsZero() {
			t.Errorf("got %s", next)
		}
		if next := s.NextJittered(at(t, "2026-01-15T00:00:00Z"), time.Hour, "a"); !next.IsZero() {
			t.Errorf("jittered: got %s", next)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ expr, zone, want string }{
		{"0 0 3 1 * *", "", "has 6 fields: there is none for seconds"},
		{"0 3 1 *", "", "has 4 fields"},
		{"61 3 1 * *", "", `the minute "61" is wrong`},
		{"0 3 1 * funday", "", `the day of week "funday" is wrong`},
		{"0 3 1-32 * *", "", `the day of month "1-32" is wrong`},
		{"0 3 31 2 *", "", "would never be due"},
		{"@dayly", "", "it is one of @hourly, @daily"},
		{"@reboot", "", "it is one of @hourly, @daily"},
		{"@every", "", "has no duration"},
		{"@every soon", "", "has no duration"},
		{"@every 500ms", "", "whole seconds, at least one"},
		{"@every 1.5s", "", "whole seconds, at least one"},
		{"@every -1h", "", "whole seconds, at least one"},
		{"TZ=Europe/Berlin 0 3 1 * *", "", "write it as time_zone"},
		{"CRON_TZ=Europe/Berlin", "", "write it as time_zone"},
		{"0 3 1 * *", "Europe/Berlln", `"Europe/Berlln" is no time zone`},
		{"0 3 1 * *", "Local", "differs from machine to machine"},
		{"", "../etc/passwd", "is no time zone"},
	} {
		_, err := schedule.Parse(c.expr, c.zone)
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q in %q: got %v", c.expr, c.zone, err)
		}
	}
}

func TestJitterSpreadsSecretsAndKeepsEachInItsRhythm(t *testing.T) {
	due := at(t, "2026-01-15T03:00:00Z")
	const jitter = 30 * time.Minute
	buckets := map[int]int{}
	for i := range 3000 {
		seed := fmt.Sprintf("team/secret-%d", i)
		got := schedule.Jittered(due, jitter, seed)
		if got != schedule.Jittered(due, jitter, seed) {
			t.Fatalf("%s is put off differently each time", seed)
		}
		late := got.Sub(due)
		if late < 0 || late >= jitter {
			t.Fatalf("%s is put off by %s", seed, late)
		}
		buckets[int(late/time.Minute)]++
	}
	for minute := range 30 { // 100 expected in each
		if n := buckets[minute]; n < 50 || n > 200 {
			t.Errorf("%d of 3000 secrets fall into minute %d", n, minute)
		}
	}
	for _, none := range []time.Duration{0, -time.Hour, time.Second} {
		if got := schedule.Jittered(due, none, "a"); got != due {
			t.Errorf("jitter %s: got %s", none, got)
		}
	}
}

func TestJitterLongerThanIntervalLosesNoRun(t *testing.T) {
	for _, expr := range []string{"* * * * *", "@every 1m"} {
		s := parse(t, expr, "UTC")
		previous := s.NextJittered(at(t, "2026-01-15T03:00:00Z"), time.Hour, "mail/sender")
		for range 100 {
			next := s.NextJittered(previous, time.Hour, "mail/sender")
			if next.Sub(previous) != time.Minute {
				t.Fatalf("%s: after %s comes %s", expr, previous, next)
			}
			previous = next
		}
	}
}

// FuzzParse: whatever is accepted moves strictly forward.
func FuzzParse(f *testing.F) {
	f.Add("0 3 1 * *", "Europe/Berlin", int64(1774746000))
	f.Add("30 2 * * *", "America/New_York", int64(1793500000))
	f.Add("@every 90s", "", int64(-5))
	f.Fuzz(func(t *testing.T, expr, zone string, unix int64) {
		s, err := schedule.Parse(expr, zone)
		if err != nil || unix < -1<<33 || unix > 1<<33 {
			return
		}
		after := time.Unix(unix, 0)
		for range 3 {
			next := s.Next(after)
			if next.IsZero() {
				return
			}
			if !next.After(after) {
				t.Fatalf("%q in %q: after %s comes %s", expr, zone, after, next)
			}
			after = next
		}
	})
}
