package daemon_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// aProbe is a probe of the API beside "mailer", with these attributes.
func aProbe(name, url, attributes string) string {
	return `
probe "http" "` + name + `" {
  method                = "GET"
  url                   = "` + url + `/v1/me"
  headers               = { Authorization = "Bearer ${field.key}" }
  allow_private_network = true
  ` + attributes + `
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}
`
}

func TestIssuersAndProbesAreListed(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief, "tenant \"acme\" {}\ntenant \"default\" {}\nissuer \"api_key\" \"own\" {\n  tenant = \"acme\"\n}\n"+
		`policy "looker" {
  path "sys/issuers" {
    capabilities = ["read", "update"]
  }
  path "sys/probes" {
    capabilities = ["read"]
  }
}`)
	ctx := t.Context()
	issuers := must(o.Issuers(ctx))(t).Items
	if len(issuers) != 2 || issuers[0].Name != "mailer" || issuers[0].Type != "http" || issuers[0].Kind != "mint" || issuers[0].State != client.ComponentReady || issuers[1].Tenant != "acme" {
		t.Errorf("%+v", issuers)
	}
	probes := must(o.Probes(ctx))(t).Items
	if len(probes) != 1 || probes[0].State != client.ComponentReady || probes[0].Endpoint != "GET "+o.api.URL+"/v1/me" {
		t.Errorf("%+v", probes)
	}
	theirs := o.holding(t, client.CreateTokenRequest{Name: "theirs", Tenant: "default", Policies: []string{"looker"}})
	if seen := must(theirs.Issuers(ctx))(t).Items; len(seen) != 1 || seen[0].Name != "mailer" {
		t.Errorf("who is bound to a tenant sees %+v", seen)
	}
	_, err := theirs.CheckIssuer(ctx, "own", client.CheckIssuerRequest{})
	refused(t, "an issuer of another tenant", err, http.StatusNotFound, `there is no issuer "own"`)
}

// TestAnIssuerChecksItsPermissions without any effect, or says that it cannot.
func TestAnIssuerChecksItsPermissions(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief, "issuer \"api_key\" \"own\" {}\n")
	ctx := t.Context()
	for _, i := range must(o.Issuers(ctx))(t).Items {
		found, err := o.CheckIssuer(ctx, i.Name, client.CheckIssuerRequest{})
		if !i.Checkable {
			refused(t, i.Name, err, http.StatusUnprocessableEntity, "cannot try its permissions without an effect")
			continue
		}
		if err != nil || !found.OK || found.Issuer != i.Name || len(found.Findings) == 0 {
			t.Errorf("%s: %+v, %v", i.Name, found, err)
		}
	}
	if live := o.api.Live(); len(live) != 0 {
		t.Errorf("the API holds %d keys: a check has an effect", len(live))
	}
	_, err := o.CheckIssuer(ctx, "nobody", client.CheckIssuerRequest{})
	refused(t, "an unknown issuer", err, http.StatusNotFound, `there is no issuer "nobody"`)
	_, err = o.CheckIssuer(ctx, "mailer", client.CheckIssuerRequest{Secret: "mail/nothing"})
	refused(t, "an unknown secret", err, http.StatusNotFound, `there is no secret "mail/nothing"`)

	// What is found tells of the secrets' settings: of those that are seen.
	o.hcl += "policy \"checker\" {\n  path \"sys/issuers\" {\n    capabilities = [\"update\"]\n  }\n}\npolicy \"one\" {\n  path \"mail/sender\" {\n    capabilities = [\"read\"]\n  }\n}\n"
	o.reload(t)
	blind := o.holding(t, client.CreateTokenRequest{Name: "blind", Policies: []string{"checker"}})
	if found := must(blind.CheckIssuer(ctx, "mailer", client.CheckIssuerRequest{}))(t); len(found.Checked) != 0 || len(found.Findings) == 0 {
		t.Errorf("who sees no secret: %+v", found)
	}
	_, err = blind.CheckIssuer(ctx, "mailer", client.CheckIssuerRequest{Secret: mailer})
	refused(t, "a secret that is not seen", err, http.StatusNotFound, `there is no secret "mail/sender"`)
	if found := must(o.CheckIssuer(ctx, "mailer", client.CheckIssuerRequest{}))(t); len(found.Checked) != 2 {
		t.Errorf("who sees both: %+v", found)
	}
	sees := o.holding(t, client.CreateTokenRequest{Name: "sees", Policies: []string{"checker", "one"}})
	if found := must(sees.CheckIssuer(ctx, "mailer", client.CheckIssuerRequest{}))(t); !slices.Equal(found.Checked, []string{mailer}) {
		t.Errorf("who sees one: %+v", found)
	}
}

