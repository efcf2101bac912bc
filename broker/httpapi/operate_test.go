package httpapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"testing"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// What memory answers to operators.

func foretold(r client.InterventionRequest) client.Foretold {
	return client.Foretold{DryRun: r.DryRun, Will: []string{"nothing much follows"}}
}

func (m *memory) onRotation(p authn.Principal, call, id string, r client.InterventionRequest) (client.RotationIntervention, error) {
	return client.RotationIntervention{Foretold: foretold(r), Rotation: m.rotation(r.Reason)}, m.serve(p, call, id, r.Reason, r.DryRun)
}

func (m *memory) Cancel(_ context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.RotationIntervention, error) {
	return m.onRotation(p, "cancel", id, r)
}

func (m *memory) Retry(_ context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.RotationIntervention, error) {
	return m.onRotation(p, "retry", id, r)
}

func (m *memory) Approve(_ context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.RotationIntervention, error) {
	return m.onRotation(p, "approve", id, r)
}

func (m *memory) RollBack(_ context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.RotationIntervention, error) {
	return m.onRotation(p, "rollback", id, r)
}

func (m *memory) Probe(_ context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.RetirementIntervention, error) {
	return client.RetirementIntervention{Foretold: foretold(r), Retirement: m.retirement()}, m.serve(p, "probe", id, r.Reason, r.DryRun)
}

func (m *memory) WatchRetirement(ctx context.Context, p authn.Principal, id string) (<-chan client.Event, error) {
	if err := m.serve(p, "watch-retirement", id); err != nil {
		return nil, err
	}
	return m.watch(ctx), nil
}

func (m *memory) Orphans(_ context.Context, p authn.Principal, q client.OrphanQuery) (client.List[client.Orphan], error) {
	return client.List[client.Orphan]{Items: []client.Orphan{{Secret: m.secret.Name, Version: 2, Suspected: true, Retirement: m.retirement()}}},
		m.serve(p, "orphans", q.Secret, q.Limit)
}

func (m *memory) Replay(_ context.Context, p authn.Principal, id string, r client.InterventionRequest) (client.DeliveryIntervention, error) {
	return client.DeliveryIntervention{Foretold: foretold(r), Delivery: m.delivery()}, m.serve(p, "replay", id, r.Reason, r.DryRun)
}

func (m *memory) Plan(_ context.Context, p authn.Principal, name string) (client.Plan, error) {
	return client.Plan{Effective: client.Effective{Secret: name}, WhyNot: []client.Blocker{{WaitingFor: "pause", Mend: "resume it"}}}, m.serve(p, "plan", name)
}

func (m *memory) Repair(_ context.Context, p authn.Principal, name string, r client.RepairRequest) (client.Repair, error) {
	return client.Repair{DryRun: r.DryRun, Findings: []client.Finding{}}, m.serve(p, "repair", name, r.Reason, r.DryRun, r.Overwrite)
}

func (m *memory) Frozen(_ context.Context, p authn.Principal) (client.Freeze, error) {
	return client.Freeze{Frozen: true, By: "k1", At: then}, m.serve(p, "frozen")
}

func (m *memory) Freeze(_ context.Context, p authn.Principal, r client.InterventionRequest) (client.FreezeIntervention, error) {
	return client.FreezeIntervention{Foretold: foretold(r), Freeze: client.Freeze{Frozen: true, At: then}}, m.serve(p, "freeze", r.Reason, r.DryRun)
}

func (m *memory) Unfreeze(_ context.Context, p authn.Principal, r client.InterventionRequest) (client.FreezeIntervention, error) {
	return client.FreezeIntervention{Foretold: foretold(r)}, m.serve(p, "unfreeze", r.Reason, r.DryRun)
}

