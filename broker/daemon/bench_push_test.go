package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

const (
	pushConsumers = 100
	pushSecrets   = 50
	pushFor       = 4 * time.Second // at least
	jobsFor       = 2 * time.Second // at least, before and after
)

// BenchmarkPush tells 100 consumers on loopback of new versions, on either database. The
// secrets of all of them rotate at once, and deliveries_per_second is how many deliveries
// are received, from the first of them to the last one: most of rotating is part of it, and
// so are the consumers, which run in the same process. The messages are references, and
// their consumers answer nothing. applied_per_second is the same for plain messages whose
// consumers acknowledge in their answer, with the fingerprint.
//
// ratio_to_update_jobs sets the former against update_jobs_per_second, measured right
// before and after: jobs of River's in such a store, inserted by as many a transaction as
// a publication tells consumers, each of which makes one transaction of one small row.
func BenchmarkPush(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		jobs := func(b *testing.B) float64 {
			return updateJobRate(b, store.Config{SQLitePath: filepath.Join(b.TempDir(), "jobs.db")})
		}
		benchPush(b, "push.", func(*site) {}, "", jobs)
	})
	b.Run("postgresql", func(b *testing.B) {
		key := filepath.Join(b.TempDir(), "seal.key")
		if _, err := seal.CreateFile(key); err != nil {
			b.Fatal(err)
		}
		use := func(s *site) { s.env["DATABASE_URL"] = postgresserver.StartDurable(b).URL }
		jobs := func(b *testing.B) float64 {
			return updateJobRate(b, store.Config{PostgresURL: backends.SecretString(postgresserver.StartDurable(b).URL)})
		}
		benchPush(b, "push.postgresql.", use, onPostgres("", key), jobs)
	})
}

func benchPush(b *testing.B, prefix string, use func(*site), more string, jobRate func(*testing.B) float64) {
	limit := jobRate(b)
	told := newAudience(b, "reference")
	perSecond, each := pushRate(b, told, use, more)
	limit = (limit + jobRate(b)) / 2
	b.ReportMetric(perSecond, prefix+"deliveries_per_second/1/s")
	b.ReportMetric(limit, prefix+"update_jobs_per_second/1/s")
	b.ReportMetric(perSecond/limit, prefix+"ratio_to_update_jobs/ratio")
	b.ReportMetric(each["transactions"], prefix+"transactions_each/transactions")
	b.ReportMetric(each["commits"], prefix+"disk_writes_each/commits")
	b.ReportMetric(each["cpu_ms"], prefix+"cpu_each/ms")
	applied, _ := pushRate(b, newAudience(b, "plain"), use, more)
	b.ReportMetric(applied, prefix+"applied_per_second/1/s")
}

// audience are consumers on loopback, each with a server of its own.
type audience struct {
	hcl      string
	received atomic.Int64 // deliveries that were answered
}

func newAudience(b *testing.B, payload string) *audience {
	b.Helper()
	a := &audience{}
	names := make([]string, pushConsumers)
	for i := range names {
		srv := httptest.NewServer(http.HandlerFunc(a.take))
		b.Cleanup(srv.Close)
		names[i] = fmt.Sprintf("%q", fmt.Sprint("c", i))
		a.hcl += fmt.Sprintf(`
consumer %s {
  events = ["secret.rotated"]
  webhook {
    url                   = %q
    payload               = %q
    allow_private_network = true
  }
}
`, names[i], srv.URL, payload)
	}
	for i := range pushSecrets {
		a.hcl += fmt.Sprintf(`
secret "many/key%d" {
  backend   = "embedded"
  probe     = "internal"
  consumers = [%s]
  issuer "internal" {}
}
`, i, strings.Join(names, ", "))
	}
	return a
}

