// Package webhook receives events by HTTP from whoever can send JSON: as Standard Webhooks
// (https://www.standardwebhooks.com), signed as GitHub signs, or with a bearer token; with
// a body of CloudEvents 1.0 or of any other form that JSON paths lead through.
package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
	standard "github.com/keybroker/keybroker/rotation/webhook"
)

var epoch = time.Unix(0, 0)

// Receiver is an inbound.Receiver. Only its headers prove when a message of Standard
// Webhooks was sent: those of the others can be sent again, and are recognised by the ids
// of their events.
type Receiver struct {
	keys  []backends.SecretString // of Standard Webhooks
	hub   []backends.SecretString
	token []backends.SecretString
	paths map[string][]httpcall.Path
	now   func() time.Time
}

var _ inbound.Receiver = (*Receiver)(nil)

// New makes a receiver; its diagnostics are about the paths alone, see Config.Validate for
// the rest.
func New(c Config, now func() time.Time) (*Receiver, hcl.Diagnostics) {
	r := &Receiver{keys: inbound.Lines(c.SigningSecret), hub: inbound.Lines(c.HubSecret), token: inbound.Lines(c.BearerToken), now: now}
	for _, key := range c.PublicKeys {
		r.keys = append(r.keys, backends.SecretString(key))
	}
	var diags hcl.Diagnostics
	r.paths, diags = c.compile()
	return r, diags
}

// Receive implements inbound.Receiver.
func (r *Receiver) Receive(_ context.Context, header http.Header, body []byte) ([]inbound.Event, inbound.Reply, error) {
	signed, err := r.verify(header, body)
	if err != nil {
		return nil, inbound.Reply{}, err
	}
	docs, err := documents(header, body)
	if err != nil {
		return nil, inbound.Reply{}, err
	}
	events := make([]inbound.Event, len(docs))
	for i, doc := range docs {
		if events[i], err = r.event(doc); err != nil {
			return nil, inbound.Reply{}, err
		}
		// Where the message is signed an id counts that is signed, too: what stands in other
		// headers could be changed to send a captured message as another one.
		if signed != "" && (len(r.keys) > 0 || events[i].ID == "" || header.Get(binary) != "") {
			events[i].ID = signed
			if len(docs) > 1 {
				events[i].ID = fmt.Sprintf("%s.%d", signed, i)
			}
		}
		events[i] = events[i].Clean()
	}
	return events, inbound.Reply{}, nil
}

// verify checks who has sent a message, and gives what tells it from all others that they
// have signed; empty: they sign nothing.
func (r *Receiver) verify(header http.Header, body []byte) (signed string, err error) {
	switch {
	case len(r.keys) > 0:
		for _, name := range []string{standard.HeaderID, standard.HeaderTimestamp, standard.HeaderSignature} {
			if len(header.Values(name)) > 1 {
				return "", fmt.Errorf("%w: the message has the header %s twice", backends.ErrDenied, name)
			}
		}
		if err := standard.Verify(r.keys, header, body, r.now(), standard.Tolerance); err != nil {
			return "", err
		}
		return header.Get(standard.HeaderID), nil
	case len(r.hub) > 0:
		return inbound.VerifyHub(r.hub, header, body)
	case len(r.token) > 0:
		return "", inbound.VerifyBearer(r.token, header)
	}
	return "", fmt.Errorf("%w: the trigger has no secret to verify messages with", backends.ErrDenied)
}

// The forms of CloudEvents over HTTP (CloudEvents HTTP protocol binding 1.0, section 3).
const (
	structured = "application/cloudevents+json"
	batched    = "application/cloudevents-batch+json"
	binary     = "Ce-Specversion" // the header that tells the binary form
	attribute  = "Ce-"
)

// documents are the events of a message, each as the structured form of CloudEvents has
// them. What is no CloudEvent is taken for the data of one where it has no data itself.
func documents(header http.Header, body []byte) ([]map[string]any, error) {
	kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	if kind == batched {
		var docs []map[string]any
		if err := inbound.Decode(body, &docs); err != nil {
			return nil, err
		}
		if len(docs) > inbound.MaxEvents {
			return nil, fmt.Errorf("%w: the message has more than %d events", backends.ErrInvalid, inbound.MaxEvents)
		}
		for _, doc := range docs {
			if err := check(doc); err != nil {
				return nil, err
			}
		}
		return docs, nil
	}
	var doc map[string]any
	if err := inbound.Decode(body, &doc); err != nil {
		return nil, err
	}
	switch _, hasData := doc["data"]; {
	case header.Get(binary) != "":
		doc = fromHeaders(header, doc)
		return []map[string]any{doc}, check(doc)
	case kind == structured || doc["specversion"] != nil:
		return []map[string]any{doc}, check(doc)
	case doc == nil:
		return nil, fmt.Errorf("%w: the message is no JSON object", backends.ErrInvalid)
	case !hasData:
		data := maps.Clone(doc)
		doc["data"] = data
	}
	return []map[string]any{doc}, nil
}

