package alert_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

// why is what an issuer or consumer is said to have done wrong.
const why = "it answered 500"

func save(t *testing.T, db *store.DB, fn func(*store.Tx) error) {
	t.Helper()
	if err := db.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func addSecret(t *testing.T, db *store.DB) rotation.Secret {
	t.Helper()
	s := rotation.Secret{ID: "sec_1", Ref: backends.Ref{Tenant: "acme", Name: "mail/sender"}, Origin: rotation.OriginAPI, State: rotation.SecretActive,
		Definition: rotation.Definition{Backend: "prod", Consumers: []string{"web"}}, Current: 2, Generation: 2, CreatedAt: start, UpdatedAt: start}
	save(t, db, func(tx *store.Tx) error { return tx.AddSecret(t.Context(), &s) })
	return s
}

// open are the kinds of the open alerts, in order.
func open(t *testing.T, db *store.DB) (kinds []string) {
	t.Helper()
	for _, a := range alerts(t, db) {
		if a.Open() {
			kinds = append(kinds, a.Kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}

// TestSweepFindsAndEnds: what is wrong in the store is raised at the next look, with a
// text and the command to run next, and is over when it is mended.
func TestSweepFindsAndEnds(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		ctx := t.Context()
		s := addSecret(t, db)
		n := newNode(t, db, "a", c, alert.Rules{})
		must := func(kinds ...string) {
			t.Helper()
			n.tick(t)
			if got := open(t, db); !slices.Equal(got, kinds) {
				t.Errorf("open %q, want %q", got, kinds)
			}
		}
		must()

		dead := rotation.Retirement{ID: "ret_1", SecretID: s.ID, Version: 1, Cause: rotation.CauseRotated, State: rotation.Unconfirmed, RequestedAt: start}
		save(t, db, func(tx *store.Tx) error { return tx.AddRetirement(ctx, &dead) })
		must(alert.Unconfirmed)
		dead.State = rotation.ProvenDead
		save(t, db, func(tx *store.Tx) error { return tx.SaveRetirement(ctx, &dead) })
		must()
		dead.State = rotation.Resurrected
		save(t, db, func(tx *store.Tx) error { return tx.SaveRetirement(ctx, &dead) })
		must(alert.Resurrected)
		dead.State = rotation.Rejecting // contained, and not proven
		save(t, db, func(tx *store.Tx) error { return tx.SaveRetirement(ctx, &dead) })
		must(alert.Resurrected)
		dead.State = rotation.ProvenDead
		save(t, db, func(tx *store.Tx) error { return tx.SaveRetirement(ctx, &dead) })
		must()

		d := rotation.Delivery{ID: "del_1", SecretID: s.ID, Ref: s.Ref, Consumer: "web", Version: 2, Generation: 2, Event: rotation.EventRotated,
			Trigger: rotation.TriggerSchedule, CreatedAt: c.Now(), NextAttemptAt: c.Now(), Error: why}
		save(t, db, func(tx *store.Tx) error { return tx.AddDelivery(ctx, &d) })
		must()
		c.pass(time.Hour + time.Second)
		must(alert.StuckDelivery)
		d.State, d.ReceivedAt = rotation.DeliveryReceived, c.Now()
		save(t, db, func(tx *store.Tx) error { return tx.SaveDelivery(ctx, &d) })
		must()

		held := rotation.Rotation{ID: "rot_1", SecretID: s.ID, Trigger: rotation.TriggerManual, State: rotation.Overlap, WaitingFor: rotation.WaitAcknowledgment,
			From: 1, To: 2, CreatedAt: c.Now(), Plan: rotation.Plan{Acknowledgement: rotation.Acknowledgement{Require: rotation.RequireApplied}}}
		save(t, db, func(tx *store.Tx) error { return tx.AddRotation(ctx, &held) })
		must(alert.MissingAcknowledgement)
		held.State, held.WaitingFor = rotation.Retiring, "" // it timed out, and web has not applied it
		save(t, db, func(tx *store.Tx) error { return tx.SaveRotation(ctx, &held) })
		must(alert.MissingAcknowledgement)
		d.State, d.AppliedAt = rotation.DeliveryApplied, c.Now()
		save(t, db, func(tx *store.Tx) error { return tx.SaveDelivery(ctx, &d) })
		must()
		held.State, held.EndedAt, held.Error = rotation.Failed, c.Now(), why
		save(t, db, func(tx *store.Tx) error { return tx.SaveRotation(ctx, &held) })
		must(alert.RotationFailed)
		next := rotation.Rotation{ID: "rot_2", SecretID: s.ID, Trigger: rotation.TriggerManual, State: rotation.Queued, CreatedAt: c.Now().Add(time.Second)}
		save(t, db, func(tx *store.Tx) error { return tx.AddRotation(ctx, &next) })
		must()

		p := rotation.Placement{ID: "pla_1", SecretID: s.ID, Backend: "prod", Role: rotation.RolePrimary, Want: 2, Have: 2,
			Drift: &rotation.Drift{Kind: rotation.DriftChanged, Detail: "it holds a value that is no version", FoundAt: c.Now()}}
		save(t, db, func(tx *store.Tx) error { return tx.AddPlacement(ctx, &p) })
		must() // it may be brought in step by itself
		c.pass(15 * time.Minute)
		must(alert.Drift)
		p.Drift = nil
		save(t, db, func(tx *store.Tx) error { return tx.SavePlacement(ctx, &p) })
		must()

		dead.State = rotation.Unprovable
		tell := func(tx *store.Tx) error { // as the engine does
			kind, text, next := engine.AlertOf(dead, s.Ref)
			return tx.AddAlert(ctx, kind, s.Ref.Tenant, dead.ID, text, next)
		}
		save(t, db, func(tx *store.Tx) error { return errors.Join(tx.SaveRetirement(ctx, &dead), tell(tx)) })
		must(alert.Unprovable)
		dead.State = rotation.ProvenDead
		save(t, db, func(tx *store.Tx) error { return tx.SaveRetirement(ctx, &dead) })
		must()
		dead.State = rotation.Unprovable
		save(t, db, func(tx *store.Tx) error { return errors.Join(tx.SaveRetirement(ctx, &dead), tell(tx)) })
		must(alert.Unprovable)
		save(t, db, func(tx *store.Tx) error { // somebody acknowledges it
			all, _, err := tx.AlertsPage(ctx, store.AlertFilter{Kind: alert.Unprovable}, store.Page{})
			if err != nil {
				return err
			}
			all[0].AckedAt, all[0].ResolvedAt = c.Now(), c.Now()
			return tx.SaveAlert(ctx, &all[0])
		})
		must()
		raise(t, db, rootToken)
		must(alert.NewRootToken) // and only people end it
		kinds := map[string]bool{}
		for _, a := range alerts(t, db) {
			kinds[a.Kind] = true
			if a.Kind != alert.NewRootToken && (a.Tenant != "acme" || a.Next == "") || a.Text == "" {
				t.Errorf("alert %+v", a)
			}
			t.Log(a.Text, "|", a.Next)
		}
		if len(kinds) != 8 {
			t.Errorf("raised of %v", kinds)
		}
	})
}

// TestAQuarantineIsTold as long as it lasts, and instead of what follows from it: that the
// consumer does not get what it is to be told, and acknowledges nothing.
func TestAQuarantineIsTold(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		ctx := t.Context()
		s := addSecret(t, db)
		n := newNode(t, db, "a", c, alert.Rules{})
		want := func(kinds ...string) {
			t.Helper()
			n.tick(t)
			if got := open(t, db); !slices.Equal(got, kinds) {
				t.Errorf("open %q, want %q", got, kinds)
			}
		}
		emergency := rotation.Rotation{ID: "rot_1", SecretID: s.ID, Trigger: rotation.TriggerEmergency, State: rotation.Overlap, WaitingFor: rotation.WaitAcknowledgment,
			From: 1, To: 2, Compromised: []int{1}, CreatedAt: c.Now(), Plan: rotation.Plan{Acknowledgement: rotation.Acknowledgement{Require: rotation.RequireApplied}}}
		v := rotation.Version{SecretID: s.ID, Ref: s.Ref, RotationID: emergency.ID, Tag: "tag_2", Stage: rotation.StageCurrent, Backend: "prod", CreatedAt: c.Now()}
		revoked := rotation.Retirement{ID: "ret_1", SecretID: s.ID, Version: 1, RotationID: emergency.ID, Cause: rotation.CauseEmergency, State: rotation.Requested, RequestedAt: c.Now(), RevokeBegunAt: c.Now()}
		d := rotation.Delivery{ID: "del_1", SecretID: s.ID, Ref: s.Ref, Consumer: "web", Version: 2, Generation: 2, Event: rotation.EventRotated,
			Trigger: rotation.TriggerEmergency, CreatedAt: c.Now(), NextAttemptAt: c.Now()}
		save(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.SkipVersions(ctx, s.ID, 1), tx.AddRotation(ctx, &emergency), tx.AddVersion(ctx, &v), tx.AddRetirement(ctx, &revoked), tx.AddDelivery(ctx, &d))
		})
		c.pass(time.Hour + time.Second)
		want(alert.MissingAcknowledgement, alert.StuckDelivery)
		save(t, db, func(tx *store.Tx) error {
			for id, incident := range map[string]string{"q1": "i1", "q2": "i2"} { // it is told once
				if _, _, err := tx.AddQuarantine(ctx, rotation.Quarantine{ID: id, Kind: rotation.KeptConsumer, Name: "web", Tenant: "acme", IncidentID: incident, Reason: "it leaks", At: start}); err != nil {
					return err
				}
			}
			return nil
		})
		want(alert.Quarantined)
		for _, a := range alerts(t, db) {
			if a.Open() && (a.Tenant != "acme" || a.Subject != "consumer web" || a.Next != "keybroker quarantine lift consumer web --reason TEXT" || !strings.HasSuffix(a.Text, "(it leaks)")) {
				t.Errorf("%+v", a)
			}
		}
		save(t, db, func(tx *store.Tx) error {
			_, err := tx.LiftQuarantines(ctx, rotation.KeptConsumer, "web", "", "", c.Now())
			return err
		})
		want(alert.MissingAcknowledgement, alert.StuckDelivery)
	})
}

