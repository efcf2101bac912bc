package daemon_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// BenchmarkRotation rotates many secrets at once on either database, from the
// request to the proof that the old key is dead, each delivered to a consumer,
// with all waits set to zero. The rate is set against the one at which the same
// machine commits transactions of one small row to such a database, one after
// the other, measured right before and after: a ratio of 1 is that of somebody
// who does nothing but commit, alone.
func BenchmarkRotation(b *testing.B) {
	const secrets = 1000
	b.Run("sqlite", func(b *testing.B) {
		s, receive := manySite(b, secrets, "")
		benchRotation(b, "rotation.", s, receive, secrets, sqliteCommitRate)
	})
	b.Run("postgresql", func(b *testing.B) {
		url := postgresserver.StartDurable(b).URL
		key := filepath.Join(b.TempDir(), "seal.key")
		if _, err := seal.CreateFile(key); err != nil {
			b.Fatal(err)
		}
		s, receive := manySite(b, secrets, onPostgres("", key))
		s.env["DATABASE_URL"] = url
		benchRotation(b, "rotation.postgresql.", s, receive, secrets, func(b *testing.B) float64 { return postgresCommitRate(b, url) })
	})
}

func benchRotation(b *testing.B, prefix string, s *site, c *consumer, secrets int, commitRate func(*testing.B) float64) {
	n := startMany(b, s)
	n.rotateAll(b, secrets) // the first versions replace nothing
	limit := commitRate(b)
	resetPeakRSS()
	before, cpu, rotations, began := n.count(b), cpuTime(b), 0, time.Now()
	for b.Loop() {
		n.rotateAll(b, secrets)
		rotations += secrets
	}
	took, peak, after := time.Since(began), peakRSS(b), n.count(b)
	cpu = cpuTime(b) - cpu
	limit = (limit + commitRate(b)) / 2
	for i := range secrets {
		name := fmt.Sprintf("many/key%d", i)
		if _, got := c.key(name); got != n.generation(b, name) {
			b.Errorf("the consumer has generation %d of %s", got, name)
		}
	}
	each := func(total float64) float64 { return total / float64(rotations) }
	perSecond, commits := float64(rotations)/took.Seconds(), each(after["transactions"]-before["transactions"])
	b.ReportMetric(perSecond, prefix+"per_second/1/s")
	b.ReportMetric(perSecond*commits/limit, prefix+"ratio_to_commit_limit/ratio")
	b.ReportMetric(limit, prefix+"commit_rate/1/s")
	b.ReportMetric(commits, prefix+"commits_each/commits")
	b.ReportMetric(each(after["commits"]-before["commits"]), prefix+"disk_writes_each/commits")
	b.ReportMetric(each(1000*cpu.Seconds()), prefix+"cpu_each/ms")
	b.ReportMetric(peak, prefix+"peak_rss/MiB")
}

// many is a node with many secrets.
type many struct {
	*client.Client
	metrics *http.Request
}

// manySite configures a node with many secrets and one consumer that each of
// them is delivered to.
func manySite(b *testing.B, secrets int, more string) (*site, *consumer) {
	b.Helper()
	signing := newSigningSecret()
	c := newConsumer(b, signing)
	hcl := withoutWaits(withConsumer(embedded, c)) + more
	for i := range secrets {
		hcl += fmt.Sprintf("secret \"many/key%d\" {\n  backend = \"embedded\"\n  probe = \"internal\"\n  consumers = [\"app\"]\n  issuer \"internal\" {}\n}\n", i)
	}
	s := newSite(b, hcl)
	s.env["SIGNING_SECRET"] = signing.Reveal()
	return s, c
}

// withoutWaits lets rotations wait for nothing.
func withoutWaits(hcl string) string {
	return strings.NewReplacer(
		`overlap = "2s"`, `overlap = "0s"`,
		`interval  = "50ms"`, `interval  = "0s"`,
		`rejections = 3`, `rejections = 2`,
		`window     = "2s"`, `window     = "0s"`,
	).Replace(hcl)
}

