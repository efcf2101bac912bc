package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// installation is a directory with the configuration of a server that keeps
// nothing but its own state.
type installation struct {
	t   *testing.T
	dir string
}

func install(t *testing.T, address string) *installation {
	t.Helper()
	i := &installation{t, t.TempDir()}
	i.write("config.hcl", `
data_dir = "state"
listener "tcp" {
  address = "`+address+`"
}
seal "file" {
  path = "seal.key"
}
backend "local" "embedded" {}
`)
	return i
}

func (i *installation) path(name string) string { return filepath.Join(i.dir, name) }

func (i *installation) write(name, text string) {
	i.t.Helper()
	if err := os.WriteFile(i.path(name), []byte(text), 0o600); err != nil {
		i.t.Fatal(err)
	}
}

// serverLog can be read while the server writes it.
type serverLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *serverLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// server runs `keybroker server` until ready says so of its log or it ends by
// itself.
func (i *installation) server(ready func(log string) bool) (code int, stderr string) {
	i.t.Helper()
	ctx, cancel := context.WithCancel(i.t.Context())
	defer cancel()
	var out, errs serverLog
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"server", "--config", i.path("config.hcl")}, streams{strings.NewReader(""), &out, &errs})
	}()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case code := <-ended:
			return code, errs.String()
		default:
			if ready(errs.String()) {
				cancel()
			}
		}
	}
	i.t.Fatal("the server neither serves nor ends")
	return 0, ""
}

func never(string) bool { return false }

// serveOnce makes the data of a first start.
func (i *installation) serveOnce() {
	i.t.Helper()
	code, stderr := i.server(func(log string) bool { return strings.Contains(log, "keybroker is serving") })
	if code != exitDone {
		i.t.Fatalf("the first start: exit %d\n%s", code, stderr)
	}
}

// TestServerSaysWhyItDoesNotStart: whoever reads the last line knows what is
// wrong and what to do.
func TestServerSaysWhyItDoesNotStart(t *testing.T) {
	const anyPort = "127.0.0.1:0"
	for name, test := range map[string]struct {
		address string
		spoil   func(t *testing.T, i *installation)
		says    []string
	}{
		"missing seal key": {anyPort, func(t *testing.T, i *installation) {
			i.serveOnce()
			must(t, os.Remove(i.path("seal.key")))
		}, []string{"there is data in", "state", "seal.key is missing: put the key back"}},
		"another seal key": {anyPort, func(t *testing.T, i *installation) {
			i.serveOnce()
			must(t, os.Remove(i.path("seal.key")))
			i.write("seal.key", strings.Repeat("k", 32))
		}, []string{"the seal key is not the one that this data was sealed with"}},
		"seal key cut short": {anyPort, func(t *testing.T, i *installation) {
			i.write("seal.key", strings.Repeat("k", 31))
		}, []string{"seal.key holds 31 bytes, not 32"}},
		"seal key for everybody": {anyPort, func(t *testing.T, i *installation) {
			i.write("seal.key", strings.Repeat("k", 32))
			must(t, os.Chmod(i.path("seal.key"), 0o644))
		}, []string{"chmod 600"}},
		"data_dir is a file": {anyPort, func(t *testing.T, i *installation) {
			i.write("state", "")
		}, []string{"making data_dir", "state: not a directory"}},
		"data_dir read-only": {anyPort, func(t *testing.T, i *installation) {
			i.serveOnce()
			readOnly(t, i.path("state"))
		}, []string{"state/keybroker.db", "readonly database"}},
		"nowhere to make data_dir": {anyPort, func(t *testing.T, i *installation) {
			readOnly(t, i.dir)
		}, []string{"making data_dir", "state: permission denied"}},
		"database broken": {anyPort, func(t *testing.T, i *installation) {
			i.serveOnce()
			i.write("state/keybroker.db", strings.Repeat("no database ", 1000))
			_ = os.Remove(i.path("state/keybroker.db-wal"))
		}, []string{"opening store", "keybroker.db", "not a database"}},
		"port in use": {busyPort(t), func(*testing.T, *installation) {}, []string{"listening", "address already in use"}},
	} {
		t.Run(name, func(t *testing.T) {
			i := install(t, test.address)
			test.spoil(t, i)
			code, stderr := i.server(never)
			if code != exitFailed {
				t.Errorf("exit %d, want %d", code, exitFailed)
			}
			last := lastLine(stderr)
			for _, want := range test.says {
				if !strings.Contains(last, want) {
					t.Errorf("it does not say %q but:\n%s", want, stderr)
				}
			}
			if strings.Contains(stderr, strings.Repeat("k", 31)) {
				t.Error("it shows the seal key")
			}
		})
	}
}

// lastLine is the complaint: "keybroker: …".
func lastLine(text string) string {
	at := strings.LastIndex(text, "keybroker: ")
	if at < 0 {
		return ""
	}
	return text[at:]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func busyPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// readOnly takes the right to write in dir; root has it all the same.
func readOnly(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	must(t, os.Chmod(dir, 0o500))
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
}
