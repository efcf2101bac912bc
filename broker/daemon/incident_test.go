package daemon_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keybroker/keybroker/backends/backendtest/loopback"
	"github.com/keybroker/keybroker/broker/client"
)

func TestSelectors(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 2)
	ctx := t.Context()
	reader := b.holding(client.CreateTokenRequest{Role: "shop"})
	must(reader.Value(ctx, "pay/bank", 0))(t)
	leaked := b.n.value(t, "globex:pay/card").Fields["key"]
	before := b.state(t)
	names := func(all ...string) client.Selector { return client.Selector{Names: all} }
	for _, tt := range []struct {
		selector client.Selector
		want     string // targets, or the status of a refusal
	}{
		{names("pay/bank"), "acme:pay/bank"},
		{names("acme:pay/card", "pay/bank"), "acme:pay/bank acme:pay/card"},
		{client.Selector{Names: []string{"pay/card"}, Tenant: "globex"}, "globex:pay/card"},
		{names("pay/card"), "400"}, // of which tenant?
		{names("pay/none"), "404"},
		{names("pay/none", "pay/bank"), "acme:pay/bank"},
		{names("pay/unborn"), "acme:pay/unborn"}, // it is said that nothing of it is alive
		{client.Selector{Patterns: []string{"pay/*"}}, "acme:pay/bank acme:pay/card globex:pay/card"},
		{client.Selector{Patterns: []string{"*/smtp", "pay/b*"}}, "400"},
		{client.Selector{Patterns: []string{"+/smtp", "pay/b*"}}, "acme:mail/smtp acme:pay/bank"},
		{client.Selector{Patterns: []string{"pay/b*"}, Names: []string{"mail/smtp"}}, "acme:mail/smtp acme:pay/bank"},
		{client.Selector{Patterns: []string{"pay/*"}, Tenant: "acme"}, "acme:pay/bank acme:pay/card"},
		{client.Selector{Patterns: []string{"none/*"}}, "404"},
		{client.Selector{Labels: map[string]string{"team": "pay"}}, "acme:pay/bank acme:pay/card globex:pay/card"},
		{client.Selector{Labels: map[string]string{"team": "pay", "tier": "2"}}, "acme:pay/bank"},
		{client.Selector{Labels: map[string]string{"team": "mail", "tier": "2"}}, "404"},
		{client.Selector{Tenant: "globex"}, "globex:pay/card"},
		{client.Selector{Backend: "west"}, "acme:mail/smtp"},
		{client.Selector{Backend: "west", Labels: map[string]string{"team": "pay"}}, "404"},
		{client.Selector{Issuer: "other"}, "acme:pay/bank"},
		{client.Selector{Issuer: "internal", Tenant: "acme"}, "acme:mail/smtp acme:pay/card"},
		{client.Selector{Consumer: "shop"}, "acme:pay/card"},
		{client.Selector{Value: client.SecretText(leaked)}, "globex:pay/card[1]"},
		{client.Selector{Value: client.SecretText("KEY=\"" + leaked + "\"\n")}, "globex:pay/card[1]"},
		{client.Selector{Value: client.SecretText(leaked), Tenant: "acme"}, "404"},
		{client.Selector{Value: "nothing that anybody has ever seen"}, "404"},
		{client.Selector{ReadBy: "shop"}, "acme:pay/bank[1] acme:pay/card[1]"}, // the one was sent to its consumer
		{client.Selector{ReadBy: "shop", Names: []string{"pay/bank"}}, "acme:pay/bank[1]"},
		{client.Selector{ReadBy: "shop", Since: time.Now().Add(time.Hour)}, "404"},
		{client.Selector{ReadBy: "nobody"}, "404"},
		{client.Selector{Address: "127.0.0.0/8", Names: []string{"pay/bank"}}, "acme:pay/bank[1]"},
		{client.Selector{Address: "192.0.2.1"}, "404"},
		{client.Selector{Address: "here"}, "400"},
		{client.Selector{All: true}, "acme:mail/smtp acme:pay/bank acme:pay/card globex:pay/card"},
		{client.Selector{}, "400"},
		{client.Selector{All: true, Names: []string{"pay/bank"}}, "400"},
		{client.Selector{Names: []string{"pay/bank"}, Versions: []int{1}}, "acme:pay/bank[1]"},
		{client.Selector{Names: []string{"pay/bank"}, Versions: []int{1, 7}}, "404"}, // there is no 7
		{client.Selector{Patterns: []string{"pay/*"}, Versions: []int{1}}, "400"},
		{client.Selector{Names: []string{"pay/bank"}, Since: time.Now()}, "400"},
	} {
		i, err := b.n.DeclareIncident(ctx, client.IncidentRequest{Reason: "test", DryRun: true, Selector: tt.selector})
		got := targetsOf(i)
		if err != nil {
			got = fmt.Sprint(client.Status(err))
		}
		if got != tt.want {
			t.Errorf("%+v: %s (%v), want %s", tt.selector, got, err, tt.want)
		}
		if err == nil && (!i.DryRun || i.ID != "" || i.State != map[bool]string{true: client.IncidentProposed, false: client.IncidentOpen}[len(i.Targets) > 2]) {
			t.Errorf("%+v: %+v", tt.selector, i)
		}
	}
	for want, s := range map[string]client.Selector{`no consumer "shap"`: {Consumer: "shap"}, `no role "shap"`: {ReadBy: "shap"}, `no backend "shap"`: {Backend: "shap"}, `no issuer "shap"`: {Issuer: "shap"}} {
		if _, err := b.n.DeclareIncident(ctx, client.IncidentRequest{Reason: "test", DryRun: true, Selector: s}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	i := must(b.n.DeclareIncident(ctx, client.IncidentRequest{Reason: "test", DryRun: true, Selector: names("pay/none", "acme:pay/card")}))(t)
	if len(i.Checklist) != 1 || !strings.Contains(i.Checklist[0].Text, "pay/none") {
		t.Errorf("what matched nothing is not on the checklist: %+v", i.Checklist)
	}
	if target := i.Targets[0]; len(target.Versions) != 1 || target.Versions[0].Version != 1 || target.Versions[0].Issuer != "internal" || !slices.Equal(target.Consumers, []string{"shop"}) {
		t.Errorf("%+v", target)
	}
	if len(i.Consumers) != 1 || i.Consumers[0].Consumer != "shop" || i.Consumers[0].Secrets != 1 {
		t.Errorf("who feels it: %+v", i.Consumers)
	}
	if after := b.state(t); after != before {
		t.Errorf("dry runs have changed\n%s\nto\n%s", before, after)
	}
	if strings.Contains(b.log.String(), leaked) || strings.Contains(b.read("data/audit.jsonl"), leaked) {
		t.Error("the value that leaked is in a log")
	}
}

// watchIncident follows an incident to its end.
func (n *node) watchIncident(t *testing.T, id string) (last client.Incident) {
	t.Helper()
	for ev, err := range n.WatchIncident(t.Context(), id) {
		if err != nil {
			t.Fatalf("watching: %v, last seen %+v", err, last)
		}
		if ev.Incident != nil {
			last = *ev.Incident
		}
	}
	return last
}

func TestAnIncidentFromItsDeclarationToItsEnd(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 2)
	n, ctx := b.n, t.Context()
	keys := map[string]string{}
	for _, name := range []string{"acme:pay/card", "acme:pay/bank"} {
		keys[name] = n.value(t, name).Fields["key"]
	}
	detected, leaked := time.Now().Add(-time.Minute), time.Now().Add(-time.Hour)
	r := client.IncidentRequest{ID: uuid.NewString(), Reason: "found in a public repository", LeakedAt: leaked, DetectedAt: detected, Contain: client.RevokeFirst,
		Selector: client.Selector{Labels: map[string]string{"team": "pay"}, Tenant: "acme"}}
	i := must(n.DeclareIncident(ctx, r))(t)
	if again := must(n.DeclareIncident(ctx, r))(t); again.ID != i.ID || i.ID != r.ID {
		t.Errorf("the same request is another incident: %s, %s", i.ID, again.ID)
	}
	for what, edit := range map[string]func(*client.IncidentRequest){
		"other secrets":     func(r *client.IncidentRequest) { r.Selector = client.Selector{Names: []string{"mail/smtp"}} },
		"other containment": func(r *client.IncidentRequest) { r.Contain = client.ReplaceFirst },
		"another leak":      func(r *client.IncidentRequest) { r.LeakedAt = leaked.Add(-time.Hour) },
	} {
		other := r
		edit(&other)
		if _, err := n.DeclareIncident(ctx, other); client.Status(err) != http.StatusConflict {
			t.Errorf("%s under the same id: %v", what, err)
		}
	}
	if i.State != client.IncidentOpen || i.Tenant != "acme" || !i.Hold || !i.LeakedAt.Equal(leaked.UTC().Truncate(time.Microsecond)) || i.Cause != "declared" || targetsOf(i) != "acme:pay/bank acme:pay/card" {
		t.Errorf("%+v", i)
	}
	last := n.watchIncident(t, i.ID)
	p := last.Progress
	if !p.AllProven() || p.Secrets != 2 || p.Versions != 2 || p.Contained != 2 || last.ContainedAt.IsZero() || last.ProvenAt.IsZero() || len(last.Targets) != 2 {
		t.Errorf("at its end: %+v", last)
	}
	for name, key := range keys {
		if n.works(t, key) {
			t.Errorf("the key of %s works", name)
		}
	}
	eventually(t, "replacements that are received", func() bool {
		i = must(n.Incident(ctx, i.ID))(t)
		return i.Progress.Replaced == 2 && i.Progress.ToTell == 1 && i.Progress.Told == 1
	})
	for _, target := range i.Targets {
		if target.State != client.TargetDeclared || target.Replacement != 2 || target.RotationID == "" || len(target.Versions) != 1 || target.Versions[0].State != client.ProvenDead || target.Versions[0].ContainedAt.IsZero() {
			t.Errorf("%+v", target)
		}
	}
	if len(i.Stuck) != 0 || len(i.Consumers) != 1 || len(i.Consumers[0].Without) != 0 {
		t.Errorf("%+v %+v", i.Stuck, i.Consumers)
	}
	if list := must(n.Incidents(ctx, client.IncidentQuery{State: client.IncidentOpen, Secret: "pay/bank"}))(t).Items; len(list) != 1 || list[0].ID != i.ID || !list[0].Progress.AllProven() {
		t.Errorf("%+v", list)
	}
	if list := must(n.Incidents(ctx, client.IncidentQuery{Secret: "mail/smtp"}))(t).Items; len(list) != 0 {
		t.Errorf("%+v", list)
	}
	b.writeDown(t, i.ID)
}

