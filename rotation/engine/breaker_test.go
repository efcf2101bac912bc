package engine_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// TestAnIssuerThatKeepsFailingIsLeftAlone until one rotation finds that it works again,
// and who waits for that says until when.
func TestAnIssuerThatKeepsFailingIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.nodes = w.nodes[:1] // each has breakers of its own
		down := func() *engine.IssuerDown { return w.nodes[0].engine.IssuersDown()["finding"] }
		w.down["issuer finding"] = true
		w.rotate(t)
		w.advance(10 * time.Second)
		if down() != nil {
			t.Fatal("it is left alone after a few failures")
		}
		w.advance(time.Minute)
		state := down()
		if state == nil || !strings.Contains(state.Error, "issuer finding is down") || state.Since.After(time.Now()) || state.Until.Sub(state.Since) < time.Minute {
			t.Fatalf("it is %+v", state)
		}
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error { // begin anew: in the queue
			_, _, err := e.Cancel(ctx, tx, w.rotationNumber(0).ID, someone)
			return err
		})
		asked := time.Now()
		w.rotate(t)
		w.advance(time.Second)
		r := w.waitsFor(t, 1, rotation.WaitIssuer)
		if !strings.Contains(r.Error, "is left alone until "+down().Until.UTC().Format(time.RFC3339)) || !r.NextAt.Equal(down().Until) {
			t.Errorf("it waits until %s: %s", r.NextAt, r.Error)
		}
		w.advance(time.Until(down().Until) - time.Second)
		if steps := w.waitsFor(t, 1, rotation.WaitIssuer); steps.Attempt > 0 {
			t.Errorf("it was asked %s after it was left alone", time.Since(asked))
		}
		w.down["issuer finding"] = false
		w.advance(time.Minute)
		if s := w.secret(); s.Current == 0 || down() != nil {
			w.tellStory(t)
			t.Errorf("version %d is current, the issuer is %+v", s.Current, down())
		}
	})
}

// TestANewConfigurationOfAnIssuerIsTriedAtOnce.
func TestANewConfigurationOfAnIssuerIsTriedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.nodes = w.nodes[:1]
		w.down["issuer finding"] = true
		w.rotate(t)
		w.advance(time.Minute)
		e := w.nodes[0].engine
		if e.IssuersDown()["finding"] == nil {
			t.Fatal("it is not left alone")
		}
		e.SetCatalog(&engine.Catalog{Issuers: w.catalog}) // the same one
		if e.IssuersDown()["finding"] == nil {
			t.Error("it is tried although it is configured as it was")
		}
		mended := *w.issuers["finding"]
		e.SetCatalog(&engine.Catalog{Issuers: map[string]issuer.Issuer{"finding": showOnce{&mended}}})
		if state, known := e.IssuersDown()["finding"]; !known || state != nil {
			t.Errorf("it is %+v", state)
		}
	})
}

// TestAnIssuerThatNobodyAsksIsNotSaidToFail: what failed with the last that asked says
// nothing a week later.
func TestAnIssuerThatNobodyAsksIsNotSaidToFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := calmWorld(calmPlan(), 0)
		w.nodes = w.nodes[:1]
		down := func() *engine.IssuerDown { return w.nodes[0].engine.IssuersDown()["finding"] }
		w.down["issuer finding"] = true
		w.rotate(t)
		w.advance(time.Hour)
		first := down()
		if first == nil || !first.Until.After(time.Now().Add(-10*time.Minute)) {
			t.Fatalf("it is asked and %+v", first)
		}
		w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
			_, _, err := e.Cancel(ctx, tx, w.rotationNumber(0).ID, someone)
			return err
		})
		w.advance(12 * time.Minute)
		if state := down(); state != nil {
			t.Errorf("nobody asks, and it is %+v", state)
		}
		w.rotate(t)
		w.advance(10 * time.Second)
		if state := down(); state == nil || time.Since(state.Since) > 10*time.Second {
			t.Errorf("it was found to fail again, and is %+v", state)
		}
	})
}

// denying refuses to make credentials of some secrets.
type denying struct {
	showOnce
	secrets map[string]bool // by name
}

func (d denying) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	if d.secrets[req.Subject.Ref.Name] {
		return issuer.Credential{}, fmt.Errorf("%w: the scopes of %s are not allowed", backends.ErrDenied, req.Subject.Ref)
	}
	return d.showOnce.Issue(ctx, req)
}

// TestWhatOneSecretIsDeniedLeavesTheIssuerToTheOthers: only where several are denied is
// it the issuer, or what it logs in with.
func TestWhatOneSecretIsDeniedLeavesTheIssuerToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, several := range []bool{false, true} {
			w, _ := calmWorld(calmPlan(), 0)
			w.nodes = w.nodes[:1]
			is := denying{showOnce{w.issuers["finding"]}, map[string]bool{"app/neighbour-0": true, "app/neighbour-1": several}}
			w.catalog["finding"] = is
			for n := range 2 {
				w.leaves(t, w.neighbour(n, rotation.Queued, ""))
			}
			ask := func(secret string) {
				t.Helper()
				w.must(t, func(ctx context.Context, tx engine.Tx, e *engine.Engine) error {
					_, err := e.Rotate(ctx, tx, secret, rotation.TriggerManual, someone)
					return err
				})
				w.advance(30 * time.Second)
			}
			for i := range 3 { // each with three attempts
				ask("neighbour-0")
				if r := w.rotationOf("neighbour-0", i+1); r.State != rotation.Failed {
					w.tellStory(t)
					t.Fatalf("what is denied is %s", r.State)
				}
			}
			down := func() *engine.IssuerDown { return w.nodes[0].engine.IssuersDown()["finding"] }
			if state := down(); state != nil {
				t.Errorf("one secret is denied, and the issuer is %+v", state)
			}
			for range 2 {
				ask("neighbour-1")
				if !several {
					break
				}
			}
			if state := down(); (state != nil) != several || several && !strings.Contains(state.Error, "app/neighbour-1 are not allowed") {
				t.Errorf("several denied: %t, and the issuer is %+v", several, state)
			}
		}
	})
}
