package receiver

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"
)

const (
	pollTimeout = time.Minute // the broker answers after 30 s where there is nothing
	minPause    = time.Second // after a failure, twice as long after each further one
	maxPause    = 30 * time.Second
)

// item is a message as the inbox hands it out: signed like a webhook's delivery.
type item struct {
	Delivery string            `json:"delivery"`
	Headers  map[string]string `json:"headers"`
	Body     string            `json:"body"`
}

// Collect takes messages from the consumer's inbox until the context ends. What cannot
// be handled is not acknowledged, so that the broker hands it out again.
func (r *Receiver) Collect(ctx context.Context) error {
	if r.broker == nil || r.opts.Token == "" || r.opts.Consumer == "" {
		return errors.New("an inbox needs the broker's URL, a token, and the consumer's name")
	}
	pause := minPause
	for ctx.Err() == nil {
		if err := r.poll(ctx); err == nil {
			pause = minPause
			continue
		} else if ctx.Err() == nil {
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

// poll takes what is there, or waits for it. It fails if something has to be taken
// again: the caller is not to come back at once.
func (r *Receiver) poll(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	var list struct {
		Items []item `json:"items"`
	}
	path := "/api/v1/consumers/" + url.PathEscape(r.opts.Consumer) + "/inbox?wait=30s&limit=10"
	if err := r.broker.wait(waiting, http.MethodGet, path, nil, &list); err != nil {
		return err
	}
	var failed error
	for _, it := range list.Items { // in their order
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
