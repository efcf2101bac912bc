package webhook

import (
	"errors"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// delays are the waits before each attempt that Standard Webhooks suggests: the
// last attempt is made about 76 h after the first.
var delays = []time.Duration{
	0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour,
	5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
}

const jitter = 0.2

// Backoff returns how long to wait after the given number of failed attempts (0:
// none was made yet, so at once), ±20 %, and false when the delivery is dead. rnd
// yields numbers in [0, 1), like rand.Float64.
func Backoff(attempts int, rnd func() float64) (time.Duration, bool) {
	if attempts < 0 || attempts >= len(delays) {
		return 0, false
	}
	d := float64(delays[attempts])
	return time.Duration(d * (1 + jitter*(2*rnd()-1))), true
}

// Next returns how long to wait after the attempt that ended in o, the attempts-th
// one (from 1), and false when no other one is due: the delivery was received, its
// endpoint is gone, another attempt must fail likewise, or it is dead.
func (o Outcome) Next(attempts int, rnd func() float64) (time.Duration, bool) {
	if o.Received || o.Gone || errors.Is(o.Err, backends.ErrInvalid) {
		return 0, false
	}
	wait, ok := Backoff(attempts, rnd)
	return max(wait, o.RetryAfter), ok
}