func startMany(b *testing.B, s *site) *many {
	b.Helper()
	d, err := daemon.Open(context.Background(), daemon.Options{Config: s.config(), Logger: hclog.NewNullLogger()})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	metrics, err := http.NewRequestWithContext(ctx, http.MethodGet, d.Addr()+"/metrics", nil)
	if err != nil {
		b.Fatal(err)
	}
	metrics.Header.Set("Authorization", "Bearer "+s.rootToken())
	return &many{s.client(s.rootToken(), d.Addr()), metrics}
}

// rotateAll rotates every secret and waits until all of it is proven.
func (n *many) rotateAll(b *testing.B, secrets int) {
	b.Helper()
	n.askAll(b, secrets)
	n.settled(b)
}

// askAll asks for a rotation of every secret.
func (n *many) askAll(b *testing.B, secrets int) {
	b.Helper()
	const callers = 16
	var asking sync.WaitGroup
	for c := range callers {
		asking.Go(func() {
			for i := c; i < secrets; i += callers {
				if _, err := n.Rotate(b.Context(), fmt.Sprintf("many/key%d", i), client.RotateRequest{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	asking.Wait()
}

// settled waits until no rotation is under way.
func (n *many) settled(b *testing.B) {
	b.Helper()
	for {
		live, err := n.Rotations(b.Context(), client.RotationQuery{Live: true, Page: client.Page{Limit: 1}})
		if err != nil {
			b.Fatal(err)
		}
		if len(live.Items) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (n *many) generation(b *testing.B, secret string) int64 {
	b.Helper()
	v, err := n.Value(b.Context(), secret, 0)
	if err != nil {
		b.Fatal(err)
	}
	return v.Generation
}

// count returns how many transactions and commits the store has made.
func (n *many) count(b *testing.B) map[string]float64 {
	b.Helper()
	res, err := http.DefaultClient.Do(n.metrics)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	counts := map[string]float64{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		var name string
		var value float64
		if _, err := fmt.Sscan(lines.Text(), &name, &value); err != nil {
			continue
		}
		if what, ok := strings.CutPrefix(name, "keybroker_store_"); ok {
			counts[strings.TrimSuffix(what, "_total")] = value
		}
	}
	if len(counts) != 2 {
		b.Fatalf("the node counts %v", counts)
	}
	return counts
}

// sqliteCommitRate is how many transactions of one small row a file of SQLite's
// takes in a second, synced like the store's.
func sqliteCommitRate(b *testing.B) float64 {
	b.Helper()
	path := filepath.Join(b.TempDir(), "commits.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	return rate(b, func(ctx context.Context, query string) error {
		_, err := db.ExecContext(ctx, query)
		return err
	})
}

func postgresCommitRate(b *testing.B, url string) float64 {
	b.Helper()
	conn, err := pgx.Connect(b.Context(), url)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(context.Background())
	return rate(b, func(ctx context.Context, query string) error {
		_, err := conn.Exec(ctx, query)
		return err
	})
}

// rate counts INSERTs that are committed one by one.
func rate(b *testing.B, exec func(ctx context.Context, query string) error) float64 {
	b.Helper()
	do := func(query string) {
		if err := exec(b.Context(), query); err != nil {
			b.Fatal(err)
		}
	}
	do("CREATE TABLE IF NOT EXISTS commits (row TEXT NOT NULL)")
	n, began := 0, time.Now()
	for time.Since(began) < 2*time.Second {
		do("INSERT INTO commits (row) VALUES ('one small row')")
		n++
	}
	return float64(n) / time.Since(began).Seconds()
}

// cpuTime is what this process has used: the node, its client and its consumer.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// resetPeakRSS lets peakRSS tell the peak from now on, where Linux permits.
func resetPeakRSS() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// peakRSS is the most memory in MiB that the process has held, 0 if unknown.
func peakRSS(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	var kib float64
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			if _, err := fmt.Sscan(value, &kib); err != nil {
				b.Fatal(err)
			}
		}
	}
	return kib / 1024
}
