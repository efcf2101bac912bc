package daemon_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// operated is a site whose keys are a third party's, which can be made to fail.
type operated struct {
	*site
	*node
	api *keyserver.Server
	app *consumer
}

const (
	mailer = "mail/sender"
	minted = "POST /v1/keys"
	tried  = "GET /v1/me"
	always = 1 << 20
)

// Overlaps: one that is over at once, and one that only ends if somebody ends it.
const (
	brief   = "100ms"
	endless = "1h"
)

// startOperated has its keys in the local backend. The rotations of mail/approved
// wait for approval.
func startOperated(t *testing.T, overlap string, more ...string) *operated {
	t.Helper()
	api, signing := keyserver.Start(t), newSigningSecret()
	app := newConsumer(t, signing)
	before, after, _ := strings.Cut(inVault, "backend \"vault\"")
	_, after, _ = strings.Cut(after, "\n}\n")
	after = strings.Replace(after, `overlap = "2s"`, `overlap = "`+overlap+`"
  confirm {
    rejections = 2
    window     = "500ms"
  }`, 1)
	hcl := before + "backend \"local\" \"prod\" {}\n" + after + `
secret "mail/approved" {
  backend = "prod"
  probe   = "mailer"
  issuer "mailer" {
    scopes = ["send"]
  }
  rotation {
    approval = true
  }
}
policy "reader" {
  path "mail/*" {
    capabilities = ["list", "read"]
  }
}
policy "operator" {
  path "mail/*" {
    capabilities = ["list", "rotate", "update"]
  }
}
policy "approver" {
  path "mail/*" {
    capabilities = ["list", "rotate", "approve"]
  }
}
`
	s := newSite(t, strings.ReplaceAll(withConsumer(hcl, app), "API_URL", api.URL)+strings.Join(more, "\n"))
	s.env = map[string]string{"MAILER_ADMIN": api.AdminToken, "SIGNING_SECRET": signing.Reveal()}
	return &operated{s, s.start(), api, app}
}

// refused tells whether err is a problem with this status whose text has words.
func refused(t *testing.T, what string, err error, status int, words string) {
	t.Helper()
	if client.Status(err) != status || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: %v, want %d and %q", what, err, status, words)
	}
}

// proven waits for the proof that a version is dead.
func (o *operated) proven(t *testing.T, secret string, version int) client.Retirement {
	t.Helper()
	var r client.Retirement
	eventually(t, "the proof", func() bool {
		for _, r = range o.retirementsOf(t, secret) {
			if r.Version == version {
				return r.State == client.ProvenDead
			}
		}
		return false
	})
	return r
}

func (o *operated) waitsFor(t *testing.T, id, waitingFor string) {
	t.Helper()
	eventually(t, "a rotation that waits for "+waitingFor, func() bool {
		return must(o.Rotation(t.Context(), id))(t).WaitingFor == waitingFor
	})
}