// writeDown uses the notes and the checklist of an incident, and closes it.
func (b *brigade) writeDown(t *testing.T, id string) {
	t.Helper()
	n, ctx := b.n, t.Context()
	must(n.NoteIncident(ctx, id, client.IncidentNoteRequest{Text: "  asked the bank  "}))(t)
	must(n.NoteIncident(ctx, id, client.IncidentNoteRequest{Text: "call the bank", Check: true}))(t)
	i := must(n.NoteIncident(ctx, id, client.IncidentNoteRequest{Done: 1, Text: "they know"}))(t)
	if len(i.Notes) != 1 || i.Notes[0].Text != "asked the bank" || i.Notes[0].By == "" || len(i.Checklist) != 1 || i.Checklist[0].DoneAt.IsZero() || i.Checklist[0].Remark != "they know" {
		t.Errorf("%+v %+v", i.Notes, i.Checklist)
	}
	for what, r := range map[string]client.IncidentNoteRequest{"400 nothing": {}, "404 no such item": {Done: 2}, "400 both": {Text: "x", Check: true, Done: 1}} {
		if _, err := n.NoteIncident(ctx, id, r); !strings.HasPrefix(what, fmt.Sprint(client.Status(err))) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := n.CloseIncident(ctx, id, client.IncidentActRequest{}); client.Status(err) != http.StatusBadRequest {
		t.Errorf("closed for no reason: %v", err)
	}
	hold := true
	i = must(n.CloseIncident(ctx, id, client.IncidentActRequest{Reason: "over", Hold: &hold}))(t)
	if i.State != client.IncidentClosed || i.Closing != "over" || !i.Hold || i.ClosedAt.IsZero() {
		t.Errorf("%+v", i)
	}
	hold = false
	if i = must(n.HoldIncident(ctx, id, client.IncidentActRequest{Hold: &hold}))(t); i.Hold {
		t.Error("its evidence is held for ever")
	}
	if _, err := n.CloseIncident(ctx, id, client.IncidentActRequest{Reason: "again"}); client.Status(err) != http.StatusConflict {
		t.Errorf("closed twice: %v", err)
	}
	if got := n.watchIncident(t, id); got.State != client.IncidentClosed {
		t.Errorf("%+v", got)
	}
}

// The emergency of one secret is an incident, too: as long as it lasts the same one.
func TestAnEmergencyOfOneSecretIsAnIncident(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 1)
	ctx := t.Context()
	first := must(b.n.Emergency(ctx, "pay/bank", client.EmergencyRequest{Reason: "leaked"}))(t)
	again := must(b.n.Emergency(ctx, "pay/bank", client.EmergencyRequest{Reason: "leaked, says somebody else"}))(t)
	if first.IncidentID == "" || again.IncidentID != first.IncidentID || again.ID != first.ID {
		t.Fatalf("%s %s, %s %s", first.IncidentID, first.ID, again.IncidentID, again.ID)
	}
	declared := must(b.n.DeclareIncident(ctx, client.IncidentRequest{Reason: "and once more", Selector: client.Selector{Names: []string{"pay/bank"}}}))(t)
	if declared.ID != first.IncidentID || targetsOf(declared) != "acme:pay/bank" || declared.Targets[0].RotationID != first.ID {
		t.Errorf("%+v", declared)
	}
	if len(declared.Notes) != 2 || !strings.Contains(declared.Notes[1].Text, "and once more") {
		t.Errorf("what others said of it: %+v", declared.Notes)
	}
	// Who cannot see that incident has one of their own, which is always the same.
	blind := b.who("cards", "banks")
	own := must(blind.Emergency(ctx, "pay/bank", client.EmergencyRequest{Reason: "leaked"}))(t)
	repeated := must(blind.DeclareIncident(ctx, client.IncidentRequest{Reason: "leaked", Selector: client.Selector{Names: []string{"pay/bank"}}}))(t)
	if own.ID != first.ID || own.IncidentID == first.IncidentID || repeated.ID != own.IncidentID || repeated.Reason != "leaked" {
		t.Errorf("%s %s, then %s of %s", own.ID, own.IncidentID, repeated.ID, first.IncidentID)
	}
	if again := must(b.n.Emergency(ctx, "pay/bank", client.EmergencyRequest{Reason: "leaked"}))(t); again.ID != first.ID || again.IncidentID != first.IncidentID {
		t.Errorf("%+v", again)
	}
	if last := b.n.watchIncident(t, first.IncidentID); !last.Progress.AllProven() || last.Selector.Names[0] != "acme:pay/bank" {
		t.Errorf("%+v", last)
	}
	if list := must(b.n.Incidents(ctx, client.IncidentQuery{}))(t).Items; len(list) != 2 {
		t.Errorf("there are %d incidents", len(list))
	}
	if _, err := b.n.Emergency(ctx, "pay/unborn", client.EmergencyRequest{Reason: "leaked"}); client.Status(err) != http.StatusConflict {
		t.Errorf("of nothing that is alive: %v", err)
	}
	if _, err := b.n.Emergency(ctx, "pay/bank", client.EmergencyRequest{Reason: "leaked", Versions: []int{7}}); client.Status(err) != http.StatusNotFound {
		t.Errorf("of a version that there is not: %v", err)
	}
}

