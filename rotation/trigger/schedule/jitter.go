package schedule

import (
	"encoding/binary"
	"hash/fnv"
	"time"
)

// Jittered puts next off by less than jitter. How much depends only on the seed
// (the secret's reference), so it is the same for every run and on every node:
// secrets with one schedule spread out, and each keeps its own rhythm.
func Jittered(next time.Time, jitter time.Duration, seed string) time.Time {
	if next.IsZero() {
		return next
	}
	return next.Add(offset(jitter, seed))
}

// NextJittered returns the first due time after the given one on the schedule as
// shifted by Jittered; zero if there is none. Unlike Jittered(s.Next(after), …) it
// loses no run where the jitter is longer than the schedule's interval.
func (s Schedule) NextJittered(after time.Time, jitter time.Duration, seed string) time.Time {
	return Jittered(s.Next(after.Add(-offset(jitter, seed))), jitter, seed)
}

// offset is a whole number of seconds in [0, jitter).
func offset(jitter time.Duration, seed string) time.Duration {
	seconds := uint64(max(jitter, 0) / time.Second)
	if seconds == 0 {
		return 0
	}
	h := fnv.New128a()
	_, _ = h.Write([]byte(seed)) // never fails
	return time.Duration(binary.BigEndian.Uint64(h.Sum(nil)[8:])%seconds) * time.Second
}
