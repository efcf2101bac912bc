package config_test

import (
	"crypto/tls"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/policy"
)

func identities(t *testing.T) *config.Config {
	t.Helper()
	cfg, diags := config.Load("testdata/identities.hcl", registry(), testOptions())
	if len(diags.All()) > 0 {
		t.Fatal(diags.All())
	}
	return cfg
}

func TestRolesAreDecoded(t *testing.T) {
	t.Parallel()
	cfg := identities(t)
	app := policy.Role{
		Name: "newsletter-app", Tenant: "acme", Environment: "production", Policies: []string{"mail-reader"},
		Bindings: []policy.Binding{
			{Method: "mesh", SPIFFEID: "spiffe://example.com/newsletter/*", DNSName: "*.newsletter.example.com", CommonName: "newsletter", Subject: "CN=newsletter,O=Example"},
			{Method: "cluster", Subject: "system:serviceaccount:mail:newsletter"},
		},
		CIDRs:    []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.7/32")},
		Limit:    policy.Limit{RequestsPerMinute: 1000, Burst: 50},
		TokenTTL: time.Hour, TokenMaxTTL: 24 * time.Hour, TokenIdle: 30 * time.Minute, TokenUses: 100,
	}
	if got := cfg.Roles[0].Role; !reflect.DeepEqual(got, app) {
		t.Errorf("got  %+v\nwant %+v", got, app)
	}
	onCall := policy.Role{Name: "on-call", Policies: []string{"responder", policy.Root}, Bindings: []policy.Binding{
		{Method: "corp", Claims: map[string][]string{"groups": {"on-call"}, "region": {"eu", "us"}, "email_verified": {"true"}}},
	}}
	if got := cfg.Roles[1].Role; !reflect.DeepEqual(got, onCall) {
		t.Errorf("got  %+v\nwant %+v", got, onCall)
	}
	if a := cfg.Auths[0]; a.Type != "mtls" || a.Name != "mesh" || a.Config.(*certificateConfig).CAFile != "testdata/mesh-ca.crt" {
		t.Errorf("auth %+v", a)
	}
	want := policy.Conditions{
		Environments: []string{"production"}, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Time: "Mon-Fri 08:00-18:00", TimeZone: "Europe/Berlin",
	}
	if got := cfg.Policies[0].Rules[0].Conditions; !reflect.DeepEqual(got, want) {
		t.Errorf("conditions %+v", got)
	}
	if got := cfg.Policies[1].Rules[0].Conditions; !reflect.DeepEqual(got, policy.Conditions{}) {
		t.Errorf("without conditions %+v", got)
	}
}

func TestTheNodeIsDecoded(t *testing.T) {
	t.Parallel()
	cfg := identities(t)
	l := cfg.Listener
	if l.TLSMinVersion != tls.VersionTLS13 || l.MaxRequestSize != 2<<20 {
		t.Errorf("listener %+v", l)
	}
	if want := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.1.2.4")}; !slices.Equal(l.TrustedProxies, want) {
		t.Errorf("proxies %v", l.TrustedProxies)
	}
	limits := config.RequestLimits{
		PerAddress:  policy.Limit{RequestsPerMinute: 6000, Burst: 200},
		PerIdentity: policy.Limit{RequestsPerMinute: 1200},
		PerTenant:   policy.Limit{RequestsPerMinute: 12000},
	}
	if l.Limits != limits {
		t.Errorf("limits %+v", l.Limits)
	}
	if got := cfg.Telemetry; got != (config.Telemetry{Prometheus: true, Address: "127.0.0.1:9400", SecretNames: true}) {
		t.Errorf("telemetry %+v", got)
	}
	for i, want := range []policy.Limit{{RequestsPerMinute: 600, Burst: 60}, {}} {
		if got := cfg.Tenants[i]; got.Limit != want || got.Name != []string{"acme", "globex"}[i] {
			t.Errorf("tenant %+v", got)
		}
	}
	names := []string{"file file", "file second", "splunk_hec siem"}
	for i, sink := range cfg.AuditSinks {
		if got := sink.Type + " " + sink.Name; got != names[i] {
			t.Errorf("audit sink %q, want %q", got, names[i])
		}
	}
	if len(cfg.AuditSinks) != len(names) || cfg.AuditSinks[2].Config.(*receiverConfig).Token.Reveal() != "s3cr3t-token" {
		t.Errorf("audit sinks %+v", cfg.AuditSinks)
	}
	plain := parse(t, `listener "tcp" { tls_min_version = "1.2" }`)
	if plain.Listener.TLSMinVersion != tls.VersionTLS12 {
		t.Errorf("TLS 1.2 was asked for: %+v", plain.Listener)
	}
	none := parse(t, "")
	if none.Listener.MaxRequestSize != 1<<20 || none.Listener.TLSMinVersion != tls.VersionTLS13 || none.Telemetry != (config.Telemetry{Prometheus: true}) {
		t.Errorf("by default %+v, %+v", none.Listener, none.Telemetry)
	}
}

