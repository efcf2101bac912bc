package rotation_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	got, err := time.Parse("2006-01-02T15:04:05Z07:00", text)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// versionOf is a version that was made and published at a time, and ends by itself
// after its life, unless that is zero.
func versionOf(t *testing.T, when string, life time.Duration) rotation.Version {
	t.Helper()
	v := rotation.Version{SecretID: "s", Number: 1, CreatedAt: at(t, when), PublishedAt: at(t, when)}
	if life > 0 {
		v.NotAfter = v.CreatedAt.Add(life)
	}
	return v
}

const day = 24 * time.Hour

func TestNextDueIsTheEarliestOfScheduleAgeAndEnd(t *testing.T) {
	t.Parallel()
	monthly := rotation.Definition{Schedule: "0 3 1 * *", TimeZone: "Europe/Berlin"}
	with := func(d rotation.Definition, change func(*rotation.Definition)) rotation.Definition {
		change(&d)
		return d
	}
	none := rotation.Version{SecretID: "s"}
	v := versionOf(t, "2026-06-01T01:00:00Z", 0)
	for name, c := range map[string]struct {
		def     rotation.Definition
		current rotation.Version
		now     string
		want    string // "at why", and " begins …" where that is later
	}{
		"nothing asks for it":                           {rotation.Definition{}, v, "2026-06-02T00:00:00Z", "never"},
		"no version, and nobody asks":                   {rotation.Definition{}, none, "2026-06-02T00:00:00Z", "never"},
		"no version: at once, not months from now":      {monthly, none, "2026-06-02T00:00:00Z", "2026-06-02T00:00:00Z first"},
		"no version, and an age: at once":               {rotation.Definition{MaxAge: day}, none, "2026-06-02T00:00:00Z", "2026-06-02T00:00:00Z first"},
		"its schedule, by the clock on the wall":        {monthly, v, "2026-06-02T00:00:00Z", "2026-07-01T01:00:00Z schedule"},
		"its age, which comes first":                    {with(monthly, func(d *rotation.Definition) { d.MaxAge = 20 * day }), v, "2026-06-02T00:00:00Z", "2026-06-21T01:00:00Z max_age"},
		"its age, which is overdue":                     {with(monthly, func(d *rotation.Definition) { d.MaxAge = day }), v, "2026-06-09T00:00:00Z", "2026-06-02T01:00:00Z max_age begins 2026-06-09T00:00:00Z"},
		"its schedule, not within min_interval":         {with(monthly, func(d *rotation.Definition) { d.Schedule, d.MinInterval = "0 3 * * *", 7*day }), v, "2026-06-02T00:00:00Z", "2026-06-08T01:00:00Z schedule"},
		"two thirds of its life":                        {monthly, versionOf(t, "2026-06-01T00:00:00Z", 9*day), "2026-06-02T00:00:00Z", "2026-06-07T00:00:00Z not_after"},
		"an overlap before its end":                     {with(monthly, func(d *rotation.Definition) { d.Plan.Overlap = 5 * day }), versionOf(t, "2026-06-01T00:00:00Z", 9*day), "2026-06-02T00:00:00Z", "2026-06-05T00:00:00Z not_after"},
		"an overlap before its end, not in the first 3": {with(monthly, func(d *rotation.Definition) { d.Plan.Overlap = 8 * day }), versionOf(t, "2026-06-01T00:00:00Z", 9*day), "2026-06-02T00:00:00Z", "2026-06-04T00:00:00Z not_after"},
		"min_interval does not hold up its end":         {with(monthly, func(d *rotation.Definition) { d.MinInterval = 30 * day }), versionOf(t, "2026-06-01T00:00:00Z", 9*day), "2026-06-02T00:00:00Z", "2026-06-07T00:00:00Z not_after"},
		"a run outside of the window waits":             {with(monthly, func(d *rotation.Definition) { d.Window = "Sat 02:00-05:00" }), v, "2026-06-02T00:00:00Z", "2026-07-01T01:00:00Z schedule begins 2026-07-04T00:00:00Z"},
		"its age is kept by the window before":          {rotation.Definition{MaxAge: 20 * day, Window: "Sat 02:00-05:00", TimeZone: "Europe/Berlin"}, v, "2026-06-02T00:00:00Z", "2026-06-20T00:00:00Z max_age"},
		"no window before its end: it does not wait":    {rotation.Definition{Window: "Tue 02:00-05:00"}, versionOf(t, "2026-06-01T00:00:00Z", 8*day), "2026-06-01T00:00:00Z", "2026-06-06T08:00:00Z not_after"},
		"a window a minute before its end is too late":  {rotation.Definition{Window: "Tue 02:00-05:00", Plan: rotation.Plan{Verify: rotation.Verify{Timeout: 5 * time.Minute}}}, versionOf(t, "2026-06-01T02:01:00Z", 8*day), "2026-06-02T05:00:00Z", "2026-06-06T10:01:00Z not_after"},
		"nor does one leave time for the overlap":       {rotation.Definition{Window: "Sun 02:00-05:00", Plan: rotation.Plan{Overlap: 3 * day}}, versionOf(t, "2026-06-01T00:00:00Z", 9*day), "2026-06-02T05:00:00Z", "2026-06-07T00:00:00Z not_after"},
		"its end is met by a window of ten minutes":     {rotation.Definition{Window: "Fri 02:00-02:10"}, versionOf(t, "2026-06-01T00:07:00Z", 9*day), "2026-06-01T00:07:00Z", "2026-06-05T02:00:00Z not_after"},
		"its end is met by what is left of a window":    {rotation.Definition{Window: "Wed 02:00-05:00"}, versionOf(t, "2026-05-31T04:00:00Z", 9*day-3*time.Hour), "2026-06-01T00:07:00Z", "2026-06-03T03:00:00Z not_after"},
		"its age, a verify timeout earlier":             {rotation.Definition{MaxAge: 20 * day, Plan: rotation.Plan{Verify: rotation.Verify{Timeout: time.Hour}}}, v, "2026-06-02T00:00:00Z", "2026-06-21T00:00:00Z max_age"},
		"its age, of which half is left at least":       {rotation.Definition{MaxAge: time.Hour, Plan: rotation.Plan{Verify: rotation.Verify{Timeout: time.Hour}}}, v, "2026-06-01T01:00:00Z", "2026-06-01T01:30:00Z max_age"},
		"a schedule whose window comes too late":        {rotation.Definition{Schedule: "0 3 * * *", Window: "Sat 02:00-05:00"}, versionOf(t, "2026-06-01T00:00:00Z", day), "2026-06-01T01:00:00Z", "2026-06-01T03:00:00Z schedule begins 2026-06-01T16:00:00Z"},
		"its end is met by a window in the last third":  {rotation.Definition{Window: "Sun 02:00-05:00"}, versionOf(t, "2026-06-01T00:00:00Z", 9*day), "2026-06-01T00:00:00Z", "2026-06-07T00:00:00Z not_after begins 2026-06-07T02:00:00Z"},
		"its end is met by a window in the middle":      {rotation.Definition{Window: "Fri 02:00-05:00"}, versionOf(t, "2026-06-01T00:00:00Z", 9*day), "2026-06-01T00:00:00Z", "2026-06-05T02:00:00Z not_after"},
	} {
		due, err := rotation.NextDue(c.def, c.current, at(t, c.now))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := dueText(due); got != c.want {
			t.Errorf("%s: it is due %s, want %s", name, got, c.want)
		}
	}
}

