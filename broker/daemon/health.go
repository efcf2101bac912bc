package daemon

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/store"
)

const (
	healthEvery   = 10 * time.Second
	healthTimeout = 5 * time.Second
	readyTimeout  = 2 * time.Second
)

// health knows which backends can be used. It looks every 10 s, so that asking
// for readiness costs the vaults nothing.
type health struct {
	metrics *metrics
	logger  hclog.Logger
	at      chan struct{} // look now

	mu       sync.Mutex
	mounts   map[string]*backends.Mount
	problems map[string]string // backend → why it cannot be used
	looked   bool
}

func newHealth(m *metrics, logger hclog.Logger) *health {
	return &health{metrics: m, logger: logger, at: make(chan struct{}, 1), problems: map[string]string{}}
}

// watch looks at these backends from now on, and at no others.
func (h *health) watch(mounts map[string]*backends.Mount) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.mounts {
		if mounts[name] == nil {
			delete(h.problems, name)
			h.metrics.forgetBackend(name)
		}
	}
	for name, m := range mounts {
		if h.mounts[name] != m { // a new one, whose breaker is closed
			h.metrics.Breaker(name, false)
		}
	}
	h.mounts = mounts
	select {
	case h.at <- struct{}{}:
	default:
	}
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
		case <-h.at:
		}
	}
}

func (h *health) look(ctx context.Context) {
	h.mu.Lock()
	mounts := h.mounts
	h.mu.Unlock()
	var wg sync.WaitGroup
	for name, m := range mounts {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, healthTimeout)
			defer cancel()
			h.record(name, m, m.Check(ctx))
		})
	}
	wg.Wait()
	h.mu.Lock()
	h.looked = h.looked || ctx.Err() == nil
	h.mu.Unlock()
}

func (h *health) record(name string, m *backends.Mount, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mounts[name] != m {
		return // another configuration took its place meanwhile
	}
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

// down tells whether a backend could not be used when it was last looked at.
func (h *health) down(backend string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, down := h.problems[backend]
	return down
}

// ready returns what keeps the node from doing all of its work, in texts that
// anybody may see; why is in the log.
func (d *Daemon) ready(ctx context.Context) (problems []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	err := d.db.View(ctx, func(tx *store.Tx) error {
		_, err := tx.Setting(ctx, rootTokenIssued)
		return err
	})
	if err != nil {
		d.health.logger.Error("the store cannot be used", "error", err)
		problems = append(problems, "the store cannot be used")
	}
	if err := d.audit.Check(now()); err != nil {
		d.health.logger.Error("the audit log cannot be written", "error", err)
		problems = append(problems, "the audit log cannot be written")
	}
	return append(problems, d.health.ready()...)
}

// notices returns what does not work of what serves some secrets only: it is no reason to
// send elsewhere who comes for the others, and mostly it is the same at every node.
func (d *Daemon) notices() []string {
	return append(d.issuersNotices(), d.setup.Load().notices()...)
}

// ready returns how many backends cannot be used. Which ones, and why, is in the log,
// the metrics and the alerts: anybody may ask for readiness.
func (h *health) ready() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch n := len(h.problems); {
	case !h.looked:
		return []string{"starting: the backends have not been looked at yet"}
	case n == 1:
		return []string{"a backend cannot be used"}
	case n > 1:
		return []string{fmt.Sprintf("%d backends cannot be used", n)}
	}
	return nil
}
