package httpcall

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
	"golang.org/x/text/unicode/norm"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Scope says which variables the templates of one request may use: the root's
// name and the type of what stands below it.
type Scope map[string]cty.Type

// What stands below each root.
var (
	// SecretType is `secret` where the version does not matter.
	SecretType = cty.Object(secretAttrs)
	// SubjectType is `secret` for a probe, which knows no issuer.
	SubjectType = cty.Object(map[string]cty.Type{"name": cty.String, "tenant": cty.String, "labels": cty.Map(cty.String)})
	// SecretVersionType is `secret` where a version is being made.
	SecretVersionType = cty.Object(with(secretAttrs, "version", cty.Number))
	// TagType is `rotation` where a credential is looked up.
	TagType = cty.Object(map[string]cty.Type{"tag": cty.String})
	// RotationType is `rotation` where a credential is made.
	RotationType = cty.Object(map[string]cty.Type{"tag": cty.String, "attempt": cty.Number})
	// FieldType is `field`: the credential itself, any names.
	FieldType = cty.Map(cty.String)
)

var secretAttrs = map[string]cty.Type{
	"name":   cty.String,
	"tenant": cty.String,
	"labels": cty.Map(cty.String),
	"issuer": cty.DynamicPseudoType, // the secret's own issuer block
}

func with(attrs map[string]cty.Type, name string, ty cty.Type) map[string]cty.Type {
	more := map[string]cty.Type{name: ty}
	for n, t := range attrs {
		more[n] = t
	}
	return more
}

// HandleType is `handle` with the names that the issuer's answers give.
func HandleType(names []string) cty.Type {
	attrs := map[string]cty.Type{}
	for _, n := range names {
		attrs[n] = cty.String
	}
	return cty.Object(attrs)
}

// Values is what templates see when a request is built. Only what the scope
// allows has to be set.
type Values struct {
	Field    backends.Value
	Handle   issuer.Handle
	Ref      backends.Ref
	Labels   map[string]string
	Settings json.RawMessage // `secret.issuer`, a JSON object or null
	Version  int
	Tag      string
	Attempt  int
}

// sensitive marks what must not be printed, should a diagnostic of the HCL
// library ever be shown in spite of all care.
const sensitive = "sensitive"

// context makes the variables; the error is ErrInvalid and names no value.
func (v Values) context() (*hcl.EvalContext, error) {
	settings, err := v.settings()
	if err != nil {
		return nil, err
	}
	field, err := stringMap("field", v.Field.Reveal(), sensitive)
	if err != nil {
		return nil, err
	}
	handle, err := stringMap("handle", v.Handle)
	if err != nil {
		return nil, err
	}
	labels, err := stringMap("secret.labels", v.Labels)
	if err != nil {
		return nil, err
	}
	return &hcl.EvalContext{
		Functions: functions,
		Variables: map[string]cty.Value{
			"field":  field,
			"handle": handle,
			"secret": cty.ObjectVal(map[string]cty.Value{
				"name":    cty.StringVal(v.Ref.Name),
				"tenant":  cty.StringVal(v.Ref.Tenant),
				"labels":  labels,
				"issuer":  settings,
				"version": cty.NumberIntVal(int64(v.Version)),
			}),
			"rotation": cty.ObjectVal(map[string]cty.Value{
				"tag":     cty.StringVal(v.Tag),
				"attempt": cty.NumberIntVal(int64(v.Attempt)),
			}),
		},
	}, nil
}

func (v Values) settings() (cty.Value, error) {
	if len(v.Settings) == 0 {
		return cty.EmptyObjectVal, nil
	}
	var parsed ctyjson.SimpleJSONValue
	if err := parsed.UnmarshalJSON(v.Settings); err != nil {
		return cty.NilVal, fmt.Errorf("%w: the secret's issuer settings are no JSON", backends.ErrInvalid)
	}
	if parsed.IsNull() {
		return cty.EmptyObjectVal, nil
	}
	if !parsed.Type().IsObjectType() {
		return cty.NilVal, fmt.Errorf("%w: the secret's issuer settings are no JSON object", backends.ErrInvalid)
	}
	return parsed.Value, nil
}

func stringMap(root string, m map[string]string, marks ...any) (cty.Value, error) {
	if len(m) == 0 {
		return cty.MapValEmpty(cty.String), nil
	}
	vals := make(map[string]cty.Value, len(m))
	for name, text := range m {
		if !unaltered(text) {
			return cty.NilVal, fmt.Errorf("%w: %s.%s is no text in Unicode's normal form C, a template would alter it", backends.ErrInvalid, root, name)
		}
		val := cty.StringVal(text)
		for _, mark := range marks {
			val = val.Mark(mark)
		}
		vals[name] = val
	}
	return cty.MapVal(vals), nil
}

// unaltered tells whether text comes out of a template as it went in. The
// expression language brings every string into normal form C, also after joining
// it to what stands before it; a credential altered so would be refused where it
// is used, and that would look like a proof of its death.
func unaltered(text string) bool {
	return utf8.ValidString(text) && norm.NFC.IsNormalString(text) &&
		(text == "" || norm.NFC.PropertiesString(text).BoundaryBefore())
}
