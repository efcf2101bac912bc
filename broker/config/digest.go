package config

import (
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
)

// Digest writes all that makes the block what it is: its source without comments
// and layout, what env() and file() gave, and the content of the files that its
// *_file attributes name. Blocks that write the same do the same. Secrets are
// among it: w is a keyed hash. Files whose fields are tagged file:"reread" are left
// out: whoever has the configuration notices by itself that they change.
func (n Named) Digest(w io.Writer) {
	_, _ = w.Write(n.source)
	digest(w, "", reflect.ValueOf(n.Config))
}

// digest writes the secrets in v, and the files that it names: all that the
// source does not show.
func digest(w io.Writer, name string, v reflect.Value) {
	if !v.IsValid() {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		digest(w, name, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if tag, ok := f.Tag.Lookup("hcl"); ok && f.Tag.Get("file") != "reread" {
				name, _, _ := strings.Cut(tag, ",")
				digest(w, name, v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			digest(w, name, v.Index(i))
		}
	case reflect.Map:
		keys := map[string]reflect.Value{}
		for _, k := range v.MapKeys() {
			keys[k.String()] = v.MapIndex(k)
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			digest(w, k, keys[k])
		}
	case reflect.String:
		switch text := v.String(); {
		case v.Type() == reflect.TypeFor[backends.SecretString]():
			_, _ = fmt.Fprintf(w, "\n%s %d:%s", name, len(text), text)
		case strings.HasSuffix(name, "_file") && text != "":
			content, err := readRegular(text)
			_, _ = fmt.Fprintf(w, "\n%s %d:%s %v", name, len(content), content, err)
		}
	}
}

// tokensOf gives the source of a block without comments and layout.
func (l *loader) tokensOf(b *hclsyntax.Block) []byte {
	tokens, _ := hclsyntax.LexConfig(l.textOf(b), b.TypeRange.Filename, hcl.InitialPos)
	var out []byte
	for _, t := range tokens {
		if t.Type != hclsyntax.TokenComment && t.Type != hclsyntax.TokenNewline {
			out = append(append(out, t.Bytes...), ' ')
		}
	}
	return out
}

// Text is the block as it is written, but for its comments.
func (n Named) Text() string {
	tokens, _ := hclsyntax.LexConfig(n.text, n.Range.Filename, hcl.InitialPos)
	var out []byte
	end := 0
	for _, t := range tokens {
		out = append(out, n.text[end:t.Range.Start.Byte]...) // layout
		switch end = t.Range.End.Byte; {
		case t.Type != hclsyntax.TokenComment:
			out = append(out, t.Bytes...)
		case strings.HasSuffix(string(t.Bytes), "\n"):
			out = append(out, '\n')
		}
	}
	return string(out)
}

// textOf gives the source of a block, from its type to its last brace.
func (l *loader) textOf(b *hclsyntax.Block) []byte {
	source := l.sources[b.TypeRange.Filename]
	from, to := b.TypeRange.Start.Byte, b.CloseBraceRange.End.Byte
	if to > len(source) || from > to {
		return nil
	}
	return source[from:to]
}