// TestWhatIsNotReplacedInTime is told of while there is time left, and so is what
// nobody can remove.
func TestConsumerWithoutTheReplacementIsMissed(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		ctx := t.Context()
		s := addSecret(t, db)
		n := newNode(t, db, "a", c, alert.Rules{})
		expect := func(raised bool) {
			t.Helper()
			n.tick(t)
			if got := open(t, db); slices.Equal(got, []string{alert.MissingAcknowledgement}) != raised || !raised && len(got) > 0 {
				t.Errorf("open %q", got)
			}
		}
		old := rotation.Version{SecretID: s.ID, Ref: s.Ref, Number: 1, Stage: rotation.StagePrevious, CreatedAt: start}
		v := rotation.Version{SecretID: s.ID, Ref: s.Ref, Number: 2, Stage: rotation.StageCurrent, RotationID: "rot_1", CreatedAt: start, PublishedAt: start}
		r := rotation.Rotation{ID: "rot_1", SecretID: s.ID, Trigger: rotation.TriggerEmergency, State: rotation.Retiring, From: 1, To: 2, Compromised: []int{1}, CreatedAt: start}
		compromised := rotation.Retirement{ID: "ret_1", SecretID: s.ID, RotationID: r.ID, Version: 1, Cause: rotation.CauseEmergency, State: rotation.Requested, RequestedAt: start}
		d := rotation.Delivery{ID: "del_1", SecretID: s.ID, Ref: s.Ref, Consumer: "web", Version: 2, Generation: 2, Event: rotation.EventRotated,
			Trigger: rotation.TriggerEmergency, CreatedAt: c.Now(), Error: why}
		other := d // which the secret does not name any more
		other.ID, other.Consumer = "del_2", "former"
		save(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddVersion(ctx, &old), tx.AddVersion(ctx, &v), tx.AddRotation(ctx, &r), tx.AddRetirement(ctx, &compromised), tx.AddDelivery(ctx, &d), tx.AddDelivery(ctx, &other))
		})
		expect(false) // version 1 works
		compromised.State, compromised.RevokeBegunAt = rotation.ProvenDead, c.Now()
		r.State, r.EndedAt = rotation.Done, c.Now()
		save(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.SaveRetirement(ctx, &compromised), tx.SaveRotation(ctx, &r))
		})
		expect(true)
		text := alerts(t, db)[0].Text
		if !strings.HasPrefix(text, "the compromised versions [1] of ") || !strings.HasSuffix(text, "are revoked, and web has not received version 2, which replaces them") {
			t.Errorf("it says %s", text)
		}
		d.State, d.ReceivedAt = rotation.DeliveryReceived, c.Now()
		save(t, db, func(tx *store.Tx) error { return tx.SaveDelivery(ctx, &d) })
		expect(false)
	})
}

