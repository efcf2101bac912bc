package policy

import (
	"cmp"
	"fmt"
	"strings"
	"unicode"
)

// pattern is a path pattern, analysed. In an ill-formed one (see patternProblem)
// the misplaced wildcards stand for themselves.
type pattern struct {
	text     string
	first    int      // where the first wildcard stands; len(text) in an exact path
	trailing bool     // ends in "*"
	pluses   int      // segments that are "+"
	segments []string // of the text without its trailing "*"; nil without a "+"
}

func parsePattern(text string) pattern {
	p := pattern{text: text, first: len(text)}
	literal, trailing := strings.CutSuffix(text, "*")
	if trailing {
		p.trailing, p.first = true, len(literal)
	}
	if !strings.Contains(literal, "+") {
		return p
	}
	offset := 0
	segments := strings.Split(literal, "/")
	for i, s := range segments {
		if s == "+" && (i < len(segments)-1 || !trailing) {
			p.pluses++
			p.first = min(p.first, offset)
		}
		offset += len(s) + 1
	}
	if p.pluses > 0 {
		p.segments = segments
	}
	return p
}

func (p pattern) exact() bool { return !p.trailing && p.pluses == 0 }

// literal is the part before the first wildcard: whatever matches begins with it.
func (p pattern) literal() string { return p.text[:p.first] }

// stem is the text without a "*" at its end.
func (p pattern) stem() string {
	if p.trailing {
		return p.text[:len(p.text)-1]
	}
	return p.text
}

// matches tells whether path is among those that the pattern names.
func (p pattern) matches(path string) bool {
	if system(path) && !system(p.text) {
		return false
	}
	switch {
	case p.pluses > 0:
		return p.matchesSegments(path)
	case p.trailing:
		return strings.HasPrefix(path, p.literal())
	default:
		return path == p.text
	}
}

func (p pattern) matchesSegments(rest string) bool {
	last := len(p.segments) - 1
	for _, want := range p.segments[:last] {
		segment, after, more := strings.Cut(rest, "/")
		if !more || (want != "+" && want != segment) {
			return false
		}
		rest = after
	}
	want := p.segments[last]
	switch {
	case p.trailing:
		return strings.HasPrefix(rest, want)
	case want == "+":
		return !strings.Contains(rest, "/")
	default:
		return rest == want
	}
}

// compare is positive if p is more specific than q, and 0 only if they are the
// same text. It is the order of Vault's ACLs, see the package comment.
func (p pattern) compare(q pattern) int {
	return cmp.Or(
		compareBool(p.exact(), q.exact()),
		cmp.Compare(p.first, q.first),
		compareBool(!p.trailing, !q.trailing),
		cmp.Compare(q.pluses, p.pluses),
		cmp.Compare(len(p.text), len(q.text)),
		cmp.Compare(p.text, q.text),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}

// system tells whether a path or pattern stands below "sys/", where everything
// lives that is no secret.
func system(path string) bool {
	return path == "sys" || strings.HasPrefix(path, "sys/")
}

// pathProblem says what is wrong with the path of a rule and how to mend it; text
// is empty if nothing is.
func pathProblem(p string) (text, suggestion string) {
	if text, suggestion = templateProblem(p); text != "" {
		return text, suggestion
	}
	switch pluses := strings.Count(p, "+"); {
	case len(p) > maxPath:
		return fmt.Sprintf("the path has %d bytes, the limit is %d", len(p), maxPath), "end it earlier, with *"
	case pluses > maxPlus:
		return fmt.Sprintf("the path %q has %d segments that are +, the limit is %d", p, pluses, maxPlus), "end it earlier, with *"
	}
	return patternProblem(p)
}

// patternProblem is pathProblem for what has the form of a pattern alone, whatever
// its templates and its size.
func patternProblem(p string) (text, suggestion string) {
	form := shape(p)
	literal := strings.TrimSuffix(form, "*")
	switch {
	case p == "":
		return "the path is empty", `write a secret's name, a prefix such as "payments/*", or "*" for all secrets`
	case strings.HasPrefix(p, "/"):
		return fmt.Sprintf("the path %q begins with a slash", p), fmt.Sprintf("write %q", strings.TrimLeft(p, "/"))
	case strings.Contains(literal, "*"):
		return fmt.Sprintf("the path %q has a * that is not at its end", p), `for one whole segment write "+", as in "payments/+/key"`
	case strings.Contains(p, "//"):
		return fmt.Sprintf("the path %q has an empty segment", p), "write single slashes"
	case strings.ContainsFunc(form, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return fmt.Sprintf("the path %q contains white space, which no path has", p), "remove it"
	}
	for s := range strings.SplitSeq(form, "/") {
		if s != "+" && strings.Contains(s, "+") {
			return fmt.Sprintf("the path %q has a + that is not a segment of its own", p), `"+" stands between slashes, as in "payments/+/key"`
		}
	}
	return "", ""
}
