package backendtest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
)

// Bench measures reads and writes per second of a driver and of a Mount around it,
// each by callers who work side by side on secrets of their own, and reports them
// as backends.NAME.read_per_second, …write_per_second, …mount_read_per_second and
// …mount_write_per_second. All take turns, since a vault that fills up gets slower. A
// vault that refuses many versions of a secret (Harness.Writable) is written to under
// ever new names.
func Bench(b *testing.B, h Harness, name string) {
	const callers, turns, span = 8, 4, 250 * time.Millisecond
	s := &suite{Harness: h}
	mount := backends.NewMount(name, h.Driver, backends.Options{})
	refs := make([]backends.Ref, callers)
	current := make([]backends.VersionID, callers)
	value := s.value(1)
	for i := range refs {
		refs[i] = secret(fmt.Sprintf("bench/%d", i))
		id, err := h.Driver.Publish(b.Context(), refs[i], backends.Write{Value: value, Token: token(i, 0), Version: 1, Generation: 1})
		if err != nil {
			b.Fatal(err)
		}
		current[i] = id
	}
	read := func(d backends.Driver) func(int, int) error {
		return func(i, _ int) error {
			_, _, err := d.Read(b.Context(), refs[i], "")
			return err
		}
	}
	written := make([]int, callers)
	write := func(d backends.Driver) func(int, int) error {
		return func(i, _ int) error {
			written[i]++
			n := written[i]
			if h.Writable > 0 && n%h.Writable == 0 {
				refs[i], current[i] = secret(fmt.Sprintf("bench/%d-%d", i, n)), ""
			}
			id, err := d.Publish(b.Context(), refs[i], backends.Write{
				Value: s.value(n + 1), Expect: current[i], Token: token(i, n), Version: n + 1, Generation: int64(n + 1),
			})
			current[i] = id
			return err
		}
	}
	figures := []struct {
		name string
		call func(caller, n int) error
	}{
		{"read_per_second", read(h.Driver)},
		{"mount_read_per_second", read(mount)},
		{"write_per_second", write(h.Driver)},
		{"mount_write_per_second", write(mount)},
	}
	sums := make([]float64, len(figures))
	for range turns {
		for i, figure := range figures {
			sums[i] += rate(b, callers, span, figure.call)
		}
	}
	for i, figure := range figures {
		b.ReportMetric(sums[i]/turns, fmt.Sprintf("backends.%s.%s/1/s", name, figure.name))
	}
}

func token(caller, n int) string { return fmt.Sprintf("00000000-0000-4000-%04d-%012d", caller, n) }

// rate is how often a second the callers together do a call.
func rate(b *testing.B, callers int, span time.Duration, call func(caller, n int) error) float64 {
	b.Helper()
	var done atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for i := range callers {
		wg.Go(func() {
			for n := 0; time.Since(began) < span; n++ {
				if err := call(i, n); err != nil {
					b.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(began).Seconds()
}
