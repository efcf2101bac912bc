package postgresconn_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/rotation/postgresconn"
)

func server(t *testing.T, address, database string, private bool) *postgresconn.Server {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	number, _ := strconv.Atoi(port)
	cfg := postgresconn.Config{Host: host, Port: number, Database: database, SSLMode: "require", AllowPrivateNetwork: private}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := postgresconn.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A server's messages may quote what was sent to it, so that none of them is shown;
// its SQLSTATE gives the class.
func TestMessagesAreNotShown(t *testing.T) {
	pg := postgresserver.StartTCP(t)
	role, password := pg.Role(t, "app", "LOGIN")
	conn, _, err := server(t, pg.Address, pg.Database, true).Connect(t.Context(), postgresconn.Login{User: role, Password: backends.SecretString(password)})
	if err != nil {
		t.Fatal(err)
	}
	defer postgresconn.Close(context.Background(), conn)
	for code, class := range map[string]error{
		"22023": backends.ErrInvalid, "42501": backends.ErrDenied, "42704": backends.ErrInvalid, "53300": backends.ErrUnavailable,
		"57P01": backends.ErrUnavailable, "25006": backends.ErrUnavailable, "P0001": backends.ErrUnavailable, "XX000": backends.ErrUnavailable,
	} {
		_, err := conn.Exec(t.Context(), fmt.Sprintf("DO $$ BEGIN RAISE EXCEPTION 'canary-message' USING ERRCODE = '%s', DETAIL = 'canary-detail', HINT = 'canary-hint'; END $$", code))
		explained := postgresconn.Explain(err)
		text := fmt.Sprintf("%v %+v %#v", explained, explained, explained)
		if !errors.Is(explained, class) || postgresconn.Code(explained) != code || strings.Contains(text, "canary") || !strings.Contains(text, code) {
			t.Errorf("%s: %s", code, strings.ReplaceAll(text, "canary", "(CANARY)"))
		}
		if again := postgresconn.Explain(fmt.Errorf("again: %w", explained)); !errors.Is(again, class) || postgresconn.Code(again) != code {
			t.Errorf("explained twice: %v", again)
		}
	}
}

// Private addresses take a word in the block, and nothing is sent without it.
func TestGuard(t *testing.T) {
	pg := postgresserver.StartTCP(t)
	gate := postgresserver.NewGate(t, pg.Address)
	_, address, err := server(t, gate.Address, pg.Database, false).Connect(t.Context(), postgresconn.Login{User: "app", Password: "canary"})
	if !errors.Is(err, backends.ErrDenied) || !strings.Contains(err.Error(), "allow_private_network") || address != "" || gate.Seen().Connections != 0 {
		t.Errorf("%v, %d connections", err, gate.Seen().Connections)
	}
}

// A ca_file that is none is said to be so.
func TestCAFile(t *testing.T) {
	for _, path := range []string{"/no/such/file", "postgresconn_test.go"} {
		cfg := postgresconn.Config{Host: "db.example.com", Database: "orders", CAFile: path}
		if _, err := postgresconn.New(cfg); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "ca_file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// RFC 4013's own examples, and a password that it does not take.
func TestPrepared(t *testing.T) {
	for given, want := range map[string]string{
		"plain ASCII, ' and \\": "plain ASCII, ' and \\", "I\u00adX": "IX", "\u00aa": "a", "\u2168": "IX", "a\u00a0b": "a b", "bell\a": "bell\a",
	} {
		if got := postgresconn.Prepared(given); got != want {
			t.Errorf("%q becomes %q, want %q", given, got, want)
		}
	}
}

// TestOneServer: its databases share their roles, and a name has several spellings.
func TestOneServer(t *testing.T) {
	one := postgresconn.Config{Host: "db.example.com", Database: "orders"}.Server()
	if one != "db.example.com:5432" || (postgresconn.Config{Host: "DB.example.com.", Port: 5432, Database: "mail"}).Server() != one {
		t.Errorf("one server is %q", one)
	}
	if other := (postgresconn.Config{Host: "db.example.com", Port: 5433}).Server(); other == one {
		t.Errorf("%q is taken for another one", other)
	}
	if a, b := (postgresconn.Config{Host: "::1"}).Server(), (postgresconn.Config{Host: "0:0::1"}).Server(); a != b {
		t.Errorf("%q is told from %q", a, b)
	}
}
