package daemon_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

// plan asks a node what another configuration would do, which is read without env().
func (n *node) plan(t *testing.T, hcl string) client.ConfigPlan {
	t.Helper()
	cfg, diags := config.Parse(map[string][]byte{"elsewhere/config.hcl": []byte(hcl)}, daemon.Registry(), config.Options{Dir: t.TempDir(), Offline: true})
	if diags.HasErrors() {
		var text strings.Builder
		_ = diags.WriteText(&text, false)
		t.Fatal(text.String())
	}
	request := must(daemon.PlanRequest(cfg))(t)
	return must(n.PlanConfig(t.Context(), request))(t)
}

// changeOf finds what is planned for a block.
func changeOf(p client.ConfigPlan, kind, name string) client.PlannedChange {
	i := slices.IndexFunc(p.Changes, func(c client.PlannedChange) bool { return c.Kind == kind && c.Name == name })
	if i < 0 {
		return client.PlannedChange{}
	}
	return p.Changes[i]
}

// TestConfigPlan tells what a reload then does, wherever the files are read, and
// changes nothing.
func TestConfigPlan(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	o.done(t, mailer)
	if p := o.plan(t, o.hcl); len(p.Changes)+len(p.Refused) != 0 {
		t.Errorf("of the configuration in force: %+v", p)
	}
	changed := strings.Replace(o.hcl, `secret "mail/sender" {`, `secret "mail/fresh" {
  backend = "prod"
  probe   = "mailer"
  issuer "mailer" {
    scopes = ["send"]
  }
  rotation {
    schedule = "0 3 1 * *"
  }
}
secret "mail/sender" {
  labels = { team = "growth" }
  rotation {
    schedule = "0 3 * * *"
    overlap  = "12h"
    window   = "Mon-Fri 02:00-05:00"
  }`, 1)
	before, after, _ := strings.Cut(changed, `secret "mail/approved"`)
	_, after, _ = strings.Cut(after, "\n}\n")
	changed = strings.Replace(before+after, `max_live          = 5`, `max_live          = 7`, 1) + aProbe("second", o.api.URL, "")
	p := o.plan(t, changed)

	fresh := changeOf(p, "secret", "mail/fresh")
	if fresh.Change != client.Added || !slices.Contains(fresh.Effects, "its first version is minted at once") || fresh.DueTo.IsZero() || time.Until(fresh.DueTo) > time.Minute {
		t.Errorf("%+v", fresh)
	}
	sender := changeOf(p, "secret", mailer)
	for _, want := range []client.SettingChange{{Name: "schedule", From: "", To: "0 3 * * *"}, {Name: "overlap", From: brief, To: "12h"}, {Name: "labels.team", To: "growth"}, {Name: "window", To: "Mon-Fri 02:00-05:00"}} {
		if !slices.Contains(sender.Settings, want) {
			t.Errorf("%+v is not in %+v", want, sender.Settings)
		}
	}
	if sender.Change != client.Changed || !sender.DueFrom.IsZero() || sender.DueTo.IsZero() {
		t.Errorf("%+v", sender)
	}
	if gone := changeOf(p, "secret", "mail/approved"); gone.Change != client.Unmanaged || !slices.Contains(gone.Effects, "it stays as it is and is rotated no more") {
		t.Errorf("%+v", gone)
	}
	if is := changeOf(p, "issuer", "mailer"); is.Change != client.Changed {
		t.Errorf("%+v", is)
	}
	if probe := changeOf(p, "probe", "second"); probe.Change != client.Added {
		t.Errorf("%+v", probe)
	}
	if len(p.Refused) != 0 || changeOf(p, "backend", "prod").Change != "" {
		t.Errorf("%+v", p)
	}
	if s := must(o.Secret(t.Context(), mailer))(t); s.Schedule != "" || !s.NextRotationAt.IsZero() {
		t.Errorf("the plan has changed the secret: %+v", s)
	}

	o.hcl = changed
	did := o.reload(t)
	for _, c := range did.Changes {
		if got := changeOf(p, c.Kind, c.Name); got.ConfigChange != c {
			t.Errorf("the reload did %+v, the plan says %+v", c, got.ConfigChange)
		}
	}
	if s := must(o.Secret(t.Context(), mailer))(t); !s.NextRotationAt.Equal(sender.DueTo) {
		t.Errorf("it is due at %s, planned was %s", s.NextRotationAt, sender.DueTo)
	}
}

