package daemon_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/broker/store"
)

// onPostgres adds a database and a seal key that nodes share to a configuration.
func onPostgres(hcl, sealKey string) string {
	return hcl + fmt.Sprintf(`
storage "postgresql" {
  url = env("DATABASE_URL")
}
seal "file" {
  path = %q
}
`, sealKey)
}

// TestNodesThatStartTogether opens several nodes on a database without secrets at
// once: all of them agree on those to add, and one of them has the root token.
func TestNodesThatStartTogether(t *testing.T) {
	t.Parallel()
	url := postgresserver.Start(t).URL
	openStore(t, url) // else they would migrate it one after the other, and never meet
	hcl := withConsumer(embedded, nil)
	for i := range 30 {
		hcl += fmt.Sprintf("secret \"app/key%d\" {\n  backend = \"embedded\"\n  issuer \"internal\" {}\n  probe = \"internal\"\n}\n", i)
	}
	shared := filepath.Join(t.TempDir(), "seal.key")
	if _, err := seal.CreateFile(shared); err != nil {
		t.Fatal(err)
	}
	const count = 4
	sites := make([]*site, count)
	configs := make([]*config.Config, count)
	for i := range sites {
		sites[i] = newSite(t, onPostgres(hcl, shared))
		sites[i].env = map[string]string{"DATABASE_URL": url}
		configs[i] = sites[i].config()
	}
	var wg sync.WaitGroup
	for i := range sites {
		wg.Go(func() { openAndStop(t, configs[i]) })
	}
	wg.Wait()
	tokens := 0
	for _, s := range sites {
		if s.hasRootToken() {
			tokens++
		}
	}
	if tokens != 1 {
		t.Errorf("%d nodes have a root token, want 1", tokens)
	}
}

// TestLateNodeLeavesNoRootToken lets another node keep its root token after this
// one has seen that there is none yet.
func TestLateNodeLeavesNoRootToken(t *testing.T) {
	t.Parallel()
	url := postgresserver.Start(t).URL
	s := newSite(t, onPostgres(withConsumer(embedded, nil), filepath.Join(t.TempDir(), "seal.key")))
	s.env = map[string]string{"DATABASE_URL": url}
	cfg := s.config()
	var wg sync.WaitGroup
	err := openStore(t, url).Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.PutSettingIfAbsent(t.Context(), "root-token/issued", []byte("of another node"))
		wg.Go(func() { openAndStop(t, cfg) })
		eventually(t, "the file of a token that is not valid yet", s.hasRootToken)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	wg.Wait()
	if s.hasRootToken() {
		t.Error("it left the file of a token that is not valid")
	}
}

func openStore(t *testing.T, url string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{PostgresURL: backends.SecretString(url)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return db
}

// openAndStop opens a node and lets it stop before it serves.
func openAndStop(t *testing.T, cfg *config.Config) {
	n, err := daemon.Open(context.Background(), daemon.Options{Config: cfg, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Errorf("opening: %v", err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n.Run(ctx); err != nil {
		t.Errorf("stopping: %v", err)
	}
}

func (s *site) hasRootToken() bool {
	_, err := os.Stat(filepath.Join(s.dir, "data", daemon.RootTokenFile))
	return err == nil
}

// TestTwoNodesOnPostgreSQL runs two nodes on one database, with one seal key:
// either one takes requests and work, and a secret rotates once at a time.
func TestTwoNodesOnPostgreSQL(t *testing.T) {
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
