package policy_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keybroker/keybroker/policy"
)

func window(t *testing.T, text, zone string) policy.Window {
	t.Helper()
	w, problems := policy.ParseWindow(text, zone)
	if len(problems) > 0 {
		t.Fatalf("%q in %q: %v", text, zone, problems)
	}
	return w
}

// instant reads "2026-03-29 02:00 +0100".
func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04 -0700", text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestWindowOpensNext(t *testing.T) {
	const berlin, lordHowe = "Europe/Berlin", "Australia/Lord_Howe" // the latter is put forward by half an hour
	for _, c := range []struct{ name, window, zone, at, next string }{
		{"none is always open", "", berlin, "2026-11-22 12:00 +0000", "2026-11-22 12:00 +0000"},
		{"open", "Mon-Fri 02:00-05:00", berlin, "2026-11-23 02:00 +0100", "2026-11-23 02:00 +0100"},
		{"just closed", "Mon-Fri 02:00-05:00", berlin, "2026-11-23 05:00 +0100", "2026-11-24 02:00 +0100"},
		{"over the weekend", "Mon-Fri 02:00-05:00", berlin, "2026-11-27 05:00 +0100", "2026-11-30 02:00 +0100"},
		{"over midnight", "Fri 22:00-06:00", "", "2026-11-28 05:59 +0000", "2026-11-28 05:59 +0000"},
		{"over the end of the week", "Sat 22:00-06:00", "", "2026-11-29 05:59 +0000", "2026-11-29 05:59 +0000"},
		{"the nearest of several", "Sat 22:00-23:00, Wed 01:00-02:00", "", "2026-11-23 00:00 +0000", "2026-11-25 01:00 +0000"},
		{"the hour that is missing is put off", "Sun 02:15-02:45", berlin, "2026-03-29 00:00 +0100", "2026-04-05 02:15 +0200"},
		{"what begins in the missing hour begins after it", "Sun 02:30-04:00", berlin, "2026-03-29 00:00 +0100", "2026-03-29 03:00 +0200"},
		{"the hour that comes twice opens at the first", "Sun 02:15-02:45", berlin, "2026-10-25 00:00 +0200", "2026-10-25 02:15 +0200"},
		{"and at the second", "Sun 02:15-02:45", berlin, "2026-10-25 02:45 +0200", "2026-10-25 02:15 +0100"},
		{"and at once where the clock is put back into it", "Sun 02:00-02:30", berlin, "2026-10-25 02:30 +0200", "2026-10-25 02:00 +0100"},
		{"half an hour that is missing", "Sun 02:10-02:40", lordHowe, "2026-10-04 01:30 +1030", "2026-10-04 02:30 +1100"},
	} {
		w := window(t, c.window, c.zone)
		at := instant(t, c.at)
		next := w.Next(at)
		if want := instant(t, c.next); !next.Equal(want) {
			t.Errorf("%s: after %s it opens at %s, want %s", c.name, at, next, want)
		}
		if !w.Open(next) || w.Open(at) != next.Equal(at) {
			t.Errorf("%s: open at %s: %t, at %s: %t", c.name, at, w.Open(at), next, w.Open(next))
		}
	}
}

// TestWindowAgreesWithEveryMinute goes from instant to instant as people would who
// look at the clock on the wall: Next is the first of them that is in the window.
func TestWindowAgreesWithEveryMinute(t *testing.T) {
	changes := map[string][]time.Time{ // around which most of the instants are
		"Europe/Berlin":       {time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC)},
		"America/New_York":    {time.Date(2026, 3, 8, 7, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC)},
		"Australia/Lord_Howe": {time.Date(2026, 4, 4, 15, 0, 0, 0, time.UTC), time.Date(2026, 10, 3, 15, 30, 0, 0, time.UTC)},
		"Asia/Kathmandu":      {time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)},
		"Pacific/Apia":        {time.Date(2011, 12, 30, 10, 0, 0, 0, time.UTC)}, // a whole day was left out
		"":                    {time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)},
	}
	for zone, around := range changes {
		d := dice{rand.New(rand.NewPCG(6, uint64(len(zone))))}
		for range 40 {
			text := d.windows()
			w := window(t, text, zone)
			loc, err := time.LoadLocation(zone)
			if err != nil {
				t.Fatal(err)
			}
			at := pick(d, around...).Add(time.Duration(d.IntN(4*24*60)-3*24*60) * time.Minute).Add(pick(d, 0, time.Nanosecond, 59*time.Second))
			want := at
			for !referenceWindows(text, want.In(loc)) {
				want = want.Truncate(time.Minute).Add(time.Minute)
			}
			if got := w.Next(at); !got.Equal(want) {
				t.Errorf("%q in %q: after %s it opens at %s, want %s", text, zone, at.In(loc), got.In(loc), want.In(loc))
			}
			if got := w.Open(at); got != want.Equal(at) {
				t.Errorf("%q in %q: open at %s: %t", text, zone, at.In(loc), got)
			}
			if last := w.Last(at); !opened(text, loc, last, at) {
				t.Errorf("%q in %q: before %s it opened at %s", text, zone, at.In(loc), last.In(loc))
			}
		}
	}
}

