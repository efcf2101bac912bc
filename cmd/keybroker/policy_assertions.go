package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/spf13/cobra"
	"github.com/zclconf/go-cty/cty"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/policy"
)

func (a *app) policyTestCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "test FILE…",
		Short: "Run the assertions that a team keeps beside its policies",
		Long: "Run the assertions in files called *" + config.AssertionsSuffix + ", or in all those of a directory, by a\n" +
			"configuration. No server is asked, and no secret is read. Exits 1 if one fails, 2 if they cannot be run.",
		Example: "  keybroker policy test --config /etc/keybroker mail" + config.AssertionsSuffix,
		Args:    takesSome("FILE"),
		RunE: a.does(func(_ context.Context, args []string) error {
			all, err := a.readAssertions(args)
			if err != nil {
				return usagef("%s", err)
			}
			x, err := a.readAccess(path)
			if err != nil {
				return usagef("%s", err)
			}
			return a.runAssertions(x, all)
		}),
	}
	configFlag(cmd, &path)
	return cmd
}

// takesSome is the Args of a command with one argument or more of a kind.
func takesSome(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s is missing", name)
		}
		return nil
	}
}

// assertion is that one thing is allowed, or not.
type assertion struct {
	question
	test  string
	allow bool
	at    hcl.Range // of the capability
}

// outcome is what came of an assertion.
type outcome struct {
	Test     string `json:"test"`
	File     string `json:"file"`
	Line     int    `json:"line"`
	Expected string `json:"expected"` // "allow" or "deny"
	Passed   bool   `json:"passed"`
	Answer   answer `json:"answer"`
}

func (a *app) runAssertions(x *access, all []assertion) error {
	outcomes, failed := make([]outcome, len(all)), 0
	for i, one := range all {
		found, err := x.ask(one.question)
		if err != nil {
			return usagef("%s: test %q: %s", place(one.at), one.test, err)
		}
		outcomes[i] = outcome{Test: one.test, File: one.at.Filename, Line: one.at.Start.Line, Expected: "deny", Passed: found.Allowed == one.allow, Answer: found}
		if one.allow {
			outcomes[i].Expected = "allow"
		}
		if !outcomes[i].Passed {
			failed++
		}
	}
	if err := a.showOutcomes(outcomes, failed); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d assertions failed", failed, len(outcomes))
	}
	return nil
}

func (a *app) showOutcomes(outcomes []outcome, failed int) error {
	if a.json() {
		return a.showJSON(struct {
			Passed     bool      `json:"passed"`
			Assertions []outcome `json:"assertions"`
		}{failed == 0, outcomes})
	}
	var text strings.Builder
	for _, o := range outcomes {
		if o.Passed {
			continue
		}
		verb := map[string]string{"allow": "may", "deny": "may not"}[o.Expected]
		fmt.Fprintf(&text, "%s:%d: %s\n  failed: role %s %s %s %s\n", printable(o.File), o.Line, printable(o.Test),
			printable(o.Answer.Role), verb, o.Answer.Capability, printable(o.Answer.Path))
		for _, reason := range o.Answer.reasons() {
			fmt.Fprintf(&text, "  %s\n", printable(reason))
		}
	}
	if failed == 0 {
		fmt.Fprintf(&text, "%d assertions hold\n", len(outcomes))
	}
	return write(a.out, text.String())
}

func place(r hcl.Range) string { return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line) }

// readAssertions reads files, and of directories those that hold assertions, and
// reports every mistake in them.
func (a *app) readAssertions(args []string) ([]assertion, error) {
	d := assertions{files: map[string]*hcl.File{}}
	for _, arg := range args {
		names := []string{arg}
		if info, err := os.Stat(arg); err == nil && info.IsDir() {
			names, _ = filepath.Glob(filepath.Join(arg, "*"+config.AssertionsSuffix)) // the pattern is a good one
			if len(names) == 0 {
				return nil, fmt.Errorf("%s holds no file called *%s", arg, config.AssertionsSuffix)
			}
		}
		for _, name := range names {
			if !strings.HasSuffix(name, config.AssertionsSuffix) {
				return nil, fmt.Errorf("%s is no file of assertions: those are called *%s; the configuration is said by --config", name, config.AssertionsSuffix)
			}
			source, err := os.ReadFile(name)
			if err != nil {
				return nil, fmt.Errorf("reading assertions: %w", err)
			}
			d.file(name, source)
		}
	}
	_, color := terminal(a.err)
	if err := hcl.NewDiagnosticTextWriter(a.err, d.files, 100, color).WriteDiagnostics(d.diags); err != nil {
		return nil, err
	}
	switch {
	case d.diags.HasErrors():
		return nil, errors.New("the assertions cannot be used")
	case len(d.all) == 0:
		return nil, fmt.Errorf("no assertion is in %s", strings.Join(args, ", "))
	}
	return d.all, nil
}