func TestAlertsAreDecoded(t *testing.T) {
	t.Parallel()
	cfg := identities(t)
	got := *cfg.Alerts[0]
	got.Range = cfg.Alerts[1].Range
	want := config.Alert{
		Name: "security", Notifier: "pager", On: []string{"unconfirmed", "resurrected", "audit_sink_down"},
		Repeat: time.Hour, Heartbeat: 24 * time.Hour, Escalate: &config.Escalation{After: 30 * time.Minute, Notifier: "boss"}, Range: got.Range,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if a := cfg.Alerts[1]; a.Tenant != "acme" || a.On != nil || a.Escalate != nil || cfg.Notifiers[2].Tenant != "acme" {
		t.Errorf("alert %+v, notifier %+v", a, cfg.Notifiers[2])
	}
}

func TestTenantsOfBlocks(t *testing.T) {
	t.Parallel()
	cfg := identities(t)
	for kind, tenants := range map[string][]string{
		"backend":  {cfg.Backends[0].Tenant, cfg.Backends[1].Tenant},
		"issuer":   {"", cfg.Issuers[0].Tenant},
		"probe":    {"", cfg.Probes[0].Tenant},
		"consumer": {"", cfg.Consumers[0].Tenant},
		"trigger":  {"", cfg.Triggers[0].Tenant},
	} {
		if !slices.Equal(tenants, []string{"", "acme"}) {
			t.Errorf("%s: the tenants are %q", kind, tenants)
		}
	}
	if cfg.Consumers[0].Role != "newsletter-app" {
		t.Errorf("consumer %+v", cfg.Consumers[0])
	}
	checkWalls(t, cfg)
}

// checkWalls looks in an accepted configuration for what leads from one tenant or
// environment to another.
func checkWalls(t *testing.T, cfg *config.Config) {
	t.Helper()
	tenants := map[string]string{} // by kind and name
	for _, b := range cfg.Backends {
		tenants["backend "+b.Name] = b.Tenant
	}
	for _, i := range cfg.Issuers {
		tenants["issuer "+i.Name] = i.Tenant
	}
	for _, p := range cfg.Probes {
		tenants["probe "+p.Name] = p.Tenant
	}
	for _, n := range cfg.Notifiers {
		tenants["notifier "+n.Name] = n.Tenant
	}
	for _, c := range cfg.Consumers {
		tenants["consumer "+c.Name] = c.Tenant
	}
	reaches := func(from, what, tenant string) {
		of, there := tenants[what]
		if !there || of != "" && of != tenant {
			t.Errorf("%s of tenant %q leads to %s of tenant %q (%t)", from, tenant, what, of, there)
		}
	}
	for _, s := range cfg.Secrets {
		for _, name := range append([]string{s.Backend}, s.Mirrors...) {
			reaches(s.Ref.String(), "backend "+name, s.Ref.Tenant)
		}
		for _, name := range s.Consumers {
			reaches(s.Ref.String(), "consumer "+name, s.Ref.Tenant)
		}
		if s.Issuer != "" {
			reaches(s.Ref.String(), "issuer "+s.Issuer, s.Ref.Tenant)
		}
		if s.Probe != "" {
			reaches(s.Ref.String(), "probe "+s.Probe, s.Ref.Tenant)
		}
	}
	for _, a := range cfg.Alerts {
		reaches("alert "+a.Name, "notifier "+a.Notifier, a.Tenant)
		if a.Escalate != nil {
			reaches("alert "+a.Name, "notifier "+a.Escalate.Notifier, a.Tenant)
		}
	}
	checkRoles(t, cfg)
}

func checkRoles(t *testing.T, cfg *config.Config) {
	t.Helper()
	names, tenants := map[string]bool{policy.Root: true}, map[string]string{}
	for _, p := range cfg.Policies {
		names["policy "+p.Name] = true
	}
	for _, a := range cfg.Auths {
		names["auth "+a.Name] = true
	}
	for _, r := range cfg.Roles {
		tenants[r.Name] = r.Tenant
		root := slices.Contains(r.Policies, policy.Root)
		if len(r.Policies) == 0 || root && r.Walls() != (policy.Walls{}) {
			t.Errorf("role %+v", r.Role)
		}
		for _, p := range r.Policies {
			if p != policy.Root && !names["policy "+p] {
				t.Errorf("role %s: there is no policy %q", r.Name, p)
			}
		}
		for _, b := range r.Bindings {
			if !names["auth "+b.Method] || reflect.DeepEqual(b, policy.Binding{Method: b.Method}) {
				t.Errorf("role %s: bind %+v", r.Name, b)
			}
		}
	}
	environments := map[string]string{}
	for _, r := range cfg.Roles {
		environments[r.Name] = r.Environment
	}
	for _, c := range cfg.Consumers {
		for _, s := range cfg.Secrets {
			env := s.Labels[config.EnvironmentLabel]
			if bound := environments[c.Role]; bound != "" && bound != env && slices.Contains(s.Consumers, c.Name) {
				t.Errorf("consumer %s of environment %q is told of %s of %q", c.Name, bound, s.Ref, env)
			}
		}
		if tenant, ok := tenants[c.Role]; c.Role != "" && (!ok || tenant != c.Tenant) {
			t.Errorf("consumer %s of tenant %q reads as %q of tenant %q", c.Name, c.Tenant, c.Role, tenant)
		}
	}
}
