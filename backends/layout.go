package backends

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// The kinds of Layout, as the attribute "layout" of a backend's block names them.
const (
	LayoutJSON   = "json"   // one text: a JSON object of all fields
	LayoutString = "string" // one text: that of the one field
	LayoutBinary = "binary" // one blob: the bytes of the one field
)

const defaultField = "value"

// Layout is how a Value stands in a vault that keeps one text or one blob per
// version, where applications read it directly: in a form that they know already.
type Layout struct {
	kind   string
	field  string // the one field of kinds string and binary
	braces bool   // doubled braces are written in another way
}

// NewLayout makes the layout that a backend's block asks for by its attributes
// "layout" and "field". The vault has a place for the given kinds, of which the first
// is the default. ErrInvalid, in the form of a Config's Validate, for anything else.
func NewLayout(kind, field string, kinds ...string) (Layout, error) {
	if kind == "" {
		kind = kinds[0]
	}
	single := slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return k == LayoutJSON })
	switch {
	case !slices.Contains(kinds, kind):
		return Layout{}, fmt.Errorf("%w: layout %q is none: use one of %s", ErrInvalid, kind, strings.Join(kinds, ", "))
	case kind == LayoutJSON && field != "":
		return Layout{}, fmt.Errorf("%w: field is not for layout %s, which keeps all fields of a value: leave it out, or use layout %s",
			ErrInvalid, LayoutJSON, strings.Join(single, " or "))
	case kind != LayoutJSON && field == "":
		field = defaultField
	}
	return Layout{kind: kind, field: field}, nil
}

// WithoutBraces returns the layout for a vault that refuses texts with {{ or }} in
// them: a JSON object is written without. Other kinds have no other way to write one.
func (l Layout) WithoutBraces() Layout {
	l.braces = true
	return l
}

// Field is what Capabilities.Field is in this layout.
func (l Layout) Field() string { return l.field }

// Binary tells whether versions are blobs, not texts, as Capabilities.Binary does.
func (l Layout) Binary() bool { return l.kind == LayoutBinary }

// Encode returns what is stored, which is secret: the same for equal values.
// ErrInvalid, which quotes nothing, where the layout has no place for the value.
func (l Layout) Encode(v Value) ([]byte, error) {
	if l.kind == LayoutJSON {
		return l.encodeJSON(v.all())
	}
	text := v.all()[l.field]
	if text == "" || len(v.all()) != 1 {
		return nil, fmt.Errorf("%w: layout %q keeps the one field %q, which must not be empty, and no other", ErrInvalid, l.kind, l.field)
	}
	return []byte(text), nil
}

// withoutBraces is for an object of strings, where braces stand double nowhere but
// within a string.
var withoutBraces = strings.NewReplacer("{{", `{\u007b`, "}}", `}\u007d`)

func (l Layout) encodeJSON(fields map[string]string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // people read it in the vault's console
	if err := e.Encode(fields); err != nil {
		return nil, fmt.Errorf("%w: the value has no JSON form", ErrInvalid)
	}
	text := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if l.braces {
		text = []byte(withoutBraces.Replace(string(text)))
	}
	return text, nil
}

// Decode undoes Encode; blob tells that the version is one. A field of a JSON object
// that is no string, which only others write, is given as its JSON text. ErrInvalid,
// which quotes nothing, where somebody else stored the value in another layout.
func (l Layout) Decode(stored []byte, blob bool) (Value, error) {
	if blob != l.Binary() {
		has, is := LayoutString, "text"
		if blob {
			has, is = LayoutBinary, "binary"
		}
		return Value{}, fmt.Errorf("%w: what is stored is %s, where layout %q has a place for none; layout = %q reads it", ErrInvalid, is, l.kind, has)
	}
	if l.kind != LayoutJSON {
		return NewValue(map[string]string{l.field: string(stored)}), nil
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(stored, &object) != nil || object == nil {
		return Value{}, fmt.Errorf("%w: what is stored is not a JSON object, as layout %q wants; layout = %q reads any text",
			ErrInvalid, LayoutJSON, LayoutString)
	}
	fields := make(map[string]string, len(object))
	for name, raw := range object {
		var s string
		if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
			s = string(raw)
		}
		fields[name] = s
	}
	return NewValue(fields), nil
}
