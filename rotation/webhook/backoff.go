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
// one (from 1) of a delivery of that age, and false when no other one is due: the delivery
// was received, its endpoint is gone, another attempt must fail likewise, or it is dead.
// Attempts that were made ahead of the schedule, since the endpoint answered again, use up
// none of it: a delivery is dead only when it is as old as one that kept to it.
func (o Outcome) Next(attempts int, age time.Duration, rnd func() float64) (time.Duration, bool) {
	if o.Received || o.Gone || errors.Is(o.Err, backends.ErrInvalid) {
		return 0, false
	}
	wait, ok := Backoff(min(attempts, scheduled(age)), rnd)
	return max(wait, o.RetryAfter), ok
}

// scheduled is how many attempts the schedule has made at that age, at the earliest.
func scheduled(age time.Duration) int {
	var at time.Duration
	for n, delay := range delays {
		if at += delay; age < time.Duration(float64(at)*(1-jitter)) {
			return n
		}
	}
	return len(delays)
}