func TestCancel(t *testing.T) {
	t.Parallel()
	why := client.InterventionRequest{Reason: "wrong secret"}
	for name, c := range map[string]struct {
		hold    func(*testing.T, *operated) (id string) // lets a second rotation come to a state
		release func(*testing.T, *operated)
		minted  bool // version 2 was made
	}{
		client.RotationQueued: {
			hold: func(t *testing.T, o *operated) string {
				must(o.Pause(t.Context(), mailer, client.PauseRequest{}))(t)
				return must(o.Rotate(t.Context(), mailer, client.RotateRequest{}))(t).ID
			},
			release: func(t *testing.T, o *operated) { must(o.Resume(t.Context(), mailer))(t) },
		},
		client.RotationMinting: {
			hold: func(t *testing.T, o *operated) string {
				o.api.Override(minted, http.StatusServiceUnavailable, always)
				return o.begin(t, mailer, client.RotationMinting)
			},
			release: func(_ *testing.T, o *operated) { o.api.Override(minted, 0, 0) },
		},
		client.RotationVerifying: {
			hold: func(t *testing.T, o *operated) string {
				o.api.Override(tried, http.StatusServiceUnavailable, always)
				return o.begin(t, mailer, client.RotationVerifying)
			},
			release: func(_ *testing.T, o *operated) { o.api.Override(tried, 0, 0) },
			minted:  true,
		},
		client.RotationPublishing: {
			hold: func(t *testing.T, o *operated) string {
				o.api.Override(tried, http.StatusServiceUnavailable, always)
				id := o.begin(t, mailer, client.RotationVerifying)
				must(o.Freeze(t.Context(), client.InterventionRequest{Reason: "test"}))(t)
				o.api.Override(tried, 0, 0)
				o.waitsFor(t, id, "freeze")
				return id
			},
			release: func(t *testing.T, o *operated) { must(o.Unfreeze(t.Context(), why))(t) },
			minted:  true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := startOperated(t, brief)
			o.done(t, mailer)
			key := o.value(t, mailer).Fields["key"]
			id := c.hold(t, o)

			dry := must(o.Cancel(t.Context(), id, client.InterventionRequest{DryRun: true}))(t)
			if now := must(o.Rotation(t.Context(), id))(t); now.State != name || !dry.DryRun || dry.Rotation.State != client.RotationCancelled || len(dry.Will) == 0 {
				t.Fatalf("after a dry run it is %s; it said %+v", now.State, dry)
			}
			did := must(o.Cancel(t.Context(), id, why))(t)
			if did.DryRun || did.Rotation.State != client.RotationCancelled || !slices.Equal(did.Will, dry.Will) {
				t.Errorf("%+v, foretold was %+v", did, dry)
			}
			c.release(t, o)
			if c.minted {
				o.proven(t, mailer, 2)
				if live := o.api.Live(); len(live) != 1 {
					t.Errorf("the issuer has %+v", live)
				}
			}
			if o.value(t, mailer).Fields["key"] != key {
				t.Error("the value has changed")
			}
			_, err := o.Cancel(t.Context(), id, why)
			refused(t, "cancelled again", err, http.StatusConflict, "has ended")

			again := must(o.Retry(t.Context(), id, client.InterventionRequest{}))(t)
			if again.Rotation.ID == id || !strings.Contains(again.Rotation.Reason, id) {
				t.Errorf("the retry is %+v", again.Rotation)
			}
			if rot, _ := o.follow(t, again.Rotation.ID); rot.State != client.RotationDone {
				t.Errorf("the retry is %s: %s", rot.State, rot.Error)
			}
		})
	}
}

