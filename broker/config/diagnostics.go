package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
)

// Diagnostics is what was found in a configuration: errors, which refuse it, and
// warnings. What stands in the sources where a secret belongs is masked in them.
type Diagnostics struct {
	list  hcl.Diagnostics
	files map[string]*hcl.File
}

// HasErrors tells whether the configuration is refused.
func (d *Diagnostics) HasErrors() bool { return d.list.HasErrors() }

// All returns the diagnostics in the order of files and lines.
func (d *Diagnostics) All() hcl.Diagnostics { return d.list }

// Err returns the first error in one line and how many more there are, or nil if
// there is none. Its class is backends.ErrInvalid.
func (d *Diagnostics) Err() error {
	errs := d.list.Errs()
	var found []*hcl.Diagnostic
	for _, err := range errs {
		var diag *hcl.Diagnostic
		if errors.As(err, &diag) && diag.Severity == hcl.DiagError {
			found = append(found, diag)
		}
	}
	if len(found) == 0 {
		return nil
	}
	more := ""
	if n := len(found) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	first := found[0]
	if first.Subject == nil {
		return fmt.Errorf("%w configuration: %s%s", backends.ErrInvalid, inOne(first), more)
	}
	return fmt.Errorf("%w configuration: %s: %s%s", backends.ErrInvalid, place(*first.Subject), inOne(first), more)
}

func inOne(d *hcl.Diagnostic) string {
	if d.Detail == "" {
		return d.Summary
	}
	return d.Summary + ": " + strings.TrimSuffix(d.Detail, ".")
}

// wide is the column at which details are wrapped.
const wide = 100

// WriteText writes the diagnostics for people, with the lines they are about.
func (d *Diagnostics) WriteText(w io.Writer, color bool) error {
	return hcl.NewDiagnosticTextWriter(w, d.files, wide, color).WriteDiagnostics(d.list)
}

// MarshalJSON writes the diagnostics for programs: a list of objects with
// severity ("error" or "warning"), summary, detail, file, line and column.
func (d *Diagnostics) MarshalJSON() ([]byte, error) {
	type diagnostic struct {
		Severity string `json:"severity"`
		Summary  string `json:"summary"`
		Detail   string `json:"detail,omitempty"`
		File     string `json:"file,omitempty"`
		Line     int    `json:"line,omitempty"`
		Column   int    `json:"column,omitempty"`
	}
	list := make([]diagnostic, 0, len(d.list))
	for _, diag := range d.list {
		one := diagnostic{Severity: "error", Summary: diag.Summary, Detail: diag.Detail}
		if diag.Severity == hcl.DiagWarning {
			one.Severity = "warning"
		}
		if s := diag.Subject; s != nil {
			one.File, one.Line, one.Column = s.Filename, s.Start.Line, s.Start.Column
		}
		list = append(list, one)
	}
	return json.Marshal(list)
}

// newDiagnostics sorts, drops what is said twice of one place, and masks.
func newDiagnostics(list hcl.Diagnostics, files map[string]*hcl.File, hidden []hcl.Range) *Diagnostics {
	slices.SortStableFunc(list, func(a, b *hcl.Diagnostic) int { return strings.Compare(order(a), order(b)) })
	list = slices.CompactFunc(list, func(a, b *hcl.Diagnostic) bool { return order(a) == order(b) && a.Detail == b.Detail })
	masked := map[string]*hcl.File{}
	for name, f := range files {
		masked[name] = &hcl.File{Bytes: bytes.Clone(f.Bytes), Nav: f.Nav}
	}
	for _, r := range hidden {
		f := masked[r.Filename]
		for i := r.Start.Byte; i < r.End.Byte && i < len(f.Bytes); i++ {
			if f.Bytes[i] != '\n' && f.Bytes[i] != '\r' {
				f.Bytes[i] = '*'
			}
		}
	}
	return &Diagnostics{list: list, files: masked}
}

// literals returns the places of all texts in a source whose syntax is wrong, save
// labels and arguments of functions: any of them may be a secret.
func literals(source []byte, name string) []hcl.Range {
	tokens, _ := hclsyntax.LexConfig(source, name, hcl.InitialPos)
	var found []hcl.Range
	open := false // in a text that is shown
	for i, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOQuote:
			open = i > 0 && slices.Contains([]hclsyntax.TokenType{
				hclsyntax.TokenIdent, hclsyntax.TokenCQuote, hclsyntax.TokenOParen,
			}, tokens[i-1].Type)
		case hclsyntax.TokenOHeredoc:
			open = false
		case hclsyntax.TokenQuotedLit, hclsyntax.TokenStringLit:
			if !open {
				found = append(found, t.Range)
			}
		}
	}
	return found
}

func order(d *hcl.Diagnostic) string {
	if d.Subject == nil {
		return d.Summary
	}
	return fmt.Sprintf("%s\x00%08d\x00%08d\x00%s", d.Subject.Filename, d.Subject.Start.Line, d.Subject.Start.Column, d.Summary)
}

func place(r hcl.Range) string { return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line) }

// suggest says which of the known names was probably meant, or lists them.
func suggest(given string, known []string) string {
	const (
		near = 3  // edits: a missing underscore, a plural, a typing mistake
		many = 12 // names are listed in full up to here
	)
	best, distance := "", near+1
	for _, k := range known {
		if d := levenshtein.Distance(strings.ToLower(given), strings.ToLower(k), nil); d < distance && d < len(k) {
			best, distance = k, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("Did you mean %q?", best)
	case len(known) == 0:
		return ""
	case len(known) > many:
		return fmt.Sprintf("Known are %s and %d more.", strings.Join(known[:many], ", "), len(known)-many)
	case len(known) == 1:
		return fmt.Sprintf("Known is only %s.", known[0])
	}
	return fmt.Sprintf("Known are %s.", strings.Join(known, ", "))
}

// reasonOf gives an error's text as a sentence, without its class.
func reasonOf(err error) string { return upper(reasonText(err)) + "." }

func reasonText(err error) string {
	if class := backends.Class(err); class != nil {
		return strings.TrimPrefix(err.Error(), class.Error()+": ")
	}
	return err.Error()
}
