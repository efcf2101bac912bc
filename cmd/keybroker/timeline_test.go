package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// scene is a rotation that unfolds: each act is an event after a while.
type act struct {
	after time.Duration
	event client.Event
	err   error
}

func play(acts ...act) func(context.Context) iter.Seq2[client.Event, error] {
	return func(ctx context.Context) iter.Seq2[client.Event, error] {
		return func(yield func(client.Event, error) bool) {
			for _, a := range acts {
				select {
				case <-time.After(a.after):
				case <-ctx.Done():
					yield(client.Event{}, ctx.Err())
					return
				}
				if !yield(a.event, a.err) || a.err != nil {
					return
				}
			}
		}
	}
}

func step(start time.Time, name string, after time.Duration, outcome, detail string) client.Step {
	return client.Step{Step: name, StartedAt: start, EndedAt: start.Add(after), Outcome: outcome, Detail: detail}
}

// story is a rotation from start to proof in two events.
func story(start time.Time) (overlap, done client.Rotation, proof client.Retirement) {
	overlap = client.Rotation{
		ID: "r1", Secret: "demo/api-key", Trigger: "manual", Reason: "test", State: "overlap", WaitingFor: "overlap",
		FromVersion: 1, ToVersion: 2, StartedAt: start, OverlapUntil: start.Add(20 * time.Second),
		Steps: []client.Step{
			step(start, "mint", 100*time.Millisecond, "ok", "version 2 by internal"),
			step(start, "verify", 500*time.Millisecond, "ok", "accepted 2 times in a row (status 200)"),
			step(start, "publish", 600*time.Millisecond, "ok", "version 2 is current in embedded, generation 2"),
			{Step: "overlap", StartedAt: start.Add(600 * time.Millisecond)},
			step(start, "push", 700*time.Millisecond, "ok", "demo-app received version 2 (attempt 1)"),
			step(start, "acknowledge", 700*time.Millisecond, "ok", "demo-app uses version 2"),
		},
	}
	done = overlap
	done.State, done.WaitingFor, done.EndedAt = client.RotationDone, "", start.Add(26*time.Second)
	done.Steps = append([]client.Step(nil), overlap.Steps...)
	done.Steps[3] = step(start, "overlap", 20*time.Second, "ok", "")
	done.Steps[3].StartedAt = overlap.Steps[3].StartedAt
	done.Steps = append(done.Steps,
		step(start, "revoke", 20*time.Second+100*time.Millisecond, "ok", "version 1, acknowledged by internal"),
		step(start, "contain", 21*time.Second, "ok", "version 1 is rejected"),
		step(start, "prove", 26*time.Second, "ok", "version 1: 2 rejected rounds over 5s, control current_version"),
		step(start, "done", 26*time.Second, "ok", ""),
	)
	round := func(n int, after time.Duration) []client.Try {
		at := start.Add(after)
		return []client.Try{
			{Round: n, Purpose: client.PurposeControl, Version: 2, At: at, Verdict: client.Accepted, Detail: "status 200"},
			{Round: n, Purpose: client.PurposeDeath, Version: 1, At: at, Verdict: client.Rejected, Detail: "status 401"},
		}
	}
	proof = client.Retirement{
		ID: "t1", Secret: "demo/api-key", Version: 1, State: client.ProvenDead, RotationID: "r1",
		RequestedAt: start.Add(20 * time.Second), Tries: append(append([]client.Try{
			{Purpose: client.PurposeBefore, Version: 1, At: start.Add(20*time.Second + 20*time.Millisecond), Verdict: client.Accepted, Detail: "status 200"},
		}, round(1, 20*time.Second+900*time.Millisecond)...), round(2, 26*time.Second-time.Millisecond)...),
	}
	return overlap, done, proof
}

func rotationEvent(r client.Rotation) client.Event {
	return client.Event{Type: client.EventRotation, Rotation: &r}
}

func retirementEvent(r client.Retirement) client.Event {
	return client.Event{Type: client.EventRetirement, Retirement: &r}
}

var end = client.Event{Type: client.EventEnd}

const wantStory = `rotation r1 of demo/api-key (manual: test)
    +0.1s  minted        version 2 by internal
    +0.5s  verified      accepted 2 times in a row (status 200)
    +0.6s  published     version 2 is current in embedded, generation 2
    +0.6s  overlap       version 1 stays valid until 03:04:25, for 19s
    +0.7s  pushed        demo-app received version 2 (attempt 1)
    +0.7s  acknowledged  demo-app uses version 2
   +20.0s  overlap over
   +20.0s  tried before  version 1 is accepted (status 200)
   +20.1s  revoked       version 1, acknowledged by internal
   +20.9s  round 1       version 1 rejected (status 401); control version 2 accepted
   +21.0s  contained     version 1 is rejected
   +26.0s  round 2       version 1 rejected (status 401); control version 2 accepted
   +26.0s  proven dead   version 1: 2 rejected rounds over 5s, control current_version
   +26.0s  done
`

