package postgresserver_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
)

func TestEachCallGetsAFreshDatabase(t *testing.T) {
	ctx := t.Context()
	one, two := postgresserver.Start(t), postgresserver.Start(t)
	for _, s := range []*postgresserver.Server{one, two} {
		conn, err := pgx.Connect(ctx, s.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "CREATE TABLE mine (id int)"); err != nil {
			t.Errorf("in %s: %v", s.Database, err)
		}
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// The server must not outlive a test binary that is killed.
func TestServerGoesWithItsTestBinary(t *testing.T) {
	if os.Getenv("KEYBROKER_TEST_CHILD") != "" {
		fmt.Println("socket:" + postgresserver.Start(t).Socket)
		select {} // until killed
	}
	child := exec.Command(os.Args[0], "-test.run=^TestServerGoesWithItsTestBinary$")
	child.Env = append(os.Environ(), "KEYBROKER_TEST_CHILD=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		_, dir, _ = strings.Cut(lines.Text(), "socket:")
	}
	if _, err := os.Stat(dir); dir == "" || err != nil {
		t.Fatalf("the child has no server in %q: %v", dir, err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s is still there: the server outlived its test binary", dir)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestPasswordsOverTCP(t *testing.T) {
	s := postgresserver.StartTCP(t)
	role, password := s.Role(t, "app", "LOGIN")
	if err := s.Login(t.Context(), role, password); err != nil {
		t.Errorf("with its password: %v", err)
	}
	if err := s.Login(t.Context(), role, "another"); err == nil || !strings.Contains(err.Error(), "28P01") {
		t.Errorf("with another: %v", err)
	}
	conn, err := pgx.Connect(t.Context(), strings.Replace(s.TCPURL(role, password), "sslmode=disable", "sslmode=verify-full&sslrootcert="+s.CAFile, 1))
	if err != nil {
		t.Fatalf("over TLS: %v", err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := s.Texts(t, "SELECT rolname::text FROM pg_roles WHERE rolname = $1", role); len(got) != 1 {
		t.Errorf("the server has the roles %q", got)
	}
}
