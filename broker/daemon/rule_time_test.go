package daemon_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation"
)

// TestRule17SchedulesKeepTheWallClocksHour: what is due at half past two is due once
// on each day, also where that hour is missing or comes twice, and all is kept in UTC.
func TestRule17SchedulesKeepTheWallClocksHour(t *testing.T) {
	t.Parallel()
	nightly := rotation.Secret{ID: "s", Definition: rotation.Definition{Schedule: "30 2 * * *", TimeZone: "Europe/Berlin"}}
	for name, c := range map[string]struct{ after, want string }{
		"spring: the hour is missing":         {"2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z 2026-03-30T00:30:00Z"},
		"autumn: the hour comes twice":        {"2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z 2026-10-26T01:30:00Z"},
		"autumn: asked between the two":       {"2026-10-25T01:10:00Z", "2026-10-26T01:30:00Z 2026-10-27T01:30:00Z"},
		"a week was missed: they are one run": {"2026-06-08T08:00:00Z", "2026-06-09T00:30:00Z 2026-06-10T00:30:00Z"},
	} {
		at, err := time.Parse(time.RFC3339, c.after)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for range 2 {
			due, err := rotation.NextDue(nightly.Definition, rotation.Version{SecretID: nightly.ID, Number: 1}, at)
			if err != nil {
				t.Fatal(err)
			}
			at = due.At
			got = append(got, at.Format(time.RFC3339))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: it is due at %v, want %s", name, got, c.want)
		}
	}
}

// TestRule17RunsThatWereMissedAreOne: the node was down for days, or its clock has
// been set forward by so many.
func TestRule17RunsThatWereMissedAreOne(t *testing.T) {
	t.Parallel()
	o := newOperated(t, "  issuer \"mailer\" {\n    scopes = [\"send\"]\n  }\n", "  issuer \"mailer\" {\n    scopes = [\"send\"]\n  }\n  rotation {\n    schedule = \"@every 1h\"\n  }\n")
	o.node = o.start()
	ctx := t.Context()
	eventually(t, "the first one, since there was none", func() bool { return must(o.Secret(ctx, mailer))(t).Current() == 1 })
	eventually(t, "its end", func() bool {
		return len(must(o.Rotations(ctx, client.RotationQuery{Secret: mailer, Live: true}))(t).Items) == 0
	})
	o.stop()
	exec(t, o.database(t), fmt.Sprintf("UPDATE secrets SET next_due_at = %d", time.Now().Add(-72*time.Hour).UnixMicro()))
	o.node = o.start()
	eventually(t, "the run that is overdue", func() bool { return must(o.Secret(ctx, mailer))(t).Current() == 2 })
	list := must(o.Rotations(ctx, client.RotationQuery{Secret: mailer}))(t).Items
	if len(list) != 2 || list[0].Trigger != "schedule" {
		t.Errorf("they are %+v", list)
	}
	if next := must(o.Secret(ctx, mailer))(t).NextRotationAt; next.Before(time.Now()) || next.After(time.Now().Add(time.Hour)) {
		t.Errorf("the next one is due at %s", next)
	}
	if strings.Contains(o.log.String(), "a scheduled rotation was left out") {
		t.Error("the others were begun too, and left out")
	}
	o.follow(t, list[0].ID)
	if n := o.api.Requests(minted); n != 2 {
		t.Errorf("%d keys were minted", n)
	}
}

// TestRule17AMinimumIntervalAndAFailureKeepRotationsApart, except in an emergency.
func TestRule17AMinimumIntervalAndAFailureKeepRotationsApart(t *testing.T) {
	t.Parallel()
	o := newOperated(t, `overlap = "100ms"`, "overlap = \"100ms\"\n  min_interval = \"1h\"")
	o.hcl += "\ntrigger \"api\" \"ci\" {\n  action  = \"rotate\"\n  secrets = [\"mail/*\"]\n}\n"
	o.node = o.start()
	ctx := t.Context()
	event := func(id string) error {
		return second(o.Event(ctx, "ci", client.EventRequest{ID: id, Secret: mailer, Reason: "test"}))
	}
	o.api.Override(minted, http.StatusUnprocessableEntity, always)
	failed := o.begin(t, mailer, client.RotationFailed)
	o.api.Override(minted, 0, 0)
	refused(t, "an event after a failure", event("e1"), http.StatusConflict, failed+" of "+mailer+" failed at")
	o.done(t, mailer) // a person need not wait
	refused(t, "a person after a rotation", second(o.Rotate(ctx, mailer, client.RotateRequest{})), http.StatusConflict, "its min_interval of 1h0m0s ends at")
	refused(t, "an event after a rotation", event("e2"), http.StatusConflict, "its min_interval of 1h0m0s ends at")
	em := must(o.Emergency(ctx, mailer, client.EmergencyRequest{Reason: "leaked"}))(t)
	if rot, _ := o.follow(t, em.ID); rot.State != client.RotationDone {
		t.Errorf("the emergency is %s: %s", rot.State, rot.Error)
	}
}

// TestRule17AnIssuerThatKeepsFailingIsLeftAlone by all its secrets, except in an emergency.
func TestRule17AnIssuerThatKeepsFailingIsLeftAlone(t *testing.T) {
	t.Parallel()
	o := newOperated(t)
	const others = 4
	for i := range others {
		o.hcl += fmt.Sprintf("\nsecret \"mail/s%d\" {\n  backend = \"prod\"\n  probe   = \"mailer\"\n  issuer \"mailer\" {\n    scopes = [\"send\"]\n  }\n}\n", i)
	}
	o.node = o.start()
	ctx := t.Context()
	o.done(t, mailer)
	o.api.Override(minted, http.StatusUnauthorized, always) // whoever asks: our token is of no use any more
	before := o.api.Requests(minted)
	for i := range others - 1 {
		must(o.Rotate(ctx, fmt.Sprintf("mail/s%d", i), client.RotateRequest{}))(t)
	}
	eventually(t, "the issuer to be left alone", func() bool {
		return strings.Contains(o.log.String(), "an issuer keeps failing: rotations wait")
	})
	last := must(o.Rotate(ctx, fmt.Sprintf("mail/s%d", others-1), client.RotateRequest{}))(t)
	o.waitsFor(t, last.ID, "issuer")
	if rot := must(o.Rotation(ctx, last.ID))(t); rot.State != client.RotationQueued {
		t.Errorf("it is %s", rot.State)
	}
	o.api.Override(minted, 0, 0)
	em := must(o.Emergency(ctx, mailer, client.EmergencyRequest{Reason: "leaked"}))(t)
	if rot, _ := o.follow(t, em.ID); rot.State != client.RotationDone {
		t.Errorf("the emergency is %s: %s", rot.State, rot.Error)
	}
	// Five failures, the emergency, and what had been asked before the fifth was heard.
	if asked := o.api.Requests(minted) - before; asked < 6 || asked > 6+others {
		t.Errorf("the issuer was asked %d times", asked)
	}
	waits := must(o.Rotation(ctx, last.ID))(t)
	if waits.State != client.RotationQueued || waits.WaitingFor != "issuer" || strings.Contains(o.log.String(), "an issuer works again") {
		t.Errorf("the emergency did not go before: another rotation is %s, waiting for %q", waits.State, waits.WaitingFor)
	}
}
