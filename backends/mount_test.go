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

const mountCanary = "canary-77aa"

var stripe = backends.Ref{Tenant: backends.DefaultTenant, Name: "payments/stripe"}

func keyed(text string) backends.Value {
	return backends.NewValue(map[string]string{"key": mountCanary + text})
}

// driver answers as its functions say; what has none succeeds.
type driver struct {
	read    func(context.Context) (backends.Value, backends.VersionID, error)
	publish func(context.Context) (backends.VersionID, error)
	check   func(context.Context) error
	list    func(context.Context) ([]string, string, error)
}

func (d *driver) Read(ctx context.Context, _ backends.Ref, _ backends.VersionID) (backends.Value, backends.VersionID, error) {
	if d.read == nil {
		return keyed("1"), "1", nil
	}
	return d.read(ctx)
}

func (d *driver) Publish(ctx context.Context, _ backends.Ref, _ backends.Write) (backends.VersionID, error) {
	if d.publish == nil {
		return "2", nil
	}
	return d.publish(ctx)
}

func (d *driver) Check(ctx context.Context) error {
	if d.check == nil {
		return nil
	}
	return d.check(ctx)
}

func (d *driver) Describe(context.Context, backends.Ref) (backends.Description, error) {
	return backends.Description{Current: "1"}, nil
}
func (d *driver) Retire(context.Context, backends.Ref, backends.VersionID) error  { return nil }
func (d *driver) Destroy(context.Context, backends.Ref, backends.VersionID) error { return nil }
func (d *driver) List(ctx context.Context, _, _ string, _ int) ([]string, string, error) {
	if d.list == nil {
		return []string{"a"}, "a", nil
	}
	return d.list(ctx)
}
func (d *driver) Capabilities() backends.Capabilities { return backends.Capabilities{Versions: true} }

// failing makes a read that fails with err so many times, then succeeds.
func failing(err error, times int, calls *int) func(context.Context) (backends.Value, backends.VersionID, error) {
	return func(context.Context) (backends.Value, backends.VersionID, error) {
		if *calls++; *calls <= times {
			return backends.Value{}, "", err
		}
		return keyed("1"), "1", nil
	}
}

func unavailable() error { return fmt.Errorf("%w: no answer", backends.ErrUnavailable) }

func TestMountRetriesWhatMayPass(t *testing.T) {
	for _, err := range []error{unavailable(), errors.New("of no class")} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			m := backends.NewMount("prod", &driver{read: failing(err, 3, &calls)}, backends.Options{})
			start := time.Now()
			value, id, err := m.Read(t.Context(), stripe, "")
			if err != nil || id != "1" || !value.Equal(keyed("1")) || calls != 4 {
				t.Errorf("read version %q in %d calls: %v", id, calls, err)
			}
			// 100, 200 and 400 ms, each randomised by half.
			if took := time.Since(start); took < 350*time.Millisecond || took > 1050*time.Millisecond {
				t.Errorf("three retries took %s", took)
			}
		})
	}
}

func TestMountRetriesNothingElse(t *testing.T) {
	for _, class := range []error{
		backends.ErrNotFound, backends.ErrDenied, backends.ErrConflict, backends.ErrInvalid, backends.ErrUnsupported,
	} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			m := backends.NewMount("prod", &driver{read: failing(class, 1, &calls)}, backends.Options{})
			start := time.Now()
			_, _, err := m.Read(t.Context(), stripe, "")
			if !errors.Is(err, class) || calls != 1 || time.Since(start) != 0 {
				t.Errorf("%v: after %d calls and %s: %v", class, calls, time.Since(start), err)
			}
		})
	}
}

func TestMountGivesUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		m := backends.NewMount("prod", &driver{read: failing(unavailable(), 1000, &calls)}, backends.Options{Limits: backends.Limits{Timeout: 3 * time.Second}})
		start := time.Now()
		_, _, err := m.Read(t.Context(), stripe, "")
		if took := time.Since(start); took > 3*time.Second || calls < 3 {
			t.Errorf("gave up after %s and %d calls", took, calls)
		}
		if got, want := fmt.Sprint(err), "backend prod: reading payments/stripe: unavailable: no answer"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestMountBoundsDriversThatHang(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	hanging := func() *backends.Mount { // a new one for each call: what one call learns, the next one knows
		return backends.NewMount("prod", &driver{
			read: func(ctx context.Context) (backends.Value, backends.VersionID, error) {
				return backends.Value{}, "", hang(ctx)
			},
			check: hang,
		}, backends.Options{})
	}
	for name, call := range map[string]func(context.Context, *backends.Mount) error{
		"read":  func(ctx context.Context, m *backends.Mount) error { _, _, err := m.Read(ctx, stripe, ""); return err },
		"check": func(ctx context.Context, m *backends.Mount) error { return m.Check(ctx) },
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			err := call(t.Context(), hanging())
			if !errors.Is(err, backends.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != backends.DefaultTimeout {
				t.Errorf("%s: after %s: %v", name, time.Since(start), err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start = time.Now()
			err = call(ctx, hanging())
			if !errors.Is(err, backends.ErrUnavailable) || time.Since(start) != time.Second {
				t.Errorf("%s with a shorter deadline: after %s: %v", name, time.Since(start), err)
			}
		})
	}
}

func TestMountStopsRetryingWhenCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		m := backends.NewMount("prod", &driver{read: failing(unavailable(), 1000, &calls)}, backends.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel) // before the first retry, which waits 50 ms at least
		start := time.Now()
		_, _, err := m.Read(ctx, stripe, "")
		if !errors.Is(err, backends.ErrUnavailable) || time.Since(start) > 50*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestMountChecksOnce(t *testing.T) {
	calls := 0
	m := backends.NewMount("prod", &driver{check: func(context.Context) error { calls++; return unavailable() }}, backends.Options{})
	if err := m.Check(t.Context()); !errors.Is(err, backends.ErrUnavailable) || calls != 1 {
		t.Errorf("checked %d times: %v", calls, err)
	}
}

func conflict(context.Context) (backends.VersionID, error) {
	return "", fmt.Errorf("%w: version 2 is current", backends.ErrConflict)
}

func TestMountPublishIsIdempotent(t *testing.T) {
	current := func(v backends.Value, err error) func(context.Context) (backends.Value, backends.VersionID, error) {
		return func(context.Context) (backends.Value, backends.VersionID, error) { return v, "2", err }
	}
	tests := map[string]struct {
		driver *driver
		id     backends.VersionID
		class  error
	}{
		"written":             {&driver{}, "2", nil},
		"written before":      {&driver{publish: conflict, read: current(keyed("new"), nil)}, "2", nil},
		"another is there":    {&driver{publish: conflict, read: current(keyed("other"), nil)}, "", backends.ErrConflict},
		"nothing is there":    {&driver{publish: conflict, read: current(backends.Value{}, backends.ErrNotFound)}, "", backends.ErrConflict},
		"it may not be read":  {&driver{publish: conflict, read: current(backends.Value{}, backends.ErrDenied)}, "", backends.ErrConflict},
		"it cannot be read":   {&driver{publish: conflict, read: current(backends.Value{}, unavailable())}, "", backends.ErrUnavailable},
		"refused for good":    {&driver{publish: func(context.Context) (backends.VersionID, error) { return "", backends.ErrDenied }}, "", backends.ErrDenied},
		"the answer was lost": {&driver{publish: lostAnswer(), read: current(keyed("new"), nil)}, "2", nil},
	}
	for name, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			m := backends.NewMount("prod", tt.driver, backends.Options{})
			id, err := m.Publish(t.Context(), stripe, backends.Write{Value: keyed("new"), Expect: "1"})
			if id != tt.id || !errors.Is(backends.Class(err), tt.class) {
				t.Errorf("%s: %q, %v, want %q, %v", name, id, err, tt.id, tt.class)
			}
			if strings.Contains(fmt.Sprintf("%v %#v", err, err), mountCanary) {
				t.Errorf("%s: the error gives the value away", name)
			}
		})
	}
}

// lostAnswer is a write that happens at the first call, which is not told so.
func lostAnswer() func(context.Context) (backends.VersionID, error) {
	calls := 0
	return func(ctx context.Context) (backends.VersionID, error) {
		if calls++; calls == 1 {
			return "", unavailable()
		}
		return conflict(ctx)
	}
}