func TestAProbeIsRunByHand(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	o.hcl += aProbe("other", o.api.URL, "") + "tenant \"acme\" {}\ntenant \"default\" {}\n" + aProbe("theirs", o.api.URL, `tenant = "acme"`)
	o.reload(t)
	ctx := t.Context()
	o.done(t, mailer, mailer)
	for _, c := range []struct {
		probe   string
		version int
		want    string
	}{{"mailer", 0, client.Accepted}, {"mailer", 1, client.Rejected}, {"other", 2, client.Accepted}, {"other", 1, client.Rejected}} {
		run, err := o.RunProbe(ctx, c.probe, client.RunProbeRequest{Secret: mailer, Version: c.version, Reason: "is it dead?"})
		if err != nil || run.Verdict != c.want || run.Address == "" || run.Probe != c.probe || c.version > 0 && run.Version != c.version {
			t.Errorf("%+v: %+v, %v", c, run, err)
		}
	}
	for what, c := range map[string]struct {
		probe  string
		r      client.RunProbeRequest
		status int
		words  string
	}{
		"no such probe":       {"nobody", client.RunProbeRequest{Secret: mailer}, http.StatusNotFound, `there is no probe "nobody"`},
		"no such version":     {"mailer", client.RunProbeRequest{Secret: mailer, Version: 9}, http.StatusNotFound, "has no version 9"},
		"no version yet":      {"mailer", client.RunProbeRequest{Secret: "mail/approved"}, http.StatusNotFound, "has no current version yet"},
		"no secret":           {"mailer", client.RunProbeRequest{}, http.StatusBadRequest, "which secret"},
		"of another tenant":   {"theirs", client.RunProbeRequest{Secret: mailer}, http.StatusForbidden, "its value is not sent there"},
		"no such secret":      {"mailer", client.RunProbeRequest{Secret: "mail/nothing"}, http.StatusNotFound, "there is no secret"},
		"less than version 1": {"mailer", client.RunProbeRequest{Secret: mailer, Version: -1}, http.StatusBadRequest, "numbered from 1"},
	} {
		_, err := o.RunProbe(ctx, c.probe, c.r)
		refused(t, what, err, c.status, c.words)
	}
	_, err := o.holding(t, client.CreateTokenRequest{Name: "reader", Policies: []string{"reader"}}).RunProbe(ctx, "mailer", client.RunProbeRequest{Secret: mailer})
	refused(t, "who may only read", err, http.StatusForbidden, "rotate")

	records := must(o.Audit(ctx, client.AuditQuery{Action: "probe.run", Secret: mailer}))(t).Items
	told := slices.ContainsFunc(records, func(r client.AuditRecord) bool {
		return r.Kind == "response" && r.Detail["verdict"] == client.Rejected && r.Detail["probe"] == "other" && r.Detail["version"] == "1" && r.Detail["address"] != ""
	})
	if !told {
		t.Errorf("the audit log does not tell of the tries: %+v", records)
	}
	everything := o.log.String() + o.read("data/audit.jsonl")
	for _, key := range o.api.Secrets() {
		if strings.Contains(everything, key) {
			t.Error("a key is in the log")
		}
	}
}

// TestARunByHandLocksNoAccount: it is refused before it could, however often it is
// asked for, and nothing is sent then.
func TestARunByHandLocksNoAccount(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	o.hcl += aProbe("careful", o.api.URL, "lockout_after = 6")
	o.reload(t)
	ctx := t.Context()
	o.done(t, mailer, mailer)
	ask := client.RunProbeRequest{Secret: mailer, Version: 1}
	made := 0
	for ; made < 6; made++ {
		if _, err := o.RunProbe(ctx, "careful", ask); err != nil {
			refused(t, "one more", err, http.StatusConflict, "could lock the account (lockout_after = 6)")
			break
		}
	}
	if made == 0 || made > 3 { // the rounds of the proof count, too
		t.Errorf("%d tries by hand were made", made)
	}
	before := o.api.Requests(tried)
	_, err := o.RunProbe(ctx, "careful", ask)
	refused(t, "another", err, http.StatusConflict, "are forgiven at ")
	if o.api.Requests(tried) != before {
		t.Error("a try that was refused was made")
	}
	if run := must(o.RunProbe(ctx, "mailer", ask))(t); run.Verdict != client.Rejected {
		t.Errorf("a probe without a lockout: %+v", run)
	}
}

// holding is a client with a token of its own.
func (o *operated) holding(t *testing.T, r client.CreateTokenRequest) *client.Client {
	t.Helper()
	return o.site.client(must(o.CreateToken(t.Context(), r))(t).Token.Reveal(), o.node.addr)
}

const byPerson = `
issuer "human" "portal" {
  instructions        = "Make a key in the portal."
  revoke_instructions = "Delete the key in the portal."
  fields              = ["key"]
  handle              = ["id"]
  revocation_budget   = "2s"
}
secret "mail/portal" {
  backend = "prod"
  probe   = "mailer"
  issuer "portal" {}
}
`