func TestWhatIsNotReplacedInTime(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		ctx := t.Context()
		s := addSecret(t, db)
		n := newNode(t, db, "a", c, alert.Rules{})
		must := func(kinds ...string) {
			t.Helper()
			n.tick(t)
			if got := open(t, db); !slices.Equal(got, kinds) {
				t.Errorf("open %q, want %q", got, kinds)
			}
		}
		text := func() string { return alerts(t, db)[0].Text + " | " + alerts(t, db)[0].Next }
		v := rotation.Version{SecretID: s.ID, Ref: s.Ref, Number: 1, Stage: rotation.StageCurrent, Tag: "kb-1", CreatedAt: start, PublishedAt: start, NotAfter: start.Add(24 * time.Hour)}
		save(t, db, func(tx *store.Tx) error { return tx.AddVersion(ctx, &v) })
		c.pass(16 * time.Hour)
		must() // it is being replaced just now
		c.pass(15 * time.Minute)
		must(alert.Expiring)
		if got, want := text(), "version 1 of acme:mail/sender ends by itself at 2031-03-10"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "no rotation of it is under way | keybroker secret plan acme:mail/sender") {
			t.Errorf("%q", got)
		}
		r := rotation.Rotation{ID: "rot_1", SecretID: s.ID, Trigger: rotation.TriggerSchedule, Reason: "@daily", State: rotation.Queued, WaitingFor: rotation.WaitIssuer, Error: why, CreatedAt: c.Now(), StepSince: c.Now()}
		save(t, db, func(tx *store.Tx) error { return tx.AddRotation(ctx, &r) })
		c.pass(time.Hour)
		must(alert.Expiring)
		v.NotAfter = time.Time{}
		save(t, db, func(tx *store.Tx) error { return tx.SaveVersion(ctx, &v) })
		must(alert.Expiring) // since its rotation is late
		r.WaitingFor = rotation.WaitWindow
		save(t, db, func(tx *store.Tx) error { return tx.SaveRotation(ctx, &r) })
		must()
		r.WaitingFor = rotation.WaitIssuer
		save(t, db, func(tx *store.Tx) error { return tx.SaveRotation(ctx, &r) })
		must(alert.Expiring)
		if got := text(); !strings.HasSuffix(got, "its rotation is queued and waits for issuer (it answered 500) | keybroker rotation show rot_1") {
			t.Errorf("%q", got)
		}
		r.State, r.WaitingFor, r.EndedAt = rotation.Done, "", c.Now()
		save(t, db, func(tx *store.Tx) error { return tx.SaveRotation(ctx, &r) })
		must()

		old := rotation.Retirement{ID: "ret_1", SecretID: s.ID, Version: 1, Cause: rotation.CauseRotated, State: rotation.ProvenDead, RequestedAt: start, RemoveAt: c.Now()}
		save(t, db, func(tx *store.Tx) error { return tx.AddRetirement(ctx, &old) })
		for range 9 {
			old.RemoveFailed(why, c.Now())
		}
		save(t, db, func(tx *store.Tx) error { return tx.SaveRetirement(ctx, &old) })
		must()
		old.RemoveFailed(why, c.Now())
		save(t, db, func(tx *store.Tx) error { return tx.SaveRetirement(ctx, &old) })
		must(alert.RevokeByHand)
		old.Removed(c.Now())
		save(t, db, func(tx *store.Tx) error { return tx.SaveRetirement(ctx, &old) })
		must()
	})
}

