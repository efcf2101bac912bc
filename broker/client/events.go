package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"time"

	"github.com/tmaxmax/go-sse"
)

const (
	// A stream that is silent for three heartbeats is taken for dead.
	silence      = 45 * time.Second
	maxEventSize = 4 << 20
	firstReopen  = 250 * time.Millisecond
	lastReopen   = 10 * time.Second
)

var errBroken = errors.New("the event stream broke")

// WatchRotation follows a rotation until it has ended: the last event is then
// EventEnd. A stream that breaks yields EventInterrupted and is opened again,
// for as long as the context lasts; only the first opening, or a server that
// refuses, is an error, which ends the sequence. Where there are too many requests
// (429) it is waited for as long as the server says, also before the first opening:
// what is to be followed has begun, whatever was asked beside it.
func (c *Client) WatchRotation(ctx context.Context, id string) iter.Seq2[Event, error] {
	return c.watch(ctx, api("GET", "rotations", id, "events"))
}

// WatchRetirement follows a retirement in the same way, until it is proven or
// nothing is going to change by itself.
func (c *Client) WatchRetirement(ctx context.Context, id string) iter.Seq2[Event, error] {
	return c.watch(ctx, api("GET", "retirements", id, "events"))
}

func (c *Client) watch(ctx context.Context, k call) iter.Seq2[Event, error] {
	k.header = http.Header{"Accept": {"text/event-stream"}}
	return func(yield func(Event, error) bool) {
		delay, opened := firstReopen, false
		for {
			more, err := c.readEvents(ctx, k, func(e Event) bool {
				delay, opened = firstReopen, true
				return yield(e, nil)
			})
			switch {
			case !more:
				return
			case ctx.Err() != nil:
				yield(Event{}, fmt.Errorf("watching: %w", context.Cause(ctx)))
				return
			case !opened && Status(err) != http.StatusTooManyRequests, final(err):
				yield(Event{}, err)
				return
			case !yield(Event{Type: EventInterrupted, Err: err}, nil):
				return
			}
			if !sleep(ctx, max(delay, retryAfter(err))) {
				continue // the context's error ends it
			}
			delay = min(2*delay, lastReopen)
		}
	}
}

// final tells whether the server refuses for good.
func final(err error) bool {
	s := Status(err)
	return 300 <= s && s < 500 && s != http.StatusTooManyRequests
}

// retryAfter is how long the server asks to wait; 0: it does not.
func retryAfter(err error) time.Duration {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.RetryAfter
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// readEvents reads one stream. It returns false when nothing more is wanted: the
// end was read, or handle said so.
func (c *Client) readEvents(ctx context.Context, k call, handle func(Event) bool) (bool, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(fmt.Errorf("%w: nothing came for %s", errBroken, silence)) })
	defer quiet.Stop()

	resp, err := c.open(ctx, k)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != "text/event-stream" {
		return true, errors.New("the server answered with no event stream; is the address right?")
	}
	for raw, err := range sse.Read(&wakeful{resp.Body, quiet}, &sse.ReadConfig{MaxEventSize: maxEventSize}) {
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return true, fmt.Errorf("reading events: %w", err)
		}
		e, known, err := parseEvent(raw)
		if err != nil {
			return true, err
		}
		if known && !handle(e) || e.Type == EventEnd {
			return false, nil
		}
	}
	return true, errBroken
}

// parseEvent decodes an event; those of an unknown type are left to newer clients.
func parseEvent(raw sse.Event) (e Event, known bool, err error) {
	e = Event{ID: raw.LastEventID, Type: raw.Type}
	var into any
	switch raw.Type {
	case EventRotation:
		e.Rotation = new(Rotation)
		into = e.Rotation
	case EventRetirement:
		e.Retirement = new(Retirement)
		into = e.Retirement
	case EventEnd:
		return e, true, nil
	default:
		return e, false, nil
	}
	if err := json.Unmarshal([]byte(raw.Data), into); err != nil {
		return e, false, fmt.Errorf("the server's %s event is not what keybroker sends", raw.Type)
	}
	return e, true, nil
}

// wakeful is a reader that starts a timer anew whenever something comes.
type wakeful struct {
	io.Reader
	quiet *time.Timer
}

func (w *wakeful) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.quiet.Reset(silence)
	return n, err
}