// A value that leaked long after its version was proven dead is only tried again.
func TestWhatIsDeadIsOnlyTriedAgain(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 1)
	ctx := t.Context()
	old := b.n.value(t, "pay/bank").Fields["key"]
	b.n.done(t, "pay/bank")
	b.n.allButCurrentAreDead(t, "pay/bank")
	i := must(b.n.DeclareIncident(ctx, client.IncidentRequest{Reason: "found in an old backup", Selector: client.Selector{Value: client.SecretText(old)}}))(t)
	if len(i.Targets) != 1 || i.Targets[0].State != client.TargetAlreadyDead || !slices.Equal(i.Targets[0].Pinned, []int{1}) || !i.Selector.Leaked || i.Selector.Value != "" {
		t.Fatalf("%+v", i)
	}
	last := b.n.watchIncident(t, i.ID)
	if p := last.Progress; !p.AllProven() || p.AlreadyDead != 1 || p.Versions != 0 || !p.FirstContainedAt.IsZero() {
		t.Errorf("%+v", last)
	}
	if v := last.Targets[0].Versions[0]; v.State != client.TargetAlreadyDead || !v.ContainedAt.IsZero() || !v.ProvenAt.IsZero() || v.RetirementID == "" {
		t.Errorf("it is credited with %+v", v)
	}
	eventually(t, "another try", func() bool {
		r := must(b.n.Retirement(ctx, i.Targets[0].Versions[0].RetirementID))(t)
		return len(r.Tries) > 0 && r.Tries[len(r.Tries)-1].At.After(i.DeclaredAt)
	})
	if now := must(b.n.Secret(ctx, "pay/bank"))(t); now.Current() != 2 {
		t.Errorf("the current version was replaced by %d", now.Current())
	}
}

