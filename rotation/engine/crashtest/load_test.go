package crashtest_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// load makes a site's secrets rotate again and again, lets operators interfere,
// and reads them all the time, until stop is closed. Between pause and resume it
// only reads.
type load struct {
	site  *site
	pause sync.RWMutex // held for reading by whoever changes something
	stop  chan struct{}
	wg    sync.WaitGroup
}

func (s *site) load(seed uint64) *load {
	l := &load{site: s, stop: make(chan struct{})}
	for i, name := range secrets {
		sub := s.subject[name]
		dice, readDice := rand.New(rand.NewPCG(seed, 10+uint64(i))), rand.New(rand.NewPCG(seed, 20+uint64(i)))
		l.wg.Go(func() {
			for l.sleep(dice, 10, 150) {
				l.pause.RLock()
				_ = l.act(sub, dice) // refused, or cut off by a kill: both are right
				l.pause.RUnlock()
			}
		})
		l.wg.Go(func() {
			for l.sleep(readDice, 20, 60) {
				_ = s.read(sub)
				if readDice.IntN(8) == 0 {
					_ = s.watch(sub, readDice)
				}
			}
		})
	}
	return l
}

// sleep waits for some milliseconds; false: stop.
func (l *load) sleep(dice *rand.Rand, from, to int) bool {
	select {
	case <-l.stop:
		return false
	case <-time.After(time.Duration(from+dice.IntN(to-from)) * time.Millisecond):
		return true
	}
}

func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
}

func (l *load) act(sub *subject, dice *rand.Rand) error {
	s, name := l.site, sub.name
	if s.held.Load() && dice.IntN(4) == 0 {
		return s.release()
	}
	n := dice.IntN(200)
	if overlaps[name] > 0 && n >= 150 { // it lasts long enough to be met
		return s.rollBack(name)
	}
	switch {
	case n < 2:
		return s.emergency(name, client.ReplaceFirst)
	case n < 4:
		return s.emergency(name, client.RevokeFirst)
	case n < 10:
		return s.revokePrevious(name)
	case n < 24:
		return s.rollBack(name)
	case n < 28:
		return s.cancel(name)
	case n < 32:
		return s.retry(name)
	case n < 36:
		return s.probe(name, dice)
	case n < 38:
		return s.replay(name)
	case n < 40:
		return s.hold(name, dice)
	}
	return s.rotate(name)
}

var intervention = client.InterventionRequest{Reason: interfering}

// interfering is the reason that operators of these tests give.
const interfering = "crash test"

// revokePrevious ends an overlap early.
func (s *site) revokePrevious(name string) error {
	return s.ask(func(ctx context.Context) error {
		v, err := s.client.Value(ctx, name, 0)
		if err != nil || v.Previous == nil {
			return err
		}
		_, err = s.client.Revoke(ctx, name, client.RevokeRequest{Version: v.Previous.Version, Reason: interfering})
		return s.sum.asked("revoke", err)
	})
}

// onLive does something to the live rotations of a secret that it fits.
func (s *site) onLive(name, action string, fits func(client.Rotation) bool, do func(context.Context, string, client.InterventionRequest) (client.RotationIntervention, error)) error {
	return s.ask(func(ctx context.Context) error {
		live, err := s.client.Rotations(ctx, client.RotationQuery{Secret: name, Live: true})
		if err != nil {
			return err
		}
		for _, r := range live.Items {
			if !fits(r) {
				continue
			}
			if _, err := do(ctx, r.ID, intervention); s.sum.asked(action, err) != nil {
				return err
			}
		}
		return nil
	})
}

// rollBack makes the previous version of a secret in its overlap current again.
func (s *site) rollBack(name string) error {
	return s.onLive(name, "rollback", func(r client.Rotation) bool { return r.State == client.RotationOverlap }, s.client.RollBack)
}

// cancel ends what has published nothing, or waits for a proof; but no emergency
// that has still to replace what it revokes: nobody would.
func (s *site) cancel(name string) error {
	return s.onLive(name, "cancel", func(r client.Rotation) bool {
		return r.Trigger != "emergency" || r.State == client.RotationRetiring
	}, s.client.Cancel)
}

func (s *site) retry(name string) error {
	return s.onLive(name, "retry", func(client.Rotation) bool { return true }, s.client.Retry)
}

// probe asks for a round of tries of one of the versions that were turned off last.
func (s *site) probe(name string, dice *rand.Rand) error {
	return s.ask(func(ctx context.Context) error {
		list, err := s.client.Retirements(ctx, client.RetirementQuery{Secret: name, Page: client.Page{Limit: 5}})
		if err != nil || len(list.Items) == 0 {
			return err
		}
		_, err = s.client.Probe(ctx, list.Items[dice.IntN(len(list.Items))].ID, intervention)
		return s.sum.asked("probe", err)
	})
}

// replay delivers the newest message once more.
func (s *site) replay(name string) error {
	return s.ask(func(ctx context.Context) error {
		list, err := s.client.Deliveries(ctx, client.DeliveryQuery{Secret: name, Page: client.Page{Limit: 1}})
		if err != nil || len(list.Items) == 0 {
			return err
		}
		_, err = s.client.Replay(ctx, list.Items[0].ID, intervention)
		return s.sum.asked("replay", err)
	})
}

// hold freezes the site or pauses one secret.
func (s *site) hold(name string, dice *rand.Rand) error {
	s.held.Store(true)
	return s.ask(func(ctx context.Context) error {
		if dice.IntN(2) == 0 {
			_, err := s.client.Pause(ctx, name, client.PauseRequest{Reason: interfering})
			return s.sum.asked("pause", err)
		}
		_, err := s.client.Freeze(ctx, intervention)
		return s.sum.asked("freeze", err)
	})
}

// release ends whatever hold has begun, also if its answer was lost.
func (s *site) release() error {
	s.held.Store(false)
	err := s.ask(func(ctx context.Context) error {
		for name := range s.subject {
			if _, err := s.client.Resume(ctx, name); err != nil {
				return err
			}
		}
		frozen, err := s.client.Frozen(ctx)
		if err != nil {
			return err
		}
		if frozen.Frozen {
			_, err = s.client.Unfreeze(ctx, intervention)
		}
		return err
	})
	if err != nil {
		s.held.Store(true)
	}
	return err
}
