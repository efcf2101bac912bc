package daemon_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/client"
)

// loser stands before a PostgreSQL server and loses the answer to a commit whose
// transaction has written certain words: the connection breaks once the server
// has said that it is made.
type loser struct {
	words []byte
	armed atomic.Bool
	lost  atomic.Int32
}

// before gives the URL of the database of rawURL behind the loser.
func (l *loser) before(t *testing.T, rawURL string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	const socket = ".s.PGSQL.5432"
	query := u.Query()
	server := filepath.Join(query.Get("host"), socket)
	dir, err := os.MkdirTemp("", "pg") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
		_ = os.RemoveAll(dir)
	})
	serving.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { l.forward(t, from, server) })
		}
	})
	query.Set("host", dir)
	u.RawQuery = query.Encode()
	return u.String()
}

func (l *loser) forward(t *testing.T, from net.Conn, server string) {
	to, err := net.Dial("unix", server)
	if err != nil {
		t.Error(err)
		_ = from.Close()
		return
	}
	var marked atomic.Bool
	end := sync.OnceFunc(func() { // of one half ends the other
		_ = from.Close()
		_ = to.Close()
	})
	var both sync.WaitGroup
	both.Go(func() {
		defer end()
		each(from, func(b []byte) bool {
			if l.armed.Load() && bytes.Contains(b, l.words) {
				marked.Store(true)
			}
			_, err := to.Write(b)
			return err == nil
		})
	})
	both.Go(func() {
		defer end()
		each(to, func(b []byte) bool {
			if marked.Load() && bytes.Contains(b, []byte("COMMIT\x00")) && l.armed.CompareAndSwap(true, false) {
				l.lost.Add(1)
				return false
			}
			_, err := from.Write(b)
			return err == nil
		})
	})
	both.Wait()
}

func each(r io.Reader, do func([]byte) bool) {
	b := make([]byte, 64<<10)
	for {
		n, err := r.Read(b)
		if n > 0 && !do(b[:n]) || err != nil {
			return
		}
	}
}

// TestAReloadWhoseAnswerIsLost: its rows are committed, so it is in use.
func TestAReloadWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	l := &loser{words: []byte("config.apply")}
	s := newSite(t, withConsumer(embedded, nil))
	s.env["DATABASE_URL"] = l.before(t, postgresserver.Start(t).URL)
	s.hcl = onPostgres(s.hcl, filepath.Join(s.dir, "seal.key"))
	n := s.start()
	n.done(t, "app/key")
	reader, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"reader"}})
	s.hcl = replaced(t, s.hcl, `["read"]`, `["list"]`) + secondSecret
	l.armed.Store(true)
	if got := changesOf(n.reload(t)); !strings.Contains(got, "added secret app/second") || l.lost.Load() != 1 {
		t.Errorf("with %d lost answers it did: %s", l.lost.Load(), got)
	}
	if _, err := reader.Value(t.Context(), "app/key", 0); client.Status(err) != 403 {
		t.Errorf("the policy of before is in force: %v", err)
	}
	n.done(t, "app/second")
	if r := n.reload(t); len(r.Changes) > 0 {
		t.Errorf("the next reload changes %s", changesOf(r))
	}
}

// TestANodeThatStopsCutsAReloadOff, however long it would wait for the store.
func TestANodeThatStopsCutsAReloadOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	s.env["DATABASE_URL"] = postgresserver.Start(t).URL
	s.hcl = onPostgres(s.hcl, filepath.Join(s.dir, "seal.key"))
	n := s.start()
	n.done(t, "app/key")
	held, err := pgx.Connect(t.Context(), s.env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close(context.Background()) }) // ends the transaction
	if _, err := held.Exec(t.Context(), "BEGIN; LOCK TABLE secrets IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	s.hcl += secondSecret
	answered := make(chan error, 1)
	go func() { _, err := n.Client.Reload(context.Background(), client.ReloadRequest{}); answered <- err }()
	eventually(t, "a reload that waits for a lock", func() bool {
		var waiting int
		err := held.QueryRow(t.Context(), "SELECT COUNT(*) FROM pg_locks WHERE NOT granted").Scan(&waiting)
		return err == nil && waiting > 0
	})
	stopped := make(chan struct{})
	go func() { n.stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Error("the node waits for the reload")
	}
	if err := <-answered; err == nil {
		t.Error("a reload that was cut off has succeeded")
	}
}
