package daemon_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// TestWhatWasAgreedToIsWhatIsDone: if something else would follow by the time it is
// asked for, nothing is done.
func TestWhatWasAgreedToIsWhatIsDone(t *testing.T) {
	t.Parallel()
	o := startOperated(t, endless)
	ctx := t.Context()
	o.done(t, mailer)
	must(o.Pause(ctx, mailer, client.PauseRequest{}))(t)
	id := must(o.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID
	seen := must(o.Cancel(ctx, id, client.InterventionRequest{DryRun: true}))(t)
	if !slices.Equal(seen.Will, []string{"the rotation ends; nothing was minted"}) {
		t.Fatalf("it would do %q", seen.Will)
	}
	o.api.Override(tried, http.StatusServiceUnavailable, always)
	must(o.Resume(ctx, mailer))(t)
	o.reaches(t, id, client.RotationVerifying)
	for _, dryRun := range []bool{true, false} {
		_, err := o.Cancel(ctx, id, client.InterventionRequest{Expect: seen.Will, DryRun: dryRun})
		refused(t, "cancelled as agreed", err, http.StatusConflict, "it has changed meanwhile, and nothing was done: now what follows is: the rotation ends; version 2, if its issuer made it, is revoked")
	}
	if now := must(o.Rotation(ctx, id))(t); now.State != client.RotationVerifying {
		t.Fatalf("it is %s", now.State)
	}
	o.api.Override(tried, 0, 0)
	o.reaches(t, id, client.RotationOverlap)

	// The times in a sentence go on while somebody reads it.
	seen = must(o.RollBack(ctx, id, client.InterventionRequest{DryRun: true}))(t)
	earlier := slices.Clone(seen.Will)
	last := &earlier[len(earlier)-1]
	at := strings.Index(*last, "20")
	*last = (*last)[:at] + "2001-02-03T04:05:06Z" + (*last)[at+len("2001-02-03T04:05:06Z"):]
	if slices.Equal(earlier, seen.Will) {
		t.Fatalf("there is no time in %q", seen.Will)
	}
	must(o.RollBack(ctx, id, client.InterventionRequest{Expect: earlier}))(t)
}

func (o *operated) reaches(t *testing.T, id, state string) {
	t.Helper()
	eventually(t, "a rotation that is "+state, func() bool { return must(o.Rotation(t.Context(), id))(t).State == state })
}

// TestARepairThatWasAgreedTo: nothing else is mended.
func TestARepairThatWasAgreedTo(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	n := s.start()
	n.done(t, mailer)
	key := s.direct(t)
	s.writeDirectly(t, map[string]any{"key": "a stranger's"})
	ctx, ask := t.Context(), client.RepairRequest{Overwrite: true}
	dry := ask
	dry.DryRun = true
	seen := must(n.Repair(ctx, mailer, dry))(t)
	if len(seen.Sentences()) != 1 {
		t.Fatalf("it would mend %+v", seen.Findings)
	}
	ask.Expect = []string{"something else"}
	_, err := n.Repair(ctx, mailer, ask)
	refused(t, "repaired as agreed", err, http.StatusConflict, "it has changed meanwhile, and nothing was done")
	if s.direct(t) == key {
		t.Error("it was repaired all the same")
	}
	ask.Expect = seen.Sentences()
	if must(n.Repair(ctx, mailer, ask))(t); s.direct(t) != key {
		t.Error("it was not repaired")
	}
	ask.Expect = seen.Sentences() // which is done
	_, err = n.Repair(ctx, mailer, ask)
	refused(t, "repaired again", err, http.StatusConflict, "nothing would follow")
}

// writeDirectly writes the secret behind the broker's back.
func (s *vaultSite) writeDirectly(t *testing.T, fields map[string]any) {
	t.Helper()
	if _, err := s.vault.Client(t).KVv2("secret").Put(t.Context(), "keybroker/"+mailer, fields); err != nil {
		t.Fatal(err)
	}
}

// TestARepairTakesWhatARotationTakes: a consumer, who may acknowledge, may not.
func TestARepairTakesWhatARotationTakes(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief, capabilitiesOf("acks", "list", "update"), capabilitiesOf("rotates", "list", "rotate"),
		capabilitiesOf("both", "list", "update", "rotate"), capabilitiesOf("responder", "list", "emergency"))
	o.done(t, mailer)
	may := map[string][2]int{"acks": {403, 403}, "rotates": {0, 403}, "both": {0, 0}, "responder": {403, 403}}
	look := func(when string) {
		t.Helper()
		for who, want := range may {
			c, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{who}})
			for i, overwrite := range []bool{false, true} {
				_, err := c.Repair(t.Context(), mailer, client.RepairRequest{DryRun: true, Overwrite: overwrite})
				if client.Status(err) != want[i] || (err != nil) != (want[i] != 0) {
					t.Errorf("%s %s, overwrite %v: %v, want %d", who, when, overwrite, err, want[i])
				}
			}
		}
	}
	look("repairs")
	o.api.Override(minted, http.StatusServiceUnavailable, always)
	must(o.Emergency(t.Context(), mailer, client.EmergencyRequest{Reason: "leaked"}))(t)
	may = map[string][2]int{"acks": {403, 403}, "rotates": {403, 403}, "both": {403, 403}, "responder": {0, 403}}
	look("in an emergency")
}

