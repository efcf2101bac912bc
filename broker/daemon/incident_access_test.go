package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/broker/client"
)

func (n *node) openAlerts(t *testing.T, kind string) (found []client.Alert) {
	t.Helper()
	return must(n.Alerts(t.Context(), client.AlertQuery{Kind: kind}))(t).Items
}

var allOfThem = client.Selector{All: true}

func TestMoreThanTheLimitTakesASecondPerson(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 3)
	n, ctx := b.n, t.Context()
	first, tok := b.as(n, client.CreateTokenRequest{Policies: []string{"responder"}})
	before := b.n.value(t, "pay/bank").Fields["key"]
	i := must(first.DeclareIncident(ctx, client.IncidentRequest{Reason: "the vault was open", Selector: allOfThem}))(t)
	if i.State != client.IncidentProposed || i.ApproveBy.IsZero() || i.DeclaredBy != tok.ID || i.Progress.Pending != 4 {
		t.Fatalf("%+v", i)
	}
	alerts := n.openAlerts(t, "emergency_proposed")
	if len(alerts) != 1 || alerts[0].Severity != client.Critical || alerts[0].Next != "keybroker incident approve "+i.ID || alerts[0].Subject != i.ID {
		t.Errorf("%+v", alerts)
	}
	few := b.who("cards")
	partly := b.holding(client.CreateTokenRequest{Policies: []string{"responder", "cards"}}) // which decides by the more specific path
	root := b.client(b.rootToken(), n.addr)
	for what, c := range map[string]*client.Client{
		"404 who sees no incident":           few,
		"403 who declared it":                first,
		"403 of the same hand":               root, // that made the declarer's token
		"403 not on every secret of it":      partly,
		"404 who is not of the same tenant":  b.holding(client.CreateTokenRequest{Tenant: "acme", Policies: []string{"everything"}}),
		"404 who is bound to an environment": b.holding(client.CreateTokenRequest{Role: "staging"}),
	} {
		if _, err := c.ApproveIncident(ctx, i.ID, client.IncidentActRequest{Reason: "x"}); !strings.HasPrefix(what, fmt.Sprint(client.Status(err))) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !n.works(t, before) {
		t.Fatal("it has begun without a second person")
	}
	if got := must(n.Incident(ctx, i.ID))(t); got.State != client.IncidentProposed || got.Progress.Pending != 4 {
		t.Errorf("%+v", got)
	}
	second := b.who("responder")
	watched := make(chan client.Incident, 1)
	go func() {
		var last client.Incident
		for ev, err := range first.WatchIncident(ctx, i.ID) {
			if err == nil && ev.Incident != nil {
				last = *ev.Incident
			}
		}
		watched <- last
	}()
	approved := must(second.ApproveIncident(ctx, i.ID, client.IncidentActRequest{Reason: "go"}))(t)
	if approved.State != client.IncidentOpen || approved.ApprovedBy == "" || approved.ApprovedAt.IsZero() {
		t.Errorf("%+v", approved)
	}
	if last := <-watched; !last.Progress.AllProven() || last.Progress.Secrets != 4 {
		t.Errorf("%+v", last)
	}
	if n.works(t, before) {
		t.Error("approved, proven, and the key works")
	}
	eventually(t, "the end of the alert", func() bool { return len(n.openAlerts(t, "emergency_proposed")) == 0 })
	if _, err := second.ApproveIncident(ctx, i.ID, client.IncidentActRequest{}); client.Status(err) != http.StatusConflict {
		t.Errorf("approved twice: %v", err)
	}
}

func TestAProposalThatIsRefusedDoesNothing(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 1)
	n, ctx := b.n, t.Context()
	i := must(b.who("responder").DeclareIncident(ctx, client.IncidentRequest{Reason: "a joke", Selector: allOfThem}))(t)
	second := b.who("responder")
	if _, err := second.RejectIncident(ctx, i.ID, client.IncidentActRequest{}); client.Status(err) != http.StatusBadRequest {
		t.Errorf("refused for no reason: %v", err)
	}
	got := must(second.RejectIncident(ctx, i.ID, client.IncidentActRequest{Reason: "it is none"}))(t)
	if got.State != client.IncidentRejected || got.Hold || got.Closing != "it is none" || !got.ContainedAt.IsZero() {
		t.Errorf("%+v", got)
	}
	eventually(t, "the end of the alert", func() bool { return len(n.openAlerts(t, "emergency_proposed")) == 0 })
	if rotations := must(n.Rotations(ctx, client.RotationQuery{Live: true}))(t).Items; len(rotations) != 0 {
		t.Errorf("%+v", rotations)
	}
	b.hcl = strings.Replace(b.hcl, "approval_above = 1", "approval_above = 1\n  approval_timeout = \"1s\"", 1)
	n.reload(t)
	late := must(b.who("responder").DeclareIncident(ctx, client.IncidentRequest{Reason: "nobody is there", Selector: allOfThem}))(t)
	if last := n.watchIncident(t, late.ID); last.State != client.IncidentRejected || last.ClosedBy != "keybroker" {
		t.Errorf("nobody approves it, and it is %s", last.State)
	}
}

