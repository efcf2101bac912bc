package client

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
)

const redacted = "(redacted)"

// Fields is the content of one version of a secret: field → value. It redacts
// itself wherever it is printed or logged; only its JSON carries the values,
// since that is what the API is for.
type Fields map[string]string

// Names returns the sorted names of the fields.
func (f Fields) Names() []string { return slices.Sorted(maps.Keys(f)) }

func (f Fields) String() string             { return redacted }
func (f Fields) GoString() string           { return redacted }
func (f Fields) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }
func (f Fields) LogValue() slog.Value       { return slog.StringValue(redacted) }

// SecretText is one secret text. Like Fields it redacts itself except in JSON.
type SecretText string

// Reveal returns the text itself. Call it as late and in as few places as possible.
func (t SecretText) Reveal() string { return string(t) }

func (t SecretText) String() string             { return redacted }
func (t SecretText) GoString() string           { return redacted }
func (t SecretText) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }
func (t SecretText) LogValue() slog.Value       { return slog.StringValue(redacted) }

// Value and Token redact themselves as a whole too: fmt does not ask what a
// pointer inside of them points to when the verb does not fit.

func (v Value) String() string             { return fmt.Sprintf("%s version %d %s", v.Name, v.Version, redacted) }
func (v Value) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, v.String()) }
func (v Value) LogValue() slog.Value       { return slog.StringValue(v.String()) }

func (t Token) String() string             { return fmt.Sprintf("token %s (%s) %s", t.ID, t.Name, redacted) }
func (t Token) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, t.String()) }
func (t Token) LogValue() slog.Value       { return slog.StringValue(t.String()) }
