package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/gocty"

	"github.com/keybroker/keybroker/backends"
)

// decoder reads blocks into structs with the tags of package gohcl. It takes
// gohcl's place because what an attribute may be depends here on its Go type
// (secrets, durations), because one block is read into several structs, and
// because gohcl tells less about a mistake.
type decoder struct {
	opts   Options
	diags  hcl.Diagnostics
	hidden []hcl.Range // of the sources: literals where a secret belongs
	faults

	managed func(Reference) (string, bool) // gives what secret() stands for; nil: it cannot be used here
	taken   map[hcl.Range]string           // what calls of env() and file() gave; nil: that is not kept
}

func (d *decoder) mistake(at hcl.Range, summary, detail string) {
	d.diags = append(d.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at})
}

func (d *decoder) warn(at hcl.Range, summary, detail string) {
	d.diags = append(d.diags, &hcl.Diagnostic{Severity: hcl.DiagWarning, Summary: summary, Detail: detail, Subject: &at})
}

// anything is a target that takes whatever the others do not.
type anything struct{}

type field struct {
	name     string
	value    reflect.Value
	required bool
	managed  bool                     // a text that may come from secret(), too: the name beside a secret
	ranges   map[string]reflect.Value // by "attr_range", …: fields for an attribute's place
}

var attributeType = reflect.TypeFor[*hcl.Attribute]()

// layout is what the tags of the targets allow in a block.
type layout struct {
	labels []field
	attrs  map[string]field
	blocks map[string]field
	ranges []reflect.Value // def_range
	open   bool            // whatever else stands there is left alone
}

func layoutOf(targets ...any) layout {
	l := layout{attrs: map[string]field{}, blocks: map[string]field{}}
	for _, t := range targets {
		if _, ok := t.(anything); ok {
			l.open = true
			continue
		}
		l.add(reflect.ValueOf(t).Elem())
	}
	return l
}

func (l *layout) add(v reflect.Value) {
	places := map[string]map[string]reflect.Value{}
	for i := range v.NumField() {
		tag, ok := v.Type().Field(i).Tag.Lookup("hcl")
		if !ok {
			continue
		}
		name, kind, _ := strings.Cut(tag, ",")
		f := field{name: name, value: v.Field(i), managed: v.Type().Field(i).Tag.Get("from") == managedFunction}
		switch kind {
		case "", "attr":
			k := f.value.Kind()
			f.required = f.value.Type() == attributeType || k != reflect.Pointer && k != reflect.Interface
			l.attrs[name] = f
		case "optional":
			l.attrs[name] = f
		case "block":
			k := f.value.Kind()
			f.required = k != reflect.Pointer && k != reflect.Slice
			l.blocks[name] = f
		case "label":
			l.labels = append(l.labels, f)
		case "remain": // of a struct: its attributes and blocks stand in the same block
			l.add(f.value)
		case "def_range":
			l.ranges = append(l.ranges, f.value)
		case "attr_range", "attr_name_range", "attr_value_range":
			if places[name] == nil {
				places[name] = map[string]reflect.Value{}
			}
			places[name][kind] = f.value
		default:
			panic(fmt.Sprintf("field %s of %s: the hcl tag %q is not supported", v.Type().Field(i).Name, v.Type(), tag))
		}
	}
	for name, ranges := range places {
		f := l.attrs[name]
		f.ranges = ranges
		l.attrs[name] = f
	}
}

func (l layout) attrNames() []string  { return slices.Sorted(maps.Keys(l.attrs)) }
func (l layout) blockNames() []string { return slices.Sorted(maps.Keys(l.blocks)) }

// block decodes b into all targets together and tells whether it was right.
func (d *decoder) block(b *hclsyntax.Block, targets ...any) bool {
	before := len(d.diags)
	l := layoutOf(targets...)
	if len(b.Labels) != len(l.labels) {
		d.wrongLabels(b, l)
		return false
	}
	for i, f := range l.labels {
		f.value.SetString(b.Labels[i])
	}
	for _, r := range l.ranges {
		r.Set(reflect.ValueOf(b.DefRange()))
	}
	d.body(b.Body, b.DefRange(), l)
	return len(d.diags) == before
}

