package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/keybroker/keybroker/policy"
)

// reservedMethods are what the audit log calls the ways that need no auth block.
var reservedMethods = []string{"token", "break_glass"}

// auth decodes a way to find out who calls.
func (l *loader) auth(b *hclsyntax.Block) {
	n, _, ok := typed(l, "auth", l.reg.Auths, itself, b, &struct{}{})
	if !ok {
		return
	}
	if slices.Contains(reservedMethods, n.Name) {
		l.mistake(b.LabelRanges[1], fmt.Sprintf("An auth cannot be called %q", n.Name), "The audit log means something else by that: choose another name.")
	}
	l.cfg.Auths = append(l.cfg.Auths, &Auth{Named: n})
}

// roleSpec is a role's block.
type roleSpec struct {
	Name        string             `hcl:"name,label"`
	Tenant      string             `hcl:"tenant,optional"`
	Environment string             `hcl:"environment,optional"`
	Policies    []string           `hcl:"policies"`
	Binds       []*hclsyntax.Block `hcl:"bind,block"`
	Limits      *hclsyntax.Block   `hcl:"limits,block"`
	TokenTTL    time.Duration      `hcl:"token_ttl,optional"`
	TokenMaxTTL time.Duration      `hcl:"token_max_ttl,optional"`
	TokenIdle   time.Duration      `hcl:"token_idle_timeout,optional"`
	TokenUses   int                `hcl:"token_num_uses,optional"`
}

func (l *loader) role(b *hclsyntax.Block) {
	var spec roleSpec
	l.block(b, &spec)
	if len(b.Labels) != 1 || !l.declare("role", spec.Name, b, b.LabelRanges[0]) {
		return
	}
	r := &Role{Range: b.DefRange(), Role: policy.Role{
		Name: spec.Name, Tenant: spec.Tenant, Environment: spec.Environment, Policies: spec.Policies,
		TokenTTL: spec.TokenTTL, TokenMaxTTL: spec.TokenMaxTTL, TokenIdle: spec.TokenIdle, TokenUses: spec.TokenUses,
	}}
	l.cfg.Roles = append(l.cfg.Roles, r)
	l.roles[r.Name] = r
	l.belongs(b, spec.Tenant)
	if written(b, "environment") && spec.Environment == "" && !l.spoilt(at(b, "environment")) {
		l.mistake(at(b, "environment"), "The environment is empty", "Name one, or leave it out for a role that is bound to none.")
	}
	l.walled = l.walled || spec.Environment != ""
	l.rolePolicies(b, spec)
	l.tokens(b, spec)
	for _, inner := range spec.Binds {
		if binding, ok := l.bind(inner); ok {
			r.Bindings = append(r.Bindings, binding)
		}
	}
	if spec.Limits != nil {
		var from struct {
			CIDRs []string `hcl:"cidrs,optional"`
		}
		r.Limit = l.rate(spec.Limits, &from)
		r.CIDRs = l.cidrs(spec.Limits, from.CIDRs)
	}
}

func (l *loader) rolePolicies(b *hclsyntax.Block, spec roleSpec) {
	if where := at(b, "policies"); written(b, "policies") && len(spec.Policies) == 0 && !l.spoilt(where) {
		l.mistake(where, fmt.Sprintf("The role %q may do nothing: it has no policies", spec.Name), "Name at least one.")
	}
	for i, name := range spec.Policies {
		where := element(b, "policies", i)
		switch {
		case slices.Contains(spec.Policies[:i], name):
			l.mistake(where, fmt.Sprintf("The policy %q is listed twice", name), "Remove one.")
		case name != policy.Root:
			l.refer("policy", name, where)
		case spec.Tenant != "" || spec.Environment != "":
			l.mistake(where, fmt.Sprintf("The policy %q allows everything, but the role is bound to a tenant or an environment", name),
				"Name a policy that says what it may do there, or leave out tenant and environment.")
		}
	}
}

// tokens checks what is said of the tokens of a role.
func (l *loader) tokens(b *hclsyntax.Block, spec roleSpec) {
	l.notNegative(b, map[string]time.Duration{
		"token_ttl": spec.TokenTTL, "token_max_ttl": spec.TokenMaxTTL, "token_idle_timeout": spec.TokenIdle,
	}, "Leave it out for the default.")
	if where := at(b, "token_idle_timeout"); written(b, "token_idle_timeout") && spec.TokenIdle == 0 && !l.spoilt(where) {
		l.mistake(where, "A token cannot live unused for ever", `Write a long time, such as "90d", or leave it out for "24h".`)
	}
	if spec.TokenMaxTTL > 0 && spec.TokenTTL > spec.TokenMaxTTL {
		l.mistake(at(b, "token_ttl"), fmt.Sprintf("token_ttl, %s, is longer than token_max_ttl, %s", spec.TokenTTL, spec.TokenMaxTTL),
			"Shorten it, or raise token_max_ttl.")
	}
	if spec.TokenUses < 0 {
		l.mistake(at(b, "token_num_uses"), "A token cannot have a negative number of uses", "Leave it out for any number.")
	}
}

// notNegative refuses durations below zero, by the names of their attributes.
func (l *loader) notNegative(b *hclsyntax.Block, durations map[string]time.Duration, mend string) {
	for name, d := range durations {
		if d < 0 {
			l.mistake(at(b, name), name+" cannot be negative", mend)
		}
	}
}

// The attributes of a bind that say something of who is known by a method.
const (
	bindSPIFFE  = "spiffe_id"
	bindDNS     = "dns_name"
	bindCommon  = "common_name"
	bindSubject = "subject"
	bindClaims  = "claims"
)

