package httpapi

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

const (
	inboxWait    = 30 * time.Second // for who does not say how long
	maxInboxWait = time.Minute
	inboxLimit   = 10
	maxInbox     = 100
)

// Inboxes is what of a Broker serves consumers that collect their messages.
type Inboxes interface {
	// Inbox returns as soon as there are messages; none after q.Wait, or when ctx ends. With
	// a limit of 0 it takes none. ErrDenied: the caller is not accepted any more.
	Inbox(ctx context.Context, p authn.Principal, consumer string, q client.InboxQuery) (client.List[client.InboxItem], error)
	// FollowInbox sends messages, as to an instance, until ctx ends, it can no longer tell or p may not collect
	// any more, and closes the channel; it never blocks longer than ctx lasts.
	FollowInbox(ctx context.Context, p authn.Principal, consumer, instance string) (<-chan client.InboxItem, error)
}

// collects serves who collects messages: once, or, to who accepts a stream, for as long as
// they stay.
func collects() Endpoint {
	return Endpoint{
		Query: parametersOf(func(p *params) { inboxQuery(p) }), Status: http.StatusOK, Answer: reflect.TypeFor[client.List[client.InboxItem]](), Media: eventStream,
		serve: func(s *server, w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
			if accepts(r, eventStream) && r.Method != http.MethodHead {
				return s.followInbox(w, r, caller)
			}
			return s.poll(w, r, caller)
		}}
}

// followInbox streams. The parameters that are for one answer are none of a stream.
func (s *server) followInbox(w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
	given, err := queryOf(r)
	if err != nil {
		return err
	}
	instance := given.text("instance")
	if err := given.err(); err != nil {
		return err
	}
	if err := readBody(r, &struct{}{}); err != nil {
		return err
	}
	return streamed(s, w, r, func(ctx context.Context) (<-chan client.InboxItem, error) {
		return s.Broker.FollowInbox(ctx, caller, r.PathValue("name"), instance)
	}, func(i client.InboxItem) frame { return frame{id: i.Delivery, event: client.EventMessage, body: i} })
}

func inboxQuery(p *params) client.InboxQuery {
	q := client.InboxQuery{Wait: p.duration("wait", inboxWait, maxInboxWait), Limit: p.number("limit", maxInbox), Instance: p.text("instance")}
	if q.Limit == 0 {
		q.Limit = inboxLimit
	}
	return q
}

// poll answers once there is something. It ends with the server, too: nobody waits for
// who waits. To HEAD it tells that the caller may, and takes nothing.
func (s *server) poll(w http.ResponseWriter, r *http.Request, caller authn.Principal) error {
	given, err := queryOf(r)
	if err != nil {
		return err
	}
	q := inboxQuery(given)
	if err := given.err(); err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		q.Limit = 0
	}
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Time{}) // not every connection takes deadlines
	_ = conn.SetWriteDeadline(s.now().Add(q.Wait + writeWithin))
	ctx, leave := s.untilStopping(r.Context())
	defer leave()
	list, err := s.Broker.Inbox(ctx, caller, r.PathValue("name"), q)
	if errors.Is(err, backends.ErrDenied) {
		token, _ := bearer(r)
		return refusal(token, err)
	}
	if err != nil {
		return err
	}
	return send(w, http.StatusOK, list)
}

// untilStopping is a context that ends with the server, too.
func (s *server) untilStopping(ctx context.Context) (_ context.Context, leave func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-s.Stopping:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel()
		watching.Wait()
	}
}

// accepts tells whether a request names a media type in its Accept; "*/*" is none.
func accepts(r *http.Request, media string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		if t, _, err := mime.ParseMediaType(part); err == nil && t == media {
			return true
		}
	}
	return false
}
