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

// storable tells whether every vault gives the value back as it is: they all
// keep JSON, which has no place for bytes that are not UTF-8.
func (v Value) storable() error {
	if v.IsZero() {
		return fmt.Errorf("%w: the value has no fields", ErrInvalid)
	}
	for name, text := range v.all() {
		if name == "" || !utf8.ValidString(name) || !utf8.ValidString(text) {
			return fmt.Errorf("%w: a field of the value has no name or is not UTF-8 text", ErrInvalid)
		}
	}
	return nil
}

// Equal compares two values without leaking by its duration where they differ.
func (v Value) Equal(w Value) bool {
	return subtle.ConstantTimeCompare(v.digest(), w.digest()) == 1
}

// digest hashes the canonical form: field names sorted, JSON encoded.
func (v Value) digest() []byte {
	b, _ := json.Marshal(v.all()) // map keys are sorted; strings cannot fail
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
