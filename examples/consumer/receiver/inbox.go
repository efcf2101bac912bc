package receiver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

const (
	pollTimeout = time.Minute // the broker answers after 30 s where there is nothing
	minPause    = time.Second // after a failure, twice as long after each further one
	maxPause    = 30 * time.Second
	maxRefused  = 3 // times in a row that the broker does not let us in
)

// item is a message as the inbox hands it out: signed like a webhook's delivery.
type item struct {
	Delivery string            `json:"delivery"`
	Headers  map[string]string `json:"headers"`
	Body     string            `json:"body"`
}

// Collect takes messages from the consumer's inbox until the context ends. What cannot
// be handled is not acknowledged, so that the broker hands it out again. It fails when
// the broker keeps saying that we may not: somebody has to see that.
func (r *Receiver) Collect(ctx context.Context) error {
	if r.broker == nil || r.opts.TokenFile == "" || r.opts.Consumer == "" {
		return errors.New("an inbox needs the broker's URL, a token, and the consumer's name")
	}
	pause, refused := minPause, 0
	for ctx.Err() == nil {
		items, err := r.poll(ctx)
		if refused++; !errors.As(err, &denied{}) {
			refused = 0
		}
		if refused == maxRefused {
			return fmt.Errorf("giving up the inbox: %w", err)
		}
		if err == nil {
			err = r.takeAll(ctx, items)
		}
		if err == nil {
			pause = minPause
			continue
		}
		if ctx.Err() == nil {
			r.opts.Log.Warn("the inbox could not be emptied", "reason", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
	return nil
}

// poll returns what is there that this instance has not acknowledged, or waits for it.
func (r *Receiver) poll(ctx context.Context) ([]item, error) {
	waiting, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	var list struct {
		Items []item `json:"items"`
	}
	query := url.Values{"wait": {"30s"}, "limit": {"10"}}
	if r.opts.Instance != "" {
		query.Set("instance", r.opts.Instance)
	}
	path := "/api/v1/consumers/" + url.PathEscape(r.opts.Consumer) + "/inbox?" + query.Encode()
	err := r.broker.wait(waiting, http.MethodGet, path, nil, &list)
	return list.Items, err
}

// takeAll takes messages, in their order, and acknowledges them. It fails if one has to be
// taken again: the caller is not to come back at once.
func (r *Receiver) takeAll(ctx context.Context, items []item) error {
	var failed error
	for _, it := range items {
		header := http.Header{}
		for name, value := range it.Headers {
			header.Set(name, value)
		}
		id, a, err := r.take(ctx, header, []byte(it.Body))
		if err == nil {
			err = r.broker.call(ctx, http.MethodPost, "/api/v1/deliveries/"+url.PathEscape(id)+"/ack", a, nil)
		}
		failed = errors.Join(failed, err)
	}
	return failed
}
