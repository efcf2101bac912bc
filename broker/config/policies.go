package config

import (
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/policy"
)

// settingsBlock is how matched secrets, or one secret, must rotate.
type settingsBlock struct {
	Schedule    *string        `hcl:"schedule"`
	TimeZone    *string        `hcl:"time_zone"`
	Jitter      *time.Duration `hcl:"jitter"`
	Overlap     *time.Duration `hcl:"overlap"`
	MinInterval *time.Duration `hcl:"min_interval"`
	Verify      *struct {
		Successes *int           `hcl:"successes"`
		Interval  *time.Duration `hcl:"interval"`
		Timeout   *time.Duration `hcl:"timeout"`
	} `hcl:"verify,block"`
	Confirm *struct {
		Rejections *int             `hcl:"rejections"`
		Window     *time.Duration   `hcl:"window"`
		Recheck    *[]time.Duration `hcl:"recheck"`
	} `hcl:"confirm,block"`
	Acknowledgement *struct {
		Require   *policy.Requirement `hcl:"require"`
		Timeout   *time.Duration      `hcl:"timeout"`
		OnTimeout *policy.OnTimeout   `hcl:"on_timeout"`
	} `hcl:"acknowledgement,block"`
	Key *struct {
		Length   *int    `hcl:"length"`
		Alphabet *string `hcl:"alphabet"`
		Prefix   *string `hcl:"prefix"`
		Checksum *bool   `hcl:"checksum"`
	} `hcl:"key,block"`
	Emergency *struct {
		Contain       *policy.Order  `hcl:"contain"`
		ReplaceWithin *time.Duration `hcl:"replace_within"`
	} `hcl:"emergency,block"`
}

func (b settingsBlock) settings() policy.Settings {
	s := policy.Settings{
		Schedule: b.Schedule, TimeZone: b.TimeZone, Jitter: b.Jitter, Overlap: b.Overlap, MinInterval: b.MinInterval,
	}
	if v := b.Verify; v != nil {
		s.Verify = policy.VerifySettings{Successes: v.Successes, Interval: v.Interval, Timeout: v.Timeout}
	}
	if c := b.Confirm; c != nil {
		s.Confirm = policy.ConfirmSettings{Rejections: c.Rejections, Window: c.Window, Recheck: c.Recheck}
	}
	if a := b.Acknowledgement; a != nil {
		s.Acknowledgement = policy.AcknowledgementSettings{Require: a.Require, Timeout: a.Timeout, OnTimeout: a.OnTimeout}
	}
	if k := b.Key; k != nil {
		s.Key = policy.KeySettings{Length: k.Length, Alphabet: k.Alphabet, Prefix: k.Prefix, Checksum: k.Checksum}
	}
	if e := b.Emergency; e != nil {
		s.Emergency = policy.EmergencySettings{Contain: e.Contain, ReplaceWithin: e.ReplaceWithin}
	}
	return s
}

// rotationPolicy decodes a policy. Its limits block holds what no secret may
// exceed, whatever it asks for.
func (l *loader) rotationPolicy(b *hclsyntax.Block) {
	var spec struct {
		Name  string `hcl:"name,label"`
		Match *struct {
			Paths  []string          `hcl:"paths,optional"`
			Labels map[string]string `hcl:"labels,optional"`
		} `hcl:"match,block"`
		Limits *struct {
			MaxOverlap *time.Duration `hcl:"max_overlap"`
		} `hcl:"limits,block"`
	}
	var settings settingsBlock
	good := l.block(b, &spec, &settings)
	if len(b.Labels) != 1 || !l.declare("rotation_policy", spec.Name, b, b.LabelRanges[0]) || !good {
		return
	}
	p := policy.RotationPolicy{Name: spec.Name, Settings: settings.settings()}
	if spec.Match != nil {
		p.Match = policy.Match{Paths: spec.Match.Paths, Labels: spec.Match.Labels}
	}
	if spec.Limits != nil {
		p.Settings.MaxOverlap = spec.Limits.MaxOverlap
	}
	for _, problem := range policy.ValidateRotation(p) {
		l.problem(settingAt(b, problem.Attribute), problem)
	}
	effective, _ := policy.Resolve([]policy.RotationPolicy{{Settings: p.Settings}}, anyName, nil, policy.Settings{})
	for _, problem := range l.timings.of(effective).problems {
		l.problem(settingAt(b, problem.Attribute), problem)
	}
	l.cfg.RotationPolicies = append(l.cfg.RotationPolicies, p)
}

// anyName is a secret's name that a policy without paths matches.
const anyName = "any"

// settingAt returns where a policy, or a secret's rotation block, says a setting.
func settingAt(b *hclsyntax.Block, setting string) hcl.Range {
	if setting == "max_overlap" && b.Type == "rotation_policy" {
		setting = "limits.max_overlap"
	}
	return at(b, setting)
}

// problem reports what package policy found.
func (l *loader) problem(where hcl.Range, p policy.Problem) {
	detail := p.Suggestion
	if detail != "" && !strings.HasSuffix(detail, "?") {
		detail += "."
	}
	summary := p.Text
	if word, _, _ := strings.Cut(summary, " "); !strings.ContainsAny(word, "._") {
		summary = upper(summary) // else it is the name of a setting
	}
	l.mistake(where, summary, upper(detail))
}

// accessPolicy decodes who may do what on which paths.
func (l *loader) accessPolicy(b *hclsyntax.Block) {
	var spec struct {
		Name  string             `hcl:"name,label"`
		Paths []*hclsyntax.Block `hcl:"path,block"`
	}
	good := l.block(b, &spec)
	if len(b.Labels) != 1 || !l.declare("policy", spec.Name, b, b.LabelRanges[0]) || !good {
		return
	}
	p := policy.Policy{Name: spec.Name}
	for _, inner := range spec.Paths {
		var rule struct {
			Path         string              `hcl:"path,label"`
			Capabilities []policy.Capability `hcl:"capabilities"`
		}
		if !l.block(inner, &rule) {
			return
		}
		p.Rules = append(p.Rules, policy.Rule{Path: rule.Path, Capabilities: rule.Capabilities})
	}
	for _, problem := range policy.Validate(p) {
		where := b.DefRange()
		if problem.Rule >= 0 {
			where = labelRange(spec.Paths[problem.Rule], 0)
			if problem.Attribute == "capabilities" {
				where = at(spec.Paths[problem.Rule], "capabilities")
			}
		}
		l.problem(where, problem)
	}
	l.cfg.Policies = append(l.cfg.Policies, p)
}
