package daemon_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/examples/consumer/receiver"
)

// overlapOf is a site whose rotations proceed by these settings instead of quick.
func overlapOf(t *testing.T, settings string, pairs ...string) *operated {
	t.Helper()
	return newOperated(t, append([]string{quick, strings.Replace(quick, `overlap = "100ms"`, settings, 1)}, pairs...)...)
}

// TestRule06OnlyWhatIsRecordedAndReplacedIsRevoked looks at every revocation at the
// moment when the issuer is asked for it. Strangers have keys there too, with tags
// that look like ours, or are the same.
func TestRule06OnlyWhatIsRecordedAndReplacedIsRevoked(t *testing.T) {
	t.Parallel()
	o := overlapOf(t, `overlap = "1h"`)
	api := o.front(o.api.URL)
	o.node = o.start()
	ctx := t.Context()
	o.done(t, mailer)
	var mu sync.Mutex
	var ids, wrong []string
	api.do(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if r.Method == http.MethodDelete {
			id := path.Base(r.URL.Path)
			v, err := o.Value(context.Background(), mailer, 0)
			current := ""
			if err == nil {
				current, err = o.idOf(v.Fields["key"])
			}
			mu.Lock()
			if ids = append(ids, id); err != nil || current == "" || current == id {
				wrong = append(wrong, id)
			}
			mu.Unlock()
		}
		pass.ServeHTTP(w, r)
	})
	var tag string
	if err := o.database(t).QueryRow("SELECT tag FROM versions").Scan(&tag); err != nil {
		t.Fatal(err)
	}
	var strangers []madeKey
	for _, name := range []string{tag, tag + "1", strings.TrimSuffix(tag, "1") + "2", "kb-", "mine"} {
		strangers = append(strangers, must(o.byHand(name))(t))
	}

	refused(t, "revoking the current version", second(o.Revoke(ctx, mailer, client.RevokeRequest{Version: 1})), http.StatusConflict, "declare an emergency")
	refused(t, "revoking one that is not recorded", second(o.Revoke(ctx, mailer, client.RevokeRequest{Version: 9})), http.StatusNotFound, "no version 9")
	id := o.begin(t, mailer, client.RotationOverlap)
	refused(t, "revoking the new version", second(o.Revoke(ctx, mailer, client.RevokeRequest{Version: 2})), http.StatusConflict, "declare an emergency")
	must(o.Revoke(ctx, mailer, client.RevokeRequest{Version: 1, Reason: "early"}))(t)
	if rot, _ := o.follow(t, id); rot.State != client.RotationDone {
		t.Errorf("%s: %s", rot.State, rot.Error)
	}
	o.api.Override(tried, http.StatusServiceUnavailable, always) // one that comes to nothing
	cancelled := o.begin(t, mailer, client.RotationVerifying)
	must(o.Cancel(ctx, cancelled, client.InterventionRequest{}))(t)
	o.api.Override(tried, 0, 0)
	o.proven(t, mailer, 3)
	em := must(o.Emergency(ctx, mailer, client.EmergencyRequest{Reason: "leaked", Contain: client.ReplaceFirst}))(t)
	if rot, _ := o.follow(t, em.ID); rot.State != client.RotationDone {
		t.Errorf("the emergency is %s: %s", rot.State, rot.Error)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(wrong) > 0 || len(ids) != 3 {
		t.Errorf("%d of %d revocations were of a key that applications were using: %v of %v", len(wrong), len(ids), wrong, ids)
	}
	for _, k := range strangers {
		if !o.api.Works(k.Secret) {
			t.Errorf("a stranger's key was revoked: %+v", k.ID)
		}
	}
	if live := o.api.Live(); len(live) != len(strangers)+1 {
		t.Errorf("the API has %+v", live)
	}
}