// TestTheHistoryOfOlderRetirements is no part of an emergency that takes them over.
func TestTheHistoryOfOlderRetirements(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	_, done, proof := story(start)
	older := proof
	older.ID, older.RotationID, older.RequestedAt = "t0", "r0", start.Add(-time.Hour)
	older.Tries = []client.Try{
		{Purpose: client.PurposeBefore, Version: 9, At: start.Add(-time.Hour), Verdict: client.Rejected},
		{Round: 1, Purpose: client.PurposeDeath, Version: 9, At: start.Add(-time.Minute), Verdict: client.Rejected},
		{Round: 2, Purpose: client.PurposeDeath, Version: 9, At: start.Add(time.Minute), Verdict: client.Rejected},
	}
	older.Version = 9
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		acts := play(act{0, rotationEvent(done), nil}, act{0, retirementEvent(older), nil}, act{0, end, nil})
		if err := newTimeline(&out, time.Now).follow(t.Context(), acts); err != nil {
			t.Error(err)
		}
		if strings.Count(out.String(), "version 9") != 1 || !strings.Contains(out.String(), "   +60.0s  round 2       version 9 rejected") {
			t.Errorf("got:\n%s", out.String())
		}
		out.Reset()
		if err := newTimeline(&out, time.Now).follow(t.Context(), play(act{0, retirementEvent(older), nil}, act{0, end, nil})); err != nil || strings.Count(out.String(), "+") < 3 {
			t.Errorf("watched by itself, it has its history: %v\n%s", err, out.String())
		}
	})
}

func TestTimelineOnAPipe(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	overlap, done, proof := story(start)
	for name, acts := range map[string][]act{
		"live": {
			{time.Second, rotationEvent(overlap), nil}, {25 * time.Second, retirementEvent(proof), nil},
			{0, rotationEvent(done), nil}, {0, end, nil},
		},
		"afterwards": {{0, rotationEvent(done), nil}, {0, retirementEvent(proof), nil}, {0, end, nil}},
		"repeated": {
			{0, rotationEvent(done), nil}, {0, rotationEvent(done), nil}, {0, retirementEvent(proof), nil},
			{0, retirementEvent(proof), nil}, {0, end, nil},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out strings.Builder
				if err := newTimeline(&out, time.Now).follow(t.Context(), play(acts...)); err != nil {
					t.Error(err)
				}
				want := strings.ReplaceAll(wantStory, "for 19s", "for "+short(overlap.OverlapUntil.Sub(overlap.Steps[3].StartedAt).Round(time.Second)))
				if out.String() != want {
					t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
				}
			})
		})
	}
}

func TestTimelineOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		overlap, done, proof := story(start)
		var out strings.Builder
		line := newTimeline(&out, time.Now)
		line.width, line.color = 60, true
		err := line.follow(t.Context(), play(
			act{time.Second, rotationEvent(overlap), nil}, act{25 * time.Second, rotationEvent(done), nil},
			act{0, retirementEvent(proof), nil}, act{0, end, nil}))
		if err != nil {
			t.Error(err)
		}
		text := out.String()
		for left := 1; left < 18; left++ { // the countdown, second by second
			if want := fmt.Sprintf("version 1 stays valid for %ds", left); strings.Count(text, want+"\x1b") != 1 {
				t.Errorf("%q is drawn %d times", want, strings.Count(text, want+"\x1b"))
			}
		}
		if !strings.Contains(text, "\x1b[32mminted      \x1b[0m") {
			t.Error("no colour")
		}
		last := text[strings.LastIndex(text, clearLine)+len(clearLine):]
		if strings.Contains(last, "stays valid for 1") || !strings.HasSuffix(last, "\n") {
			t.Errorf("at the end stands %q", last)
		}
		for _, drawn := range strings.Split(text, clearLine) {
			if status := drawn[strings.LastIndex(drawn, "\n")+1:]; len([]rune(status)) > 60+len("\x1b[2m\x1b[0m") {
				t.Errorf("the status does not fit: %q", status)
			}
		}
	})
}