func (d *decoder) wrongLabels(b *hclsyntax.Block, l layout) {
	d.hide(b.Body)
	d.unknown.add(b.DefRange())
	form := b.Type
	for _, f := range l.labels {
		form += fmt.Sprintf(" %q", strings.ToUpper(f.name))
	}
	d.mistake(b.DefRange(), fmt.Sprintf("A %s block has %d labels, here are %d", b.Type, len(l.labels), len(b.Labels)),
		fmt.Sprintf("Write %s { … }.", form))
}

func (d *decoder) body(body *hclsyntax.Body, header hcl.Range, l layout) {
	for name, attr := range body.Attributes {
		f, ok := l.attrs[name]
		switch {
		case ok:
			before := len(d.diags)
			if d.attribute(attr, f); len(d.diags) > before {
				d.spoil(attr, header, f)
			}
		case l.open:
			d.hidden = append(d.hidden, attr.Expr.Range())
		default:
			d.unknown.add(header)
			d.unknownAttribute(attr, l)
		}
	}
	first := map[string]*hclsyntax.Block{}
	for _, b := range body.Blocks {
		f, ok := l.blocks[b.Type]
		switch {
		case ok && first[b.Type] != nil && f.value.Kind() != reflect.Slice:
			d.hide(b.Body)
			d.mistake(b.DefRange(), fmt.Sprintf("There is a second %s block", b.Type),
				fmt.Sprintf("Only one is allowed; the first is at %s.", place(first[b.Type].DefRange())))
		case ok:
			first[b.Type] = b
			d.nested(b, f.value)
		case l.open:
			d.hide(b.Body)
		default:
			d.unknown.add(header)
			d.unknownBlock(b, l)
		}
	}
	for name, f := range l.attrs {
		if f.required && body.Attributes[name] == nil {
			d.missing.add(header)
			d.mistake(header, fmt.Sprintf("The attribute %q is missing", name), "It is required here.")
		}
	}
	for name, f := range l.blocks {
		if f.required && first[name] == nil {
			d.missing.add(header)
			d.mistake(header, fmt.Sprintf("The block %q is missing", name), "It is required here.")
		}
	}
}

// spoil notes that an attribute was reported. Where that can be told from its
// absence it is: who asks where a setting comes from is led to the attribute.
func (d *decoder) spoil(attr *hclsyntax.Attribute, header hcl.Range, f field) {
	d.report(fault{name: attr.Name, value: attr.Expr.Range(), header: header})
	if v := f.value; v.Kind() == reflect.Pointer && v.Type() != attributeType && v.IsNil() {
		v.Set(reflect.New(v.Type().Elem()))
	}
}

func (d *decoder) unknownAttribute(attr *hclsyntax.Attribute, l layout) {
	d.hidden = append(d.hidden, attr.Expr.Range()) // it may be a secret under a misspelt name
	detail := suggest(attr.Name, l.attrNames())
	if _, ok := l.blocks[attr.Name]; ok {
		detail = fmt.Sprintf(`It is a block: write %s { … } without "=".`, attr.Name)
	}
	d.mistake(attr.NameRange, fmt.Sprintf("There is no attribute %q here", attr.Name), detail)
}

func (d *decoder) unknownBlock(b *hclsyntax.Block, l layout) {
	d.hide(b.Body)
	detail := suggest(b.Type, l.blockNames())
	if _, ok := l.attrs[b.Type]; ok {
		detail = fmt.Sprintf("It is an attribute: write %s = …", b.Type)
	}
	d.mistake(b.TypeRange, fmt.Sprintf("There is no block %q here", b.Type), detail)
}

