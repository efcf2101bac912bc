package backends_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// BenchmarkBackendsMount times what a Mount adds to a read of its driver:
// deadline, limits, retries, checks. The driver answers from memory, and both
// are called in turn.
func BenchmarkBackendsMount(b *testing.B) {
	const batch = 200
	d := &driver{}
	m := backends.NewMount("memory", d, backends.Options{Limits: backends.Limits{RequestsPerSecond: 1e9, MaxConcurrent: 64}})
	ctx := b.Context()
	timed := func(of backends.Driver) time.Duration {
		began := time.Now()
		for range batch {
			if _, _, err := of.Read(ctx, stripe, ""); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(began)
	}
	var bare, mounted time.Duration
	reads := 0
	for b.Loop() {
		bare += timed(d)
		mounted += timed(m)
		reads += batch
	}
	b.ReportMetric(float64((mounted-bare).Nanoseconds())/float64(reads)/1e3, "backends.mount_overhead_us/us")
}