func TestTimelineThatProvesNothing(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	_, done, proof := story(start)
	unconfirmed := proof
	unconfirmed.State = client.Unconfirmed
	failed := done
	failed.State, failed.Error = client.RotationFailed, "the issuer refuses"
	failed.Steps = []client.Step{step(start, "mint", time.Second, "retry", "no answer"), step(start, "mint", 2*time.Second, "failed", "the issuer refuses")}
	waiting := done
	waiting.State, waiting.WaitingFor, waiting.Error, waiting.EndedAt, waiting.Steps = "publishing", "backend", "vault is sealed", time.Time{}, nil
	for _, test := range []struct {
		name string
		acts []act
		err  string
		out  string
	}{
		{"failed", []act{{0, rotationEvent(failed), nil}, {0, end, nil}}, "rotation r1 is failed: the issuer refuses", "mint failed   no answer; will be tried again\n    +2.0s  mint failed   the issuer refuses"},
		{"unconfirmed", []act{{0, rotationEvent(done), nil}, {0, retirementEvent(unconfirmed), nil}, {0, end, nil}}, "version 1 is not proven dead: it is unconfirmed", "done"},
		{"nothing", []act{{0, end, nil}}, "the server told nothing", ""},
		{"stream error", []act{{0, rotationEvent(done), nil}, {err: errors.New("cut off")}}, "cut off", "minted"},
		{"waiting", []act{{0, rotationEvent(waiting), nil}, {err: errors.New("cut off")}}, "cut off", "waiting       for backend: vault is sealed"},
		{"interrupted", []act{{0, rotationEvent(done), nil}, {0, client.Event{Type: client.EventInterrupted, Err: errors.New("gone")}, nil}, {0, end, nil}}, "", "disconnected  gone; trying again"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out strings.Builder
			err := newTimeline(&out, time.Now).follow(t.Context(), play(test.acts...))
			if fmt.Sprint(err) != test.err && (test.err != "" || err != nil) {
				t.Errorf("%s: %v", test.name, err)
			}
			if !strings.Contains(out.String(), test.out) {
				t.Errorf("%s: %s", test.name, out.String())
			}
		})
	}
}

func TestTimelineStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		overlap, _, _ := story(time.Now())
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		var out strings.Builder
		err := newTimeline(&out, time.Now).follow(ctx, play(act{0, rotationEvent(overlap), nil}, act{time.Hour, end, nil}))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

func TestRoundsSayWhatEachAddressSaid(t *testing.T) {
	try := func(purpose, verdict string) client.Try {
		return client.Try{Round: 1, Purpose: purpose, Version: 1, Verdict: verdict}
	}
	for want, tries := range map[string][]client.Try{
		"version 1 rejected at 2":                             {try("death", "rejected"), try("death", "rejected")},
		"version 1 rejected at 1, accepted at 1":              {try("death", "rejected"), try("death", "accepted")},
		"version 1 inconclusive; control version 1 accepted":  {try("control", "accepted"), try("death", "inconclusive")},
		"version 1 not tried; control version 1 inconclusive": {try("control", "inconclusive")},
	} {
		if got := roundFact(client.Retirement{ID: "t1", Version: 1}, 1, tries).detail; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// The try before the revocation has a control of its own, with the number of the
// round that comes next: it must not be shown in that round's place.
func TestTheControlOfTheTryBeforeIsNoRound(t *testing.T) {
	control := client.Try{Round: 1, Purpose: client.PurposeControl, Version: 2, Verdict: client.Accepted}
	before := client.Try{Round: 1, Purpose: client.PurposeBefore, Version: 1, Verdict: client.Accepted}
	death := client.Try{Round: 1, Purpose: client.PurposeDeath, Version: 1, Verdict: client.Rejected}
	for _, test := range []struct {
		tries []client.Try
		want  string
	}{
		{[]client.Try{control, before}, "tried before: version 1 is accepted\n"},
		{[]client.Try{control, before, control, death}, "tried before: version 1 is accepted\nround 1: version 1 rejected; control version 2 accepted\n"},
	} {
		got := ""
		for _, f := range proofFacts(client.Retirement{ID: "t1", Version: 1, Tries: test.tries}) {
			got += f.label + ": " + f.detail + "\n"
		}
		if got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

func TestWatchForPrograms(t *testing.T) {
	_, done, proof := story(time.Now())
	stream := ""
	for name, v := range map[string]any{"rotation": done, "retirement": proof} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		stream += fmt.Sprintf("event: %s\ndata: %s\n\n", name, b)
	}
	s := serve(t, map[string]any{
		"GET /api/v1/rotations":           client.List[client.Rotation]{Items: []client.Rotation{done}},
		"GET /api/v1/rotations/r1":        done,
		"GET /api/v1/rotations/r1/events": stream + "event: end\ndata: {}\n\n",
	})
	for _, what := range []string{"r1", "demo/api-key"} {
		r := s.keybroker("rotation", "watch", what, "--format", "json")
		lines := strings.Split(strings.TrimSpace(r.out), "\n")
		if r.code != 0 || len(lines) != 3 || lines[2] != `{"event":"end"}` {
			t.Errorf("%+v", r)
		}
		if r := s.keybroker("rotation", "watch", what); r.code != 0 || !strings.Contains(r.out, "proven dead") || strings.Contains(r.out, "\x1b") {
			t.Errorf("%+v", r)
		}
	}
	if r := s.keybroker("rotation", "watch", "r2"); r.code != 0 { // no such rotation: taken for a secret's name
		t.Errorf("%+v", r)
	}
}
