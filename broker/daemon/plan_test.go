package daemon_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// database opens the store of a node that is stopped.
func (s *site) database(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+s.config().Storage.Path+"?_pragma=busy_timeout(20000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestFreeze(t *testing.T) {
	t.Parallel()
	o := startOperated(t, "5s")
	ctx, why := t.Context(), client.InterventionRequest{Reason: "black friday"}
	o.done(t, mailer)
	if f := must(o.Frozen(ctx))(t); f.Frozen {
		t.Fatalf("%+v", f)
	}
	inOverlap := o.begin(t, mailer, client.RotationOverlap)
	must(o.Freeze(ctx, client.InterventionRequest{Reason: "x", DryRun: true}))(t)
	if f := must(o.Frozen(ctx))(t); f.Frozen {
		t.Fatalf("a dry run froze everything: %+v", f)
	}
	must(o.Freeze(ctx, why))(t)
	if f := must(o.Frozen(ctx))(t); !f.Frozen || f.Reason != why.Reason || f.By == "" || f.At.IsZero() {
		t.Errorf("%+v", f)
	}
	refused(t, "twice", second(o.Freeze(ctx, why)), http.StatusConflict, "black friday")

	// Nothing begins, and no overlap ends.
	queued := must(o.Rotate(ctx, "mail/approved", client.RotateRequest{}))(t).ID
	o.waitsFor(t, queued, "freeze")
	o.waitsFor(t, inOverlap, "freeze")
	if r := must(o.Rotation(ctx, inOverlap))(t); r.State != client.RotationOverlap || len(o.retirementsOf(t, mailer)) != 0 {
		t.Errorf("it is %s, with %d retirements", r.State, len(o.retirementsOf(t, mailer)))
	}
	if n := o.api.Requests("DELETE /v1/keys/{id}"); n != 0 {
		t.Errorf("%d keys were revoked", n)
	}
	// It outlives a restart.
	o.stop()
	o.node = o.start()
	if f := must(o.Frozen(ctx))(t); !f.Frozen {
		t.Error("the restart ended the freeze")
	}
	must(o.Unfreeze(ctx, client.InterventionRequest{DryRun: true}))(t)
	if f := must(o.Frozen(ctx))(t); !f.Frozen {
		t.Error("a dry run ended the freeze")
	}
	// Emergencies go on.
	em := must(o.Emergency(ctx, mailer, client.EmergencyRequest{Reason: "leaked"}))(t)
	if rot, _ := o.follow(t, em.ID); rot.State != client.RotationDone {
		t.Errorf("the emergency is %s: %s", rot.State, rot.Error)
	}
	// What waited goes on at once.
	must(o.Cancel(ctx, queued, why))(t)
	next := must(o.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID
	o.waitsFor(t, next, "freeze")
	must(o.Unfreeze(ctx, why))(t)
	if rot, _ := o.follow(t, next); rot.State != client.RotationDone {
		t.Errorf("after the freeze: %s: %s", rot.State, rot.Error)
	}
	refused(t, "nothing is frozen", second(o.Unfreeze(ctx, why)), http.StatusConflict, "nothing is frozen")
}

// blockers lists what a plan says that keeps a rotation from beginning.
func blockers(p client.Plan) string {
	var all []string
	for _, w := range p.WhyNot {
		all = append(all, w.WaitingFor)
	}
	return strings.Join(all, " ")
}

func TestPlan(t *testing.T) {
	t.Parallel()
	o := startOperated(t, endless, `
secret "mail/rare" {
  backend = "prod"
  probe   = "mailer"
  issuer "mailer" {
    scopes = ["send"]
  }
  rotation {
    min_interval = "1h"
    schedule     = "0 3 1 * *"
  }
}
`)
	ctx := t.Context()
	plan := func(secret string) client.Plan { t.Helper(); return must(o.Plan(ctx, secret))(t) }
	expect := func(what string, p client.Plan, ready bool, why, mend string) {
		t.Helper()
		if p.Ready != ready || blockers(p) != why || (mend != "" && !strings.Contains(fmt.Sprint(p.WhyNot), mend)) {
			t.Errorf("%s: ready %v, waiting for %q: %+v", what, p.Ready, blockers(p), p.WhyNot)
		}
	}
	steps := func(p client.Plan) string {
		text := ""
		for _, e := range p.Steps {
			text += e.Step + "=" + e.State + " "
		}
		return strings.TrimSpace(text)
	}

	p := plan(mailer)
	expect("new", p, true, "", "")
	if steps(p) != "mint=next stage=next verify=next publish=next" || !p.NextAt.IsZero() {
		t.Errorf("its first rotation: %s, next at %s", steps(p), p.NextAt)
	}
	eventually(t, "the first rotation of what has a schedule", func() bool { return must(o.Secret(ctx, "mail/rare"))(t).Current() == 1 })
	p = plan("mail/rare")
	expect("within min_interval", p, false, "min_interval", "an emergency does not")
	if p.NextAt.IsZero() || p.Trigger != "schedule" || steps(p) != "mint=next stage=next verify=next publish=next overlap=next retire=next" {
		t.Errorf("%s at %s: %s", p.Trigger, p.NextAt, steps(p))
	}
	o.done(t, mailer)
	must(o.Pause(ctx, mailer, client.PauseRequest{}))(t)
	expect("paused", plan(mailer), false, "pause", "keybroker secret resume mail/sender")
	must(o.Freeze(ctx, client.InterventionRequest{Reason: "test"}))(t)
	expect("frozen too", plan(mailer), false, "freeze pause", "keybroker unfreeze")
	must(o.Unfreeze(ctx, client.InterventionRequest{}))(t)
	must(o.Resume(ctx, mailer))(t)
	expect("resumed", plan(mailer), true, "", "")

	id := must(o.Rotate(ctx, "mail/approved", client.RotateRequest{}))(t).ID
	o.waitsFor(t, id, "approval")
	p = plan("mail/approved")
	expect("waiting for approval", p, false, "approval", "keybroker rotation approve "+id)
	if p.RotationID != id || p.Trigger != "manual" || !strings.HasPrefix(steps(p), "queue=now mint=next") {
		t.Errorf("%s (%s): %s", p.RotationID, p.Trigger, steps(p))
	}
	id = o.begin(t, mailer, client.RotationOverlap)
	p = plan(mailer)
	if p.Ready || p.RotationID != id || !strings.HasSuffix(steps(p), "publish=done overlap=now retire=next") {
		t.Errorf("in the overlap: ready %v, %s: %s", p.Ready, p.RotationID, steps(p))
	}
	o.api.Override(tried, http.StatusServiceUnavailable, always)
	must(o.Revoke(ctx, mailer, client.RevokeRequest{Version: 1}))(t)
	o.inState(t, id, client.RotationRetiring)
	if p = plan(mailer); len(p.Retirements) != 1 || !strings.HasPrefix(p.Retirements[0].Detail, "version 1: ") {
		t.Errorf("retiring: %+v", p.Retirements)
	}
	refused(t, "no such secret", second(o.Plan(ctx, "mail/nosuch")), http.StatusNotFound, "mail/nosuch")
}

// TestRepairOfAVault has a stranger write into a real Vault, and a vault that is down.
func TestRepairOfAVault(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	n := s.start()
	ctx := t.Context()
	n.done(t, mailer)
	ours := s.direct(t)
	repair := func(r client.RepairRequest) client.Repair { t.Helper(); return must(n.Repair(ctx, mailer, r))(t) }
	if r := repair(client.RepairRequest{}); len(r.Findings) != 0 {
		t.Errorf("nothing is wrong: %+v", r)
	}
	stranger := map[string]any{"key": "written by hand"}
	if _, err := s.vault.Client(t).KVv2("secret").Put(context.Background(), "keybroker/"+mailer, stranger); err != nil {
		t.Fatal(err)
	}
	p := must(n.Plan(ctx, mailer))(t)
	if p.Ready || blockers(p) != "repair" || !strings.Contains(p.WhyNot[0].Mend, "keybroker secret repair "+mailer) {
		t.Errorf("ready %v: %+v", p.Ready, p.WhyNot)
	}
	waiting := must(n.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID
	eventually(t, "it to wait for the repair", func() bool { return must(n.Rotation(ctx, waiting))(t).WaitingFor == "repair" })

	for _, r := range []client.RepairRequest{{DryRun: true}, {}, {DryRun: true, Overwrite: true}} {
		got := repair(r)
		vault := vaultFinding(got)
		if vault.Kind != "vault" || vault.Mended || vault.Mendable != r.Overwrite || got.DryRun != r.DryRun || s.direct(t) != "written by hand" {
			t.Errorf("%+v: %+v", r, got)
		}
		if strings.Contains(fmt.Sprint(got), "written by hand") || strings.Contains(fmt.Sprint(got), ours) {
			t.Error("a finding has a value in it")
		}
	}
	if got := vaultFinding(repair(client.RepairRequest{Overwrite: true, Reason: "edited by hand"})); !got.Mended || s.direct(t) != ours {
		t.Errorf("%+v; the vault has our value again: %v", got, s.direct(t) == ours)
	}
	if rot, _ := n.follow(t, waiting); rot.State != client.RotationDone {
		t.Errorf("after the repair: %s: %s", rot.State, rot.Error)
	}

	s.vault.Seal(t)
	if p := must(n.Plan(ctx, mailer))(t); p.Ready || blockers(p) != "backend" {
		t.Errorf("a sealed vault: ready %v: %+v", p.Ready, p.WhyNot)
	}
	if got := vaultFinding(repair(client.RepairRequest{Overwrite: true})); got.Mendable || got.Mended || got.Mend == "" {
		t.Errorf("a sealed vault: %+v", got)
	}
}

func vaultFinding(r client.Repair) client.Finding {
	for _, f := range r.Findings {
		if f.Kind == "vault" {
			return f
		}
	}
	return client.Finding{}
}
