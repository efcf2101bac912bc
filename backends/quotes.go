package backends

import (
	"encoding/base64"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
)

const (
	// quotedAtLeast is how many bytes of a text give something of it away. Shorter
	// texts stand in any message by chance.
	quotedAtLeast = 4
	// quotedPart is how many bytes in a row of a longer text do.
	quotedPart = 8
	// escapedAtMost is how often a text is escaped: JSON in JSON is twice.
	escapedAtMost = 8
)

// Quotes tells whether said, which somebody answered to a request with this text in
// it, quotes the text or a part of it: as it is, in base64, escaped as JSON and
// programming languages do, several times over, or as URLs do. Vaults and what stands before them
// quote requests in their errors; such an answer must be in no log.
//
// It may tell so of what only looks like it, and cannot tell of texts of less than
// four characters.
func Quotes(said, text string) bool {
	if quotes(said, text) {
		return true
	}
	decoded := percentDecoded(said)
	return decoded != said && quotes(decoded, text)
}

func quotes(said, text string) bool {
	said = plain(said)
	return holdsPart(said, plain(text)) || holdsPart(said, base64.StdEncoding.EncodeToString([]byte(text)))
}

// percentDecoded undoes the escapes of URLs (RFC 3986, section 2.1), and leaves what is
// none as it is.
func percentDecoded(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "%")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		if code, err := strconv.ParseUint(after[:min(2, len(after))], 16, 8); err == nil && len(after) >= 2 {
			b.WriteByte(byte(code))
			after = after[2:]
		} else {
			b.WriteByte('%')
		}
		s = after
	}
}

// holdsPart tells whether said holds text, if that is short, or else eight bytes in a
// row of it.
func holdsPart(said, text string) bool {
	if len(text) < quotedAtLeast {
		return false
	}
	size := min(len(text), quotedPart)
	if len(said) < size {
		return false
	}
	parts := make(map[string]struct{}, len(said))
	for i := range len(said) - size + 1 {
		parts[said[i:i+size]] = struct{}{}
	}
	for i := range len(text) - size + 1 {
		if _, quoted := parts[text[i:i+size]]; quoted {
			return true
		}
	}
	return false
}

// plain undoes every escape and leaves out what is written in many ways: spaces,
// line breaks, quotes. A text is the same, however often it was escaped; so one with
// backslashes of its own is treated alike.
func plain(s string) string {
	for range escapedAtMost {
		if !strings.Contains(s, `\`) {
			break
		}
		s = unescape(s)
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("\\\"'`", r) {
			return -1
		}
		return r
	}, s)
}

// unescape undoes one level of escapes. A backslash before anything else than the
// letter of an escape is dropped.
func unescape(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		if after == "" {
			return b.String()
		}
		switch after[0] {
		case 'a', 'b', 'f', 'n', 'r', 't', 'v':
			b.WriteByte('\n') // or another that is left out
			s = after[1:]
		case 'u':
			var r rune
			r, s = unicodeEscape(after)
			b.WriteRune(r)
		default:
			b.WriteByte(after[0])
			s = after[1:]
		}
	}
}

// unicodeEscape reads what follows a backslash and begins with u; two of them may be
// the halves of one character.
func unicodeEscape(s string) (r rune, rest string) {
	r, rest, ok := hex4(s)
	if !ok {
		return 'u', s[1:]
	}
	if !utf16.IsSurrogate(r) {
		return r, rest
	}
	if low, after, ok := hex4(strings.TrimPrefix(rest, `\`)); ok {
		return utf16.DecodeRune(r, low), after
	}
	return unicode.ReplacementChar, rest
}

// hex4 reads the number after u.
func hex4(s string) (r rune, rest string, ok bool) {
	if len(s) < 5 || s[0] != 'u' {
		return 0, s, false
	}
	n, err := strconv.ParseUint(s[1:5], 16, 32)
	return rune(n), s[5:], err == nil
}