// hide masks every value in a body whose meaning is not known.
func (d *decoder) hide(body *hclsyntax.Body) {
	for _, attr := range body.Attributes {
		d.hidden = append(d.hidden, attr.Expr.Range())
	}
	for _, b := range body.Blocks {
		d.hide(b.Body)
	}
}

var blockType = reflect.TypeFor[*hclsyntax.Block]()

// nested decodes a block into a field: a struct, a pointer to one, a slice of
// either, or the block itself, to be decoded later.
func (d *decoder) nested(b *hclsyntax.Block, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Slice:
		one := reflect.New(v.Type().Elem()).Elem()
		d.nested(b, one)
		v.Set(reflect.Append(v, one))
	case v.Type() == blockType:
		v.Set(reflect.ValueOf(b))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.block(b, v.Interface())
	default:
		d.block(b, v.Addr().Interface())
	}
}

func (d *decoder) attribute(attr *hclsyntax.Attribute, f field) {
	for kind, v := range f.ranges {
		v.Set(reflect.ValueOf(map[string]hcl.Range{
			"attr_range": attr.SrcRange, "attr_name_range": attr.NameRange, "attr_value_range": attr.Expr.Range(),
		}[kind]))
	}
	switch target := f.value.Addr().Interface().(type) {
	case *hcl.Expression:
		*target = attr.Expr
		return
	case **hcl.Attribute:
		*target = attr.AsHCLAttribute()
		return
	}
	if lit, ok := attr.Expr.(*hclsyntax.LiteralValueExpr); ok && lit.Val.IsNull() {
		if f.required {
			d.mistake(attr.Expr.Range(), fmt.Sprintf("The attribute %q is null", attr.Name), "It is required here.")
		}
		return // null is as good as not written
	}
	if f.managed && refers(attr.Expr) {
		text, _ := d.secret(attr.Name, attr.Expr)
		f.value.SetString(text)
		return
	}
	d.value(attr.Name, attr.Expr, f.value)
	if strings.HasSuffix(attr.Name, "_file") && f.value.Type() == reflect.TypeFor[string]() {
		f.value.SetString(d.path(f.value.String()))
	}
}

// path makes a path of the configuration one of this process.
func (d *decoder) path(p string) string {
	switch {
	case p == "":
		return p
	case d.opts.Place != nil:
		return d.opts.Place(p)
	case filepath.IsAbs(p):
		return p
	}
	return filepath.Join(d.opts.Dir, p)
}

var (
	secretType   = reflect.TypeFor[backends.SecretString]()
	durationType = reflect.TypeFor[time.Duration]()
)

// special tells whether values of type t are, or hold, what HCL itself does not
// know: secrets or durations.
func special(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return special(t.Elem())
	}
	return t == secretType || t == durationType
}

// value decodes an expression by the type of v and tells whether it was right.
func (d *decoder) value(name string, expr hclsyntax.Expression, v reflect.Value) bool {
	t := v.Type()
	switch {
	case !special(t):
		return d.plain(name, expr, v)
	case t == secretType:
		text, ok := d.secret(name, expr)
		v.SetString(text)
		return ok
	case t == durationType:
		length, ok := d.duration(name, expr)
		v.SetInt(int64(length))
		return ok
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		return d.value(name, expr, v.Elem())
	case t.Kind() == reflect.Slice:
		return d.list(name, expr, v)
	default:
		return d.mapping(name, expr, v)
	}
}

func (d *decoder) list(name string, expr hclsyntax.Expression, v reflect.Value) bool {
	tuple, ok := expr.(*hclsyntax.TupleConsExpr)
	if !ok {
		d.wrongForm(name, expr, "a list", "[ … ]")
		return false
	}
	v.Set(reflect.MakeSlice(v.Type(), len(tuple.Exprs), len(tuple.Exprs)))
	for i, e := range tuple.Exprs {
		ok = d.value(name, e, v.Index(i)) && ok
	}
	return ok
}

