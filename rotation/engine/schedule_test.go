package engine_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// scheduled is a calm world whose secret has this definition and is due as that says. It
// is Saturday, the 1st of January 2000, 00:00 UTC.
func scheduled(t *testing.T, change func(*rotation.Definition)) *world {
	t.Helper()
	w, _ := calmWorld(calmPlan(), 0)
	w.define(func(d *rotation.Definition) {
		d.Plan.Overlap, d.Plan.MaxOverlap = 10*time.Minute, 10*time.Minute
		change(d)
	})
	w.reschedule(t)
	return w
}

// reschedule works out when the secret is due, as a new configuration does.
func (w *world) reschedule(t *testing.T) {
	t.Helper()
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
		s, err := tx.Secret(ctx, secretID)
		if err != nil {
			return err
		}
		if err := e.SetDue(ctx, tx, &s); err != nil {
			return err
		}
		return tx.SaveSecret(ctx, &s)
	})
}

// shift sets the clocks of all nodes.
func (w *world) shift(by time.Duration) {
	for _, n := range w.nodes {
		n.engine.Now = func() time.Time { return time.Now().Add(by) }
	}
}

// goOn lets time go by, and all happen that is due.
func (w *world) goOn(t *testing.T, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		for _, id := range w.begins(t) {
			if err := w.nodes[0].engine.StepSchedule(context.Background(), id); err != nil {
				t.Fatal(err)
			}
		}
		w.advance(min(time.Until(end), time.Minute))
	}
}

func (w *world) begins(t *testing.T) []string {
	t.Helper()
	var due engine.Due
	w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) (err error) {
		due, err = tx.Beginning(ctx, e.Now(), 10)
		return err
	})
	return due.Secrets
}

// began are the reasons of the secret's rotations, with the days since the beginning and
// the hour at which they began.
func (w *world) began() string {
	var out []string
	for _, id := range w.store.state.rotations.order {
		r := w.store.state.rotations.rows[id]
		out = append(out, r.CreatedAt.UTC().Format("02-15:04")+" "+string(r.State)+" "+r.Reason)
	}
	return strings.Join(out, "; ")
}

func (w *world) wantBegan(t *testing.T, want string) {
	t.Helper()
	if got := w.began(); got != want {
		w.tellStory(t)
		t.Errorf("there were\n%s\nwant\n%s", got, want)
	}
}

func (w *world) wantDue(t *testing.T, want string) {
	t.Helper()
	if got := w.secret().NextDueAt.UTC().Format("2006-01-02T15:04:05"); got != want {
		t.Errorf("it is due next at %s, want %s", got, want)
	}
}

const daily = "0 3 * * *"

func everyDay(d *rotation.Definition) { d.Schedule = daily }

// TestRunsThatWereMissedAreMadeUpForOnce.
func TestRunsThatWereMissedAreMadeUpForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, everyDay)
		w.goOn(t, time.Hour) // its first version
		w.pass(10*24*time.Hour + 12*time.Hour)
		w.goOn(t, 24*time.Hour)
		w.wantBegan(t, "01-00:00 done "+daily+"; 11-13:00 done "+daily+"; 12-03:00 done "+daily)
		w.wantDue(t, "2000-01-13T03:00:00")
	})
}

// TestAClockThatStepsRepeatsAndLosesNothing.
func TestAClockThatStepsRepeatsAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, everyDay)
		w.goOn(t, 4*time.Hour) // it has run at 3
		look := func(by time.Duration) {
			w.shift(by)
			for _, id := range w.begins(t) {
				if err := w.nodes[0].engine.StepSchedule(context.Background(), id); err != nil {
					t.Fatal(err)
				}
			}
			w.shift(0)
		}
		for _, by := range []time.Duration{-30 * time.Minute, -time.Hour, -90 * time.Minute} { // the clock shows 3 again
			look(by)
		}
		w.wantBegan(t, "01-00:00 done "+daily+"; 01-03:00 done "+daily)
		w.goOn(t, 24*time.Hour)
		look(5 * 24 * time.Hour)
		w.wantBegan(t, "01-00:00 done "+daily+"; 01-03:00 done "+daily+"; 02-03:00 done "+daily+"; 07-04:00 queued "+daily)
		w.wantDue(t, "2000-01-08T03:00:00")
	})
}