// twoConsumers is a site whose second consumer says that it has received a version, and
// not by itself that it uses it.
func twoConsumers(t *testing.T, settings string, pairs ...string) (o *operated, slow *front) {
	t.Helper()
	o = overlapOf(t, settings, append([]string{`consumers = ["app"]`, `consumers = ["app", "slow"]`}, pairs...)...)
	r, err := receiver.New(backends.SecretString(o.env["SIGNING_SECRET"]), receiver.Options{ReceiveOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	slow = &front{}
	block := o.hcl[strings.Index(o.hcl, `consumer "app"`):]
	o.hcl += strings.NewReplacer(`consumer "app" {`, "consumer \"slow\" {\n  events = [] # but new versions", o.app.url, slow.start(t, srv.URL)).Replace(block)
	return o, slow
}

func TestRule08ConsentOverlapAndAcknowledgementOutliveTheProcess(t *testing.T) {
	t.Parallel()
	o, _ := twoConsumers(t, `overlap  = "300ms"
  approval = true
  limits {
    max_overlap = "2h"
  }
  acknowledgement {
    require    = "applied"
    timeout    = "1h"
    on_timeout = "hold"
  }`)
	o.hcl += `
policy "ops" {
  path "*" {
    capabilities = ["list", "read", "rotate", "approve"]
  }
}
`
	o.node = o.start()
	ctx, why := t.Context(), client.InterventionRequest{Reason: "test"}
	again := func() { t.Helper(); o.stop(); o.node = o.start() }
	ops, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{"ops"}})
	approve := func(id string) {
		t.Helper()
		another, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{"ops"}})
		must(another.Approve(ctx, id, why))(t)
	}

	// Nobody has approved it before the restart, nor by it; who approved it is known after.
	id := must(ops.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID
	o.waitsFor(t, id, "approval")
	again()
	o.waitsFor(t, id, "approval")
	must(o.Freeze(ctx, why))(t)
	approve(id)
	again()
	o.waitsFor(t, id, "freeze")
	if rot := must(o.Rotation(ctx, id))(t); rot.State != client.RotationQueued || rot.ApprovedBy == "" {
		t.Errorf("it is %s, approved by %q", rot.State, rot.ApprovedBy)
	}
	must(o.Unfreeze(ctx, why))(t)
	if rot, _ := o.follow(t, id); rot.State != client.RotationDone {
		t.Fatalf("%s: %s", rot.State, rot.Error)
	}
	old := o.value(t, mailer).Fields["key"]

	// One consumer has acknowledged before the restart, the other one does after.
	id = must(ops.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID
	o.waitsFor(t, id, "approval")
	approve(id)
	o.waitsFor(t, id, "acknowledgment")
	var of map[string]client.Delivery
	eventually(t, "both deliveries", func() bool {
		of = o.deliveriesOf(t, 2)
		return of["app"].State == client.DeliveryApplied && of["slow"].State == client.DeliveryReceived
	})
	before := must(o.Rotation(ctx, id))(t)
	again()
	o.waitsFor(t, id, "acknowledgment")
	after := must(o.Rotation(ctx, id))(t)
	if after.State != client.RotationOverlap || !after.OverlapUntil.Equal(before.OverlapUntil) || !after.PublishedAt.Equal(before.PublishedAt) {
		t.Errorf("the overlap was until %s and is %s until %s", before.OverlapUntil, after.State, after.OverlapUntil)
	}
	if o.api.Requests(revoked) != 0 || !o.api.Works(old) {
		t.Error("the old key was revoked without the acknowledgement")
	}
	must(o.Acknowledge(ctx, of["slow"].ID, o.applied(t, of["slow"])))(t)
	rot, retirements := o.follow(t, id)
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead || rot.EndedAt.Sub(rot.PublishedAt) > 30*time.Minute {
		t.Errorf("%s, version 1 is %s: %s", rot.State, retirements[1].State, rot.Error)
	}
	for name, d := range o.deliveriesOf(t, 2) {
		if d.Attempts != 1 {
			t.Errorf("%s was told %d times", name, d.Attempts)
		}
	}
}

// deliveriesOf returns those of one generation, by consumer.
func (o *operated) deliveriesOf(t *testing.T, generation int64) map[string]client.Delivery {
	t.Helper()
	of := map[string]client.Delivery{}
	for _, d := range must(o.Deliveries(t.Context(), client.DeliveryQuery{Secret: mailer, Event: "secret.rotated"}))(t).Items {
		if d.Generation == generation {
			of[d.Consumer] = d
		}
	}
	return of
}

// overlapEnded returns how long after publishing the old version was to be revoked,
// and what the timeline says of the end of the overlap.
func overlapEnded(rot client.Rotation, retired client.Retirement) (after time.Duration, detail string) {
	for _, s := range rot.Steps {
		if s.Step == "overlap" {
			detail = s.Detail
		}
	}
	return retired.RequestedAt.Sub(rot.PublishedAt), detail
}

// TestRule09AConsumerWithoutTheSuccessorIsWaitedFor: by the rule, up to its timeout;
// then the old version goes all the same, and that is recorded.
func TestRule09AConsumerWithoutTheSuccessorIsWaitedFor(t *testing.T) {
	t.Parallel()
	const missing, patience = "slow has not acknowledged", 2 * time.Second
	for name, c := range map[string]struct {
		require string
		fails   bool // nothing arrives
		waits   bool // to the timeout
	}{
		"nothing arrives, received is required": {"received", true, true},
		"it arrives, applied is required":       {"applied", false, true},
		"it arrives, received is required":      {"received", false, false},
		"nothing arrives, nothing is required":  {"none", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := "1h"
			if c.waits {
				timeout = patience.String()
			}
			o, slow := twoConsumers(t, `overlap = "100ms"
  limits {
    max_overlap = "2h"
  }
  acknowledgement {
    require    = "`+c.require+`"
    timeout    = "`+timeout+`"
    on_timeout = "proceed"
  }`)
			if c.fails {
				slow.answer(http.StatusServiceUnavailable, every)
			}
			o.node = o.start()
			o.done(t, mailer)
			rot, retirements := o.rotate(t, mailer)
			after, detail := overlapEnded(rot, retirements[1])
			if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead {
				t.Fatalf("%s, version 1 is %s: %s", rot.State, retirements[1].State, rot.Error)
			}
			alerted := strings.Contains(o.log.String(), "revoking although consumers have not acknowledged")
			if c.waits && (after < patience || detail != missing || !alerted) {
				t.Errorf("revoked after %s; recorded is %q, alerted %v", after, detail, alerted)
			}
			if !c.waits && (after > time.Minute || detail != "" || alerted) {
				t.Errorf("revoked after %s, although nothing was missing; recorded is %q, alerted %v", after, detail, alerted)
			}
		})
	}
}

