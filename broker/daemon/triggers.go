package daemon

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awssecrets"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/trigger/alertmanager"
	"github.com/keybroker/keybroker/rotation/trigger/eventbridge"
	"github.com/keybroker/keybroker/rotation/trigger/github"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
	"github.com/keybroker/keybroker/rotation/trigger/webhook"
)

// triggerTypes are the types of triggers from outside, by their first label.
var triggerTypes = map[string]triggerType{
	"alertmanager": {
		Type: triggerConfig(func(c *alertmanager.Config, offline bool) error { return c.Validate(offline) }),
		receiver: func(_ *parts, cfg any) (inbound.Receiver, error) {
			return alertmanager.New(*cfg.(*alertmanager.Config)), nil
		},
	},
	"aws_eventbridge": {
		Type: triggerConfig(func(c *eventbridge.Config, _ bool) error { return c.Validate() }),
		queue: func(ctx context.Context, p *parts, s *setup, t *config.Trigger) (*eventbridge.Queue, error) {
			cfg := *t.Config.(*eventbridge.Config)
			return eventbridge.Open(ctx, cfg, secretsIn(s.cfg, cfg.Backend), p.logger.Named("trigger."+t.Name))
		},
	},
	"github_secret_scanning": {
		Type: triggerConfig(func(c *github.Config, offline bool) error { return c.Validate(offline) }),
		receiver: func(p *parts, cfg any) (inbound.Receiver, error) {
			r, err := github.New(*cfg.(*github.Config), p.now)
			if err != nil {
				return nil, err
			}
			return r, nil
		},
	},
	"webhook": {
		Type: config.Type{New: func() any { return new(webhook.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			given := cfg.(*webhook.Config)
			_, diags := webhook.New(*given, now)
			return append(diags, c.Mistakes(given, given.Validate(c.Offline))...)
		}},
		receiver: func(p *parts, cfg any) (inbound.Receiver, error) {
			r, diags := webhook.New(*cfg.(*webhook.Config), p.now)
			return r, orNil(diags)
		},
	},
}

// triggerType is how a trigger's block is read, and how its events come: one of receiver
// and queue is set.
type triggerType struct {
	config.Type
	receiver func(p *parts, cfg any) (inbound.Receiver, error)
	queue    func(ctx context.Context, p *parts, s *setup, t *config.Trigger) (*eventbridge.Queue, error)
}

func triggerConfig[C any](validate func(c *C, offline bool) error) config.Type {
	return config.Type{
		New: func() any { return new(C) },
		Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			return c.Mistakes(cfg, validate(cfg.(*C), c.Offline))
		},
	}
}

// triggers makes what reads the events of a setup's triggers.
func (p *parts) triggers(ctx context.Context, s, before *setup) error {
	s.receivers, s.queues = map[string]inbound.Receiver{}, map[string]*eventbridge.Queue{}
	for _, t := range s.cfg.Triggers {
		at := block{"trigger", t.Name}
		known, ok := triggerTypes[t.Type]
		var err error
		switch {
		case t.Type == config.TriggerAPI, t.Type == config.TriggerInternal:
		case !ok:
			return unknownType("trigger", t.Type)
		case known.queue != nil:
			if c, ok := t.Config.(*eventbridge.Config); ok && c.Backend != "" { // by whose names it goes
				s.digests[at] = p.mac(s.digests[at] + s.digests[block{"backend", c.Backend}])
			}
			err = component(s, before, at, s.queues, before.queues, func() (*eventbridge.Queue, func(), error) {
				q, err := known.queue(ctx, p, s, t)
				return q, closing(q), err
			})
		default:
			err = component(s, before, at, s.receivers, before.receivers, func() (inbound.Receiver, func(), error) {
				r, err := known.receiver(p, t.Config)
				return r, closing(r), err
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// secretsIn tells what a secret of Secrets Manager is called here: as a backend says, or
// without one as it is called there.
func secretsIn(cfg *config.Config, backend string) func(eventbridge.Secret) []string {
	nameOf := func(s eventbridge.Secret) string { return s.Name }
	for _, b := range cfg.Backends {
		if vault, ok := b.Config.(*awssecrets.Config); ok && b.Name == backend {
			nameOf = func(s eventbridge.Secret) string {
				if s.Region != vault.Conn.Region {
					return ""
				}
				return vault.NameOf(s.Name)
			}
		}
	}
	return func(s eventbridge.Secret) []string {
		if name := nameOf(s); backends.ParseName(name) == nil {
			return []string{name}
		}
		return nil
	}
}

// How long is waited after a queue could not be asked: twice as long each time.
const (
	queueFirstPause = time.Second
	queueMostPause  = time.Minute
)

// queues asks the queues of the setup in force for messages, each in a goroutine of its
// own.
type queues struct {
	take func(ctx context.Context, trigger string, from netip.Addr, events []inbound.Event) error
	log  hclog.Logger

	changed chan struct{} // holds one where wanted has changed

	mu     sync.Mutex
	wanted map[string]*eventbridge.Queue // by trigger
}

func newQueues(take func(context.Context, string, netip.Addr, []inbound.Event) error, log hclog.Logger) *queues {
	return &queues{take: take, log: log, changed: make(chan struct{}, 1)}
}

// use has other queues asked from now on.
func (q *queues) use(wanted map[string]*eventbridge.Queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wanted = wanted
	select {
	case q.changed <- struct{}{}:
	default: // it is known already
	}
}

// run asks them until ctx ends, and waits for all that it began.
func (q *queues) run(ctx context.Context) {
	type polling struct {
		queue *eventbridge.Queue
		stop  func()
	}
	asked := map[string]polling{}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		q.mu.Lock()
		wanted := q.wanted
		q.mu.Unlock()
		for trigger, p := range asked {
			if wanted[trigger] != p.queue {
				p.stop()
				delete(asked, trigger)
			}
		}
		for trigger, queue := range wanted {
			if _, ok := asked[trigger]; ok {
				continue
			}
			within, stop := context.WithCancel(ctx)
			asked[trigger] = polling{queue, stop}
			all.Go(func() { q.follow(within, trigger, queue) })
		}
		select {
		case <-ctx.Done():
			for _, p := range asked {
				p.stop()
			}
			return
		case <-q.changed:
		}
	}
}

// follow asks one queue until ctx ends.
func (q *queues) follow(ctx context.Context, trigger string, queue *eventbridge.Queue) {
	pause := queueFirstPause
	for ctx.Err() == nil {
		err := queue.Poll(ctx, func(ctx context.Context, e inbound.Event) error {
			return q.take(ctx, trigger, netip.Addr{}, []inbound.Event{e})
		})
		if err == nil {
			pause = queueFirstPause
			continue
		}
		if ctx.Err() != nil {
			return
		}
		q.log.Error("the queue of a trigger cannot be asked: its events wait there", "trigger", trigger, "again_in", pause, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			pause = min(2*pause, queueMostPause)
		}
	}
}

// followQueues asks the queues of triggers until the node begins to stop.
func (d *Daemon) followQueues(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.serving, cancel)()
	d.queues.run(ctx)
}
