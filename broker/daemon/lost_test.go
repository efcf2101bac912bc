package daemon_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// Beginning anew beside the traces of an earlier life would forget credentials
// that are alive.
func TestALostDatabaseIsNotReplacedByANewOne(t *testing.T) {
	t.Parallel()
	s, n, _ := startEmbedded(t)
	n.rotate(t, "app/key")
	n.stop()
	for _, name := range []string{"keybroker.db", "keybroker.db-wal", "keybroker.db-shm"} {
		if err := os.RemoveAll(filepath.Join(s.dir, "data", name)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := daemon.Open(context.Background(), daemon.Options{Config: s.config(), Logger: hclog.NewNullLogger()})
	if err == nil || !strings.Contains(err.Error(), "restore it") {
		t.Fatalf("opening: %v", err)
	}
}

func TestAnotherRootToken(t *testing.T) {
	t.Parallel()
	s, n, _ := startEmbedded(t)
	old := s.rootToken()
	n.stop()
	if err := os.Remove(filepath.Join(s.dir, "data", daemon.RootTokenFile)); err != nil {
		t.Fatal(err)
	}
	s.newRoot = true
	n = s.start()
	if s.rootToken() == old {
		t.Fatal("the same token again")
	}
	if _, err := n.Tokens(t.Context(), client.Page{}); err != nil {
		t.Errorf("using the new one: %v", err)
	}
}