var allBindable = []string{bindSPIFFE, bindDNS, bindCommon, bindSubject, bindClaims}

// authCertificate is the type of auths by which who calls shows a certificate.
const authCertificate = "mtls"

// bindable says what is known of whom, by the type of the auth. Of others it is not known.
var bindable = map[string][]string{
	authCertificate: {bindSPIFFE, bindDNS, bindCommon, bindSubject},
	"jwt":           {bindSubject, bindClaims},
	"oidc":          {bindSubject, bindClaims},
}

var (
	spiffeID = regexp.MustCompile(`^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*(/[A-Za-z0-9._-]+|/\*)$`)
	dnsName  = regexp.MustCompile(`^(\*\.)?([A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+$`)
)

// bind decodes who, of those that an auth knows, has a role, and tells whether it is right.
func (l *loader) bind(b *hclsyntax.Block) (policy.Binding, bool) {
	before := len(l.diags)
	var spec struct {
		Auth       string         `hcl:"auth,label"`
		SPIFFEID   string         `hcl:"spiffe_id,optional"`
		DNSName    string         `hcl:"dns_name,optional"`
		CommonName string         `hcl:"common_name,optional"`
		Subject    string         `hcl:"subject,optional"`
		Claims     hcl.Expression `hcl:"claims,optional"`
	}
	l.block(b, &spec)
	if len(b.Labels) != 1 {
		return policy.Binding{}, false
	}
	if l.refer("auth", spec.Auth, b.LabelRanges[0]) {
		l.bindable(b, spec.Auth)
	}
	for name, value := range map[string]string{bindDNS: spec.DNSName, bindCommon: spec.CommonName, bindSubject: spec.Subject, bindSPIFFE: spec.SPIFFEID} {
		if where := at(b, name); written(b, name) && value == "" && !l.spoilt(where) {
			l.mistake(where, name+" is empty", "Nobody is called so: write who is meant, or leave it out.")
		}
	}
	if spec.SPIFFEID != "" && !spiffeID.MatchString(spec.SPIFFEID) {
		l.mistake(at(b, bindSPIFFE), fmt.Sprintf("%q is no SPIFFE ID", spec.SPIFFEID),
			`Write "spiffe://TRUST-DOMAIN/PATH", or end it in "/*" for all below a path.`)
	}
	if spec.DNSName != "" && !dnsName.MatchString(spec.DNSName) {
		l.mistake(at(b, bindDNS), fmt.Sprintf("%q is no DNS name", spec.DNSName), `Write a whole name, or "*.example.com" for one label below it.`)
	}
	claims := l.claims(b)
	if !slices.ContainsFunc(allBindable, func(name string) bool { return written(b, name) }) && len(l.diags) == before {
		l.mistake(b.DefRange(), "The bind says nothing, so it binds nobody", "Write whom it binds, by "+strings.Join(l.says(spec.Auth), ", ")+".")
	}
	return policy.Binding{
		Method: spec.Auth, SPIFFEID: spec.SPIFFEID, DNSName: spec.DNSName, CommonName: spec.CommonName, Subject: spec.Subject, Claims: claims,
	}, len(l.diags) == before
}

// says lists the attributes that a bind to that auth can have.
func (l *loader) says(auth string) []string {
	if b, ok := l.declared["auth"][auth]; ok && bindable[firstLabel(b)] != nil {
		return bindable[firstLabel(b)]
	}
	return allBindable
}

// bindable refuses what is never known of those whom the auth knows.
func (l *loader) bindable(b *hclsyntax.Block, auth string) {
	method := firstLabel(l.declared["auth"][auth])
	known := l.says(auth)
	for _, name := range allBindable {
		attr, ok := b.Body.Attributes[name]
		if ok && !slices.Contains(known, name) {
			l.mistake(attr.NameRange, fmt.Sprintf("An auth %q knows no %s", method, name),
				fmt.Sprintf("The auth %q tells who calls by %s.", auth, strings.Join(known, ", ")))
		}
	}
}

// claims decodes { groups = "on-call" } or { groups = ["on-call", "sre"] }: of a list
// one is enough.
func (l *loader) claims(b *hclsyntax.Block) map[string][]string {
	attr, ok := b.Body.Attributes[bindClaims]
	if !ok || l.spoilt(attr.Expr.Range()) {
		return nil
	}
	val, ok := l.constant(bindClaims, attr.Expr)
	switch {
	case !ok || val.IsNull():
		return nil
	case !val.Type().IsObjectType():
		l.mistake(attr.Expr.Range(), `"claims" is an object`, `Write claims = { groups = "on-call" }.`)
		return nil
	case val.LengthInt() == 0:
		l.mistake(attr.Expr.Range(), "The claims are empty, so they bind nobody", `Write for instance { groups = "on-call" }.`)
		return nil
	}
	claims := map[string][]string{}
	for name, v := range val.AsValueMap() {
		values, ok := oneOrMany(v)
		if !ok {
			l.mistake(attr.Expr.Range(), fmt.Sprintf("The claim %q needs a value", name), `Write a text, or a list of texts of which one is enough.`)
		}
		claims[name] = values
	}
	return claims
}

// oneOrMany reads a text, number or truth value as text, or a list of such.
func oneOrMany(v cty.Value) ([]string, bool) {
	each := []cty.Value{v}
	if v.CanIterateElements() && !v.Type().IsObjectType() {
		each = v.AsValueSlice()
	}
	var texts []string
	for _, one := range each {
		text, err := convert.Convert(one, cty.String)
		if err != nil || text.IsNull() || text.AsString() == "" {
			return nil, false
		}
		texts = append(texts, text.AsString())
	}
	return texts, len(texts) > 0
}