func dueText(d rotation.Due) string {
	if d.At.IsZero() {
		return "never"
	}
	text := d.At.UTC().Format(time.RFC3339) + " " + string(d.Why)
	if !d.Begins.Equal(d.At) {
		text += " begins " + d.Begins.UTC().Format(time.RFC3339)
	}
	return text
}

// TestClockStepsLoseAndRepeatNothing: a clock that is set back lets nothing be due before
// its time comes again, and one that is set forward makes one run of all it has passed.
func TestClockStepsLoseAndRepeatNothing(t *testing.T) {
	t.Parallel()
	def := rotation.Definition{Schedule: "30 2 * * *", TimeZone: "Europe/Berlin"}
	v := versionOf(t, "2026-06-01T00:00:00Z", 0)
	for name, c := range map[string]struct{ now, want string }{
		"as it goes":      {"2026-06-10T12:00:00Z", "2026-06-11T00:30:00Z"},
		"back by an hour": {"2026-06-10T23:31:00Z", "2026-06-11T00:30:00Z"},
		"back by a week":  {"2026-06-03T12:00:00Z", "2026-06-04T00:30:00Z"},
		"on by a year":    {"2027-06-10T12:00:00Z", "2027-06-11T00:30:00Z"},
	} {
		due, err := rotation.NextDue(def, v, at(t, c.now))
		if err != nil || due.At.Format(time.RFC3339) != c.want {
			t.Errorf("%s: it is due %s (%v), want %s", name, dueText(due), err, c.want)
		}
	}
}

