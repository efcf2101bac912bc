package config

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/keybroker/keybroker/policy"
)

// settingsBlock is how matched secrets, or one secret, must rotate.
type settingsBlock struct {
	Schedule       *string        `hcl:"schedule"`
	TimeZone       *string        `hcl:"time_zone"`
	Jitter         *time.Duration `hcl:"jitter"`
	Window         *string        `hcl:"window"`
	MaxAge         *time.Duration `hcl:"max_age"`
	Overlap        *time.Duration `hcl:"overlap"`
	MinInterval    *time.Duration `hcl:"min_interval"`
	NoticeBefore   *time.Duration `hcl:"notice_before"`
	Approval       *bool          `hcl:"approval"`
	WaitForMirrors *bool          `hcl:"wait_for_mirrors"`
	Verify         *struct {
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
		Length   *int      `hcl:"length"`
		Alphabet *string   `hcl:"alphabet"`
		Classes  *[]string `hcl:"classes"`
		Prefix   *string   `hcl:"prefix"`
		Checksum *bool     `hcl:"checksum"`
	} `hcl:"key,block"`
	Emergency *struct {
		Contain       *policy.Order  `hcl:"contain"`
		ReplaceWithin *time.Duration `hcl:"replace_within"`
	} `hcl:"emergency,block"`
}

func (b settingsBlock) settings() policy.Settings {
	s := policy.Settings{
		Schedule: b.Schedule, TimeZone: b.TimeZone, Jitter: b.Jitter, Window: b.Window, MaxAge: b.MaxAge,
		Overlap: b.Overlap, MinInterval: b.MinInterval, NoticeBefore: b.NoticeBefore, Approval: b.Approval, WaitForMirrors: b.WaitForMirrors,
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
		s.Key = policy.KeySettings{Length: k.Length, Alphabet: k.Alphabet, Classes: k.Classes, Prefix: k.Prefix, Checksum: k.Checksum}
	}
	if e := b.Emergency; e != nil {
		s.Emergency = policy.EmergencySettings{Contain: e.Contain, ReplaceWithin: e.ReplaceWithin}
	}
	return s
}

// rotationPolicySpec is what only a policy has: a secret is none of several, and limits
// nobody.
type rotationPolicySpec struct {
	Name          string `hcl:"name,label"`
	MaxConcurrent *int   `hcl:"max_concurrent"`
	Match         *struct {
		Paths  []string          `hcl:"paths,optional"`
		Labels map[string]string `hcl:"labels,optional"`
	} `hcl:"match,block"`
	Limits *struct {
		MaxOverlap   *time.Duration `hcl:"max_overlap"`
		MaxAge       *time.Duration `hcl:"max_age"`
		MinLength    *int           `hcl:"min_length"`
		PlainPayload *bool          `hcl:"plain_payload"`
	} `hcl:"limits,block"`
}

// rotationPolicy decodes how secrets rotate.
func (l *loader) rotationPolicy(b *hclsyntax.Block) {
	var spec rotationPolicySpec
	var settings settingsBlock
	good := l.block(b, &spec, &settings)
	if len(b.Labels) != 1 || !l.declare("rotation_policy", spec.Name, b, b.LabelRanges[0]) {
		l.obscured = true
		return
	}
	l.cfg.rotationPolicies = l.declared["rotation_policy"]
	p := policy.RotationPolicy{Name: spec.Name, Settings: settings.settings()}
	if spec.Match != nil {
		p.Match = policy.Match{Paths: spec.Match.Paths, Labels: spec.Match.Labels}
	}
	p.Settings.MaxConcurrent = spec.MaxConcurrent
	if spec.Limits != nil {
		p.Limits = policy.Limits(*spec.Limits)
	}
	effective := policy.Resolve([]policy.RotationPolicy{{Settings: p.Settings}}, anyName, nil, policy.Settings{})
	where := func(setting string) hcl.Range { return settingAt(b, setting) }
	for _, problem := range append(policy.ValidateRotation(p), l.cfg.timings.of(effective.Rotation).problems...) {
		if !l.doubtful(problem.Attribute, where) {
			l.problem(where(problem.Attribute), problem)
		}
	}
	for _, e := range p.Excesses() {
		if !l.doubtful(e.Attribute, where) {
			l.excess(where(e.Attribute), e)
		}
	}
	if limits := blockOf(b, "limits"); limits != nil && (l.unknown[limits.DefRange()] || !good) {
		l.limitless = true
	}
	match := blockOf(b, "match")
	if l.unknown[b.DefRange()] || match != nil && l.obscure(match.DefRange()) {
		l.obscured = true
		return
	}
	l.cfg.RotationPolicies = append(l.cfg.RotationPolicies, p)
}

