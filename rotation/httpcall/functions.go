package httpcall

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// functions are those that templates may call. Reading secrets (env, file) is
// not among them: a request's credentials come from auth blocks and `field`.
var functions = map[string]function.Function{
	"jsonencode":   jsonEncode,
	"formencode":   formEncode,
	"base64encode": stringFunction(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }),
	"urlencode":    stringFunction(url.QueryEscape),
}

// jsonEncode writes JSON in ASCII. The standard library of the expression
// language does not: it writes ">" as \u003e, and where a combining accent
// follows, bringing the text into normal form C joins it to that e.
var jsonEncode = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType, AllowNull: true}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		if !args[0].IsWhollyKnown() {
			return cty.UnknownVal(cty.String), nil
		}
		text, err := ctyjson.Marshal(args[0], args[0].Type())
		if err != nil {
			return cty.NilVal, errors.New("jsonencode cannot encode this")
		}
		return cty.StringVal(ascii(text)), nil
	},
})

// ascii escapes what is not ASCII in a JSON text, where it stands in strings only.
func ascii(text []byte) string {
	var b strings.Builder
	for _, r := range string(text) {
		switch {
		case r < utf8.RuneSelf:
			b.WriteByte(byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func stringFunction(f func(string) string) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "text", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.StringVal(f(args[0].AsString())), nil
		},
	})
}

var errForm = errors.New("formencode takes an object of texts, numbers, truth values and lists of these")

// formEncode writes an object as application/x-www-form-urlencoded; a list
// repeats its name.
var formEncode = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "fields", Type: cty.DynamicPseudoType}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		fields := args[0]
		if !fields.IsWhollyKnown() {
			return cty.UnknownVal(cty.String), nil
		}
		if ty := fields.Type(); !ty.IsObjectType() && !ty.IsMapType() {
			return cty.NilVal, errForm
		}
		form := url.Values{}
		for name, val := range fields.AsValueMap() {
			texts, err := formTexts(val)
			if err != nil {
				return cty.NilVal, err
			}
			form[name] = texts
		}
		return cty.StringVal(form.Encode()), nil
	},
})

func formTexts(val cty.Value) ([]string, error) {
	if val.IsNull() {
		return nil, nil
	}
	list := []cty.Value{val}
	if ty := val.Type(); ty.IsTupleType() || ty.IsListType() || ty.IsSetType() {
		list = val.AsValueSlice()
	}
	var texts []string
	for _, v := range list {
		text, err := convert.Convert(v, cty.String)
		if err != nil || text.IsNull() {
			return nil, errForm
		}
		texts = append(texts, text.AsString())
	}
	return texts, nil
}
