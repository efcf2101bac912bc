package backends_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// outage is a vault that is down while down is set, and counts what reaches it.
type outage struct {
	driver
	down          atomic.Bool
	reads, checks atomic.Int32
}

func newOutage() *outage {
	o := &outage{}
	o.read = func(context.Context) (backends.Value, backends.VersionID, error) {
		o.reads.Add(1)
		if o.down.Load() {
			return backends.Value{}, "", unavailable()
		}
		return keyed("1"), "1", nil
	}
	o.check = func(context.Context) error {
		o.checks.Add(1)
		if o.down.Load() {
			return unavailable()
		}
		return nil
	}
	return o
}

// watcher notes what an Observer is told.
type watcher struct {
	mu   sync.Mutex
	told []string
}

func (w *watcher) Called(backend, operation string, class error, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, fmt.Sprintf("%s %s %v %s", backend, operation, class, took))
}

func (w *watcher) Breaker(backend string, open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, fmt.Sprintf("%s open %t", backend, open))
}

func read(t *testing.T, m *backends.Mount) error {
	_, _, err := m.Read(t.Context(), stripe, "")
	return err
}

// A vault that is down costs the first caller its patience; the others none.
func TestDeadVaultIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, w := newOutage(), &watcher{}
		m := backends.NewMount("prod", o, backends.Options{Observer: w})
		o.down.Store(true)
		if err := read(t, m); !errors.Is(err, backends.ErrUnavailable) {
			t.Fatal(err)
		}
		reads, opened := o.reads.Load(), time.Now()
		if err := read(t, m); !errors.Is(err, backends.ErrUnavailable) || o.checks.Load() != 1 || o.reads.Load() != reads {
			t.Fatalf("the vault was asked %d times more, checked %d times: %v", o.reads.Load()-reads, o.checks.Load(), err)
		}
		for range 100 {
			err := read(t, m)
			want := fmt.Sprintf("backend prod: reading payments/stripe: unavailable: it has not answered since %s and is asked again at %s",
				opened.UTC().Format(time.RFC3339), opened.Add(3*time.Second).UTC().Format(time.RFC3339))
			if !errors.Is(err, backends.ErrUnavailable) || err.Error() != want {
				t.Fatalf("got %v\nwant %s", err, want)
			}
			if wait, ok := backends.RetryAfter(err); !ok || wait != 3*time.Second {
				t.Fatalf("to be asked again after %s, %t", wait, ok)
			}
		}
		if time.Since(opened) != 0 || o.reads.Load() != reads || o.checks.Load() != 1 {
			t.Errorf("100 calls took %s, %d reads and %d checks", time.Since(opened), o.reads.Load()-reads, o.checks.Load())
		}

		time.Sleep(3 * time.Second) // its clock is the bubble's
		if err := read(t, m); !errors.Is(err, backends.ErrUnavailable) || o.checks.Load() != 2 || o.reads.Load() != reads {
			t.Errorf("the trial: %d checks, %d reads, %v", o.checks.Load(), o.reads.Load()-reads, err)
		}
		o.down.Store(false)
		if err := read(t, m); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("the vault was asked before its time: %v", err)
		}
		time.Sleep(3 * time.Second)
		if err := read(t, m); err != nil || o.reads.Load() != reads+1 {
			t.Errorf("the vault is back: %d reads, %v", o.reads.Load()-reads, err)
		}
		var states []string
		for _, told := range w.told {
			if strings.Contains(told, "open") {
				states = append(states, told)
			}
		}
		if got, want := strings.Join(states, ", "), "prod open true, prod open false"; got != want {
			t.Errorf("the observer was told %s, want %s", got, want)
		}
	})
}

// A vault that does not even refuse costs the first caller its time, the second that
// of a check.
func TestHangingVaultIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage()
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		o.check = hang
		o.read = func(ctx context.Context) (backends.Value, backends.VersionID, error) {
			return backends.Value{}, "", hang(ctx)
		}
		m := backends.NewMount("prod", o, backends.Options{})
		for _, want := range []time.Duration{backends.DefaultTimeout, 3 * time.Second, 0, 0} {
			began := time.Now()
			if err := read(t, m); !errors.Is(err, backends.ErrUnavailable) || time.Since(began) != want {
				t.Errorf("after %s, want %s: %v", time.Since(began), want, err)
			}
		}
	})
}

func TestCheckAlwaysAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage()
		m := backends.NewMount("prod", o, backends.Options{})
		o.down.Store(true)
		for range 2 {
			_ = read(t, m) // opens
		}
		checks := o.checks.Load()
		if err := m.Check(t.Context()); !errors.Is(err, backends.ErrUnavailable) || o.checks.Load() != checks+1 {
			t.Errorf("checked %d times: %v", o.checks.Load()-checks, err)
		}
		o.down.Store(false)
		if err := read(t, m); !errors.Is(err, backends.ErrUnavailable) {
			t.Error("the vault was asked though nothing is known to be better")
		}
		if err := m.Check(t.Context()); err != nil {
			t.Error(err)
		}
		if err := read(t, m); err != nil {
			t.Errorf("after a check that succeeded: %v", err)
		}
	})
}

// One of the callers asks whether the vault is back; those beside it do not wait.
func TestOneCallerAtATimeTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage()
		m := backends.NewMount("prod", o, backends.Options{})
		o.down.Store(true)
		_ = read(t, m)
		_ = read(t, m)
		o.check = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		time.Sleep(3 * time.Second)
		tried := make(chan time.Duration)
		go func() {
			began := time.Now()
			_ = read(t, m)
			tried <- time.Since(began)
		}()
		synctest.Wait()
		began := time.Now()
		if err := read(t, m); !errors.Is(err, backends.ErrUnavailable) || time.Since(began) != 0 {
			t.Errorf("beside the trial: %v after %s", err, time.Since(began))
		}
		if took := <-tried; took != 3*time.Second {
			t.Errorf("the trial of a vault that hangs took %s", took)
		}
	})
}

func TestWhatDoesNotCloseAVault(t *testing.T) {
	broken := backends.Ref{Tenant: backends.DefaultTenant, Name: "broken"}
	for name, spoil := range map[string]func(*testing.T, *outage, *backends.Mount){
		"one secret that cannot be read": func(t *testing.T, o *outage, m *backends.Mount) {
			fine := o.read
			o.read = func(context.Context) (backends.Value, backends.VersionID, error) {
				return backends.Value{}, "", unavailable()
			}
			for range 5 {
				_, _, _ = m.Read(t.Context(), broken, "")
			}
			o.read = fine
		},
		"callers that leave": func(t *testing.T, o *outage, m *backends.Mount) {
			fine := o.read
			o.read = func(ctx context.Context) (backends.Value, backends.VersionID, error) {
				<-ctx.Done()
				return backends.Value{}, "", fmt.Errorf("%w: %w", backends.ErrUnavailable, ctx.Err())
			}
			for range 20 {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Millisecond, cancel)
				_, _, _ = m.Read(ctx, stripe, "")
			}
			if o.checks.Load() != 0 {
				t.Errorf("they made it ask %d times whether the vault is there", o.checks.Load())
			}
			o.read = fine
		},
		"callers in a hurry": func(t *testing.T, o *outage, m *backends.Mount) {
			o.check = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			fine := o.read
			o.read = func(ctx context.Context) (backends.Value, backends.VersionID, error) {
				<-ctx.Done()
				return backends.Value{}, "", ctx.Err()
			}
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				_, _, _ = m.Read(ctx, stripe, "")
				cancel()
			}
			o.read = fine
		},
		"answers of other classes": func(t *testing.T, o *outage, m *backends.Mount) {
			fine := o.read
			for _, class := range []error{backends.ErrNotFound, backends.ErrDenied, backends.ErrConflict, backends.ErrInvalid, backends.ErrUnsupported} {
				o.read = func(context.Context) (backends.Value, backends.VersionID, error) { return backends.Value{}, "", class }
				for range 5 {
					_ = read(t, m)
				}
			}
			if o.checks.Load() != 0 {
				t.Errorf("they made it ask %d times whether the vault is there", o.checks.Load())
			}
			o.read = fine
		},
		"a vault that refuses us": func(t *testing.T, o *outage, m *backends.Mount) {
			o.down.Store(true)
			_ = read(t, m)
			o.down.Store(false)
			o.check = func(context.Context) error { return backends.ErrDenied }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, w := newOutage(), &watcher{}
				m := backends.NewMount("prod", o, backends.Options{Observer: w})
				spoil(t, o, m)
				if err := read(t, m); err != nil {
					t.Error(err)
				}
				if told := strings.Join(w.told, ", "); strings.Contains(told, "open") {
					t.Error(told)
				}
			})
		})
	}
}

// A call that had begun goes on trying, and its success lets the others through.
func TestSuccessClosesTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage()
		m := backends.NewMount("prod", o, backends.Options{})
		o.down.Store(true)
		began := make(chan error)
		go func() { began <- read(t, m) }()
		time.Sleep(time.Second)
		if err := read(t, m); !errors.Is(err, backends.ErrUnavailable) || o.checks.Load() != 1 {
			t.Fatalf("it is not open: %v", err)
		}
		o.down.Store(false)
		if err := <-began; err != nil {
			t.Fatal(err)
		}
		if err := read(t, m); err != nil || o.checks.Load() != 1 {
			t.Errorf("after a success: %v", err)
		}
	})
}

