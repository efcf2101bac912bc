package daemon_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// operators are the policies of those who look after what vaults hold.
const operators = `
policy "reader" {
  path "mail/*" {
    capabilities = ["list", "read"]
  }
}
policy "rotator" {
  path "mail/*" {
    capabilities = ["list", "rotate"]
  }
}
policy "operator" {
  path "mail/*" {
    capabilities = ["list", "rotate", "update"]
  }
}
policy "approver" {
  path "mail/*" {
    capabilities = ["list", "approve"]
  }
}
`

// byHand has the API make a key without the broker.
func byHand(t *testing.T, api *keyserver.Server) (id, key string) {
	t.Helper()
	var made struct{ ID, Secret string }
	decode(t, admin(t, api, http.MethodPost, "/v1/keys", `{"name":"by-hand"}`), &made)
	if made.ID == "" || made.Secret == "" {
		t.Fatal("the API made no key")
	}
	return made.ID, made.Secret
}

// turnOff has the API revoke a key without the broker.
func turnOff(t *testing.T, api *keyserver.Server, id string) {
	t.Helper()
	_ = admin(t, api, http.MethodDelete, "/v1/keys/"+id, "").Body.Close()
}

func admin(t *testing.T, api *keyserver.Server, method, path, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, api.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+api.AdminToken)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp
}

