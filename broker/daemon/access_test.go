package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// twoTenants adds a second tenant, which has a secret of the same name.
const twoTenants = embedded + `
secret "app/key" {
  tenant  = "acme"
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
}
secret "app/other" {
  backend = "embedded"
  probe   = "internal"
  issuer "internal" {}
}
policy "one" {
  path "app/key" {
    capabilities = ["list", "read"]
  }
}
`

func startTwoTenants(t *testing.T) (*site, *node) {
	t.Helper()
	secret := newSigningSecret()
	s := newSite(t, withConsumer(twoTenants, newConsumer(t, secret)))
	s.env["SIGNING_SECRET"] = secret.Reveal()
	return s, s.start()
}

// as returns a client that holds a new token.
func (s *site) as(n *node, r client.CreateTokenRequest) (*client.Client, client.Token) {
	s.t.Helper()
	r.Name = "test"
	tok, err := n.CreateToken(s.t.Context(), r)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.client(tok.Token.Reveal(), "http://"+s.addr), tok
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (n *node) done(t *testing.T, secrets ...string) {
	t.Helper()
	for _, name := range secrets {
		if rot, _ := n.rotate(t, name); rot.State != client.RotationDone {
			t.Fatalf("%s: %s: %s", name, rot.State, rot.Error)
		}
	}
}

func TestATenantsTokenSeesNothingOfOthers(t *testing.T) {
	t.Parallel()
	s, n := startTwoTenants(t)
	ctx := t.Context()
	const foreign = "default:app/key"
	n.done(t, foreign, foreign, "acme:app/key")
	acme, tok := s.as(n, client.CreateTokenRequest{Tenant: "acme", Policies: []string{"root"}})

	own := n.value(t, "acme:app/key")
	if v, err := acme.Value(ctx, "app/key", 0); err != nil || v.Fields["key"] != own.Fields["key"] || own.Fields["key"] == n.value(t, foreign).Fields["key"] {
		t.Errorf("its own value: %v", err)
	}
	secrets := must(acme.Secrets(ctx, client.SecretQuery{}))(t).Items
	rotations := must(acme.Rotations(ctx, client.RotationQuery{}))(t).Items
	retirements := must(acme.Retirements(ctx, client.RetirementQuery{}))(t).Items
	deliveries := must(acme.Deliveries(ctx, client.DeliveryQuery{}))(t).Items
	tokens := must(acme.Tokens(ctx, client.Page{}))(t).Items
	if len(secrets) != 1 || secrets[0].Tenant != "acme" || len(rotations) != 1 || rotations[0].Tenant != "acme" ||
		len(retirements) != 0 || len(deliveries) != 0 || len(tokens) != 1 || tokens[0].ID != tok.ID || tokens[0].Tenant != "acme" {
		t.Errorf("it lists %d secrets, %d rotations, %d retirements, %d deliveries, %d tokens",
			len(secrets), len(rotations), len(retirements), len(deliveries), len(tokens))
	}

	// What only the others have; the root token finds it all.
	rotation := must(n.Rotations(ctx, client.RotationQuery{Secret: foreign}))(t).Items[0].ID
	retirement := must(n.Retirements(ctx, client.RetirementQuery{Secret: foreign}))(t).Items[0].ID
	delivery := must(n.Deliveries(ctx, client.DeliveryQuery{Secret: foreign}))(t).Items[0]
	all := must(n.Tokens(ctx, client.Page{}))(t).Items
	var watched error
	for _, err := range acme.WatchRotation(ctx, rotation) {
		watched = err
	}
	for what, err := range map[string]error{
		"show":            second(acme.Secret(ctx, foreign)),
		"show, by name":   second(acme.Secret(ctx, "app/other")),
		"value":           second(acme.Value(ctx, foreign, 0)),
		"value, by name":  second(acme.Value(ctx, "app/other", 0)),
		"rotate":          second(acme.Rotate(ctx, foreign, client.RotateRequest{})),
		"revoke":          second(acme.Revoke(ctx, foreign, client.RevokeRequest{Version: 1})),
		"emergency":       second(acme.Emergency(ctx, foreign, client.EmergencyRequest{Reason: "x"})),
		"pause":           second(acme.Pause(ctx, foreign, client.PauseRequest{})),
		"event":           second(acme.Event(ctx, "ci", client.EventRequest{ID: "1", Secret: foreign, Reason: "test"})),
		"event, by name":  second(acme.Event(ctx, "ci", client.EventRequest{ID: "1", Secret: "app/other", Reason: "test"})),
		"rotation":        second(acme.Rotation(ctx, rotation)),
		"watch":           watched,
		"its rotations":   second(acme.Rotations(ctx, client.RotationQuery{Secret: foreign})),
		"retirement":      second(acme.Retirement(ctx, retirement)),
		"its retirements": second(acme.Retirements(ctx, client.RetirementQuery{Secret: foreign})),
		"delivery":        second(acme.Delivery(ctx, delivery.ID)),
		"its deliveries":  second(acme.Deliveries(ctx, client.DeliveryQuery{Secret: foreign})),
		"acknowledge":     second(acme.Acknowledge(ctx, delivery.ID, client.AcknowledgeRequest{Generation: delivery.Generation})),
		"revoke token":    second(acme.RevokeToken(ctx, all[len(all)-1].ID)),
	} {
		if client.Status(err) != http.StatusNotFound {
			t.Errorf("%s: %v, want 404", what, err)
		}
	}
}

func TestATokenGivesNoMoreThanItsMakerHas(t *testing.T) {
	t.Parallel()
	s, n := startTwoTenants(t)
	ctx := t.Context()
	root := []string{"root"}
	bound, _ := s.as(n, client.CreateTokenRequest{Tenant: "acme", Policies: root})
	brief, made := s.as(n, client.CreateTokenRequest{Policies: root, TTL: "30m"})
	for what, err := range map[string]error{
		"403 another tenant":   second(bound.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Policies: root, Tenant: "default"})),
		"403 a longer life":    second(brief.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Policies: root, TTL: "31m"})),
		"400 no tenant's name": second(n.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Policies: root, Tenant: "a:b"})),
		"400 no duration":      second(n.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Policies: root, TTL: "0s"})),
		"400 no policies":      second(n.CreateToken(ctx, client.CreateTokenRequest{Name: "x"})),
	} {
		if want, _, _ := strings.Cut(what, " "); fmt.Sprint(client.Status(err)) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	if child := must(bound.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Policies: root}))(t); child.Tenant != "acme" {
		t.Errorf("who is bound to acme made a token of the tenant %q", child.Tenant)
	}
	if child := must(brief.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Policies: root}))(t); !child.ExpiresAt.Equal(made.ExpiresAt) {
		t.Errorf("without a ttl it expires %s, its maker %s", child.ExpiresAt, made.ExpiresAt)
	}
	short := must(brief.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Policies: root, TTL: "29m"}))(t)
	if short.ExpiresAt.IsZero() || short.ExpiresAt.After(made.ExpiresAt) || short.Tenant != "" {
		t.Errorf("it expires %s, its maker %s; tenant %q", short.ExpiresAt, made.ExpiresAt, short.Tenant)
	}
}