// TestConfigPlanTellsWhatIsRefused as a reload does, and what becomes of what is under way.
func TestConfigPlanTellsWhatIsRefused(t *testing.T) {
	t.Parallel()
	o := startOperated(t, endless)
	ctx := t.Context()
	o.done(t, mailer)
	r := must(o.Rotate(ctx, mailer, client.RotateRequest{}))(t)
	o.waitsFor(t, r.ID, "overlap")
	renamed := strings.NewReplacer(`issuer "http" "mailer"`, `issuer "http" "post"`, `issuer "mailer" {`, `issuer "post" {`).Replace(o.hcl)
	p := o.plan(t, renamed)
	if len(p.Refused) == 0 || !strings.Contains(p.Refused[0].What, r.ID) || !strings.Contains(p.Refused[0].What, `issuer "mailer"`) || p.Refused[0].Remedy == "" {
		t.Errorf("%+v", p.Refused)
	}
	sender := changeOf(p, "secret", mailer)
	if !slices.ContainsFunc(sender.Effects, func(e string) bool {
		return strings.Contains(e, r.ID) && strings.Contains(e, "is finished under the definition that it began with")
	}) || !slices.Contains(sender.Settings, client.SettingChange{Name: "issuer", From: "mailer", To: "post"}) {
		t.Errorf("%+v", sender)
	}
	if !slices.Contains(sender.Effects, `the next version is minted by "post"`) || !slices.Contains(sender.Effects, `nothing can turn version 2 off any more: its issuer "mailer" is not in the configuration`) {
		t.Errorf("an issuer that goes away is to turn off what it minted: %q", sender.Effects)
	}
	_, block, _ := strings.Cut(o.hcl, `secret "mail/sender" {`)
	block, _, _ = strings.Cut(block, "\n}\n")
	ask, _, _ := strings.Cut(block[strings.Index(block, "  issuer \"mailer\" {"):], "\n  }\n")
	for now, want := range map[string][]string{
		"":                      {"it has no issuer any more, and is rotated no more: version 2 stays valid, and readable", `in an emergency version 2 is turned off by "mailer", and nothing replaces it`},
		"  issuer \"own\" {}\n": {`the next version is minted by "own"`, `version 2 is turned off by "mailer" when it is replaced`},
	} {
		hcl := strings.Replace(o.hcl, block, strings.Replace(block, ask+"\n  }\n", now, 1), 1) + "issuer \"api_key\" \"own\" {}\n"
		effects := changeOf(o.plan(t, hcl), "secret", mailer).Effects
		for _, one := range want {
			if !slices.Contains(effects, one) {
				t.Errorf("with %q: %q is not in %q", now, one, effects)
			}
		}
	}
	o.hcl = renamed
	_, err := o.Reload(ctx, client.ReloadRequest{DryRun: true})
	problem, ok := err.(*client.Problem)
	if !ok || len(problem.Problems) == 0 || problem.Problems[0].What != p.Refused[0].What {
		t.Errorf("a reload is refused with %v, the plan has %+v", err, p.Refused)
	}

	slower := changeOf(o.plan(t, replaced(t, o.hcl, `revocation_budget = "3s"`, `revocation_budget = "4s"`)), "secret", mailer)
	if !slices.Contains(slower.Settings, client.SettingChange{Name: "confirm.budget", From: "3s", To: "4s"}) {
		t.Errorf("of another revocation_budget it says %+v", slower)
	}

	moved := strings.Replace(o.hcl, "listener \"tcp\" {\n  address = \""+o.site.addr, "listener \"tcp\" {\n  address = \"127.0.0.1:1", 1)
	if p := o.plan(t, moved); !slices.ContainsFunc(p.Refused, func(f client.ConfigFinding) bool {
		return strings.HasPrefix(f.What, "listener.address was changed")
	}) {
		t.Errorf("%+v", p.Refused)
	}
	for what, request := range map[string]client.ConfigPlanRequest{
		"no definition": {Secrets: []client.PlannedSecret{{Name: "a", Tenant: "default", Definition: json.RawMessage(`[]`)}}},
		"no tenant":     {Secrets: []client.PlannedSecret{{Name: "a", Definition: json.RawMessage(`{}`)}}},
		"no name":       {Secrets: []client.PlannedSecret{{Name: "/a", Tenant: "default", Definition: json.RawMessage(`{}`)}}},
	} {
		if _, err := o.PlanConfig(ctx, request); client.Status(err) != http.StatusBadRequest {
			t.Errorf("%s: %v", what, err)
		}
	}
}

