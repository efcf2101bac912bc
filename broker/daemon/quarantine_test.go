package daemon_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/authn/oidcserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/rotation"
)

func keep(kind, name string) client.QuarantineRequest {
	r := client.QuarantineRequest{Kind: kind, Name: name}
	r.Reason = "it was broken into"
	return r
}

// keepOut puts somebody in quarantine.
func (n *node) keepOut(t *testing.T, kind, name string) client.QuarantineIntervention {
	t.Helper()
	return must(n.Quarantine(t.Context(), keep(kind, name)))(t)
}

func (n *node) letIn(t *testing.T, kind, name string) client.QuarantineIntervention {
	t.Helper()
	return must(n.LiftQuarantine(t.Context(), keep(kind, name)))(t)
}

// TestARoleIsKeptOutAtOnce, by whichever method its principals come: tokens, those that
// descend from them, certificates and logins. Once it is let in its tokens stay revoked.
func TestARoleIsKeptOutAtOnce(t *testing.T) {
	t.Parallel()
	provider := oidcserver.New(t, nil)
	s := newSite(t, withConsumer(embedded, nil)+rolesToLogIn+`
auth "oidc" "corp" {
  discovery_url         = "`+provider.Issuer+`"
  client_id             = "keybroker"
  bound_audiences       = ["keybroker", "`+oidcserver.Audience+`"]
  allow_private_network = true
}
role "ci" {
  policies = ["reading", "minting"]
  bind "corp" {
    claims = { groups = "dev" }
  }
}
policy "minting" {
  path "sys/tokens" {
    capabilities = ["create"]
  }
}
role "cd" {
  policies = ["reading"]
}
`)
	n := s.start()
	ctx := t.Context()
	n.done(t, "app/key")
	nobody := s.client("", n.addr)
	jwt := func() client.LoginRequest {
		return client.LoginRequest{Role: "ci", JWT: client.SecretText(provider.Sign(t, claims("dev")))}
	}
	token, _ := s.as(n, client.CreateTokenRequest{Role: "ci"})
	heir, _ := s.as(&node{Client: token}, client.CreateTokenRequest{Policies: []string{"reading"}})
	login := s.client(must(nobody.LogIn(ctx, "corp", jwt()))(t).Token.Reveal(), n.addr)
	glass, _ := s.as(n, client.CreateTokenRequest{Role: "ci", BreakGlass: true})
	other, _ := s.as(n, client.CreateTokenRequest{Role: "cd"})
	kept := map[string]*client.Client{"a token": token, "one that descends from it": heir, "that of a login": login}
	for what, c := range kept {
		if _, err := c.Value(ctx, "app/key", 0); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}

	did := n.keepOut(t, client.QuarantineRole, "ci")
	if q := did.Quarantine; q.Kind != "role" || q.Name != "ci" || q.Reason != "it was broken into" || q.By == "" || q.At.IsZero() || !slices.ContainsFunc(did.Will, func(will string) bool { return strings.Contains(will, "break-glass tokens of the role stay valid (1)") }) {
		t.Errorf("%+v", did)
	}
	for what, c := range kept {
		refused(t, what, second(c.Value(ctx, "app/key", 0)), http.StatusForbidden, `the role "ci" is in quarantine since 20`)
		refused(t, what+", of itself", second(c.OwnToken(ctx)), http.StatusForbidden, "in quarantine since 20")
	}
	refused(t, "a login", second(nobody.LogIn(ctx, "corp", jwt())), http.StatusForbidden, `the role "ci" is in quarantine since 20`)
	refused(t, "a new token", second(n.CreateToken(ctx, client.CreateTokenRequest{Name: "new", Role: "ci"})), http.StatusForbidden, "in quarantine since 20")
	for what, c := range map[string]*client.Client{"a break-glass token": glass, "another role": other, "root": n.Client} {
		if _, err := c.Value(ctx, "app/key", 0); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	again := n.keepOut(t, client.QuarantineRole, "ci")
	list := must(n.Quarantines(ctx))(t).Items
	if len(list) != 1 || !list[0].At.Equal(did.Quarantine.At) || again.Quarantine.Name != "ci" {
		t.Errorf("twice: %+v", list)
	}
	eventually(t, "the audit log tells of the tokens, and of the quarantine", func() bool { // which waited for no log
		revoked, begun := must(n.Audit(ctx, client.AuditQuery{Action: "token.revoked"}))(t).Items, must(n.Audit(ctx, client.AuditQuery{Action: "quarantine.begin"}))(t).Items
		return len(revoked) >= 2 && len(begun) == 1 && begun[0].Path == "sys/quarantine/role/ci"
	})

	n.letIn(t, client.QuarantineRole, "ci")
	for what, c := range kept {
		refused(t, what+", after the quarantine", second(c.Value(ctx, "app/key", 0)), http.StatusUnauthorized, "")
	}
	must(nobody.LogIn(ctx, "corp", jwt()))(t)
	must(s.client(must(n.CreateToken(ctx, client.CreateTokenRequest{Name: "new", Role: "ci"}))(t).Token.Reveal(), n.addr).Value(ctx, "app/key", 0))(t)
	refused(t, "lifted twice", second(n.LiftQuarantine(ctx, keep(client.QuarantineRole, "ci"))), http.StatusNotFound, "there is no quarantine of the role")
}

// TestWhoMayKeepOut: nobody puts a role of their own in quarantine by mistake, a tenant
// reaches only its own, and a dry run changes nothing.
func TestWhoMayKeepOut(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil)+inboxes+`
role "responder" {
  policies = ["responding"]
}
role "narrow" {
  policies = ["one"]
}
role "elsewhere" {
  tenant   = "acme"
  policies = ["responding"]
}
policy "responding" {
  path "sys/quarantine/*" {
    capabilities = ["update"]
  }
  path "sys/quarantine" {
    capabilities = ["list"]
  }
}
policy "one" {
  path "sys/quarantine/role/vault" {
    capabilities = ["update"]
  }
}
`)
	n := s.start()
	ctx := t.Context()
	responder, _ := s.as(n, client.CreateTokenRequest{Role: "responder"})
	narrow, _ := s.as(n, client.CreateTokenRequest{Role: "narrow"})
	elsewhere, _ := s.as(n, client.CreateTokenRequest{Role: "elsewhere"})
	for what, c := range map[string]struct {
		by         *client.Client
		kind, name string
		status     int
		words      string
	}{
		"one's own":              {responder, "role", "responder", 409, "with --force"},
		"another one":            {narrow, "role", "shop", 403, "is not allowed"},
		"a consumer":             {narrow, "consumer", "given", 403, "is not allowed"},
		"of another tenant":      {elsewhere, "consumer", "app", 404, `there is no consumer "app"`},
		"a role of another one":  {elsewhere, "role", "shop", 404, `there is no role "shop"`},
		"a role of the operator": {elsewhere, "role", "responder", 404, `there is no role "responder"`},
		"what there is not":      {responder, "role", "shopp", 404, `there is no role "shopp"`},
		"something else":         {responder, "secret", "app/key", 400, "a consumer or a role"},
	} {
		refused(t, what, second(c.by.Quarantine(ctx, keep(c.kind, c.name))), c.status, c.words)
	}
	unexplained := keep("role", "shop")
	unexplained.Reason = " "
	refused(t, "for no reason", second(responder.Quarantine(ctx, unexplained)), 400, "needs a reason")
	strange := keep("role", "shop")
	strange.IncidentID = "0190f000-0000-7000-8000-000000000000"
	refused(t, "for an incident that there is not", second(responder.Quarantine(ctx, strange)), 404, "there is no incident")

	dry := keep("consumer", "app")
	dry.DryRun = true
	would := must(responder.Quarantine(ctx, dry))(t)
	if q := would.Quarantine; !would.DryRun || q.Role != "shop" || !slices.Equal(q.Also, []string{"called"}) || !q.At.IsZero() || len(would.Will) != 3 || !strings.Contains(would.Will[2], "called") {
		t.Errorf("a dry run: %+v", would)
	}
	if list := must(n.Quarantines(ctx))(t).Items; len(list) != 0 {
		t.Errorf("it is in quarantine: %+v", list)
	}
	must(narrow.Quarantine(ctx, keep("role", "vault")))(t)
	if list := must(responder.Quarantines(ctx))(t).Items; len(list) != 1 || !slices.Equal(list[0].Also, []string{"given"}) {
		t.Errorf("%+v", list)
	}
	if list := must(elsewhere.Quarantines(ctx))(t).Items; len(list) != 0 {
		t.Errorf("another tenant sees %+v", list)
	}
	refused(t, "lifted by another tenant", second(elsewhere.LiftQuarantine(ctx, keep("role", "vault"))), 404, "there is no quarantine")
	if list := must(responder.Quarantines(ctx))(t).Items; len(list) != 1 {
		t.Errorf("another tenant has lifted it: %+v", list)
	}
	forced := keep("role", "responder")
	forced.Force = true
	must(responder.Quarantine(ctx, forced))(t)
	refused(t, "who has forced it", second(responder.Quarantines(ctx)), 403, "in quarantine since")
}

