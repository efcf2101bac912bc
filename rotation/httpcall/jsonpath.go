package httpcall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/ohler55/ojg/jp"
	"github.com/zclconf/go-cty/cty"

	"github.com/keybroker/keybroker/backends"
)

// Path is a JSONPath into an answer, such as "$.data[0].secret".
type Path struct {
	expr jp.Expr
	text string
}

// CompilePath checks a JSONPath.
func CompilePath(text string, at hcl.Range) (Path, hcl.Diagnostics) {
	if !strings.HasPrefix(text, "$") {
		return Path{}, mistake(at, "Invalid JSON path", fmt.Sprintf(`%q is no path into an answer: it starts with "$", as in "$.data[0].id".`, text))
	}
	expr, err := jp.ParseString(text)
	if err != nil {
		return Path{}, mistake(at, "Invalid JSON path", fmt.Sprintf(`%q is no path into an answer: %s.`, text, err))
	}
	return Path{expr: expr, text: text}, nil
}

// CompilePaths checks an object of names and paths: { id = "$.id" }.
func CompilePaths(attr *hcl.Attribute) (map[string]Path, hcl.Diagnostics) {
	if attr == nil {
		return nil, mistake(hcl.Range{}, "Missing paths", `Write { name = "$.path.in.the.answer" }.`)
	}
	object, ok := attr.Expr.(*hclsyntax.ObjectConsExpr)
	if !ok || len(object.Items) == 0 {
		return nil, mistake(attr.Expr.Range(), "Invalid "+attr.Name, fmt.Sprintf(`Write %s = { name = "$.path.in.the.answer" }.`, attr.Name))
	}
	paths := map[string]Path{}
	var diags hcl.Diagnostics
	for _, item := range object.Items {
		key, keyDiags := item.KeyExpr.Value(nil)
		val, valDiags := item.ValueExpr.Value(nil)
		if keyDiags.HasErrors() || valDiags.HasErrors() || !isText(key) || !isText(val) || !hclsyntax.ValidIdentifier(key.AsString()) {
			diags = append(diags, mistake(hcl.RangeBetween(item.KeyExpr.Range(), item.ValueExpr.Range()), "Invalid "+attr.Name,
				`This is not a literal name = "$.path".`)...)
			continue
		}
		path, more := CompilePath(val.AsString(), item.ValueExpr.Range())
		diags = append(diags, more...)
		if _, twice := paths[key.AsString()]; twice {
			diags = append(diags, mistake(item.KeyExpr.Range(), "Duplicate name", fmt.Sprintf("%q is given twice.", key.AsString()))...)
		}
		paths[key.AsString()] = path
	}
	return paths, diags
}

func isText(v cty.Value) bool { return v.Type() == cty.String && !v.IsNull() }

// String returns the path as it was written.
func (p Path) String() string { return p.text }

// Single tells whether the path can lead to one thing only.
func (p Path) Single() bool { return p.expr.Normal() }

// Parent returns the path to what the end stands in, "$.links" of "$.links.next";
// false if that is the answer itself, or can be several things.
func (p Path) Parent() (Path, bool) {
	n := len(p.expr) - 1
	for n > 1 && !p.expr[:n].Normal() {
		n--
	}
	if n < 2 {
		return Path{}, false
	}
	return Path{expr: p.expr[:n], text: p.expr[:n].String()}, true
}

// One returns the single thing that the path leads to, false if there is none or
// are several.
func (p Path) One(doc any) (any, bool) {
	found := p.expr.Get(doc)
	if len(found) != 1 {
		return nil, false
	}
	return found[0], true
}

// All returns everything that the path leads to.
func (p Path) All(doc any) []any { return p.expr.Get(doc) }

// Text returns the single, non-empty text or number that the path leads to.
func (p Path) Text(doc any) (string, bool) {
	v, _ := p.One(doc)
	switch v := v.(type) {
	case string:
		return v, v != ""
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// Texts returns the text at each path, and ErrUnavailable naming the paths that
// lead nowhere.
func Texts(paths map[string]Path, doc any) (map[string]string, error) {
	texts := map[string]string{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		p := paths[name]
		text, ok := p.Text(doc)
		if !ok {
			errs = append(errs, fmt.Errorf("%w: the answer has no text at %s", backends.ErrUnavailable, p))
		}
		texts[name] = text
	}
	return texts, errors.Join(errs...)
}

// Decode reads one JSON document; numbers keep their digits. The error is
// ErrUnavailable and quotes nothing.
func Decode(body []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("%w: the answer is no JSON", backends.ErrUnavailable)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: the answer is more than one JSON document", backends.ErrUnavailable)
	}
	return doc, nil
}