// hanging answers nothing, until answers is set, and then at once.
func hanging() (o *outage, answers *atomic.Bool) {
	o, answers = newOutage(), &atomic.Bool{}
	wait := func(ctx context.Context) error {
		if answers.Load() {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	o.read = func(ctx context.Context) (backends.Value, backends.VersionID, error) {
		return keyed("1"), "1", wait(ctx)
	}
	o.check = wait
	return o, answers
}

// A vault that hangs for longer than anybody waits is found out all the same: by
// callers who have less time than a trial, or leave, and under a timeout that is
// shorter than a trial.
func TestHangingVaultIsFoundOutByShortCalls(t *testing.T) {
	const patience = 2 * time.Second
	for name, tt := range map[string]struct {
		limits backends.Limits
		within func(context.Context) (context.Context, context.CancelFunc)
	}{
		"limits.timeout": {backends.Limits{Timeout: patience}, context.WithCancel},
		"deadlines": {backends.Limits{}, func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, patience)
		}},
		"callers that leave": {backends.Limits{}, func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(patience, cancel)
			return ctx, cancel
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, answers := hanging()
				m := backends.NewMount("prod", o, backends.Options{Limits: tt.limits})
				call := func() (time.Duration, error) {
					ctx, cancel := tt.within(t.Context())
					defer cancel()
					began := time.Now()
					_, _, err := m.Read(ctx, stripe, "")
					return time.Since(began), err
				}
				calls := 0
				for took := patience; took > 0; calls++ {
					var err error
					if took, err = call(); !errors.Is(err, backends.ErrUnavailable) || took > patience {
						t.Fatalf("after %s: %v", took, err)
					}
					if calls > 8 {
						t.Fatal("after 8 calls each one still waits")
					}
				}
				for range 10 {
					if took, err := call(); took != 0 || !errors.Is(err, backends.ErrUnavailable) {
						t.Errorf("after %s: %v", took, err)
					}
				}
				time.Sleep(3 * time.Second)
				if took, err := call(); took != patience || err == nil { // a trial
					t.Errorf("the trial took %s: %v", took, err)
				}
				if took, err := call(); took != 0 || err == nil {
					t.Errorf("beside the trial: after %s: %v", took, err)
				}
				answers.Store(true)
				time.Sleep(3 * time.Second)
				if took, err := call(); took != 0 || err != nil {
					t.Errorf("the vault is back: after %s: %v", took, err)
				}
			})
		})
	}
}

// What a call waits for on this side says nothing of the vault.
func TestWaitingForATurnIsNotTheVaultsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, w := newOutage(), &watcher{}
		release := make(chan struct{})
		o.publish = func(context.Context) (backends.VersionID, error) { <-release; return "2", nil }
		m := backends.NewMount("prod", o, backends.Options{Observer: w, Limits: backends.Limits{MaxConcurrent: 2}})
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := m.Publish(t.Context(), stripe, backends.Write{Value: keyed("1")}); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		for range 20 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				defer cancel()
				if _, err := m.Publish(ctx, stripe, backends.Write{Value: keyed("2")}); !errors.Is(err, backends.ErrUnavailable) {
					t.Errorf("beside another write: %v", err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if err := read(t, m); err != nil || time.Since(began) != 0 {
			t.Errorf("a read beside writers who wait for a turn: after %s: %v", time.Since(began), err)
		}
		time.Sleep(5 * time.Second) // they have left by now
		if err := read(t, m); err != nil {
			t.Error(err)
		}
		close(release)
		wg.Wait()
		if told := strings.Join(w.told, ", "); o.checks.Load() != 0 || strings.Contains(told, "open") {
			t.Errorf("checked %d times; told %s", o.checks.Load(), told)
		}
	})
}

// Readiness must not fail behind calls that hang, or for want of a rate.
func TestCheckWaitsForNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage()
		o.read = func(ctx context.Context) (backends.Value, backends.VersionID, error) {
			<-ctx.Done()
			return backends.Value{}, "", ctx.Err()
		}
		m := backends.NewMount("prod", o, backends.Options{Limits: backends.Limits{MaxConcurrent: 1, RequestsPerSecond: 0.01}})
		var wg sync.WaitGroup
		wg.Go(func() { _ = read(t, m) })
		synctest.Wait()
		began := time.Now()
		for range 3 {
			if err := m.Check(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the checks took %s", took)
		}
		wg.Wait()
	})
}
