package client

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"unicode/utf8"
)

// Base64 is the encoding of fields that are no UTF-8 text: JSON has no place for
// their bytes. It is that of RFC 4648, section 4.
const Base64 = "base64"

// Encodings names the fields of a value that are encoded in its JSON: field →
// Base64.
type Encodings map[string]string

// encoded returns the fields as JSON can have them.
func (f Fields) encoded() (Fields, Encodings) {
	var encodings Encodings
	out := f
	for name, text := range f {
		if utf8.ValidString(text) {
			continue
		}
		if encodings == nil {
			encodings, out = Encodings{}, maps.Clone(f)
		}
		out[name], encodings[name] = base64.StdEncoding.EncodeToString([]byte(text)), Base64
	}
	return out, encodings
}

// errEncoding quotes nothing: what it is about is secret.
var errEncoding = errors.New("a field is not encoded as its encoding says")

// decode undoes encoded in place.
func (f Fields) decode(encodings Encodings) error {
	for name, encoding := range encodings {
		text, ok := f[name]
		raw, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil || encoding != Base64 {
			return errEncoding
		}
		f[name] = string(raw)
	}
	return nil
}

// MarshalJSON writes fields that are no UTF-8 text in base64, and says so.
func (v Value) MarshalJSON() ([]byte, error) {
	type bare Value
	v.Fields, v.Encodings = v.Fields.encoded()
	return unescaped(bare(v))
}

// UnmarshalJSON undoes MarshalJSON.
func (v *Value) UnmarshalJSON(b []byte) error {
	type bare Value
	if err := json.Unmarshal(b, (*bare)(v)); err != nil {
		return err
	}
	defer func() { v.Encodings = nil }()
	return v.Fields.decode(v.Encodings)
}

// MarshalJSON writes fields that are no UTF-8 text in base64, and says so.
func (p PreviousValue) MarshalJSON() ([]byte, error) {
	type bare PreviousValue
	p.Fields, p.Encodings = p.Fields.encoded()
	return unescaped(bare(p))
}

// UnmarshalJSON undoes MarshalJSON.
func (p *PreviousValue) UnmarshalJSON(b []byte) error {
	type bare PreviousValue
	if err := json.Unmarshal(b, (*bare)(p)); err != nil {
		return err
	}
	defer func() { p.Encodings = nil }()
	return p.Fields.decode(p.Encodings)
}

// unescaped leaves it to the caller's encoder whether <, > and & are escaped.
func unescaped(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}