// opened tells whether a window is open at last, and has not opened again until at.
func opened(text string, loc *time.Location, last, at time.Time) bool {
	open := referenceWindows(text, last.In(loc))
	if last.After(at) || !open {
		return false
	}
	for m := last; !m.After(at); m = m.Add(time.Minute) {
		was := open
		if open = referenceWindows(text, m.In(loc)); open && !was {
			return false
		}
	}
	return true
}

func TestWindowOpenedLast(t *testing.T) {
	const berlin = "Europe/Berlin"
	for _, c := range []struct{ name, window, zone, at, last string }{
		{"none is always open", "", berlin, "2026-11-22 12:00 +0000", "2026-11-22 12:00 +0000"},
		{"just opened", "Mon-Fri 02:00-05:00", berlin, "2026-11-23 02:00 +0100", "2026-11-23 02:00 +0100"},
		{"still open", "Mon-Fri 02:00-05:00", berlin, "2026-11-23 04:59 +0100", "2026-11-23 02:00 +0100"},
		{"over the weekend", "Mon-Fri 02:00-05:00", berlin, "2026-11-30 01:59 +0100", "2026-11-27 02:00 +0100"},
		{"ten minutes a week", "Sun 02:00-02:10", "", "2026-11-28 23:59 +0000", "2026-11-22 02:00 +0000"},
		{"the nearest of several", "Sat 22:00-23:00, Wed 01:00-02:00", "", "2026-11-26 00:00 +0000", "2026-11-25 01:00 +0000"},
		{"the hour that is missing is left out", "Sun 02:15-02:45", berlin, "2026-03-31 00:00 +0200", "2026-03-22 02:15 +0100"},
		{"what begins in the missing hour begins after it", "Sun 02:30-04:00", berlin, "2026-03-31 00:00 +0200", "2026-03-29 03:00 +0200"},
		{"the hour that comes twice: the second", "Sun 02:15-02:45", berlin, "2026-10-26 00:00 +0100", "2026-10-25 02:15 +0100"},
		{"and between both, the first", "Sun 02:15-02:45", berlin, "2026-10-25 02:00 +0100", "2026-10-25 02:15 +0200"},
	} {
		if last := window(t, c.window, c.zone).Last(instant(t, c.at)); !last.Equal(instant(t, c.last)) {
			t.Errorf("%s: before %s it opened at %s, want %s", c.name, c.at, last, c.last)
		}
	}
}

func TestWindowThatCannotBeRead(t *testing.T) {
	for _, c := range []struct{ window, zone, want string }{
		{"Mon 08:00", "", `[window "Mon 08:00" is no time of the week; write for instance "Mon-Fri 08:00-18:00", several joined by ","]`},
		{"Mon 08:00-08:00", "", `[window "Mon 08:00-08:00" begins when it ends; for a whole day write "00:00-24:00"]`},
		{"Mon 08:00-09:00", "Europe/Berln", `[time_zone there is no time zone "Europe/Berln"; write an IANA name such as "Europe/Berlin"]`},
		{"Mo 08:00-09:00", "Local", `[window "Mo" is no day of the week; did you mean "Mon"? time_zone there is no time zone "Local"; write an IANA name such as "Europe/Berlin"]`},
	} {
		_, problems := policy.ParseWindow(c.window, c.zone)
		var got []string
		for _, p := range problems {
			got = append(got, p.Attribute+" "+p.String())
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("got %v, want %s", got, c.want)
		}
	}
}

func BenchmarkWindowNext(b *testing.B) {
	w, _ := policy.ParseWindow("Mon-Fri 02:00-05:00", "Europe/Berlin")
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for b.Loop() {
		w.Next(at)
	}
}