// What is stuck is named, with the reason and what to do.
func TestAnIncidentTellsWhatIsStuck(t *testing.T) {
	t.Parallel()
	nobody, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	b := newBrigade(t, 0)
	b.hcl = strings.Replace(b.hcl, b.consumer.url, "http://"+nobody, 1)
	b.n.reload(t)
	i := must(b.n.DeclareIncident(t.Context(), client.IncidentRequest{Reason: "leaked", Selector: client.Selector{All: true}}))(t)
	b.n.watchIncident(t, i.ID)
	eventually(t, "the consumer that is not told", func() bool {
		i = must(b.n.Incident(t.Context(), i.ID))(t)
		return len(i.Stuck) == 1
	})
	if s := i.Stuck[0]; s.What != "delivery" || !strings.Contains(s.Why, "shop") || s.Next != "keybroker delivery list --consumer shop" || s.Secret != "pay/card" {
		t.Errorf("%+v", s)
	}
	if c := i.Consumers; len(c) != 1 || !slices.Equal(c[0].Without, []string{"acme:pay/card"}) || c[0].Error == "" {
		t.Errorf("%+v", c)
	}
	if i.Progress.Replaced != 4 || i.Progress.ToTell != 1 || i.Progress.Told != 0 || i.Tenant != "" {
		t.Errorf("%+v", i.Progress)
	}
	next := must(b.n.DeclareIncident(t.Context(), client.IncidentRequest{Reason: "again", DryRun: true, Selector: client.Selector{Consumer: "shop"}}))(t)
	if len(next.Checklist) != 1 || !strings.Contains(next.Checklist[0].Text, "shop") {
		t.Errorf("nobody is asked to tell the people of the consumer: %+v", next.Checklist)
	}
}

