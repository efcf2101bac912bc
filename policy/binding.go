package policy

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// Known is what an auth method knows of a caller, for bindings to be compared with.
type Known struct {
	Method     string // name of the auth block
	Subject    string
	SPIFFEID   string
	DNSNames   []string
	CommonName string
	Claims     map[string]any // as encoding/json decodes them, each number to a json.Number
}

// Matches tells whether b binds who is known as k: the method is b's, b sets at
// least one other thing, and all that it sets holds.
func (b Binding) Matches(k Known) bool {
	if b.Method != k.Method || b.Method == "" || b.empty() {
		return false
	}
	for _, c := range []struct {
		set   bool
		holds func() bool
	}{
		{b.SPIFFEID != "", func() bool { return matchesSPIFFE(b.SPIFFEID, k.SPIFFEID) }},
		{b.DNSName != "", func() bool {
			return slices.ContainsFunc(k.DNSNames, func(n string) bool { return matchesDNS(b.DNSName, n) })
		}},
		{b.CommonName != "", func() bool { return b.CommonName == k.CommonName }},
		{b.Subject != "", func() bool { return b.Subject == k.Subject }},
	} {
		if c.set && !c.holds() {
			return false
		}
	}
	for name, any := range b.Claims {
		if !matchesClaim(any, k.Claims[name]) {
			return false
		}
	}
	return true
}

func (b Binding) empty() bool {
	return b.SPIFFEID == "" && b.DNSName == "" && b.CommonName == "" && b.Subject == "" && len(b.Claims) == 0
}

// matchesSPIFFE compares byte by byte, as the SPIFFE standard does; "/*" at the end
// of the pattern stands for one segment or more.
func matchesSPIFFE(pattern, id string) bool {
	prefix, wild := strings.CutSuffix(pattern, "*")
	if !wild || !strings.HasSuffix(prefix, "/") {
		return pattern == id
	}
	return len(id) > len(prefix) && strings.HasPrefix(id, prefix)
}

// matchesDNS compares without regard to case; "*." at the beginning of the pattern
// stands for one label. A name that is a wildcard itself is nobody's: it matches nothing.
func matchesDNS(pattern, name string) bool {
	if name == "" || strings.Contains(name, "*") {
		return false
	}
	parent, wild := strings.CutPrefix(pattern, "*.")
	if !wild {
		return strings.EqualFold(pattern, name)
	}
	label, rest, ok := strings.Cut(name, ".")
	return ok && label != "" && strings.EqualFold(parent, rest)
}

// matchesClaim tells whether a claim's value, or an element of it if it is a list,
// is one of the texts. An object is none.
func matchesClaim(texts []string, value any) bool {
	if list, ok := value.([]any); ok {
		return slices.ContainsFunc(list, func(v any) bool { return matchesOne(texts, v) })
	}
	return matchesOne(texts, value)
}

func matchesOne(texts []string, value any) bool {
	var text string
	switch v := value.(type) {
	case string:
		text = v
	case bool:
		text = strconv.FormatBool(v)
	case json.Number: // as it is written: ids above 2^53 would be taken for each other as float64
		text = v.String()
	default:
		return false
	}
	return slices.Contains(texts, text)
}
