package backends

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"unicode/utf8"
)

const redacted = "(redacted)"

// SecretString is one secret text, such as a token in the configuration. It
// redacts itself wherever it is printed, logged or encoded; Reveal is the only
// way out. A configuration attribute of this type takes env() or file(), never
// a literal.
type SecretString string

// Reveal returns the text itself. Call it as late and in as few places as possible.
func (s SecretString) Reveal() string { return string(s) }

// String, and every other way of printing or encoding, gives a fixed text.
func (s SecretString) String() string               { return redacted }
func (s SecretString) GoString() string             { return redacted }
func (s SecretString) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, redacted) }
func (s SecretString) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }
func (s SecretString) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (s SecretString) LogValue() slog.Value         { return slog.StringValue(redacted) }

// Value is the content of one version of a secret: a small map of fields. It
// is immutable and redacts itself like SecretString.
type Value struct {
	// fields is a closure because fmt calls no methods on what it finds in an
	// unexported field of another struct: it would print a map there in clear.
	fields func() map[string]string
}

// NewValue copies fields into a Value.
func NewValue(fields map[string]string) Value {
	own := maps.Clone(fields)
	return Value{fields: func() map[string]string { return own }}
}

// all returns the fields themselves, not to be changed.
func (v Value) all() map[string]string {
	if v.fields == nil {
		return nil
	}
	return v.fields()
}

// Reveal returns a copy of the fields. Call it as late and in as few places as possible.
func (v Value) Reveal() map[string]string { return maps.Clone(v.all()) }

// FieldNames returns the sorted names of the fields.
func (v Value) FieldNames() []string { return slices.Sorted(maps.Keys(v.all())) }

// IsZero tells whether the value has no fields.
func (v Value) IsZero() bool { return len(v.all()) == 0 }

// storable tells whether a vault with these capabilities gives the value back as
// it is.
func (v Value) storable(c Capabilities) error {
	if v.IsZero() {
		return fmt.Errorf("%w: the value has no fields", ErrInvalid)
	}
	if _, has := v.all()[c.Field]; c.Field != "" && (!has || len(v.all()) != 1) {
		return fmt.Errorf("%w: the vault's layout keeps the one field %q and no other", ErrInvalid, c.Field)
	}
	for name, text := range v.all() {
		if name == "" || !utf8.ValidString(name) {
			return fmt.Errorf("%w: a field of the value has no name, or one that is not UTF-8 text", ErrInvalid)
		}
		if !c.Binary && !utf8.ValidString(text) {
			return fmt.Errorf("%w: a field of the value is not UTF-8 text, which is all that the vault keeps", ErrInvalid)
		}
	}
	return nil
}

// encoded is the form in which the broker itself keeps a value, sealed: JSON has
// no place for bytes that are not UTF-8.
type encoded struct {
	Text  map[string]string `json:"text,omitempty"`
	Bytes map[string][]byte `json:"bytes,omitempty"` // fields that are not UTF-8 text
}

// Encode returns the canonical bytes of the value: the same for equal values. They
// are secret: seal them, and clear them afterwards.
func (v Value) Encode() []byte {
	e := encoded{Text: map[string]string{}, Bytes: map[string][]byte{}}
	for name, text := range v.all() {
		if utf8.ValidString(text) {
			e.Text[name] = text
		} else {
			e.Bytes[name] = []byte(text)
		}
	}
	b, _ := json.Marshal(e) // map keys are sorted; strings and bytes cannot fail
	return b
}

// DecodeValue undoes Encode. ErrInvalid, which quotes nothing, if b has another form.
func DecodeValue(b []byte) (Value, error) {
	var e encoded
	if err := json.Unmarshal(b, &e); err != nil {
		return Value{}, fmt.Errorf("%w: these bytes are no encoded value", ErrInvalid)
	}
	fields := make(map[string]string, len(e.Text)+len(e.Bytes))
	maps.Copy(fields, e.Text)
	for name, raw := range e.Bytes {
		fields[name] = string(raw)
	}
	return Value{fields: func() map[string]string { return fields }}, nil
}

// Equal compares two values without leaking by its duration where they differ.
func (v Value) Equal(w Value) bool {
	return subtle.ConstantTimeCompare(v.digest(), w.digest()) == 1
}

func (v Value) digest() []byte {
	b := v.Encode()
	defer clear(b)
	sum := sha256.Sum256(b)
	return sum[:]
}

// String, and every other way of printing or encoding, gives a fixed text.
func (v Value) String() string               { return redacted }
func (v Value) GoString() string             { return redacted }
func (v Value) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, redacted) }
func (v Value) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (v Value) LogValue() slog.Value         { return slog.StringValue(redacted) }