func TestWhoOverridesDoesNotWait(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 1)
	n, ctx := b.n, t.Context()
	r := client.IncidentRequest{Reason: "everything is open", Override: true, Selector: client.Selector{Tenant: "acme"}}
	if _, err := b.who("responder").DeclareIncident(ctx, r); client.Status(err) != http.StatusForbidden {
		t.Errorf("who may not: %v", err)
	}
	if len(n.openAlerts(t, "emergency_override")) != 0 {
		t.Error("an alert of nothing")
	}
	i := must(b.who("responder", "overriding").DeclareIncident(ctx, r))(t)
	if i.State != client.IncidentOpen || !i.Overridden || i.Tenant != "acme" {
		t.Errorf("%+v", i)
	}
	alerts := n.openAlerts(t, "emergency_override")
	if len(alerts) != 1 || alerts[0].Severity != client.Critical || alerts[0].Subject != i.ID || alerts[0].Tenant != "acme" {
		t.Fatalf("%+v", alerts)
	}
	n.watchIncident(t, i.ID)
	if len(n.openAlerts(t, "emergency_override")) != 1 {
		t.Error("nobody has acknowledged it, and it is over")
	}
	must(n.AcknowledgeAlert(ctx, alerts[0].ID, client.AcknowledgeAlertRequest{}))(t)
	if len(n.openAlerts(t, "emergency_override")) != 0 {
		t.Error("acknowledged, and still open")
	}
	// Who may override and does not need to has done nothing special.
	small := must(b.who("responder", "overriding").DeclareIncident(ctx, client.IncidentRequest{Reason: "one", Override: true, Selector: client.Selector{Tenant: "globex"}}))(t)
	if small.Overridden || len(n.openAlerts(t, "emergency_override")) != 0 {
		t.Errorf("%+v", small)
	}
}

// What somebody may not turn off is left out; what they do not see is not there.
func TestAnIncidentIsOfWhatItsDeclarerMayTurnOff(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 0)
	ctx := t.Context()
	cards := b.who("cards")
	i := must(cards.DeclareIncident(ctx, client.IncidentRequest{Reason: "x", Selector: allOfThem, DryRun: true}))(t)
	if targetsOf(i) != "acme:pay/card globex:pay/card" || len(i.Skipped) != 1 || i.Skipped[0].Secret != "pay/bank" || i.Skipped[0].Why == "" {
		t.Errorf("%s %+v", targetsOf(i), i.Skipped)
	}
	for selector, want := range map[string]int{"pay/bank": http.StatusForbidden, "mail/smtp": http.StatusNotFound, "pay/none": http.StatusNotFound} {
		if _, err := cards.DeclareIncident(ctx, client.IncidentRequest{Reason: "x", Selector: client.Selector{Names: []string{selector}}}); client.Status(err) != want {
			t.Errorf("%s: %v", selector, err)
		}
	}
	shop := b.holding(client.CreateTokenRequest{Role: "shop"})
	if _, err := shop.DeclareIncident(ctx, client.IncidentRequest{Reason: "x", Selector: allOfThem}); client.Status(err) != http.StatusForbidden {
		t.Errorf("who may only read: %v", err)
	}
	acme := b.holding(client.CreateTokenRequest{Tenant: "acme", Policies: []string{"everything"}})
	mine := must(acme.DeclareIncident(ctx, client.IncidentRequest{Reason: "x", Selector: client.Selector{Patterns: []string{"pay/*"}}}))(t)
	if targetsOf(mine) != "acme:pay/bank acme:pay/card" || mine.Tenant != "acme" {
		t.Errorf("%s", targetsOf(mine))
	}
	if _, err := acme.DeclareIncident(ctx, client.IncidentRequest{Reason: "x", Selector: client.Selector{Tenant: "globex"}}); client.Status(err) != http.StatusNotFound {
		t.Errorf("another tenant's: %v", err)
	}
	staging := b.holding(client.CreateTokenRequest{Role: "staging"})
	own := must(staging.DeclareIncident(ctx, client.IncidentRequest{Reason: "x", Selector: allOfThem}))(t)
	if targetsOf(own) != "acme:mail/smtp" {
		t.Errorf("%s", targetsOf(own))
	}
	globex := b.holding(client.CreateTokenRequest{Tenant: "globex", Policies: []string{"everything"}})
	newer := must(b.n.DeclareIncident(ctx, client.IncidentRequest{Reason: "newer, of somebody else", Selector: client.Selector{Names: []string{"globex:pay/card"}}}))(t)
	if first := must(staging.Incidents(ctx, client.IncidentQuery{Page: client.Page{Limit: 1}}))(t); len(first.Items) != 1 || first.Items[0].ID != own.ID {
		t.Errorf("the newest that it sees is behind others: %+v", first)
	}
	for name, who := range map[string]struct {
		c    *client.Client
		sees []string
	}{
		"root": {b.n.Client, []string{mine.ID, own.ID, newer.ID}}, "acme": {acme, []string{mine.ID, own.ID}}, "globex": {globex, []string{newer.ID}},
		"staging": {staging, []string{own.ID}}, "who may nothing of incidents": {cards, nil}, "shop": {shop, nil},
	} {
		var listed []string
		for _, one := range must(who.c.Incidents(ctx, client.IncidentQuery{}))(t).Items {
			listed = append(listed, one.ID)
		}
		slices.Sort(listed)
		want := slices.Sorted(slices.Values(who.sees))
		if !slices.Equal(listed, want) {
			t.Errorf("%s lists %v, not %v", name, listed, want)
		}
		for _, id := range []string{mine.ID, own.ID, uuid.NewString()} {
			wanted := http.StatusNotFound
			if slices.Contains(who.sees, id) {
				wanted = 0
			}
			_, shown := who.c.Incident(ctx, id)
			var watched error
			for _, err := range who.c.WatchIncident(ctx, id) {
				watched = err
				break
			}
			if client.Status(shown) != wanted || client.Status(watched) != wanted {
				t.Errorf("%s, %s: %v, %v, want %d", name, id, shown, watched, wanted)
			}
			if wanted == 0 {
				continue
			}
			for what, err := range map[string]error{"note": second(who.c.NoteIncident(ctx, id, client.IncidentNoteRequest{Text: "x"})),
				"close": second(who.c.CloseIncident(ctx, id, client.IncidentActRequest{Reason: "x"})), "hold": second(who.c.HoldIncident(ctx, id, client.IncidentActRequest{})),
				"approve": second(who.c.ApproveIncident(ctx, id, client.IncidentActRequest{})), "reject": second(who.c.RejectIncident(ctx, id, client.IncidentActRequest{Reason: "x"}))} {
				if client.Status(err) != wanted {
					t.Errorf("%s, %s, %s: %v", name, id, what, err)
				}
			}
		}
	}
}

