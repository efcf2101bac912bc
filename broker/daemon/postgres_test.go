package daemon_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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

// TestAFreezeIsOfAllNodes freezes at one node and ends it at another, on PostgreSQL.
func TestAFreezeIsOfAllNodes(t *testing.T) {
	t.Parallel()
	url := postgresserver.Start(t).URL
	hcl := onPostgres(withConsumer(embedded, nil), filepath.Join(t.TempDir(), "seal.key"))
	var nodes []*node
	var token string
	for range 2 {
		s := newSite(t, hcl)
		s.env, s.token = map[string]string{"DATABASE_URL": url}, token
		nodes = append(nodes, s.start())
		token = s.rootToken()
	}
	ctx, why := t.Context(), client.InterventionRequest{Reason: "test"}
	must(nodes[0].Freeze(ctx, client.InterventionRequest{Reason: "x", DryRun: true}))(t)
	if f := must(nodes[1].Frozen(ctx))(t); f.Frozen {
		t.Fatal("a dry run froze everything")
	}
	must(nodes[0].Freeze(ctx, why))(t)
	r := must(nodes[1].Rotate(ctx, "app/key", client.RotateRequest{}))(t)
	eventually(t, "it to wait for the freeze", func() bool { return must(nodes[0].Rotation(ctx, r.ID))(t).WaitingFor == "freeze" })
	dry := must(nodes[0].Cancel(ctx, r.ID, client.InterventionRequest{DryRun: true}))(t)
	if now := must(nodes[1].Rotation(ctx, r.ID))(t); now.State != client.RotationQueued || dry.Rotation.State != client.RotationCancelled {
		t.Errorf("after a dry run it is %s; it would be %s", now.State, dry.Rotation.State)
	}
	must(nodes[1].Unfreeze(ctx, why))(t)
	if rot, _ := nodes[0].follow(t, r.ID); rot.State != client.RotationDone {
		t.Errorf("%s: %s", rot.State, rot.Error)
	}
}
