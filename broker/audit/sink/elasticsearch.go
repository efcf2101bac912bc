package sink

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Elasticsearch sends records in ECS by the bulk API
// (https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk). Each is
// created under an id of its own, so that what is sent twice is there once.
type Elasticsearch struct {
	URL          string                `hcl:"url"`
	Index        string                `hcl:"index,optional"`   // or data stream; "logs-keybroker.audit-default" if none is given
	APIKey       backends.SecretString `hcl:"api_key,optional"` // encoded, as Elasticsearch shows it
	Username     string                `hcl:"username,optional"`
	Password     backends.SecretString `hcl:"password,optional"`
	CAFile       string                `hcl:"ca_file,optional"`
	AllowPrivate bool                  `hcl:"allow_private_network,optional"`
	Timeout      time.Duration         `hcl:"timeout,optional"`
}

// Validate implements Config.
func (c Elasticsearch) Validate() error {
	errs := []error{checkURL("url", c.URL, c.APIKey != "" || c.Username != ""), atMostOne(map[string]bool{"api_key": c.APIKey != "", "username": c.Username != ""})}
	if (c.Username == "") != (c.Password == "") {
		errs = append(errs, invalid("username and password belong together: write both, or api_key"))
	}
	return errors.Join(errs...)
}

// Open implements Config.
func (c Elasticsearch) Open(node string) (audit.Sink, error) {
	to, err := client(c.CAFile, c.AllowPrivate, c.Timeout)
	if err != nil {
		return nil, err
	}
	posting := HTTP{URL: strings.TrimSuffix(c.URL, "/") + "/_bulk?filter_path=errors,items.*.status,items.*.error.type", Headers: map[string]backends.SecretString{}}
	switch {
	case c.APIKey != "":
		posting.Headers["Authorization"] = "ApiKey " + c.APIKey
	case c.Username != "":
		posting.Headers["Authorization"] = backends.SecretString("Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password.Reveal())))
	}
	index := c.Index
	if index == "" {
		index = "logs-keybroker.audit-default"
	}
	return &receiver{client: to, judge: bulkAnswer, request: func(ctx context.Context, lines []audit.Line) (*http.Request, error) {
		var body []byte
		for _, ln := range lines {
			doc, err := ecs(ln, node)
			if err != nil {
				return nil, err
			}
			if doc == nil {
				continue
			}
			action, err := json.Marshal(object{"create": object{"_index": index, "_id": id(node, ln)}.bare()})
			if err != nil {
				return nil, err
			}
			body = append(append(append(append(body, action...), '\n'), doc...), '\n')
		}
		if len(body) == 0 {
			return nil, nil
		}
		return posting.request(ctx, "application/x-ndjson", body)
	}}, nil
}

// bulkAnswer looks for documents that were not taken; one that was there already is.
func bulkAnswer(answer outbound.Response) error {
	var bulk struct {
		Errors bool
		Items  []map[string]struct {
			Status int
			Error  struct{ Type string }
		}
	}
	if err := json.Unmarshal(answer.Body, &bulk); err != nil {
		return fmt.Errorf("%w: the answer to a bulk request is none", backends.ErrUnavailable)
	}
	if !bulk.Errors {
		return nil
	}
	for _, item := range bulk.Items {
		for _, r := range item {
			if r.Status/100 != 2 && r.Status != http.StatusConflict {
				return fmt.Errorf("a document was not taken (%s): %w", printable(r.Error.Type), refused(r.Status, answer.Header))
			}
		}
	}
	return nil
}

// printable keeps the name of an error class and nothing else.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, s[:min(len(s), 64)])
}
