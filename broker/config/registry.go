package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Registry says which types of blocks there are, by the block's first label.
type Registry struct {
	Seals    map[string]Type // besides "file"; their blocks have no name
	Backends map[string]BackendType
	Issuers  map[string]IssuerType
	Probes   map[string]Type

	Auths     map[string]Type
	Audits    map[string]Type // of audit sinks; their blocks need no name
	Notifiers map[string]NotifierType
	Triggers  map[string]Type // besides the broker's own, TriggerAPI and TriggerInternal
}

// Type is one type of block.
type Type struct {
	// New returns a pointer to an empty struct with hcl tags, as package gohcl reads
	// them, that the block is decoded into. In addition, attributes of the type
	// time.Duration take texts such as "90s" or "7d", and those of the type
	// backends.SecretString take env() or file(). A block is set up anew at a reload
	// if a file that one of its *_file attributes names has changed, unless the field
	// has the tag file:"reread". A text with the tag from:"secret", such as a user's
	// name, takes secret() beside a literal.
	New func() any
	// Check returns the mistakes that the struct's tags cannot tell, each with its
	// place. It opens nothing: no connection, no file. It may be nil. Where decoding
	// found mistakes it is called as well: required attributes can then be missing
	// (nil) or empty, and what it says of these is dropped. A diagnostic whose Extra
	// has a method HidesSource() bool that tells true is about a literal secret: its
	// source is masked.
	Check func(cfg any, c CheckContext) hcl.Diagnostics
}

// BackendType is one type of vault.
type BackendType struct {
	Type
	// Capabilities says what a vault with this configuration can do. It opens
	// nothing and is called after Check found no mistake.
	Capabilities func(cfg any) backends.Capabilities
	// Place names the folder that the block leads to: the same text only where two
	// blocks would read and write the same secrets. Within one vault it is a path, of
	// which a secret's place is that text, a slash unless it ends in one, and the
	// secret's name. Like Capabilities; it may be nil, or give "", where nobody can tell.
	Place func(cfg any) string
	// CheckName says why the vault has no place for a secret of that name (ErrInvalid),
	// or makes none, and only uses one that is there already (ErrUnsupported); in the
	// form that Mistakes takes. Like Capabilities; it may be nil: any name will do.
	CheckName func(cfg any, name string) error
}

// IssuerType is one type of issuer.
type IssuerType struct {
	Type
	// Describe makes an issuer that is only asked what it can do. It opens nothing and
	// is called after Check found no mistake.
	Describe func(cfg any) Described
}

// Described is an issuer that is only asked what it can do: by the interfaces of
// package issuer that it has besides, SettingsChecker, Shaper and KeyChecker, and Placed.
type Described interface {
	Traits() issuer.Traits
}

// Placed is a Described that tells where its accounts, or what it makes, are: the same
// text only where two blocks of the type would find the same there; "" where nobody can
// tell.
type Placed interface {
	Place() string
}

// NotifierType is one type of notifier.
type NotifierType struct {
	Type
	// NoHeartbeat: nobody can be told there that a heartbeat has stayed away.
	NoHeartbeat bool
}

// CheckContext is what a Check needs to know beside the struct itself.
type CheckContext struct {
	// Offline: env() and file() were not read; secrets hold a placeholder that is
	// neither empty nor has spaces, and can be decoded as hexadecimal and as base64. So does, also when it is not offline, what comes from
	// secret(): Named.Resolve calls the Check again with the value.
	Offline bool
	// Dir is the configuration's directory.
	Dir string

	block *hclsyntax.Block
}

// At returns the place of an attribute, by its path in the block ("timeout",
// "auth.token"), or the nearest thing to it that is written there.
func (c CheckContext) At(path string) hcl.Range { return at(c.block, path) }

// Managed tells whether the attribute with that path takes what it says from secret().
func (c CheckContext) Managed(path string) bool {
	expr := expressionAt(c.block, path)
	return expr != nil && refers(expr)
}

// Mistake is one diagnostic at the attribute with that path. The summary says
// what is wrong, the detail how to mend it.
func (c CheckContext) Mistake(path, summary, detail string) *hcl.Diagnostic {
	rng := c.At(path)
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &rng}
}