func (d *decoder) mapping(name string, expr hclsyntax.Expression, v reflect.Value) bool {
	object, ok := expr.(*hclsyntax.ObjectConsExpr)
	if !ok {
		d.wrongForm(name, expr, "an object", "{ NAME = … }")
		return false
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, item := range object.Items {
		var key string
		one := reflect.New(v.Type().Elem()).Elem()
		good := d.plain(name, item.KeyExpr, reflect.ValueOf(&key).Elem())
		good = d.value(name, item.ValueExpr, one) && good // also under a wrong name: it hides what is secret
		at := reflect.ValueOf(key).Convert(v.Type().Key())
		if good && v.MapIndex(at).IsValid() {
			d.mistake(item.KeyExpr.Range(), fmt.Sprintf("%q has %q twice", name, key), "Leave one of them out.")
			good = false
		}
		v.SetMapIndex(at, one)
		ok = ok && good
	}
	return ok
}

func (d *decoder) wrongForm(name string, expr hclsyntax.Expression, what, form string) {
	d.hidden = append(d.hidden, expr.Range())
	d.mistake(expr.Range(), fmt.Sprintf("%q is %s", name, what), fmt.Sprintf("Write %s = %s.", name, form))
}

// plain decodes what is neither secret nor a duration: constants only.
func (d *decoder) plain(name string, expr hclsyntax.Expression, v reflect.Value) bool {
	val, ok := d.constant(name, expr)
	if !ok {
		return false
	}
	ty, err := gocty.ImpliedType(v.Addr().Interface())
	if err != nil {
		panic(fmt.Sprintf("attribute %q: %s", name, err)) // a struct with a field that no attribute fits
	}
	if val, err = convert.Convert(val, ty); err == nil {
		err = gocty.FromCtyValue(val, v.Addr().Interface())
	}
	if err != nil {
		d.mistake(expr.Range(), fmt.Sprintf("%q is of the wrong type", name), upper(err.Error())+".")
		return false
	}
	return true
}

// constant evaluates an expression that may use neither variables nor functions.
func (d *decoder) constant(name string, expr hclsyntax.Expression) (cty.Value, bool) {
	before := len(d.diags)
	for _, call := range calls(expr) {
		summary, detail := fmt.Sprintf("There is no function %q here", call.Name), "Write the value itself."
		if secretFunction(call.Name) {
			summary = fmt.Sprintf("%s() cannot be used here", call.Name)
			detail = fmt.Sprintf("It reads secrets, and %q is none: it is shown to whoever may see the configuration. Write the value itself.", name)
		}
		d.mistake(call.NameRange, summary, detail)
	}
	for _, v := range expr.Variables() {
		d.mistake(v.SourceRange(), fmt.Sprintf("There is no variable %q", v.RootName()), "The configuration has no variables. Is a text meant? It stands in quotes.")
	}
	if len(d.diags) > before {
		return cty.NilVal, false
	}
	val, diags := expr.Value(nil)
	d.diags = append(d.diags, diags...)
	return val, !diags.HasErrors()
}

func calls(expr hclsyntax.Expression) []*hclsyntax.FunctionCallExpr {
	var found []*hclsyntax.FunctionCallExpr
	_ = hclsyntax.VisitAll(expr, func(n hclsyntax.Node) hcl.Diagnostics {
		if call, ok := n.(*hclsyntax.FunctionCallExpr); ok {
			found = append(found, call)
		}
		return nil
	})
	return found
}

func (d *decoder) duration(name string, expr hclsyntax.Expression) (time.Duration, bool) {
	var text string
	if !d.plain(name, expr, reflect.ValueOf(&text).Elem()) {
		return 0, false
	}
	length, err := ParseDuration(text)
	if err != nil {
		d.mistake(expr.Range(), fmt.Sprintf("%q is no duration", name), `Write numbers with units, such as "90s", "24h" or "7d".`)
		return 0, false
	}
	return length, true
}

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
