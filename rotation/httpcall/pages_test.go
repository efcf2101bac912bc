package httpcall_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/outbound"
)

func pager(t *testing.T, src, base string) (httpcall.Pager, hcl.Diagnostics) {
	t.Helper()
	var b struct {
		Pages *httpcall.Pages `hcl:"pages,block"`
	}
	if diags := gohcl.DecodeBody(body(t, src), nil, &b); diags.HasErrors() {
		t.Fatal(diags)
	}
	u, diags := httpcall.ParseBase(base, hcl.Range{}, false)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return httpcall.CompilePages(b.Pages, u)
}

// answers is a server that knows a few pages, by what stands behind its host.
type answers map[string]struct {
	link, body string
	items      int
	status     int // default 200
}

// walk returns what was asked for, in order.
func walk(t *testing.T, p httpcall.Pager, first string, pages answers) ([]string, error) {
	t.Helper()
	var asked []string
	err := p.Walk(request(t, "GET", first, ""), func(req *http.Request) (outbound.Response, error) {
		at := strings.TrimPrefix(req.URL.String(), "https://api.example")
		asked = append(asked, at)
		resp := outbound.Response{Status: 200, Header: http.Header{}, Body: []byte(at)}
		if link := pages[at].link; link != "" {
			resp.Header.Add("Link", `</v1/other>; rel=prev`)
			resp.Header.Add("Link", link)
		}
		if status := pages[at].status; status != 0 {
			return outbound.Response{Status: status}, httpcall.StatusClass(status)
		}
		return resp, nil
	}, func(resp outbound.Response) (any, int, error) {
		page, ok := pages[string(resp.Body)]
		if !ok {
			t.Errorf("nobody told of a page %s", resp.Body)
			return nil, 0, errors.New("no page")
		}
		if page.body == "" {
			return nil, page.items, nil
		}
		doc, err := httpcall.Decode([]byte(page.body))
		return doc, page.items, err
	})
	return asked, err
}