// take answers a delivery: a plain one is acknowledged.
func (a *audience) take(w http.ResponseWriter, r *http.Request) {
	defer a.received.Add(1)
	body, err := io.ReadAll(r.Body)
	var event struct {
		ID   string `json:"id"`
		Data struct {
			Generation int64             `json:"generation"`
			Fields     map[string]string `json:"fields"`
		} `json:"data"`
	}
	if err != nil || json.Unmarshal(body, &event) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if len(event.Data.Fields) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "applied", "generation": event.Data.Generation,
		"fingerprint": rotation.Fingerprint(event.ID, backends.NewValue(event.Data.Fields))})
}

// pushRate is how many deliveries are received in a second, and what each takes.
func pushRate(b *testing.B, a *audience, use func(*site), more string) (perSecond float64, each map[string]float64) {
	s := newSite(b, withoutWaits(withConsumer(embedded, nil))+a.hcl+more)
	use(s)
	n := startMany(b, s)
	a.round(b, n) // the first versions replace nothing, and connections are made
	var spent, cpu time.Duration
	var transactions, commits float64
	deliveries := 0
	for spent < pushFor {
		before, used := n.count(b), cpuTime(b)
		spent += a.round(b, n)
		after := n.count(b)
		cpu += cpuTime(b) - used
		transactions, commits = transactions+after["transactions"]-before["transactions"], commits+after["commits"]-before["commits"]
		deliveries += pushSecrets * pushConsumers
		n.settled(b)
	}
	return float64(deliveries) / spent.Seconds(), map[string]float64{
		"transactions": transactions / float64(deliveries), "commits": commits / float64(deliveries),
		"cpu_ms": 1000 * cpu.Seconds() / float64(deliveries),
	}
}

// round rotates every secret, and returns how long it takes from the first delivery that
// is received to the last.
func (a *audience) round(b *testing.B, n *many) time.Duration {
	b.Helper()
	done := a.received.Load()
	want := done + pushSecrets*pushConsumers
	n.askAll(b, pushSecrets)
	for a.received.Load() == done {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	for a.received.Load() < want {
		time.Sleep(time.Millisecond)
	}
	return time.Since(began)
}

// updateJob makes one transaction.
type updateJob struct {
	N int64 `json:"n"`
}

func (updateJob) Kind() string { return "update" }

// updateJobRate is how many of River's jobs a store works in a second that make one
// transaction each, from their insertion to the end of the last one.
func updateJobRate(b *testing.B, cfg store.Config) float64 {
	b.Helper()
	ctx := b.Context()
	db, err := store.Open(ctx, cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close(context.Background())
	var done atomic.Int64
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(ctx context.Context, job *river.Job[updateJob]) error {
		err := db.Update(ctx, func(tx *store.Tx) error {
			_, err := tx.PutSettingIfAbsent(ctx, fmt.Sprint("update ", job.Args.N), []byte("one small row"))
			return err
		})
		if err != nil {
			b.Error(err)
		}
		done.Add(1)
		return err
	}))
	if err := db.Start(context.WithoutCancel(ctx), workers, store.StartOptions{MaxWorkers: 512}); err != nil {
		b.Fatal(err)
	}
	began, jobs := time.Now(), int64(0)
	for time.Since(began) < jobsFor {
		for range pushSecrets { // what a publication inserts is one transaction
			jobs += pushConsumers
			insertJobs(b, db, jobs)
		}
		for done.Load() < jobs {
			time.Sleep(time.Millisecond)
		}
	}
	return float64(jobs) / time.Since(began).Seconds()
}

// insertJobs inserts as many jobs as a publication makes deliveries, up to a number.
func insertJobs(b *testing.B, db *store.DB, upTo int64) {
	b.Helper()
	some := make([]river.InsertManyParams, pushConsumers)
	for i := range some {
		some[i] = river.InsertManyParams{Args: updateJob{upTo - int64(i)}}
	}
	if err := db.Update(b.Context(), func(tx *store.Tx) error { return tx.Enqueue(b.Context(), some...) }); err != nil {
		b.Fatal(err)
	}
}
