package engine_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