// TestCancelAfterPublishing: what is published is rolled back, and what is being
// revoked is not waited for.
func TestCancelAfterPublishing(t *testing.T) {
	t.Parallel()
	o := startOperated(t, endless)
	o.done(t, mailer)
	id := o.begin(t, mailer, client.RotationOverlap)
	_, err := o.Cancel(t.Context(), id, client.InterventionRequest{})
	refused(t, "in the overlap", err, http.StatusConflict, "keybroker rotation rollback "+id)
	o.api.Override(tried, http.StatusServiceUnavailable, always)
	must(o.Revoke(t.Context(), mailer, client.RevokeRequest{Version: 1}))(t)
	o.inState(t, id, client.RotationRetiring)
	must(o.Cancel(t.Context(), id, client.InterventionRequest{}))(t)
	o.inState(t, id, client.RotationCancelled)
	o.api.Override(tried, 0, 0)
	for _, r := range o.retirementsOf(t, mailer) {
		_, _ = o.Probe(t.Context(), r.ID, client.InterventionRequest{}) // it would be tried within half a minute
	}
	o.proven(t, mailer, 1)
	if now := must(o.Rotation(t.Context(), id))(t); now.State != client.RotationCancelled {
		t.Errorf("the proof made it %s", now.State)
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	o.api.Override(minted, http.StatusUnprocessableEntity, always)
	failed := o.begin(t, mailer, client.RotationFailed)
	o.api.Override(minted, 0, 0)
	again := must(o.Retry(t.Context(), failed, client.InterventionRequest{Reason: "mended"}))(t).Rotation
	if rot, _ := o.follow(t, again.ID); again.ID == failed || rot.State != client.RotationDone || rot.Reason != "mended" {
		t.Errorf("%s: %s: %s (%s)", again.ID, rot.State, rot.Error, rot.Reason)
	}
	_, err := o.Retry(t.Context(), again.ID, client.InterventionRequest{})
	refused(t, "one that is done", err, http.StatusConflict, "has ended")
	_, err = o.Retry(t.Context(), "nosuch", client.InterventionRequest{})
	refused(t, "none", err, http.StatusNotFound, `there is no rotation "nosuch"`)

	o.api.Override(minted, http.StatusServiceUnavailable, always)
	waiting := o.begin(t, mailer, client.RotationMinting)
	eventually(t, "a long wait", func() bool {
		return must(o.Rotation(t.Context(), waiting))(t).NextAt.After(time.Now().Add(3 * time.Second))
	})
	o.api.Override(minted, 0, 0)
	if same := must(o.Retry(t.Context(), waiting, client.InterventionRequest{}))(t).Rotation; same.ID != waiting {
		t.Errorf("in place of the waiting one another has begun: %s", same.ID)
	}
	if rot, _ := o.follow(t, waiting); rot.State != client.RotationDone {
		t.Errorf("%s: %s", rot.State, rot.Error)
	}
}

func TestApproval(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	ctx, none := t.Context(), client.InterventionRequest{}
	const secret = "mail/approved"
	alice, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{"approver"}})
	bob, who := o.as(o.node, client.CreateTokenRequest{Policies: []string{"approver"}})
	carol, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{"operator"}})

	id := must(alice.Rotate(ctx, secret, client.RotateRequest{Reason: "quarterly"}))(t).ID
	o.waitsFor(t, id, "approval")
	_, err := alice.Approve(ctx, id, none)
	refused(t, "by who asked for it", err, http.StatusForbidden, "somebody else has to approve it")
	_, err = carol.Approve(ctx, id, none)
	refused(t, "by who may not", err, http.StatusForbidden, "approve on")
	if got := o.lastAudited("rotation.approve", 3, "error", "capability"); got != "failed mail/approved error=denied capability=approve; denied mail/approved error= capability=approve; denied mail/approved error=denied capability=approve" {
		t.Errorf("the audit log has %q", got)
	}
	must(bob.Approve(ctx, id, client.InterventionRequest{DryRun: true}))(t)
	if now := must(o.Rotation(ctx, id))(t); now.State != client.RotationQueued || now.ApprovedBy != "" {
		t.Fatalf("a dry run approved it: %+v", now)
	}
	must(bob.Approve(ctx, id, client.InterventionRequest{Reason: "CHG-1"}))(t)
	rot, _ := o.follow(t, id)
	if rot.State != client.RotationDone || rot.ApprovedBy != who.ID || rot.ApprovedAt.IsZero() || !strings.Contains(stepsOf(rot), "approve=ok") {
		t.Errorf("%s, approved by %s at %s: %s", rot.State, rot.ApprovedBy, rot.ApprovedAt, stepsOf(rot))
	}
	_, err = bob.Approve(ctx, id, none)
	refused(t, "again", err, http.StatusConflict, "waits for no approval")

	// Nobody is asked in an emergency.
	em := must(o.Emergency(ctx, secret, client.EmergencyRequest{Reason: "leaked"}))(t)
	if rot, _ := o.follow(t, em.ID); rot.State != client.RotationDone {
		t.Errorf("the emergency is %s: %s", rot.State, rot.Error)
	}
}

func TestRollback(t *testing.T) {
	t.Parallel()
	o := startOperated(t, endless)
	ctx, why := t.Context(), client.InterventionRequest{Reason: "the application cannot use it"}
	o.done(t, mailer)
	first := o.value(t, mailer)
	id := o.begin(t, mailer, client.RotationOverlap)
	second := o.value(t, mailer)
	eventually(t, "the consumer to have it", func() bool { k, _ := o.app.key(mailer); return k == second.Fields["key"] })

	dry := must(o.RollBack(ctx, id, client.InterventionRequest{DryRun: true}))(t)
	if now := o.value(t, mailer); now.Version != 2 || len(dry.Will) == 0 {
		t.Fatalf("a dry run made version %d current; it said %q", now.Version, dry.Will)
	}
	must(o.RollBack(ctx, id, why))(t)
	o.inState(t, id, client.RotationRolledBack)
	if r := o.retirementsOf(t, mailer); len(r) != 1 || r[0].State != client.Requested || r[0].Cause != "rolled_back" || !o.api.Works(second.Fields["key"]) {
		t.Errorf("who has version 2 may use it to the end of the overlap: %+v", r)
	}
	must(o.Revoke(ctx, mailer, client.RevokeRequest{Version: 2, Reason: why.Reason}))(t)
	rot, retirements := o.follow(t, id)
	if rot.State != client.RotationRolledBack || rot.RollBackBy == "" || !strings.Contains(stepsOf(rot), "rollback=ok") {
		t.Fatalf("%s by %s: %s (%s)", rot.State, rot.RollBackBy, stepsOf(rot), rot.Error)
	}
	now := o.value(t, mailer)
	if now.Version != 1 || now.Fields["key"] != first.Fields["key"] || now.Generation != 3 {
		t.Errorf("version %d in generation %d is current", now.Version, now.Generation)
	}
	eventually(t, "the consumer to have the old one again", func() bool {
		k, generation := o.app.key(mailer)
		return k == first.Fields["key"] && generation == 3
	})
	if r := retirements[2]; r.State != client.ProvenDead || o.api.Works(second.Fields["key"]) || !o.api.Works(first.Fields["key"]) {
		t.Errorf("version 2 is %s; it works %v, version 1 %v", r.State, o.api.Works(second.Fields["key"]), o.api.Works(first.Fields["key"]))
	}
	_, err := o.RollBack(ctx, id, why)
	refused(t, "again", err, http.StatusConflict, "has ended")

	// What is being revoked cannot come back (rule 18).
	next := o.begin(t, mailer, client.RotationOverlap)
	must(o.Revoke(ctx, mailer, client.RevokeRequest{Version: 1}))(t)
	_, err = o.RollBack(ctx, next, why)
	refused(t, "once revoked", err, http.StatusConflict, "it cannot come back")
	if rot, _ := o.follow(t, next); rot.State != client.RotationDone || rot.FromVersion != 1 {
		t.Errorf("from version %d: %s: %s", rot.FromVersion, rot.State, rot.Error)
	}
}