// lastAudited describes the last lines about an action: outcome, path, details.
func (s *site) lastAudited(action string, lines int, details ...string) string {
	s.t.Helper()
	var found []string
	for line := range strings.Lines(s.read("data/audit.jsonl")) {
		var ev rotation.AuditEvent
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		if ev.Action != action {
			continue
		}
		text := ev.Outcome + " " + ev.Path
		for _, d := range details {
			if d == "capability" {
				ev.Detail[d] = ev.Capability
			}
			text += fmt.Sprintf(" %s=%s", d, ev.Detail[d])
		}
		found = append(found, text)
	}
	return strings.Join(found[max(0, len(found)-lines):], "; ")
}

func TestTheAuditLogTellsWhoseSecretAndWhatCameOfIt(t *testing.T) {
	t.Parallel()
	s, n := startTwoTenants(t)
	ctx := t.Context()
	n.done(t, "acme:app/key", "app/other")
	other := must(n.Rotations(ctx, client.RotationQuery{Secret: "app/other"}))(t).Items[0].ID
	one, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"one"}})
	for _, c := range []struct {
		action  string
		call    func() error
		status  int // 0: it succeeds
		details string
		want    string
	}{
		{"secret.read", func() error { return second(n.Value(ctx, "acme:app/key", 0)) }, 0, "tenant secret version",
			"ok app/key tenant=acme secret=app/key version=1"},
		{"secret.read", func() error { return second(n.Value(ctx, "acme:app/key", 9)) }, 404, "tenant error",
			"ok app/key tenant=acme error=; failed app/key tenant=acme error=not found"},
		{"secret.read", func() error { return second(n.Value(ctx, "app/key", 0)) }, 400, "tenant secret error",
			"ok app/key tenant= secret=app/key error=; failed app/key tenant= secret=app/key error=invalid"},
		{"secret.read", func() error { return second(one.Value(ctx, "default:app/other", 0)) }, 403, "tenant capability",
			"denied app/other tenant=default capability=read"},
		{"secret.read", func() error { return second(one.Value(ctx, "nosuch", 0)) }, 403, "tenant secret", "denied nosuch tenant= secret=nosuch"},
		{"secret.read", func() error { return second(n.Value(ctx, ":", 0)) }, 404, "error", "ok  error=; failed  error=not found"},
		{"secret.show", func() error { return second(n.Secret(ctx, "nosuch")) }, 404, "error", "ok nosuch error=; failed nosuch error=not found"},
		{"secret.revoke", func() error { return second(n.Revoke(ctx, "acme:app/key", client.RevokeRequest{Version: 1})) }, 409, "tenant error",
			"ok app/key tenant=acme error=; failed app/key tenant=acme error=conflict"},
		{"event.receive", func() error {
			return second(n.Event(ctx, "ci", client.EventRequest{ID: "1", Secret: "acme:app/key", Reason: "test"}))
		}, 0, "tenant secret event",
			"ok sys/events/ci tenant=acme secret=app/key event=1"},
		{"event.receive", func() error {
			return second(n.Event(ctx, "nosuch", client.EventRequest{ID: "1", Secret: "app/other", Reason: "test"}))
		}, 404, "tenant error",
			"ok sys/events/nosuch tenant=default error=; failed sys/events/nosuch tenant=default error=not found"},
		{"rotation.show", func() error { return second(n.Rotation(ctx, other)) }, 0, "rotation tenant", "ok app/other rotation=" + other + " tenant=default"},
		{"rotation.show", func() error { return second(one.Rotation(ctx, other)) }, 404, "rotation tenant", "denied app/other rotation=" + other + " tenant=default"},
		{"rotation.show", func() error { return second(one.Rotation(ctx, "gone")) }, 404, "rotation error", "failed sys/rotations/gone rotation=gone error=not found"},
		{"rotation.list", func() error { return second(one.Rotations(ctx, client.RotationQuery{Secret: "app/other"})) }, 404, "secret tenant",
			"denied app/other secret=app/other tenant=default"},
		{"rotation.list", func() error { return second(n.Rotations(ctx, client.RotationQuery{Secret: "nosuch"})) }, 404, "secret error",
			"failed nosuch secret=nosuch error=not found"},
		{"rotation.list", func() error {
			return second(n.Rotations(ctx, client.RotationQuery{Secret: "app/other", Page: client.Page{After: "%"}}))
		}, 400, "error", "ok app/other error=; failed app/other error=invalid"},
		{"token.revoke", func() error { return second(n.RevokeToken(ctx, "nosuch")) }, 404, "token error",
			"ok sys/tokens token=nosuch error=; failed sys/tokens token=nosuch error=not found"},
		{"delivery.acknowledge", func() error { return second(n.Acknowledge(ctx, "nosuch", client.AcknowledgeRequest{Generation: 1})) }, 404, "error",
			"failed sys/deliveries/nosuch error=not found"},
	} {
		if err := c.call(); client.Status(err) != c.status || (c.status == 0 && err != nil) {
			t.Errorf("%s: %v, want %d", c.want, err, c.status)
		}
		eventually(t, "the audit log to have "+c.want, func() bool { // what contains a leak comes there after it
			return s.lastAudited(c.action, strings.Count(c.want, ";")+1, strings.Fields(c.details)...) == c.want
		})
	}
	// Whoever may not see it learns nothing of what there is.
	hidden, missing := second(one.Rotation(ctx, other)), second(one.Rotation(ctx, "gone"))
	if h, m := strings.ReplaceAll(hidden.Error(), other, "ID"), strings.ReplaceAll(missing.Error(), "gone", "ID"); h != m {
		t.Errorf("%q, but %q for what is not there", h, m)
	}
}

