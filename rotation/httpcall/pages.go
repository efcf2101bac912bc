package httpcall

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
)

// Pages is a block that says how the next page of a list is found:
//
//	pages "link" {}                                                    // header Link, rel="next" (RFC 8288)
//	pages "url" { path = "$.links.next" }                              // the answer has its URL
//	pages "cursor" { path = "$.next_cursor", parameter = "cursor" }    // the answer has a parameter of it
//	pages "number" { parameter = "page" }                              // counted up until a page is empty, or 404
type Pages struct {
	Kind      string    `hcl:"kind,label"`
	Path      string    `hcl:"path,optional"`
	More      string    `hcl:"more,optional"`      // cursor: path to whether there is more, true or false; default: as long as there is a cursor
	Parameter string    `hcl:"parameter,optional"` // of the query
	First     *int      `hcl:"first,optional"`     // number: that of the first page, default 1
	Max       *int      `hcl:"max,optional"`       // pages, default 100
	DefRange  hcl.Range `hcl:",def_range"`
}

var pageKinds = map[string]struct{ needs, takes []string }{
	"link":   {},
	"url":    {needs: []string{"path"}},
	"cursor": {needs: []string{"path", "parameter"}, takes: []string{"more"}},
	"number": {needs: []string{"parameter"}, takes: []string{"first"}},
}

const defaultMaxPages = 100

// Pager goes through the pages of a list. The zero value knows of one only.
type Pager struct {
	next  func(page) (*url.URL, error) // nil: there are no more
	base  *url.URL
	max   int
	path  *Path // that says how it goes on, where one does alone
	count bool  // pages are counted: past the last one there may be a 404
}

// page is one that has been read.
type page struct {
	at     *url.URL
	header http.Header
	doc    any
	items  int
	number int // 0 for the first
}

// CompilePages checks a pages block; every page is below base.
func CompilePages(b *Pages, base *url.URL) (Pager, hcl.Diagnostics) {
	if b == nil {
		return Pager{}, nil
	}
	p := Pager{base: base, max: defaultMaxPages}
	diags := b.check()
	if diags.HasErrors() {
		return p, diags
	}
	if b.Max != nil {
		p.max = *b.Max
	}
	paths := map[string]Path{}
	for name, text := range map[string]string{"path": b.Path, "more": b.More} {
		if text == "" {
			continue
		}
		path, more := CompilePath(text, b.DefRange)
		diags = append(diags, more...)
		paths[name] = path
	}
	switch b.Kind {
	case "link":
		p.next = linked
	case "url":
		p.next = func(at page) (*url.URL, error) {
			text, err := following(paths["path"], at)
			if err != nil {
				return nil, err
			}
			return follow(at.at, text)
		}
	case "cursor":
		p.next = byCursor(b.Parameter, paths["path"], paths["more"], b.More != "")
	case "number":
		p.next, p.count = byNumber(b.Parameter, b.first()), true
	}
	if path, ok := paths["path"]; ok && b.More == "" {
		p.path = &path
	}
	return p, diags
}

func (b Pages) check() hcl.Diagnostics {
	kind, ok := pageKinds[b.Kind]
	if !ok {
		return mistake(b.DefRange, "Unknown pages", fmt.Sprintf("There is no pages %q.%s", b.Kind, suggest(b.Kind, slices.Sorted(maps.Keys(pageKinds)))))
	}
	given := map[string]bool{"path": b.Path != "", "more": b.More != "", "parameter": b.Parameter != "", "first": b.First != nil}
	var diags hcl.Diagnostics
	for _, name := range slices.Sorted(maps.Keys(given)) {
		needed := slices.Contains(kind.needs, name)
		switch {
		case needed && !given[name]:
			diags = append(diags, mistake(b.DefRange, "Missing attribute", fmt.Sprintf("pages %q needs %s, not empty.", b.Kind, name))...)
		case given[name] && !needed && !slices.Contains(kind.takes, name):
			diags = append(diags, mistake(b.DefRange, "Unsupported attribute", fmt.Sprintf("pages %q takes no %s.", b.Kind, name))...)
		}
	}
	if b.Max != nil && *b.Max < 1 {
		diags = append(diags, mistake(b.DefRange, "Invalid limit", "max is the number of pages that are read at most.")...)
	}
	return diags
}

func (b Pages) first() int {
	if b.First == nil {
		return 1
	}
	return *b.First
}

// Walk sends the request of the first page and of all that follow, and gives each
// answer to read, which returns how many items there were. It never takes a part for the
// whole: where the pages do not end, it is ErrUnavailable, and a page of another
// scheme, host or port than base's, or not below it, ErrInvalid and not asked for. What
// send returns has the status of the answer also beside an error.
func (p Pager) Walk(first *http.Request, send func(*http.Request) (outbound.Response, error), read func(outbound.Response) (doc any, items int, err error)) error {
	seen := map[string]bool{}
	req := first
	for number := 0; ; number++ {
		seen[req.URL.String()] = true
		resp, err := send(req)
		if p.count && number > 0 && resp.Status == http.StatusNotFound {
			return nil // the last one was full
		}
		if err != nil {
			return err
		}
		doc, items, err := read(resp)
		if err != nil || p.next == nil {
			return err
		}
		next, err := p.next(page{req.URL, resp.Header, doc, items, number})
		switch {
		case err != nil || next == nil:
			return err
		case !p.below(next):
			return fmt.Errorf("%w: the answer says that the next page is elsewhere than below base_url", backends.ErrInvalid)
		}
		next.Host = p.base.Host // however the answer writes it
		switch {
		case seen[next.String()]:
			return fmt.Errorf("%w: the pages go round in a circle", backends.ErrUnavailable)
		case number+1 >= p.max:
			return fmt.Errorf("%w: there are more than %d pages", backends.ErrUnavailable, p.max)
		}
		req = first.Clone(first.Context())
		req.URL = next
	}
}

