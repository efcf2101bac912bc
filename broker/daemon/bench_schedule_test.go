package daemon_test

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/daemon"
)

// BenchmarkSchedule starts a node whose store has 100,000 secrets with a schedule, looks
// what it costs when none is due, and lets 1,000 be due within one second. When each
// begins to be minted is set against a queue that begins one after the other, from when
// the first is due, as fast as the node does from the first to the last: what is later
// than that is lateness that the rate does not explain.
func BenchmarkSchedule(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		s, _ := manySite(b, 1, "")
		benchSchedule(b, "schedule.", s, "sqlite", "file:"+filepath.Join(s.dir, "data", "keybroker.db")+"?_pragma=busy_timeout(10000)")
	})
	b.Run("postgresql", func(b *testing.B) {
		url := postgresserver.StartDurable(b).URL
		key := filepath.Join(b.TempDir(), "seal.key")
		if _, err := seal.CreateFile(key); err != nil {
			b.Fatal(err)
		}
		s, _ := manySite(b, 1, onPostgres("", key))
		s.env["DATABASE_URL"] = url
		benchSchedule(b, "schedule.postgresql.", s, "pgx", url)
	})
}

const (
	benchSecrets = 100_000
	benchDue     = 1000
)

func benchSchedule(b *testing.B, prefix string, s *site, driver, at string) {
	first := runBench(b, s) // makes the schema, and the secret that the others are like
	first.stop()
	rows, err := sql.Open(driver, at)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	fill(b, rows)
	if driver == "pgx" { // which does so by itself; SQLite never does
		execAll(b, rows, "VACUUM ANALYZE")
	}
	debug.FreeOSMemory()
	resetPeakRSS()
	began := time.Now()
	n := runBench(b, s)
	b.ReportMetric(time.Since(began).Seconds(), prefix+"start_seconds/s")
	defer n.stop()
	tick, sweep := n.idle(b)
	b.ReportMetric(tick, prefix+"idle_tick_ms/ms")
	b.ReportMetric(sweep, prefix+"idle_sweep_ms/ms")
	b.ReportMetric(peakRSS(b), prefix+"rss_mib/MiB")

	soon := time.Now().Add(3 * time.Second)
	late, beyond, perSecond := lateness(startsOf(b, rows, soon), soon)
	b.ReportMetric(perSecond, prefix+"started_per_second/1/s")
	b.ReportMetric(late, prefix+"lateness_p99_s/s")
	b.ReportMetric(beyond, prefix+"lateness_beyond_rate_p99_s/s")
	b.ReportMetric(peakRSS(b), prefix+"peak_rss/MiB")
}

// benchNode is a node that runs and is ready.
type benchNode struct {
	d    *daemon.Daemon
	stop func()
}

