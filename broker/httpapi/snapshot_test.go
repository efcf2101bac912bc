package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/httpapi"
	"github.com/keybroker/keybroker/broker/store"
)

// Snapshot copies an empty store.
func (m *memory) Snapshot(ctx context.Context, p authn.Principal) (*store.Snapshot, error) {
	if err := m.serve(p, "snapshot"); err != nil {
		return nil, err
	}
	if m.store == "" {
		return nil, backends.ErrUnsupported
	}
	db, err := store.Open(ctx, store.Config{SQLitePath: m.store})
	if err != nil {
		return nil, err
	}
	s, err := db.Snapshot(ctx)
	return s, errors.Join(err, db.Close(ctx))
}

func (m *memory) Storage(_ context.Context, p authn.Principal) (client.Storage, error) {
	return client.Storage{Restored: &client.Restored{Snapshot: "s1", TakenAt: then, OutOfStep: []client.OutOfStep{}}}, m.serve(p, "storage")
}

func TestSnapshotsAreStreamed(t *testing.T) {
	m := newMemory()
	m.store = filepath.Join(t.TempDir(), "keybroker.db")
	n := start(t, m, nil)
	ctx := t.Context()

	var file bytes.Buffer
	got, err := n.client(t, goodToken).Snapshot(ctx, &file)
	if err != nil {
		t.Fatal(err)
	}
	h, err := store.ReadSnapshot(&file, io.Discard)
	if err != nil || h.ID != got.ID || !h.At.Equal(got.At) || h.Size != got.Size || h.Schema != got.Schema {
		t.Errorf("what was written is %+v (%v), and was told to be %+v", h, err, got)
	}
	a := n.ask(t, "GET", "/api/v1/storage/snapshot", goodToken, "")
	if a.status != 200 || a.header.Get("Content-Length") != strconv.Itoa(len(a.body)) || a.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%d, %v", a.status, a.header)
	}
	if a := n.ask(t, "HEAD", "/api/v1/storage/snapshot", goodToken, ""); a.status != 200 || a.body != "" || m.last() != "storage" {
		t.Errorf("HEAD: %d, %d bytes, and the broker was asked for %q: nothing is copied", a.status, len(a.body), m.last())
	}
	for token, want := range map[string]int{"": 401, otherToken: 403} {
		for _, method := range []string{"GET", "HEAD"} {
			if a := n.ask(t, method, "/api/v1/storage/snapshot", token, ""); a.status != want {
				t.Errorf("%s, token %q: %d, want %d", method, token, a.status, want)
			}
		}
	}
	if s, err := n.client(t, goodToken).Storage(ctx); err != nil || s.Restored == nil || s.Restored.Snapshot != "s1" || m.last() != "storage" {
		t.Errorf("%+v, %v", s, err)
	}
	m.store = ""
	if _, err := n.client(t, goodToken).Snapshot(ctx, io.Discard); client.Status(err) != http.StatusUnprocessableEntity {
		t.Errorf("where there are none: %v", err)
	}
}

// A snapshot that was cut off, anywhere on its way, is an error of who asked for it.
func TestSnapshotsThatAreCutOffAreNoSnapshots(t *testing.T) {
	m := newMemory()
	m.store = filepath.Join(t.TempDir(), "keybroker.db")
	n := start(t, m, nil)
	whole := n.ask(t, "GET", "/api/v1/storage/snapshot", goodToken, "").body
	for what, answer := range map[string]func(w http.ResponseWriter){
		"by the connection": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", strconv.Itoa(len(whole)))
			_, _ = io.WriteString(w, whole[:len(whole)/2])
		},
		"unnoticed by whatever is between": func(w http.ResponseWriter) { _, _ = io.WriteString(w, whole[:len(whole)/2]) },
		"within its digest":                func(w http.ResponseWriter) { _, _ = io.WriteString(w, whole[:len(whole)-1]) },
		"damaged": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, strings.Replace(whole, "SQLite", "sQLite", 1))
		},
		"a page":  func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>please log in</html>") },
		"nothing": func(http.ResponseWriter) {},
	} {
		t.Run(what, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
			defer srv.Close()
			c, err := client.New(srv.URL, goodToken, client.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if s, err := c.Snapshot(t.Context(), io.Discard); err == nil {
				t.Errorf("it is %+v", s)
			}
		})
	}
}

// A reader that leaves costs nothing but its connection.
func TestReadersOfSnapshotsMayLeave(t *testing.T) {
	m := newMemory()
	m.store = filepath.Join(t.TempDir(), "keybroker.db")
	n := start(t, m, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(conn, "GET /api/v1/storage/snapshot HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+goodToken+"\r\n\r\n")
	if _, readErr := io.ReadFull(conn, make([]byte, 100)); errors.Join(err, readErr, conn.Close()) != nil {
		t.Fatal(err, readErr)
	}
	if _, err := n.client(t, goodToken).Snapshot(t.Context(), io.Discard); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// dialled hands the connections that it is given to a server.
type dialled chan net.Conn

func (d dialled) Accept() (net.Conn, error) {
	c, ok := <-d
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (d dialled) Close() error   { return nil }
func (d dialled) Addr() net.Addr { return &net.UnixAddr{} }

// A reader that takes bit by bit, each in time, does not keep the copy on the disk.
func TestReadersOfSnapshotsAreNotWaitedForForEver(t *testing.T) {
	m := newMemory()
	m.store = filepath.Join(t.TempDir(), "keybroker.db")
	whole := start(t, m, nil).ask(t, "GET", "/api/v1/storage/snapshot", goodToken, "").body
	const piece, every, within = 1 << 10, 20 * time.Millisecond, time.Second
	if least := time.Duration(len(whole)/piece) * every; least < 2*within {
		t.Fatalf("a snapshot of %d bytes is read within %s", len(whole), least)
	}
	l := make(dialled)
	srv := &http.Server{Handler: httpapi.New(httpapi.Config{Broker: m, Authenticator: tokens{}, Logger: hclog.NewNullLogger(),
		Ready: func(context.Context) []string { return nil }, SnapshotWithin: within})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		close(l)
		<-served
		_ = srv.Close()
	}()
	conn, theirs := net.Pipe() // which keeps nothing for the reader
	l <- theirs
	if _, err := io.WriteString(conn, "GET /api/v1/storage/snapshot HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+goodToken+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, piece), nil)
	if err != nil {
		t.Fatal(err)
	}
	slow := time.NewTicker(every)
	defer slow.Stop()
	read := int64(0)
	for err == nil && resp.StatusCode == http.StatusOK {
		<-slow.C
		var n int64
		n, err = io.CopyN(io.Discard, resp.Body, piece)
		read += n
	}
	if resp.StatusCode == http.StatusOK && read >= int64(len(whole)) {
		t.Errorf("%d bytes were read, %d every %s", read, piece, every)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}
