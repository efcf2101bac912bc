package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

const declareIncident = "POST /api/v1/incidents"

// leak is an open incident of 3 versions of 2 secrets.
func leak(contained, proven int) client.Incident {
	return client.Incident{
		ID: "i1", State: client.IncidentOpen, Reason: "leak", DeclaredBy: "token:night", DeclaredAt: time.Now(),
		Progress: client.IncidentProgress{Secrets: 2, Versions: 3, Acknowledged: 3, Contained: contained, Proven: proven, Replaced: 2},
	}
}

// server of one incident that is watched from its first state to its last.
func watched(t *testing.T, states ...client.Incident) *server {
	t.Helper()
	var all []any
	for _, s := range states {
		all = append(all, s)
	}
	last := states[len(states)-1]
	return serve(t, map[string]any{
		declareIncident:                   states[0],
		"GET /api/v1/incidents/i1/events": events(t, client.EventIncident, all...),
		"GET /api/v1/incidents/i1":        last,
	})
}

// TestExitCodesOfIncidents: 0 proven, 3 contained, 4 open, 1 failed, 2 usage.
func TestExitCodesOfIncidents(t *testing.T) {
	unprovable, open, proposed, rejected, closed := leak(3, 2), leak(2, 2), leak(0, 0), leak(0, 0), leak(3, 1)
	unprovable.Progress.Unprovable, open.Progress.Unprovable = 1, 1
	proposed.State, proposed.Progress.Versions = client.IncidentProposed, 0
	rejected.State, rejected.ClosedBy, rejected.Closing = client.IncidentRejected, "token:day", "a drill"
	closed.State = client.IncidentClosed
	for name, test := range map[string]struct {
		last client.Incident
		args string
		code int
		err  string
	}{
		"proven":                {leak(3, 3), "", 0, "incident i1: 3 versions of 2 secrets proven dead"},
		"nobody can prove it":   {unprovable, "", 3, "1 version: nobody will be able to tell"},
		"nobody can contain it": {open, "", 4, "incident i1 is open, and nothing more is going to be shown"},
		"until contained":       {leak(3, 1), "--until contained", 0, "incident i1: 3 versions of 2 secrets contained"},
		"rejected":              {rejected, "", 1, "incident i1 was rejected by token:day (a drill): nothing was done"},
		"closed too early":      {closed, "", 3, "incident i1 is closed"},
		"no such end":           {leak(3, 3), "--until dead", 2, "--until is \"dead\""},
		"no such time":          {leak(3, 3), "--timeout=-1s", 2, "--timeout is -1s"},
	} {
		r := watched(t, leak(0, 0), test.last).each("incident watch i1 " + test.args)[0]
		if r.code != test.code || !strings.Contains(r.err, test.err) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := watched(t, proposed).keybroker("emergency", "a", "b", "--reason", "leak"); r.code != 4 || !strings.Contains(r.err, "NOTHING IS DONE YET: somebody else than token:night has to approve it: keybroker incident approve i1") {
		t.Errorf("proposed: %+v", r)
	}
	r := serve(t, map[string]any{"GET /api/v1/incidents/i1/events": 403}).keybroker("incident", "watch", "i1")
	if r.code != 1 || !strings.Contains(r.err, "cannot be followed: refused with 403") {
		t.Errorf("refused: %+v", r)
	}
}

// TestAnIncidentThatIsLeftGoesOn: the exit code says how far it is, and the text by which
// command it is picked up, whether by ^C or for want of time.
func TestAnIncidentThatIsLeftGoesOn(t *testing.T) {
	for contained, code := range map[int]int{1: 4, 3: 3} {
		for _, args := range [][]string{{"incident", "watch", "i1"}, {"emergency", "a", "b", "--reason", "leak", "--wait"}} {
			s := serve(t, map[string]any{
				declareIncident:                   leak(0, 0),
				"GET /api/v1/incidents/i1/events": strings.TrimSuffix(events(t, client.EventIncident, leak(contained, 0)), "event: end\ndata: {}\n\n"),
				"GET /api/v1/incidents/i1":        leak(contained, 1),
			})
			r := s.keybroker(append(args, "--timeout", "300ms", "--format", "json")...)
			if r.code != code || !strings.Contains(r.err, "goes on; pick it up with: keybroker incident watch i1") {
				t.Errorf("%d %v: %+v", contained, args, r)
			}
			lines := strings.Split(strings.TrimSpace(r.out), "\n")
			var last struct {
				Event    string
				Incident client.Incident
			}
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Event != "left" || last.Incident.Progress.Proven != 1 {
				t.Errorf("%v: %v, %+v", args, err, last)
			}
			var first struct{ Event string }
			if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first.Event != client.EventIncident {
				t.Errorf("%v: %v, %+v", args, err, first)
			}
		}
	}
}

// TestInterruptedWatching is no failure: it goes on, and the exit code says how far it is.
func TestInterruptedWatching(t *testing.T) {
	s := serve(t, map[string]any{
		"GET /api/v1/incidents/i1/events": strings.TrimSuffix(events(t, client.EventIncident, leak(3, 0)), "event: end\ndata: {}\n\n"),
		"GET /api/v1/incidents/i1":        leak(3, 1),
	})
	t.Setenv("KEYBROKER_ADDR", s.url)
	ctx, interrupt := context.WithCancel(t.Context())
	out := &growing{more: make(chan struct{}, 1)}
	go func() {
		for !strings.Contains(out.String(), "contained 3/3") {
			<-out.more
		}
		interrupt()
	}()
	var errs strings.Builder
	if code := run(ctx, []string{"incident", "watch", "i1"}, streams{strings.NewReader(""), out, &errs}); code != 3 || !strings.Contains(errs.String(), "incident i1 is contained and goes on; pick it up with: keybroker incident watch i1") {
		t.Errorf("%d %s", code, &errs)
	}
	interrupt() // however it has ended
}

// TestWhatLeakedIsNeverShown: not as an argument, in an error, or in what is printed.
func TestWhatLeakedIsNeverShown(t *testing.T) {
	s := watched(t, leak(0, 0), leak(3, 3))
	for _, command := range []string{
		"emergency --reason leak --leaked-value " + canary,
		"emergency --reason leak --leaked-value /nowhere/" + canary,
		"emergency --reason leak --leaked-value " + t.TempDir(),
	} {
		r := s.each(command)[0]
		if r.code == 0 || strings.Contains(r.out+r.err, canary) {
			t.Errorf("%+v", r)
		}
	}
}

func closed(i client.Incident) client.Incident {
	i.State = client.IncidentClosed
	return i
}

// TestLatestIsTheLatestThatOneSees: the first page may have none of them.
func TestLatestIsTheLatestThatOneSees(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = client.List[client.Incident]{Next: "x"}
		switch {
		case r.URL.Path == "/api/v1/incidents/i1":
			answer = leak(3, 3)
		case r.URL.Query().Get("after") == "x":
			answer = client.List[client.Incident]{Items: []client.Incident{leak(3, 3)}}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer h.Close()
	s := &server{t: t, url: h.URL}
	if r := s.keybroker("incident", "show", "latest"); r.code != 0 || !strings.Contains(r.out, "i1") {
		t.Errorf("%+v", r)
	}
}

// TestCommandsHaveOneName each: none is hung up twice.
func TestCommandsHaveOneName(t *testing.T) {
	var look func(*cobra.Command)
	look = func(c *cobra.Command) {
		seen := map[string]bool{}
		for _, sub := range c.Commands() {
			if seen[sub.Name()] {
				t.Errorf("%s is there twice", sub.CommandPath())
			}
			seen[sub.Name()] = true
			look(sub)
		}
	}
	look(newApp(streams{strings.NewReader(""), io.Discard, io.Discard}).root())
}

// TestWatchingWhatThereIsNot: nothing was begun that could go on.
func TestWatchingWhatThereIsNot(t *testing.T) {
	s := serve(t, map[string]any{"GET /api/v1/incidents/i9/events": http.StatusNotFound})
	if r := s.keybroker("incident", "watch", "i9"); r.code != 1 || strings.Contains(r.err, "goes on") || strings.Contains(r.err, "incident show") {
		t.Errorf("%+v", r)
	}
}

// playing shows acts on a progress, and returns what it draws.
func playing(t *testing.T, width int, acts ...act) string {
	t.Helper()
	var out strings.Builder
	synctest.Test(t, func(t *testing.T) {
		p := newProgress(&out, time.Now)
		p.width = width
		for _, a := range acts {
			a.event.Incident.DeclaredAt = time.Now()
		}
		err := p.follow(t.Context(), play(acts...))
		if err != nil {
			t.Error(err)
		}
	})
	return out.String()
}

func shown(after time.Duration, i client.Incident) act {
	return act{after, client.Event{Type: client.EventIncident, Incident: &i}, nil}
}

// TestProgressInLines: where there is no terminal, a line whenever something has changed and
// at least every ten seconds, without control codes.
func TestProgressInLines(t *testing.T) {
	stuck := leak(1, 0)
	stuck.Progress.Stuck = 1
	stuck.Stuck = []client.IncidentStuck{{Secret: "pay/x", Version: 2, What: "containment", Why: "its issuer answers 503", Next: "keybroker retirement show t1"}}
	got := playing(t, 0,
		shown(0, leak(0, 0)),
		shown(time.Second, stuck),
		shown(25*time.Second, stuck), // nothing has changed
		shown(time.Second, leak(3, 0)),
		shown(time.Second, leak(3, 3)),
	)
	for _, want := range []string{
		`(?m)^ +\+0\.0s  declared      2 secrets, by token:night: leak$`,
		`(?m)^ +\+[0-9.]+s  contained 0/3, proven dead 0/3, revoking 3, replaced 2/2$`,
		`(?m)^ +\+1\.0s  stuck         pay/x version 2: containment: its issuer answers 503; do: keybroker retirement show t1$`,
		`(?m)^ +\+[0-9.]+s  contained 1/3, proven dead 0/3, revoking 2, replaced 2/2, stuck 1$`,
		`(?m)^ +\+[0-9.]+s  goes on       pay/x version 2: containment$`,
		`(?m)^ +\+[0-9.]+s  contained 3/3, proven dead 3/3, replaced 2/2$`,
	} {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "contained 1/3"); n != 3 {
		t.Errorf("%d lines in 25 s in which nothing has changed:\n%s", n, got)
	}
	if strings.ContainsRune(got, '\x1b') {
		t.Errorf("%q", got)
	}
}

// TestProgressOnATerminal is drawn over itself, and no line of it wraps.
func TestProgressOnATerminal(t *testing.T) {
	const width = 60
	middle := leak(2, 1)
	middle.Progress.ToTell, middle.Progress.Told = 6, 3
	middle.Progress.ContainedBy = time.Date(2000, 1, 1, 0, 0, 12, 0, time.UTC) // synctest begins at midnight
	for n := range 7 {
		middle.Stuck = append(middle.Stuck, client.IncidentStuck{Secret: fmt.Sprintf("pay/%d", n), What: "delivery", Why: strings.Repeat("long ", 40)})
	}
	middle.Progress.Stuck = 7
	got := playing(t, width, shown(0, leak(0, 0)), shown(time.Second, middle), shown(time.Second, leak(3, 3)))
	for _, want := range []string{
		"  contained    [", "]  2/3  in about 1", "  told         [#######........]  3/6\n",
		"  pending 0, revoking 1, contained 1, proven dead 1\n", "  stuck: 7\n", "    pay/4: delivery: long",
		"\r\x1b[4A\x1b[J", // over the four lines of the first
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%q", want, got)
		}
	}
	if strings.Contains(got, "\n    pay/5: ") {
		t.Error("more is shown than fits")
	}
	for line := range strings.Lines(got) {
		line = regexp.MustCompile(`\x1b\[[0-9]*[A-Zm]|\r|\n`).ReplaceAllString(line, "")
		if len([]rune(line)) >= width && !regexp.MustCompile(`^ *\+[0-9.]+s  `).MatchString(line) { // facts are not drawn over
			t.Errorf("%q wraps", line)
		}
	}
}

// TestProgressWaitsForTheSecondPerson, and says so.
func TestProgressWaitsForTheSecondPerson(t *testing.T) {
	proposed, approved := leak(0, 0), leak(3, 3)
	proposed.State = client.IncidentProposed
	approved.ApprovedBy, approved.ApprovedAt = "token:day", time.Date(2000, 1, 1, 0, 0, 5, 0, time.UTC)
	got := playing(t, 0, shown(0, proposed), shown(5*time.Second, approved))
	for _, want := range []string{"NOT BEGUN, waiting for a second person: keybroker incident approve i1", "approved      by token:day"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

// TestTheEmergencyOfOneTellsHowFarItIs: a rotation that failed says nothing of the keys.
func TestTheEmergencyOfOneTellsHowFarItIs(t *testing.T) {
	begun := client.Rotation{ID: "r1", Secret: "a/b", State: "queued", Trigger: "emergency", IncidentID: "i1"}
	failed := begun
	failed.State, failed.Error, failed.EndedAt = client.RotationFailed, "minting: refused", time.Now()
	for contained, code := range map[int]int{1: 4, 3: 3} {
		r := serve(t, map[string]any{
			"POST /api/v1/secrets/a/b/emergency": begun,
			"GET /api/v1/rotations/r1/events":    events(t, client.EventRotation, failed),
			"GET /api/v1/incidents/i1":           leak(contained, 1),
		}).keybroker("emergency", "a/b", "--reason", "leak", "--wait")
		if r.code != code || !strings.Contains(r.err, "minting: refused") || !strings.Contains(r.err, "pick it up with: keybroker incident watch i1") {
			t.Errorf("%d: %+v", contained, r)
		}
	}
	r := serve(t, map[string]any{
		"POST /api/v1/secrets/a/b/emergency": begun,
		"GET /api/v1/rotations/r1/events":    events(t, client.EventRotation, failed),
		"GET /api/v1/incidents/i1":           leak(3, 3),
	}).keybroker("emergency", "a/b", "--reason", "leak", "--wait")
	if r.code != 1 {
		t.Errorf("the keys are dead, and there is no replacement: %+v", r)
	}
}

// TestActsOnIncidents say on which, and take "latest" only where nobody else's is decided on.
func TestActsOnIncidents(t *testing.T) {
	done := leak(3, 3)
	done.State, done.Hold = client.IncidentClosed, true
	s := serve(t, map[string]any{
		"GET /api/v1/incidents":             client.List[client.Incident]{Items: []client.Incident{leak(3, 3)}},
		"GET /api/v1/incidents/i1":          leak(3, 3),
		"POST /api/v1/incidents/i1/close":   done,
		"POST /api/v1/incidents/i1/approve": leak(0, 0),
	})
	r := s.keybroker("incident", "close", "latest", "--reason", "reviewed", "--keep-hold")
	if r.code != 0 || !strings.Contains(r.err, "- 3 versions of 2 secrets, declared by token:night at ") || !strings.Contains(r.err, "its evidence is still held, until: keybroker incident hold i1 --release") {
		t.Errorf("%+v", r)
	}
	if r := s.keybroker("incident", "approve", "i1", "--yes"); r.code != 0 || !strings.Contains(r.err, "incident i1 is open; follow it with: keybroker incident watch i1") {
		t.Errorf("%+v", r)
	}
	for args, code := range map[string]int{"approve latest": 1, "reject i1": 2, "close i1": 2, "check i1 --done 0": 2, "note i1": 2} {
		if r := s.each("incident " + args)[0]; r.code != code {
			t.Errorf("%s: %+v", args, r)
		}
	}
}
