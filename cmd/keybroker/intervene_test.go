package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// foreteller answers every intervention, and remembers which were dry runs.
type foreteller struct {
	server
	dry     []bool
	expect  []string // of the last request
	changed bool     // what follows is another thing by the time it is done
	refuses bool
}

func newForeteller(t *testing.T) *foreteller {
	t.Helper()
	f := &foreteller{server: server{t: t}}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body client.InterventionRequest
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		}
		f.dry, f.expect = append(f.dry, body.DryRun), body.Expect
		f.asked = append(f.asked, r.Method+" "+r.URL.Path+" "+body.Reason)
		if f.refuses {
			problem(w, http.StatusConflict)
			return
		}
		will := "it goes on"
		if f.changed && !body.DryRun {
			will = "it ends"
		}
		if body.Expect != nil && !slices.Equal(body.Expect, []string{will}) {
			problem(w, http.StatusConflict)
			return
		}
		answer := map[string]any{
			"dry_run": body.DryRun, "will": []string{will}, "freeze": client.Freeze{Frozen: true},
			"rotation":   client.Rotation{ID: "r1", Secret: "a/b", Tenant: "acme", State: client.RotationCancelled},
			"retirement": client.Retirement{ID: "t1", Secret: "a/b", Version: 2, State: client.Rejecting},
			"delivery":   client.Delivery{ID: "d1", Secret: "a/b", Version: 2, Consumer: "shop", State: client.DeliveryPending},
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(h.Close)
	f.url = h.URL
	return f
}

// TestInterventionsSayWhatFollowsBeforeTheyDoIt: each asks for a dry run first, and
// prints it beside the result.
func TestInterventionsSayWhatFollowsBeforeTheyDoIt(t *testing.T) {
	for args, want := range map[string]struct{ asked, said string }{
		"rotation cancel r1":   {"POST /api/v1/rotations/r1/cancel", "rotation r1 of acme:a/b is cancelled"},
		"rotation retry r1":    {"POST /api/v1/rotations/r1/retry", "rotation r1 of acme:a/b"},
		"rotation approve r1":  {"POST /api/v1/rotations/r1/approve", "rotation r1 of acme:a/b"},
		"rotation rollback r1": {"POST /api/v1/rotations/r1/rollback", "rotation r1 of acme:a/b"},
		"retirement probe t1":  {"POST /api/v1/retirements/t1/probe", "keybroker retirement show t1"},
		"delivery replay d1":   {"POST /api/v1/deliveries/d1/replay", "delivery d1 of a/b version 2 to shop is pending"},
		"freeze":               {"POST /api/v1/sys/freeze", "end it with: keybroker unfreeze"},
		"unfreeze":             {"POST /api/v1/sys/unfreeze", "nothing is frozen"},
	} {
		args := append(strings.Fields(args), "--reason", "test")
		f := newForeteller(t)
		r := f.keybroker(args...)
		if r.code != 0 || r.out != "" || !strings.HasPrefix(r.err, "- it goes on\n") || !strings.Contains(r.err, want.said) ||
			fmt.Sprint(f.dry) != "[true false]" || f.asked[1] != want.asked+" test" || fmt.Sprint(f.expect) != "[it goes on]" {
			t.Errorf("%v: %+v; dry runs %v of %v", args, r, f.dry, f.asked)
		}
		f = newForeteller(t)
		if r := f.keybroker(append(args, "--dry-run")...); r != (result{0, "it goes on\n", ""}) || fmt.Sprint(f.dry) != "[true]" {
			t.Errorf("%v --dry-run: %+v; dry runs %v", args, r, f.dry)
		}
		f = newForeteller(t)
		r = f.keybroker(append(args, "--format", "json", "--yes")...)
		var got client.RotationIntervention
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.DryRun || len(got.Will) != 1 || r.err != "- it goes on\n" {
			t.Errorf("%v --format json: %+v, %v", args, r, err)
		}
		f = newForeteller(t)
		f.changed = true
		if r := f.keybroker(args...); r.code != 1 || r.out != "" || !strings.HasPrefix(r.err, "- it goes on\n") {
			t.Errorf("%v, which has changed meanwhile: %+v", args, r)
		}
		if r := f.keybroker(append(args, "--yes")...); r.code != 0 || f.expect != nil || !strings.Contains(r.err, "- it goes on\nit has changed meanwhile:\n- it ends\n") {
			t.Errorf("%v --yes, which has changed meanwhile: %+v", args, r)
		}
		f = newForeteller(t)
		f.refuses = true
		if r := f.keybroker(args...); r.code != 1 || r.out != "" || fmt.Sprint(f.dry) != "[true]" {
			t.Errorf("%v, refused: %+v; dry runs %v", args, r, f.dry)
		}
	}
}

func TestInterventionsThatAreFollowed(t *testing.T) {
	start := time.Now()
	rotation := client.Rotation{ID: "r1", Secret: "a/b", State: client.RotationRolledBack, StartedAt: start, EndedAt: start, RollBackBy: "tok_1",
		Error: "rolled back by tok_1", Steps: []client.Step{
			step(start, "approve", 0, "ok", "by tok_2"), step(start, "rollback", time.Second, "ok", "version 1 is current again in prod, generation 3"),
		}}
	for state, code := range map[string]int{client.RotationRolledBack: 0, client.RotationDone: 1} {
		rotation.State = state
		for _, flag := range []string{"--wait", "--watch"} {
			r := serve(t, map[string]any{
				"POST /api/v1/rotations/r1/rollback": client.RotationIntervention{Rotation: client.Rotation{ID: "r1"}},
				"GET /api/v1/rotations/r1/events":    events(t, client.EventRotation, rotation),
			}).keybroker("rotation", "rollback", "r1", flag)
			if r.code != code || !strings.Contains(r.out, "approved      by tok_2") || !strings.Contains(r.out, "rolling back  asked for by tok_1") ||
				!strings.Contains(r.out, "restored      version 1 is current again") {
				t.Errorf("%s, %s: %+v", state, flag, r)
			}
		}
	}
}