// capabilitiesOf is a policy for mail/*.
func capabilitiesOf(policy string, capabilities ...string) string {
	return "policy \"" + policy + "\" {\n  path \"mail/*\" {\n    capabilities = [\"" + strings.Join(capabilities, `", "`) + "\"]\n  }\n}"
}

// TestARehearsedRetryNamesNoRotation: there will be none of that id.
func TestARehearsedRetryNamesNoRotation(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	ctx := t.Context()
	must(o.Pause(ctx, mailer, client.PauseRequest{}))(t)
	id := must(o.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID
	if got := must(o.Retry(ctx, id, client.InterventionRequest{DryRun: true}))(t); got.Rotation.ID != id {
		t.Errorf("the rotation that looks again is %q", got.Rotation.ID)
	}
	must(o.Cancel(ctx, id, client.InterventionRequest{}))(t)
	if got := must(o.Retry(ctx, id, client.InterventionRequest{DryRun: true}))(t); got.Rotation.ID != "" || got.Rotation.Secret != mailer {
		t.Errorf("it answers with %q of %q", got.Rotation.ID, got.Rotation.Secret)
	}
	if got := must(o.Retry(ctx, id, client.InterventionRequest{}))(t); got.Rotation.ID == "" || got.Rotation.ID == id {
		t.Errorf("another rotation is %q", got.Rotation.ID)
	}
}

// TestAnUnreasonedRequestIsAuditedToo, and refused for the lack of a permission
// before that of a reason.
func TestAnUnreasonedRequestIsAuditedToo(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	ctx := t.Context()
	reader, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{"reader"}})
	for action, ask := range map[string]func(*client.Client) error{
		"freeze.begin":     func(c *client.Client) error { return second(c.Freeze(ctx, client.InterventionRequest{})) },
		"secret.emergency": func(c *client.Client) error { return second(c.Emergency(ctx, mailer, client.EmergencyRequest{})) },
		"event.receive": func(c *client.Client) error {
			return second(c.Event(ctx, "scanner", client.EventRequest{Secret: mailer}))
		},
	} {
		refused(t, action, ask(reader), http.StatusForbidden, "is not allowed")
		refused(t, action, ask(o.Client), http.StatusBadRequest, "reason")
		eventually(t, "all to be in the audit log", func() bool { // what contains a leak comes there after it
			got := o.lastAudited(action, 3)
			return strings.Count(got, "denied ")+strings.Count(got, "ok ")+strings.Count(got, "failed ") == 3
		})
	}
}

// TestATenantIsNotToldWhoFreezesForWhat: a freeze is everybody's, its reason is not.
func TestATenantIsNotToldWhoFreezesForWhat(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief, `
policy "looks" {
  path "sys/freeze" {
    capabilities = ["read"]
  }
  path "mail/*" {
    capabilities = ["list", "rotate"]
  }
}
`)
	ctx := t.Context()
	must(o.Freeze(ctx, client.InterventionRequest{Reason: "CANARY of another"}))(t)
	theirs, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{"looks"}, Tenant: client.DefaultTenant})
	operators, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{"looks"}})
	if f := must(theirs.Frozen(ctx))(t); !f.Frozen || f.At.IsZero() || f.By+f.Reason != "" {
		t.Errorf("a tenant is told %+v", f)
	}
	if f := must(operators.Frozen(ctx))(t); !f.Frozen || f.By == "" || f.Reason == "" {
		t.Errorf("an operator is told %+v", f)
	}
	plan := must(theirs.Plan(ctx, mailer))(t)
	if len(plan.WhyNot) == 0 {
		t.Errorf("the plan is %+v", plan)
	}
	for _, w := range plan.WhyNot {
		if strings.Contains(w.Detail, "CANARY") || strings.Contains(w.Detail, "tok_") {
			t.Errorf("a tenant's plan tells %q", w.Detail)
		}
	}
}

// TestAWatchEndsWithItsPermission: a stream lives no longer than its token and the
// policy that allows it.
func TestAWatchEndsWithItsPermission(t *testing.T) {
	t.Parallel()
	o := startOperated(t, endless)
	ctx := t.Context()
	o.done(t, mailer)
	id := o.begin(t, mailer, client.RotationOverlap)
	for what, end := range map[string]func(client.Token){
		"the token is revoked":     func(tok client.Token) { must(o.RevokeToken(ctx, tok.ID))(t) },
		"the policy grants it not": func(client.Token) { o.hcl = replaced(t, o.hcl, `["list", "read"]`, `["update"]`); o.reload(t) },
	} {
		c, tok := o.as(o.node, client.CreateTokenRequest{Policies: []string{"reader"}})
		var last client.Event
		var broken error
		events := 0
		for ev, err := range c.WatchRotation(ctx, id) {
			if err != nil {
				broken = err
				break
			}
			if last = ev; events == 0 {
				end(tok)
			}
			events++
		}
		if s := client.Status(broken); last.Type != client.EventInterrupted || s != http.StatusUnauthorized && s != http.StatusNotFound {
			t.Errorf("%s: the last event is %q, then: %v", what, last.Type, broken)
		}
		o.hcl = strings.Replace(o.hcl, `["update"]`, `["list", "read"]`, 1)
		o.reload(t)
	}
}
