// Package httpapi is the issuer of credentials that a third-party HTTP API mints
// and revokes, as the configuration describes it.
package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Issuer calls an HTTP API. Errors name the operation, the host and the status,
// never the answer: APIs quote what they were sent.
type Issuer struct {
	traits         issuer.Traits
	client         *outbound.Client
	auth           httpcall.Authenticator
	create, revoke operation
	handle, fields map[string]httpcall.Path
	ends           *end                // nil: nothing tells when a credential ends
	check          operation           // without a request: none
	others         []*httpcall.Request // besides create and revoke
	now            func() time.Time
}

// FindingIssuer is an Issuer that can look credentials up by their tag.
type FindingIssuer struct {
	*Issuer
	find       operation
	pages      httpcall.Pager
	items, tag httpcall.Path
	handle     map[string]httpcall.Path
}

var (
	_ issuer.Issuer          = (*Issuer)(nil)
	_ issuer.SettingsChecker = (*Issuer)(nil)
	_ issuer.Checker         = (*Issuer)(nil)
	_ issuer.Checker         = (*FindingIssuer)(nil)
	_ issuer.Finder          = (*FindingIssuer)(nil)
)

type operation struct {
	name    string
	request *httpcall.Request
	success []int
	// repeatable: doing it twice is as good as once.
	repeatable bool
}

// Close closes the connections kept.
func (i *Issuer) Close() { i.client.Close() }

// Traits implements issuer.Issuer.
func (i *Issuer) Traits() issuer.Traits { return i.traits }

// Issue implements issuer.Issuer. An answer of success that lacks the handle or
// a field is ErrUnavailable: the credential may exist, and is to be looked for.
func (i *Issuer) Issue(ctx context.Context, req issuer.Request) (issuer.Credential, error) {
	values := subjectValues(req.Subject)
	values.Tag, values.Attempt, values.Version = req.Tag, req.Attempt, req.Version
	began := i.now() // before the API begins to count
	resp, err := i.call(ctx, i.create, values)
	if err != nil {
		return issuer.Credential{}, err
	}
	fail := func(err error) (issuer.Credential, error) {
		return issuer.Credential{}, i.create.fail(fmt.Errorf("%w (status %d: the credential may exist)", err, resp.Status))
	}
	doc, err := httpcall.Decode(resp.Body)
	if err != nil {
		return fail(err)
	}
	handle, err := httpcall.Texts(i.handle, doc)
	if err != nil {
		return fail(err)
	}
	fields, err := httpcall.Texts(i.fields, doc)
	if err != nil {
		return fail(err)
	}
	notAfter, err := i.ends.of(doc, began)
	if err != nil {
		return fail(err)
	}
	return issuer.Credential{Value: backends.NewValue(fields), Handle: handle, NotAfter: notAfter}, nil
}

// Revoke implements issuer.Issuer. 404 and 410 say that the API does not know
// the credential, which is an acknowledgement.
func (i *Issuer) Revoke(ctx context.Context, sub issuer.Subject, h issuer.Handle) error {
	values := subjectValues(sub)
	values.Handle = h
	op := i.revoke
	op.success = append([]int{http.StatusNotFound, http.StatusGone}, op.success...)
	_, err := i.call(ctx, op, values)
	return err
}

// CheckSettings implements issuer.SettingsChecker: any object will do that has
// what the templates use of secret.issuer.
func (i *Issuer) CheckSettings(settings json.RawMessage) []string {
	var names []string
	for _, r := range append([]*httpcall.Request{i.create.request, i.revoke.request}, i.others...) {
		missing, err := r.MissingSettings(settings)
		if err != nil {
			return []string{"the settings must be an object"}
		}
		names = append(names, missing...)
	}
	slices.Sort(names)
	var problems []string
	for _, n := range slices.Compact(names) {
		problems = append(problems, fmt.Sprintf("%s is missing: the issuer's templates use secret.issuer.%s", n, n))
	}
	return problems
}

// Find implements issuer.Finder. It reads all pages, or fails: what it did not see
// must not count as "not there".
func (f *FindingIssuer) Find(ctx context.Context, sub issuer.Subject, tag string) ([]issuer.Found, error) {
	l, err := f.look(ctx, sub, tag)
	return l.found, err
}