func TestMountRefusesWhatNoDriverShouldSee(t *testing.T) {
	touched := func(context.Context) (backends.VersionID, error) {
		t.Error("the driver was asked")
		return "", nil
	}
	m := backends.NewMount("prod", &driver{publish: touched}, backends.Options{})
	for name, err := range map[string]error{
		"empty value":      second(m.Publish(t.Context(), stripe, backends.Write{})),
		"value not UTF-8":  second(m.Publish(t.Context(), stripe, backends.Write{Value: keyed("\xff")})),
		"nameless field":   second(m.Publish(t.Context(), stripe, backends.Write{Value: backends.NewValue(map[string]string{"": "x"})})),
		"path in the name": second(m.Publish(t.Context(), backends.Ref{Name: "../x"}, backends.Write{Value: keyed("")})),
		"reserved name":    second(m.Publish(t.Context(), backends.Ref{Name: "sys/x"}, backends.Write{Value: keyed("")})),
		"destroy":          m.Destroy(t.Context(), backends.Ref{Name: "a//b"}, "1"),
	} {
		if !errors.Is(err, backends.ErrInvalid) || !strings.HasPrefix(err.Error(), "backend prod: ") {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(fmt.Sprint(err), mountCanary) {
			t.Errorf("%s: the error gives the value away", name)
		}
	}
}

func second(_ backends.VersionID, err error) error { return err }

func TestMountLimitsConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		m := backends.NewMount("prod", &driver{read: func(context.Context) (backends.Value, backends.VersionID, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return keyed("1"), "1", nil
		}}, backends.Options{Limits: backends.Limits{MaxConcurrent: 3}})
		var wg sync.WaitGroup
		start := time.Now()
		for range 9 {
			wg.Go(func() {
				if _, _, err := m.Read(t.Context(), stripe, ""); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most.Load() != 3 || time.Since(start) != 3*time.Second {
			t.Errorf("%d at once, all after %s", most.Load(), time.Since(start))
		}
	})
}

func TestMountLimitsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := backends.NewMount("prod", &driver{}, backends.Options{Limits: backends.Limits{RequestsPerSecond: 2}})
		start := time.Now()
		for range 6 { // two at once, then two a second
			if _, _, err := m.Read(t.Context(), stripe, ""); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 1999*time.Millisecond || took > 2001*time.Millisecond {
			t.Errorf("six requests took %s, want 2 s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, _, err := m.Read(ctx, stripe, ""); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("beyond the rate without the time to wait: %v", err)
		}
	})
}

func TestMountPassesOnWhatIsNotAboutOneSecret(t *testing.T) {
	m := backends.NewMount("prod", &driver{}, backends.Options{})
	if m.Name() != "prod" || !m.Capabilities().Versions {
		t.Errorf("name %q, capabilities %+v", m.Name(), m.Capabilities())
	}
	names, next, err := m.List(t.Context(), backends.DefaultTenant, "", 1)
	if err != nil || len(names) != 1 || next != "a" {
		t.Errorf("listed %q, %q, %v", names, next, err)
	}
	if desc, err := m.Describe(t.Context(), stripe); err != nil || desc.Current != "1" {
		t.Errorf("described %+v, %v", desc, err)
	}
	if _, ok := m.Stager(); ok {
		t.Error("a driver without stages has some")
	}
}

type stagingDriver struct {
	driver
	fails int
}

func (d *stagingDriver) Stage(context.Context, backends.Ref, backends.Write) (backends.VersionID, error) {
	if d.fails--; d.fails >= 0 {
		return "", unavailable()
	}
	return "staged", nil
}

func (d *stagingDriver) Promote(context.Context, backends.Ref, backends.VersionID, backends.VersionID) error {
	return backends.ErrConflict
}

func TestMountStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stager, ok := backends.NewMount("prod", &stagingDriver{fails: 2}, backends.Options{}).Stager()
		if !ok {
			t.Fatal("a driver with stages has none")
		}
		if id, err := stager.Stage(t.Context(), stripe, backends.Write{Value: keyed("new")}); err != nil || id != "staged" {
			t.Errorf("staged as %q, %v", id, err)
		}
		err := stager.Promote(t.Context(), stripe, "staged", "1")
		if got, want := fmt.Sprint(err), "backend prod: promoting a version of payments/stripe: conflict"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
