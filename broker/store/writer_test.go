package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// crowd lets n updates come while one is under way, in the order of their
// numbers, and returns when all are done.
func crowd(t *testing.T, db *store.DB, n int, update func(i int)) {
	t.Helper()
	begun, end := make(chan struct{}), make(chan struct{})
	begin := sync.OnceFunc(func() { close(begun) }) // it may run again
	var all sync.WaitGroup
	all.Go(func() {
		err := db.Update(t.Context(), func(*store.Tx) error { begin(); <-end; return nil })
		if err != nil {
			t.Log("the one before them:", err)
		}
	})
	<-begun
	for i := range n {
		all.Go(func() { update(i) })
		for db.Waiting() <= i {
			runtime.Gosched()
		}
	}
	close(end)
	all.Wait()
}

// Those that are committed together are as alone as if each had its own commit:
// what fails, panics or is cancelled in between leaves nothing, and the others
// see each other's work in order.
func TestUpdatesAtTheSameTime(t *testing.T) {
	ctx := t.Context()
	db := open(t, sqliteConfig(t))
	db.WaitForGroups()
	s := addSecret(t, db, "a")
	first, before := read(t, db, func(tx *store.Tx) (int64, error) { return tx.LastChange(ctx) }), db.Stats()
	boom := errors.New("boom")
	gone, cancel := context.WithCancel(ctx)
	const each = 15
	records := make([]rotation.Secret, 4*each) // what each of them saved
	crowd(t, db, len(records), func(i int) {
		ctx, end := ctx, error(nil)
		switch i % 4 {
		case 1:
			end = boom
		case 2:
			ctx = gone
		case 3:
			defer func() {
				if recover() != any(boom) {
					t.Error("the panic was swallowed")
				}
			}()
		}
		err := db.Update(ctx, func(tx *store.Tx) (err error) {
			if i == 0 {
				cancel() // some wait for their turn
			}
			s, err := tx.Secret(ctx, s.ID)
			if err != nil {
				return err
			}
			s.Generation++
			records[i] = s
			err = errors.Join(tx.SaveSecret(ctx, &records[i]), tx.Enqueue(ctx, job(fmt.Sprint(i), time.Time{})),
				tx.AddAudit(ctx, rotation.AuditEvent{Action: fmt.Sprint(i)}))
			if i%4 == 3 {
				panic(boom)
			}
			return errors.Join(err, end)
		})
		switch i % 4 {
		case 2:
			end = context.Canceled
		case 3:
			t.Error("it returned")
		}
		if !errors.Is(err, end) {
			t.Errorf("update %d: %v, want %v", i, err, end)
		}
	})

	after := db.Stats()
	if n := after.Transactions - before.Transactions; n != each+1 {
		t.Errorf("%d transactions, want %d", n, each+1)
	}
	if after.Commits-before.Commits >= each {
		t.Errorf("%d commits for %d transactions", after.Commits-before.Commits, each+1)
	}
	got := read(t, db, func(tx *store.Tx) (rotation.Secret, error) { return tx.Secret(ctx, s.ID) })
	if got.Generation != each || got.Revision != each+1 {
		t.Errorf("generation %d, revision %d", got.Generation, got.Revision)
	}
	for i, r := range records {
		// What failed stands at the revision that it read, which is the one that
		// those before it had saved.
		if want := int64(i/4) + 2; i%4 != 2 && r.Revision != want {
			t.Errorf("record %d is at revision %d, want %d", i, r.Revision, want)
		}
	}
	changes := read(t, db, func(tx *store.Tx) ([]rotation.Change, error) { return tx.Changes(ctx, first, 0) })
	audit := read(t, db, func(tx *store.Tx) ([]store.AuditEntry, error) { return tx.AuditOutbox(ctx, "", 0) })
	var jobs []string
	view(t, db, func(tx *store.Tx) error {
		return tx.Strings(ctx, "SELECT args ->> 'id' FROM river_job ORDER BY id", func(id string) error { jobs = append(jobs, id); return nil })
	})
	if len(changes) != each || len(audit) != each || len(jobs) != each {
		t.Fatalf("%d changes, %d audit events, %d jobs, want %d each", len(changes), len(audit), len(jobs), each)
	}
	for i := range each {
		if id := fmt.Sprint(4 * i); changes[i].Seq != first+int64(i)+1 || changes[i].Generation != int64(i)+1 || audit[i].Event.Action != id || jobs[i] != id {
			t.Errorf("in place %d: %+v, audit event of %s, job of %s", i, changes[i], audit[i].Event.Action, jobs[i])
		}
	}
}

// Whoever waits for the turn stops waiting when its context ends.
func TestUpdateStopsWaiting(t *testing.T) {
	db := open(t, sqliteConfig(t))
	ctx, cancel := context.WithCancel(t.Context())
	update(t, db, func(*store.Tx) error {
		ended := make(chan error)
		go func() {
			ended <- db.Update(ctx, func(*store.Tx) error { t.Error("it ran"); return nil })
		}()
		for db.Waiting() == 0 {
			runtime.Gosched()
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) || !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		return nil
	})
	addSecret(t, db, "a") // the turn is not lost
}

