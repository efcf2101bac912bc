package broker

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// minCandidate is how long a text is at least that is looked up, in bytes: shorter ones
	// are words and numbers.
	minCandidate = 8
	// maxCandidates bounds what one text is taken for, maxCandidate how long each of these
	// is, and maxTogether all of them, in bytes: each is hashed for each tenant.
	maxCandidates = 4096
	maxCandidate  = 64 << 10
	maxTogether   = 1 << 20
	// maxWrapped is how deep a value may be wrapped: a line of an environment file in base64
	// in JSON.
	maxWrapped = 3
	// maxOpened bounds how much is looked through of what one text holds, in bytes.
	maxOpened = 8 << 20
)

// candidates are the texts that a text may stand for: what leaks is seldom the bare value
// but a line of a configuration, a URL, a JSON document, a log line, or one of them in
// base64. The likelier ones come first, each once, and at most maxCandidates of them.
func candidates(text string) []string {
	c := collected{seen: map[string]bool{}, opened: map[string]bool{}, inside: map[string]bool{}}
	c.open(text, 0)
	return c.texts
}

// collected are candidates.
type collected struct {
	texts    []string
	together int // bytes of them
	seen     map[string]bool
	looked   int // bytes looked through
	// What was decoded, and what was looked into: the same text is met in several ways.
	opened, inside map[string]bool
}

func (c *collected) full() bool { return len(c.texts) >= maxCandidates || c.looked > maxOpened }

// add takes a text as it is.
func (c *collected) add(text string) {
	if len(text) > maxCandidate || c.together+len(text) > maxTogether || len(strings.TrimSpace(text)) < minCandidate || c.full() || c.seen[text] {
		return
	}
	c.seen[text] = true
	c.together += len(text)
	c.texts = append(c.texts, text)
}

// take adds a text without what surrounds it, and what it is the base64 of.
func (c *collected) take(text string, depth int) {
	c.add(text)
	trimmed := strings.TrimSpace(text)
	c.add(trimmed)
	bare := unquoted(trimmed)
	c.add(bare)
	if len(bare) < minCandidate || depth >= maxWrapped || c.full() || c.opened[bare] {
		return
	}
	c.opened[bare] = true
	c.looked += len(bare)
	if plain, ok := decoded(bare); ok {
		c.add(base64.StdEncoding.EncodeToString(plain)) // as it may be kept, however it was written
		if utf8.Valid(plain) {
			c.open(string(plain), depth+1)
		} else {
			c.add(string(plain))
		}
	}
}

// open adds a text and all that may stand in it.
func (c *collected) open(text string, depth int) {
	text = strings.TrimPrefix(text, "\uFEFF") // which editors put before it
	c.take(text, depth)
	trimmed := strings.TrimSpace(text)
	if lines := strings.ReplaceAll(trimmed, "\r\n", "\n"); strings.Contains(trimmed, "\n") {
		c.add(lines)
		c.add(lines + "\n") // PEM files end with it
	}
	if depth >= maxWrapped || c.full() || c.inside[trimmed] {
		return
	}
	c.inside[trimmed] = true
	c.looked += len(trimmed)
	if c.document(trimmed, depth) {
		return
	}
	for _, block := range pemBlock.FindAllString(strings.ReplaceAll(trimmed, "\r\n", "\n"), maxCandidates) {
		c.add(block)
		c.add(block + "\n")
	}
	for _, each := range []func(string, int){c.assignment, c.address, c.words} {
		for line := range strings.Lines(trimmed) {
			if c.full() {
				return
			}
			each(strings.TrimSpace(line), depth)
		}
	}
}

var pemBlock = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]{1,64}-----\n(?:[^-]+\n)?-----END [A-Z0-9 ]{1,64}-----`)

// document opens the texts of a JSON document, keys among them, if the text is one. They
// are taken token by token: a document may be nested as deep as it is long.
func (c *collected) document(text string, depth int) bool {
	if text == "" || !strings.ContainsRune(`{["`, rune(text[0])) || !json.Valid([]byte(text)) {
		return false
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	for !c.full() {
		token, err := d.Token()
		if err != nil {
			break
		}
		switch leaf := token.(type) {
		case string:
			c.open(leaf, depth+1)
		case json.Number:
			c.add(leaf.String())
		}
	}
	return true
}

// setting is a line that says what something is: KEY=VALUE, "key": "value", key => value.
var setting = regexp.MustCompile(`^(?:export\s+|set\s+|-\s+)?["']?[A-Za-z_][A-Za-z0-9_.\-]{0,127}["']?\s*(?:=>|:=|=|:)\s*(.+)$`)

// assignment takes the right side of a setting.
func (c *collected) assignment(line string, depth int) {
	c.take(strings.TrimRight(line, ",;"), depth)
	m := setting.FindStringSubmatch(line)
	if m == nil || strings.HasPrefix(m[1], "//") { // that is a URL
		return
	}
	c.take(m[1], depth)
	c.take(strings.TrimRight(m[1], ",; \t"), depth)
	if comment := strings.Index(m[1], " #"); comment > 0 {
		c.take(m[1][:comment], depth)
	}
}

var link = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.\-]*://[^\s"'<>]+`)

// address takes the password of the URLs in a line, and what their parameters are.
func (c *collected) address(line string, depth int) {
	for _, found := range link.FindAllString(line, maxCandidates) {
		rest := found[strings.Index(found, "://")+3:]
		if host := strings.IndexAny(rest, "/?"); host >= 0 && strings.LastIndex(rest, "@") < 0 {
			rest = rest[:host]
		}
		if at := strings.LastIndex(rest, "@"); at >= 0 { // also where the password is not escaped as it should be
			user, password, _ := strings.Cut(rest[:at], ":") // some issuers have their tokens in the place of the user
			for _, part := range []string{password, user} {
				c.take(part, depth)
				if plain, err := url.PathUnescape(part); err == nil {
					c.take(plain, depth)
				}
			}
		}
		u, err := url.Parse(found)
		if err != nil {
			continue
		}
		given := u.Query()
		for _, name := range slices.Sorted(maps.Keys(given)) {
			for _, v := range given[name] {
				c.take(v, depth)
			}
		}
	}
}

// words takes what stands alone in a line, such as a key in the line of a log.
func (c *collected) words(line string, depth int) {
	for word := range strings.FieldsFuncSeq(line, separates) {
		if c.full() {
			return
		}
		c.take(strings.TrimRight(word, ".:"), depth)
		if _, value, ok := strings.Cut(word, "="); ok {
			c.take(value, depth)
		}
	}
}

func separates(r rune) bool { return strings.ContainsRune(" \t\r\v\f\"'`,;<>()[]{}", r) }

// unquoted is a text without the quotes around it.
func unquoted(text string) string {
	if len(text) < 2 || text[0] != text[len(text)-1] || !strings.ContainsRune("\"'`", rune(text[0])) {
		return text
	}
	if text[0] == '"' {
		var plain string
		if json.Unmarshal([]byte(text), &plain) == nil {
			return plain
		}
	}
	return text[1 : len(text)-1]
}

// decoded is what a text is the base64 of, in any of its forms, if it is worth a look:
// words are base64, too, of very little.
func decoded(text string) ([]byte, bool) {
	text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/", "\r", "", "\n", "").Replace(text), "=")
	plain, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(plain) < minCandidate || len(plain) < 2*minCandidate && !utf8.Valid(plain) {
		return nil, false
	}
	return plain, true
}