func TestPages(t *testing.T) {
	const start = "https://api.example/v1/keys?name=a%20b&x"
	for name, tt := range map[string]struct {
		src   string
		pages answers
		want  []string
		err   error
	}{
		"none": {"", answers{"/v1/keys?name=a%20b&x": {body: `{"next":"/v1/more"}`}}, []string{"/v1/keys?name=a%20b&x"}, nil},
		"link": {`pages "link" {}`, answers{
			"/v1/keys?name=a%20b&x": {link: `<https://api.example/v1/keys?a=1,2>; title="x, rel=\"next\""; rel="last", </v1/keys?p=2>; title="b; c"; REL="start Next"`},
			"/v1/keys?p=2":          {link: `<keys?p=3>; rel=next`},
			"/v1/keys?p=3":          {link: `<keys?p=4; rel=next`},
		}, []string{"/v1/keys?name=a%20b&x", "/v1/keys?p=2", "/v1/keys?p=3"}, nil},
		"url": {`pages "url" { path = "$.links.next" }`, answers{
			"/v1/keys?name=a%20b&x": {body: `{"links":{"next":"https://api.example/v1/keys?c=%2F#top"}}`},
			"/v1/keys?c=%2F":        {body: `{"links":{"next":"?c=2"}}`},
			"/v1/keys?c=2":          {body: `{"links":{"next":null}}`},
		}, []string{"/v1/keys?name=a%20b&x", "/v1/keys?c=%2F", "/v1/keys?c=2"}, nil},
		"cursor": {`pages "cursor" {
			path      = "$.next"
			parameter = "page token"
		}`, answers{
			"/v1/keys?name=a%20b&x":                        {body: `{"next":"a&b=/"}`},
			"/v1/keys?name=a%20b&x&page+token=a%26b%3D%2F": {body: `{"next":17}`},
			"/v1/keys?name=a%20b&x&page+token=17":          {body: `{"next":""}`},
		}, []string{"/v1/keys?name=a%20b&x", "/v1/keys?name=a%20b&x&page+token=a%26b%3D%2F", "/v1/keys?name=a%20b&x&page+token=17"}, nil},
		"cursor with more": {`pages "cursor" {
			path      = "$.data[-1].id"
			parameter = "after"
			more      = "$.has_more"
		}`, answers{
			"/v1/keys?name=a%20b&x":         {body: `{"has_more":true,"data":[{"id":"1"},{"id":"2"}]}`},
			"/v1/keys?name=a%20b&x&after=2": {body: `{"has_more":false,"data":[{"id":"3"}]}`},
		}, []string{"/v1/keys?name=a%20b&x", "/v1/keys?name=a%20b&x&after=2"}, nil},
		"more, but no cursor": {`pages "cursor" {
			path      = "$.next"
			parameter = "after"
			more      = "$.has_more"
		}`, answers{"/v1/keys?name=a%20b&x": {body: `{"has_more":true}`}}, nil, backends.ErrUnavailable},
		"number": {`pages "number" {
			parameter = "x"
			first     = 0
		}`, answers{
			"/v1/keys?name=a%20b&x":   {items: 2},
			"/v1/keys?name=a%20b&x=1": {items: 1},
			"/v1/keys?name=a%20b&x=2": {items: 0},
		}, []string{"/v1/keys?name=a%20b&x", "/v1/keys?name=a%20b&x=1", "/v1/keys?name=a%20b&x=2"}, nil},
		"round in a circle": {`pages "url" { path = "$.next" }`, answers{
			"/v1/keys?name=a%20b&x": {body: `{"next":"?p=2"}`},
			"/v1/keys?p=2":          {body: `{"next":"?name=a%20b&x"}`},
		}, nil, backends.ErrUnavailable},
		"too many": {`pages "number" {
			parameter = "p"
			max       = 2
		}`, answers{
			"/v1/keys?name=a%20b&x":     {items: 1},
			"/v1/keys?name=a%20b&x&p=2": {items: 1},
		}, nil, backends.ErrUnavailable},
		"number, and nothing past the last page": {`pages "number" { parameter = "p" }`, answers{
			"/v1/keys?name=a%20b&x":     {items: 2},
			"/v1/keys?name=a%20b&x&p=2": {status: 404},
		}, []string{"/v1/keys?name=a%20b&x", "/v1/keys?name=a%20b&x&p=2"}, nil},
		"number, and nothing at all": {`pages "number" { parameter = "p" }`, answers{"/v1/keys?name=a%20b&x": {status: 404}}, nil, backends.ErrInvalid},
		"the host in other letters, with its port": {`pages "url" { path = "$.next" }`, answers{
			"/v1/keys?name=a%20b&x": {body: `{"next":"https://API.Example:443/v1/keys?p=2"}`},
			"/v1/keys?p=2":          {body: `{}`},
		}, []string{"/v1/keys?name=a%20b&x", "/v1/keys?p=2"}, nil},
		"round in a circle, in other letters": {`pages "url" { path = "$.next" }`, answers{
			"/v1/keys?name=a%20b&x": {body: `{"next":"https://API.example:443/v1/keys?name=a%20b&x"}`},
		}, nil, backends.ErrUnavailable},
		"no URL": {`pages "url" { path = "$.next" }`, answers{"/v1/keys?name=a%20b&x": {body: `{"next":":%` + canary + `"}`}}, nil, backends.ErrUnavailable},
	} {
		p, diags := pager(t, tt.src, "https://api.example/v1")
		if diags.HasErrors() {
			t.Errorf("%s: %v", name, diags)
			continue
		}
		asked, err := walk(t, p, start, tt.pages)
		if backends.Class(err) != tt.err || tt.err == nil && (err != nil || !slices.Equal(asked, tt.want)) {
			t.Errorf("%s: asked for %q, %v; want %q", name, asked, err, tt.want)
		}
		if strings.Contains(fmt.Sprint(err), canary) {
			t.Errorf("%s: the answer is in %v", name, err)
		}
	}
}

