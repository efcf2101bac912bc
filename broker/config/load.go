package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Options is how a configuration is read.
type Options struct {
	// Offline: env() and file() are not read; everything else is checked. The Config
	// then holds placeholders for secrets and is good for nothing but to be checked.
	Offline bool
	// Dir is what relative paths are relative to; Load fills it in.
	Dir string
	// LookupEnv reads the environment; nil: os.LookupEnv.
	LookupEnv func(name string) (string, bool)
	// Place says where a file stands that the configuration names, by the path that it
	// writes; nil: in Dir.
	Place func(path string) string
}

func (o Options) lookupEnv() func(string) (string, bool) {
	if o.LookupEnv == nil {
		return os.LookupEnv
	}
	return o.LookupEnv
}

// Load reads the file at path, or all *.hcl files of the directory there, save those
// of AssertionsSuffix, as one configuration. The Config is nil if the diagnostics have errors; the
// diagnostics are never nil.
func Load(path string, reg Registry, opts Options) (*Config, *Diagnostics) {
	files, dir, err := sources(path)
	if err != nil {
		return nil, &Diagnostics{list: hcl.Diagnostics{{
			Severity: hcl.DiagError, Summary: "The configuration cannot be read", Detail: upper(err.Error()) + ".",
		}}}
	}
	if opts.Dir == "" {
		opts.Dir = dir
	}
	return Parse(files, reg, opts)
}

func sources(path string) (map[string][]byte, string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", path, reason(err))
	}
	names, dir := []string{path}, filepath.Dir(path)
	if info.IsDir() {
		dir = path
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, "", fmt.Errorf("reading %s: %w", path, reason(err))
		}
		names = nil
		for _, e := range entries {
			if filepath.Ext(e.Name()) == ".hcl" && !strings.HasPrefix(e.Name(), ".") && !strings.HasSuffix(e.Name(), AssertionsSuffix) {
				names = append(names, filepath.Join(path, e.Name()))
			}
		}
		if len(names) == 0 {
			return nil, "", fmt.Errorf("the directory %s holds no *.hcl file", path)
		}
	}
	files := map[string][]byte{}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, "", fmt.Errorf("reading %s: %w", name, reason(err))
		}
		files[name] = content
	}
	return files, dir, nil
}

// Parse is Load for sources in memory, by name: in the order of their names they
// are one configuration.
func Parse(sources map[string][]byte, reg Registry, opts Options) (*Config, *Diagnostics) {
	l := &loader{
		decoder:  decoder{opts: opts},
		reg:      reg,
		sources:  sources,
		cfg:      &Config{backends: map[string]*Backend{}, issuers: map[string]*Issuer{}, consumers: map[string]*Consumer{}, timings: newTimings()},
		declared: map[string]map[string]*hclsyntax.Block{},
		owners:   map[*hclsyntax.Block]string{},
		readers:  map[string]*Role{},
		roles:    map[string]*Role{},
		secrets:  map[string]hcl.Range{},
		held:     map[string]*Secret{},
		alone:    map[Claim]*Secret{},
	}
	files := map[string]*hcl.File{}
	var bodies []*hclsyntax.Body
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		if at, ok := outsized(sources[name], name); ok {
			l.mistake(at, "The parser cannot take this", "Expressions nest 200 levels at most, and exponents of numbers have three digits at most.")
			continue
		}
		file, diags := hclsyntax.ParseConfig(sources[name], name, hcl.InitialPos)
		l.diags = append(l.diags, diags...)
		files[name] = file
		if diags.HasErrors() {
			l.hidden = append(l.hidden, literals(sources[name], name)...)
		}
		if body, ok := file.Body.(*hclsyntax.Body); ok {
			bodies = append(bodies, body)
		}
	}
	// What a file with wrong syntax declares is not known: to go on would report as
	// missing what is there.
	if !l.diags.HasErrors() {
		l.load(bodies)
	}
	diags := newDiagnostics(l.diags, files, l.hidden)
	if diags.HasErrors() {
		return nil, diags
	}
	return l.cfg, diags
}

