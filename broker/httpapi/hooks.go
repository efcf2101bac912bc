package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"reflect"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
)

// Events is what the API serves of inbound events.
type Events interface {
	Event(ctx context.Context, p authn.Principal, trigger string, r client.EventRequest) (client.Rotation, error)
	// Receive takes a request that a trigger knows to be genuine by itself, of at most
	// HookBody bytes.
	Receive(ctx context.Context, trigger string, from netip.Addr, header http.Header, body []byte) (inbound.Reply, error)
	HookBody(trigger string) int64
	InboundEvents(ctx context.Context, p authn.Principal, q client.InboundEventQuery) (client.List[client.InboundEvent], error)
	InboundEvent(ctx context.Context, p authn.Principal, id string) (client.InboundEvent, error)
	ApplyEvent(ctx context.Context, p authn.Principal, id string, r client.ApplyEventRequest) (client.InboundEvent, error)
	Triggers(ctx context.Context, p authn.Principal) (client.List[client.Trigger], error)
	Trigger(ctx context.Context, p authn.Principal, name string) (client.Trigger, error)
}

// maxReport is how many bytes the largest request has that a trigger may take.
const maxReport = 5 << 20

// reported is how many bytes a request to a path may have at most that carries events: what
// its trigger takes is looked at later.
func reported(path string) int64 {
	if strings.HasPrefix(path, root+"hooks/") {
		return maxReport
	}
	return 0
}

// receives serves whoever sends events to a trigger in a form of their own.
func receives() Endpoint {
	return Endpoint{
		Status: http.StatusAccepted, Answer: reflect.TypeFor[client.EventReceipt](), // where the protocol has no answer of its own
		serve: func(s *server, w http.ResponseWriter, r *http.Request, _ authn.Principal) error {
			trigger := r.PathValue("trigger")
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.Broker.HookBody(trigger)))
			if err != nil {
				return badBody(err)
			}
			reply, err := s.Broker.Receive(r.Context(), trigger, address(r), r.Header, body)
			switch {
			case errors.Is(err, backends.ErrDenied), errors.Is(err, backends.ErrNotFound): // who proves nothing is not told which triggers there are
				return &failure{status: http.StatusUnauthorized, detail: "there is no such trigger, or the request does not prove that it is from its sender",
					hint: "the server's log tells more"}
			case err != nil:
				return err
			}
			return send(w, reply.Status, reply.Body)
		}}
}

func inboundEventQuery(p *params) client.InboundEventQuery {
	return client.InboundEventQuery{Trigger: p.text("trigger"), Outcome: p.oneOf("outcome", client.EventOutcomes...), Page: page(p)}
}
