package engine

import (
	"context"
	"time"

	"github.com/keybroker/keybroker/rotation"
)

// StepRotation, StepRetirement, StepDelivery and StepPlacement take one step as a worker would;
// again tells that another one is due at once.
func (e *Engine) StepRotation(ctx context.Context, id string) (again bool, err error) {
	res, err := e.stepRotation(ctx, id)
	return res.again, err
}

func (e *Engine) StepRetirement(ctx context.Context, id string) (again bool, err error) {
	res, err := e.stepRetirement(ctx, id)
	return res.again, err
}

func (e *Engine) StepDelivery(ctx context.Context, id string) (again bool, err error) {
	res, err := e.stepDelivery(ctx, id)
	return res.again, err
}

func (e *Engine) StepPlacement(ctx context.Context, id string) (again bool, err error) {
	res, err := e.stepPlacement(ctx, id)
	return res.again, err
}

// StepIncident takes one step of an incident.
func (e *Engine) StepIncident(ctx context.Context, id string) (again bool, err error) {
	res, err := e.stepIncident(ctx, id)
	return res.again, err
}

// StepSchedule takes one step of what starts a secret that is due.
func (e *Engine) StepSchedule(ctx context.Context, id string) error {
	_, err := e.stepSchedule(ctx, id)
	return err
}

// StepNotice tells the consumers of a secret that it is about to be rotated.
func (e *Engine) StepNotice(ctx context.Context, id string) error { return e.stepNotice(ctx, id) }

// Moved tells that a rotation has come from one state to another.
func (e *Engine) Moved(ctx context.Context, tx Tx, before, after rotation.Rotation) error {
	return e.moved(ctx, tx, before, after)
}

// Together lets transactions that are wanted at the same time be one.
func Together(s Store) func(context.Context, func(context.Context, Tx) error) error {
	return (&together{store: s}).Update
}

// Shares are the shares of the urgent workers, with jobs that are named only.
type Shares struct{ s shares }

const (
	ShareWidth = shareWidth
	HungWidth  = hungWidth
	HangsAfter = hangsAfter
)

// NewShares returns shares of which nothing is used.
func NewShares() *Shares { return &Shares{shares{m: map[string]*share{}}} }

// Enter asks for a turn.
func (s *Shares) Enter(of, key string, now time.Time) bool {
	return s.s.enter(of, key, retirementJob{key}, now)
}

// Leave gives a turn up and returns whose it is.
func (s *Shares) Leave(of, key string, now time.Time) (next []string) {
	for _, job := range s.s.leave(of, key, now) {
		next = append(next, idOf(job))
	}
	return next
}

// Forget gives up the turns of a step everywhere but in one share, and returns whose they are.
func (s *Shares) Forget(key, except string, now time.Time) (next []string) {
	for _, job := range s.s.forget(key, except, now) {
		next = append(next, idOf(job))
	}
	return next
}