// TestDaylightSavingMovesNothingButTheHour: what is forecast over a change of the clock
// comes once each day, within the window of the wall.
func TestDaylightSavingMovesNothingButTheHour(t *testing.T) {
	t.Parallel()
	def := rotation.Definition{Schedule: "0 1 * * *", Window: "02:00-03:00", TimeZone: "Europe/Berlin"}
	v := versionOf(t, "2026-01-01T00:00:00Z", 0)
	for now, want := range map[string]string{
		// On the 29th of March the hour of the window is missing.
		"2026-03-27T12:00:00Z": "2026-03-28T01:00:00Z 2026-03-30T00:00:00Z 2026-03-31T00:00:00Z",
		// On the 25th of October it comes twice: it begins at the first.
		"2026-10-23T12:00:00Z": "2026-10-24T00:00:00Z 2026-10-25T00:00:00Z 2026-10-26T01:00:00Z",
	} {
		var begins []string
		for _, d := range rotation.Forecast(def, v, at(t, now), 3) {
			begins = append(begins, d.Begins.UTC().Format(time.RFC3339))
		}
		if got := strings.Join(begins, " "); got != want {
			t.Errorf("from %s on they begin at %s, want %s", now, got, want)
		}
	}
}

func TestAForcedRotationIsTriedAgainBeforeLong(t *testing.T) {
	t.Parallel()
	now := "2026-06-10T12:00:00Z"
	aged, ending := versionOf(t, "2026-06-01T00:00:00Z", 0), versionOf(t, "2026-06-01T00:00:00Z", 10*day)
	for name, c := range map[string]struct {
		def     rotation.Definition
		current rotation.Version
		now     string
		want    string
	}{
		"too old: an hour":                        {rotation.Definition{MaxAge: day}, aged, now, "2026-06-10T13:00:00Z max_age"},
		"too old: min_interval, if longer":        {rotation.Definition{MaxAge: day, MinInterval: 2 * time.Hour}, aged, now, "2026-06-10T14:00:00Z max_age"},
		"its schedule, if that comes first":       {rotation.Definition{MaxAge: day, Schedule: "30 12 * * *"}, aged, now, "2026-06-10T12:30:00Z schedule"},
		"its schedule, not right after":           {rotation.Definition{Schedule: "@every 10s"}, aged, now, "2026-06-10T12:01:00Z schedule"},
		"near its end: a quarter of what is left": {rotation.Definition{MinInterval: day}, ending, "2026-06-10T22:00:00Z", "2026-06-10T22:30:00Z not_after"},
		"far from its end: an hour":               {rotation.Definition{}, ending, now, "2026-06-10T13:00:00Z not_after"},
		"over its end: a minute":                  {rotation.Definition{}, ending, "2026-06-12T00:00:00Z", "2026-06-12T00:01:00Z not_after"},
		"not yet forced: when it is":              {rotation.Definition{MaxAge: 30 * day}, aged, now, "2026-07-01T00:00:00Z max_age"},
		"its first version: an hour":              {rotation.Definition{Schedule: "0 3 1 * *"}, rotation.Version{SecretID: "s"}, now, "2026-06-10T13:00:00Z first"},
	} {
		due, err := rotation.DueAgain(c.def, c.current, at(t, c.now))
		if err != nil || dueText(due) != c.want {
			t.Errorf("%s: it is due %s (%v), want %s", name, dueText(due), err, c.want)
		}
	}
}

