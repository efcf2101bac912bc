package daemon_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// What somebody has found is told apart: whose it is, in which version, whether it is
// alive, who has had it, and what to do.
func TestIdentifyWhatLeaked(t *testing.T) {
	t.Parallel()
	secret := newSigningSecret()
	s := newSite(t, withConsumer(twoTenants+`
policy "blind" {
  path "nothing/*" {
    capabilities = ["read"]
  }
}
`, newConsumer(t, secret)))
	s.env["SIGNING_SECRET"] = secret.Reveal()
	n := s.start()
	ctx := t.Context()
	const name = "default:app/key"
	n.done(t, name)
	old := n.value(t, name).Fields["key"]
	n.done(t, name, "acme:app/key")
	now := n.value(t, name).Fields["key"]
	theirs := n.value(t, "acme:app/key").Fields["key"]
	identify := func(c *client.Client, text string, probe bool) client.Identified {
		t.Helper()
		return must(c.Identify(ctx, client.IdentifyRequest{Value: client.SecretText(text), Probe: probe}))(t)
	}
	one := func(c *client.Client, text string, probe bool) client.IdentifiedVersion {
		t.Helper()
		found := identify(c, text, probe)
		if len(found.Matches) != 1 || found.Token != nil {
			t.Fatalf("%d matches, token %v", len(found.Matches), found.Token)
		}
		return found.Matches[0]
	}

	m := one(n.Client, "KEY="+now+"\n", false)
	if m.Secret != "app/key" || m.Tenant != "default" || m.Version != 2 || m.Stage != client.StageCurrent || !m.Whole || m.NameOnly || m.Issuer != "internal" ||
		m.Alive != "not tried" || m.RetiredAs != "" || m.Next != "keybroker emergency app/key --version 2 --reason TEXT --wait" || m.Needs != "" {
		t.Errorf("the current one: %+v", m)
	}
	if !slices.Contains(m.Consumers, "app") || !slices.ContainsFunc(m.Readers, func(a client.Access) bool { return a.Consumer == "app" }) ||
		!slices.ContainsFunc(m.Readers, func(a client.Access) bool { return a.Address == "127.0.0.1" && a.Actor != "" && !a.LastAt.IsZero() }) {
		t.Errorf("who has it: %+v", m.Readers)
	}
	if m = one(n.Client, base64.StdEncoding.EncodeToString([]byte(now)), true); m.Alive != client.Accepted || m.TriedAt.IsZero() {
		t.Errorf("tried: %+v", m)
	}
	if m = one(n.Client, old, true); m.Version != 1 || m.Alive != client.Rejected || m.RetiredAs != client.ProvenDead || m.ProvenAt.IsZero() || !strings.HasPrefix(m.Next, "keybroker retirement show ") {
		t.Errorf("the old one: %+v", m)
	}
	if found := identify(n.Client, old+"\n"+theirs, false); len(found.Matches) != 2 {
		t.Errorf("of two tenants: %+v", found.Matches)
	}
	for name, text := range map[string]string{"unknown": "no-such-value-anywhere", "another case": strings.ToUpper(now), "a part": now[:len(now)-1]} {
		if found := identify(n.Client, text, true); len(found.Matches) != 0 || found.Token != nil || found.Looked == 0 {
			t.Errorf("%s: %+v", name, found)
		}
	}
	_, err := n.Identify(ctx, client.IdentifyRequest{Value: "short"})
	if client.Status(err) != http.StatusBadRequest {
		t.Errorf("what is too short: %v", err)
	}

	t.Run("only what the caller sees", func(t *testing.T) {
		acme, _ := s.as(n, client.CreateTokenRequest{Tenant: "acme", Policies: []string{"root"}})
		if m := one(acme, theirs, true); m.Tenant != "acme" || m.Alive != client.Accepted {
			t.Errorf("its own: %+v", m)
		}
		reader, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"reader"}})
		if m := one(reader, now, true); m.Needs != "emergency" || !strings.HasPrefix(m.Alive, "not tried: that takes") {
			t.Errorf("by who may only read: %+v", m)
		}
		blind, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"blind"}})
		for who, c := range map[string]*client.Client{"of another tenant": acme, "who sees nothing": blind} {
			if found := identify(c, now, true); len(found.Matches) != 0 || found.Cut {
				t.Errorf("%s: %+v", who, found)
			}
		}
	})
	t.Run("tokens", func(t *testing.T) {
		_, tok := s.as(n, client.CreateTokenRequest{Tenant: "acme", Policies: []string{"reader"}})
		found := identify(n.Client, "Authorization: Bearer "+tok.Token.Reveal(), true)
		if found.Token == nil || found.Token.ID != tok.ID || found.Token.State != client.TokenActive || found.Token.Token != "" || found.Next != "keybroker token revoke "+tok.ID {
			t.Errorf("%+v", found)
		}
		must(n.RevokeToken(ctx, tok.ID))(t)
		if found = identify(n.Client, tok.Token.Reveal(), false); found.Token == nil || found.Token.State != client.TokenRevoked || found.Next != "" {
			t.Errorf("revoked: %+v", found)
		}
		_, others := s.as(n, client.CreateTokenRequest{Policies: []string{"reader"}})
		acme, _ := s.as(n, client.CreateTokenRequest{Tenant: "acme", Policies: []string{"root"}})
		if found = identify(acme, others.Token.Reveal(), false); found.Token != nil {
			t.Errorf("beyond the walls: %+v", found.Token)
		}
	})
	t.Run("the audit log has who asked, and no value", func(t *testing.T) {
		hash := must(n.AuditHash(ctx, client.SecretText(now)))(t).Hash
		found := must(n.Audit(ctx, client.AuditQuery{Action: "secret.identify", Hash: hash}))(t).Items
		if len(found) == 0 || !slices.ContainsFunc(found, func(r client.AuditRecord) bool {
			return strings.Contains(r.Detail["found"], "app/key version 2") && r.Hashes["found.1"] == hash
		}) {
			t.Errorf("%+v", found)
		}
		for _, value := range []string{now, old, theirs} {
			for _, where := range []string{s.log.String(), fmt.Sprintf("%+v", must(n.Audit(ctx, client.AuditQuery{Page: client.Page{Limit: 1000}}))(t))} {
				if strings.Contains(where, value) {
					t.Error("a value is in the log")
				}
			}
		}
	})
	t.Run("no failure tells what was asked", func(t *testing.T) {
		const canary = "CANARY-of-what-was-pasted"
		stranger := s.client("kbt_nobody", "http://"+s.addr)
		gone, cancel := context.WithCancel(ctx)
		cancel()
		for what, err := range map[string]error{
			"by nobody": second(stranger.Identify(ctx, client.IdentifyRequest{Value: canary})),
			"too large": second(n.Identify(ctx, client.IdentifyRequest{Value: client.SecretText(canary + strings.Repeat("x", 2<<20))})),
			"cut off":   second(n.Identify(gone, client.IdentifyRequest{Value: canary})),
			"too short": second(n.Identify(ctx, client.IdentifyRequest{Value: client.SecretText(canary[:6])})),
		} {
			if err == nil || strings.Contains(err.Error(), canary[:6]) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if strings.Contains(s.log.String(), canary[:6]) {
			t.Error("it is in the log")
		}
		asked := client.IdentifyRequest{Value: canary}
		if text := fmt.Sprintf("%v %+v %#v", asked, asked, asked); strings.Contains(text, canary) {
			t.Errorf("printed: %s", text)
		}
	})
	t.Run("nothing is changed by it", func(t *testing.T) {
		before := must(n.Secret(ctx, name))(t)
		identify(n.Client, now+" "+old, true)
		if after := must(n.Secret(ctx, name))(t); fmt.Sprintf("%+v", after.Versions[0].Stage) != fmt.Sprintf("%+v", before.Versions[0].Stage) || after.Generation != before.Generation || after.State != before.State {
			t.Errorf("%+v, before %+v", after, before)
		}
	})
	t.Run("who asks too often has to wait", func(t *testing.T) {
		asks, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"reader"}})
		refused := 0
		for range 30 {
			if _, err := asks.Identify(ctx, client.IdentifyRequest{Value: "short"}); client.Status(err) == http.StatusTooManyRequests {
				refused++
			}
		}
		if refused < 5 {
			t.Errorf("%d of 30 were refused", refused)
		}
		if _, err := asks.Value(ctx, name, 0); err != nil {
			t.Errorf("its other requests: %v", err)
		}
	})
}