// judgedBy lists the settings that a setting is judged by.
var judgedBy = map[string][]string{
	"max_age":        {"overlap", "min_interval", "window", "verify.timeout"},
	"window":         {"time_zone"},
	"verify.timeout": {"verify.successes", "verify.interval"},
}

// doubtful tells whether a setting, or one that it is judged by, was reported.
func (l *loader) doubtful(setting string, where func(setting string) hcl.Range) bool {
	for _, s := range append([]string{setting}, judgedBy[setting]...) {
		if l.spoilt(where(s)) {
			return true
		}
	}
	return false
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
	l.mistake(where, summary(p.Text), sentence(p.Suggestion))
}

// summary begins a text with a capital, unless it begins with the name of a setting.
func summary(text string) string {
	if word, _, _ := strings.Cut(text, " "); strings.ContainsAny(word, "._") {
		return text
	}
	return upper(text)
}

// sentence makes a whole one of a text.
func sentence(text string) string {
	if text == "" || strings.HasSuffix(text, ".") || strings.HasSuffix(text, "?") {
		return upper(text)
	}
	return upper(text) + "."
}

// accessPolicy decodes who may do what on which paths.
func (l *loader) accessPolicy(b *hclsyntax.Block) {
	var spec struct {
		Name  string             `hcl:"name,label"`
		Paths []*hclsyntax.Block `hcl:"path,block"`
	}
	good := l.block(b, &spec)
	if len(b.Labels) != 1 || !l.declare("policy", spec.Name, b, b.LabelRanges[0]) {
		return
	}
	p := policy.Policy{Name: spec.Name}
	var paths []*hclsyntax.Block // of the rules
	for _, inner := range spec.Paths {
		if rule, ok := l.rule(inner); ok {
			paths = append(paths, inner)
			p.Rules = append(p.Rules, rule)
		} else {
			good = false
		}
	}
	for _, problem := range policy.Validate(p) {
		where := b.DefRange()
		switch {
		case problem.Rule >= 0 && problem.Attribute == "path":
			where = labelRange(paths[problem.Rule], 0)
		case problem.Rule >= 0:
			where = at(paths[problem.Rule], problem.Attribute)
		case !good:
			continue // it may be about a rule that was reported
		}
		l.problem(where, problem)
	}
	l.cfg.Policies = append(l.cfg.Policies, p)
}

// rule decodes what may be done on the paths of one pattern, and tells whether it
// could be read.
func (l *loader) rule(b *hclsyntax.Block) (policy.Rule, bool) {
	var spec struct {
		Path         string              `hcl:"path,label"`
		Capabilities []policy.Capability `hcl:"capabilities"`
		Conditions   *hclsyntax.Block    `hcl:"conditions,block"`
	}
	good := l.block(b, &spec)
	rule := policy.Rule{Path: spec.Path, Capabilities: spec.Capabilities}
	if spec.Conditions == nil {
		return rule, good
	}
	var read bool
	rule.Conditions, read = l.conditions(spec.Conditions)
	return rule, good && read
}

func (l *loader) conditions(b *hclsyntax.Block) (policy.Conditions, bool) {
	var spec struct {
		Environments []string `hcl:"environments,optional"`
		CIDRs        []string `hcl:"cidrs,optional"`
		Time         string   `hcl:"time,optional"`
		TimeZone     string   `hcl:"time_zone,optional"`
	}
	good := l.block(b, &spec)
	names := []string{"environments", "cidrs", "time", "time_zone"}
	if good && !slices.ContainsFunc(names, func(name string) bool { return written(b, name) }) {
		l.mistake(b.DefRange(), "The conditions are empty", "Write environments, cidrs or time, or leave the block out.")
	}
	return policy.Conditions{Environments: spec.Environments, CIDRs: l.cidrs(b, spec.CIDRs), Time: spec.Time, TimeZone: spec.TimeZone}, good
}
