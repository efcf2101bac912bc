package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// timeline shows what becomes of a rotation, or of a lone retirement: a line for
// each fact as it becomes known. On a terminal a last line says what is being
// waited for; anywhere else there are no control codes.
//
// Facts that reach it together are put in the order of their times: a stream
// begins with all that has happened already, object by object.
type timeline struct {
	screen
	now func() time.Time
	// wanted is how the rotation should end.
	wanted string
	each   func(client.Event) error // is given every event; may be nil

	rotation    *client.Rotation
	retirements map[string]*client.Retirement
	shown       map[string]bool // keys of the facts
	pending     []fact
	lost        bool   // the server cannot be reached
	status      string // drawn now, below the facts
}

// fact is one line of a timeline.
type fact struct {
	key    string // the same fact again is not shown again
	at     time.Time
	label  string
	detail string
	tone   tone
}

func newTimeline(out io.Writer, now func() time.Time) *timeline {
	return &timeline{
		screen:      newScreen(out),
		now:         now,
		wanted:      client.RotationDone,
		retirements: map[string]*client.Retirement{},
		shown:       map[string]bool{},
	}
}

// tick is how often the last line is drawn, and how long facts are collected
// before they are put in order.
const tick = 200 * time.Millisecond

// follow shows events until they end. It returns nil only if the rotation ended as
// is wanted and everything that it revoked is proven dead, or its policy waives the proof.
func (t *timeline) follow(ctx context.Context, watch watching) error {
	defer t.flush(true)
	if err := receive(ctx, watch, t.take, func() { t.flush(false) }); err != nil {
		return err
	}
	return t.verdict()
}

// watching opens a stream of events.
type watching func(context.Context) iter.Seq2[client.Event, error]

// receive hands each event to take, and calls draw every tick, both from the caller's
// goroutine. It returns nil when the stream has ended, the first error of take,
// *unfollowed where the stream fails, and why the context has ended.
func receive(ctx context.Context, watch watching, take func(client.Event) error, draw func()) error {
	type received struct {
		event client.Event
		err   error
	}
	events := make(chan received)
	var reader sync.WaitGroup
	defer reader.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader.Go(func() {
		defer close(events)
		for e, err := range watch(ctx) {
			select {
			case events <- received{e, err}:
			case <-ctx.Done():
				return
			}
		}
	})

	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	for {
		select {
		case r, ok := <-events:
			switch {
			case !ok && ctx.Err() != nil:
				return context.Cause(ctx)
			case !ok:
				return nil
			case r.err != nil:
				return &unfollowed{r.err}
			}
			if err := take(r.event); err != nil {
				return err
			}
		case <-ticks.C:
			draw()
		}
	}
}

// unfollowed is why something cannot be followed any more, which goes on.
type unfollowed struct{ error }

func (e *unfollowed) Unwrap() error { return e.error }

// take works one event in.
func (t *timeline) take(e client.Event) error {
	t.connection(e)
	switch e.Type {
	case client.EventRotation:
		first := t.rotation == nil
		t.rotation = e.Rotation
		if first {
			t.title(rotationTitle(*e.Rotation))
		}
		t.add(rotationFacts(*e.Rotation, t.now())...)
	case client.EventRetirement:
		if t.rotation == nil && len(t.retirements) == 0 {
			t.title(retirementTitle(*e.Retirement))
		}
		t.retirements[e.Retirement.ID] = e.Retirement
		t.add(t.ofNow(proofFacts(*e.Retirement))...)
		t.add(handleFact(*e.Retirement, t.now())...)
		if e.Retirement.RotationID == "" || t.rotation == nil { // else the rotation's own steps say it
			t.add(retirementFacts(*e.Retirement)...)
		}
	}
	if t.each != nil {
		return t.each(e)
	}
	return nil
}

// ofNow leaves out what was before the rotation: an emergency takes over retirements
// that have a history.
func (t *timeline) ofNow(facts []fact) []fact {
	if t.rotation == nil {
		return facts
	}
	return slices.DeleteFunc(facts, func(f fact) bool { return f.at.Before(t.rotation.StartedAt) })
}

// connection tells when the server is lost, and when it is back.
func (t *timeline) connection(e client.Event) {
	lost := e.Type == client.EventInterrupted
	if lost == t.lost {
		return
	}
	t.lost = lost
	f := fact{at: t.now(), label: "connected", tone: warning}
	if lost {
		f.label, f.detail = "disconnected", e.Err.Error()+"; trying again"
	}
	f.key = f.label + f.at.String()
	t.add(f)
}

func (t *timeline) add(facts ...fact) {
	for _, f := range facts {
		if !t.shown[f.key] {
			t.shown[f.key] = true
			t.pending = append(t.pending, f)
		}
	}
}

// began is where the timeline's zero is.
func (t *timeline) began() time.Time {
	if t.rotation != nil {
		return t.rotation.StartedAt
	}
	for _, r := range t.retirements {
		return r.RequestedAt
	}
	return t.now()
}

// verdict says what is not as it should be at the end.
func (t *timeline) verdict() error {
	if r := t.rotation; r != nil && r.State != t.wanted {
		if r.Error != "" {
			return fmt.Errorf("rotation %s is %s: %s", r.ID, r.State, r.Error)
		}
		return fmt.Errorf("rotation %s is %s", r.ID, r.State)
	}
	if t.rotation == nil && len(t.retirements) == 0 {
		return errors.New("the server told nothing")
	}
	for _, id := range slices.Sorted(maps.Keys(t.retirements)) {
		r := t.retirements[id]
		if waived := r.NeverMade || r.State == client.Acknowledged && r.Settled(); r.State != client.ProvenDead && !waived {
			hint := "keybroker retirement show " + r.ID
			if r.WaitingFor == waitHandle || r.WaitingFor == waitByHand {
				hint = resolvesRetirement(*r)
			}
			return &hintError{fmt.Errorf("version %d is not proven dead: it is %s", r.Version, r.State), hint}
		}
	}
	return nil
}

// flush draws what is new, in the order of time; last: the status goes away.
func (t *timeline) flush(last bool) {
	if t.out == nil {
		return
	}
	text := t.lines(t.pending, t.began())
	t.pending = nil
	status := ""
	if t.width > 0 && !last {
		status = t.waiting()
	}
	if text == "" && status == t.status {
		return
	}
	t.draw(text, status)
}

// title is the first line.
func (t *timeline) title(text string) {
	if t.out != nil {
		t.draw(t.paint(strong, printable(text))+"\n", "")
	}
}

// waiting says what the rotation is at, for the line that is drawn over again.
func (t *timeline) waiting() string {
	r := t.rotation
	switch {
	case r == nil || r.State == "retiring":
		return t.proving()
	case r.Ended():
		return ""
	case r.State == "overlap" && r.WaitingFor == "overlap":
		left := r.OverlapUntil.Sub(t.now())
		return fmt.Sprintf("version %d stays valid for %s", r.FromVersion, short(max(0, left.Truncate(time.Second))))
	case r.WaitingFor != "":
		return r.State + ", waiting for " + r.WaitingFor
	}
	return r.State
}

func (t *timeline) proving() string {
	var open []string
	for _, id := range slices.Sorted(maps.Keys(t.retirements)) {
		if r := t.retirements[id]; r.State != client.ProvenDead {
			text := fmt.Sprintf("version %d is %s", r.Version, r.State)
			if left := r.NextAt.Sub(t.now()); left > time.Second {
				text += ", next look in " + short(left.Truncate(time.Second))
			}
			open = append(open, text)
		}
	}
	return strings.Join(open, "; ")
}
