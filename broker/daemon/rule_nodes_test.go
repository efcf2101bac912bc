package daemon_test

import (
	"database/sql"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/client"
)

// TestRule07TwoNodesRotateASecretOnceAtATime runs two nodes on one database, with one seal key:
// either one takes requests and work, and a secret rotates once at a time.
func TestRule07TwoNodesRotateASecretOnceAtATime(t *testing.T) {
	t.Parallel()
	url := postgresserver.Start(t).URL
	shared := filepath.Join(t.TempDir(), "seal.key")
	signing := newSigningSecret()
	c := newConsumer(t, signing)
	hcl := onPostgres(withConsumer(embedded, c), shared)
	var nodes []*node
	var token string
	for range 2 {
		s := newSite(t, hcl)
		s.env = map[string]string{"DATABASE_URL": url, "SIGNING_SECRET": signing.Reveal()}
		s.token = token
		nodes = append(nodes, s.start())
		token = s.rootToken()
	}
	if rot, _ := nodes[0].rotate(t, "app/key"); rot.State != client.RotationDone {
		t.Fatalf("%s: %s", rot.State, rot.Error)
	}
	old := nodes[1].value(t, "app/key")

	var wg sync.WaitGroup
	var mu sync.Mutex
	var begun []string
	for _, n := range nodes {
		for range 5 {
			wg.Go(func() {
				r, err := n.Rotate(t.Context(), "app/key", client.RotateRequest{})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					begun = append(begun, r.ID)
				case client.Status(err) != 409:
					t.Errorf("rotating: %v", err)
				}
			})
		}
	}
	wg.Wait()
	if len(begun) != 1 {
		t.Fatalf("%d rotations began at once, want 1", len(begun))
	}
	rot, retirements := nodes[1].follow(t, begun[0])
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead {
		t.Fatalf("%s, %s: %s", rot.State, retirements[1].State, rot.Error)
	}
	for i, n := range nodes {
		if v := n.value(t, "app/key"); v.Version != 2 || v.Fields["key"] == old.Fields["key"] {
			t.Errorf("node %d gives version %d", i, v.Version)
		}
	}
	s, err := nodes[0].Secret(t.Context(), "app/key")
	if err != nil || len(s.Versions) != 2 || strings.Contains(stepsOf(rot), "retry") {
		t.Errorf("%d versions (%v), timeline %s", len(s.Versions), err, stepsOf(rot))
	}
}

// TestRule07APausedWorkerThatMintsLateRetiresItsCredential: a node stands still in
// its mint for longer than its lease, another one takes over, and then the first
// one goes on, as if nothing had happened.
func TestRule07APausedWorkerThatMintsLateRetiresItsCredential(t *testing.T) {
	t.Parallel()
	for name, heard := range map[string]bool{"and hears the answer": true, "and hears nothing, so that a sweep finds it": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lateMint(t, heard)
		})
	}
}

func lateMint(t *testing.T, heard bool) {
	url, shared := postgresserver.Start(t).URL, filepath.Join(t.TempDir(), "seal.key")
	one := newOperated(t)
	whole := onPostgres(one.hcl, shared)
	one.hcl, one.env["DATABASE_URL"] = whole, url
	api := one.front(one.api.URL)
	one.node = one.start()
	paused, wake := make(chan struct{}), make(chan struct{})
	goOn, pause := sync.OnceFunc(func() { close(wake) }), sync.OnceFunc(func() { close(paused) })
	t.Cleanup(goOn)
	api.do(func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if r.Method != http.MethodPost {
			pass.ServeHTTP(w, r)
			return
		}
		pause()
		<-wake
		if heard {
			pass.ServeHTTP(w, r)
			return
		}
		pass.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
	ctx := t.Context()
	id := must(one.Rotate(ctx, mailer, client.RotateRequest{}))(t).ID
	<-paused

	other := &operated{site: newSite(t, ""), api: one.api, app: one.app}
	other.hcl, other.env, other.token = strings.ReplaceAll(whole, one.site.addr, other.site.addr), one.env, one.rootToken()
	other.node = other.start()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	exec(t, db, `UPDATE rotations SET lease_until = 1, record = regexp_replace(record, '"lease":"[^"]*"', '"lease":"2000-01-01T00:00:00Z"')`)
	last := time.Time{}
	eventually(t, "the other node to take over", func() bool {
		if must(other.Secret(ctx, mailer))(t).Versions[0].Stage == client.StageRetired {
			return true
		}
		if time.Since(last) > 500*time.Millisecond { // the paused one takes some of the wake-ups
			last = time.Now()
			_, _ = other.Retry(ctx, id, client.InterventionRequest{})
		}
		return false
	})
	if rot, _ := other.follow(t, id); rot.State != client.RotationDone || rot.ToVersion != 2 {
		t.Fatalf("%s with version %d: %s", rot.State, rot.ToVersion, rot.Error)
	}
	live := one.api.Live()
	if len(live) != 1 {
		t.Fatalf("the API has %+v", live)
	}
	goOn()
	eventually(t, "the late mint", func() bool { return len(one.api.Secrets()) == 2 })
	eventually(t, "its end", func() bool { return len(one.api.Live()) == 1 })
	if now := one.api.Live(); now[0].ID != live[0].ID {
		t.Errorf("the API has %+v, want the key of the node that took over, %+v", now, live)
	}
	list := must(other.Orphans(ctx, client.OrphanQuery{Secret: mailer}))(t).Items
	if len(list) != 1 || list[0].Version != 1 || list[0].Handle["id"] == "" {
		t.Errorf("the orphans are %+v", list)
	}
	for i, n := range []*node{one.node, other.node} {
		if v := n.value(t, mailer); v.Version != 2 || !one.api.Works(v.Fields["key"]) {
			t.Errorf("node %d gives version %d, which works: %v", i, v.Version, one.api.Works(v.Fields["key"]))
		}
	}
}
