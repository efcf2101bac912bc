package daemon_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"modernc.org/sqlite"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/broker/store"
)

// commits counts the transactions that this process has committed to SQLite.
var commits atomic.Int64

var countCommits = sync.OnceFunc(func() {
	sqlite.RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, _ string) error {
		if c, ok := conn.(sqlite.HookRegisterer); ok {
			c.RegisterCommitHook(func() int32 { commits.Add(1); return 0 })
		}
		return nil
	})
})

// BenchmarkRotation rotates many secrets at once on SQLite, from the request to
// the proof that the old key is dead, and sets the rate against the one at which
// the same disk takes commits of a single row, measured right before and after.
func BenchmarkRotation(b *testing.B) {
	const secrets = 300
	countCommits()
	n := startMany(b, secrets)
	n.rotateAll(b, secrets) // the first versions replace nothing
	limit := commitRate(b)
	before, rotations, began := commits.Load(), 0, time.Now()
	for b.Loop() {
		n.rotateAll(b, secrets)
		rotations += secrets
	}
	took, made := time.Since(began), commits.Load()-before
	limit = (limit + commitRate(b)) / 2
	perSecond, perRotation := float64(rotations)/took.Seconds(), float64(made)/float64(rotations)
	b.ReportMetric(perSecond, "rotation.per_second/1/s")
	b.ReportMetric(perRotation, "rotation.commits_each/commits")
	b.ReportMetric(limit, "rotation.commit_rate/1/s")
	b.ReportMetric(perSecond/(limit/perRotation), "rotation.ratio_to_commit_limit/ratio")
}

// many is a node with many secrets.
type many struct{ *client.Client }

func startMany(b *testing.B, secrets int) *many {
	b.Helper()
	hcl := strings.NewReplacer(
		`overlap = "2s"`, `overlap = "0s"`,
		`interval  = "50ms"`, `interval  = "10ms"`,
		`rejections = 3`, `rejections = 2`,
		`window     = "2s"`, `window     = "1s"`,
		"CONSUMERS", "",
	).Replace(embedded)
	for i := range secrets {
		hcl += fmt.Sprintf("secret \"many/key%d\" {\n  backend = \"embedded\"\n  probe   = \"internal\"\n  issuer \"internal\" {}\n}\n", i)
	}
	s := newSite(b, hcl)
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
	return &many{s.client(s.rootToken(), d.Addr())}
}

// rotateAll rotates every secret and waits until all of it is proven.
func (n *many) rotateAll(b *testing.B, secrets int) {
	b.Helper()
	const callers = 16
	ctx := b.Context()
	var asking sync.WaitGroup
	for c := range callers {
		asking.Go(func() {
			for i := c; i < secrets; i += callers {
				if _, err := n.Rotate(ctx, fmt.Sprintf("many/key%d", i), client.RotateRequest{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	asking.Wait()
	for {
		live, err := n.Rotations(ctx, client.RotationQuery{Live: true, Page: client.Page{Limit: 1}})
		if err != nil {
			b.Fatal(err)
		}
		if len(live.Items) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// commitRate is how many transactions of one small row the disk takes in a second.
func commitRate(b *testing.B) float64 {
	b.Helper()
	ctx := b.Context()
	db, err := store.Open(ctx, store.Config{SQLitePath: filepath.Join(b.TempDir(), "commits.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close(ctx) }()
	n, began := 0, time.Now()
	for time.Since(began) < 2*time.Second {
		err := db.Update(ctx, func(tx *store.Tx) error {
			_, err := tx.PutSettingIfAbsent(ctx, fmt.Sprintf("row %d", n), []byte("one small row"))
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		n++
	}
	return float64(n) / time.Since(began).Seconds()
}