// TestEngineRaises: what may be over before a sweep looks is raised with what happened.
func TestEngineRaises(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		s := addSecret(t, db)
		r := rotation.Rotation{ID: "rot_1", SecretID: s.ID, Trigger: rotation.TriggerManual, State: rotation.Retiring, From: 1, To: 2, CreatedAt: start,
			Plan: rotation.Plan{Acknowledgement: rotation.Acknowledgement{Require: rotation.RequireReceived}}}
		d := rotation.Delivery{ID: "del_1", SecretID: s.ID, Ref: s.Ref, Consumer: "web", Version: 2, Generation: 2, Event: rotation.EventRotated,
			Trigger: rotation.TriggerSchedule, CreatedAt: start, NextAttemptAt: start}
		save(t, db, func(tx *store.Tx) error {
			if err := tx.AddRotation(t.Context(), &r); err != nil {
				return err
			}
			if err := tx.AddDelivery(t.Context(), &d); err != nil {
				return err
			}
			return tx.AddAlert(t.Context(), alert.MissingAcknowledgement, "acme", r.ID, "version 1 is being revoked although web has not acknowledged", "next")
		})
		n := newNode(t, db, "a", c, alert.Rules{})
		n.tick(t)
		if got := open(t, db); len(got) != 1 {
			t.Errorf("open %q", got)
		}
		r.State, r.EndedAt = rotation.Done, c.Now() // which ends nothing: web does not know of it
		save(t, db, func(tx *store.Tx) error { return tx.SaveRotation(t.Context(), &r) })
		n.tick(t)
		if got := open(t, db); len(got) != 1 {
			t.Errorf("open %q", got)
		}
		d.State, d.ReceivedAt = rotation.DeliveryReceived, c.Now()
		save(t, db, func(tx *store.Tx) error { return tx.SaveDelivery(t.Context(), &d) })
		n.tick(t)
		if got := open(t, db); len(got) != 0 {
			t.Errorf("open %q", got)
		}
	})
}

