package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// templates are what may stand in a path for something about who asks.
var templates = []string{"{{identity.tenant}}", "{{identity.role}}", "{{identity.name}}", "{{identity.environment}}"}

// values are what the templates stand for, in their order.
func (i Identity) values() []string { return []string{i.Tenant, i.Role, i.Name, i.Environment} }

// fill puts the values of an identity into a path. It is not ok where the result
// matches nothing: a template has no value, or one that would be more than a part
// of a segment, or that leads to what lies below "sys/".
func fill(path string, id Identity) (filled string, ok bool) {
	if !strings.Contains(path, "{{") {
		text, _ := patternProblem(path)
		return path, text == ""
	}
	var replacements []string
	for i, value := range id.values() {
		if !strings.Contains(path, templates[i]) {
			continue
		}
		if value == "" || strings.ContainsAny(value, "/+*{}") {
			return "", false
		}
		replacements = append(replacements, templates[i], value)
	}
	filled = strings.NewReplacer(replacements...).Replace(path)
	text, _ := patternProblem(filled)
	return filled, text == "" && system(filled) == system(path)
}

// Templated tells whether what p grants depends on who asks.
func (p Policy) Templated() bool {
	for _, r := range p.Rules {
		if strings.Contains(r.Path, "{{") {
			return true
		}
	}
	return false
}

// Used returns what the templates of policies use of an identity, the rest empty:
// identities of which that is the same have the same ACL.
func (i Identity) Used(policies []Policy) Identity {
	var used [4]bool
	for _, p := range policies {
		for _, r := range p.Rules {
			for n, t := range templates {
				used[n] = used[n] || strings.Contains(r.Path, t)
			}
		}
	}
	for n, field := range []*string{&i.Tenant, &i.Role, &i.Name, &i.Environment} {
		if !used[n] {
			*field = ""
		}
	}
	return i
}

var (
	template = regexp.MustCompile(`\{\{[^{}]*\}\}`)
	example  = fmt.Sprintf(`a template is written as in "teams/%s/*"`, templates[0])
)

// templateProblem says what is wrong with the templates of a path and how to mend
// it; text is empty if nothing is.
func templateProblem(path string) (text, suggestion string) {
	rest := path
	for _, found := range template.FindAllString(path, -1) {
		if !slices.Contains(templates, found) {
			return fmt.Sprintf("the path %q has the template %q, which there is none of", path, found), suggest(found, templates)
		}
		rest = strings.Replace(rest, found, "", 1)
	}
	switch {
	case strings.ContainsAny(rest, "{}"):
		return fmt.Sprintf("the path %q has a brace that belongs to no template", path), example
	case strings.HasSuffix(path, "}}*"):
		return fmt.Sprintf(`the path %q gives "a" what belongs to "ab", too`, path),
			fmt.Sprintf("write %q", strings.TrimSuffix(path, "*")+"/*")
	}
	return "", ""
}

// shape is a path with every template replaced by what may be its value.
func shape(path string) string {
	if !strings.Contains(path, "{{") {
		return path
	}
	return template.ReplaceAllString(path, "x")
}
