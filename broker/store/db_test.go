package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// holdEnv makes a copy of the test binary open the SQLite file that it names.
const holdEnv = "KEYBROKER_TEST_HOLD"

// hold is that copy: it says when it has the file, until it is killed.
func hold(path string) {
	if _, err := store.Open(context.Background(), store.Config{SQLitePath: path}); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println("open")
	select {}
}

func TestOneProcessOwnsTheFile(t *testing.T) {
	cfg := sqliteConfig(t)
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), holdEnv+"="+cfg.SQLitePath)
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "open\n" {
		t.Fatalf("the other process said %q", line)
	}

	_, err = store.Open(t.Context(), cfg)
	if !errors.Is(err, backends.ErrConflict) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(other.Process.Pid)) {
		t.Errorf("beside the other process: %v", err)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait() // killed
	db := open(t, cfg)
	if _, err := store.Open(t.Context(), cfg); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("twice in one process: %v", err)
	}
	if err := db.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFilesAreForTheOwnerOnly(t *testing.T) {
	cfg := sqliteConfig(t)
	db := open(t, cfg)
	addSecret(t, db, "a")
	entries, err := os.ReadDir(filepath.Dir(cfg.SQLitePath))
	if err != nil || len(entries) < 3 { // the database, its log, its lock
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestOpenAgainKeepsEverything(t *testing.T) {
	forEachConfig(t, func(t *testing.T, cfg store.Config) {
		db := open(t, cfg)
		want := addSecret(t, db, "a")
		for range 2 {
			if err := db.Close(t.Context()); err != nil { // closing twice is no error
				t.Fatal(err)
			}
		}
		got := read(t, open(t, cfg), func(tx *store.Tx) (rotation.Secret, error) { return tx.Secret(t.Context(), want.ID) })
		if got.Ref != want.Ref {
			t.Errorf("got %+v", got)
		}
	})
}

func TestNodesThatStartTogetherMigrateOnce(t *testing.T) {
	cfg := postgresConfig(t)
	const nodes = 4
	errs := make(chan error, nodes)
	for range nodes {
		go func() {
			db, err := store.Open(t.Context(), cfg)
			if err == nil {
				err = db.Close(t.Context())
			}
			errs <- err
		}()
	}
	for range nodes {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestOpenMistakes(t *testing.T) {
	const canary = "canary-pass%word"
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("this is no database, however long it may be"+strings.Repeat(" ", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	server := postgresserver.Start(t)
	for name, tt := range map[string]struct {
		cfg  store.Config
		want error
	}{
		"nothing":     {store.Config{}, backends.ErrInvalid},
		"both":        {store.Config{SQLitePath: file, PostgresURL: "x"}, backends.ErrInvalid},
		"directory":   {store.Config{SQLitePath: filepath.Join(file, "db")}, backends.ErrInvalid},
		"no database": {store.Config{SQLitePath: file}, backends.ErrUnavailable},
		"no url":      {store.Config{PostgresURL: canary}, backends.ErrInvalid},
		"bad port":    {store.Config{PostgresURL: "postgres://u:" + canary + "@h:port/db"}, backends.ErrInvalid},
		"bad keyword": {store.Config{PostgresURL: "user=u password='" + canary + " host=h"}, backends.ErrInvalid},
		"no server": {store.Config{PostgresURL: backends.SecretString("postgres://u:canary-password@" + closed.Addr().String() + "/db")},
			backends.ErrUnavailable},
		"no such database": {store.Config{PostgresURL: backends.SecretString(strings.Replace(server.URL, server.Database, "missing", 1))},
			backends.ErrUnavailable},
		"no such user": {store.Config{PostgresURL: backends.SecretString(strings.Replace(server.URL, "//postgres:", "//nobody:", 1))},
			backends.ErrDenied},
	} {
		_, err := store.Open(t.Context(), tt.cfg)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error shows the password", name)
		}
	}
}

func TestPostgresGoesAway(t *testing.T) {
	cfg := postgresConfig(t)
	cfg.Logger = nil
	db := open(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"update": db.Update(ctx, func(*store.Tx) error { return nil }),
		"view":   db.View(ctx, func(*store.Tx) error { return nil }),
		"check":  db.Check(ctx),
	} {
		if !errors.Is(err, backends.ErrUnavailable) || !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), postgresserver.Password) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the store writes comes from outside and may be secret; its errors must
// not repeat it.
func TestErrorsShowNoValue(t *testing.T) {
	const canary = "canary-value"
	forEachDB(t, func(t *testing.T, db *store.DB) {
		s := addSecret(t, db, "a")
		token := store.Token{ID: "tok_1", Hash: []byte(canary), CreatedAt: now}
		update(t, db, func(tx *store.Tx) error { return tx.AddToken(t.Context(), token) })
		version := rotation.Version{SecretID: s.ID, Stage: rotation.StageCurrent, Sealed: []byte(canary), Tag: "t1"}
		update(t, db, func(tx *store.Tx) error { return tx.AddVersion(t.Context(), &version) })
		for name, fn := range map[string]func(tx *store.Tx) error{
			"hash twice":     func(tx *store.Tx) error { token.ID = "tok_2"; return tx.AddToken(t.Context(), token) },
			"second current": func(tx *store.Tx) error { v := version; v.Tag = "t2"; return tx.AddVersion(t.Context(), &v) },
			"unknown hash":   func(tx *store.Tx) error { _, err := tx.TokenByHash(t.Context(), []byte(canary+"2")); return err },
			"no such secret": func(tx *store.Tx) error { return tx.AddVersion(t.Context(), &rotation.Version{Sealed: []byte(canary)}) },
			"malformed JSON": func(tx *store.Tx) error {
				s.Definition.Settings = []byte(canary)
				return tx.SaveSecret(t.Context(), &s)
			},
			"malformed cursor": func(tx *store.Tx) error {
				_, _, err := tx.Tokens(t.Context(), store.TokenFilter{}, store.Page{After: canary})
				return err
			},
		} {
			err := db.Update(t.Context(), fn)
			if backends.Class(err) == nil || strings.Contains(err.Error(), canary) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestUpdateRollsBack(t *testing.T) {
	boom := errors.New("boom")
	forEachDB(t, func(t *testing.T, db *store.DB) {
		s := addSecret(t, db, "a")
		before := read(t, db, func(tx *store.Tx) (int64, error) { return tx.LastChange(t.Context()) })
		write := func(tx *store.Tx) error {
			s.Generation++
			if err := tx.AddAudit(t.Context(), rotation.AuditEvent{Action: "test"}); err != nil {
				return err
			}
			return tx.SaveSecret(t.Context(), &s)
		}
		if err := db.Update(t.Context(), func(tx *store.Tx) error { return errors.Join(write(tx), boom) }); !errors.Is(err, boom) {
			t.Errorf("got %v", err)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_ = db.Update(t.Context(), func(tx *store.Tx) error {
				if err := write(tx); err != nil {
					t.Error(err)
				}
				panic(boom)
			})
		}()
		if s.Revision != 1 {
			t.Errorf("the record is at revision %d after rollbacks", s.Revision)
		}
		view(t, db, func(tx *store.Tx) error {
			got, err := tx.Secret(t.Context(), s.ID)
			if err != nil || got.Generation != 0 || got.Revision != 1 {
				t.Errorf("the row is %+v, %v", got, err)
			}
			if last, err := tx.LastChange(t.Context()); err != nil || last != before {
				t.Errorf("a change was published: %d, %v", last, err)
			}
			if entries, err := tx.AuditOutbox(t.Context(), "", 0); err != nil || len(entries) != 0 {
				t.Errorf("the outbox has %+v, %v", entries, err)
			}
			return nil
		})
		update(t, db, write) // and the same record can still be saved
	})
}

func TestUpdateRunsAgainAfterADeadlock(t *testing.T) {
	db := open(t, postgresConfig(t))
	a, b := addSecret(t, db, "a"), addSecret(t, db, "b")
	firstLocks := make(chan struct{}, 2)
	both := make(chan struct{})
	go func() { <-firstLocks; <-firstLocks; close(both) }()
	cross := func(first, second string) error {
		return db.Update(t.Context(), func(tx *store.Tx) error {
			if err := tx.AddTry(t.Context(), first, rotation.Try{}); err != nil { // locks the secret's row
				return err
			}
			select {
			case firstLocks <- struct{}{}:
			default:
			}
			<-both
			return tx.AddTry(t.Context(), second, rotation.Try{})
		})
	}
	errs := make(chan error, 2)
	go func() { errs <- cross(a.ID, b.ID) }()
	go func() { errs <- cross(b.ID, a.ID) }()
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestViewIsOneSnapshotAndReadsOnly(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		s := addSecret(t, db, "a")
		view(t, db, func(tx *store.Tx) error {
			if _, err := tx.Secret(t.Context(), s.ID); err != nil {
				return err
			}
			s.Generation = 7
			update(t, db, func(other *store.Tx) error { return other.SaveSecret(t.Context(), &s) })
			got, err := tx.Secret(t.Context(), s.ID)
			if err == nil && got.Generation != 0 {
				t.Errorf("the snapshot moved to generation %d", got.Generation)
			}
			return err
		})
		err := db.View(t.Context(), func(tx *store.Tx) error { return tx.SaveSecret(t.Context(), &s) })
		if err == nil {
			t.Error("a view wrote")
		}
	})
}

func TestCloseAndCheck(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		if err := db.Check(t.Context()); err != nil {
			t.Error(err)
		}
		if err := db.Close(t.Context()); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := db.Check(ctx); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("after closing: %v", err)
		}
		if err := db.Start(ctx, nil, store.StartOptions{}); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("starting after closing: %v", err)
		}
	})
}