// TestAPersonMakesTheCredential, hands it in and turns it off, and it is proven like
// any other. What was handed in is in no log.
func TestAPersonMakesTheCredential(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief, byPerson)
	ctx := t.Context()
	const portal = "mail/portal"
	var ids, handedIn []string
	supply := func() client.Rotation {
		r := must(o.Rotate(ctx, portal, client.RotateRequest{Reason: "test"}))(t)
		o.waitsFor(t, r.ID, "value")
		if at := must(o.Rotation(ctx, r.ID))(t).ValueBy; at.Before(time.Now()) {
			t.Errorf("the value is wanted by %s", at)
		}
		id, key := byHand(t, o.api)
		ids, handedIn = append(ids, id), append(handedIn, key)
		_, err := o.holding(t, client.CreateTokenRequest{Name: "reader", Policies: []string{"reader"}}).Supply(ctx, r.ID, client.SupplyRequest{Fields: client.Fields{"key": key}})
		refused(t, "who may only read", err, http.StatusForbidden, "update")
		_, err = o.Supply(ctx, r.ID, client.SupplyRequest{})
		refused(t, "nothing", err, http.StatusBadRequest, "the credential is missing")
		_, err = o.Supply(ctx, r.ID, client.SupplyRequest{Fields: client.Fields{"wrong": key}, Handle: map[string]string{"id": id}})
		refused(t, "another field", err, http.StatusBadRequest, "")
		if strings.Contains(err.Error(), key) {
			t.Error("the error has the key")
		}
		worker := o.holding(t, client.CreateTokenRequest{Name: "operator", Policies: []string{"operator"}})
		must(worker.Supply(ctx, r.ID, client.SupplyRequest{Fields: client.Fields{"key": key}, Handle: map[string]string{"id": id}, Reason: "ticket 7"}))(t)
		return r
	}
	first := supply()
	if rot, _ := o.follow(t, first.ID); rot.State != client.RotationDone {
		t.Fatalf("%s: %s", rot.State, rot.Error)
	}
	_, err := o.Supply(ctx, first.ID, client.SupplyRequest{Fields: client.Fields{"key": "late"}, Handle: map[string]string{"id": "late"}})
	refused(t, "a rotation that waits for none", err, http.StatusConflict, "waits for no value")

	second := supply()
	var turning client.Retirement
	eventually(t, "the old key is to be turned off by hand", func() bool {
		for _, r := range o.retirementsOf(t, portal) {
			if turning = r; r.Version == 1 && r.ByHand {
				return true
			}
		}
		return false
	})
	turnOff(t, o.api, ids[0])
	done := must(o.TurnedOff(ctx, turning.ID, client.InterventionRequest{Reason: "deleted"}))(t)
	if len(done.Will) == 0 || done.Retirement.AcknowledgedAt.IsZero() {
		t.Errorf("%+v", done)
	}
	if rot, dead := o.follow(t, second.ID); rot.State != client.RotationDone || dead[1].State != client.ProvenDead {
		t.Errorf("%s: %s, %+v", rot.State, rot.Error, dead[1])
	}
	if got := o.value(t, portal).Fields["key"]; got != handedIn[1] {
		t.Error("the current value is not what was handed in")
	}
	log := o.log.String() + o.read("data/audit.jsonl")
	records := must(o.Audit(ctx, client.AuditQuery{Action: "rotation.supply"}))(t).Items
	text, err := json.Marshal(records)
	mints := must(o.Audit(ctx, client.AuditQuery{Action: "rotation.mint"}))(t).Items
	if err != nil || !strings.Contains(string(text), `"handle":"1"`) || !strings.Contains(fmt.Sprint(mints), ids[1]) {
		t.Errorf("the audit log does not tell who handed what in: %s, %v", text, mints)
	}
	for _, key := range handedIn {
		hash := must(o.AuditHash(ctx, client.SecretText(key)))(t)
		if strings.Contains(log, key) || !strings.Contains(log, hash.Hash) {
			t.Error("the audit log has a key, or not its hash")
		}
	}

	// Whoever reads while nothing replaces it yet is told whom that waits for.
	em := must(o.Emergency(ctx, portal, client.EmergencyRequest{Reason: "leaked", Contain: client.RevokeFirst}))(t)
	o.waitsFor(t, em.ID, "value")
	var told *client.Problem
	eventually(t, "the value is given to nobody any more", func() bool {
		_, err := o.Value(ctx, portal, 0)
		return errors.As(err, &told)
	})
	if told.Status != http.StatusServiceUnavailable || !strings.Contains(told.Detail, "version 2 of mail/portal is being revoked, and a person is to make its replacement by 20") || !strings.Contains(told.Hint, "keybroker rotation supply "+em.ID) {
		t.Errorf("%+v", told)
	}
	must(o.Cancel(ctx, em.ID, client.InterventionRequest{Reason: "nobody is there"}))(t)
	if _, err := o.Value(ctx, portal, 0); !errors.As(err, &told) || !strings.Contains(told.Detail, "nothing is replacing it") || !strings.Contains(told.Hint, "keybroker secret plan mail/portal") {
		t.Errorf("%v, %+v", err, told)
	}
}