// Mistakes makes diagnostics of what the struct of a Type found wrong with itself:
// errors joined by errors.Join, each in one line, "invalid: ATTRIBUTE says what is
// wrong: and how to mend it". Each stands at the attribute or block that it names
// first ("auth.token" names an attribute in a block), or else at the whole block.
func (c CheckContext) Mistakes(cfg any, err error) (diags hcl.Diagnostics) {
	if err == nil {
		return nil
	}
	known := layoutOf(cfg)
	for _, text := range strings.Split(err.Error(), "\n") {
		text = strings.TrimPrefix(text, backends.ErrInvalid.Error()+": ")
		path := known.named(text)
		wrong, mend, _ := strings.Cut(text, ": ")
		if wrong == path {
			wrong, mend = text, ""
		}
		if path == "" || !strings.HasPrefix(wrong, path) {
			wrong = upper(wrong) // else it begins with a name
		}
		diags = append(diags, c.Mistake(path, wrong, sentence(mend)))
	}
	return diags
}

// named returns the first word of a text that is the path of something in the layout.
func (l layout) named(text string) string {
	for _, word := range strings.Fields(text) {
		path := strings.Trim(word, `.,:;"`)
		head, _, _ := strings.Cut(path, ".")
		_, attribute := l.attrs[head]
		if _, block := l.blocks[head]; attribute || block {
			return path
		}
	}
	return ""
}

// typed decodes a block with the labels "type" and "name", of which an audit block
// may lack the second: what all types of the kind have in common into generic, the
// rest into what the registered type makes.
func typed[T any](l *loader, kind string, types map[string]T, of func(T) Type, b *hclsyntax.Block, generic any) (Named, T, bool) {
	var header struct {
		Type string `hcl:"type,label"`
	}
	var label struct {
		Name string `hcl:"name,label"`
	}
	var none T
	known, ok := types[firstLabel(b)]
	targets := []any{&header, &label, generic}
	nameless := kind == "audit" && len(b.Labels) == 1
	if nameless {
		label.Name = b.Labels[0]
		targets = []any{&header, generic}
	}
	var cfg any
	if ok {
		cfg = of(known).New()
		targets = append(targets, cfg)
	} else {
		targets = append(targets, anything{})
	}
	refs := l.referring(kind)
	good := l.block(b, targets...)
	taken := l.referred()
	if len(b.Labels) != 2 && !nameless {
		return Named{}, none, false
	}
	n := Named{Type: header.Type, Name: label.Name, Config: cfg, Range: b.DefRange(), block: b, broken: !good || !ok, source: l.tokensOf(b), text: l.textOf(b)}
	if !ok {
		l.mistake(b.LabelRanges[0], fmt.Sprintf("There is no %s %q", kind, header.Type),
			suggest(header.Type, slices.Sorted(maps.Keys(types))))
	}
	if !l.declare(kind, n.Name, b, b.LabelRanges[len(b.LabelRanges)-1]) {
		return n, known, false
	}
	if ok {
		n.broken = !l.check(of(known), cfg, b, n.broken)
		slices.SortFunc(*refs, func(a, b Reference) int { return a.Range.Start.Byte - b.Range.Start.Byte })
		n.references, n.resolve = *refs, resolver(of(known), b, l.opts, taken)
	}
	return n, known, true
}

// check reports what the type finds wrong with a block, and tells whether there is
// nothing. Of one that is broken already, what follows from that is left out.
func (l *loader) check(t Type, cfg any, b *hclsyntax.Block, broken bool) (good bool) {
	if t.Check == nil {
		return !broken
	}
	diags := t.Check(cfg, CheckContext{Offline: l.opts.Offline, Dir: l.opts.Dir, block: b})
	if broken {
		diags = slices.DeleteFunc(diags, l.follows)
	}
	for _, diag := range diags {
		if secret, ok := hcl.DiagnosticExtra[interface{ HidesSource() bool }](diag); ok && secret.HidesSource() && diag.Subject != nil {
			l.hidden = append(l.hidden, *diag.Subject)
		}
		if diag.Subject == nil || diag.Subject.Filename == "" {
			header := b.DefRange()
			diag.Subject = &header // of an attribute that is not written
		}
	}
	l.diags = append(l.diags, diags...)
	return !broken && !diags.HasErrors()
}

func itself(t Type) Type { return t }

func firstLabel(b *hclsyntax.Block) string {
	if len(b.Labels) == 0 {
		return ""
	}
	return b.Labels[0]
}