// loader makes a Config of parsed files.
type loader struct {
	decoder
	reg       Registry
	sources   map[string][]byte // by file
	cfg       *Config
	declared  map[string]map[string]*hclsyntax.Block // kind of block → name
	owners    map[*hclsyntax.Block]string            // tenants of blocks; empty: of none
	roles     map[string]*Role                       // by name
	readers   map[string]*Role                       // by the name of the consumer that reads as it
	walled    bool                                   // a role is bound to an environment
	tenants   bool                                   // tenants have blocks
	secrets   map[string]hcl.Range                   // by Ref.String
	held      map[string]*Secret                     // by Backend.where, in vaults that do not keep tenants apart
	alone     map[Claim]*Secret                      // by what they have of an issuer's for themselves
	obscured  bool                                   // there is a rotation policy of which nobody knows what it matches or sets
	limitless bool                                   // there is one of which nobody knows what it limits
}

// document is all that may stand at the top of a configuration.
type document struct {
	DataDir          string             `hcl:"data_dir,optional"`
	Listener         *hclsyntax.Block   `hcl:"listener,block"`
	Storage          *hclsyntax.Block   `hcl:"storage,block"`
	Seals            []*hclsyntax.Block `hcl:"seal,block"`
	Backends         []*hclsyntax.Block `hcl:"backend,block"`
	Issuers          []*hclsyntax.Block `hcl:"issuer,block"`
	Probes           []*hclsyntax.Block `hcl:"probe,block"`
	RotationPolicies []*hclsyntax.Block `hcl:"rotation_policy,block"`
	Policies         []*hclsyntax.Block `hcl:"policy,block"`
	Consumers        []*hclsyntax.Block `hcl:"consumer,block"`
	Secrets          []*hclsyntax.Block `hcl:"secret,block"`
	Triggers         []*hclsyntax.Block `hcl:"trigger,block"`
	Tenants          []*hclsyntax.Block `hcl:"tenant,block"`
	Auths            []*hclsyntax.Block `hcl:"auth,block"`
	Roles            []*hclsyntax.Block `hcl:"role,block"`
	AuditSinks       []*hclsyntax.Block `hcl:"audit,block"`
	Notifiers        []*hclsyntax.Block `hcl:"notifier,block"`
	Alerts           []*hclsyntax.Block `hcl:"alert,block"`
	Telemetry        *hclsyntax.Block   `hcl:"telemetry,block"`
	Emergency        *hclsyntax.Block   `hcl:"emergency,block"`
	OfflineKit       *hclsyntax.Block   `hcl:"offline_kit,block"`
}

// load decodes in the order of references, so that each finds what it names.
func (l *loader) load(bodies []*hclsyntax.Body) {
	doc := document{DataDir: defaultDataDir}
	whole := l.merge(bodies)
	l.body(whole, whole.SrcRange, layoutOf(&doc))
	l.node(doc, whole)
	l.emergency(doc.Emergency)
	l.offlineKit(doc.OfflineKit)
	l.tenants = len(doc.Tenants) > 0
	for _, kind := range []struct {
		blocks []*hclsyntax.Block
		decode func(*hclsyntax.Block)
	}{
		{doc.Tenants, l.tenantBlock},
		{doc.Auths, l.auth},
		{doc.Policies, l.accessPolicy},
		{doc.Roles, l.role},
		{doc.AuditSinks, l.audit},
		{doc.Notifiers, l.notifier},
		{doc.Alerts, l.alert},
		{doc.Backends, l.backend},
		{doc.Issuers, l.issuer},
		{doc.Probes, l.probe},
		{doc.RotationPolicies, l.rotationPolicy},
		{doc.Consumers, l.consumer},
		{doc.Secrets, l.secretBlock},
		{doc.Triggers, l.trigger},
	} {
		for _, b := range kind.blocks {
			kind.decode(b)
		}
	}
	l.checkReferences()
	l.cfg.policies = l.declared["policy"]
	l.cfg.index()
	if !l.diags.HasErrors() {
		l.unused(doc, whole.SrcRange)
		l.unguarded()
	}
}

