package daemon_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// TestNoticeFollowsTheConfiguration: what a reload says of notices holds for the rotation
// that is due already, and a notice is given once.
func TestNoticeFollowsTheConfiguration(t *testing.T) {
	t.Parallel()
	signing := newSigningSecret()
	app := newConsumer(t, signing)
	s := newSite(t, replaced(t, withConsumer(embedded, app), `  overlap = "2s"`, "  overlap  = \"100ms\"\n  schedule = \"0 3 1 1 *\""))
	s.env["SIGNING_SECRET"] = signing.Reveal()
	n := s.start()
	eventually(t, "the first version", func() bool { _, generation := app.key("app/key"); return generation == 1 })
	notices := func() []client.Delivery {
		return must(n.Deliveries(t.Context(), client.DeliveryQuery{Secret: "app/key", Event: "secret.rotating"}))(t).Items
	}
	plan := must(n.Plan(t.Context(), "app/key"))(t)
	if got := notices(); len(got) != 0 || !plan.Upcoming[0].NoticeAt.IsZero() {
		t.Fatalf("without notice_before: %+v, %+v", got, plan.Upcoming[0])
	}

	s.hcl = replaced(t, s.hcl, `  schedule = "0 3 1 1 *"`, "  schedule = \"0 3 1 1 *\"\n  notice_before = \"366d\"")
	r := n.reload(t)
	if changesOf(r) != "changed secret app/key, changed rotation_policy quick" {
		t.Errorf("the reload changed %s", changesOf(r))
	}
	eventually(t, "the notice", func() bool { all := notices(); return len(all) == 1 && all[0].State == client.DeliveryReceived })
	plan = must(n.Plan(t.Context(), "app/key"))(t)
	due := plan.Upcoming[0]
	if got := notices()[0]; !got.DueAt.Equal(due.At) || got.Version != 1 || !due.NoticeAt.Equal(due.At.Add(-366*24*time.Hour)) {
		t.Errorf("told of %s, %+v is due", got.DueAt, due)
	}

	s.hcl = replaced(t, s.hcl, `"366d"`, `"365d"`)
	n.reload(t)
	n.rotate(t, "app/key")
	eventually(t, "the next version", func() bool { _, generation := app.key("app/key"); return generation == 2 })
	if got := notices(); len(got) != 1 {
		t.Errorf("told %d times of one rotation", len(got))
	}
}
