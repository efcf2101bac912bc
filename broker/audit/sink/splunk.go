package sink

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
)

// Splunk sends events to an HTTP Event Collector
// (https://docs.splunk.com/Documentation/Splunk/latest/Data/HECExamples).
type Splunk struct {
	URL          string                `hcl:"url"` // "https://HOST:8088"; with a path, that is used as it is
	Token        backends.SecretString `hcl:"token"`
	Index        string                `hcl:"index,optional"`
	SourceType   string                `hcl:"sourcetype,optional"`
	Format       string                `hcl:"format,optional"` // jsonl or ocsf
	CAFile       string                `hcl:"ca_file,optional"`
	AllowPrivate bool                  `hcl:"allow_private_network,optional"`
	Timeout      time.Duration         `hcl:"timeout,optional"`
}

const splunkPath = "/services/collector/event"

// Validate implements Config.
func (c Splunk) Validate() error {
	errs := []error{checkURL("url", c.URL, true), checkFormat(c.Format, formJSONL, formOCSF)}
	if c.Token == "" {
		errs = append(errs, invalid("token is empty: it is that of the HTTP Event Collector"))
	}
	return errors.Join(errs...)
}

// Open implements Config.
func (c Splunk) Open(node string) (audit.Sink, error) {
	to, err := client(c.CAFile, c.AllowPrivate, c.Timeout)
	if err != nil {
		return nil, err
	}
	url := strings.TrimSuffix(c.URL, "/")
	if !strings.Contains(strings.SplitN(url, "://", 2)[1], "/") {
		url += splunkPath
	}
	posting := HTTP{URL: url, Headers: map[string]backends.SecretString{"Authorization": "Splunk " + c.Token}}
	return &receiver{client: to, request: func(ctx context.Context, lines []audit.Line) (*http.Request, error) {
		body, err := c.events(lines, node)
		if err != nil || len(body) == 0 {
			return nil, err
		}
		return posting.request(ctx, "application/json", body)
	}}, nil
}

// events are the objects of a batch, one after the other, as the collector takes them.
func (c Splunk) events(lines []audit.Line, node string) ([]byte, error) {
	var out []byte
	sourceType := c.SourceType
	if sourceType == "" {
		sourceType = "keybroker:audit"
	}
	for _, ln := range lines {
		event, err := formOf(c.Format)(ln, node)
		if err != nil {
			return nil, err
		}
		if event == nil || ln.Kind == audit.KindCheckpoint {
			continue
		}
		text, err := json.Marshal(object{"time": float64(ln.At.UnixMicro()) / 1e6, "host": node, "source": "keybroker", "sourcetype": sourceType,
			"index": c.Index, "event": json.RawMessage(event)}.bare())
		if err != nil {
			return nil, err
		}
		out = append(append(out, text...), '\n')
	}
	return out, nil
}