func TestWhyIsWhatForcesFirst(t *testing.T) {
	t.Parallel()
	now := at(t, "2026-06-10T12:00:00Z")
	both := rotation.Definition{Schedule: "@daily", MaxAge: day}
	for name, c := range map[string]struct {
		def     rotation.Definition
		current rotation.Version
		why     rotation.Why
		reason  string
	}{
		"its schedule alone": {rotation.Definition{Schedule: "@daily"}, versionOf(t, "2026-06-10T00:00:00Z", 0), "schedule", "@daily"},
		"its age as well":    {both, versionOf(t, "2026-06-01T00:00:00Z", 0), "max_age", "version 1, published at 2026-06-01T00:00:00Z, comes to its max_age of 24h0m0s"},
		"its end as well":    {both, versionOf(t, "2026-06-01T00:00:00Z", 10*day), "not_after", "version 1 ends by itself at 2026-06-11T00:00:00Z (not_after)"},
		"it has none":        {rotation.Definition{MaxAge: day}, rotation.Version{}, "first", "it has no version yet"},
		"nothing any more":   {rotation.Definition{}, versionOf(t, "2026-06-01T00:00:00Z", 0), "", ""},
	} {
		why := rotation.WhyDue(c.def, c.current, now)
		if why != c.why || why.Reason(c.def, c.current) != c.reason {
			t.Errorf("%s: %q, %q", name, why, why.Reason(c.def, c.current))
		}
	}
}

// TestForecastKeepsOverlapsApart: each of ten rotations begins after the overlap of the
// one before, spread by the same jitter, and versions that end are replaced in time.
func TestForecastKeepsOverlapsApart(t *testing.T) {
	t.Parallel()
	now := at(t, "2026-06-01T00:00:00Z")
	daily := rotation.Definition{Schedule: "0 3 * * *", Jitter: time.Hour, Plan: rotation.Plan{Overlap: 30 * time.Hour}}
	v := versionOf(t, "2026-05-20T00:00:00Z", 0)
	f := rotation.Forecast(daily, v, now, 10)
	if len(f) != 10 {
		t.Fatalf("%d are foreseen", len(f))
	}
	for i, d := range f {
		if i > 0 && d.Begins.Sub(f[i-1].Begins) < 30*time.Hour {
			t.Errorf("the %d. begins %s after the one before", i+1, d.Begins.Sub(f[i-1].Begins))
		}
		if d.Begins.Before(d.At) || d.At.Sub(d.At.Truncate(day)) != f[0].At.Sub(f[0].At.Truncate(day)) {
			t.Errorf("the %d. is due at %s and begins at %s", i+1, d.At, d.Begins)
		}
	}
	v = versionOf(t, "2026-06-01T00:00:00Z", 9*day)
	for i, d := range rotation.Forecast(rotation.Definition{Plan: rotation.Plan{Overlap: day}}, v, now, 3) {
		if want := now.Add(time.Duration(i+1) * 6 * day); !d.Begins.Equal(want) || d.Why != rotation.DueNotAfter {
			t.Errorf("a version of nine days is replaced: %s, want %s", dueText(d), want)
		}
	}
	if f := rotation.Forecast(rotation.Definition{}, v, now, 0); len(f) != 0 {
		t.Errorf("%v", f)
	}
}

// TestAnOverlapEndsWithItsVersion, whatever would hold it.
func TestAnOverlapEndsWithItsVersion(t *testing.T) {
	t.Parallel()
	now := at(t, "2026-06-01T00:00:00Z")
	for name, c := range map[string]struct {
		ends time.Duration // after publishing; 0: never
		want time.Duration
		hold time.Duration
	}{
		"it does not end":         {0, day, 2 * day},
		"it ends after the hold":  {3 * day, day, 2 * day},
		"it ends within the hold": {36 * time.Hour, day, 36 * time.Hour},
		"it ends in the overlap":  {time.Hour, time.Hour, time.Hour},
		"it has ended":            {-time.Hour, 0, 0},
	} {
		r := rotation.Rotation{State: rotation.Publishing, From: 1, To: 2, Plan: rotation.Plan{Overlap: day, MaxOverlap: 2 * day}}
		r.Published(false, now)
		var ends time.Time
		if c.ends != 0 {
			ends = now.Add(c.ends)
		}
		r.BoundOverlap(ends, now)
		if got := fmt.Sprint(r.OverlapUntil.Sub(now), r.NextAt.Sub(now), r.Plan.MaxOverlap); got != fmt.Sprint(c.want, c.want, c.hold) {
			t.Errorf("%s: overlap, next look and hold are %s", name, got)
		}
	}
}