func decode(t *testing.T, resp *http.Response, into any) {
	t.Helper()
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// compared has every vault of a secret compared and returns what was found.
func compared(t *testing.T, c *client.Client, name string) []client.Placement {
	t.Helper()
	must(c.CheckDrift(t.Context(), name, client.CheckDriftRequest{Reason: "test"}))(t)
	return settled(t, c, name)
}

// settled waits until no comparison is still to come.
func settled(t *testing.T, c *client.Client, name string) []client.Placement {
	t.Helper()
	var now []client.Placement
	eventually(t, "the comparison of "+name, func() bool {
		now = must(c.Placements(t.Context(), client.DriftQuery{Secret: name, All: true}))(t).Items
		return !slices.ContainsFunc(now, func(p client.Placement) bool { return p.Asked })
	})
	return now
}

func TestDriftIsFoundAndRestored(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl += operators
	n := s.start()
	ctx := t.Context()
	if _, err := n.CheckDrift(ctx, mailer, client.CheckDriftRequest{}); client.Status(err) != http.StatusConflict || !strings.Contains(err.Error(), "keybroker secret import") {
		t.Errorf("before there is a version: %v", err)
	}
	n.done(t, mailer)
	key := s.direct(t)
	if got := compared(t, n.Client, mailer); len(got) != 1 || got[0].State != client.InStep || got[0].Role != client.RolePrimary || got[0].HeldVersion != 1 || got[0].ComparedAt.IsZero() {
		t.Fatalf("%+v", got)
	}
	if list := must(n.Placements(ctx, client.DriftQuery{}))(t); len(list.Items) != 0 {
		t.Errorf("everything is in step, and listed is %+v", list.Items)
	}
	_, err := n.RestoreDrift(ctx, mailer, client.DriftRequest{Backend: "prod"})
	refused(t, "nothing to restore", err, http.StatusConflict, "in step")
	_, err = n.AdoptDrift(ctx, mailer, client.DriftRequest{})
	refused(t, "nothing to adopt", err, http.StatusConflict, "keybroker drift check")

	s.writeDirectly(t, map[string]any{"key": "a stranger's"})
	drifted := compared(t, n.Client, mailer)[0]
	if drifted.State != client.Drifted || drifted.Drift == nil || drifted.Drift.Kind != client.DriftChanged || drifted.Drift.FoundAt.IsZero() || drifted.Detail() == "" {
		t.Fatalf("%+v", drifted)
	}
	shown := must(n.Secret(ctx, mailer))(t)
	if len(shown.Drift) != 1 || shown.Drift[0].Backend != "prod" || shown.Drift[0].Kind != client.DriftChanged || len(shown.Mirrors) != 0 {
		t.Errorf("the secret shows %+v", shown.Drift)
	}
	if repair := must(n.Repair(ctx, mailer, client.RepairRequest{DryRun: true}))(t); len(repair.Findings) != 1 || !strings.Contains(repair.Findings[0].Mend, "keybroker drift adopt mail/sender") {
		t.Errorf("a repair says %+v", repair)
	}

	// Who may restore: who may overwrite by a repair.
	ask := client.DriftRequest{Backend: "prod", InterventionRequest: client.InterventionRequest{Reason: "edited by hand"}}
	for policy, may := range map[string]bool{"reader": false, "rotator": false, "approver": false, "operator": true} {
		c, _ := s.as(n, client.CreateTokenRequest{Policies: []string{policy}})
		dry := ask
		dry.DryRun = true
		if _, err := c.RestoreDrift(ctx, mailer, dry); (err == nil) != may || !may && client.Status(err) != http.StatusForbidden {
			t.Errorf("%s: %v", policy, err)
		}
	}
	dry := ask
	dry.DryRun = true
	said := must(n.RestoreDrift(ctx, mailer, dry))(t)
	if s.direct(t) == key || len(said.Will) != 2 || said.Placement.State != client.Drifted {
		t.Fatalf("a dry run wrote, or said %+v", said)
	}
	ask.Expect = []string{"something else"}
	_, err = n.RestoreDrift(ctx, mailer, ask)
	refused(t, "what was not agreed to", err, http.StatusConflict, "it has changed meanwhile")
	ask.Expect = said.Will
	if did := must(n.RestoreDrift(ctx, mailer, ask))(t); did.Placement.State != client.InStep || s.direct(t) != key {
		t.Errorf("%+v; the vault has the key: %v", did, s.direct(t) == key)
	}
	_, err = n.RestoreDrift(ctx, mailer, client.DriftRequest{Backend: "elsewhere"})
	refused(t, "no vault of it", err, http.StatusNotFound, `"elsewhere"`)
	_, err = n.RestoreDrift(ctx, mailer, client.DriftRequest{})
	refused(t, "none named", err, http.StatusBadRequest, "which backend")
	if shown := must(n.Secret(ctx, mailer))(t); len(shown.Drift) != 0 {
		t.Errorf("restored, and the secret shows %+v", shown.Drift)
	}
	if rot, _ := n.rotate(t, mailer); rot.State != client.RotationDone { // it goes on from there
		t.Errorf("the next rotation: %s: %s", rot.State, rot.Error)
	}
	if strings.Contains(s.log.String(), key) || strings.Contains(s.log.String(), "a stranger's") {
		t.Error("a value is in the log")
	}
}

// TestAStrangersValueIsAdopted: after somebody else has agreed, and its probe.
func TestAStrangersValueIsAdopted(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl += operators
	n := s.start()
	ctx := t.Context()
	n.done(t, mailer)
	old := s.direct(t)
	id, key := byHand(t, s.api)
	s.writeDirectly(t, map[string]any{"key": key})
	compared(t, n.Client, mailer)

	alice, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"rotator"}})
	bob, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"approver"}})
	ask := client.DriftRequest{InterventionRequest: client.InterventionRequest{Reason: "rotated by hand"}}
	dry := ask
	dry.DryRun = true
	said := must(alice.AdoptDrift(ctx, mailer, dry))(t)
	if len(must(n.Rotations(ctx, client.RotationQuery{Secret: mailer, Live: true}))(t).Items) != 0 || said.Rotation.ID != "" {
		t.Fatal("a dry run began a rotation")
	}
	ask.Expect = said.Will
	asked := must(alice.AdoptDrift(ctx, mailer, ask))(t)
	if asked.Rotation.State != client.RotationQueued || asked.Rotation.Adopts != "prod" || !slices.Equal(asked.Will, said.Will) {
		t.Errorf("%+v, foretold was %+v", asked, said)
	}
	if d := must(n.Secret(ctx, mailer))(t).Drift; len(d) != 1 || d[0].RotationID != asked.Rotation.ID {
		t.Errorf("the secret shows %+v", d)
	}
	_, err := alice.Approve(ctx, asked.Rotation.ID, client.InterventionRequest{})
	refused(t, "approved by who may not", err, http.StatusForbidden, "approve")
	must(bob.Approve(ctx, asked.Rotation.ID, client.InterventionRequest{}))(t)
	rot, retired := n.follow(t, asked.Rotation.ID)
	if rot.State != client.RotationDone || retired[1].State != client.ProvenDead {
		t.Fatalf("%s: %s; version 1 is %s", rot.State, rot.Error, retired[1].State)
	}
	if v := n.value(t, mailer); v.Fields["key"] != key || v.Version != 2 || v.Generation != 2 || s.direct(t) != key {
		t.Errorf("version %d, generation %d; it is the stranger's key: %v", v.Version, v.Generation, v.Fields["key"] == key)
	}
	if s.api.Works(old) || !s.api.Works(key) {
		t.Errorf("the old key works: %v, the adopted one: %v", s.api.Works(old), s.api.Works(key))
	}
	shown := must(n.Secret(ctx, mailer))(t)
	if v := shown.Versions[len(shown.Versions)-1]; !v.Foreign || !v.HandleMissing || len(shown.Drift) != 0 {
		t.Errorf("%+v; drift %+v", v, shown.Drift)
	}
	// Once the broker knows what its issuer calls it, it rotates like any other.
	must(n.Import(ctx, mailer, client.ImportRequest{Version: 2, Handle: map[string]string{"id": id}}))(t)
	if rot, retired := n.rotate(t, mailer); rot.State != client.RotationDone || retired[2].State != client.ProvenDead || s.api.Works(key) {
		t.Errorf("%s: %s; version 2 is %s, and works: %v", rot.State, rot.Error, retired[2].State, s.api.Works(key))
	}
}

