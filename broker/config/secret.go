package config

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
)

// secretSpec is a secret's block.
type secretSpec struct {
	Name      string            `hcl:"name,label"`
	Tenant    string            `hcl:"tenant,optional"`
	Backend   string            `hcl:"backend"`
	Probe     string            `hcl:"probe,optional"`
	Consumers []string          `hcl:"consumers,optional"`
	Labels    map[string]string `hcl:"labels,optional"`
	Proof     *policy.Proof     `hcl:"proof"`
	Issuer    *hclsyntax.Block  `hcl:"issuer,block"`
	Rotation  *hclsyntax.Block  `hcl:"rotation,block"`
}

func (l *loader) secretBlock(b *hclsyntax.Block) {
	spec := secretSpec{Tenant: backends.DefaultTenant}
	good := l.block(b, &spec)
	if len(b.Labels) != 1 || !l.declareSecret(spec, b) {
		return
	}
	s := &Secret{
		Ref:     backends.Ref{Tenant: spec.Tenant, Name: spec.Name},
		Backend: spec.Backend, Probe: spec.Probe, Consumers: spec.Consumers, Labels: spec.Labels,
		Range: b.DefRange(), block: b,
	}
	l.cfg.Secrets = append(l.cfg.Secrets, s)
	if spec.Rotation != nil {
		var settings settingsBlock
		good = l.block(spec.Rotation, &settings) && good
		s.Rotation = settings.settings()
	}
	s.Rotation.Proof = spec.Proof
	if spec.Issuer != nil {
		good = l.secretIssuer(spec.Issuer, s) && good
	}
	if good = l.references(b, s) && good; good {
		l.plan(s)
	}
}

func (l *loader) declareSecret(spec secretSpec, b *hclsyntax.Block) bool {
	if err := backends.ParseName(spec.Name); err != nil {
		l.mistake(b.LabelRanges[0], fmt.Sprintf("%q is no name for a secret", spec.Name), reasonOf(err))
		return false
	}
	l.tenant(b, spec.Tenant)
	ref := backends.Ref{Tenant: spec.Tenant, Name: spec.Name}.String()
	if first, ok := l.secrets[ref]; ok {
		l.mistake(b.LabelRanges[0], fmt.Sprintf("There is a second secret %q", ref),
			fmt.Sprintf("A tenant's secrets have different names; the first is at %s.", place(first)))
		return false
	}
	l.secrets[ref] = b.DefRange()
	return true
}

// references checks the names of other blocks.
func (l *loader) references(b *hclsyntax.Block, s *Secret) bool {
	before := len(l.diags)
	if s.Backend != "" && l.refer("backend", s.Backend, at(b, "backend")) {
		l.environment(b, s)
		l.apart(b, s)
	}
	if s.Probe != "" {
		l.refer("probe", s.Probe, at(b, "probe"))
	}
	for i, name := range s.Consumers {
		where := element(b, "consumers", i)
		if slices.Contains(s.Consumers[:i], name) {
			l.mistake(where, fmt.Sprintf("The consumer %q is listed twice", name), "Remove one.")
			continue
		}
		if !l.refer("consumer", name, where) {
			continue
		}
		if c := l.consumers[name]; c.Tenant != s.Ref.Tenant {
			l.mistake(where, fmt.Sprintf("The consumer %q belongs to the tenant %q, this secret to %q", name, c.Tenant, s.Ref.Tenant),
				"Tenants are kept apart: give both the same tenant.")
		}
	}
	return len(l.diags) == before
}

func (l *loader) environment(b *hclsyntax.Block, s *Secret) {
	for _, v := range l.cfg.Backends {
		env := s.Labels[EnvironmentLabel]
		if v.Name != s.Backend || v.broken || len(v.Environments) == 0 || slices.Contains(v.Environments, env) {
			continue
		}
		l.mistake(at(b, "backend"), fmt.Sprintf("The backend %q does not hold secrets of the environment %q", v.Name, env),
			fmt.Sprintf("It is for %s: set the label %q, or name another backend.", strings.Join(v.Environments, ", "), EnvironmentLabel))
	}
}

