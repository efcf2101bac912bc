package backendtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
)

var valueTests = []test{
	{"values come back as they were", []need{writes}, testValues},
	{"bytes come back or are refused", []need{writes}, testBinary},
	{"the largest value fits and one byte more does not", []need{limitsSize}, testSizes},
	{"other fields than the layout's are refused", []need{oneField}, testOneField},
	{"names of every legal character", []need{writes}, testNames},
}

// texts are what a field may hold, each a trap for some encoding.
var texts = map[string]string{
	"one":       "x",
	"empty":     "",
	"schlüssel": "пароль 密码 🔑 é e\u0301",
	"control":   "\x00\x01\t\n\r\u2028<>&\"\\'\x7f\ufeff\ufffd",
	"spaces":    "  around \n",
	"json":      `{"a":1}`,
	"array":     `["a"]`,
	"string":    `"quoted"`,
	"number":    "12345678901234567890.10",
	"bool":      "true",
	"null":      "null",
	"base64":    "AAECAw==",
	"uri":       "https://example.com/?a=%2F&b=c#d",
	"template":  "{{ssm:x}} ${x} $x %s",
}

func testValues(t *testing.T, s *suite) {
	if field := s.can().Field; field != "" {
		for name, text := range texts {
			s.keeps(t, "text of "+name, map[string]string{field: text})
		}
		s.keeps(t, "large value", map[string]string{field: s.large()})
		return
	}
	for name, text := range texts {
		s.keeps(t, "field "+name, map[string]string{name: text})
	}
	s.keeps(t, "value with all texts", texts)
	s.keeps(t, "large value", map[string]string{"pem": s.large()})
	many := map[string]string{}
	for i := range 40 {
		many["field-"+strings.Repeat("x", i)] = strings.Repeat("y", i)
	}
	s.keeps(t, "value of many fields", many)
}

// large is a text well within the vault's limit.
func (s *suite) large() string {
	n := 32 << 10
	if limit := s.can().MaxValueSize; limit > 0 {
		n = min(n, limit/2)
	}
	return strings.Repeat("0123456789abcdef", n/16)
}

// keeps publishes fields as a secret of its own and wants them back. An empty text
// may be refused where it would be the whole value.
func (s *suite) keeps(t *testing.T, what string, fields map[string]string) {
	t.Helper()
	ref, want := secret(fmt.Sprintf("values/%d", s.written)), backends.NewValue(fields)
	id, err := s.Driver.Publish(t.Context(), ref, s.writeValue(want, 1, ""))
	if field := s.can().Field; err != nil && field != "" && fields[field] == "" {
		wantClass(t, "publishing an empty "+what, err, backends.ErrInvalid)
		return
	}
	if err != nil {
		t.Errorf("publishing a %s: %v", what, err)
		return
	}
	wantQuiet(t, err)
	got, at, err := s.Driver.Read(t.Context(), ref, "")
	switch {
	case err != nil:
		t.Errorf("reading a %s: %v", what, err)
	case at != id:
		t.Errorf("reading a %s gave the id %q, want %q", what, at, id)
	case !got.Equal(want):
		t.Errorf("a %s came back changed; its fields are %q", what, got.FieldNames())
	}
}

func testBinary(t *testing.T, s *suite) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	field := s.can().Field
	if field == "" {
		field = "bytes"
	}
	fields := map[string]string{field: Canary + string(every)}
	if s.can().Binary {
		s.keeps(t, "value of bytes", fields)
		return
	}
	ref := secret("payments/bytes")
	_, err := s.mount().Publish(t.Context(), ref, s.writeValue(backends.NewValue(fields), 1, ""))
	wantClass(t, "publishing bytes where the vault keeps text", err, backends.ErrInvalid)
	_, _, err = s.Driver.Read(t.Context(), ref, "")
	wantClass(t, "reading what was refused", err, backends.ErrNotFound)
}

func testSizes(t *testing.T, s *suite) {
	limit := s.can().MaxValueSize
	s.keeps(t, "value of the largest size", s.Sized(limit).Reveal())
	for _, more := range []int{1, limit} {
		ref := secret(fmt.Sprintf("payments/larger-%d", more))
		_, err := s.Driver.Publish(t.Context(), ref, s.writeValue(s.Sized(limit+more), 1, ""))
		wantClass(t, fmt.Sprintf("publishing %d bytes more than MaxValueSize", more), err, backends.ErrInvalid)
		_, _, err = s.Driver.Read(t.Context(), ref, "")
		wantClass(t, "reading what was too large", err, backends.ErrNotFound)
		if s.can().Stages {
			_, err := s.stager(t).Stage(t.Context(), ref, s.writeValue(s.Sized(limit+more), 1, ""))
			wantClass(t, fmt.Sprintf("staging %d bytes more than MaxValueSize", more), err, backends.ErrInvalid)
		}
	}
}

func testOneField(t *testing.T, s *suite) {
	field, ref := s.can().Field, secret("payments/fields")
	for name, fields := range map[string]map[string]string{
		"another field": {"not-" + field: Canary},
		"one too many":  {field: Canary, "more": Canary},
		"none":          {},
	} {
		_, err := s.mount().Publish(t.Context(), ref, s.writeValue(backends.NewValue(fields), 1, ""))
		wantClass(t, "publishing "+name, err, backends.ErrInvalid)
	}
}

// testNames has names of every legal character, of the greatest length, and some
// that are words of one or the other vault's API.
func testNames(t *testing.T, s *suite) {
	const letters = "abcdefghijklmnopqrstuvwxyz"
	all := letters + strings.ToUpper(letters) + "0123456789"
	names := []string{
		all, all + "_.@=-", "_", "0", "a.", "a..b", "a-", "a=", "a@b", "_/_", "A/a", "a/A",
		"data", "data/data", "metadata/x", "delete/x", "x/metadata", "secret/data/x",
		"x-AbCdEf", "arn_aws_x", "x=/y@/z-", "a/b/c/d/e/f/g/h/i/j/k/l/m",
		strings.Repeat("x", 255), strings.Repeat("x/", 127) + "x", strings.Repeat("xyz/", 63) + "xyz",
	}
	ids, published := map[string]backends.VersionID{}, 0
	for n, name := range names {
		if backends.ParseName(name) != nil {
			t.Fatalf("%q is no legal name", name)
		}
		if s.Legal != nil && !s.Legal(name) {
			_, err := s.Driver.Publish(t.Context(), secret(name), s.write(n, ""))
			wantClass(t, fmt.Sprintf("publishing as %q", name), err, backends.ErrInvalid)
			continue
		}
		id, err := s.Driver.Publish(t.Context(), secret(name), s.write(n, ""))
		if err != nil {
			t.Errorf("publishing as %q: %v", name, err)
			continue
		}
		ids[name] = id
		published++
	}
	for n, name := range names {
		if id, ok := ids[name]; ok {
			s.wantValue(t, secret(name), "", n, id)
		}
	}
	if got := s.pages(t, backends.DefaultTenant, 7); len(got) != published {
		t.Errorf("%d names are listed, want %d: %q", len(got), published, got)
	}
	if s.Legal != nil {
		s.longest(t)
	}
}

// longest publishes under the longest name of one segment that the vault has a
// place for.
func (s *suite) longest(t *testing.T) {
	t.Helper()
	for n := 255; n > 0; n-- {
		if name := strings.Repeat("y", n); s.Legal(name) {
			s.wantValue(t, secret(name), "", 1, s.publish(t, secret(name), 1, ""))
			return
		}
	}
	t.Error("no name is legal")
}