// disabled says of a state of the tests whose consumer it is of: of one that is configured.
func disabled(s rotation.ConsumerState) (tenant string, is bool) {
	return "acme", s.Name != "gone" && !s.DisabledAt.IsZero()
}

// TestAConsumerThatWantsNoMoreIsTold, until it is enabled; and an overlap that waits names
// whom it waits for.
func TestAConsumerThatWantsNoMoreIsTold(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		n := newNode(t, db, "a", c, alert.Rules{})
		keep := func(name string, at time.Time) {
			save(t, db, func(tx *store.Tx) error {
				return tx.SaveConsumerState(t.Context(), rotation.ConsumerState{Name: name, DisabledAt: at, Why: "it answered 410"})
			})
			n.tick(t)
		}
		keep("web", start)
		keep("gone", start) // of no configuration any more
		all := alerts(t, db)
		if len(all) != 1 || all[0].Kind != alert.ConsumerDisabled || all[0].Tenant != "acme" || all[0].Subject != "web" || all[0].Next != "keybroker consumer enable web" ||
			!strings.Contains(all[0].Text, "(it answered 410)") {
			t.Errorf("%+v", all)
		}
		keep("web", time.Time{})
		if got := open(t, db); len(got) != 0 {
			t.Errorf("open %q", got)
		}

		s := addSecret(t, db)
		r := rotation.Rotation{ID: "rot_1", SecretID: s.ID, Trigger: rotation.TriggerManual, State: rotation.Overlap, WaitingFor: rotation.WaitAcknowledgment, From: 1, To: 2, CreatedAt: start,
			Plan: rotation.Plan{Acknowledgement: rotation.Acknowledgement{Require: rotation.RequireApplied}}}
		d := rotation.Delivery{ID: "del_1", SecretID: s.ID, Ref: s.Ref, Consumer: "web", Version: 2, Generation: 2, Event: rotation.EventRotated,
			Trigger: rotation.TriggerSchedule, CreatedAt: start, NextAttemptAt: start}
		save(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddRotation(t.Context(), &r), tx.AddDelivery(t.Context(), &d))
		})
		n.tick(t)
		if all := unsettled(t, db); len(all) != 1 || all[0].Text != "version 1 of acme:mail/sender is not revoked yet, since web has not acknowledged version 2" ||
			all[0].Next != "keybroker secret consumers acme:mail/sender" {
			t.Errorf("%+v", all)
		}
	})
}