// apart refuses a name that another tenant's secret has in a vault that knows
// names only: they would be one secret there.
func (l *loader) apart(b *hclsyntax.Block, s *Secret) {
	for _, v := range l.cfg.Backends {
		if v.Name != s.Backend || v.broken || v.separates {
			continue
		}
		if first, ok := v.held[s.Ref.Name]; ok {
			l.mistake(b.LabelRanges[0], fmt.Sprintf("The backend %q holds a secret %q of the tenant %q already", v.Name, s.Ref.Name, first.Ref.Tenant),
				fmt.Sprintf("It does not keep tenants apart, so both would be one secret there: rename one, or name another backend; the first is at %s.", place(first.Range)))
			continue
		}
		v.held[s.Ref.Name] = s
	}
}

// secretIssuer decodes what a secret asks of its issuer: constants of any shape,
// which are stored and shown, so never secrets.
func (l *loader) secretIssuer(b *hclsyntax.Block, s *Secret) bool {
	before := len(l.diags)
	if len(b.Labels) != 1 {
		l.mistake(b.DefRange(), fmt.Sprintf("An issuer block in a secret has one label, here are %d", len(b.Labels)), `Write issuer "NAME" { … }.`)
		return false
	}
	s.Issuer = b.Labels[0]
	l.refer("issuer", s.Issuer, b.LabelRanges[0])
	for _, inner := range b.Body.Blocks {
		l.mistake(inner.TypeRange, fmt.Sprintf("There is no block %q here", inner.Type),
			fmt.Sprintf("Settings are attributes: write %s = { … }.", inner.Type))
	}
	values := map[string]cty.Value{}
	for name, attr := range b.Body.Attributes {
		if val, ok := l.constant(name, attr.Expr); ok {
			values[name] = val
		}
	}
	if len(l.diags) > before {
		return false
	}
	object := cty.ObjectVal(values)
	settings, err := ctyjson.Marshal(object, object.Type())
	if err != nil {
		l.mistake(b.DefRange(), "The settings cannot be written as JSON", "Use texts, numbers, true, false, lists and objects.")
		return false
	}
	s.Settings = settings
	return l.checkSettings(b, s)
}

func (l *loader) checkSettings(b *hclsyntax.Block, s *Secret) bool {
	i, ok := l.cfg.issuers[s.Issuer]
	if !ok || i.broken {
		return ok
	}
	problems := settingsProblems(i, s.Settings)
	for _, text := range problems {
		l.mistake(b.DefRange(), fmt.Sprintf("The issuer %q does not take these settings", s.Issuer), upper(text)+".")
	}
	return len(problems) == 0
}

func settingsProblems(i *Issuer, settings json.RawMessage) []string {
	if i.settings != nil {
		return i.settings.CheckSettings(settings)
	}
	if text := string(settings); text != "" && text != "{}" && text != "null" {
		return []string{"it takes none: leave the block empty"}
	}
	return nil
}

// plan checks how the secret would rotate, and reports at the place where what is
// wrong was written.
func (l *loader) plan(s *Secret) {
	if s.Issuer == "" {
		if rotation := blockOf(s.block, "rotation"); rotation != nil {
			l.warn(rotation.DefRange(), "The rotation settings are without effect: the secret has no issuer", `Add issuer "NAME" {}.`)
		}
		return
	}
	issuer := l.cfg.issuers[s.Issuer]
	if issuer == nil || issuer.broken {
		return
	}
	effective, origins := policy.Resolve(l.cfg.RotationPolicies, s.Ref.Name, s.Labels, s.Rotation)
	for _, p := range rotationProblems(effective, s, issuer, l.timings) {
		l.problem(l.origin(s, origins, p.Attribute), p)
	}
	if p, ok := l.timings.crowded(effective); ok {
		l.warn(l.origin(s, origins, p.Attribute), upper(p.Text), upper(p.Suggestion)+".")
	}
}

// origin returns where the value of a secret's setting was written.
func (l *loader) origin(s *Secret, origins []policy.Origin, setting string) hcl.Range {
	for _, o := range origins {
		if o.Setting != setting {
			continue
		}
		switch o.Source {
		case policy.FromPolicy:
			return settingAt(l.declared["rotation_policy"][o.Policy], setting)
		case policy.FromSecret:
			if rotation := blockOf(s.block, "rotation"); rotation != nil && setting != "proof" {
				return settingAt(rotation, setting)
			}
		}
	}
	return at(s.block, setting)
}

func blockOf(b *hclsyntax.Block, kind string) *hclsyntax.Block {
	for _, inner := range b.Body.Blocks {
		if inner.Type == kind {
			return inner
		}
	}
	return nil
}