// TestTheEndOfTheOverlapIsAChange: the previous value must not be kept by who
// asks for what is new.
func TestTheEndOfTheOverlapIsAChange(t *testing.T) {
	t.Parallel()
	n := newSite(t, withConsumer(strings.Replace(embedded, `overlap = "1s"`, `overlap = "3s"`, 1), nil)).start()
	ctx := t.Context()
	n.done(t, "app/key")
	r := must(n.Rotate(ctx, "app/key", client.RotateRequest{}))(t)
	var have client.Value
	eventually(t, "the previous value", func() bool {
		have = n.value(t, "app/key")
		return have.Previous != nil
	})
	if rot, _ := n.follow(t, r.ID); rot.State != client.RotationDone {
		t.Fatalf("%s: %s", rot.State, rot.Error)
	}
	now, changed, err := n.ValueIfChanged(ctx, "app/key", have)
	if err != nil || !changed || now.Previous != nil || now.Generation != have.Generation {
		t.Errorf("changed %v (%v), generation %d, before %d", changed, err, now.Generation, have.Generation)
	}
	if _, changed, err := n.ValueIfChanged(ctx, "app/key", now); err != nil || changed {
		t.Errorf("nothing happened: changed %v (%v)", changed, err)
	}
}

// TestVaultsDoNotKeepTenantsApart: what is one path in Vault cannot be two secrets.
func TestVaultsDoNotKeepTenantsApart(t *testing.T) {
	for backend, refused := range map[string]bool{
		`backend "local" "b" {}`: false,
		"backend \"vault\" \"b\" {\n address = \"https://127.0.0.1:8200\"\n auth \"token\" {\n token = env(\"T\")\n }\n}": true,
	} {
		source := backend + "\nsecret \"a\" {\n backend = \"b\"\n}\nsecret \"a\" {\n tenant = \"acme\"\n backend = \"b\"\n}\n"
		_, diags := config.Parse(map[string][]byte{"a.hcl": []byte(source)}, daemon.Registry(), config.Options{Offline: true})
		if err := diags.Err(); (err != nil) != refused || err != nil && !strings.Contains(err.Error(), "does not keep tenants apart") {
			t.Errorf("%s: %v", backend, err)
		}
	}
}

// TestShippedPolicies reads the policies that the repository comes with.
func TestShippedPolicies(t *testing.T) {
	cfg, diags := config.Load("../../config.hcl", daemon.Registry(), config.Options{Offline: true})
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	for _, p := range cfg.Policies {
		acl := policy.Compile([]policy.Policy{p}, policy.Identity{})
		operator := p.Name == "operator"
		responder, lead := p.Name == "responder", p.Name == "responder-lead" // who is on call, and who may be alone
		if acl.Decide("sys/events", policy.Read, policy.Facts{}).Allowed != responder || acl.Decide("sys/incidents/override", policy.Emergency, policy.Facts{}).Allowed != lead {
			t.Errorf("the policy %s", p.Name)
		}
		if acl.Decide("demo/api-key", policy.Update, policy.Facts{}).Allowed != operator || acl.Decide("sys/tokens", policy.Update, policy.Facts{}).Allowed {
			t.Errorf("the policy %s", p.Name)
		}
	}
}