// TestShortTroubleIsTold: what was over before anybody was told is told all the same.
func TestShortTroubleIsTold(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		to := &receiver{}
		n := newNode(t, db, "a", c, only(to, config.Alert{}))
		r := rootToken
		r.Kind, r.Subject = alert.Resurrected, "ret_gone"
		raise(t, db, r)
		for range 3 { // the sweep comes first, and ends it
			n.tick(t)
		}
		want(t, to.events(), "raised ret_gone", "resolved ret_gone")
		if all := alerts(t, db); len(all) != 1 || all[0].SettledAt.IsZero() {
			t.Errorf("not settled: %+v", all)
		}
	})
}

// addSecrets adds so many secrets of a tenant, and to each what is wrong with it.
func addSecrets(t *testing.T, db *store.DB, tenant string, n int, wrong func(tx *store.Tx, s rotation.Secret) error) {
	t.Helper()
	save(t, db, func(tx *store.Tx) error {
		for i := range n {
			s := rotation.Secret{ID: fmt.Sprintf("sec_%s_%04d", tenant, i), Ref: backends.Ref{Tenant: tenant, Name: fmt.Sprintf("s%04d", i)}, Origin: rotation.OriginAPI,
				State: rotation.SecretActive, Definition: rotation.Definition{Backend: "prod", Consumers: []string{"web"}}, Current: 2, Generation: 2, CreatedAt: start, UpdatedAt: start}
			if err := errors.Join(tx.AddSecret(t.Context(), &s), wrong(tx, s)); err != nil {
				return err
			}
		}
		return nil
	})
}

// unsettled are all alerts that are open, where nobody is told.
func unsettled(t *testing.T, db *store.DB) (all []store.Alert) {
	t.Helper()
	err := db.View(t.Context(), func(tx *store.Tx) (err error) {
		all, err = tx.UnsettledAlerts(t.Context())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// many is more than a sweep has alerts of, of each kind and tenant.
const many = 1001

// TestManyWarningsHideNothing: what one tenant has too much of hides neither what is
// critical nor what others have; that there is more is an alert of its own.
func TestManyWarningsHideNothing(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		ctx := t.Context()
		failed := func(tx *store.Tx, s rotation.Secret) error {
			unprovable := rotation.Retirement{ID: "ret_" + s.ID, SecretID: s.ID, Version: 1, Cause: rotation.CauseRotated, State: rotation.Unprovable, RequestedAt: start}
			unprovable.Confirm.None = true // of which nobody is told, and which stay so for ever
			r := rotation.Rotation{ID: "rot_" + s.ID, SecretID: s.ID, Trigger: rotation.TriggerManual, State: rotation.Failed, From: 1, To: 2, CreatedAt: start, EndedAt: start}
			return errors.Join(tx.AddRetirement(ctx, &unprovable), tx.AddRotation(ctx, &r))
		}
		addSecrets(t, db, "acme", many, failed)
		addSecrets(t, db, "umbrella", 2, failed)
		last := rotation.Retirement{ID: "ret_last", SecretID: "sec_acme_0000", Version: 2, Cause: rotation.CauseRotated, State: rotation.Unconfirmed, RequestedAt: start.Add(time.Hour)}
		save(t, db, func(tx *store.Tx) error { return tx.AddRetirement(ctx, &last) })
		n := newNode(t, db, "a", c, alert.Rules{})
		want := func(unconfirmed, of, more int) {
			t.Helper()
			n.tick(t)
			got := map[string]int{}
			for _, a := range unsettled(t, db) {
				got[a.Kind+" "+a.Tenant]++
				if a.Subject == "more than 1000" {
					got["more of "+a.Tenant]++
				}
			}
			expected := map[string]int{"rotation_failed acme": of, "rotation_failed umbrella": 2, "unconfirmed acme": unconfirmed, "more of acme": more}
			for what, count := range expected {
				if got[what] != count {
					t.Errorf("%d alerts %s, want %d", got[what], what, count)
				}
			}
		}
		for range 2 {
			want(1, many, 1) // a thousand, and that there is more
		}
		save(t, db, func(tx *store.Tx) error { // one is taken out of the configuration
			s, err := tx.Secret(ctx, "sec_acme_0000")
			s.State = rotation.SecretUnmanaged
			return errors.Join(err, tx.SaveSecret(ctx, &s))
		})
		for range 3 { // which ends its own, leaves room for another, and ends that there is more
			n.tick(t)
		}
		want(1, many-1, 0)
	})
}

// TestManyHideNoEnd: nothing is over only because there is much of it, some of which
// nobody is told of.
func TestManyHideNoEnd(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		drifted := func(backend string, role rotation.Role) func(tx *store.Tx, s rotation.Secret) error {
			return func(tx *store.Tx, s rotation.Secret) error {
				p := rotation.Placement{ID: "pla_" + s.ID, SecretID: s.ID, Backend: backend, Role: role, Want: 2, Have: 2, Drift: &rotation.Drift{Kind: rotation.DriftChanged, FoundAt: start.Add(-time.Hour)}}
				return tx.AddPlacement(t.Context(), &p)
			}
		}
		n := newNode(t, db, "a", c, alert.Rules{})
		addSecrets(t, db, "zz", 1, drifted("zz", rotation.RolePrimary))
		n.tick(t)
		addSecrets(t, db, "acme", 1, drifted("aa", rotation.RoleFormer))
		addSecrets(t, db, "umbrella", many-2, drifted("aa", rotation.RolePrimary))
		n.tick(t)
		if !slices.ContainsFunc(unsettled(t, db), func(a store.Alert) bool { return a.Tenant == "zz" }) {
			t.Error("the drift of a vault that nobody has mended is over")
		}
	})
}

