package daemon_test

import (
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// The example's program mints, tries and turns off keys; the end of one is proven.
func TestKeysOfAProgram(t *testing.T) {
	t.Parallel()
	python, err := osexec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("../../examples/issuers/exec/keystore.py")
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(t.TempDir(), "store")
	const token = "canary-keystore-token"
	if err := errors.Join(os.Mkdir(store, 0o700), os.WriteFile(filepath.Join(store, "admin-token"), []byte(token), 0o600)); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, example(t, "exec", "/usr/bin/python3", python, "/usr/local/lib/keybroker/keystore.py", script, "/var/lib/keystore", store,
		`schedule = "0 4 * * 1"`, "", `overlap  = "1h"`, `overlap = "1s"`, `window     = "5s"`, `window = "1s"`))
	s.env = map[string]string{"KEYSTORE_TOKEN": token}
	n := s.start()
	const secret = "app/keystore"
	n.done(t, secret)
	old := n.value(t, secret).Fields["key"]
	rot, retired := n.rotate(t, secret)
	proof := retired[rot.FromVersion]
	if rot.State != client.RotationDone || proof.State != client.ProvenDead || proof.Scope == nil || proof.Scope.Endpoint != fmt.Sprintf("what %s tries", python) {
		t.Fatalf("%+v\n%+v", rot, proof)
	}
	held, err := os.ReadFile(filepath.Join(store, "keys.json"))
	if err != nil || strings.Count(string(held), `"tag"`) != 1 {
		t.Errorf("the store holds %s, %v", held, err)
	}
	for _, text := range []string{token, old, n.value(t, secret).Fields["key"]} {
		if strings.Contains(s.log.String(), text) {
			t.Fatal("the log gives a secret away")
		}
	}
}