// What its reader does not see of an incident is left out of it.
func TestAnIncidentIsCutToWhatItsReaderSees(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 0)
	ctx := t.Context()
	i := must(b.n.DeclareIncident(ctx, client.IncidentRequest{Reason: "x", Selector: allOfThem}))(t)
	b.n.watchIncident(t, i.ID)
	b.hcl += `
policy "onlooker" {
  path "pay/bank" {
    capabilities = ["list"]
  }
  path "sys/incidents/*" {
    capabilities = ["read"]
  }
}
`
	b.n.reload(t)
	onlooker := b.who("onlooker")
	seen := must(onlooker.Incident(ctx, i.ID))(t)
	if targetsOf(seen) != "acme:pay/bank" || len(seen.Consumers) != 0 || seen.Progress.Secrets != 4 {
		t.Errorf("%s %+v %+v", targetsOf(seen), seen.Consumers, seen.Progress)
	}
	for what, err := range map[string]error{"note": second(onlooker.NoteIncident(ctx, i.ID, client.IncidentNoteRequest{Text: "x"})),
		"close": second(onlooker.CloseIncident(ctx, i.ID, client.IncidentActRequest{Reason: "x"})), "hold": second(onlooker.HoldIncident(ctx, i.ID, client.IncidentActRequest{}))} {
		if client.Status(err) != http.StatusForbidden {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestMalformedDeclarations(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 0)
	good := client.Selector{Names: []string{"pay/bank"}}
	before := b.state(t)
	for what, r := range map[string]client.IncidentRequest{
		"no reason":                 {Selector: good, Reason: "  "},
		"an endless reason":         {Selector: good, Reason: strings.Repeat("x", 1025)},
		"no UUID":                   {Selector: good, Reason: "x", ID: "latest"},
		"no UUID in lower case":     {Selector: good, Reason: "x", ID: strings.ToUpper(uuid.NewString())},
		"an unknown way":            {Selector: good, Reason: "x", Contain: "later"},
		"leaked in the future":      {Selector: good, Reason: "x", LeakedAt: time.Now().Add(time.Hour)},
		"detected in the future":    {Selector: good, Reason: "x", DetectedAt: time.Now().Add(time.Hour)},
		"detected before it leaked": {Selector: good, Reason: "x", LeakedAt: time.Now().Add(-time.Hour), DetectedAt: time.Now().Add(-2 * time.Hour)},
		"a template":                {Selector: client.Selector{Patterns: []string{"{{identity.tenant}}/*"}}, Reason: "x"},
	} {
		if _, err := b.n.DeclareIncident(t.Context(), r); client.Status(err) != http.StatusBadRequest {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after := b.state(t); after != before {
		t.Errorf("they have changed\n%s\nto\n%s", before, after)
	}
}
