package httpcall

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"golang.org/x/net/http/httpguts"

	"github.com/keybroker/keybroker/backends"
)

type header struct {
	name string
	expr expression
}

// The broker itself writes these: the first ones say where a message ends and
// whom it is for, and User-Agent marks our traffic.
var ownHeaders = map[string]bool{
	"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Connection": true,
	"Te": true, "Trailer": true, "Upgrade": true, "Expect": true, "User-Agent": true,
}

// LiteralSecret is the Extra of a diagnostic whose subject must not be shown.
type LiteralSecret struct{}

// HidesSource tells who prints diagnostics.
func (LiteralSecret) HidesSource() bool { return true }

// Headers that by their name carry credentials, in canonical form.
var secretHeaders = map[string]bool{
	"Authorization": true, "Proxy-Authorization": true, "Cookie": true, "X-Api-Key": true, "Api-Key": true,
	"X-Auth-Token": true, "X-Access-Token": true, "Private-Token": true,
}

func compileHeaders(e hcl.Expression, scope Scope) ([]header, hcl.Diagnostics) {
	object, ok := e.(*hclsyntax.ObjectConsExpr)
	if !ok {
		return nil, mistake(e.Range(), "Invalid headers", `Headers are written as { Name = "value" }.`)
	}
	var headers []header
	var diags hcl.Diagnostics
	seen := map[string]bool{}
	for _, item := range object.Items {
		key, more := item.KeyExpr.Value(nil)
		if more.HasErrors() || key.Type() != cty.String || !httpguts.ValidHeaderFieldName(key.AsString()) {
			diags = append(diags, mistake(item.KeyExpr.Range(), "Invalid header", "This is no literal name of a header.")...)
			continue
		}
		name := http.CanonicalHeaderKey(key.AsString())
		x, more := compile(item.ValueExpr, scope)
		diags = append(diags, more...)
		switch {
		case seen[name]:
			diags = append(diags, mistake(item.KeyExpr.Range(), "Duplicate header", fmt.Sprintf("The header %s is set twice.", name))...)
		case ownHeaders[name]:
			diags = append(diags, mistake(item.KeyExpr.Range(), "Reserved header", fmt.Sprintf("The header %s is written by the broker itself.", name))...)
		case secretHeaders[name] && len(x.refs) == 0:
			more := mistake(item.ValueExpr.Range(), "Literal secret",
				fmt.Sprintf("The header %s holds a credential, which may not stand in the configuration: use an auth block with file() or env(), or, in a probe, ${field.NAME}.", name))
			more[0].Extra = LiteralSecret{}
			diags = append(diags, more...)
		}
		seen[name] = true
		headers = append(headers, header{name: name, expr: x})
	}
	return headers, diags
}

func (h header) value(ctx *hcl.EvalContext) (string, error) {
	text, err := h.expr.text(ctx)
	if err != nil {
		return "", err
	}
	// Outer spaces do not survive the way, so they would alter a credential too.
	if !httpguts.ValidHeaderFieldValue(text) || strings.TrimSpace(text) != text {
		return "", fmt.Errorf("%w: the value at %s has line breaks, control characters or outer spaces, so it cannot stand in the header %s", backends.ErrInvalid, h.expr.expr.Range(), h.name)
	}
	return text, nil
}
