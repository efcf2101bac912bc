package config

import (
	"bytes"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	deepest  = 200 // levels of brackets, and operators in a row
	exponent = 3   // digits
)

// outsized finds what would exhaust the HCL library, which parses recursively and
// computes numbers exactly: deep nesting (brackets, and operators in a row) and
// large exponents.
//
// The library's tokens are dear: where it can be told without them they are not made.
func outsized(source []byte, name string) (hcl.Range, bool) {
	if shallow(source) {
		return hcl.Range{}, false
	}
	return outsizedToken(source, name)
}

func outsizedToken(source []byte, name string) (hcl.Range, bool) {
	tokens, _ := hclsyntax.LexConfig(source, name, hcl.InitialPos)
	depth, operators := 0, 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd:
			depth--
		case hclsyntax.TokenBang, hclsyntax.TokenMinus, hclsyntax.TokenQuestion:
			operators++
		case hclsyntax.TokenNewline, hclsyntax.TokenComment, hclsyntax.TokenComma:
			operators = 0
		case hclsyntax.TokenNumberLit:
			_, digits, _ := strings.Cut(strings.ToLower(string(t.Bytes)), "e")
			if len(strings.TrimLeft(digits, "+-")) > exponent {
				return t.Range, true
			}
		}
		if depth > deepest || operators > deepest {
			return t.Range, true
		}
	}
	return hcl.Range{}, false
}

// shallow tells whether a source certainly has nothing that outsized looks for. It takes
// what stands between quotes, and after # or //, for text, and gives up where that needs
// a parser: at templates, heredocs and comments of several lines.
func shallow(source []byte) bool {
	depth := 0
	for line := range bytes.Lines(source) {
		code, ok := codeOf(line)
		if !ok {
			return false
		}
		operators := 0
		for i, c := range code {
			switch c {
			case '{', '[', '(':
				depth++
			case '}', ']', ')':
				depth--
			case '!', '-', '?':
				operators++
			case 'e', 'E':
				if exponentAt(code[i+1:]) {
					return false
				}
			}
			if depth > deepest || operators > deepest {
				return false
			}
		}
	}
	return true
}

// codeOf returns a line without its comment and what is quoted in it. It is not ok where
// that cannot be told from the line alone.
func codeOf(line []byte) (code []byte, ok bool) {
	for {
		i := bytes.IndexAny(line, `"#/<`)
		if i < 0 {
			return append(code, line...), true
		}
		code = append(code, line[:i]...)
		switch c, rest := line[i], line[i+1:]; {
		case c == '#' || c == '/' && bytes.HasPrefix(rest, []byte("/")):
			return code, true
		case c == '/' && bytes.HasPrefix(rest, []byte("*")), c == '<' && bytes.HasPrefix(rest, []byte("<")):
			return nil, false
		case c == '"':
			end := bytes.IndexByte(rest, '"')
			if end < 0 || bytes.ContainsAny(rest[:end], "$%\\") {
				return nil, false
			}
			line = rest[end+1:]
		default:
			line = rest
		}
	}
}

// exponentAt tells whether what follows an e may be an exponent that is too long.
func exponentAt(code []byte) bool {
	digits := bytes.TrimLeft(code, "+-")
	return len(digits) > exponent && len(bytes.Trim(digits[:exponent+1], "0123456789.eE")) == 0 // some take 1e1e1 for one number
}