// When the common commit fails nobody is told of success, and nothing is there.
func TestCommitFailsForAll(t *testing.T) {
	ctx := t.Context()
	db := open(t, sqliteConfig(t))
	db.WaitForGroups()
	const others = 8
	errs := make([]error, others)
	crowd(t, db, others, func(i int) {
		err := db.Update(ctx, func(tx *store.Tx) error {
			if i != others-1 {
				_, err := tx.PutSettingIfAbsent(ctx, fmt.Sprint(i), []byte("x"))
				return err
			}
			return errors.Join(tx.Exec(ctx, "PRAGMA defer_foreign_keys = 1"), // so that only the commit fails
				tx.Exec(ctx, "INSERT INTO fingerprints VALUES ('t', 'f', 'no such secret', 1, 'f')"))
		})
		errs[i] = err
	})
	if errs[others-1] == nil {
		t.Error("a broken constraint was committed")
	}
	for i, err := range errs[:others-1] {
		missing := db.View(ctx, func(tx *store.Tx) error { _, err := tx.Setting(ctx, fmt.Sprint(i)); return err })
		if there := missing == nil; there != (err == nil) {
			t.Errorf("update %d: %v, and its write is there: %v", i, err, there)
		}
	}
	addSecret(t, db, "a") // and it goes on
}

// A transaction that SQLite gives up takes those with it that were in it, too;
// they run again.
func TestTransactionGivenUp(t *testing.T) {
	ctx := t.Context()
	db := open(t, sqliteConfig(t))
	db.WaitForGroups()
	const others = 8
	crowd(t, db, others, func(i int) {
		err := db.Update(ctx, func(tx *store.Tx) error {
			if i == others/2 {
				return tx.Exec(ctx, "ROLLBACK") // as SQLite does when the disk is full
			}
			_, err := tx.PutSettingIfAbsent(ctx, fmt.Sprint(i), []byte("x"))
			return err
		})
		if (err != nil) != (i == others/2) {
			t.Errorf("update %d: %v", i, err)
		}
	})
	for i := range others {
		if i != others/2 {
			read(t, db, func(tx *store.Tx) ([]byte, error) { return tx.Setting(ctx, fmt.Sprint(i)) })
		}
	}
}

func TestUpdateAfterClose(t *testing.T) {
	forEachDB(t, func(t *testing.T, db *store.DB) {
		if err := db.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := db.Update(t.Context(), func(*store.Tx) error { return nil }); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}

// Statements are kept compiled: one may be run while its rows are read, and
// there may be more of them than are kept.
func TestStatementsKept(t *testing.T) {
	ctx := t.Context()
	db := open(t, sqliteConfig(t))
	addSecret(t, db, "a")
	addSecret(t, db, "b")
	for name, run := range map[string]func(context.Context, func(*store.Tx) error) error{"view": db.View, "update": db.Update} {
		err := run(ctx, func(tx *store.Tx) error {
			var pairs []string
			const query = "SELECT name FROM secrets ORDER BY name"
			err := tx.Strings(ctx, query, func(a string) error {
				return tx.Strings(ctx, query, func(b string) error { pairs = append(pairs, a+b); return nil })
			})
			if strings.Join(pairs, " ") != "aa ab ba bb" {
				t.Errorf("in a %s: %v", name, pairs)
			}
			for i := range 2 * store.MaxStatements {
				err = errors.Join(err, tx.Strings(ctx, fmt.Sprintf("SELECT 'x' || %d", i), func(got string) error {
					if got != fmt.Sprint("x", i) {
						return errors.New("another statement's row")
					}
					return nil
				}))
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// commitEnv makes a copy of the test binary write to the SQLite file that it names.
const commitEnv = "KEYBROKER_TEST_COMMIT"

// commitForEver is that copy: it tells of each write that it was told is committed.
func commitForEver(path string) {
	ctx := context.Background()
	db, err := store.Open(ctx, store.Config{SQLitePath: path})
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("%d.%d", w, i)
				err := db.Update(ctx, func(tx *store.Tx) error {
					_, err := tx.PutSettingIfAbsent(ctx, name, []byte(name))
					return err
				})
				if err != nil {
					fmt.Println("failed:", err)
				}
				_, _ = os.Stdout.WriteString(name + "\n")
			}
		}()
	}
	select {}
}

// Whatever somebody was told is committed survives that the process is killed.
func TestKilledAmongCommits(t *testing.T) {
	cfg := sqliteConfig(t)
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), commitEnv+"="+cfg.SQLitePath)
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	var told []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		told = append(told, lines.Text())
		if len(told) == 500 {
			if err := other.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = other.Wait() // killed
	if len(told) < 500 {
		t.Fatalf("it said %q", told)
	}
	view(t, open(t, cfg), func(tx *store.Tx) error {
		for i, name := range told {
			if _, err := tx.Setting(t.Context(), name); err != nil && (i < len(told)-1 || strings.Contains(name, "failed")) {
				t.Errorf("%s: %v", name, err)
			}
		}
		return nil
	})
}
