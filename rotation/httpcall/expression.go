package httpcall

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/keybroker/keybroker/backends"
)

// expression is a template expression whose references and calls were checked.
type expression struct {
	expr hclsyntax.Expression
	refs []hcl.Traversal
}

// compile checks e against scope: every variable and attribute, every function,
// and, by a trial with unknown values, types and numbers of arguments.
func compile(e hcl.Expression, scope Scope) (expression, hcl.Diagnostics) {
	expr, ok := e.(hclsyntax.Expression)
	if !ok {
		return expression{}, mistake(e.Range(), "Unsupported syntax", "Request templates are written in HCL's native syntax, not in JSON.")
	}
	x := expression{expr: expr, refs: expr.Variables()}
	diags := checkCalls(expr)
	for _, ref := range x.refs {
		diags = append(diags, checkReference(ref, scope)...)
	}
	if diags.HasErrors() {
		return x, diags
	}
	trial := &hcl.EvalContext{Functions: functions, Variables: map[string]cty.Value{}}
	for root, ty := range scope {
		trial.Variables[root] = unknown(ty)
	}
	_, diags = expr.Value(trial)
	return x, diags
}

func unknown(ty cty.Type) cty.Value {
	if !ty.IsObjectType() {
		return cty.UnknownVal(ty)
	}
	attrs := map[string]cty.Value{}
	for name, t := range ty.AttributeTypes() {
		attrs[name] = cty.UnknownVal(t)
	}
	return cty.ObjectVal(attrs)
}

func checkCalls(expr hclsyntax.Expression) hcl.Diagnostics {
	return hclsyntax.VisitAll(expr, func(n hclsyntax.Node) hcl.Diagnostics {
		call, ok := n.(*hclsyntax.FunctionCallExpr)
		if !ok {
			return nil
		}
		if _, ok := functions[call.Name]; ok {
			return nil
		}
		names := slices.Sorted(maps.Keys(functions))
		detail := fmt.Sprintf("There is no function %q in request templates.%s", call.Name, suggest(call.Name, names))
		if call.Name == "env" || call.Name == "file" {
			detail = fmt.Sprintf("%s() cannot be used in request templates: put the credential into an auth block.", call.Name)
		}
		return mistake(call.NameRange, "Unknown function", detail)
	})
}

func checkReference(ref hcl.Traversal, scope Scope) hcl.Diagnostics {
	root := ref.RootName()
	ty, ok := scope[root]
	if !ok {
		return mistake(ref.SourceRange(), "Unknown variable",
			fmt.Sprintf("There is no variable %q here.%s", root, suggest(root, slices.Sorted(maps.Keys(scope)))))
	}
	path := root
	for _, step := range ref[1:] {
		name, ok := stepName(step)
		if !ok || !ty.IsObjectType() {
			return nil
		}
		if !ty.HasAttribute(name) {
			names := slices.Sorted(maps.Keys(ty.AttributeTypes()))
			return mistake(ref.SourceRange(), "Unknown attribute",
				fmt.Sprintf("There is no %s.%s here.%s", path, name, suggest(name, names)))
		}
		ty = ty.AttributeType(name)
		path += "." + name
	}
	return nil
}

// suggest says which of the names was probably meant, or lists them all.
func suggest(given string, names []string) string {
	for _, n := range names {
		if levenshtein.Distance(given, n, nil) < 3 {
			return fmt.Sprintf(" Did you mean %q?", n)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " There is " + strings.Join(names, ", ") + "."
}

func stepName(step hcl.Traverser) (string, bool) {
	switch s := step.(type) {
	case hcl.TraverseAttr:
		return s.Name, true
	case hcl.TraverseIndex:
		if s.Key.Type() == cty.String {
			return s.Key.AsString(), true
		}
	}
	return "", false
}

// refText writes a reference as it stands in the configuration.
func refText(ref hcl.Traversal) string {
	var b strings.Builder
	b.WriteString(ref.RootName())
	for _, step := range ref[1:] {
		if name, ok := stepName(step); ok {
			b.WriteString("." + name)
		} else {
			b.WriteString("[…]")
		}
	}
	return b.String()
}

// missing names the first reference that ctx cannot give.
func (x expression) missing(ctx *hcl.EvalContext) (hcl.Traversal, bool) {
	for _, ref := range x.refs {
		if v, diags := ref.TraverseAbs(ctx); diags.HasErrors() || v.IsNull() {
			return ref, true
		}
	}
	return nil, false
}

// refers tells whether the expression uses a variable, see Request.Uses.
func (x expression) refers(path ...string) bool {
	for _, ref := range x.refs {
		if refersTo(ref, path) {
			return true
		}
	}
	return false
}

// value evaluates the expression. Diagnostics of the HCL library print values,
// so none leaves this function: an error tells the position and, if something is
// not set, its name. It is ErrInvalid.
func (x expression) value(ctx *hcl.EvalContext) (cty.Value, error) {
	if ref, ok := x.missing(ctx); ok {
		return cty.NilVal, fmt.Errorf("%w: the template at %s needs %s, which is not set", backends.ErrInvalid, x.expr.Range(), refText(ref))
	}
	val, diags := x.expr.Value(ctx)
	if diags.HasErrors() {
		return cty.NilVal, fmt.Errorf("%w: the template at %s cannot be evaluated", backends.ErrInvalid, x.expr.Range())
	}
	val, _ = val.UnmarkDeep()
	return val, nil
}

// text evaluates the expression to a string.
func (x expression) text(ctx *hcl.EvalContext) (string, error) {
	val, err := x.value(ctx)
	if err != nil {
		return "", err
	}
	val, convErr := convert.Convert(val, cty.String)
	if convErr != nil || val.IsNull() || !val.IsKnown() {
		return "", fmt.Errorf("%w: the template at %s gives no text", backends.ErrInvalid, x.expr.Range())
	}
	return val.AsString(), nil
}

// mistake is one error of the configuration.
func mistake(at hcl.Range, summary, detail string) hcl.Diagnostics {
	return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at}}
}