// TestTheAgeOfAVersionForcesARotation, again before long where it fails.
func TestTheAgeOfAVersionForcesARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, func(d *rotation.Definition) { d.MaxAge = 24 * time.Hour })
		w.goOn(t, 10*time.Hour)
		w.wantBegan(t, "01-00:00 done it has no version yet")
		w.wantDue(t, "2000-01-01T23:58:00")    // the new one is verified first, for two minutes at most
		w.probe.(*strict).refuses = everything // what is minted now never works
		w.goOn(t, 14*time.Hour+30*time.Minute)
		w.probe.(*strict).refuses = nil
		w.goOn(t, time.Hour)
		aged := " version 1, published at 2000-01-01T00:00:00Z, comes to its max_age of 24h0m0s"
		w.wantBegan(t, "01-00:00 done it has no version yet; 01-23:58 failed"+aged+"; 02-01:00 done"+aged)
		w.wantDue(t, w.publishedAt(w.secret().Current).Add(23*time.Hour+58*time.Minute).Format("2006-01-02T15:04:05"))
	})
}

func (w *world) publishedAt(version int) time.Time {
	v, _ := w.version(version)
	return v.PublishedAt.UTC()
}

// TestTheEndOfAVersionForcesARotation in time, whatever min_interval says, and ends the
// overlap with it.
func TestTheEndOfAVersionForcesARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, func(d *rotation.Definition) {
			d.Schedule, d.MinInterval = "0 3 1 2 *", 30*24*time.Hour
			d.Plan.Overlap, d.Plan.MaxOverlap = 6*time.Hour, 12*time.Hour
		})
		w.goOn(t, time.Hour)
		v, _ := w.version(1)
		v.NotAfter = v.CreatedAt.Add(9 * time.Hour) // an overlap before its end, but not in its first third: at 3
		w.store.state.versions.put(versionKey{secretID, 1}, v)
		w.reschedule(t)
		w.wantDue(t, "2000-01-01T03:00:00")
		w.goOn(t, 3*time.Hour)
		w.wantBegan(t, "01-00:00 done 0 3 1 2 *; 01-03:00 overlap version 1 ends by itself at 2000-01-01T09:00:00Z (not_after)")
		if r := w.rotationNumber(1); r.OverlapUntil.After(v.NotAfter) {
			t.Errorf("its overlap lasts until %s", r.OverlapUntil)
		}
		w.wantDue(t, "2000-02-01T03:00:00") // the new one has no end
	})
}

// TestWhatIsDueWaitsForTheRotationUnderWay, and runs once when that is over.
func TestWhatIsDueWaitsForTheRotationUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, func(d *rotation.Definition) {
			d.Schedule, d.Plan.Overlap, d.Plan.MaxOverlap = daily, 30*time.Hour, 30*time.Hour
		})
		w.goOn(t, 2*time.Hour)
		w.rotate(t) // its overlap lasts until 08:00 on the 2nd
		w.goOn(t, 40*time.Hour)
		w.wantBegan(t, "01-00:00 done "+daily+"; 01-02:00 done simulated; 02-08:00 overlap "+daily)
	})
}

// TestAPauseIsMadeUpForOnce: what came due meanwhile runs when it ends.
func TestAPauseIsMadeUpForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, everyDay)
		w.goOn(t, time.Hour)
		pause := func(on bool) {
			w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
				_, err := e.SetPaused(ctx, tx, secretID, on, someone)
				return err
			})
		}
		pause(true)
		w.goOn(t, 72*time.Hour)
		w.wantBegan(t, "01-00:00 done "+daily)
		pause(false)
		w.goOn(t, time.Hour)
		w.wantBegan(t, "01-00:00 done "+daily+"; 04-01:00 done "+daily)
		w.wantDue(t, "2000-01-04T03:00:00")
	})
}

// TestMinIntervalPutsARunOff to the next one of its schedule.
func TestMinIntervalPutsARunOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, func(d *rotation.Definition) { d.Schedule, d.MinInterval = daily, 36*time.Hour })
		w.goOn(t, 4*24*time.Hour)
		w.wantBegan(t, "01-00:00 done "+daily+"; 03-03:00 done "+daily)
		w.wantDue(t, "2000-01-05T03:00:00")
	})
}

// TestARunOutsideOfItsWindowWaitsForIt, and the rotation is what waits: it is seen.
func TestARunOutsideOfItsWindowWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, func(d *rotation.Definition) { d.Schedule, d.Window = daily, "05:00-06:00" })
		w.goOn(t, 4*time.Hour)
		w.wantBegan(t, "01-00:00 queued "+daily)
		w.waitsFor(t, 0, rotation.WaitWindow)
		w.goOn(t, 48*time.Hour)
		w.wantBegan(t, "01-00:00 done "+daily+"; 02-03:00 done "+daily+"; 03-03:00 queued "+daily)
		for version, hour := range map[int]int{1: 5, 2: 5} {
			if at := w.publishedAt(version); at.Hour() != hour {
				t.Errorf("version %d was published at %s", version, at)
			}
		}
	})
}