// Who is to be kept out is so with the declaration, or with its approval.
func TestAnIncidentKeepsPeopleOut(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 1)
	ctx := t.Context()
	shop := b.holding(client.CreateTokenRequest{Role: "shop"})
	must(shop.Value(ctx, "pay/bank", 0))(t)
	out := client.QuarantineNames{Consumers: []string{"shop"}}
	keeper := b.who("everything")
	if _, err := b.who("responder").DeclareIncident(ctx, client.IncidentRequest{Reason: "x", Selector: client.Selector{Names: []string{"pay/bank"}}, Quarantine: out}); client.Status(err) != http.StatusForbidden {
		t.Errorf("who may keep nobody out: %v", err)
	}
	large := client.IncidentRequest{Reason: "the shop is not ours any more", Selector: client.Selector{Tenant: "acme"}, Quarantine: out}
	dry := large
	dry.DryRun = true
	if i := must(keeper.DeclareIncident(ctx, dry))(t); i.State != client.IncidentProposed || len(i.Quarantine) != 1 || i.Quarantine[0].Name != "shop" {
		t.Errorf("%+v", i)
	}
	i := must(keeper.DeclareIncident(ctx, large))(t)
	if i.State != client.IncidentProposed || len(i.Quarantine) != 0 {
		t.Errorf("%+v", i)
	}
	must(shop.Value(ctx, "pay/bank", 0))(t)
	if _, err := b.who("responder").ApproveIncident(ctx, i.ID, client.IncidentActRequest{}); client.Status(err) != http.StatusForbidden {
		t.Errorf("approved by who may keep nobody out: %v", err)
	}
	i = must(b.who("everything").ApproveIncident(ctx, i.ID, client.IncidentActRequest{}))(t)
	if len(i.Quarantine) != 1 || i.Quarantine[0].Name != "shop" || i.Quarantine[0].IncidentID != i.ID || i.Quarantine[0].Reason != large.Reason {
		t.Errorf("%+v", i.Quarantine)
	}
	if _, err := shop.Value(ctx, "pay/bank", 0); client.Status(err) != http.StatusForbidden && client.Status(err) != http.StatusUnauthorized {
		t.Errorf("who is kept out reads: %v", err)
	}
	b.n.watchIncident(t, i.ID)
	i = must(b.n.Incident(ctx, i.ID))(t)
	if i.Progress.Replaced != 3 || i.Progress.ToTell != 0 || len(i.Consumers) != 1 || !i.Consumers[0].Quarantined || len(i.Stuck) != 0 {
		t.Errorf("%+v %+v %+v", i.Progress, i.Consumers, i.Stuck)
	}
}