// assertions decodes files.
type assertions struct {
	files map[string]*hcl.File
	diags hcl.Diagnostics
	all   []assertion
}

// testBlock is a block of assertions: attributes, so that each is known with its place.
type testBlock struct {
	Test        string         `hcl:"test,label"`
	Role        *hcl.Attribute `hcl:"role"` // required, as is Path, which test says
	Path        *hcl.Attribute `hcl:"path"`
	Name        *hcl.Attribute `hcl:"name,optional"`
	Environment *hcl.Attribute `hcl:"environment,optional"`
	Address     *hcl.Attribute `hcl:"address,optional"`
	At          *hcl.Attribute `hcl:"at,optional"`
	Allow       *hcl.Attribute `hcl:"allow,optional"`
	Deny        *hcl.Attribute `hcl:"deny,optional"`
	Range       hcl.Range      `hcl:",def_range"`
}

func (d *assertions) file(name string, source []byte) {
	f, diags := hclsyntax.ParseConfig(source, name, hcl.InitialPos)
	d.files[name], d.diags = f, append(d.diags, diags...)
	if diags.HasErrors() {
		return
	}
	var doc struct {
		Tests []testBlock `hcl:"test,block"`
	}
	if diags := gohcl.DecodeBody(f.Body, nil, &doc); diags.HasErrors() {
		d.diags = append(d.diags, diags...)
		return
	}
	for _, t := range doc.Tests {
		d.test(t)
	}
}

func (d *assertions) test(t testBlock) {
	if t.Role == nil {
		d.mistake(t.Range, `The attribute "role" is missing`, "It is required here.")
	}
	if t.Path == nil {
		d.mistake(t.Range, `The attribute "path" is missing`, "It is required here.")
	}
	q := question{role: d.text(t.Role), path: d.text(t.Path), name: d.text(t.Name), environment: d.text(t.Environment)}
	if text := d.text(t.Address); text != "" {
		var err error
		if q.address, err = netip.ParseAddr(text); err != nil {
			d.mistake(t.Address.Range, fmt.Sprintf("%q is no IP address", text), "")
		}
	}
	if text := d.text(t.At); text != "" {
		var err error
		if q.at, err = time.Parse(time.RFC3339, text); err != nil {
			d.mistake(t.At.Range, fmt.Sprintf("%q is no time", text), "Write it with its zone, such as 2026-03-02T22:30:00+01:00.")
		}
	}
	before := len(d.all)
	d.capabilities(t.Test, q, t.Allow, true)
	d.capabilities(t.Test, q, t.Deny, false)
	if t.Allow == nil && t.Deny == nil || len(d.all) == before && !d.diags.HasErrors() {
		d.mistake(t.Range, "The test asserts nothing", `Write allow = ["read"] or deny = ["rotate"].`)
	}
}

// capabilities makes an assertion of each element of a list.
func (d *assertions) capabilities(test string, q question, list *hcl.Attribute, allow bool) {
	if list == nil {
		return
	}
	elements, diags := hcl.ExprList(list.Expr)
	d.diags = append(d.diags, diags...)
	for _, e := range elements {
		text, ok := d.value(list.Name, e)
		switch {
		case !ok:
		case !slices.Contains(grantable(), text):
			d.mistake(e.Range(), fmt.Sprintf("%q is no capability", text), "It is one of "+strings.Join(grantable(), ", ")+".")
		default:
			q.capability = policy.Capability(text)
			d.all = append(d.all, assertion{question: q, test: test, allow: allow, at: e.Range()})
		}
	}
}

// text is the value of an attribute that may be missing.
func (d *assertions) text(attr *hcl.Attribute) string {
	if attr == nil {
		return ""
	}
	text, ok := d.value(attr.Name, attr.Expr)
	if ok && text == "" {
		d.mistake(attr.Range, fmt.Sprintf("%q is empty", attr.Name), "")
	}
	return text
}

func (d *assertions) value(name string, expr hcl.Expression) (text string, ok bool) {
	v, diags := expr.Value(nil)
	if diags.HasErrors() {
		d.diags = append(d.diags, diags...)
		return "", false
	}
	if v.Type() != cty.String || v.IsNull() {
		d.mistake(expr.Range(), fmt.Sprintf("%q is of the wrong type", name), "Write texts in quotes.")
		return "", false
	}
	return v.AsString(), true
}

func (d *assertions) mistake(at hcl.Range, summary, detail string) {
	d.diags = append(d.diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at})
}