func TestProbeNow(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	ctx := t.Context()
	o.done(t, mailer, mailer)
	dead := o.proven(t, mailer, 1)
	before := len(must(o.Retirement(ctx, dead.ID))(t).Tries)
	must(o.Probe(ctx, dead.ID, client.InterventionRequest{DryRun: true}))(t)
	must(o.Probe(ctx, dead.ID, client.InterventionRequest{Reason: "audit"}))(t)
	var last client.Retirement
	for ev, err := range o.WatchRetirement(ctx, dead.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Retirement != nil {
			last = *ev.Retirement
		}
	}
	if last.State != client.ProvenDead || len(last.Tries) != before+2 || len(last.Rechecks) != 3 || !last.Rechecks[0].At.IsZero() {
		t.Errorf("it is %s after %d tries more; re-checks %+v", last.State, len(last.Tries)-before, last.Rechecks)
	}
	_, err := o.Probe(ctx, "nosuch", client.InterventionRequest{})
	refused(t, "none", err, http.StatusNotFound, `there is no retirement "nosuch"`)

	em := must(o.Emergency(ctx, mailer, client.EmergencyRequest{Reason: "leaked", Versions: []int{2}}))(t)
	reader, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{"operator"}})
	for _, r := range o.retirementsOf(t, mailer) {
		if r.Version == 2 {
			_, err = reader.Probe(ctx, r.ID, client.InterventionRequest{})
			refused(t, "an emergency's, without the capability", err, http.StatusForbidden, "emergency on")
		}
	}
	o.follow(t, em.ID)
}

func TestOrphansAreListed(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	ctx := t.Context()
	o.done(t, mailer)
	if list := must(o.Orphans(ctx, client.OrphanQuery{}))(t).Items; len(list) != 0 {
		t.Errorf("%+v", list)
	}
	o.api.DropCreates(1)
	rot, _ := o.rotate(t, mailer)
	if rot.State != client.RotationDone {
		t.Fatalf("%s: %s", rot.State, rot.Error)
	}
	var got client.Orphan
	eventually(t, "it to be revoked", func() bool {
		list := must(o.Orphans(ctx, client.OrphanQuery{Secret: mailer}))(t).Items
		if len(list) != 1 {
			t.Fatalf("%+v", list)
		}
		got = list[0]
		return got.Retirement.State == client.Unprovable // its value was shown to nobody, so it cannot be tried
	})
	if live := o.api.Live(); len(live) != 1 {
		t.Errorf("the issuer has %+v", live)
	}
	if got.Secret != mailer || got.Version != 2 || got.RotationID != rot.ID || got.Issuer != "mailer" || got.Tag == "" || got.Handle["id"] == "" ||
		!got.Suspected || got.Retirement.Cause != "orphan" {
		t.Errorf("%+v", got)
	}
	if list := must(o.Orphans(ctx, client.OrphanQuery{Secret: "mail/approved"}))(t).Items; len(list) != 0 {
		t.Errorf("of another secret: %+v", list)
	}
}