// TestAConsumerIsKeptOut: it collects and acknowledges nothing, its stream ends, nobody
// waits for it, and people are told until it is let in; then it gets what has waited.
func TestAConsumerIsKeptOut(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	s, clock := alerted(t, withInbox("applied", "app"), p), &skipping{}
	look := s.adjust
	s.adjust = func(o *daemon.Options) { look(o); o.EngineClock(clock.now) }
	n := s.start()
	w := &collecting{node: n, t: t, s: s, clock: clock}
	ctx := t.Context()
	app := w.as("shop")
	n.begin(t, "app/key", client.RotationDone)
	first := one(t, app, "app")
	w.apply(app, "app", first)
	id := n.begin(t, "app/key", client.RotationOverlap)
	version2 := one(t, app, "app")
	ended := make(chan error, 1)
	following, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	go func() {
		for _, err := range app.FollowInbox(following, "app", "", nil) {
			if err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	eventually(t, "the overlap is over but for the consumer", func() bool {
		r := must(n.Rotation(ctx, id))(t)
		return r.WaitingFor == string(rotation.WaitAcknowledgment)
	})

	if did := n.keepOut(t, client.QuarantineConsumer, "app"); did.Quarantine.Role != "shop" || !slices.Equal(did.Quarantine.Also, []string{"called"}) {
		t.Errorf("%+v", did)
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("its stream goes on")
	}
	if err := following.Err(); err != nil {
		t.Errorf("its stream went on until %v", err)
	}
	_, err := app.Inbox(ctx, "app", client.InboxQuery{})
	refusedAs(t, err, http.StatusForbidden, `the consumer "app", and its role with it, is in quarantine since`)
	_, err = app.Acknowledge(ctx, version2.Delivery, client.AcknowledgeRequest{Status: client.AckReceived, Generation: 2})
	refusedAs(t, err, http.StatusForbidden, "in quarantine since")
	if r, _ := n.follow(t, id); r.State != client.RotationDone {
		t.Errorf("the rotation is %s, and waits for %q", r.State, r.WaitingFor)
	}
	for _, what := range []struct {
		name string
		err  error
	}{
		{"a test", second(n.TestConsumer(ctx, "app", client.ConsumerRequest{}))},
		{"enabling it", second(n.EnableConsumer(ctx, "app", client.ConsumerRequest{}))},
	} {
		refused(t, what.name, what.err, http.StatusConflict, "keybroker quarantine lift consumer app --reason TEXT")
	}
	if c := n.consumer(t, "app"); c.State != client.ConsumerKeptOut || c.Since.IsZero() {
		t.Errorf("the consumer is %s: %s", c.State, c.Detail)
	}
	if d := n.deliveries(t, "app")[0]; d.State == client.DeliveryPending && !strings.Contains(d.Error, "is in quarantine since") {
		t.Errorf("its delivery: %+v", d)
	}
	eventually(t, "people are told", p.was("raised quarantined"))
	open := n.alerts(t, client.AlertQuery{Kind: "quarantined"})
	if len(open) != 1 || open[0].Subject != "consumer app" || open[0].Tenant != "default" || open[0].Severity != client.Warning || open[0].Next != "keybroker quarantine lift consumer app --reason TEXT" {
		t.Errorf("open: %+v", open)
	}
	if missing := n.alerts(t, client.AlertQuery{Kind: "missing_acknowledgement"}); len(missing) != 0 {
		t.Errorf("its acknowledgement is missed: %+v", missing)
	}

	n.letIn(t, client.QuarantineConsumer, "app")
	eventually(t, "its end is told", p.was("resolved quarantined"))
	clock.ahead.Add(int64(31 * time.Second)) // what was handed out before has not come back until then
	again := w.as("shop")
	for {
		item := one(t, again, "app")
		said := w.verified("app", item)
		if said.Data.Version == 2 {
			if _, d := w.apply(again, "app", item); d.State != client.DeliveryApplied {
				t.Errorf("then the delivery is %s", d.State)
			}
			break
		}
		must(again.Acknowledge(ctx, item.Delivery, client.AcknowledgeRequest{Status: client.AckReceived, Generation: said.Data.Generation}))(t) // of what became of version 1
	}
}

// TestAnotherNodeKeepsOutWithinASecond runs two nodes on one database. What the row of a
// token says is known at once, that it is for the quarantine of its role a moment later.
func TestAnotherNodeKeepsOutWithinASecond(t *testing.T) {
	t.Parallel()
	url := postgresserver.Start(t).URL
	shared := filepath.Join(t.TempDir(), "seal.key")
	hcl := onPostgres(withInbox("none", "app"), shared)
	var nodes []*node
	var sites []*site
	for range 2 {
		s := newSite(t, hcl)
		s.env = map[string]string{"DATABASE_URL": url}
		if len(sites) > 0 {
			s.token = sites[0].rootToken()
		}
		sites, nodes = append(sites, s), append(nodes, s.start())
	}
	ctx := t.Context()
	nodes[0].done(t, "app/key")
	tok, _ := sites[0].as(nodes[0], client.CreateTokenRequest{Role: "shop"})
	stream := sites[1].client(must(nodes[0].CreateToken(ctx, client.CreateTokenRequest{Name: "there", Role: "shop"}))(t).Token.Reveal(), nodes[1].addr)
	must(tok.Value(ctx, "app/key", 0))(t)
	must(stream.Value(ctx, "app/key", 0))(t)
	following, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ended := make(chan time.Time, 1)
	go func() {
		for range stream.FollowInbox(following, "app", "", nil) {
		}
		ended <- time.Now()
	}()
	eventually(t, "what waits is handed out to the stream", func() bool {
		return slices.ContainsFunc(nodes[0].deliveries(t, "app"), func(d client.Delivery) bool { return d.Attempts > 0 })
	})
	nodes[0].keepOut(t, client.QuarantineConsumer, "app")
	refused(t, "at the node itself", second(tok.Value(ctx, "app/key", 0)), http.StatusForbidden, "in quarantine since")
	began := time.Now()
	eventually(t, "the other node knows", func() bool {
		_, err := stream.Value(ctx, "app/key", 0)
		if err == nil {
			t.Fatal("its token is good at the other node")
		}
		return client.Status(err) == http.StatusForbidden && strings.Contains(err.Error(), "in quarantine since")
	})
	if at := <-ended; following.Err() != nil {
		t.Errorf("the stream went on for %s", at.Sub(began))
	}
	if list := must(nodes[1].Quarantines(ctx))(t).Items; len(list) != 1 {
		t.Errorf("%+v", list)
	}
	nodes[1].letIn(t, client.QuarantineConsumer, "app")
	eventually(t, "it is let in everywhere", func() bool {
		tok, err := nodes[0].CreateToken(ctx, client.CreateTokenRequest{Name: "anew", Role: "shop"})
		if err != nil {
			return false
		}
		_, err = sites[0].client(tok.Token.Reveal(), nodes[0].addr).Value(ctx, "app/key", 0)
		return err == nil
	})
}

// TestAQuarantineOutlivesTheNode: what was committed is known to a node before it serves,
// and an overlap that waits goes on.
func TestAQuarantineOutlivesTheNode(t *testing.T) {
	t.Parallel()
	s := newSite(t, withInbox("applied", "app"))
	n := s.start()
	w := &collecting{node: n, t: t, s: s}
	ctx := t.Context()
	app, tok := s.as(n, client.CreateTokenRequest{Role: "shop"})
	w.begin(false)
	w.apply(app, "app", one(t, app, "app"))
	r := w.begin(true)
	n.stop()
	db := s.database(t) // the node is killed between the commit and what follows from it
	_, err := db.ExecContext(ctx, `INSERT INTO quarantines (id, kind, name, tenant, role, incident_id, reason, by_whom, at, lifted_by, lifting)
		VALUES ('q1', 'consumer', 'app', 'default', 'shop', '', 'test', 'somebody', 1, '', '')`)
	noError(t, errors.Join(err, db.Close()))
	n = s.start()
	refused(t, "the first request", second(s.client(tok.Token.Reveal(), n.addr).Value(ctx, "app/key", 0)), http.StatusForbidden, "in quarantine since")
	if r, _ := n.follow(t, r.ID); r.State != client.RotationDone {
		t.Errorf("the rotation is %s, and waits for %q", r.State, r.WaitingFor)
	}
}

// TestRestoreLetsNobodyIn who was put in quarantine in the time that the store has lost, and
// was not let in again then.
func TestRestoreLetsNobodyIn(t *testing.T) {
	t.Parallel()
	s := newSite(t, withInbox("none", "app"))
	n := s.start()
	ctx := t.Context()
	shop, _ := s.as(n, client.CreateTokenRequest{Role: "shop"})
	vault, _ := s.as(n, client.CreateTokenRequest{Role: "vault"})
	n.done(t, "app/key")
	n.stop()
	restore := s.backup(t)
	n = s.start()
	n.keepOut(t, client.QuarantineConsumer, "app")
	n.keepOut(t, client.QuarantineRole, "nobody")
	n.letIn(t, client.QuarantineRole, "nobody")
	n.stop()
	restore()

	n = s.start()
	refused(t, "the consumer's role", second(shop.Value(ctx, "app/key", 0)), http.StatusForbidden, `the consumer "app", and its role with it, is in quarantine since`)
	must(vault.Value(ctx, "app/key", 0))(t)
	list := must(n.Quarantines(ctx))(t).Items
	if len(list) != 1 || list[0].Name != "app" || list[0].Role != "shop" || list[0].Tenant != "default" || list[0].Reason != "it was broken into" || list[0].By == "" {
		t.Errorf("in quarantine: %+v", list)
	}
}
