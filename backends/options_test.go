package backends_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/backends"
)

func TestMountHonoursRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		after, least, most time.Duration
		calls              int
		class              error
	}{
		{2 * time.Second, 2 * time.Second, 3 * time.Second, 2, nil},
		{0, 50 * time.Millisecond, 150 * time.Millisecond, 2, nil}, // as without it
		{-time.Hour, 50 * time.Millisecond, 150 * time.Millisecond, 2, nil},
		{11 * time.Second, 0, 0, 1, backends.ErrUnavailable}, // beyond the call's time
		{1 << 62, 0, 0, 1, backends.ErrUnavailable},
	} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			slow := fmt.Errorf("asking: %w", backends.After(tt.after, unavailable()))
			m := backends.NewMount("prod", &driver{read: failing(slow, 1, &calls)}, backends.Options{})
			began := time.Now()
			_, _, err := m.Read(t.Context(), stripe, "")
			if took := time.Since(began); !errors.Is(backends.Class(err), tt.class) || calls != tt.calls || took < tt.least || took > tt.most {
				t.Errorf("Retry-After %s: %d calls in %s: %v", tt.after, calls, took, err)
			}
			if wait, ok := backends.RetryAfter(err); err != nil && (!ok || wait != tt.after) {
				t.Errorf("the error says %s, %t, not %s", wait, ok, tt.after)
			}
		})
	}
}

func TestReadOnlyMount(t *testing.T) {
	d := &stagingDriver{}
	d.publish = func(context.Context) (backends.VersionID, error) {
		t.Error("the driver was asked")
		return "", nil
	}
	m := backends.NewMount("prod", d, backends.Options{ReadOnly: true})
	if !m.Capabilities().ReadOnly {
		t.Error("it does not say so")
	}
	stager, _ := m.Stager()
	w := backends.Write{Value: keyed("1")}
	for doing, err := range map[string]error{
		"publishing": second(m.Publish(t.Context(), stripe, w)),
		"staging":    second(stager.Stage(t.Context(), stripe, w)),
		"promoting":  stager.Promote(t.Context(), stripe, "1", ""),
		"retiring":   m.Retire(t.Context(), stripe, "1"),
		"destroying": m.Destroy(t.Context(), stripe, "1"),
	} {
		if !errors.Is(err, backends.ErrUnsupported) || !strings.Contains(err.Error(), "backend prod: "+doing) {
			t.Errorf("%s: %v", doing, err)
		}
	}
	if _, _, err := m.Read(t.Context(), stripe, ""); err != nil {
		t.Error(err)
	}
}

func TestObserverIsToldOfEveryCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, calls := &watcher{}, 0
		m := backends.NewMount("prod", &stagingDriver{driver: driver{read: failing(backends.ErrDenied, 1, &calls)}},
			backends.Options{Observer: w})
		ctx, v := t.Context(), backends.Write{Value: keyed("1")}
		_, _, _ = m.Read(ctx, stripe, "")
		_, _, _ = m.Read(ctx, stripe, "")
		_, _ = m.Describe(ctx, stripe)
		_, _ = m.Publish(ctx, stripe, v)
		_, _ = m.Publish(ctx, stripe, backends.Write{})
		_ = m.Retire(ctx, stripe, "1")
		_ = m.Destroy(ctx, stripe, "1")
		_, _, _ = m.List(ctx, backends.DefaultTenant, "", 1)
		_ = m.Check(ctx)
		stager, _ := m.Stager()
		_, _ = stager.Stage(ctx, stripe, v)
		_ = stager.Promote(ctx, stripe, "1", "")
		want := []string{
			"prod read denied 0s", "prod read <nil> 0s", "prod describe <nil> 0s", "prod publish <nil> 0s", "prod publish invalid 0s",
			"prod retire <nil> 0s", "prod destroy <nil> 0s", "prod list <nil> 0s", "prod check <nil> 0s", "prod stage <nil> 0s", "prod promote conflict 0s",
		}
		if !slices.Equal(w.told, want) {
			t.Errorf("told %q\nwant %q", w.told, want)
		}
	})
}

func TestObserverIsToldTheWholeCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, calls := &watcher{}, 0
		slow := backends.After(time.Second, unavailable())
		m := backends.NewMount("prod", &driver{read: failing(slow, 1, &calls)}, backends.Options{Observer: w})
		began := time.Now()
		_, _, _ = m.Read(t.Context(), stripe, "")
		if want := fmt.Sprintf("prod read <nil> %s", time.Since(began)); len(w.told) != 1 || w.told[0] != want {
			t.Errorf("told %q, want %q", w.told, want)
		}
	})
}

// overlapping is a vault without compare-and-swap: it looks, takes its time and
// writes.
type overlapping struct {
	driver
	mu      sync.Mutex
	current string
}

func (o *overlapping) Publish(_ context.Context, _ backends.Ref, w backends.Write) (backends.VersionID, error) {
	o.mu.Lock()
	current := o.current
	o.mu.Unlock()
	if current != string(w.Expect) {
		return "", backends.ErrConflict
	}
	time.Sleep(time.Millisecond)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.current = w.Token
	return backends.VersionID(w.Token), nil
}

func TestWritersTakeTurnsWithoutCompareSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &overlapping{}
		o.read = func(context.Context) (backends.Value, backends.VersionID, error) {
			return keyed("none of theirs"), "", nil
		}
		m := backends.NewMount("prod", o, backends.Options{})
		errs := make([]error, 50)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = m.Publish(t.Context(), stripe, backends.Write{Value: keyed(fmt.Sprint(i)), Token: fmt.Sprint(i)})
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, backends.ErrConflict):
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d writers won", won)
		}
	})
}

// Who waits for a turn leaves with its context.
func TestWaitingForATurnEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &driver{}
		d.publish = func(ctx context.Context) (backends.VersionID, error) { <-ctx.Done(); return "", ctx.Err() }
		m := backends.NewMount("prod", d, backends.Options{})
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = m.Publish(t.Context(), stripe, backends.Write{Value: keyed("1")}) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := m.Publish(ctx, stripe, backends.Write{Value: keyed("2")})
		if !errors.Is(err, backends.ErrUnavailable) || time.Since(began) != time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		wg.Wait()
	})
}

// PublishOnce leaves it to the caller to try again.
func TestPublishOnceIsTriedOnce(t *testing.T) {
	calls := 0
	d := &driver{}
	d.publish = func(context.Context) (backends.VersionID, error) {
		calls++
		return "", unavailable()
	}
	m := backends.NewMount("prod", d, backends.Options{})
	_, err := m.PublishOnce(t.Context(), stripe, backends.Write{Value: backends.NewValue(map[string]string{"key": "x"})})
	if !errors.Is(err, backends.ErrUnavailable) || calls != 1 {
		t.Errorf("%d attempts: %v", calls, err)
	}
}

// A pass over all names of a slow vault takes longer than one secret may.
func TestListHasATimeOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &driver{}
		d.list = func(ctx context.Context) ([]string, string, error) {
			select {
			case <-time.After(100 * time.Second):
				return []string{"a"}, "", nil
			case <-ctx.Done():
				return nil, "", ctx.Err()
			}
		}
		m := backends.NewMount("prod", d, backends.Options{Limits: backends.Limits{Timeout: time.Second}})
		if names, _, err := m.List(t.Context(), backends.DefaultTenant, "", 10); err != nil || len(names) != 1 {
			t.Errorf("listed %q, %v", names, err)
		}
		d.list = func(ctx context.Context) ([]string, string, error) { <-ctx.Done(); return nil, "", ctx.Err() }
		began := time.Now()
		if _, _, err := m.List(t.Context(), backends.DefaultTenant, "", 10); !errors.Is(err, backends.ErrUnavailable) || time.Since(began) != 2*time.Minute {
			t.Errorf("a vault that hangs was waited for for %s: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if _, _, err := m.List(ctx, backends.DefaultTenant, "", 10); !errors.Is(err, backends.ErrUnavailable) || time.Since(began) > time.Second {
			t.Errorf("with a deadline of 1 s: after %s: %v", time.Since(began), err)
		}
	})
}
