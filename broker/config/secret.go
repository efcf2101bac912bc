package config

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// secretSpec is a secret's block.
type secretSpec struct {
	Name      string             `hcl:"name,label"`
	Tenant    string             `hcl:"tenant,optional"`
	Backend   string             `hcl:"backend"`
	Mirrors   []string           `hcl:"mirrors,optional"`
	OnDrift   rotation.DriftRule `hcl:"on_drift,optional"`
	Probe     string             `hcl:"probe,optional"`
	Consumers []string           `hcl:"consumers,optional"`
	Labels    map[string]string  `hcl:"labels,optional"`
	Pair      string             `hcl:"pair,optional"`
	Proof     *policy.Proof      `hcl:"proof"`
	Issuer    *hclsyntax.Block   `hcl:"issuer,block"`
	Rotation  *hclsyntax.Block   `hcl:"rotation,block"`
}

func (l *loader) secretBlock(b *hclsyntax.Block) {
	spec := secretSpec{Tenant: backends.DefaultTenant}
	l.block(b, &spec)
	if len(b.Labels) != 1 || !l.declareSecret(spec, b) {
		return
	}
	s := &Secret{
		Ref:     backends.Ref{Tenant: spec.Tenant, Name: spec.Name},
		Backend: spec.Backend, Mirrors: spec.Mirrors, OnDrift: spec.OnDrift, Probe: spec.Probe, Consumers: spec.Consumers, Labels: spec.Labels, Pair: spec.Pair,
		Range: b.DefRange(), block: b,
	}
	l.cfg.Secrets = append(l.cfg.Secrets, s)
	if spec.Rotation != nil {
		var settings settingsBlock
		l.block(spec.Rotation, &settings)
		s.Rotation = settings.settings()
	}
	s.Rotation.Proof = spec.Proof
	if spec.Issuer != nil {
		l.secretIssuer(spec.Issuer, s)
	}
	l.references(b, s)
	r := policy.Resolve(l.cfg.RotationPolicies, s.Ref.Name, s.Labels, s.Rotation)
	l.keeping(s, &r)
	l.telling(s, &r)
	l.plan(s, &r)
}

func (l *loader) declareSecret(spec secretSpec, b *hclsyntax.Block) bool {
	if err := backends.ParseName(spec.Name); err != nil {
		l.mistake(b.LabelRanges[0], fmt.Sprintf("%q is no name for a secret", spec.Name), reasonOf(err))
		return false
	}
	l.belongs(b, spec.Tenant)
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
func (l *loader) references(b *hclsyntax.Block, s *Secret) {
	l.vaults(b, s)
	if s.Probe != "" && l.refer("probe", s.Probe, at(b, "probe")) {
		l.within("probe", s.Probe, at(b, "probe"), b)
	}
	for i, name := range s.Consumers {
		where := element(b, "consumers", i)
		if slices.Contains(s.Consumers[:i], name) {
			l.mistake(where, fmt.Sprintf("The consumer %q is listed twice", name), "Remove one.")
		} else if l.refer("consumer", name, where) {
			l.within("consumer", name, where, b)
			l.environmentOf(s, name, where)
		}
	}
}

// secretIssuer decodes what a secret asks of its issuer: constants of any shape,
// which are stored and shown, so never secrets.
func (l *loader) secretIssuer(b *hclsyntax.Block, s *Secret) {
	before := len(l.diags)
	s.unsettled = true
	if len(b.Labels) != 1 {
		l.mistake(b.DefRange(), fmt.Sprintf("An issuer block in a secret has one label, here are %d", len(b.Labels)), `Write issuer "NAME" { … }.`)
		return
	}
	s.Issuer = b.Labels[0]
	if l.refer("issuer", s.Issuer, b.LabelRanges[0]) {
		l.within("issuer", s.Issuer, b.LabelRanges[0], s.block)
	}
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
		return
	}
	object := cty.ObjectVal(values)
	settings, err := ctyjson.Marshal(object, object.Type())
	if err != nil {
		l.mistake(b.DefRange(), "The settings cannot be written as JSON", "Use texts, numbers, true, false, lists and objects.")
		return
	}
	s.Settings = settings
	l.checkSettings(b, s)
}

func (l *loader) checkSettings(b *hclsyntax.Block, s *Secret) {
	i, ok := l.cfg.issuers[s.Issuer]
	if !ok || i.broken {
		return
	}
	problems := settingsProblems(i, s.Settings)
	s.unsettled = len(problems) > 0
	for _, text := range problems {
		l.mistake(b.DefRange(), fmt.Sprintf("The issuer %q does not take these settings", s.Issuer), upper(text)+".")
	}
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

func blockOf(b *hclsyntax.Block, kind string) *hclsyntax.Block {
	for _, inner := range b.Body.Blocks {
		if inner.Type == kind {
			return inner
		}
	}
	return nil
}