// below holds the next page to where the configuration sends the API's credentials.
func (p Pager) below(u *url.URL) bool {
	return u.Scheme == p.base.Scheme && strings.EqualFold(u.Hostname(), p.base.Hostname()) && portOf(u) == portOf(p.base) && u.User == nil &&
		strings.HasPrefix(u.EscapedPath(), p.base.EscapedPath()+"/") && !hasDotSegment(u.EscapedPath())
}

func portOf(u *url.URL) string {
	return cmp.Or(u.Port(), map[string]string{"https": "443", "http": "80"}[u.Scheme])
}

// follow resolves where an answer says that the next page is; nil for an empty text.
func follow(from *url.URL, text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	to, err := from.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: the answer has no URL where that of the next page should be", backends.ErrUnavailable)
	}
	to.Fragment, to.RawFragment = "", ""
	return to, nil
}

func byCursor(parameter string, path, more Path, asksMore bool) func(page) (*url.URL, error) {
	return func(at page) (*url.URL, error) {
		if asksMore {
			said, _ := more.One(at.doc)
			goesOn, ok := said.(bool)
			switch {
			case !ok:
				return nil, fmt.Errorf("%w: the answer has neither true nor false at %s", backends.ErrUnavailable, more)
			case !goesOn:
				return nil, nil
			}
		}
		cursor, err := following(path, at)
		switch {
		case err != nil:
			return nil, err
		case cursor == "" && asksMore:
			return nil, fmt.Errorf("%w: the answer says that there is more, but has no text at %s", backends.ErrUnavailable, path)
		case cursor == "":
			return nil, nil
		}
		return withParameter(at.at, parameter, cursor), nil
	}
}

// following reads what an answer says of the next page; empty: this is the last. One of
// another shape than described is ErrUnavailable: taken for the last, it would hide the
// rest. So is a first page with items that lacks even what the path leads through; of
// later ones it is known that the path is right.
func following(path Path, at page) (string, error) {
	switch found := path.expr.Get(at.doc); len(found) {
	case 0:
		parent, nested := path.Parent()
		if _, there := parent.One(at.doc); there || !nested || at.number > 0 || at.items == 0 {
			return "", nil
		}
		return "", fmt.Errorf("%w: the answer has nothing at %s, where it would say how it goes on", backends.ErrUnavailable, parent)
	case 1:
		switch v := found[0].(type) {
		case nil:
			return "", nil
		case string:
			return v, nil
		case json.Number:
			return v.String(), nil
		}
	}
	return "", fmt.Errorf("%w: what the answer has at %s is neither a text nor null", backends.ErrUnavailable, path)
}

// Unsaid returns the path at which the first page of a list with items has nothing, not
// even null, so that it was taken for the last; empty where it says how it goes on.
func (p Pager) Unsaid(doc any) string {
	if p.path == nil || len(p.path.expr.Get(doc)) > 0 {
		return ""
	}
	return p.path.String()
}

func byNumber(parameter string, first int) func(page) (*url.URL, error) {
	return func(at page) (*url.URL, error) {
		if at.items == 0 {
			return nil, nil
		}
		return withParameter(at.at, parameter, strconv.Itoa(first+at.number+1)), nil
	}
}

// withParameter sets one parameter of the query, and leaves the others as they stand.
func withParameter(u *url.URL, parameter, value string) *url.URL {
	var kept []string
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); pair != "" && (err != nil || plain != parameter) {
			kept = append(kept, pair)
		}
	}
	to := *u
	to.RawQuery = strings.Join(append(kept, url.QueryEscape(parameter)+"="+url.QueryEscape(value)), "&")
	return &to
}

// linked reads the header Link (RFC 8288, 3).
func linked(at page) (*url.URL, error) {
	for _, header := range at.header.Values("Link") {
		for header != "" {
			start := strings.IndexByte(header, '<')
			end := strings.IndexByte(header, '>')
			if start < 0 || end < start {
				break
			}
			target, rest := header[start+1:end], header[end+1:]
			parameters, after := upToComma(rest)
			if isNext(parameters) {
				return follow(at.at, target)
			}
			header = after
		}
	}
	return nil, nil
}

// upToComma splits at the first comma outside of quotes.
func upToComma(s string) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func isNext(parameters string) bool {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "rel") {
			continue
		}
		for rel := range strings.FieldsSeq(strings.Trim(strings.TrimSpace(value), `"`)) {
			if strings.EqualFold(rel, "next") {
				return true
			}
		}
		return false // further ones do not count (RFC 8288, 3.3)
	}
	return false
}
