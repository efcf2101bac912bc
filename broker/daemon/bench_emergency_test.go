package daemon_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/client"
)

const (
	leakedSecrets   = 1000
	leakedConsumers = 30 // each secret has three of them
)

// BenchmarkEmergency declares one incident of 1,000 secrets with three consumers each, on
// either database, once with revoke_first and once with replace_first. Everything is
// counted from before the request: when the first and the last of the old keys was
// rejected, when the last was proven dead, and how many a second that makes; the
// replacements are made, and told, beside it. deliveries_per_second is how many of their
// deliveries are received and acknowledged, from the first to the last. The consumers run in
// the same process.
//
// rotations_per_second is how fast the same node rotates the same secrets right before,
// from the request to the proof and the delivery, and ratio_to_rotations what it contains
// in comparison.
func BenchmarkEmergency(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		benchEmergency(b, "emergency.", func(*site) {}, "")
	})
	b.Run("postgresql", func(b *testing.B) {
		key := filepath.Join(b.TempDir(), "seal.key")
		if _, err := seal.CreateFile(key); err != nil {
			b.Fatal(err)
		}
		use := func(s *site) { s.env["DATABASE_URL"] = postgresserver.StartDurable(b).URL }
		benchEmergency(b, "emergency.postgresql.", use, onPostgres("", key))
	})
}

func benchEmergency(b *testing.B, prefix string, use func(*site), more string) {
	a := newLeaked(b)
	s := newSite(b, withoutWaits(withConsumer(embedded, nil))+a.hcl+more+"emergency {\n  approval_above = 0\n}\n")
	use(s)
	n := startMany(b, s)
	n.rotateAll(b, leakedSecrets) // the first versions replace nothing, and connections are made
	for _, contain := range []string{client.RevokeFirst, client.ReplaceFirst} {
		began := time.Now()
		n.rotateAll(b, leakedSecrets)
		rotations := leakedSecrets / time.Since(began).Seconds()
		n.measureEmergency(b, a, prefix+contain+".", contain, rotations)
	}
}

// newLeaked are the consumers, and the secrets that they are told of.
func newLeaked(b *testing.B) *audience {
	b.Helper()
	a := &audience{}
	var hcl strings.Builder
	for i := range leakedConsumers {
		srv := httptest.NewServer(http.HandlerFunc(a.take))
		b.Cleanup(srv.Close)
		fmt.Fprintf(&hcl, `
consumer "c%d" {
  events = ["secret.rotated"]
  webhook {
    url                   = %q
    payload               = "plain"
    allow_private_network = true
  }
}
`, i, srv.URL)
	}
	for i := range leakedSecrets {
		fmt.Fprintf(&hcl, `
secret "many/key%d" {
  backend   = "embedded"
  probe     = "internal"
  consumers = ["c%d", "c%d", "c%d"]
  issuer "internal" {}
}
`, i, i%leakedConsumers, (i+1)%leakedConsumers, (i+2)%leakedConsumers)
	}
	a.hcl = hcl.String()
	return a
}

// measureEmergency declares one of every secret and waits until all of it is over.
func (n *many) measureEmergency(b *testing.B, a *audience, prefix, contain string, rotations float64) {
	b.Helper()
	told := a.received.Load()
	before, cpu, began := n.count(b), cpuTime(b), time.Now()
	inc, err := n.DeclareIncident(b.Context(), client.IncidentRequest{Reason: "all of them leaked", Contain: contain, Selector: client.Selector{Patterns: []string{"many/*"}}})
	if err != nil {
		b.Fatal(err)
	}
	firstTold, lastTold := a.since(told, 3*leakedSecrets)
	for inc.ProvenAt.IsZero() {
		time.Sleep(100 * time.Millisecond)
		list, err := n.Incidents(b.Context(), client.IncidentQuery{Page: client.Page{Limit: 1}})
		if err != nil || len(list.Items) == 0 {
			b.Fatal(err)
		}
		inc = list.Items[0]
	}
	n.settled(b)
	cpu, after := cpuTime(b)-cpu, n.count(b)
	p := inc.Progress
	if p.Versions != leakedSecrets || p.Proven != leakedSecrets {
		b.Fatalf("%+v", p)
	}
	first, last, proven := p.FirstContainedAt.Sub(began).Seconds(), p.LastContainedAt.Sub(began).Seconds(), inc.ProvenAt.Sub(began).Seconds()
	b.ReportMetric(first, prefix+"first_contained_s/s")
	b.ReportMetric(last, prefix+"last_contained_s/s")
	b.ReportMetric(leakedSecrets/last, prefix+"contained_per_second/1/s")
	b.ReportMetric(leakedSecrets/proven, prefix+"proven_per_second/1/s")
	b.ReportMetric(3*leakedSecrets/lastTold.Sub(firstTold).Seconds(), prefix+"deliveries_per_second/1/s")
	b.ReportMetric(rotations, prefix+"rotations_per_second/1/s")
	b.ReportMetric(leakedSecrets/last/rotations, prefix+"ratio_to_rotations/ratio")
	b.ReportMetric((after["transactions"]-before["transactions"])/leakedSecrets, prefix+"transactions_each/transactions")
	b.ReportMetric((after["commits"]-before["commits"])/leakedSecrets, prefix+"disk_writes_each/commits")
	b.ReportMetric(1000*cpu.Seconds()/leakedSecrets, prefix+"cpu_each/ms")
}

// since waits for deliveries, and returns when the first and the last of them came.
func (a *audience) since(had int64, deliveries int64) (first, last time.Time) {
	for a.received.Load() == had {
		time.Sleep(time.Millisecond)
	}
	first = time.Now()
	for a.received.Load() < had+deliveries {
		time.Sleep(time.Millisecond)
	}
	return first, time.Now()
}