// TestWhatItsProbeRejectsIsNotAdopted, and stays where it is.
func TestWhatItsProbeRejectsIsNotAdopted(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl = strings.Replace(s.hcl, `successes = 2`, "timeout = \"1s\"\n    successes = 2", 1) + operators
	n := s.start()
	ctx := t.Context()
	n.done(t, mailer)
	key := s.direct(t)
	s.writeDirectly(t, map[string]any{"key": "worth nothing"})
	compared(t, n.Client, mailer)
	alice, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"rotator"}})
	bob, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"approver"}})
	asked := must(alice.AdoptDrift(ctx, mailer, client.DriftRequest{Backend: "prod"}))(t)
	must(bob.Approve(ctx, asked.Rotation.ID, client.InterventionRequest{}))(t)
	if rot, _ := n.follow(t, asked.Rotation.ID); rot.State != client.RotationFailed {
		t.Errorf("%s", rot.State)
	}
	if n.value(t, mailer).Fields["key"] != key || s.direct(t) != "worth nothing" || !s.api.Works(key) {
		t.Error("something has changed")
	}
	must(n.RestoreDrift(ctx, mailer, client.DriftRequest{Backend: "prod"}))(t)
	if s.direct(t) != key {
		t.Error("it is not restored")
	}
}

// TestTenantsSeeTheirOwnDrift and may do nothing about that of others.
func TestTenantsSeeTheirOwnDrift(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl += operators + `
secret "mail/acme" {
  tenant  = "acme"
  backend = "prod"
  probe   = "mailer"
  issuer "mailer" {
    scopes = ["send"]
  }
}
`
	n := s.start()
	ctx := t.Context()
	n.done(t, mailer, "acme:mail/acme")
	s.writeDirectly(t, map[string]any{"key": "a stranger's"})
	if _, err := s.vault.Client(t).KVv2("secret").Put(ctx, "keybroker/mail/acme", map[string]any{"key": "another stranger's"}); err != nil {
		t.Fatal(err)
	}
	compared(t, n.Client, mailer)
	compared(t, n.Client, "acme:mail/acme")
	for _, c := range []struct {
		tenant, own, others string
	}{{"acme", "mail/acme", mailer}, {client.DefaultTenant, mailer, "mail/acme"}} {
		them, _ := s.as(n, client.CreateTokenRequest{Tenant: c.tenant, Policies: []string{"operator"}})
		list := must(them.Placements(ctx, client.DriftQuery{}))(t)
		if len(list.Items) != 1 || list.Items[0].Secret != c.own || list.Items[0].Tenant != c.tenant {
			t.Errorf("%s sees %+v", c.tenant, list.Items)
		}
		_, err := them.Placements(ctx, client.DriftQuery{Secret: c.others})
		refused(t, "listing", err, http.StatusNotFound, c.others)
		_, err = them.CheckDrift(ctx, c.others, client.CheckDriftRequest{})
		refused(t, "checking", err, http.StatusNotFound, c.others)
		_, err = them.RestoreDrift(ctx, c.others, client.DriftRequest{Backend: "prod"})
		refused(t, "restoring", err, http.StatusNotFound, c.others)
		_, err = them.AdoptDrift(ctx, c.others, client.DriftRequest{})
		refused(t, "adopting", err, http.StatusNotFound, c.others)
		_, err = them.Import(ctx, c.others, client.ImportRequest{})
		refused(t, "importing", err, http.StatusNotFound, c.others)
		must(them.RestoreDrift(ctx, c.own, client.DriftRequest{Backend: "prod"}))(t)
	}
	if all := must(n.Placements(ctx, client.DriftQuery{All: true}))(t); len(all.Items) != 2 {
		t.Errorf("who sees all tenants sees %+v", all.Items)
	}
}