const limited = `
rotation_policy "senders" {
  match {
    paths  = ["mail/sender"]
    labels = { team = "growth" }
  }
  schedule  = "0 3 1 * *"
  time_zone = "Europe/Berlin"
  window    = "Mon-Fri 02:00-05:00"
  overlap   = "12h"
}
rotation_policy "everything" {
  limits {
    max_overlap = "24h"
  }
}
`

// TestWhereSettingsComeFrom: of each value, and of limits, with the line.
func TestWhereSettingsComeFrom(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	o.hcl = strings.Replace(o.hcl, `secret "mail/sender" {`, "secret \"mail/sender\" {\n  labels = { team = \"growth\" }\n  rotation {\n    overlap = \"6h\"\n  }", 1) + limited
	o.reload(t)
	ctx := t.Context()
	plan := must(o.Plan(ctx, mailer))(t)
	line := func(of string) int { return 1 + strings.Count(o.hcl[:strings.Index(o.hcl, of)], "\n") }
	want := map[string]client.Setting{
		"backend":                 {Value: "prod", From: client.FromSecret, Line: line(`backend = "prod"`)},
		"labels.team":             {Value: "growth", From: client.FromSecret, Line: line(`labels = { team`)},
		"schedule":                {Value: "0 3 1 * *", From: client.FromPolicy, Policy: "senders", Line: line(`schedule  =`)},
		"window":                  {Value: "Mon-Fri 02:00-05:00", From: client.FromPolicy, Policy: "senders", Line: line(`window    =`)},
		"overlap":                 {Value: "6h", From: client.FromSecret, Line: line(`overlap = "6h"`)},
		"max_overlap":             {Value: "24h", From: client.FromLimit, Policy: "everything", Line: line(`max_overlap = "24h"`)},
		"verify.timeout":          {Value: "5m", From: client.FromDefault},
		"confirm.window":          {Value: "3s", From: client.FromIssuer},
		"acknowledgement.require": {Value: "none", From: client.FromDefault},
	}
	for _, s := range plan.Settings {
		w, ok := want[s.Name]
		if delete(want, s.Name); !ok {
			continue
		}
		if w.Name = s.Name; w.Line > 0 {
			w.File = "config.hcl"
		}
		if s != w {
			t.Errorf("%+v, want %+v", s, w)
		}
	}
	if len(want) > 0 || plan.Policy != "senders" {
		t.Errorf("missing: %v; policy %q", want, plan.Policy)
	}
	limits := []client.Limit{{Name: "max_overlap", Value: "24h0m0s", Policy: "everything", File: "config.hcl", Line: line(`max_overlap = "24h"`)},
		{Name: "plain_payload", Value: "true", Policy: "told-plainly", File: "config.hcl", Line: line("plain_payload = true")}}
	if !slices.Equal(plan.Limits, limits) {
		t.Errorf("%+v", plan.Limits)
	}
	berlin := must(time.LoadLocation("Europe/Berlin"))(t)
	for i, d := range plan.Upcoming {
		local := d.BeginsAt.In(berlin)
		if i > 0 && (d.Why != "schedule" || !d.At.After(plan.Upcoming[i-1].At) || d.BeginsAt.Before(d.At) || local.Weekday() == time.Saturday || local.Weekday() == time.Sunday || local.Hour() < 2 || local.Hour() > 5) {
			t.Errorf("%+v, %s", d, local)
		}
	}
	if len(plan.Upcoming) != 10 {
		t.Errorf("%d rotations are foretold", len(plan.Upcoming))
	}

	all := must(o.EffectivePlans(ctx, client.SecretQuery{}))(t).Items
	i := slices.IndexFunc(all, func(e client.Effective) bool { return e.Secret == mailer })
	if len(all) != 2 || i < 0 || len(all[i].Settings) != len(plan.Settings) || len(all[i].Upcoming) != 10 {
		t.Errorf("%+v", all)
	}
	theirs := o.holding(t, client.CreateTokenRequest{Name: "theirs", Tenant: "default", Policies: []string{"reader"}})
	for _, s := range must(theirs.Plan(ctx, mailer))(t).Settings {
		if s.File != "" || s.Line != 0 {
			t.Errorf("who is bound to a tenant is told of %s:%d", s.File, s.Line)
		}
	}
	before, after, _ := strings.Cut(o.hcl, `secret "mail/approved"`)
	_, after, _ = strings.Cut(after, "\n}\n")
	o.hcl = before + after
	o.reload(t)
	for _, s := range must(o.Plan(ctx, "mail/approved"))(t).Settings {
		if s.From != client.FromDefinition {
			t.Errorf("a secret without a block: %+v", s)
		}
	}
}
