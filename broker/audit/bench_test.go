package audit_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/rotation"
)

// BenchmarkAudit measures what the log costs a request. A read has two records, both
// of which are written and not waited for on the disk; it is measured with 64 readers
// at a time, each doing nothing else, side by side with as many that only make their
// records. A change waits for the disk once. The rate is that of all records.
func BenchmarkAudit(b *testing.B) {
	log := open(b, configAt(newPath(b)))
	const readers = 64
	request := func(write func(audit.Record, audit.Durability) error) time.Duration {
		began := time.Now()
		for _, kind := range []rotation.AuditKind{rotation.AuditRequest, rotation.AuditResponse} {
			rec := event(1)
			rec.Kind, rec.Request, rec.Secret, rec.Version = kind, "0199b9d0-0000-7000-8000-000000000000", "default:app/key1", 7
			rec.Role, rec.Method, rec.Address, rec.Capability, rec.Policy, rec.Rule = "app", "token", "192.0.2.7", "read", "readers", "app/*"
			if kind == rotation.AuditResponse {
				rec.Sensitive = map[string]string{"field.key": "a value of thirty-two characters"}
			}
			if err := write(rec, audit.Written); err != nil {
				b.Error(err)
			}
		}
		return time.Since(began)
	}
	without := together(readers, time.Second, func() time.Duration { return request(func(audit.Record, audit.Durability) error { return nil }) })
	began := time.Now()
	with := together(readers, 3*time.Second, func() time.Duration {
		return request(func(r audit.Record, d audit.Durability) error { return log.Write(b.Context(), r, d) })
	})
	took := time.Since(began)
	mustWrite(b, log, event(2), audit.Synced)
	mustWrite(b, log, event(2), audit.Synced)
	records := float64(2 * len(with))
	alone := together(1, time.Second, func() time.Duration {
		return request(func(r audit.Record, d audit.Durability) error { return log.Write(b.Context(), r, d) })
	})
	synced := together(1, 2*time.Second, func() time.Duration {
		began := time.Now()
		mustWrite(b, log, event(1), audit.Synced)
		return time.Since(began)
	})
	micro := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	b.ReportMetric(micro(at(alone, 50)-at(without, 50)), "audit.request_overhead_us/us")
	b.ReportMetric(micro(at(with, 50)-at(without, 50)), "audit.request_overhead_64_readers_us/us")
	b.ReportMetric(micro(at(with, 99)-at(without, 99)), "audit.request_overhead_64_readers_p99_us/us")
	b.ReportMetric(micro(at(synced, 50)), "audit.synced_us/us")
	b.ReportMetric(records/took.Seconds(), "audit.records_per_second/records/s")
	b.ReportMetric(0, "ns/op")
}

// together has n do something for as long as given, and returns how long each took.
func together(n int, during time.Duration, do func() time.Duration) (all []time.Duration) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	end := time.Now().Add(during)
	for range n {
		wg.Go(func() {
			var mine []time.Duration
			for time.Now().Before(end) {
				mine = append(mine, do())
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all
}

// at is a percentile.
func at(sorted []time.Duration, percent int) time.Duration {
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}