func TestReplayOfADeadDelivery(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	ctx := t.Context()
	o.done(t, mailer)
	delivered := must(o.Deliveries(ctx, client.DeliveryQuery{Secret: mailer, Event: "secret.rotated"}))(t).Items[0]
	eventually(t, "the delivery", func() bool { return must(o.Delivery(ctx, delivered.ID))(t).State == client.DeliveryApplied })
	o.stop()
	exec(t, o.database(t), "UPDATE deliveries SET state = 'dead', attempts = 9, error = 'given up', applied_at = NULL")
	o.node = o.start()
	dead := must(o.Deliveries(ctx, client.DeliveryQuery{State: client.DeliveryDead}))(t).Items
	if len(dead) != 1 {
		t.Fatalf("%+v", dead)
	}
	dry := must(o.Replay(ctx, dead[0].ID, client.InterventionRequest{DryRun: true}))(t)
	if now := must(o.Delivery(ctx, dead[0].ID))(t); now.State != client.DeliveryDead || len(dry.Will) != 1 {
		t.Errorf("after a dry run it is %s; it said %q", now.State, dry.Will)
	}
	must(o.Replay(ctx, dead[0].ID, client.InterventionRequest{}))(t)
	eventually(t, "the delivery", func() bool { return must(o.Delivery(ctx, dead[0].ID))(t).State == client.DeliveryApplied })

	o.done(t, mailer)
	_, err := o.Replay(ctx, dead[0].ID, client.InterventionRequest{})
	refused(t, "an older generation", err, http.StatusConflict, "generation 2 by now")
	_, err = o.Replay(ctx, "nosuch", client.InterventionRequest{})
	refused(t, "none", err, http.StatusNotFound, `there is no delivery "nosuch"`)
}

// TestOperatorsSeeNothingOfOthers: an intervention tells nobody what there is.
func TestOperatorsSeeNothingOfOthers(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief)
	ctx, none := t.Context(), client.InterventionRequest{}
	o.done(t, mailer, mailer)
	rotation := must(o.Rotations(ctx, client.RotationQuery{Secret: mailer}))(t).Items[0].ID
	retirement := o.retirementsOf(t, mailer)[0].ID
	delivery := must(o.Deliveries(ctx, client.DeliveryQuery{Secret: mailer, Event: "secret.rotated"}))(t).Items[0].ID
	acme, _ := o.as(o.node, client.CreateTokenRequest{Tenant: "acme", Policies: []string{"root"}})
	reader, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{"reader"}})
	for what, c := range map[string]func(*client.Client) error{
		"cancel":   func(c *client.Client) error { return second(c.Cancel(ctx, rotation, none)) },
		"retry":    func(c *client.Client) error { return second(c.Retry(ctx, rotation, none)) },
		"approve":  func(c *client.Client) error { return second(c.Approve(ctx, rotation, none)) },
		"rollback": func(c *client.Client) error { return second(c.RollBack(ctx, rotation, none)) },
		"probe":    func(c *client.Client) error { return second(c.Probe(ctx, retirement, none)) },
		"replay":   func(c *client.Client) error { return second(c.Replay(ctx, delivery, none)) },
		"repair":   func(c *client.Client) error { return second(c.Repair(ctx, "default:"+mailer, client.RepairRequest{})) },
	} {
		if err := c(acme); client.Status(err) != http.StatusNotFound {
			t.Errorf("%s, of another tenant: %v", what, err)
		}
		if err := c(reader); client.Status(err) != http.StatusForbidden {
			t.Errorf("%s, by who may only read: %v", what, err)
		}
	}
	if err := second(acme.Plan(ctx, "default:"+mailer)); client.Status(err) != http.StatusNotFound {
		t.Errorf("plan, of another tenant: %v", err)
	}
	refused(t, "a freeze by a tenant's token", second(acme.Freeze(ctx, client.InterventionRequest{Reason: "x"})), http.StatusForbidden, "every tenant")
	refused(t, "a freeze by who may only read", second(reader.Freeze(ctx, client.InterventionRequest{Reason: "x"})), http.StatusForbidden, "sys/freeze")
	refused(t, "a freeze without a reason", second(o.Freeze(ctx, none)), http.StatusBadRequest, "needs a reason")
	if list := must(acme.Orphans(ctx, client.OrphanQuery{}))(t).Items; len(list) != 0 {
		t.Errorf("%+v", list)
	}
}