// Who was to be kept out and is not configured any more stands in the way of no approval.
func TestApprovalOutlivesTheConfiguration(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 1)
	ctx := t.Context()
	guest := "\nrole \"guest\" {\n  policies = [\"shop\"]\n}\n"
	b.hcl += guest
	b.n.reload(t)
	i := must(b.who("everything").DeclareIncident(ctx, client.IncidentRequest{Reason: "the guest was it", Selector: client.Selector{Tenant: "acme"},
		Quarantine: client.QuarantineNames{Roles: []string{"guest"}, Consumers: []string{"shop"}}}))(t)
	b.hcl = strings.Replace(b.hcl, guest, "", 1)
	b.n.reload(t)
	i = must(b.who("everything").ApproveIncident(ctx, i.ID, client.IncidentActRequest{}))(t)
	if i.State != client.IncidentOpen || len(i.Quarantine) != 1 || i.Quarantine[0].Name != "shop" {
		t.Errorf("%+v", i)
	}
	if len(i.Notes) != 1 || !strings.Contains(i.Notes[0].Text, "role guest") {
		t.Errorf("nobody is told: %+v", i.Notes)
	}
}

// The same request, sent many times at once, is one incident.
func TestOneIncidentOfManyRequests(t *testing.T) {
	t.Parallel()
	b := newBrigade(t, 0)
	r := client.IncidentRequest{ID: uuid.NewString(), Reason: "x", Selector: client.Selector{Patterns: []string{"pay/*"}}}
	answers := make(chan error, 8)
	for range cap(answers) {
		go func() {
			i, err := b.n.DeclareIncident(t.Context(), r)
			if err == nil && (i.ID != r.ID || len(i.Targets) != 3) {
				err = fmt.Errorf("%+v", i)
			}
			answers <- err
		}()
	}
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if list := must(b.n.Incidents(t.Context(), client.IncidentQuery{}))(t).Items; len(list) != 1 {
		t.Errorf("%d incidents", len(list))
	}
}
