package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
)

const (
	healthEvery   = 10 * time.Second
	healthTimeout = 5 * time.Second
)

// health knows which backends can be used. It looks every 10 s, so that asking
// for readiness costs the vaults nothing.
type health struct {
	mounts  map[string]*backends.Mount
	metrics *metrics
	logger  hclog.Logger

	mu       sync.Mutex
	problems map[string]string // backend → why it cannot be used
	looked   bool
}

// run looks at once and then regularly, until ctx ends.
func (h *health) run(ctx context.Context) {
	t := time.NewTicker(healthEvery)
	defer t.Stop()
	for {
		h.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (h *health) look(ctx context.Context) {
	var wg sync.WaitGroup
	for name, m := range h.mounts {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, healthTimeout)
			defer cancel()
			h.record(name, m.Check(ctx))
		})
	}
	wg.Wait()
	h.mu.Lock()
	h.looked = h.looked || ctx.Err() == nil
	h.mu.Unlock()
}

func (h *health) record(name string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, was := h.problems[name]
	if err == nil {
		delete(h.problems, name)
		h.metrics.backendUp.WithLabelValues(name).Set(1)
		if was {
			h.logger.Info("a backend can be used again", "backend", name)
		}
		return
	}
	h.problems[name] = err.Error()
	h.metrics.backendUp.WithLabelValues(name).Set(0)
	if !was {
		h.logger.Error("a backend cannot be used; rotations of its secrets wait, reads are served from sealed copies", "backend", name, "error", err)
	}
}

// ready returns what keeps the node from doing all of its work.
func (h *health) ready() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.looked {
		return []string{"starting: the backends have not been looked at yet"}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(h.problems)) {
		out = append(out, fmt.Sprintf("backend %s: %s", name, h.problems[name]))
	}
	return out
}
