package sink

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// HTTP posts lines to any receiver, as newline-delimited JSON. A 2xx means that it has
// them for good.
type HTTP struct {
	URL          string                           `hcl:"url"`
	Format       string                           `hcl:"format,optional"` // jsonl, ocsf or ecs
	Headers      map[string]backends.SecretString `hcl:"headers,optional"`
	CAFile       string                           `hcl:"ca_file,optional"`
	AllowPrivate bool                             `hcl:"allow_private_network,optional"`
	Timeout      time.Duration                    `hcl:"timeout,optional"`
}

// Validate implements Config.
func (c HTTP) Validate() error {
	return errors.Join(checkURL("url", c.URL, len(c.Headers) > 0), checkFormat(c.Format, formJSONL, formOCSF, formECS))
}

// Open implements Config.
func (c HTTP) Open(node string) (audit.Sink, error) {
	to, err := client(c.CAFile, c.AllowPrivate, c.Timeout)
	if err != nil {
		return nil, err
	}
	return &receiver{client: to, request: func(ctx context.Context, lines []audit.Line) (*http.Request, error) {
		body, err := formOf(c.Format).lines(lines, node)
		if err != nil || len(body) == 0 {
			return nil, err
		}
		return c.request(ctx, "application/x-ndjson", body)
	}}, nil
}

func (c HTTP) request(ctx context.Context, contentType string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	for name, value := range c.Headers {
		req.Header.Set(name, value.Reveal())
	}
	return req, nil
}

// Witness posts the newest checkpoint, as the signed note that it is, to somebody who
// keeps it out of the reach of whoever has this host.
type Witness struct {
	URL          string                           `hcl:"url"`
	Headers      map[string]backends.SecretString `hcl:"headers,optional"`
	CAFile       string                           `hcl:"ca_file,optional"`
	AllowPrivate bool                             `hcl:"allow_private_network,optional"`
	Timeout      time.Duration                    `hcl:"timeout,optional"`
}

// Validate implements Config.
func (c Witness) Validate() error { return checkURL("url", c.URL, len(c.Headers) > 0) }

// Open implements Config.
func (c Witness) Open(string) (audit.Sink, error) {
	to, err := client(c.CAFile, c.AllowPrivate, c.Timeout)
	if err != nil {
		return nil, err
	}
	posting := HTTP{URL: c.URL, Headers: c.Headers}
	return &receiver{client: to, blind: true, request: func(ctx context.Context, lines []audit.Line) (*http.Request, error) {
		for i := len(lines) - 1; i >= 0; i-- {
			if lines[i].Kind == audit.KindCheckpoint {
				return posting.request(ctx, "text/plain; charset=utf-8", []byte(lines[i].Note))
			}
		}
		return nil, nil
	}}, nil
}

// receiver is a sink that lines are sent to by one request for each batch.
type receiver struct {
	client  *outbound.Client
	request func(context.Context, []audit.Line) (*http.Request, error) // nil: there is nothing to send
	judge   func(outbound.Response) error                              // looks into a 2xx; may be nil
	blind   bool                                                       // it is not sent the records
}

// Send implements audit.Sink.
func (r *receiver) Send(ctx context.Context, lines []audit.Line) error {
	req, err := r.request(ctx, lines)
	if err != nil || req == nil {
		return err
	}
	answer, err := post(r.client, req)
	if err != nil || r.judge == nil {
		return err
	}
	return r.judge(answer)
}

// Confirms implements audit.Sink.
func (r *receiver) Confirms() bool { return !r.blind }

// Close implements audit.Sink.
func (r *receiver) Close() error {
	r.client.Close()
	return nil
}
