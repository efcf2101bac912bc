package webhook_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/webhook"
)

func TestBackoff(t *testing.T) {
	want := []time.Duration{
		0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour,
		5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
	for attempts, mean := range want {
		for rnd, factor := range map[float64]float64{0: 0.8, 0.5: 1, 0.75: 1.1} {
			got, ok := webhook.Backoff(attempts, func() float64 { return rnd })
			if diff := got - time.Duration(float64(mean)*factor); !ok || diff.Abs() > time.Microsecond {
				t.Errorf("after %d attempts: got %s, %v", attempts, got, ok)
			}
		}
	}
	for _, attempts := range []int{10, 11, -1} {
		if _, ok := webhook.Backoff(attempts, func() float64 { return 0 }); ok {
			t.Errorf("after %d attempts there is another one", attempts)
		}
	}
}

func TestNextAttempt(t *testing.T) {
	failed := fmt.Errorf("%w: 503", backends.ErrUnavailable)
	for name, c := range map[string]struct {
		outcome  webhook.Outcome
		attempts int
		age      time.Duration
		wait     time.Duration
		ok       bool
	}{
		"first failure":      {webhook.Outcome{Err: failed}, 1, time.Second, 5 * time.Second, true},
		"it asked for more":  {webhook.Outcome{Err: failed, RetryAfter: time.Hour}, 1, time.Second, time.Hour, true},
		"it asked for less":  {webhook.Outcome{Err: failed, RetryAfter: time.Second}, 2, 5 * time.Second, 5 * time.Minute, true},
		"the last one":       {webhook.Outcome{Err: failed, RetryAfter: time.Second}, 10, 76 * time.Hour, 0, false},
		"received":           {webhook.Outcome{Received: true}, 1, 0, 0, false},
		"gone":               {webhook.Outcome{Gone: true, Err: failed}, 1, 0, 0, false},
		"never going to":     {webhook.Outcome{Err: fmt.Errorf("%w: url", backends.ErrInvalid)}, 1, 0, 0, false},
		"forbidden for now":  {webhook.Outcome{Err: fmt.Errorf("%w: private", backends.ErrDenied)}, 1, 0, 5 * time.Second, true},
		"of an unknown kind": {webhook.Outcome{Err: errors.New("unknown")}, 3, 6 * time.Minute, 30 * time.Minute, true},
		"ahead of time":      {webhook.Outcome{Err: failed}, 9, 10 * time.Minute, 30 * time.Minute, true},
		"often, but not old": {webhook.Outcome{Err: failed}, 40, 20 * time.Hour, 14 * time.Hour, true},
		"early by jitter":    {webhook.Outcome{Err: failed}, 2, 4 * time.Second, 5 * time.Minute, true},
	} {
		wait, ok := c.outcome.Next(c.attempts, c.age, func() float64 { return 0.5 })
		if ok != c.ok || (ok && wait != c.wait) {
			t.Errorf("%s: got %s, %v", name, wait, ok)
		}
	}
}