// What keeps a rotation waiting is told with the command that ends it.
func TestWhatEndsAWait(t *testing.T) {
	for waitingFor, want := range map[string]string{
		"approval":       "Resolved by:  keybroker rotation approve r1, by somebody else than tok_1",
		"pause":          "Resolved by:  keybroker secret resume acme:a/b",
		"freeze":         "Resolved by:  keybroker unfreeze",
		"repair":         "Resolved by:  keybroker secret repair acme:a/b",
		"backend":        "now: keybroker rotation retry r1",
		"issuer":         "now: keybroker rotation retry r1",
		"overlap":        "back: keybroker rotation rollback r1",
		"acknowledgment": "keybroker secret consumers acme:a/b",
		"proof":          "keybroker retirement list --secret acme:a/b",
		"novelty":        "Waiting for:  novelty\n",
	} {
		r := serve(t, map[string]any{"GET /api/v1/rotations/r1": client.Rotation{ID: "r1", Secret: "a/b", Tenant: "acme", State: "queued",
			WaitingFor: waitingFor, Actor: "tok_1"}}).keybroker("rotation", "show", "r1")
		if r.code != 0 || !strings.Contains(r.out, want) || !strings.Contains(r.out, "Waiting for:  "+waitingFor) {
			t.Errorf("%s: %+v", waitingFor, r)
		}
	}
	ended := serve(t, map[string]any{"GET /api/v1/rotations/r1": client.Rotation{ID: "r1", State: "done", WaitingFor: "proof"}}).keybroker("rotation", "show", "r1")
	if strings.Contains(ended.out, "Resolved by") {
		t.Errorf("%+v", ended)
	}
}

func TestRepairThatLeavesSomething(t *testing.T) {
	finding := func(mendable, mended bool) client.Finding {
		return client.Finding{Kind: "vault", Detail: "a stranger's value", Mend: "write over it", Mendable: mendable, Mended: mended}
	}
	for _, c := range []struct {
		findings []client.Finding
		args     string
		code     int
		out, err string
	}{
		{nil, "", 0, "nothing is out of order\n", ""},
		{[]client.Finding{finding(true, true)}, "", 0, "vault  -        yes     a stranger's value  write over it  -\n", "- a stranger's value: write over it\n"},
		{[]client.Finding{finding(true, false)}, "", 1, "  no  ", "1 of 1 findings are not mended"},
		{[]client.Finding{finding(true, false)}, "--dry-run", 0, "would be", ""},
		{[]client.Finding{finding(false, false)}, "--dry-run", 1, "  no  ", "1 of 1 findings are not mended"},
		{[]client.Finding{finding(false, false), finding(true, true)}, "", 1, "  yes  ", "1 of 2 findings are not mended"},
	} {
		dry := strings.Contains(c.args, "--dry-run")
		r := serve(t, map[string]any{"POST /api/v1/secrets/a/b/repair": client.Repair{DryRun: dry, Findings: c.findings}}).
			keybroker(append([]string{"secret", "repair", "a/b"}, strings.Fields(c.args)...)...)
		if r.code != c.code || !strings.Contains(r.out, c.out) || !strings.Contains(r.err, c.err) {
			t.Errorf("%+v: %+v", c, r)
		}
	}
}

func TestPlanIsDrawn(t *testing.T) {
	p := client.Plan{Effective: client.Effective{Secret: "a/b", Tenant: "acme"}, RotationID: "r1", Trigger: "manual",
		WhyNot: []client.Blocker{{WaitingFor: "pause", Detail: "the secret is paused", Mend: "resume it"}},
		Steps: []client.Expected{
			{Step: "mint", Detail: "version 2", State: client.ExpectedDone}, {Step: "overlap", Detail: "both", State: client.ExpectedNow, At: time.Now().Add(time.Hour + time.Second)},
			{Step: "retire", Detail: "version 1", State: client.ExpectedNext, AfterMS: 7_200_000},
		},
		Retirements: []client.Expected{{Step: "revoke", Detail: "version 0", State: client.ExpectedNow}}}
	r := serve(t, map[string]any{"GET /api/v1/secrets/a/b/plan": p}).keybroker("secret", "plan", "a/b")
	for _, want := range []string{"Secret:       acme:a/b\n", "r1 (manual) is under way\n", "Waiting for:  pause: the secret is paused\n", "Resolved by:  resume it\n",
		"mint     done   -       version 2\n", "overlap  now    in 60m  both\n", "retire   next   +2h     version 1\n", "TURNING OFF"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%q is missing in:\n%s", want, r.out)
		}
	}
}

// A rollback that was only asked for has not been made.
func TestARollbackIsShownAsWhatItIs(t *testing.T) {
	for state, want := range map[string]string{client.RotationOverlap: "Rollback asked by:  tok_1", client.RotationRolledBack: "Rolled back by:  tok_1"} {
		r := serve(t, map[string]any{"GET /api/v1/rotations/r1": client.Rotation{ID: "r1", State: state, RollBackBy: "tok_1"}}).keybroker("rotation", "show", "r1")
		if !strings.Contains(r.out, want) {
			t.Errorf("%s: %q is missing in:\n%s", state, want, r.out)
		}
	}
}

// Text from elsewhere neither steers the terminal nor turns what is beside it round.
func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[2Jb\u202ec\u2066d\u200be\tf é漢"); got != "a [2Jb c d e f é漢" {
		t.Errorf("%q", got)
	}
}
