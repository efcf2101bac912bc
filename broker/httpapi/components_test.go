package httpapi_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// What memory answers about issuers, probes and plans.

func (m *memory) Issuers(_ context.Context, p authn.Principal) (client.List[client.Issuer], error) {
	return client.List[client.Issuer]{Items: []client.Issuer{{Name: "mailer", Type: "http", State: client.ComponentReady}}}, m.serve(p, "issuers")
}

func (m *memory) CheckIssuer(_ context.Context, p authn.Principal, name string, r client.CheckIssuerRequest) (client.IssuerCheck, error) {
	return client.IssuerCheck{Issuer: name, OK: true, Findings: []client.IssuerFinding{}}, m.serve(p, "check-issuer", name, r.Secret)
}

func (m *memory) Probes(_ context.Context, p authn.Principal) (client.List[client.Probe], error) {
	return client.List[client.Probe]{Items: []client.Probe{{Name: "mailer", Type: "http", State: client.ComponentReady}}}, m.serve(p, "probes")
}

func (m *memory) Identify(_ context.Context, p authn.Principal, r client.IdentifyRequest) (client.Identified, error) {
	return client.Identified{Matches: []client.IdentifiedVersion{}}, m.serve(p, "identify", r.Value.Reveal(), r.Probe)
}

func (m *memory) RunProbe(_ context.Context, p authn.Principal, name string, r client.RunProbeRequest) (client.ProbeRun, error) {
	return client.ProbeRun{Probe: name, Secret: r.Secret, Verdict: client.Accepted}, m.serve(p, "run", name, r.Secret, r.Version, r.Reason)
}

func (m *memory) Supply(_ context.Context, p authn.Principal, id string, r client.SupplyRequest) (client.Rotation, error) {
	if err := r.Decode(); err != nil {
		return client.Rotation{}, err
	}
	return m.rotation(r.Reason), m.serve(p, "supply", id, strings.Join(slices.Sorted(maps.Keys(r.Fields)), ","), fmt.Sprintf("%q", r.Fields["key"]), r.Handle["id"])
}

func (m *memory) TurnedOff(_ context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.RetirementIntervention, error) {
	return client.RetirementIntervention{Foretold: foretold(r), Retirement: m.retirement()}, m.serve(p, "done", id, r.Reason, r.DryRun)
}

func (m *memory) EffectivePlans(_ context.Context, p authn.Principal, q client.SecretQuery) (client.List[client.Effective], error) {
	return client.List[client.Effective]{Items: []client.Effective{{Secret: m.secret.Name}}}, m.serve(p, "plans", q.Prefix, q.Limit)
}

func (m *memory) PlanConfig(_ context.Context, p authn.Principal, r client.ConfigPlanRequest) (client.ConfigPlan, error) {
	return client.ConfigPlan{Changes: []client.PlannedChange{}}, m.serve(p, "plan-config", len(r.Secrets), len(r.Blocks))
}

// componentCalls are all calls about components and plans, by how the broker is asked.
func componentCalls(ctx context.Context) map[string]func(*client.Client) error {
	secrets := []client.PlannedSecret{{Name: "a", Tenant: "default", Definition: []byte("{}")}}
	return map[string]func(*client.Client) error{
		"issuers":             func(c *client.Client) error { return second(c.Issuers(ctx)) },
		"check-issuer mailer": func(c *client.Client) error { return second(c.CheckIssuer(ctx, "mailer", client.CheckIssuerRequest{})) },
		"check-issuer mailer a": func(c *client.Client) error {
			return second(c.CheckIssuer(ctx, "mailer", client.CheckIssuerRequest{Secret: "a"}))
		},
		"probes": func(c *client.Client) error { return second(c.Probes(ctx)) },
		"run mailer a 2 why": func(c *client.Client) error {
			return second(c.RunProbe(ctx, "mailer", client.RunProbeRequest{Secret: "a", Version: 2, Reason: "why"}))
		},
		`supply r1 key,user "<&>" key_1`: func(c *client.Client) error {
			return second(c.Supply(ctx, "r1", client.SupplyRequest{Fields: client.Fields{"key": "<&>", "user": "u"}, Handle: map[string]string{"id": "key_1"}}))
		},
		`supply r1 key "\xff\x00"`: func(c *client.Client) error { // no text
			return second(c.Supply(ctx, "r1", client.SupplyRequest{Fields: client.Fields{"key": "\xff\x00"}}))
		},
		"done t1 why false": func(c *client.Client) error {
			return second(c.TurnedOff(ctx, "t1", client.InterventionRequest{Reason: "why"}))
		},
		"identify found true": func(c *client.Client) error {
			return second(c.Identify(ctx, client.IdentifyRequest{Value: "found", Probe: true}))
		},
		"plans mail/ 5": func(c *client.Client) error {
			return second(c.EffectivePlans(ctx, client.SecretQuery{Prefix: "mail/", Page: client.Page{Limit: 5}}))
		},
		"plan-config 1 0": func(c *client.Client) error {
			return second(c.PlanConfig(ctx, client.ConfigPlanRequest{Secrets: secrets}))
		},
	}
}

func TestComponentsAndPlansAreReached(t *testing.T) {
	n := start(t, newMemory(), nil)
	for want, call := range componentCalls(t.Context()) {
		if err := call(n.client(t, goodToken)); err != nil || n.last() != want {
			t.Errorf("the broker was asked %q, want %q: %v", n.last(), want, err)
		}
		if err := call(n.client(t, otherToken)); client.Status(err) != http.StatusForbidden {
			t.Errorf("%s, by who may not: %v", want, err)
		}
		before := n.count()
		if err := call(n.client(t, "nope")); client.Status(err) != http.StatusUnauthorized || n.count() != before {
			t.Errorf("%s, by nobody: %v", want, err)
		}
	}
}

// TestAConfigurationMayBeLarge: larger than what a request may have elsewhere.
func TestAConfigurationMayBeLarge(t *testing.T) {
	n := start(t, newMemory(), nil)
	large := strings.Repeat(" ", 2<<20)
	if a := n.ask(t, "POST", "/api/v1/config/plan", goodToken, `{"secrets":[],`+large+`"blocks":[]}`); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := n.ask(t, "POST", "/api/v1/sys/reload", goodToken, `{`+large+`"dry_run":true}`); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := n.ask(t, "POST", "/api/v1/config/plan", goodToken, `{"secrets":[],`+strings.Repeat(large, 9)+`"blocks":[]}`); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestASuppliedValueIsInNoError, however wrong the body is.
func TestASuppliedValueIsInNoError(t *testing.T) {
	const canary = "CANARY-5f2c"
	n := start(t, newMemory(), nil)
	for _, body := range []string{
		`{"fields":{"key":"` + canary + `"},"encodings":{"key":"rot13"}}`, `{"fields":"` + canary + `"}`, `{"fields":["` + canary + `"]}`,
		`{"fields":{"key":{"a":"` + canary + `"}}}`, `{"field":{"key":"` + canary + `"}}`, `{"fields":{"key":"` + canary + `"}`, `"` + canary + `"`,
	} {
		a := n.ask(t, "POST", "/api/v1/rotations/r1/value", goodToken, body)
		if a.status < 400 || strings.Contains(a.body, canary) {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
}
