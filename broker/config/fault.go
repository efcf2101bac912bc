package config

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// faults remembers what could not be decoded. The checks go on with the rest, and
// by it they tell what is a mistake of its own from what merely follows. What they
// ask costs the same however many mistakes there are.
type faults struct {
	attributes []fault
	lines      map[line][]fault // the same, by each line that their values stand on
	headers    ranges           // of the blocks that they stand in
	unknown    ranges           // headers of blocks with something in them that is not known
	missing    ranges           // headers of blocks that lack something
}

// fault is an attribute that was reported.
type fault struct {
	name   string
	value  hcl.Range
	header hcl.Range // of its block
}

type line struct {
	file string
	n    int
}

// ranges is a set of places; nil is an empty one.
type ranges map[hcl.Range]bool

func (r *ranges) add(place hcl.Range) {
	if *r == nil {
		*r = ranges{}
	}
	(*r)[place] = true
}

// report notes an attribute that was reported.
func (f *faults) report(bad fault) {
	f.attributes = append(f.attributes, bad)
	f.headers.add(bad.header)
	if f.lines == nil {
		f.lines = map[line][]fault{}
	}
	for n := bad.value.Start.Line; n <= bad.value.End.Line; n++ {
		at := line{bad.value.Filename, n}
		f.lines[at] = append(f.lines[at], bad)
	}
}

// spoilt tells whether an attribute that was reported stands at one of the places.
func (f *faults) spoilt(places ...hcl.Range) bool {
	for _, p := range places {
		for n := p.Start.Line; n <= p.End.Line; n++ {
			if slices.ContainsFunc(f.lines[line{p.Filename, n}], func(bad fault) bool { return p.Overlaps(bad.value) }) {
				return true
			}
		}
	}
	return false
}

// obscure tells whether the block with that header may say what nobody could read:
// under a misspelt name, or in an attribute that was reported.
func (f *faults) obscure(header hcl.Range) bool { return f.unknown[header] || f.headers[header] }

// follows tells whether what a Type.Check found in a block with faults may come
// from these: it concerns an attribute that was reported, or one that is not there.
func (f *faults) follows(diag *hcl.Diagnostic) bool {
	if diag.Subject == nil || diag.Subject.Filename == "" || f.spoilt(*diag.Subject) ||
		f.obscure(*diag.Subject) || f.missing[*diag.Subject] {
		return true
	}
	return slices.ContainsFunc(f.attributes, func(bad fault) bool {
		// A name in two words is no word of a sentence.
		return strings.Contains(bad.name, "_") && strings.Contains(diag.Summary+" "+diag.Detail, bad.name)
	})
}
