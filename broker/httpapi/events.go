package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/tmaxmax/go-sse"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// writeWithin is how long a reader of events may keep one write waiting.
const writeWithin = 10 * time.Second

// eventStream is the media type of a stream of server-sent events.
const eventStream = "text/event-stream"

// watches serves a stream of what becomes of what the path names.
func watches(call func(Broker, context.Context, authn.Principal, string) (<-chan client.Event, error)) Endpoint {
	return Endpoint{
		Status: http.StatusOK, Media: eventStream,
		serve: func(s *server, w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
			if err := bare(r, &struct{}{}); err != nil {
				return err
			}
			return streamed(s, w, r, func(ctx context.Context) (<-chan client.Event, error) {
				return call(s.Broker, ctx, caller, r.PathValue("id"))
			}, frameOfEvent)
		}}
}

// frame is one server-sent event.
type frame struct {
	id, event string // without an id it is numbered
	body      any
	last      bool
}

func frameOfEvent(e client.Event) frame {
	f := frame{id: e.ID, event: e.Type, body: struct{}{}, last: e.Type == client.EventEnd}
	switch e.Type {
	case client.EventRotation:
		f.body = e.Rotation
	case client.EventRetirement:
		f.body = e.Retirement
	case client.EventIncident:
		f.body = e.Incident
	}
	return f
}

// streamed serves what call sends, until that ends, or the context that it is given does.
func streamed[T any](s *server, w http.ResponseWriter, r *http.Request, call func(context.Context) (<-chan T, error), frameOf func(T) frame) error {
	ctx, cancel := context.WithCancel(r.Context())
	events, err := call(ctx)
	if err != nil {
		cancel()
		return err
	}
	defer func() {
		cancel()
		for range events { // whoever sends them is done when this ends
		}
	}()

	h := w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("X-Accel-Buffering", "no") // nginx would hold the events back
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	out := stream{w: w, conn: http.NewResponseController(w), now: s.now}
	defer out.release()
	if err := forward(ctx, s, &out, events, frameOf); err != nil {
		s.Logger.Debug("event stream broke", "request_id", requestID(w), "error", err)
	}
	return nil
}

// forward writes events until they end, the reader leaves or the server stops.
func forward[T any](ctx context.Context, s *server, out *stream, events <-chan T, frameOf func(T) frame) error {
	if err := out.comment("watching"); err != nil {
		return err
	}
	beat := time.NewTicker(s.Heartbeat)
	defer beat.Stop()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return nil
			}
			f := frameOf(e)
			if err := out.event(f); err != nil || f.last {
				return err
			}
		case <-beat.C:
			if err := out.comment("still here"); err != nil {
				return err
			}
		case <-s.Stopping:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// stream writes server-sent events to one connection, each with a deadline of
// its own: the server's write timeout is for whole answers.
type stream struct {
	w    http.ResponseWriter
	conn *http.ResponseController
	now  func() time.Time
	sent int
}

func (o *stream) comment(text string) error {
	var m sse.Message
	m.AppendComment(text)
	return o.write(&m)
}

func (o *stream) event(f frame) error {
	o.sent++
	if f.id == "" {
		f.id = strconv.Itoa(o.sent)
	}
	data, err := json.Marshal(f.body)
	if err != nil {
		return fmt.Errorf("encoding event: %w", err)
	}
	m := sse.Message{}
	if m.ID, err = sse.NewID(f.id); err != nil {
		return fmt.Errorf("naming event: %w", err)
	}
	if m.Type, err = sse.NewType(f.event); err != nil {
		return fmt.Errorf("naming event: %w", err)
	}
	m.AppendData(string(data))
	return o.write(&m)
}

func (o *stream) write(m *sse.Message) error {
	// Not every connection takes deadlines; one that does not is still written to.
	_ = o.conn.SetReadDeadline(time.Time{})
	_ = o.conn.SetWriteDeadline(o.now().Add(writeWithin))
	if _, err := m.WriteTo(o.w); err != nil {
		return fmt.Errorf("writing event: %w", err)
	}
	if err := o.conn.Flush(); err != nil {
		return fmt.Errorf("writing event: %w", err)
	}
	return nil
}

// release takes the deadline away, so that the connection serves other requests.
func (o *stream) release() { _ = o.conn.SetWriteDeadline(time.Time{}) }