// TestNothingIsToldForEver: what nobody can mend any more, since it was taken out of
// the configuration, is over with that.
func TestNothingIsToldForEver(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB, c *clock) {
		ctx := t.Context()
		s := addSecret(t, db)
		save(t, db, func(tx *store.Tx) error {
			failed := rotation.Rotation{ID: "rot_1", SecretID: s.ID, Trigger: rotation.TriggerManual, State: rotation.Failed, From: 1, To: 2, CreatedAt: c.Now(), EndedAt: c.Now(),
				Plan: rotation.Plan{Acknowledgement: rotation.Acknowledgement{Require: rotation.RequireReceived}}}
			d := rotation.Delivery{ID: "del_1", SecretID: s.ID, Ref: s.Ref, Consumer: "web", Version: 2, Generation: 2, Event: rotation.EventRotated,
				Trigger: rotation.TriggerSchedule, CreatedAt: c.Now(), NextAttemptAt: c.Now()}
			err := errors.Join(tx.AddRotation(ctx, &failed), tx.AddDelivery(ctx, &d))
			d.State, d.NextAttemptAt = rotation.DeliveryDead, time.Time{}
			return errors.Join(err, tx.SaveDelivery(ctx, &d), tx.AddAlert(ctx, alert.MissingAcknowledgement, "acme", failed.ID, "text", "next"))
		})
		n := newNode(t, db, "a", c, alert.Rules{})
		want := func(kinds ...string) {
			t.Helper()
			n.tick(t)
			if got := open(t, db); !slices.Equal(got, kinds) {
				t.Errorf("open %q, want %q", got, kinds)
			}
		}
		want(alert.MissingAcknowledgement, alert.RotationFailed, alert.StuckDelivery)
		s.Definition.Consumers = nil
		save(t, db, func(tx *store.Tx) error { return tx.SaveSecret(ctx, &s) })
		want(alert.RotationFailed)
		s.State = rotation.SecretUnmanaged
		save(t, db, func(tx *store.Tx) error { return tx.SaveSecret(ctx, &s) })
		want()
	})
}
