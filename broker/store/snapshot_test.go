package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// snapshot writes a snapshot of db.
func snapshot(t *testing.T, db *store.DB) (store.Header, []byte) {
	t.Helper()
	s, err := db.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	n, err := s.WriteTo(&b)
	if err != nil || n != s.Length() || int64(b.Len()) != n {
		t.Fatalf("wrote %d bytes of %d, told %d: %v", b.Len(), s.Length(), n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return s.Header, b.Bytes()
}

// aPath is that of a database which is not there yet.
func aPath(t *testing.T) string { return filepath.Join(t.TempDir(), "data dir", "key?broker%.db") }

func restoreTo(t *testing.T, path string, from []byte, replace bool) (store.Put, error) {
	t.Helper()
	return store.Restore{Path: path, Replace: replace, Logger: logger(t), Check: unchecked}.Run(t.Context(), bytes.NewReader(from))
}

func unchecked(context.Context, *store.DB) error { return nil }

// filesOf lists what is in the directory of a database.
func filesOf(t *testing.T, path string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A snapshot is taken of a store that is being written to: it has all that was
// committed before, and of what is committed meanwhile each transaction wholly or not.
func TestSnapshotOfABusyStore(t *testing.T) {
	cfg := sqliteConfig(t)
	db := open(t, cfg)
	for i := range 50 {
		addSecret(t, db, fmt.Sprintf("before/%d", i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	written := make(chan struct{}, 1)
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				err := db.Update(t.Context(), func(tx *store.Tx) error {
					for _, twin := range []string{"left", "right"} {
						if _, err := tx.PutSettingIfAbsent(t.Context(), fmt.Sprintf("%s/%d/%d", twin, w, i), []byte(strings.Repeat("x", 2000))); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Errorf("writing meanwhile: %v", err)
					return
				}
				select {
				case written <- struct{}{}:
				default:
				}
			}
		})
	}
	<-written
	h, file := snapshot(t, db)
	<-written // nobody was kept from writing
	cancel()
	writers.Wait()

	path := aPath(t)
	put, err := restoreTo(t, path, file, false)
	if err != nil {
		t.Fatal(err)
	}
	if put.Snapshot.ID != h.ID || !put.Snapshot.At.Equal(h.At) || put.KeptAs != "" {
		t.Errorf("restored %+v, want %+v", put, h)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	copied := open(t, store.Config{SQLitePath: path, Logger: logger(t)})
	view(t, copied, func(tx *store.Tx) error {
		mark, err := tx.Restored(t.Context())
		if err != nil || mark.Snapshot != h.ID || !mark.TakenAt.Equal(h.At) || !mark.RestoredAt.Equal(put.RestoredAt) || mark.Begun {
			t.Errorf("the mark is %+v (%v)", mark, err)
		}
		found, _, err := tx.Secrets(t.Context(), store.SecretFilter{Prefix: "before/"}, store.Page{Limit: 100})
		if len(found) != 50 {
			t.Errorf("%d secrets", len(found))
		}
		twins := 0
		for w := range 4 {
			for i := 0; ; i++ {
				_, left := tx.Setting(t.Context(), fmt.Sprintf("left/%d/%d", w, i))
				_, right := tx.Setting(t.Context(), fmt.Sprintf("right/%d/%d", w, i))
				if (left == nil) != (right == nil) {
					t.Errorf("half of a transaction: %v, %v", left, right)
				}
				if left != nil {
					break
				}
				twins++
			}
		}
		if twins == 0 {
			t.Error("nothing was written before the snapshot")
		}
		return err
	})
	for _, name := range filesOf(t, cfg.SQLitePath) {
		if strings.Contains(name, ".snapshot") {
			t.Errorf("%s was left", name)
		}
	}
}

func TestSnapshotsOfPostgreSQLAreItsOwnToolsWork(t *testing.T) {
	_, err := open(t, postgresConfig(t)).Snapshot(t.Context())
	if !errors.Is(err, backends.ErrUnsupported) || !strings.Contains(err.Error(), "pg_dump") {
		t.Errorf("%v", err)
	}
}

// Whatever is wrong with a snapshot, nothing is put in place and nothing is left.
func TestSnapshotsThatAreNotWholeAreRefused(t *testing.T) {
	db := open(t, sqliteConfig(t))
	addSecret(t, db, "app/key")
	_, file := snapshot(t, db)
	head := bytes.IndexByte(file, '\n') + 1
	head += bytes.IndexByte(file[head:], '\n') + 1
	flipped := func(at int) []byte {
		b := bytes.Clone(file)
		b[at] ^= 1
		return b
	}
	newer := bytes.Replace(file, []byte(`"schema":`), []byte(`"schema":9`), 1)
	for name, test := range map[string]struct {
		from []byte
		says string
	}{
		"empty":             {nil, "no snapshot"},
		"something else":    {[]byte(strings.Repeat("nonsense ", 1000)), "no snapshot"},
		"cut in its name":   {file[:10], "no snapshot"},
		"cut in its header": {file[:head-3], "within its header"},
		"no database":       {file[:head], "cut off"},
		"half of it":        {file[:len(file)/2], "cut off"},
		"no digest":         {file[:len(file)-32], "cut off"},
		"half a digest":     {file[:len(file)-1], "cut off"},
		"too long":          {append(bytes.Clone(file), 'x'), "after the end"},
		"damaged header":    {flipped(head - 20), "damaged"},
		"damaged":           {flipped(len(file) / 2), "damaged"},
		"damaged digest":    {flipped(len(file) - 1), "damaged"},
		"another header":    {newer, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			path := aPath(t)
			_, err := restoreTo(t, path, test.from, false)
			if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want it to say %q", err, test.says)
			}
			if left := filesOf(t, path); len(left) > 1 { // the lock
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestASnapshotOfANewerSchemaIsRefused(t *testing.T) {
	db := open(t, sqliteConfig(t))
	_, file := snapshot(t, db)
	file = store.Resigned(file, `"schema":`, `"schema":9`)
	_, err := restoreTo(t, aPath(t), file, false)
	if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), "newer") {
		t.Errorf("%v", err)
	}
}

func TestRestoreOverADatabaseKeepsItAside(t *testing.T) {
	cfg := sqliteConfig(t)
	db := open(t, cfg)
	addSecret(t, db, "app/old")
	_, file := snapshot(t, db)
	addSecret(t, db, "app/new")

	if _, err := restoreTo(t, cfg.SQLitePath, file, true); !errors.Is(err, backends.ErrConflict) || !strings.Contains(err.Error(), "open") {
		t.Errorf("while a process has it open: %v", err)
	}
	killed := aPath(t)
	copyKilled(t, cfg.SQLitePath, killed)
	before := filesOf(t, killed)
	if _, err := restoreTo(t, killed, file, false); !errors.Is(err, backends.ErrConflict) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("over a database: %v", err)
	}
	refusal := errors.New("not with this seal")
	_, err := store.Restore{Path: killed, Replace: true, Logger: logger(t), Check: func(context.Context, *store.DB) error { return refusal }}.Run(t.Context(), bytes.NewReader(file))
	if !errors.Is(err, refusal) {
		t.Errorf("checking: %v", err)
	}
	if after := filesOf(t, killed); len(after) != len(before)+1 { // the lock
		t.Errorf("a refused restore left %v, before it was %v", after, before)
	}
	put, err := restoreTo(t, killed, file, true)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{killed: 1, put.KeptAs: 2} {
		there := open(t, store.Config{SQLitePath: path, Logger: logger(t)})
		view(t, there, func(tx *store.Tx) error {
			found, _, err := tx.Secrets(t.Context(), store.SecretFilter{}, store.Page{})
			if len(found) != want {
				t.Errorf("%s has %d secrets, want %d", path, len(found), want)
			}
			return err
		})
	}
}

// A restore that was cut off at any of its steps leaves what was there, or what nobody
// can open before it is done again.
func TestARestoreThatWasCutOffIsDoneAgain(t *testing.T) {
	cfg := sqliteConfig(t)
	db := open(t, cfg)
	addSecret(t, db, "app/key")
	_, file := snapshot(t, db)
	if err := db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, there := range []bool{true, false} { // the old database was moved aside or not
		t.Run(fmt.Sprint(there), func(t *testing.T) {
			path := aPath(t)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			left := map[string]string{path + ".restoring": "a whole copy", path + ".unpacking": "a part of one"}
			if there {
				left[path] = "the old one"
			}
			for name, content := range left {
				if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := store.Open(t.Context(), store.Config{SQLitePath: path}); !errors.Is(err, backends.ErrConflict) || !strings.Contains(err.Error(), "storage restore") {
				t.Errorf("opening: %v", err)
			}
			if _, err := restoreTo(t, path, file, true); err != nil {
				t.Fatal(err)
			}
			view(t, open(t, store.Config{SQLitePath: path, Logger: logger(t)}), func(tx *store.Tx) error {
				_, err := tx.SecretByRef(t.Context(), backends.Ref{Tenant: backends.DefaultTenant, Name: "app/key"})
				return err
			})
		})
	}
}

// What a process left that was killed, and a restore that was cut off after it had moved
// one of its files aside, is kept together.
func TestARestoreThatWasCutOffKeepsTheOldStateTogether(t *testing.T) {
	cfg := sqliteConfig(t)
	db := open(t, cfg)
	addSecret(t, db, "app/old")
	_, file := snapshot(t, db)
	addSecret(t, db, "app/new")
	killed := aPath(t)
	copyKilled(t, cfg.SQLitePath, killed)
	at := now
	restore := func() (store.Put, error) {
		at = at.Add(time.Minute)
		return store.Restore{Path: killed, Replace: true, Logger: logger(t), Check: unchecked, Now: func() time.Time { return at }}.Run(t.Context(), bytes.NewReader(file))
	}
	// The log cannot be moved: something is in its way.
	inTheWay := killed + ".before-" + now.Add(time.Minute).UTC().Format("20060102T150405.000000Z") + "-wal"
	if err := os.MkdirAll(filepath.Join(inTheWay, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if put, err := restore(); err == nil {
		t.Fatalf("put in place: %+v", put)
	}
	if _, err := store.Open(t.Context(), store.Config{SQLitePath: killed}); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("half of a restore can be opened: %v", err)
	}
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	put, err := restore()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{killed: 1, put.KeptAs: 2} {
		if got := secretsIn(t, path); got != want {
			t.Errorf("%q has %d secrets, want %d", path, got, want)
		}
	}
	if put, err = restore(); err != nil || secretsIn(t, put.KeptAs) != 1 { // the next one begins anew
		t.Errorf("%+v: %v", put, err)
	}
}

// copyKilled copies what a killed process would leave of an open database: the newest
// commits are only in the log beside it.
func copyKilled(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, side := range []string{"", "-wal"} {
		b, err := os.ReadFile(from + side)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+side, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func secretsIn(t *testing.T, path string) (n int) {
	t.Helper()
	if path == "" {
		return 0
	}
	db, err := store.Open(t.Context(), store.Config{SQLitePath: path, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	view(t, db, func(tx *store.Tx) error {
		found, _, err := tx.Secrets(t.Context(), store.SecretFilter{}, store.Page{})
		n = len(found)
		return err
	})
	if err := db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// Copies are made one after the other: each takes as much room as the data.
func TestOneSnapshotAtATime(t *testing.T) {
	db := open(t, sqliteConfig(t))
	first, err := db.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Snapshot(t.Context()); !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "another snapshot") {
		t.Errorf("while one is being written: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := db.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Close() // once more, which lets nobody in
	if _, err := db.Snapshot(t.Context()); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("beside the second: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Snapshot(ctx); err == nil {
		t.Error("a snapshot that nobody waits for was made")
	}
	snapshot(t, db) // that one keeps nobody out
}

// The mark tells the number of the newest event that the snapshot has, and keeps what
// an earlier restore has left.
func TestTheMarkOfARestore(t *testing.T) {
	ctx := t.Context()
	db := open(t, sqliteConfig(t))
	was := store.Restored{Snapshot: "s0", TakenAt: now.Add(-2 * time.Hour).UTC(), RestoredAt: now.Add(-time.Hour).UTC(), Since: now.Add(-3 * time.Hour).UTC(), Begun: true, Recalled: true, Frozen: "by a: b",
		OutOfStep: []store.OutOfStep{{Ref: backends.Ref{Tenant: "default", Name: "a"}, Version: 3, Kind: store.Replaced, Detail: "d"}}}
	update(t, db, func(tx *store.Tx) error {
		return errors.Join(tx.AddAudit(ctx, rotation.AuditEvent{Action: "a"}), tx.AddAudit(ctx, rotation.AuditEvent{Action: "b"}), tx.SetRestored(ctx, &was))
	})
	h, file := snapshot(t, db)
	path := aPath(t)
	put, err := store.Restore{Path: path, Logger: logger(t), Check: func(ctx context.Context, db *store.DB) error {
		return db.Update(ctx, func(tx *store.Tx) error { return tx.AddAudit(ctx, rotation.AuditEvent{Action: "of the check"}) })
	}}.Run(ctx, bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, open(t, store.Config{SQLitePath: path, Logger: logger(t)}), func(tx *store.Tx) (store.Restored, error) { return tx.Restored(ctx) })
	if want := (store.Restored{Snapshot: h.ID, TakenAt: h.At, RestoredAt: put.RestoredAt, Since: was.Since, AuditSeq: 2, Frozen: was.Frozen, OutOfStep: was.OutOfStep}); !reflect.DeepEqual(got, want) {
		t.Errorf("the mark is\n%+v, want\n%+v", got, want)
	}
}

// broken fails after a number of bytes.
type broken struct{ after int }

func (b *broken) Write(p []byte) (int, error) {
	if b.after -= len(p); b.after < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestASnapshotThatCannotBeWrittenSaysSo(t *testing.T) {
	db := open(t, sqliteConfig(t))
	for _, after := range []int{0, 100, 50_000} {
		s, err := db.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.WriteTo(&broken{after}); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("after %d bytes: %v", after, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := db.Snapshot(ctx); err == nil {
		t.Error("a snapshot that nobody waits for was made")
	}
}

func TestRaiseNumbers(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := addSecret(t, db, "a")
		d := newDelivery(s, "web", 1)
		update(t, db, func(tx *store.Tx) error {
			return errors.Join(tx.AddDelivery(ctx, &d), tx.RaiseNumbers(ctx, 1000), tx.DropDeliveries(ctx))
		})
		got := read(t, db, func(tx *store.Tx) (backends.Ref, error) {
			is, err := tx.Secret(ctx, s.ID)
			if is.Generation != s.Generation+1000 || is.LastVersion != 1000 || is.Revision != s.Revision+1 {
				t.Errorf("%+v", is)
			}
			drop, err2 := tx.Delivery(ctx, d.ID)
			if drop.State != "superseded" || !drop.NextAttemptAt.IsZero() || drop.Revision != d.Revision+1 {
				t.Errorf("%+v", drop)
			}
			return is.Ref, errors.Join(err, err2)
		})
		if got != s.Ref {
			t.Errorf("%s", got)
		}
	})
}