func TestRule10NoSecondRotationInTheOverlapButAnEmergency(t *testing.T) {
	t.Parallel()
	o := overlapOf(t, `overlap = "1h"`)
	o.hcl += "\ntrigger \"api\" \"ci\" {\n  action  = \"rotate\"\n  secrets = [\"mail/*\"]\n}\n"
	o.node = o.start()
	ctx := t.Context()
	o.done(t, mailer)
	first := o.begin(t, mailer, client.RotationOverlap)
	refused(t, "another rotation", second(o.Rotate(ctx, mailer, client.RotateRequest{})), http.StatusConflict, first+" is in its overlap until")
	refused(t, "an event", second(o.Event(ctx, "ci", client.EventRequest{ID: "e1", Secret: mailer, Reason: "test"})), http.StatusConflict, first+" is in its overlap until")
	if list := must(o.Rotations(ctx, client.RotationQuery{Secret: mailer, Live: true}))(t).Items; len(list) != 1 || list[0].State != client.RotationOverlap {
		t.Errorf("under way are %+v", list)
	}
	em := must(o.Emergency(ctx, mailer, client.EmergencyRequest{Reason: "leaked"}))(t)
	rot, retirements := o.follow(t, em.ID)
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead || retirements[2].State != client.ProvenDead {
		t.Errorf("the emergency is %s: %s; version 1 is %s, version 2 %s", rot.State, rot.Error, retirements[1].State, retirements[2].State)
	}
	if was := must(o.Rotation(ctx, first))(t); was.State != client.RotationSuperseded {
		t.Errorf("what was under way is %s", was.State)
	}
}