// looked is what Find sees.
type looked struct {
	found           []issuer.Found
	items           int
	tagged, unnamed int    // items with a text at tag, and with none where there could be one
	unsaid          string // where the first page would say how it goes on, and does not
}

func (f *FindingIssuer) look(ctx context.Context, sub issuer.Subject, tag string) (looked, error) {
	values := subjectValues(sub)
	values.Tag = tag
	var l looked
	req, err := f.find.request.Build(ctx, values)
	if err != nil {
		return l, f.find.fail(err)
	}
	pages := 0
	send := func(req *http.Request) (outbound.Response, error) { return f.send(f.find, req) }
	err = f.pages.Walk(req, send, func(resp outbound.Response) (any, int, error) {
		doc, err := httpcall.Decode(resp.Body)
		if err != nil {
			return nil, 0, err
		}
		items, err := f.matching(doc, tag, &l)
		if pages++; pages == 1 && items > 0 {
			l.unsaid = f.pages.Unsaid(doc)
		}
		return doc, items, err
	})
	if err == nil && l.items > 0 && l.tagged+l.unnamed == 0 {
		err = fmt.Errorf("%w: none of the %d items in the answer has anything at %s", backends.ErrUnavailable, l.items, f.tag)
	}
	if err != nil {
		return looked{}, f.find.fail(err)
	}
	return l, nil
}

// matching picks the items whose tag is exactly tag, and counts all. An answer of another shape
// than described is an error: taken for "none", it would leave an orphan behind.
func (f *FindingIssuer) matching(doc any, tag string, l *looked) (count int, err error) {
	at, ok := f.items.One(doc)
	items, isList := at.([]any)
	if !ok || !isList && at != nil { // {"data": null} is how some APIs write an empty list
		return 0, fmt.Errorf("%w: the answer has no list at %s", backends.ErrUnavailable, f.items)
	}
	l.items += len(items)
	for _, item := range items {
		text, ok := f.tag.Text(item)
		switch {
		case ok:
			l.tagged++
		case f.nameless(item):
			l.unnamed++
		}
		if !ok || text != tag {
			continue
		}
		handle, err := httpcall.Texts(f.handle, item)
		if err != nil {
			return 0, err
		}
		l.found = append(l.found, issuer.Found{Handle: handle, Tag: text})
	}
	return len(items), nil
}

// nameless tells whether an item is of the shape described, and somebody's credential
// without a name: null or "" where the tag would be, or nothing in what it would be in.
func (f *FindingIssuer) nameless(item any) bool {
	at, there := f.tag.One(item)
	if there {
		return at == nil || at == ""
	}
	parent, nested := f.tag.Parent()
	if nested {
		_, there = parent.One(item)
	}
	return there
}

func subjectValues(sub issuer.Subject) httpcall.Values {
	return httpcall.Values{Ref: sub.Ref, Labels: sub.Labels, Settings: sub.Settings}
}

// call builds one request and sends it.
func (i *Issuer) call(ctx context.Context, op operation, values httpcall.Values) (outbound.Response, error) {
	req, err := op.request.Build(ctx, values)
	if err != nil {
		return outbound.Response{}, op.fail(err)
	}
	resp, err := i.send(op, req)
	if err != nil {
		return outbound.Response{}, op.fail(err)
	}
	return resp, nil
}

// send sends one request and gives its status a class. Where that is an error, the
// response has nothing but the status. Frameworks answer a POST that made something with
// a redirection: of what must not be repeated it says nothing for sure.
func (i *Issuer) send(op operation, req *http.Request) (outbound.Response, error) {
	resp, err := i.auth.Send(i.client, req, op.repeatable)
	switch {
	case err != nil && !resp.Sent:
		return outbound.Response{}, fmt.Errorf("%w (%w)", err, issuer.ErrNotSent)
	case err != nil:
		return outbound.Response{}, err
	case slices.Contains(op.success, resp.Status):
		return resp, nil
	}
	class := httpcall.StatusClass(resp.Status)
	if !op.repeatable && resp.Status/100 == 3 {
		class = backends.ErrUnavailable
	}
	return outbound.Response{Status: resp.Status}, fmt.Errorf("%w: status %d", class, resp.Status)
}

func (op operation) fail(err error) error {
	host, port := op.request.Endpoint()
	return fmt.Errorf("%s at %s:%s: %w", op.name, host, port, err)
}
