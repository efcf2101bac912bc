package backends_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
)

var allKinds = []string{backends.LayoutJSON, backends.LayoutString, backends.LayoutBinary}

func layout(t *testing.T, kind, field string) backends.Layout {
	t.Helper()
	l, err := backends.NewLayout(kind, field, allKinds...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLayoutKeepsValues(t *testing.T) {
	fields := func(pairs ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	braced := "{{{ssm:x}}} }} {{{{ \\{{"
	for _, tt := range []struct {
		layout backends.Layout
		fields map[string]string
		stored string
	}{
		{layout(t, "", ""), fields("b", "<&>", "a", "1"), `{"a":"1","b":"<&>"}`},
		{layout(t, "json", ""), fields("", "{{"), `{"":"{{"}`},
		{layout(t, "json", "").WithoutBraces(), fields("a{{b}}", braced),
			`{"a{\u007bb}\u007d":"{\u007b{ssm:x}\u007d} }\u007d {\u007b{\u007b \\{\u007b"}`},
		{layout(t, "string", "").WithoutBraces(), fields("value", braced), braced},
		{layout(t, "string", "password"), fields("password", "{\"a\": 1}\n"), "{\"a\": 1}\n"},
		{layout(t, "binary", ""), fields("value", "\xff\x00"), "\xff\x00"},
	} {
		value := backends.NewValue(tt.fields)
		stored, err := tt.layout.Encode(value)
		if err != nil || string(stored) != tt.stored {
			t.Errorf("stored is %q, %v, want %q", stored, err, tt.stored)
		}
		if got, err := tt.layout.Decode(stored, tt.layout.Binary()); err != nil || !got.Equal(value) {
			t.Errorf("%q came back as %q, %v", tt.stored, got.Reveal(), err)
		}
	}
}

func TestLayoutOfCapabilities(t *testing.T) {
	for _, tt := range []struct {
		kind, field, want string
		binary            bool
	}{
		{"", "", "", false}, {"json", "", "", false}, {"string", "", "value", false}, {"string", "password", "password", false}, {"binary", "", "value", true},
	} {
		if l := layout(t, tt.kind, tt.field); l.Field() != tt.want || l.Binary() != tt.binary {
			t.Errorf("layout %q with field %q: %q, %v", tt.kind, tt.field, l.Field(), l.Binary())
		}
	}
}

func TestLayoutThatIsNone(t *testing.T) {
	for says, of := range map[string]struct {
		kind, field string
		kinds       []string
	}{
		`layout "yaml" is none: use one of json, string, binary`: {"yaml", "", allKinds},
		`layout "binary" is none: use one of json, string`:       {"binary", "", allKinds[:2]},
		"use layout string or binary":                            {"json", "x", allKinds},
		"field is not for layout json":                           {"", "x", allKinds},
	} {
		if _, err := backends.NewLayout(of.kind, of.field, of.kinds...); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want it to say %s", err, says)
		}
	}
}

// Neither what cannot be stored nor what others stored is quoted.
func TestLayoutRefusesWithoutQuoting(t *testing.T) {
	const canary = "canary-71f3ab"
	invalid := func(what string, err error, says string) {
		t.Helper()
		if !errors.Is(err, backends.ErrInvalid) || !strings.Contains(fmt.Sprint(err), says) || strings.Contains(fmt.Sprint(err), canary) {
			t.Errorf("%s: got %v, want it to say %s", what, err, says)
		}
	}
	for name, fields := range map[string]map[string]string{
		"none": {}, "another": {"key": canary}, "two": {"value": canary, "key": canary}, "empty": {"value": ""},
	} {
		for _, kind := range allKinds[1:] {
			_, err := layout(t, kind, "").Encode(backends.NewValue(fields))
			invalid(kind+" of "+name, err, `the one field "value"`)
		}
	}
	for _, tt := range []struct {
		kind, stored string
		blob         bool
		says         string
	}{
		{"json", canary, false, "not a JSON object"}, {"json", "null", false, "not a JSON object"}, {"json", `["` + canary + `"]`, false, "not a JSON object"},
		{"json", canary, true, `layout = "binary" reads it`}, {"string", canary, true, `layout = "binary" reads it`},
		{"binary", canary, false, `is text, where layout "binary" has a place for none; layout = "string" reads it`},
	} {
		_, err := layout(t, tt.kind, "").Decode([]byte(tt.stored), tt.blob)
		invalid(tt.kind+" of "+tt.stored, err, tt.says)
	}
}
