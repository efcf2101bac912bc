package daemon_test

import (
	"context"
	"database/sql"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// get asks without a token, or with one.
func (s *site) get(method, path, token string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.addr+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestAnOutageOfTheStoreTellsStrangersNothing takes tables away from a running node.
func TestAnOutageOfTheStoreTellsStrangersNothing(t *testing.T) {
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.done(t, "app/key")
	eventually(t, "readiness", func() bool { status, _ := s.get("GET", "/readyz", ""); return status == http.StatusOK })
	key := n.value(t, "app/key").Fields["key"]
	db, err := sql.Open("sqlite", "file:"+s.config().Storage.Path+"?_pragma=busy_timeout(20000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for _, c := range []struct{ table, method, path, token, want string }{
		{"tokens", "GET", "/api/v1/secrets", s.rootToken(), "authenticating: unavailable: the broker cannot tell now who calls"},
		{"api_keys", "POST", "/api/v1/keys/check", key, "unavailable: the key cannot be checked now"},
		{"settings", "GET", "/readyz", "", `["the store cannot be used"]`},
	} {
		exec(t, db, "ALTER TABLE "+c.table+" RENAME TO away_for_now")
		status, body := s.get(c.method, c.path, c.token)
		exec(t, db, "ALTER TABLE away_for_now RENAME TO "+c.table)
		if status != http.StatusServiceUnavailable || !strings.Contains(body, c.want) || strings.Contains(body, "no such table") {
			t.Errorf("without the table %s: %d %s", c.table, status, body)
		}
		if log := s.log.String(); !strings.Contains(log, "no such table: "+c.table) {
			t.Errorf("the log does not tell that there is no table %s", c.table)
		}
	}
	// Neither the vault nor the sealed copy can be read.
	exec(t, db, "UPDATE versions SET sealed = x'00'")
	exec(t, db, "ALTER TABLE local_versions RENAME TO away_for_now")
	status, body := s.get("GET", "/api/v1/secrets/app%2Fkey/value", s.rootToken())
	exec(t, db, "ALTER TABLE away_for_now RENAME TO local_versions")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "unavailable: the value cannot be read now") || strings.Contains(body, "embedded") {
		t.Errorf("a value that is lost: %d %s", status, body)
	}
	if n.value(t, "app/key").Fields["key"] != key {
		t.Error("the value is another one after the outage")
	}
}

func exec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// TestAnAuditLogThatCannotBeWritten runs a node whose log is on a full disk.
func TestAnAuditLogThatCannotBeWritten(t *testing.T) {
	s := newSite(t, withConsumer(embedded, nil))
	data := filepath.Join(s.dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", filepath.Join(data, "audit.jsonl")); err != nil {
		t.Fatal(err)
	}
	d, err := daemon.Open(t.Context(), daemon.Options{Config: s.config(), Logger: hclog.New(&hclog.LoggerOptions{Output: s.log})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-ended // with an error: /dev/full cannot be synced
	})
	for token, want := range map[string]string{
		"":            "cannot tell now who calls",
		"nonsense":    "cannot tell now who calls",
		s.rootToken(): "no space left on device",
	} {
		if status, body := s.get("GET", "/api/v1/secrets", token); status != http.StatusServiceUnavailable || !strings.Contains(body, want) {
			t.Errorf("what cannot be audited: %d %s, want %q", status, body, want)
		}
	}
	if status, body := s.get("GET", "/readyz", ""); status != http.StatusServiceUnavailable || !strings.Contains(body, `"the audit log cannot be written"`) {
		t.Errorf("/readyz: %d %s", status, body)
	}
}

// TestNobodyWaitsForAVaultThatIsDown counts what a broken vault is asked.
func TestNobodyWaitsForAVaultThatIsDown(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	to, err := url.Parse(s.vault.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var broken atomic.Bool
	var reads atomic.Int32
	through := httputil.NewSingleHostReverseProxy(to)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/secret/data/") {
			reads.Add(1)
		}
		if broken.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		through.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	s.hcl = strings.ReplaceAll(s.hcl, s.vault.Addr, proxy.URL)
	n := s.start()
	n.done(t, "mail/sender")
	reads.Store(0)
	value := n.value(t, "mail/sender")
	if reads.Load() == 0 {
		t.Error("the vault was not asked while it was up")
	}
	n.stop()
	broken.Store(true)
	n = s.start()
	eventually(t, "the node to know", func() bool {
		_, body := s.get("GET", "/readyz", "")
		return strings.Contains(body, "a backend cannot be used")
	})
	reads.Store(0)
	if v := n.value(t, "mail/sender"); v.Fields["key"] != value.Fields["key"] || reads.Load() != 0 {
		t.Errorf("the same value: %v; the vault was asked %d times", v.Fields["key"] == value.Fields["key"], reads.Load())
	}
	if _, err := n.Value(t.Context(), "mail/sender", 9); client.Status(err) != http.StatusNotFound {
		t.Errorf("no such version: %v", err)
	}
}