// merge makes one body of all files.
func (l *loader) merge(bodies []*hclsyntax.Body) *hclsyntax.Body {
	whole := &hclsyntax.Body{Attributes: hclsyntax.Attributes{}}
	for i, b := range bodies {
		if i == 0 {
			whole.SrcRange = b.SrcRange
		}
		for name, attr := range b.Attributes {
			if first, ok := whole.Attributes[name]; ok {
				l.mistake(attr.NameRange, fmt.Sprintf("%q is set a second time", name),
					fmt.Sprintf("It is set at %s already.", place(first.NameRange)))
				continue
			}
			whole.Attributes[name] = attr
		}
		whole.Blocks = append(whole.Blocks, b.Blocks...)
	}
	return whole
}

var identifier = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

const identifierRule = "It is made of letters, digits and _ . - and has at most 64 of them."

// declare notes a block under its name and tells whether it may have that.
func (l *loader) declare(kind, name string, b *hclsyntax.Block, at hcl.Range) bool {
	if !identifier.MatchString(name) {
		l.mistake(at, fmt.Sprintf("%q is no name for a %s", name, kind), identifierRule)
		return false
	}
	if first, ok := l.declared[kind][name]; ok {
		l.mistake(at, fmt.Sprintf("There is a second %s %q", kind, name),
			fmt.Sprintf("Names are unique within their kind; the first is at %s.", place(first.DefRange())))
		return false
	}
	if l.declared[kind] == nil {
		l.declared[kind] = map[string]*hclsyntax.Block{}
	}
	l.declared[kind][name] = b
	return true
}

// refer tells whether there is a block of that kind and name.
func (l *loader) refer(kind, name string, at hcl.Range) bool {
	if _, ok := l.declared[kind][name]; ok {
		return true
	}
	names := slices.Sorted(maps.Keys(l.declared[kind]))
	detail := suggest(name, names)
	if len(names) == 0 {
		detail = fmt.Sprintf("The configuration has no %s at all.", kind)
	}
	l.mistake(at, fmt.Sprintf("There is no %s %q", kind, name), detail)
	return false
}

// at returns where in b the attribute with that path ("verify.successes", or
// "mirrors.0" of a list) has its value, or else where the innermost block on the
// path begins.
func at(b *hclsyntax.Block, path string) hcl.Range {
	head, rest, nested := strings.Cut(path, ".")
	if attr, ok := b.Body.Attributes[head]; ok {
		list, ok := attr.Expr.(*hclsyntax.TupleConsExpr)
		if i, err := strconv.Atoi(rest); ok && err == nil && 0 <= i && i < len(list.Exprs) {
			return list.Exprs[i].Range()
		}
		return attr.Expr.Range()
	}
	for _, inner := range b.Body.Blocks {
		if inner.Type != head {
			continue
		}
		if nested {
			return at(inner, rest)
		}
		return inner.DefRange()
	}
	return b.DefRange()
}

// expressionAt returns what the attribute with that path says; nil where it is not written.
func expressionAt(b *hclsyntax.Block, path string) hclsyntax.Expression {
	head, rest, nested := strings.Cut(path, ".")
	if attr, ok := b.Body.Attributes[head]; ok && !nested {
		return attr.Expr
	}
	for _, inner := range b.Body.Blocks {
		if inner.Type == head && nested {
			return expressionAt(inner, rest)
		}
	}
	return nil
}

// element returns where the i-th element of the list called name stands.
func element(b *hclsyntax.Block, name string, i int) hcl.Range {
	return at(b, fmt.Sprintf("%s.%d", name, i))
}

// written tells whether b has the attribute. One that is null is as good as not written.
func written(b *hclsyntax.Block, name string) bool {
	attr, ok := b.Body.Attributes[name]
	if !ok {
		return false
	}
	lit, ok := attr.Expr.(*hclsyntax.LiteralValueExpr)
	return !ok || !lit.Val.IsNull()
}