// An answer that does not say, as described, whether there is more is no last page.
func TestPagesThatDoNotSay(t *testing.T) {
	const url, cursor = `pages "url" { path = "$.links.next" }`, "pages \"cursor\" {\n path = \"$.next\"\n parameter = \"after\"\n}"
	const more = "pages \"cursor\" {\n path = \"$.next\"\n parameter = \"after\"\n more = \"$.more\"\n}"
	const last = "pages \"cursor\" {\n path = \"$.data[-1].id\"\n parameter = \"after\"\n}"
	const relation = `pages "url" { path = "$.links[?(@.rel=='next')].href" }`
	for _, tt := range []struct {
		src, body string
		items     int
		end       bool
	}{
		{more, `{"next":"x"}`, 1, false},
		{more, `{"next":"x","more":"false"}`, 1, false},
		{more, `{"next":"x","more":1}`, 1, false},
		{more, `{"next":"x","more":null}`, 1, false},
		{more, `{"next":"x","more":{}}`, 1, false},
		{more, `{"next":"x","more":false}`, 1, true},
		{more, `{"next":null,"more":true}`, 1, false},
		{cursor, `{"next":{"c":"x"}}`, 1, false},
		{cursor, `{"next":["x"]}`, 1, false},
		{cursor, `{"next":true}`, 1, false},
		{cursor, `{"next":null}`, 1, true},
		{cursor, `{"next":""}`, 1, true},
		{cursor, `{}`, 1, true}, // as many APIs have it; issuer check tells
		{url, `{"links":{"next":{"href":"?p=2"}}}`, 1, false},
		{url, `{}`, 1, false},
		{url, `{"lnks":{"next":"?p=2"}}`, 1, false},
		{url, `{"links":{}}`, 1, true},
		{url, `{"links":null}`, 1, true},
		{url, `{}`, 0, true}, // where there is nothing, nothing is hidden
		{last, `{"data":[]}`, 0, true},
		{relation, `{"links":[{"rel":"prev","href":"?p=0"}]}`, 1, true},
		{relation, `{"links":[{"rel":"next","href":"?p=1"},{"rel":"next","href":"?p=2"}]}`, 1, false},
		{relation, `{"lnks":[]}`, 1, false},
	} {
		p, diags := pager(t, tt.src, "https://api.example/v1")
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		_, err := walk(t, p, "https://api.example/v1/keys", answers{"/v1/keys": {body: tt.body, items: tt.items}})
		if ok := err == nil; ok != tt.end || !ok && !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s: %s with %d items: %v", tt.src, tt.body, tt.items, err)
		}
	}
	// What a page has once led to is spelt right: the last may lack all of it.
	p, _ := pager(t, url, "https://api.example/v1")
	asked, err := walk(t, p, "https://api.example/v1/keys", answers{"/v1/keys": {body: `{"links":{"next":"?p=2"}}`, items: 1}, "/v1/keys?p=2": {body: `{}`, items: 1}})
	if err != nil || len(asked) != 2 {
		t.Errorf("a last page without links: asked for %q, %v", asked, err)
	}
}

func TestUnsaid(t *testing.T) {
	p, _ := pager(t, `pages "url" { path = "$.next" }`, "https://api.example/v1")
	for doc, want := range map[string]string{`{"nxt":"?p=2"}`: "$.next", `{"next":null}`: "", `{"next":"?p=2"}`: ""} {
		parsed, err := httpcall.Decode([]byte(doc))
		if got := p.Unsaid(parsed); err != nil || got != want {
			t.Errorf("%s: got %q, %v", doc, got, err)
		}
	}
	if got := (httpcall.Pager{}).Unsaid(nil); got != "" {
		t.Errorf("without pages: %q", got)
	}
}

// The API's credentials go where the configuration says, whatever an answer says.
func TestPagesElsewhere(t *testing.T) {
	for _, next := range []string{
		"https://evil.example/v1/keys", "//evil.example/v1/keys", "http://api.example/v1/keys", "https://api.example:8443/v1/keys",
		"https://u:p@api.example/v1/keys", "https://api.example.evil.example/v1/keys", "https://API.example@evil.example/v1/keys",
		"/v2/keys", "/v1", "/v1/../v2/keys", "/v1/%2e%2e/v2/keys", "../v2/keys", "https:/v1/keys", "file:///v1/keys", "mailto:x",
	} {
		p, _ := pager(t, `pages "url" { path = "$.next" }`, "https://api.example/v1")
		asked, err := walk(t, p, "https://api.example/v1/keys", answers{"/v1/keys": {body: `{"next":"` + next + `"}`}})
		if !errors.Is(err, backends.ErrInvalid) || len(asked) != 1 {
			t.Errorf("%s: asked for %q, %v", next, asked, err)
		}
		if strings.Contains(fmt.Sprint(err), "evil") {
			t.Errorf("%s: the answer is in %v", next, err)
		}
	}
}

func TestPagesMistakes(t *testing.T) {
	for src, want := range map[string]string{
		`pages "links" {}`:                                           `Did you mean "link"?`,
		`pages "url" {}`:                                             "needs path",
		`pages "link" { path = "$.x" }`:                              "takes no path",
		`pages "cursor" { path = "$.x" }`:                            "needs parameter",
		`pages "url" { path = "next" }`:                              `starts with "$"`,
		`pages "link" { max = 0 }`:                                   "at most",
		"pages \"number\" {\n parameter = \"p\"\n more = \"$.x\"\n}": "takes no more",
	} {
		if _, diags := pager(t, src, "https://api.example"); !strings.Contains(fmt.Sprint(diags), want) {
			t.Errorf("%s: got %v, want %q", src, diags, want)
		}
	}
}