// operatorCalls are all calls of operators, by how the broker is asked.
func operatorCalls(ctx context.Context, c *client.Client) map[string]func() (any, error) {
	const name = "payments/stripe"
	why := client.InterventionRequest{Reason: "why"}
	dry := client.InterventionRequest{DryRun: true}
	return map[string]func() (any, error){
		"cancel r1 why false":   func() (any, error) { return c.Cancel(ctx, "r1", why) },
		"cancel r1  true":       func() (any, error) { return c.Cancel(ctx, "r1", dry) },
		"retry r1 why false":    func() (any, error) { return c.Retry(ctx, "r1", why) },
		"approve r1 why false":  func() (any, error) { return c.Approve(ctx, "r1", why) },
		"rollback r1 why false": func() (any, error) { return c.RollBack(ctx, "r1", why) },
		"probe t1 why false":    func() (any, error) { return c.Probe(ctx, "t1", why) },
		"replay d1  true":       func() (any, error) { return c.Replay(ctx, "d1", dry) },
		"orphans payments/stripe 5": func() (any, error) {
			return c.Orphans(ctx, client.OrphanQuery{Secret: name, Page: client.Page{Limit: 5}})
		},
		"plan payments/stripe":                  func() (any, error) { return c.Plan(ctx, name) },
		"repair payments/stripe why true false": func() (any, error) { return c.Repair(ctx, name, client.RepairRequest{Reason: "why", DryRun: true}) },
		"repair payments/stripe  false true":    func() (any, error) { return c.Repair(ctx, name, client.RepairRequest{Overwrite: true}) },
		"frozen":                                func() (any, error) { return c.Frozen(ctx) },
		"freeze why false":                      func() (any, error) { return c.Freeze(ctx, why) },
		"unfreeze  true":                        func() (any, error) { return c.Unfreeze(ctx, dry) },
	}
}

func TestOperatorsReachTheBroker(t *testing.T) {
	n := start(t, newMemory(), nil)
	for want, call := range operatorCalls(t.Context(), n.client(t, goodToken)) {
		if _, err := call(); err != nil || n.last() != want {
			t.Errorf("the broker was asked %q, want %q: %v", n.last(), want, err)
		}
	}
	for want, call := range operatorCalls(t.Context(), n.client(t, otherToken)) {
		if _, err := call(); client.Status(err) != http.StatusForbidden {
			t.Errorf("%s, by who may not: %v", want, err)
		}
	}
	before := n.count()
	for want, call := range operatorCalls(t.Context(), n.client(t, "nope")) {
		if _, err := call(); client.Status(err) != http.StatusUnauthorized {
			t.Errorf("%s, by nobody: %v", want, err)
		}
	}
	if n.count() != before {
		t.Errorf("the broker was asked %q by nobody", n.last())
	}
}

// What is said on the wire is what programs rely on.
func TestInterventionsOnTheWire(t *testing.T) {
	n := start(t, newMemory(), nil)
	for path, want := range map[string][]string{
		"rotations/r1/cancel":  {"dry_run", "rotation", "will"},
		"retirements/t1/probe": {"dry_run", "retirement", "will"},
		"deliveries/d1/replay": {"delivery", "dry_run", "will"},
		"sys/freeze":           {"dry_run", "freeze", "will"},
		"secrets/a%2Fb/repair": {"dry_run", "findings"},
	} {
		a := n.ask(t, "POST", "/api/v1/"+path, goodToken, `{"dry_run": true, "reason": "test"}`)
		var got map[string]any
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != http.StatusOK || got["dry_run"] != true {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		for _, key := range want {
			if _, ok := got[key]; !ok || len(got) != len(want) {
				t.Errorf("%s: %s is not %v", path, a.body, want)
			}
		}
	}
	for path, body := range map[string]string{
		"rotations/r1/cancel":  `{"dryrun": true}`,
		"rotations/r1/retry":   `{"dry_run": "yes"}`,
		"secrets/a%2Fb/repair": `{"overwrite": 1}`,
		"sys/freeze?reason=x":  `{}`,
	} {
		if a := n.ask(t, "POST", "/api/v1/"+path, goodToken, body); a.status != http.StatusBadRequest {
			t.Errorf("%s %s: %d %s", path, body, a.status, a.body)
		}
	}
	for path, allow := range map[string]string{"rotations/r1/cancel": "POST", "sys/freeze": "GET, HEAD, POST", "secrets/a/plan": "GET, HEAD", "orphans": "GET, HEAD"} {
		if a := n.ask(t, "DELETE", "/api/v1/"+path, goodToken, ""); a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != allow {
			t.Errorf("%s: %d, allowed %s", path, a.status, a.header.Get("Allow"))
		}
	}
}

func TestWatchARetirement(t *testing.T) {
	m := newMemory()
	retirement := m.retirement()
	m.timeline = []client.Event{{Type: client.EventRetirement, Retirement: &retirement}, {Type: client.EventEnd}}
	n := start(t, m, nil)
	var types []string
	for e, err := range n.client(t, goodToken).WatchRetirement(t.Context(), "t1") {
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, e.Type)
	}
	if !reflect.DeepEqual(types, []string{client.EventRetirement, client.EventEnd}) || n.last() != "watch-retirement t1" {
		t.Errorf("%v, the broker was asked %q", types, n.last())
	}
}
