package daemon_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/client"
)

// TestTwoNodesOnPostgreSQL runs two nodes on one database, with one seal key:
// either one takes requests and work, and a secret rotates once at a time.
func TestTwoNodesOnPostgreSQL(t *testing.T) {
	url := postgresserver.Start(t).URL
	shared := filepath.Join(t.TempDir(), "seal.key")
	signing := newSigningSecret()
	c := newConsumer(t, signing)
	onPostgres := withConsumer(embedded, c) + fmt.Sprintf(`
storage "postgresql" {
  url = env("DATABASE_URL")
}
seal "file" {
  path = %q
}
`, shared)
	var nodes []*node
	var token string
	for range 2 {
		s := newSite(t, onPostgres)
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
