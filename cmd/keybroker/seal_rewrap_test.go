package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// TestRewrappingThatDoesNotGoOnEnds: with a reason after half a minute, without one a
// little later; never while it goes on.
func TestRewrappingThatDoesNotGoOnEnds(t *testing.T) {
	start := time.Now()
	p := rewrapping{left: -1}
	for _, step := range []struct {
		at      time.Duration
		left    int
		waiting string
		says    string // what is new
		ends    string // the error; empty: none
	}{
		{0, 9, "", "9 values to re-wrap", ""},
		{time.Minute, 9, "", "", ""},
		{119 * time.Second, 7, "", "7 values to re-wrap", ""},
		{140 * time.Second, 7, "no seal\x1b opens it", "it does not go on yet: no seal  opens it", ""},
		{148 * time.Second, 7, "no seal opens it", "it does not go on yet: no seal opens it", ""},
		{149 * time.Second, 7, "no seal opens it", "", "7 values are still sealed by older keys: no seal opens it"},
		{150 * time.Second, 6, "", "6 values to re-wrap", ""},
		{270 * time.Second, 6, "", "", "6 values are still sealed by older keys: no node re-wraps them"},
	} {
		now := start.Add(step.at)
		if got := p.next(client.SealStatus{Left: step.left, Waiting: step.waiting}, now); got != step.says {
			t.Errorf("after %s it says %q, want %q", step.at, got, step.says)
		}
		err := p.stalled(now)
		if (err != nil) != (step.ends != "") || err != nil && !strings.Contains(err.Error(), step.ends) {
			t.Errorf("after %s: %v, want %q", step.at, err, step.ends)
		}
		if _, hinted := errors.AsType[*hintError](err); err != nil && !hinted {
			t.Errorf("after %s it does not say what to do", step.at)
		}
	}
}
