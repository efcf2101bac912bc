package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
)

// exactKeys refuses what encoding/json takes in an object of the type t, and nobody else
// would who reads the same bytes: a key in other letters than the field's ("Policies"),
// and one that is there twice, of which the last counts. A proxy or a person that looks
// at requests must not see another one than the broker does. The document is one that
// was decoded already, so that it is well-formed and not too deep.
func exactKeys(document []byte, t reflect.Type) error {
	return keyReader{json.NewDecoder(bytes.NewReader(document))}.value(t)
}

type keyReader struct{ *json.Decoder }

// value reads one; t is nil where nothing is known of its fields.
func (k keyReader) value(t reflect.Type) error {
	token, err := k.Token()
	if err != nil {
		return err
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch token {
	case json.Delim('{'):
		err = k.object(t)
	case json.Delim('['):
		for err == nil && k.More() {
			err = k.value(elementOf(t, reflect.Slice))
		}
	default:
		return nil
	}
	if err == nil {
		_, err = k.Token() // its end
	}
	return err
}

func (k keyReader) object(t reflect.Type) error {
	fields := fieldsOf(t)
	seen := map[string]bool{}
	for k.More() {
		token, err := k.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string)
		of, known := fields[key]
		switch {
		case fields != nil && !known:
			return &failure{status: http.StatusBadRequest, detail: fmt.Sprintf("in the body the field %q is unknown: there is one that is written otherwise", key)}
		case seen[key] && known:
			return &failure{status: http.StatusBadRequest, detail: fmt.Sprintf("in the body the field %q is there twice", key)}
		case seen[key]: // whatever it is, which is not repeated
			return &failure{status: http.StatusBadRequest, detail: "in the body an object has a key twice"}
		}
		seen[key] = true
		if !known {
			of = elementOf(t, reflect.Map)
		}
		if err := k.value(of); err != nil {
			return err
		}
	}
	return nil
}

func elementOf(t reflect.Type, kind reflect.Kind) reflect.Type {
	if t == nil || t.Kind() != kind {
		return nil
	}
	return t.Elem()
}

// fieldsOf are the types of the fields by their keys; nil if any key may be there.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if t == nil || t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case !f.IsExported(), key == "-", f.Anonymous && key == "": // whose own fields are visible, too
			continue
		case key == "":
			key = f.Name
		}
		fields[key] = f.Type
	}
	return fields
}