func TestRule11AHoldEndsAtTheMaximumOverlap(t *testing.T) {
	t.Parallel()
	const most = 3 * time.Second
	o, _ := twoConsumers(t, `overlap = "100ms"
  limits {
    max_overlap = "`+most.String()+`"
  }
  acknowledgement {
    require    = "applied"
    timeout    = "1s"
    on_timeout = "hold"
  }`)
	o.node = o.start()
	o.done(t, mailer)
	id := o.begin(t, mailer, client.RotationOverlap)
	eventually(t, "the consumer that holds it", func() bool { return o.deliveriesOf(t, 2)["slow"].State == client.DeliveryReceived })
	_, _ = o.Replay(t.Context(), o.deliveriesOf(t, 2)["slow"].ID, client.InterventionRequest{}) // which begins nothing anew
	rot, retirements := o.follow(t, id)
	after, detail := overlapEnded(rot, retirements[1])
	if rot.State != client.RotationDone || after < most || after > 30*time.Minute || detail != "slow has not acknowledged" {
		t.Errorf("%s: revoked after %s, want %s; recorded is %q", rot.State, after, most, detail)
	}
}

// TestRule18RollbackUntilTheRetirementWasRequested, in a real Vault.
func TestRule18RollbackUntilTheRetirementWasRequested(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.hcl = replaced(t, s.hcl, `overlap = "2s"`, strings.Replace(quick, "100ms", "1h", 1))
	o := &operated{site: s.site, api: s.api, app: s.app}
	o.node = o.start()
	ctx, why := t.Context(), client.InterventionRequest{Reason: "it does not suit"}
	o.done(t, mailer)
	first := s.direct(t)
	id := o.begin(t, mailer, client.RotationOverlap)
	bad := s.direct(t)
	must(o.RollBack(ctx, id, why))(t)
	o.inState(t, id, client.RotationRolledBack)
	if v := o.value(t, mailer); s.direct(t) != first || v.Fields["key"] != first || v.Version != 1 || v.Generation != 3 || bad == first {
		t.Errorf("the vault has the first key %v; current is version %d in generation %d", s.direct(t) == first, v.Version, v.Generation)
	}
	must(o.Revoke(ctx, mailer, client.RevokeRequest{Version: 2}))(t)
	o.proven(t, mailer, 2)
	if !o.api.Works(first) || o.api.Works(bad) {
		t.Errorf("the restored key works %v, the one taken back %v", o.api.Works(first), o.api.Works(bad))
	}

	id = o.begin(t, mailer, client.RotationOverlap)
	third := s.direct(t)
	o.api.Override(revoked, http.StatusServiceUnavailable, always) // it is requested, and not even done
	must(o.Revoke(ctx, mailer, client.RevokeRequest{Version: 1}))(t)
	refused(t, "once its retirement was requested", second(o.RollBack(ctx, id, why)), http.StatusConflict, "it cannot come back")
	o.inState(t, id, client.RotationRetiring)
	refused(t, "while it is being revoked", second(o.RollBack(ctx, id, why)), http.StatusConflict, "it cannot come back")
	o.api.Override(revoked, 0, 0)
	if rot, _ := o.follow(t, id); rot.State != client.RotationDone || s.direct(t) != third {
		t.Errorf("%s: %s; the vault has the third key: %v", rot.State, rot.Error, s.direct(t) == third)
	}
	refused(t, "at its end", second(o.RollBack(ctx, id, why)), http.StatusConflict, "has ended")
}
