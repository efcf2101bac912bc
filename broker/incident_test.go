package broker

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

func TestWhatIsPickedTwice(t *testing.T) {
	one := picked{"all": nil, "some": {1, 2}, "other": {3}, "mine": {1}}
	two := picked{"all": {4}, "some": {2, 3}, "other": {4}, "theirs": {1}}
	for _, both := range []picked{one.and(two), two.and(one)} {
		if !maps.EqualFunc(both, picked{"all": {4}, "some": {2}}, slices.Equal[[]int]) {
			t.Errorf("%v", both)
		}
	}
}

func TestASelectorMeansMirrors(t *testing.T) {
	s, err := newSelector(client.Selector{Backend: "west"})
	if err != nil {
		t.Fatal(err)
	}
	of := rotation.Secret{Definition: rotation.Definition{Backend: "east", Mirrors: []string{"north", "west"}}}
	if !s.means(of, false) {
		t.Error("a mirror is none")
	}
	of.Definition.Mirrors = nil
	if s.means(of, true) {
		t.Error("it is not kept there, although it is named")
	}
}

// TestWhatIsStuck: what is under way in the ordinary course of things is not.
func TestWhatIsStuck(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ref := backends.Ref{Tenant: "acme", Name: "pay/card"}
	for what, tt := range map[string]struct {
		edit func(*rotation.Retirement)
		at   time.Duration
		want string // what is stuck, and the command
	}{
		"requested just now":           {func(*rotation.Retirement) {}, time.Second, ""},
		"its issuer does not answer":   {func(r *rotation.Retirement) { r.Failures, r.WaitingFor, r.Error = 2, rotation.WaitIssuer, "down" }, 6 * time.Second, "containment keybroker retirement show r"},
		"and not since long":           {func(r *rotation.Retirement) { r.Failures, r.WaitingFor, r.Error = 1, rotation.WaitIssuer, "down" }, time.Second, ""},
		"it waits for its replacement": {func(r *rotation.Retirement) { r.WaitingFor = rotation.WaitReplacement }, time.Minute, ""},
		"still accepted for a while": {func(r *rotation.Retirement) {
			r.State, r.WaitingFor, r.Error = rotation.Acknowledged, rotation.WaitProof, "accepted"
		}, time.Minute, ""},
		"still accepted for too long": {func(r *rotation.Retirement) { r.State, r.Error = rotation.Unconfirmed, "accepted" }, time.Hour, "containment keybroker retirement show r"},
		"rejected, and not proven yet": {func(r *rotation.Retirement) {
			r.State, r.ContainedAt, r.WaitingFor = rotation.Rejecting, began, rotation.WaitProof
		}, time.Minute, ""},
		"rejected, and never proven": {func(r *rotation.Retirement) {
			r.State, r.ContainedAt, r.Error = rotation.Unconfirmed, began, "no control"
		}, time.Hour, "proof keybroker retirement show r"},
		"nobody can tell":                {func(r *rotation.Retirement) { r.State = rotation.Unprovable }, time.Second, "proof keybroker retirement show r"},
		"people have to":                 {func(r *rotation.Retirement) { r.ByHand, r.WaitingFor = true, rotation.WaitByHand }, time.Second, "containment keybroker retirement done r"},
		"its handle is not known":        {func(r *rotation.Retirement) { r.WaitingFor = rotation.WaitHandle }, time.Second, "containment keybroker retirement done r"},
		"its issuer refuses":             {func(r *rotation.Retirement) { r.RevokeFailures, r.Error = 1, "403" }, time.Second, "containment keybroker retirement show r"},
		"proven":                         {func(r *rotation.Retirement) { r.State, r.ProvenAt = rotation.ProvenDead, began }, time.Hour, ""},
		"accepted again after its death": {func(r *rotation.Retirement) { r.State, r.ProvenAt = rotation.Resurrected, began }, time.Hour, "containment keybroker retirement show r"},
	} {
		r := rotation.Retirement{ID: "r", Version: 1, State: rotation.Requested, HasProbe: true, Cause: rotation.CauseEmergency, RequestedAt: began, RevokeBegunAt: began}
		tt.edit(&r)
		got := ""
		if s, is := stuckRetirement(r, ref, began.Add(tt.at)); is {
			if got = s.What + " " + s.Next; s.Why == "" || s.Secret != ref.Name {
				t.Errorf("%s: %+v", what, s)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
		}
	}
	for what, tt := range map[string]struct {
		rotation rotation.Rotation
		at       time.Duration
		want     string
	}{
		"a fresh key that is tried":      {rotation.Rotation{State: rotation.Verifying, WaitingFor: rotation.WaitProbe, Error: "rejected"}, time.Second, ""},
		"a key that is never accepted":   {rotation.Rotation{State: rotation.Verifying, WaitingFor: rotation.WaitProbe, Error: "rejected"}, time.Minute, "keybroker rotation show x"},
		"an issuer that is down":         {rotation.Rotation{State: rotation.Minting, WaitingFor: rotation.WaitIssuer, Error: "down"}, 0, "keybroker rotation show x"},
		"a person who makes it":          {rotation.Rotation{State: rotation.Minting, WaitingFor: rotation.WaitValue, ValueBy: began}, 0, "keybroker rotation supply x"},
		"one that failed":                {rotation.Rotation{State: rotation.Failed, Error: "no"}, 0, "keybroker rotation retry x"},
		"one that goes on for very long": {rotation.Rotation{State: rotation.Publishing}, time.Hour, ""},
	} {
		r := tt.rotation
		r.ID, r.CreatedAt, r.StepSince = "x", began, began
		got := ""
		if s, is := stuckRotation(r, ref, began.Add(tt.at)); is {
			got = s.Next
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
		}
	}
}

// TestOwnDeliveriesAreStuck: what was not delivered before the incident replaces nothing.
func TestOwnDeliveriesAreStuck(t *testing.T) {
	x := &incidentState{targets: []rotation.Target{{SecretID: "a"}}, secrets: map[string]store.TargetSecret{"a": {Secret: rotation.Secret{ID: "a", Current: 1}}},
		deliveries: []rotation.Delivery{{SecretID: "a", Consumer: "shop", Event: rotation.EventRotated, Version: 1, State: rotation.DeliveryPending, Error: "refused"}}, kept: func(string) bool { return false }}
	if got := x.stuckDeliveries(); len(got) > 0 {
		t.Errorf("of a proposal: %+v", got)
	}
	x.targets[0].RotationID, x.secrets["a"] = "r", store.TargetSecret{Secret: rotation.Secret{ID: "a", Current: 1}, BroughtBy: "r"}
	if got := x.stuckDeliveries(); len(got) != 1 {
		t.Errorf("of its own replacement: %+v", got)
	}
}

// TestEstimates: what is not contained yet will be as soon as others were.
func TestEstimates(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	turned := func(contained, proven time.Duration) rotation.Retirement {
		r := rotation.Retirement{RevokeBegunAt: began, State: rotation.Acknowledged, HasProbe: true, AcknowledgedAt: began}
		if contained > 0 {
			r.State, r.ContainedAt = rotation.Rejecting, began.Add(contained)
		}
		if proven > 0 {
			r.State, r.ProvenAt = rotation.ProvenDead, began.Add(proven)
		}
		return r
	}
	took := latencies{}
	for n := range 10 {
		took.add("mailer", turned(time.Duration(n+1)*time.Second, time.Duration(n+1)*10*time.Second))
	}
	x := &incidentState{took: took, issuers: map[store.VersionID]string{{SecretID: "a", Number: 1}: "mailer", {SecretID: "a", Number: 2}: "mailer", {SecretID: "b", Number: 1}: "bank"},
		versions: map[string][]rotation.Compromised{"a": {{SecretID: "a", Version: 1, Retirement: turned(0, 0)}, {SecretID: "a", Version: 2, Retirement: turned(2*time.Second, 0)}}}}
	contained, proven := x.estimates(began)
	if contained != began.Add(9*time.Second) || proven != began.Add(90*time.Second) {
		t.Errorf("%s, %s", contained, proven)
	}
	if contained, _ := x.estimates(began.Add(time.Minute)); contained != began.Add(time.Minute) {
		t.Errorf("later than others: %s", contained)
	}
	x.versions["b"] = []rotation.Compromised{{SecretID: "b", Version: 1, Retirement: turned(0, 0)}}
	if contained, proven := x.estimates(began); !contained.IsZero() || !proven.IsZero() {
		t.Errorf("nobody knows how long the bank takes: %s, %s", contained, proven)
	}
	refused := turned(0, 0)
	refused.RevokeFailures, refused.Error = 1, "403"
	x.versions["b"][0].Retirement = refused
	if contained, _ := x.estimates(began); contained != began.Add(9*time.Second) {
		t.Errorf("what is stuck is waited for: %s", contained)
	}
}
