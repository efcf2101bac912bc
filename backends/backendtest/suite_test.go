package backendtest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/memory"
)

var all = backends.Capabilities{
	Versions: true, Stages: true, CompareSwap: true, Destroy: true, Tenants: true, Binary: true, MaxValueSize: 64 << 10,
}

// sized is what memory.Size measures.
func sized(n int) backends.Value {
	return backends.NewValue(map[string]string{"key": backendtest.Canary + strings.Repeat("x", n-len("key")-len(backendtest.Canary))})
}

func memoryHarness(d backends.Driver) backendtest.Harness {
	past := d.(interface {
		Seed(backends.Ref, backends.Value)
		Delete(backends.Ref)
	})
	return backendtest.Harness{
		Driver: d,
		Seed:   past.Seed,
		Delete: past.Delete,
		Sized:  sized,
		Many:   10000,
		Notes:  true,
	}
}

func TestMemory(t *testing.T) {
	for name, c := range map[string]backends.Capabilities{
		"all":                 all,
		"nothing":             {},
		"read-only":           {ReadOnly: true, Versions: true, Stages: true},
		"one field":           {Field: "password", MaxValueSize: 4096},
		"no stages":           {Versions: true, CompareSwap: true, Destroy: true},
		"no destroy":          {Versions: true, Stages: true, CompareSwap: true},
		"no compare-and-swap": {Versions: true, Stages: true, Destroy: true, Binary: true},
	} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, func(*testing.T) backendtest.Harness {
				h := memoryHarness(memory.New(c))
				if c.Field != "" {
					h.Sized = func(n int) backends.Value {
						return backends.NewValue(map[string]string{c.Field: strings.Repeat("x", n-len(c.Field))})
					}
				}
				return h
			})
		})
	}
}

func TestMountedMemory(t *testing.T) {
	for name, o := range map[string]backends.Options{"writable": {}, "read-only": {ReadOnly: true}} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, func(*testing.T) backendtest.Harness {
				h := memoryHarness(memory.New(all))
				h.Driver = backends.NewMount("memory", h.Driver, o)
				return h
			})
		})
	}
}

func TestRemote(t *testing.T) { backendtest.Run(t, remoteHarness) }

// altered is a driver with a mistake.
type altered struct {
	full
	read     func(ref backends.Ref, id backends.VersionID, v backends.Value, at backends.VersionID, err error) (backends.Value, backends.VersionID, error)
	describe func(backends.Description, error) (backends.Description, error)
	publish  func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error)
	stage    func(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error)
	promote  func(ctx context.Context, ref backends.Ref, id, expect backends.VersionID) error
	retire   func(ctx context.Context, ref backends.Ref, id backends.VersionID) error
	destroy  func(ctx context.Context, ref backends.Ref, id backends.VersionID) error
	list     func(after string, limit int, names []string, next string) ([]string, string)
	check    func(ctx context.Context) error
	caps     func(backends.Capabilities) backends.Capabilities
	every    func(ctx context.Context, err error) error
}

type full interface {
	backends.Driver
	backends.Stager
}

func (a *altered) end(ctx context.Context, err error) error {
	if a.every != nil {
		return a.every(ctx, err)
	}
	return err
}

func (a *altered) Read(ctx context.Context, ref backends.Ref, id backends.VersionID) (backends.Value, backends.VersionID, error) {
	v, at, err := a.full.Read(ctx, ref, id)
	if a.read != nil {
		v, at, err = a.read(ref, id, v, at, err)
	}
	return v, at, a.end(ctx, err)
}

func (a *altered) Describe(ctx context.Context, ref backends.Ref) (backends.Description, error) {
	desc, err := a.full.Describe(ctx, ref)
	if a.describe != nil {
		return a.describe(desc, err)
	}
	return desc, a.end(ctx, err)
}

func (a *altered) Publish(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	if a.publish != nil {
		return a.publish(ctx, ref, w)
	}
	id, err := a.full.Publish(ctx, ref, w)
	return id, a.end(ctx, err)
}

func (a *altered) Stage(ctx context.Context, ref backends.Ref, w backends.Write) (backends.VersionID, error) {
	if a.stage != nil {
		return a.stage(ctx, ref, w)
	}
	return a.full.Stage(ctx, ref, w)
}

func (a *altered) Promote(ctx context.Context, ref backends.Ref, id, expect backends.VersionID) error {
	if a.promote != nil {
		return a.promote(ctx, ref, id, expect)
	}
	return a.full.Promote(ctx, ref, id, expect)
}

func (a *altered) Retire(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	if a.retire != nil {
		return a.retire(ctx, ref, id)
	}
	return a.end(ctx, a.full.Retire(ctx, ref, id))
}

func (a *altered) Destroy(ctx context.Context, ref backends.Ref, id backends.VersionID) error {
	if a.destroy != nil {
		return a.destroy(ctx, ref, id)
	}
	return a.end(ctx, a.full.Destroy(ctx, ref, id))
}

func (a *altered) List(ctx context.Context, tenant, after string, limit int) ([]string, string, error) {
	names, next, err := a.full.List(ctx, tenant, after, limit)
	if a.list != nil {
		names, next = a.list(after, limit, names, next)
	}
	return names, next, a.end(ctx, err)
}

func (a *altered) Check(ctx context.Context) error {
	if a.check != nil {
		return a.check(ctx)
	}
	return a.end(ctx, a.full.Check(ctx))
}

func (a *altered) Capabilities() backends.Capabilities {
	c := a.full.Capabilities()
	if a.caps != nil {
		return a.caps(c)
	}
	return c
}

// current is the version that is current whatever is expected.
func (a *altered) current(ctx context.Context, ref backends.Ref) backends.VersionID {
	desc, _ := a.full.Describe(ctx, ref)
	return desc.Current
}

const mistake = "BACKENDTEST_MISTAKE"

// TestMistaken is run by TestSuiteNotices, and fails.
func TestMistaken(t *testing.T) {
	m, ok := mistakes[os.Getenv(mistake)]
	if !ok {
		t.Skip("is run by TestSuiteNotices")
	}
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		var h backendtest.Harness
		if m.remote {
			h = remoteHarness(t)
		} else {
			h = memoryHarness(memory.New(all))
			h.Many = 300
		}
		if m.make == nil {
			h.Stranger = func() backends.Driver { return &altered{full: h.Driver.(full), every: outage} }
			return h
		}
		a := &altered{full: h.Driver.(full)}
		m.make(a)
		h.Driver = a
		return h
	})
}

func outage(context.Context, error) error { return backends.ErrUnavailable }

// A suite that notices nothing is worth nothing: each mistake fails the test that is
// there for it.
func TestSuiteNotices(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range mistakes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := exec.CommandContext(t.Context(), self, "-test.run", "^TestMistaken$/^"+regexp.QuoteMeta(strings.ReplaceAll(m.test, " ", "_"))+"$")
			run.Env = append(os.Environ(), mistake+"="+name)
			out, err := run.CombinedOutput()
			var failed *exec.ExitError
			if !errors.As(err, &failed) || !strings.Contains(string(out), "--- FAIL: TestMistaken/"+strings.ReplaceAll(m.test, " ", "_")) {
				t.Errorf("the test %q does not notice: %v\n%s", m.test, err, out)
			}
		})
	}
}
