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

var (
	errBroken   = errors.New("the event stream broke")
	errNonsense = errors.New("the server's event is not what keybroker sends") // it is not quoted: it may hold a value
)

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
	return func(yield func(Event, error) bool) {
		err := c.follow(ctx, k, func(raw sse.Event) (bool, error) {
			e, known, err := parseEvent(raw)
			if err != nil {
				return false, err
			}
			return (!known || yield(e, nil)) && e.Type != EventEnd, nil
		}, func(err error) bool { return yield(Event{Type: EventInterrupted, Err: err}, nil) })
		if err != nil {
			yield(Event{}, err)
		}
	}
}

// follow reads a stream, which it opens again when it breaks, until handle or interrupted
// want no more. The error is why it ends before.
func (c *Client) follow(ctx context.Context, k call, handle func(sse.Event) (more bool, err error), interrupted func(error) (more bool)) error {
	k.header = http.Header{"Accept": {"text/event-stream"}}
	delay, opened := firstReopen, false
	for {
		more, began, err := c.readEvents(ctx, k, func(raw sse.Event) (bool, error) {
			more, err := handle(raw)
			if err == nil {
				delay, opened = firstReopen, true
			}
			return more, err
		})
		opened = opened || began && !errors.Is(err, errNonsense)
		switch {
		case !more:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("watching: %w", context.Cause(ctx))
		case !opened && Status(err) != http.StatusTooManyRequests, final(err):
			return err
		case !interrupted(err):
			return nil
		}
		if sleep(ctx, max(delay, retryAfter(err))) {
			delay = min(2*delay, lastReopen)
		} // else the context's error ends it
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

// readEvents reads one stream; began tells that the server has opened it. It returns
// false when handle wants no more.
func (c *Client) readEvents(ctx context.Context, k call, handle func(sse.Event) (bool, error)) (more, began bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(fmt.Errorf("%w: nothing came for %s", errBroken, silence)) })
	defer quiet.Stop()

	resp, err := c.open(ctx, k)
	if err != nil {
		return true, false, err
	}
	defer resp.Body.Close()
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != "text/event-stream" {
		return true, false, errors.New("the server answered with no event stream; is the address right?")
	}
	for raw, err := range sse.Read(&wakeful{resp.Body, quiet}, &sse.ReadConfig{MaxEventSize: maxEventSize}) {
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return true, true, fmt.Errorf("reading events: %w", err)
		}
		if more, err := handle(raw); err != nil || !more {
			return err != nil, true, err
		}
	}
	return true, true, errBroken
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
	case EventIncident:
		e.Incident = new(Incident)
		into = e.Incident
	case EventEnd:
		return e, true, nil
	default:
		return e, false, nil
	}
	if err := json.Unmarshal([]byte(raw.Data), into); err != nil {
		return e, false, fmt.Errorf("%w: %s", errNonsense, raw.Type)
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
