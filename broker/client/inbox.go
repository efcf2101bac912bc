package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tmaxmax/go-sse"
)

// EventMessage is an InboxItem in a stream.
const EventMessage = "message"

// InboxItem is one message that waits for a consumer: what a webhook would have brought,
// with its signature. It is verified, opened and acknowledged in the same way.
type InboxItem struct {
	Delivery string            `json:"delivery"` // its id, as in webhook-id: the same each time that it is handed out
	Headers  map[string]string `json:"headers"`  // webhook-id, webhook-timestamp, webhook-signature, content-type
	Body     SecretText        `json:"body"`     // the text that is signed, byte by byte; with the payload "plain" it has a value
}

// Header returns the headers as those of a request.
func (i InboxItem) Header() http.Header {
	h := http.Header{}
	for name, value := range i.Headers {
		h.Set(name, value)
	}
	return h
}

// InboxQuery says how long to wait for messages and how many to take.
type InboxQuery struct {
	Wait     time.Duration // 0: not at all; at most a minute
	Limit    int           // 0: what the server thinks fit
	Instance string        // who collects, where the consumer has several: what it has acknowledged is not handed out to it again
}

func (q InboxQuery) values() url.Values {
	v := url.Values{"wait": {q.Wait.String()}}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	set(v, "instance", q.Instance)
	return v
}

// Inbox collects messages of a consumer as soon as there are some; none after q.Wait. What
// is not acknowledged is handed out again after half a minute.
func (c *Client) Inbox(ctx context.Context, consumer string, q InboxQuery) ([]InboxItem, error) {
	patient := *c
	patient.timeout += q.Wait
	list, err := do[List[InboxItem]](ctx, &patient, inboxOf(consumer).with(q.values()))
	return list.Items, err
}

// FollowInbox collects messages of a consumer, as an instance if that has a name (see
// InboxQuery), for as long as the context lasts. A stream
// that breaks is opened again, of which interrupted is told, unless it is nil; only the
// first opening, or a server that refuses, is an error, which ends the sequence. Where
// there are too many requests (429) it is waited for as long as the server says.
func (c *Client) FollowInbox(ctx context.Context, consumer, instance string, interrupted func(error)) iter.Seq2[InboxItem, error] {
	return func(yield func(InboxItem, error) bool) {
		query := url.Values{}
		set(query, "instance", instance)
		err := c.follow(ctx, inboxOf(consumer).with(query), func(raw sse.Event) (bool, error) {
			if raw.Type != EventMessage {
				return true, nil // for newer clients
			}
			var item InboxItem
			if err := json.Unmarshal([]byte(raw.Data), &item); err != nil {
				return false, fmt.Errorf("%w: %s", errNonsense, raw.Type)
			}
			return yield(item, nil), nil
		}, func(err error) bool {
			if interrupted != nil {
				interrupted(err)
			}
			return true
		})
		if err != nil {
			yield(InboxItem{}, err)
		}
	}
}

func inboxOf(consumer string) call { return api("GET", "consumers", consumer, "inbox") }
