package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Where triggers, consumers and quarantines are, each below it by its name.
const (
	events    = "sys/events/"
	consumers = "sys/consumers/"
	// quarantine is for the list; each consumer or role in it is below by kind and name.
	quarantine = "sys/quarantine"
	// incidents is for the list; each is below by its id.
	incidents = "sys/incidents"
)

// controls are what lies below "sys/", with the capabilities that are asked for there.
var controls = map[string][]Capability{
	"sys/alerts":      {Read, Update},
	"sys/audit":       {Read},
	"sys/break-glass": {Create},
	"sys/config":      {Read, Update},
	"sys/events":      {Read},
	"sys/freeze":      {Read, Update},
	"sys/issuers":     {Read, Update},
	"sys/metrics":     {Read},
	"sys/offline-kit": {Read},
	"sys/probes":      {Read},
	"sys/seal":        {Read, Update},
	"sys/storage":     {Read},
	"sys/tokens":      {List, Create, Delete},
	events + "*":      {Create},
	consumers + "*":   {List, Read, Update},

	incidents:               {List},
	incidents + "/*":        {Read, Update, Approve},
	incidents + "/override": {Emergency}, // of more than one person may turn off alone

	quarantine:                      {List},
	quarantine + "/consumer/" + "*": {Update},
	quarantine + "/role/" + "*":     {Update},
}

// Idle returns what is right in a policy and grants nothing, since nobody ever asks for
// it: paths below "sys/" where nothing is, and capabilities that mean nothing there.
func Idle(p Policy) (problems []Problem) {
	for i, r := range p.Rules {
		if !system(r.Path) || strings.Contains(r.Path, "{{") {
			continue
		}
		asked := askedFor(r.Path)
		if len(asked) == 0 {
			problems = append(problems, Problem{Rule: i, Attribute: "path", Text: fmt.Sprintf("there is nothing at the path %q", r.Path),
				Suggestion: suggest(r.Path, slices.Sorted(maps.Keys(controls)))})
			continue
		}
		for _, c := range r.Capabilities {
			if c != Deny && !slices.Contains(asked, c) {
				problems = append(problems, Problem{Rule: i, Attribute: "capabilities", Text: fmt.Sprintf("nobody ever asks for %s on %q", c, r.Path),
					Suggestion: "there it is " + joined(asked)})
			}
		}
	}
	return problems
}

// askedFor are the capabilities on what a path below "sys/" matches.
func askedFor(path string) (all []Capability) {
	match := parsePattern(path)
	for control, asked := range controls {
		below, named := strings.CutSuffix(control, "*")
		if match.matches(control) || named && strings.HasPrefix(path, below) {
			all = append(all, asked...)
		}
	}
	return slices.DeleteFunc(Capabilities(), func(c Capability) bool { return !slices.Contains(all, c) })
}

func joined(all []Capability) string {
	words := make([]string, len(all))
	for i, c := range all {
		words[i] = string(c)
	}
	return strings.Join(words, ", ")
}
