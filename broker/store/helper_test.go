package store_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/postgresserver"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

func TestMain(m *testing.M) {
	if os.Getenv(holdEnv) != "" {
		hold(os.Getenv(holdEnv))
	}
	if os.Getenv(commitEnv) != "" {
		commitForEver(os.Getenv(commitEnv))
	}
	goleak.VerifyTestMain(m)
}

// forEachDB runs fn on a fresh SQLite file and on a fresh PostgreSQL database.
func forEachDB(t *testing.T, fn func(t *testing.T, db *store.DB)) {
	t.Helper()
	forEachConfig(t, func(t *testing.T, cfg store.Config) { fn(t, open(t, cfg)) })
}

func forEachConfig(t *testing.T, fn func(t *testing.T, cfg store.Config)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { fn(t, sqliteConfig(t)) })
	t.Run("postgresql", func(t *testing.T) { fn(t, postgresConfig(t)) })
}

// sqliteConfig gives each test a copy of one migrated file: SQLite without cgo
// takes a second for the migrations under the race detector.
func sqliteConfig(t *testing.T) store.Config {
	t.Helper()
	cfg := store.Config{SQLitePath: filepath.Join(t.TempDir(), "data dir", "key?broker%.db"), Logger: logger(t)}
	migrated.once.Do(func() { migrated.file, migrated.err = migrate(t.Context(), cfg.SQLitePath) })
	if migrated.err != nil {
		t.Fatal(migrated.err)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.SQLitePath), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.SQLitePath, migrated.file, 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg
}

var migrated struct {
	once sync.Once
	file []byte
	err  error
}

func migrate(ctx context.Context, path string) ([]byte, error) {
	db, err := store.Open(ctx, store.Config{SQLitePath: path})
	if err != nil {
		return nil, err
	}
	if err := db.Close(ctx); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

func postgresConfig(t *testing.T) store.Config {
	return store.Config{PostgresURL: backends.SecretString(postgresserver.Start(t).URL), Logger: logger(t)}
}

// logger fails the test on what is worth a warning.
func logger(t *testing.T) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: failing{t}})
}

type failing struct{ t *testing.T }

func (f failing) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("error unlistening on topic")) && bytes.Contains(line, []byte("conn closed")) {
		return len(line), nil // River, when it is stopped while it starts: it has closed that connection itself
	}
	f.t.Errorf("logged: %s", line)
	return len(line), nil
}

func open(t *testing.T, cfg store.Config) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := db.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return db
}

func update(t *testing.T, db *store.DB, fn func(*store.Tx) error) {
	t.Helper()
	if err := db.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func view(t *testing.T, db *store.DB, fn func(*store.Tx) error) {
	t.Helper()
	if err := db.View(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// read returns what one query finds in a transaction of its own.
func read[T any](t *testing.T, db *store.DB, query func(*store.Tx) (T, error)) (got T) {
	t.Helper()
	view(t, db, func(tx *store.Tx) (err error) {
		got, err = query(tx)
		return err
	})
	return got
}

// now is a fixed time with all digits that are kept, in another zone than UTC.
var now = time.Date(2031, 3, 9, 1, 59, 58, 123456000, time.FixedZone("away", -5*3600))

var ids atomic.Int64

func newID(kind string) string { return fmt.Sprintf("%s_%06d", kind, ids.Add(1)) }

// addSecret inserts a secret named name.
func addSecret(t *testing.T, db *store.DB, name string) rotation.Secret {
	t.Helper()
	s := rotation.Secret{
		ID: newID("sec"), Ref: backends.Ref{Tenant: backends.DefaultTenant, Name: name},
		Origin: rotation.OriginConfig, State: rotation.SecretActive,
		Definition: rotation.Definition{
			Backend: "embedded", Issuer: "keys", Settings: []byte(`{"plan":"small"}`), Probe: "check",
			Consumers: []string{"web"}, Labels: map[string]string{"team": "payments"}, Schedule: "@hourly",
			Plan: rotation.Plan{Overlap: time.Hour},
		},
		NextDueAt: now.Add(time.Hour), CreatedAt: now, UpdatedAt: now,
	}
	update(t, db, func(tx *store.Tx) error { return tx.AddSecret(t.Context(), &s) })
	return s
}

func newRotation(s rotation.Secret) rotation.Rotation {
	return rotation.Rotation{
		ID: newID("rot"), SecretID: s.ID, Trigger: rotation.TriggerManual, Reason: "because", Actor: "tests",
		State: rotation.Queued, CreatedAt: now, NextAt: now,
	}
}

func addRotation(t *testing.T, db *store.DB, s rotation.Secret) rotation.Rotation {
	t.Helper()
	r := newRotation(s)
	update(t, db, func(tx *store.Tx) error { return tx.AddRotation(t.Context(), &r) })
	return r
}

func newRetirement(s rotation.Secret, version int) rotation.Retirement {
	return rotation.Retirement{
		ID: newID("ret"), SecretID: s.ID, Version: version, Cause: rotation.CauseRotated, State: rotation.Requested,
		RequestedAt: now, NextAt: now, Confirm: rotation.Confirm{Rejections: 3, Recheck: []time.Duration{time.Hour}},
	}
}

func newDelivery(s rotation.Secret, consumer string, generation int64) rotation.Delivery {
	return rotation.Delivery{
		ID: newID("del"), SecretID: s.ID, Ref: s.Ref, Consumer: consumer, Version: int(generation), Generation: generation,
		Event: rotation.EventRotated, Trigger: rotation.TriggerSchedule, CreatedAt: now, NextAttemptAt: now,
	}
}

// pages reads a list to its end in pages of limit.
func pages(t *testing.T, db *store.DB, limit int, list func(*store.Tx, store.Page) (n int, next string, err error)) {
	t.Helper()
	p := store.Page{Limit: limit}
	for {
		view(t, db, func(tx *store.Tx) error {
			n, next, err := list(tx, p)
			if n > limit || n < limit && next != "" {
				t.Errorf("a page of %d items, limit %d, next %q", n, limit, next)
			}
			p.After = next
			return err
		})
		if p.After == "" {
			return
		}
	}
}