func runBench(b *testing.B, s *site) *benchNode {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d, err := daemon.Open(ctx, daemon.Options{Config: s.config(), Logger: hclog.NewNullLogger()})
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	for {
		res, err := http.Get(d.Addr() + "/readyz")
		if err != nil {
			b.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return &benchNode{d, func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}}
}

// fill adds secrets like the one that is configured: due in a month, and, but for those
// that are going to be due before, with a version.
func fill(b *testing.B, rows *sql.DB) {
	b.Helper()
	soon, month := time.Now().UnixMicro(), (30 * 24 * time.Hour).Microseconds()
	execAll(b, rows,
		fmt.Sprintf(`INSERT INTO secrets (id, tenant, name, origin, state, backend, issuer, probe, policy, pair, definition, current, last_version, generation,
				next_due_at, created_at, updated_at, revision)
			WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
			SELECT CASE WHEN i <= %d THEN 'a' ELSE 'b' END || i, s.tenant, 'filled/' || i, 'api', 'active', s.backend, s.issuer, s.probe, s.policy, s.pair,
				replace(s.definition, '"issuer":', '"schedule":"0 3 1 * *","time_zone":"Europe/Berlin","jitter":86400000000000,"issuer":'),
				CASE WHEN i <= %d THEN 0 ELSE 1 END, CASE WHEN i <= %d THEN 0 ELSE 1 END, 1, %d + CAST(i AS BIGINT) * 1000000, %d, %d, 1
			FROM n, secrets s WHERE s.name = 'many/key0'`, benchSecrets, benchDue, benchDue, benchDue, soon+month, soon, soon),
		fmt.Sprintf(`INSERT INTO versions (secret_id, number, tenant, stage, rotation_id, attempt, tag, environment, backend, issuer, probe, settings, slot, seen, handle,
				backend_version, created_at, published_at)
			SELECT id, 1, tenant, 'current', 'r' || id, 1, 't' || id, '', backend, issuer, probe, '', '', '', '', '', %d, %d FROM secrets WHERE id LIKE 'b%%'`, soon, soon))
}

func execAll(b *testing.B, rows *sql.DB, statements ...string) {
	b.Helper()
	for _, statement := range statements {
		if _, err := rows.ExecContext(b.Context(), statement); err != nil {
			b.Fatal(err)
		}
	}
}

// idle is how long it takes to find that nothing is due, in milliseconds.
func (n *benchNode) idle(b *testing.B) (tick, sweep float64) {
	b.Helper()
	const times = 50
	for range times {
		t, s, err := n.d.LookForDue(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		tick, sweep = tick+1000*t.Seconds()/times, sweep+1000*s.Seconds()/times
	}
	return tick, sweep
}

// startsOf lets secrets be due within the second from at on, one after the other, and
// returns when each began to be minted, in that order.
func startsOf(b *testing.B, rows *sql.DB, at time.Time) (starts []time.Time) {
	b.Helper()
	execAll(b, rows, fmt.Sprintf("UPDATE secrets SET next_due_at = %d + CAST(substr(id, 2) AS BIGINT) * %d, revision = revision + 1 WHERE id LIKE 'a%%'",
		at.UnixMicro(), (time.Second/benchDue).Microseconds()))
	for len(starts) < benchDue {
		time.Sleep(500 * time.Millisecond)
		starts = begun(b, rows)
	}
	return starts
}

func begun(b *testing.B, rows *sql.DB) (starts []time.Time) {
	b.Helper()
	found, err := rows.QueryContext(b.Context(), `SELECT MIN(t.started_at) FROM rotations r JOIN rotation_steps t ON t.rotation_id = r.id AND t.step = 'mint'
		WHERE r.secret_id LIKE 'a%' GROUP BY r.secret_id ORDER BY CAST(substr(r.secret_id, 2) AS BIGINT)`)
	if err != nil {
		b.Fatal(err)
	}
	defer found.Close()
	for found.Next() {
		var us int64
		if err := found.Scan(&us); err != nil {
			b.Fatal(err)
		}
		starts = append(starts, time.UnixMicro(us))
	}
	if err := found.Err(); err != nil {
		b.Fatal(err)
	}
	return starts
}

// lateness is how late the 99th of a hundred begins, in seconds, how much later than in a
// queue that begins as many in a second as they did, and how many that were.
func lateness(starts []time.Time, at time.Time) (p99, beyond, perSecond float64) {
	due := func(i int) float64 { return float64(i+1) / benchDue } // in seconds from at
	var late, more []float64
	for i, start := range starts {
		late = append(late, start.Sub(at).Seconds()-due(i))
	}
	slices.SortFunc(starts, time.Time.Compare)
	perSecond = float64(len(starts)-1) / starts[len(starts)-1].Sub(starts[0]).Seconds()
	queued := 0.0 // when the queue begins this one
	for i, start := range starts {
		queued = math.Max(queued+1/perSecond, due(i))
		more = append(more, start.Sub(at).Seconds()-queued)
	}
	slices.Sort(late)
	slices.Sort(more)
	return late[len(late)*99/100], more[len(more)*99/100], perSecond
}
