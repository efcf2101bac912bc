package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

const maxLimit = 1000

// splitName takes the escaped path below secrets/ apart; the package's
// documentation has the rule.
func splitName(escaped string, subs map[string]endpoints) (name, sub string, ok bool) {
	segments := strings.Split(escaped, "/")
	for n := min(2, len(segments)-1); n > 0; n-- { // "drift/check" before "check"
		if tail := strings.Join(segments[len(segments)-n:], "/"); tail != "" && subs[tail] != nil {
			sub, segments = tail, segments[:len(segments)-n]
			break
		}
	}
	for i, s := range segments {
		plain, err := url.PathUnescape(s)
		if err != nil || plain == "" {
			return "", "", false
		}
		segments[i] = plain
	}
	return strings.Join(segments, "/"), sub, true
}

// params are the query parameters of a request, each of which is taken once.
// What is wrong with them is remembered; err also reports those that nobody took.
type params struct {
	values   url.Values
	problems []string
	taken    []Parameter
}

// parametersOf are those that parse takes.
func parametersOf(parse func(*params)) []Parameter {
	p := &params{}
	parse(p)
	return p.taken
}

func queryOf(r *http.Request) (*params, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &failure{status: http.StatusBadRequest, detail: "the query is malformed"}
	}
	return &params{values: values}, nil
}

func (p *params) text(key string) string { return p.take(Parameter{Name: key, Type: "string"}) }

func (p *params) take(what Parameter) string {
	p.taken = append(p.taken, what)
	key := what.Name
	given := p.values[key]
	delete(p.values, key)
	if len(given) > 1 {
		p.problems = append(p.problems, fmt.Sprintf("the parameter %s is given %d times", key, len(given)))
	}
	if len(given) == 0 {
		return ""
	}
	return given[0]
}

// number returns a parameter from 1 to limit, or 0 if it is not given.
func (p *params) number(key string, limit int) int {
	text := p.take(Parameter{Name: key, Type: "integer", Max: limit})
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > limit {
		p.problems = append(p.problems, fmt.Sprintf("the parameter %s is not a number from 1 to %d", key, limit))
		return 0
	}
	return n
}

// duration returns a parameter from 0 to limit, or otherwise if it is not given.
func (p *params) duration(key string, otherwise, limit time.Duration) time.Duration {
	text := p.take(Parameter{Name: key, Type: "string"})
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > limit {
		p.problems = append(p.problems, fmt.Sprintf("the parameter %s is not a duration from 0s to %s", key, limit))
		return otherwise
	}
	return d
}

// oneOf returns a parameter that is one of the values, or "" if it is not given.
func (p *params) oneOf(key string, values ...string) string {
	given := p.values.Has(key)
	text := p.take(Parameter{Name: key, Type: "string", OneOf: values})
	if given && !slices.Contains(values, text) {
		p.problems = append(p.problems, fmt.Sprintf("the parameter %s is none of %s", key, strings.Join(values, ", ")))
		return ""
	}
	return text
}

func (p *params) flag(key string) bool {
	switch p.take(Parameter{Name: key, Type: "boolean"}) {
	case "", "false":
		return false
	case "true":
		return true
	}
	p.problems = append(p.problems, fmt.Sprintf("the parameter %s is neither true nor false", key))
	return false
}

func (p *params) err() error {
	problems := p.problems
	for key := range p.values {
		problems = append(problems, fmt.Sprintf("the parameter %q is unknown here", key))
	}
	if len(problems) == 0 {
		return nil
	}
	slices.Sort(problems)
	return &failure{status: http.StatusBadRequest, detail: strings.Join(problems, "; ")}
}

func page(p *params) client.Page {
	return client.Page{Limit: p.number("limit", maxLimit), After: p.text("after")}
}

func secretQuery(p *params) client.SecretQuery {
	return client.SecretQuery{Prefix: p.text("prefix"), Page: page(p)}
}

func rotationQuery(p *params) client.RotationQuery {
	return client.RotationQuery{Secret: p.text("secret"), State: p.text("state"), Live: p.flag("live"), Page: page(p)}
}

func retirementQuery(p *params) client.RetirementQuery {
	return client.RetirementQuery{Secret: p.text("secret"), State: p.text("state"), Page: page(p)}
}

// readBody decodes the body, one JSON object of known fields, into into. No body
// at all is the same as {}: whether something is missing is for the Broker to say.
func readBody(r *http.Request, into any) error {
	if r.ContentLength == 0 {
		return nil
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return &failure{status: http.StatusUnsupportedMediaType, detail: "the body must be application/json", hint: "send the header Content-Type: application/json"}
	}
	var document bytes.Buffer
	d := json.NewDecoder(io.TeeReader(r.Body, &document))
	d.DisallowUnknownFields()
	if err := d.Decode(into); errors.Is(err, io.EOF) && r.ContentLength < 0 {
		return nil // there is none
	} else if err != nil {
		return badBody(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("more than one value")
		}
		return badBody(err)
	}
	return exactKeys(document.Bytes(), reflect.TypeOf(into))
}

// badBody says what is wrong with a body without quoting it: it may hold a secret.
func badBody(err error) error {
	f := &failure{status: http.StatusBadRequest, detail: "the body is no single JSON object"}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		f.status = http.StatusRequestEntityTooLarge
		f.detail = fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)
	} else if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
		f.detail = fmt.Sprintf("in the body %s is not a %s", wrong.Field, wrong.Type.Kind())
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		f.status = http.StatusRequestTimeout
		f.detail = "the body did not arrive in time: nothing was done"
	} else if errors.Is(err, io.ErrUnexpectedEOF) {
		f.detail = "the body ends in its middle: nothing was done"
	} else if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		f.detail = "in the body the field " + field + " is unknown"
	}
	return f
}