// endsAfter gives the secret's current version an end of its own, after its life, and works
// out when it is due.
func (w *world) endsAfter(t *testing.T, life time.Duration) {
	t.Helper()
	v, _ := w.version(w.secret().Current)
	v.NotAfter = v.CreatedAt.Add(life)
	w.store.state.versions.put(versionKey{secretID, v.Number}, v)
	w.reschedule(t)
}

// TestWhatEndsByItselfDoesNotWaitForItsWindow beyond the time in which it can be replaced.
func TestWhatEndsByItselfDoesNotWaitForItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, func(d *rotation.Definition) { d.Window = "Sat 00:00-01:00, Wed 02:00-05:00" })
		w.rotate(t)
		w.goOn(t, time.Minute)
		w.endsAfter(t, 24*time.Hour)
		w.goOn(t, 17*time.Hour)
		w.wantBegan(t, "01-00:00 done simulated; 01-16:00 done version 1 ends by itself at 2000-01-02T00:00:00Z (not_after); outside of its window, which opens too late")
	})
}

// A rotation that somebody asked for waits for the window, and no longer than it may.
func TestWhatIsQueuedDoesNotWaitBeyondTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, func(d *rotation.Definition) { d.Window = "Sat 00:00-01:00, Wed 02:00-05:00" })
		w.rotate(t)
		w.goOn(t, 2*time.Hour)
		w.endsAfter(t, 24*time.Hour)
		w.rotate(t)
		w.goOn(t, 13*time.Hour)
		w.waitsFor(t, 1, rotation.WaitWindow)
		w.goOn(t, 2*time.Hour)
		if at := w.publishedAt(2); at.Format("02-15:04") != "01-16:00" {
			w.tellStory(t)
			t.Errorf("version 2 was published at %s", at)
		}
	})
}

// TestAProposalGivesWayToWhatIsDue: nobody decides about it over the weekend.
func TestAProposalGivesWayToWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mirrored(calmPlan(), rotation.DriftAdopt)
		w.rotate(t)
		w.advance(time.Minute)
		w.stranger(w.vault, true)
		w.check(t)
		w.define(func(d *rotation.Definition) { d.MaxAge = 24 * time.Hour })
		w.reschedule(t)
		w.goOn(t, 25*time.Hour)
		if r := w.rotationNumber(2); r.Trigger != rotation.TriggerSchedule {
			w.tellStory(t)
			t.Errorf("there were %s", w.began())
		}
	})
}

// mayfly is an issuer whose credentials end by themselves.
type mayfly struct {
	showOnce
	life time.Duration
}

func (i mayfly) Issue(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	cred, err := i.showOnce.Issue(ctx, r)
	cred.NotAfter = time.Now().Add(i.life)
	return cred, err
}

// TestAnOverlapLeavesTimeToReplaceTheNewOne, which lives shorter than it.
func TestAnOverlapLeavesTimeToReplaceTheNewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, func(d *rotation.Definition) { d.Plan.Overlap, d.Plan.MaxOverlap = 24*time.Hour, 48*time.Hour })
		w.rotate(t)
		w.goOn(t, time.Minute)
		w.catalog["finding"] = mayfly{showOnce{w.issuers["finding"]}, time.Hour}
		w.rotate(t)
		for range 48 {
			w.goOn(t, 10*time.Minute)
			if v, _ := w.version(w.secret().Current); v.Number > 1 && !time.Now().Before(v.NotAfter) {
				w.tellStory(t)
				t.Fatalf("version %d is current, and has ended at %s", v.Number, v.NotAfter)
			}
		}
	})
}

// TestWhatWasRolledBackIsAsOldAsItWas: too old, but it is not replaced at once.
func TestWhatWasRolledBackIsAsOldAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := scheduled(t, func(d *rotation.Definition) {
			d.MaxAge, d.Plan.Overlap, d.Plan.MaxOverlap = 24*time.Hour, 2*time.Hour, 4*time.Hour
		})
		w.goOn(t, 23*time.Hour)
		published := w.publishedAt(1)
		w.rotate(t)
		w.goOn(t, time.Hour+10*time.Minute)
		w.rollBack(t)
		w.goOn(t, 50*time.Minute)
		if s := w.secret(); s.Current != 1 || !w.publishedAt(1).Equal(published) {
			w.tellStory(t)
			t.Errorf("version %d is current after a rollback to one of %s, which is of %s now", s.Current, published, w.publishedAt(1))
		}
		w.goOn(t, 20*time.Minute)
		if s := w.secret(); s.Current != 3 {
			w.tellStory(t)
			t.Errorf("version %d is current: what is too old stays", s.Current)
		}
	})
}
