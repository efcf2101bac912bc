package config

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// faults remembers what could not be decoded. The checks go on with the rest, and
// by it they tell what is a mistake of its own from what merely follows.
type faults struct {
	attributes []fault
	unknown    []hcl.Range // headers of blocks with something in them that is not known
	missing    []hcl.Range // headers of blocks that lack something
}

// fault is an attribute that was reported.
type fault struct {
	name   string
	value  hcl.Range
	header hcl.Range // of its block
}

// spoilt tells whether an attribute that was reported stands at one of the places.
func (f *faults) spoilt(places ...hcl.Range) bool {
	return slices.ContainsFunc(f.attributes, func(bad fault) bool {
		return slices.ContainsFunc(places, bad.value.Overlaps)
	})
}

// obscure tells whether the block with that header may say what nobody could read:
// under a misspelt name, or in an attribute that was reported.
func (f *faults) obscure(header hcl.Range) bool {
	return slices.Contains(f.unknown, header) ||
		slices.ContainsFunc(f.attributes, func(bad fault) bool { return bad.header == header })
}

// follows tells whether what a Type.Check found in a block with faults may come
// from these: it concerns an attribute that was reported, or one that is not there.
func (f *faults) follows(diag *hcl.Diagnostic) bool {
	if diag.Subject == nil || diag.Subject.Filename == "" || f.spoilt(*diag.Subject) ||
		f.obscure(*diag.Subject) || slices.Contains(f.missing, *diag.Subject) {
		return true
	}
	return slices.ContainsFunc(f.attributes, func(bad fault) bool {
		// A name in two words is no word of a sentence.
		return strings.Contains(bad.name, "_") && strings.Contains(diag.Summary+" "+diag.Detail, bad.name)
	})
}