// fromHeaders is the structured form of a message in the binary one.
func fromHeaders(header http.Header, data map[string]any) map[string]any {
	doc := map[string]any{"data": data}
	for name, values := range header {
		if key, ok := strings.CutPrefix(name, attribute); ok && len(values) == 1 {
			doc[strings.ToLower(key)] = values[0]
		}
	}
	return doc
}

// check refuses what is no event of CloudEvents 1.0, or has data that paths do not lead
// into.
func check(doc map[string]any) error {
	if version, _ := doc["specversion"].(string); version != "1.0" {
		return fmt.Errorf("%w: the event is none of CloudEvents 1.0", backends.ErrInvalid)
	}
	for _, name := range []string{"id", "source", "type"} {
		if text, _ := doc[name].(string); text == "" {
			return fmt.Errorf("%w: the event has no %s, which CloudEvents requires", backends.ErrInvalid, name)
		}
	}
	if doc["data_base64"] != nil {
		return fmt.Errorf("%w: the event has its data in base64: send it as JSON", backends.ErrInvalid)
	}
	return nil
}

// event takes an event apart.
func (r *Receiver) event(doc map[string]any) (inbound.Event, error) {
	var e inbound.Event
	texts := func(name string) ([]string, error) {
		var all []string
		for _, found := range r.find(name, doc) {
			more, ok := textsOf(found)
			if !ok {
				return nil, fmt.Errorf("%w: what the message has for %s is neither a text nor a list of texts", backends.ErrInvalid, name)
			}
			all = append(all, more...)
		}
		return all, nil
	}
	var err error
	if e.Secrets, err = texts(pathSecrets); err != nil {
		return e, err
	}
	values, err := texts(pathValues)
	if err != nil {
		return e, err
	}
	for _, value := range values {
		e.Values = append(e.Values, backends.SecretString(value))
	}
	for name, target := range map[string]*string{pathReason: &e.Reason, pathURL: &e.URL, pathID: &e.ID, pathSource: &e.Source} {
		found, err := texts(name)
		if err != nil {
			return e, err
		}
		*target = strings.Join(found, " ")
	}
	if e.Labels, err = r.labels(doc); err != nil {
		return e, err
	}
	e.At = timeOf(doc)
	e.ID = identity(e.Source, e.ID, doc)
	for _, found := range r.find(pathTest, doc) {
		if test, ok := found.(bool); ok && test {
			e.Test = true
		}
	}
	return e, nil
}

// identity is what tells one event from all others: of CloudEvents, id and source together.
func identity(source, id string, doc map[string]any) string {
	if id != "" && source != "" && doc["specversion"] != nil {
		return source + " " + id
	}
	return id
}

// find returns what a path leads to, nothing where that is null.
func (r *Receiver) find(name string, doc any) []any {
	var all []any
	for _, path := range r.paths[name] {
		for _, found := range path.All(doc) {
			if found != nil {
				all = append(all, found)
			}
		}
	}
	return all
}

// textsOf are the texts of a text or a list of such.
func textsOf(found any) ([]string, bool) {
	switch found := found.(type) {
	case string:
		return []string{found}, true
	case json.Number:
		return []string{found.String()}, true
	case []any:
		var all []string
		for _, one := range found {
			text, ok := one.(string)
			if !ok {
				return nil, false
			}
			all = append(all, text)
		}
		return all, true
	}
	return nil, false
}

// labels are those that an event names secrets by.
func (r *Receiver) labels(doc any) (map[string]string, error) {
	labels := map[string]string{}
	for _, found := range r.find(pathLabels, doc) {
		object, ok := found.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%w: what the message has for %s is no object", backends.ErrInvalid, pathLabels)
		}
		for key, value := range object {
			text, ok := value.(string)
			if !ok {
				return nil, fmt.Errorf("%w: a label in the message is no text", backends.ErrInvalid)
			}
			labels[key] = text
		}
	}
	return labels, nil
}

// timeOf is when an event happened, as CloudEvents and Standard Webhooks have it.
func timeOf(doc map[string]any) time.Time {
	for _, name := range []string{"time", "timestamp"} {
		if text, ok := doc[name].(string); ok {
			if at, err := time.Parse(time.RFC3339, text); err == nil {
				return at.UTC()
			}
		}
	}
	return time.Time{}
}
