package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/keybroker/keybroker/backends"
)

// managedFunction reads a secret that the broker manages.
const managedFunction = "secret"

const howToRefer = `Write secret("NAME").FIELD.`

// Reference is one secret("NAME").FIELD of a block.
type Reference struct {
	Ref   backends.Ref
	Field string
	Range hcl.Range // of the expression

	name string // as it is written
}

// referringKinds are the kinds of blocks whose credentials the broker can manage. Of
// others it cannot: it needs them to open its store, or they are other people's.
var referringKinds = []string{"backend", "issuer", "probe"}

// References are the managed secrets that the block takes values from, in the order in
// which they are written.
func (n Named) References() []Reference { return n.references }

// Resolve gives what Config would be with these values in the places of the
// references, decoded anew; what env() and file() gave is what they gave when the
// configuration was loaded. Without references it is Config itself. ErrInvalid, which
// quotes no value, if one lacks its field, or does not do for the block.
func (n Named) Resolve(values map[backends.Ref]backends.Value) (any, error) {
	if len(n.references) == 0 {
		return n.Config, nil
	}
	fields := map[hcl.Range]string{}
	for _, r := range n.references {
		text, ok := values[r.Ref].Reveal()[r.Field]
		if !ok || text == "" {
			return nil, fmt.Errorf("%w: the secret %s has no field %q, or an empty one (%s)", backends.ErrInvalid, r.Ref, r.Field, place(r.Range))
		}
		fields[r.Range] = text
	}
	cfg, diags := n.resolve(func(r Reference) (string, bool) {
		text, ok := fields[r.Range]
		return text, ok
	})
	var errs []error
	for _, diag := range diags {
		if diag.Severity == hcl.DiagError {
			errs = append(errs, fmt.Errorf("%w: %s", backends.ErrInvalid, inOne(diag)))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return cfg, nil
}

// resolver decodes and checks b once more, whose first decoding took those texts from
// env() and file(). They are held in a closure, which package fmt does not print.
func resolver(t Type, b *hclsyntax.Block, opts Options, taken map[hcl.Range]string) func(func(Reference) (string, bool)) (any, hcl.Diagnostics) {
	return func(value func(Reference) (string, bool)) (any, hcl.Diagnostics) {
		d := decoder{opts: opts, taken: taken, managed: value}
		var header struct {
			Type string `hcl:"type,label"`
			Name string `hcl:"name,label"`
		}
		cfg := t.New()
		if !d.block(b, &header, anything{}, cfg) || t.Check == nil {
			return cfg, d.diags
		}
		return cfg, append(d.diags, t.Check(cfg, CheckContext{Offline: opts.Offline, Dir: opts.Dir, block: b})...)
	}
}

// referring begins to note the references of a block of that kind, if it may have any.
func (l *loader) referring(kind string) *[]Reference {
	var refs []Reference
	if slices.Contains(referringKinds, kind) {
		l.taken = map[hcl.Range]string{}
		l.managed = func(r Reference) (string, bool) {
			refs = append(refs, r)
			return r.placeholder(), true
		}
	}
	return &refs
}

// referred ends that, and gives what env() and file() gave meanwhile.
func (l *loader) referred() map[hcl.Range]string {
	taken := l.taken
	l.managed, l.taken = nil, nil
	return taken
}

// placeholder stands for the value until it is known: the same for the same field of
// the same secret, so that one account can be told from another. As hexadecimal and as
// base64 it can be decoded.
func (r Reference) placeholder() string {
	sum := sha256.Sum256([]byte(r.name + "\x00" + r.Field))
	return hex.EncodeToString(sum[:8])
}

// refers tells whether an expression uses secret().
func refers(expr hclsyntax.Expression) bool {
	return slices.ContainsFunc(calls(expr), func(c *hclsyntax.FunctionCallExpr) bool { return c.Name == managedFunction })
}

// reference evaluates secret("NAME").FIELD.
func (d *decoder) reference(expr *hclsyntax.RelativeTraversalExpr, call *hclsyntax.FunctionCallExpr) (string, bool) {
	r := Reference{Range: expr.Range()}
	if len(call.Args) == 1 && !call.ExpandFinal {
		if arg, ok := call.Args[0].(*hclsyntax.TemplateExpr); ok && arg.IsStringLiteral() {
			val, _ := arg.Value(nil)
			r.name = val.AsString()
		}
	}
	if len(expr.Traversal) == 1 {
		switch step := expr.Traversal[0].(type) {
		case hcl.TraverseAttr:
			r.Field = step.Name
		case hcl.TraverseIndex:
			if step.Key.Type() == cty.String {
				r.Field = step.Key.AsString()
			}
		}
	}
	if r.name == "" || r.Field == "" {
		d.mistake(r.Range, "secret() is of one field of one secret, both written out", howToRefer)
		return "", false
	}
	return d.managed(r)
}

// referrers are the blocks that can refer to managed secrets, in the order of the
// configuration.
func (l *loader) referrers() []*Named {
	var all []*Named
	for _, b := range l.cfg.Backends {
		all = append(all, &b.Named)
	}
	for _, i := range l.cfg.Issuers {
		all = append(all, &i.Named)
	}
	for _, p := range l.cfg.Probes {
		all = append(all, &p.Named)
	}
	return all
}

// checkReferences finds out which secrets are meant, refuses those that cannot be, and
// whatever would wait for itself.
func (l *loader) checkReferences() {
	secrets := map[backends.Ref]*Secret{}
	for _, s := range l.cfg.Secrets {
		secrets[s.Ref] = s
	}
	referred := false
	for _, n := range l.referrers() {
		for i := range n.references {
			referred = true
			r := &n.references[i]
			if l.meant(n, r) && secrets[r.Ref] != nil {
				l.checkReference(n, r, secrets[r.Ref])
			}
		}
	}
	if referred {
		l.cycles(secrets)
	}
}

// meant finds the secret that r names: of that tenant, where the name says which; else
// of the block's own.
func (l *loader) meant(n *Named, r *Reference) bool {
	own := l.owners[n.block]
	if own == "" {
		own = backends.DefaultTenant
	}
	tenant, name, qualified := strings.Cut(r.name, ":")
	if !qualified {
		tenant, name = own, r.name
	}
	r.Ref = backends.Ref{Tenant: tenant, Name: name}
	_, known := l.secrets[r.Ref.String()]
	if !known && !qualified {
		if _, ok := l.secrets[name]; ok { // which is of no tenant
			r.Ref.Tenant, known = backends.DefaultTenant, true
		}
	}
	if l.whoever(n.block) {
		return false
	}
	if !known {
		var names []string
		for known := range l.secrets {
			names = append(names, known)
		}
		slices.Sort(names)
		detail := suggest(r.Ref.String(), names)
		if len(names) == 0 {
			detail = "The configuration has no secret at all."
		}
		l.mistake(r.Range, fmt.Sprintf("There is no secret %q", r.Ref), detail)
		return false
	}
	if r.Ref.Tenant != own {
		whose := fmt.Sprintf("to %q", own)
		if l.owners[n.block] == "" {
			whose = "to no tenant"
		}
		l.mistake(r.Range, fmt.Sprintf("The secret %q belongs to the tenant %q, this %s %s", r.Ref, r.Ref.Tenant, n.block.Type, whose),
			"Tenants are kept apart: give both the same tenant, or name another secret.")
		return false
	}
	return true
}

// takeUp is how long nodes may take to use a new version of what they log in with.
const takeUp = 10 * time.Second

// checkReference checks a reference to s.
func (l *loader) checkReference(n *Named, r *Reference, s *Secret) {
	i := l.cfg.issuers[s.Issuer]
	if i == nil || i.broken {
		return
	}
	if fields := i.of(s).Fields; fields != nil && !slices.Contains(fields, r.Field) {
		l.mistake(r.Range, fmt.Sprintf("The secret %q has no field %q", s.Ref, r.Field), suggest(r.Field, fields))
	}
	if l.diags.HasErrors() {
		return
	}
	if d, err := l.cfg.Definition(s); err == nil && d.Plan.Overlap < takeUp {
		l.warn(r.Range, fmt.Sprintf("The overlap of %q is %s: %s %q may be refused until it has taken up a new version, which can take %s", s.Ref, d.Plan.Overlap, n.block.Type, n.Name, takeUp),
			"Give it an overlap of a minute or more, if its issuer can.")
	}
}

// step is one edge of what needs what.
type step struct {
	from, to needed
	how      string    // `uses secret "x"`
	at       hcl.Range // where that is written
}

// needed is a block that something cannot work without.
type needed struct{ kind, name string }

// String implements fmt.Stringer.
func (n needed) String() string { return fmt.Sprintf("%s %q", n.kind, n.name) }

// needs are the steps from each block that takes part in references.
func (l *loader) needs(secrets map[backends.Ref]*Secret) map[needed][]step {
	steps := map[needed][]step{}
	add := func(from needed, kind, name, how string, at hcl.Range) {
		to := needed{kind, name}
		steps[from] = append(steps[from], step{from, to, how + " " + to.String(), at})
	}
	for _, n := range l.referrers() {
		for _, r := range n.references {
			if secrets[r.Ref] != nil {
				add(needed{n.block.Type, n.Name}, "secret", r.Ref.String(), "takes a credential from", r.Range)
			}
		}
	}
	for _, s := range l.cfg.Secrets {
		me := needed{"secret", s.Ref.String()}
		if b := blockOf(s.block, "issuer"); b != nil && s.Issuer != "" {
			add(me, "issuer", s.Issuer, "is minted by", b.LabelRanges[0])
		}
		add(me, "backend", s.Backend, "is kept in", at(s.block, "backend"))
		for i, name := range s.Mirrors {
			add(me, "backend", name, "is mirrored to", element(s.block, "mirrors", i))
		}
		if s.Probe != "" {
			add(me, "probe", s.Probe, "is tried by", at(s.block, "probe"))
		}
	}
	return steps
}

// cycles refuses whatever could be made, or made anew, only with itself. That an
// issuer mints its own successor is among it: one slip, and nobody can mint anything
// any more.
func (l *loader) cycles(secrets map[backends.Ref]*Secret) {
	steps := l.needs(secrets)
	done, path := map[needed]bool{}, []step{}
	var visit func(n needed)
	visit = func(n needed) {
		if i := slices.IndexFunc(path, func(s step) bool { return s.from == n }); i >= 0 {
			l.cycle(path[i:])
			return
		}
		if done[n] {
			return
		}
		for _, s := range steps[n] {
			path = append(path, s)
			visit(s.to)
			path = path[:len(path)-1]
		}
		done[n] = true
	}
	for _, n := range l.referrers() {
		if len(n.references) > 0 {
			visit(needed{n.block.Type, n.Name})
		}
	}
}

// cycle reports a round of steps, from the block that begins it.
func (l *loader) cycle(round []step) {
	begin := slices.IndexFunc(round, func(s step) bool { return s.from.kind != "secret" && s.to.kind == "secret" })
	round = slices.Concat(round[begin:], round[:begin])
	var said []string
	for _, s := range round {
		said = append(said, fmt.Sprintf("%s (%s)", s.how, place(s.at)))
	}
	l.mistake(round[0].at, fmt.Sprintf("The %s needs itself", round[0].from),
		fmt.Sprintf(`It %s. So it could neither begin to work nor be given another credential: take one of them from env() or file(), or have the secret kept, minted and tried by others.`,
			strings.Join(said, ", which ")))
}
