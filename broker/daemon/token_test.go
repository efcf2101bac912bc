package daemon_test

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// withRoles has roles of which one administers, one of a tenant does, and others use.
const withRoles = twoTenants + `
policy "all-but-one" {
  path "app/*" {
    capabilities = ["list", "read"]
  }
}
policy "not-this-one" {
  path "app/other" {
    capabilities = ["deny"]
  }
}
policy "own" {
  path "{{identity.name}}/*" {
    capabilities = ["list", "read"]
  }
}
policy "tokens" {
  path "sys/tokens" {
    capabilities = ["create", "delete", "list"]
  }
}
policy "glass" {
  path "sys/break-glass" {
    capabilities = ["create"]
  }
}
role "admin" {
  policies = ["tokens", "glass", "one"]
}
role "acme-admin" {
  tenant   = "acme"
  policies = ["tokens", "one"]
}
role "reader" {
  policies = ["one"]
}
role "acme-reader" {
  tenant   = "acme"
  policies = ["one"]
}
`

func startWithRoles(t *testing.T) (*site, *node) {
	t.Helper()
	s := newSite(t, withConsumer(withRoles, nil))
	return s, s.start()
}

func status(t *testing.T, what string, err error, want int) {
	t.Helper()
	if client.Status(err) != want {
		t.Errorf("%s: %v, want %d", what, err, want)
	}
}

func TestTheFirstAdminEndsTheRootToken(t *testing.T) {
	t.Parallel()
	s, n := startWithRoles(t)
	ctx := t.Context()
	own := must(n.OwnToken(ctx))(t)
	if left := time.Until(own.ExpiresAt); own.Kind != client.TokenRoot || left > time.Hour || left < 50*time.Minute || own.State != client.TokenActive {
		t.Errorf("the root token: %+v", own)
	}
	if again := must(n.RenewOwnToken(ctx))(t); !again.ExpiresAt.Equal(own.ExpiresAt) {
		t.Errorf("a root token was renewed until %s", again.ExpiresAt)
	}
	plain, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"one"}})
	ended, child := s.as(n, client.CreateTokenRequest{Policies: []string{"root"}})
	if child.Parent != own.ID || child.ExpiresAt.After(own.ExpiresAt) || child.ExpiresAt.IsZero() {
		t.Errorf("a root token of the root token: %+v", child)
	}
	for _, role := range []string{"reader", "acme-admin"} {
		if _, made := s.as(n, client.CreateTokenRequest{Role: role}); len(made.EndedRoots) > 0 {
			t.Errorf("a token of the role %s ended %v", role, made.EndedRoots)
		}
	}
	admin, made := s.as(n, client.CreateTokenRequest{Role: "admin"})
	if !slices.Equal(made.EndedRoots, []string{own.ID}) || made.Parent != "" || !slices.Contains(made.Policies, "tokens") || made.Role != "admin" {
		t.Errorf("the admin's token: %+v", made)
	}
	status(t, "the root token", second(n.Tokens(ctx, client.Page{})), http.StatusUnauthorized)
	status(t, "what ends with it", second(ended.Tokens(ctx, client.Page{})), http.StatusUnauthorized)
	status(t, "what does not", second(plain.OwnToken(ctx)), 0)
	states := map[string]string{}
	for _, tok := range must(admin.Tokens(ctx, client.Page{}))(t).Items {
		states[tok.ID] = tok.State
	}
	if states[own.ID] != client.TokenRevoked || states[child.ID] != client.TokenParentEnded || states[made.ID] != client.TokenActive {
		t.Errorf("their states: %v", states)
	}
	status(t, "break glass by who may", second(admin.CreateToken(ctx, client.CreateTokenRequest{Name: "safe", Role: "reader", BreakGlass: true})), 0)
	if _, next := s.as(&node{Client: admin}, client.CreateTokenRequest{Role: "admin"}); len(next.EndedRoots) > 0 || next.Parent != made.ID {
		t.Errorf("the next one: %+v", next)
	}

	// Whoever has the host and the seal gets in again, not unnoticed.
	n.stop()
	s.newRoot = true
	n = s.start()
	fresh := must(n.OwnToken(ctx))(t)
	if fresh.Kind != client.TokenRoot || fresh.ID == own.ID {
		t.Errorf("another root token: %+v", fresh)
	}
	if got := s.lastAudited("token.new-root", 1, "token"); !strings.Contains(got, fresh.ID) {
		t.Errorf("audited: %s", got)
	}
	if _, made := s.as(&node{Client: s.client(made.Token.Reveal(), n.addr)}, client.CreateTokenRequest{Role: "admin"}); !slices.Equal(made.EndedRoots, []string{fresh.ID}) {
		t.Errorf("the next admin's token ended %v", made.EndedRoots)
	}
}

// TestAChildIsAllowedNothingMore tries what fewer policies would allow, and other
// names in their templates.
func TestAChildIsAllowedNothingMore(t *testing.T) {
	t.Parallel()
	s, n := startWithRoles(t)
	ctx := t.Context()
	n.done(t, "app/other", "default:app/key")
	parent, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"all-but-one", "not-this-one", "own", "tokens"}})
	status(t, "its own denial", second(parent.Value(ctx, "app/other", 0)), http.StatusForbidden)
	child := func(name string, policies ...string) *client.Client {
		tok := must(parent.CreateToken(ctx, client.CreateTokenRequest{Name: name, Policies: policies}))(t)
		return s.client(tok.Token.Reveal(), n.addr)
	}
	less := child("less", "all-but-one")
	status(t, "a denial that it was not given", second(less.Value(ctx, "app/other", 0)), http.StatusForbidden)
	status(t, "what both may", second(less.Value(ctx, "default:app/key", 0)), 0)
	named := child("app", "own")
	status(t, "the path of a name that it was given", second(named.Value(ctx, "app/other", 0)), http.StatusForbidden)
}

func TestBreakGlass(t *testing.T) {
	t.Parallel()
	s, n := startWithRoles(t)
	ctx := t.Context()
	n.done(t, "default:app/key")
	noGlass, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"tokens", "one"}})
	status(t, "without create on sys/break-glass", second(noGlass.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Role: "reader", BreakGlass: true})), http.StatusForbidden)
	onlyGlass, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"glass", "one"}, TTL: "10m"})
	status(t, "a token of the usual kind", second(onlyGlass.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Role: "reader"})), http.StatusForbidden)
	made := must(onlyGlass.CreateToken(ctx, client.CreateTokenRequest{Name: "safe", Role: "reader", BreakGlass: true}))(t)
	if made.Kind != client.TokenBreakGlass || !made.ExpiresAt.IsZero() || made.MaxIdle != "" || made.Parent != "" {
		t.Errorf("%+v", made)
	}
	safe := s.client(made.Token.Reveal(), n.addr)
	status(t, "using it", second(safe.Value(ctx, "default:app/key", 0)), 0)
	if log := s.read("data/audit.jsonl"); !strings.Contains(log, `"method":"break_glass"`) {
		t.Error("the audit log does not tell that it was a break-glass token")
	}
	alerts := must(n.Alerts(ctx, client.AlertQuery{}))(t).Items
	if !slices.ContainsFunc(alerts, func(a client.Alert) bool { return a.Kind == "break_glass" && a.Subject == made.ID }) {
		t.Errorf("alerts: %+v", alerts)
	}
}

func TestOwnTokens(t *testing.T) {
	t.Parallel()
	s, n := startWithRoles(t)
	ctx := t.Context()
	one, made := s.as(n, client.CreateTokenRequest{Policies: []string{"one"}, TTL: "10m", MaxTTL: "1h", Idle: "5m", CIDRs: []string{"127.0.0.0/8", "::1/128"}})
	own := must(one.OwnToken(ctx))(t)
	if own.ID != made.ID || own.TTL != "10m0s" || own.MaxIdle != "5m0s" || len(own.CIDRs) != 2 || own.Token != "" || own.LastUsedAt.IsZero() || own.EndsAt.Sub(own.CreatedAt) != time.Hour {
		t.Errorf("%+v", own)
	}
	if renewed := must(one.RenewOwnToken(ctx))(t); !renewed.ExpiresAt.After(own.ExpiresAt) {
		t.Errorf("renewed until %s, was %s", renewed.ExpiresAt, own.ExpiresAt)
	}
	if gone := must(one.RevokeOwnToken(ctx))(t); gone.State != client.TokenRevoked || gone.RevokedAt.IsZero() {
		t.Errorf("%+v", gone)
	}
	status(t, "after it ended itself", second(one.OwnToken(ctx)), http.StatusUnauthorized)

	once, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"one"}, Uses: 2})
	if own := must(once.OwnToken(ctx))(t); own.Uses != 2 || own.UsesLeft != 1 {
		t.Errorf("after one use: %+v", own)
	}
	status(t, "the second use", second(once.OwnToken(ctx)), 0)
	status(t, "the third use", second(once.OwnToken(ctx)), http.StatusUnauthorized)

	elsewhere, _ := s.as(n, client.CreateTokenRequest{Policies: []string{"one"}, CIDRs: []string{"192.0.2.0/24"}})
	status(t, "from other addresses", second(elsewhere.OwnToken(ctx)), http.StatusUnauthorized)
}

func TestMistakesAboutTokens(t *testing.T) {
	t.Parallel()
	s, n := startWithRoles(t)
	ctx := t.Context()
	acme, _ := s.as(n, client.CreateTokenRequest{Role: "acme-admin"})
	one := []string{"one"}
	for what, tt := range map[string]struct {
		by *client.Client
		r  client.CreateTokenRequest
	}{
		"400 no duration":             {n.Client, client.CreateTokenRequest{Policies: one, TTL: "soon"}},
		"400 a negative one":          {n.Client, client.CreateTokenRequest{Policies: one, Idle: "-1h"}},
		"400 no network":              {n.Client, client.CreateTokenRequest{Policies: one, CIDRs: []string{"10.0.0.0/33"}}},
		"400 an address in a network": {n.Client, client.CreateTokenRequest{Policies: one, CIDRs: []string{"10.1.2.3/8"}}},
		"400 uses":                    {n.Client, client.CreateTokenRequest{Policies: one, Uses: -1}},
		"400 no such role":            {n.Client, client.CreateTokenRequest{Role: "nosuch"}},
		"400 role and policies":       {n.Client, client.CreateTokenRequest{Role: "reader", Policies: one}},
		"400 neither":                 {n.Client, client.CreateTokenRequest{}},
		"400 a role of nobody":        {acme, client.CreateTokenRequest{Role: "reader"}},
		"200 its own":                 {acme, client.CreateTokenRequest{Role: "acme-reader"}},
	} {
		tt.r.Name = "x"
		_, err := tt.by.CreateToken(ctx, tt.r)
		if want, _, _ := strings.Cut(what, " "); want == "200" && err != nil || want == "400" && client.Status(err) != 400 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestARootTokenIsInAFileOnly looks for it wherever else it might be.
func TestARootTokenIsInAFileOnly(t *testing.T) {
	t.Parallel()
	s, n := startWithRoles(t)
	token := s.rootToken()
	must(n.OwnToken(t.Context()))(t)
	n.stop()
	if log := s.log.String(); strings.Contains(log, token) || !strings.Contains(log, "the root token was written; it ends in 1h0m0s") {
		t.Errorf("the log does not say how long the root token lives, or says the token")
	}
	err := filepath.WalkDir(filepath.Join(s.dir, "data"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == daemon.RootTokenFile {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), token) {
			t.Errorf("the root token is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestWhoAdministersNothingEndsNoRootToken: without it nobody could make any token.
func TestWhoAdministersNothingEndsNoRootToken(t *testing.T) {
	t.Parallel()
	_, n := startWithRoles(t)
	for what, r := range map[string]client.CreateTokenRequest{
		"once":      {Role: "admin", Uses: 1},
		"briefly":   {Role: "admin", TTL: "1m"},
		"elsewhere": {Role: "admin", CIDRs: []string{"192.0.2.0/24"}},
	} {
		r.Name = what
		if made := must(n.CreateToken(t.Context(), r))(t); len(made.EndedRoots) > 0 {
			t.Errorf("%s: it ended %q", what, made.EndedRoots)
		}
	}
	if made := must(n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "x", Role: "admin", CIDRs: []string{"127.0.0.0/8"}}))(t); len(made.EndedRoots) != 1 {
		t.Errorf("an administrator here ended %q", made.EndedRoots)
	}
}

// TestBreakGlassIsNobody: neither its name nor its role opens what is another's.
func TestBreakGlassIsNobody(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(withRoles+`
policy "of-role" {
  path "{{identity.role}}/*" {
    capabilities = ["list", "read"]
  }
}
role "app" {
  policies = ["of-role"]
}
role "named" {
  policies = ["own"]
}
role "other" {
  policies = ["of-role", "own", "glass"]
}
`, nil))
	n := s.start()
	ctx := t.Context()
	n.done(t, "app/other")
	other, _ := s.as(n, client.CreateTokenRequest{Role: "other"})
	_, err := other.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Role: "app", BreakGlass: true})
	refused(t, "by a role of others", err, http.StatusForbidden, "depends on its name")
	byRoot := must(n.CreateToken(ctx, client.CreateTokenRequest{Name: "x", Role: "app", BreakGlass: true}))(t)
	status(t, "by a role that root gave", second(s.client(byRoot.Token.Reveal(), n.addr).Value(ctx, "app/other", 0)), 0)
	for maker, c := range map[string]*client.Client{"its holder": other, "root": n.Client} {
		named := must(c.CreateToken(ctx, client.CreateTokenRequest{Name: "app", Role: "named", BreakGlass: true}))(t)
		status(t, "by a name that "+maker+" gave", second(s.client(named.Token.Reveal(), n.addr).Value(ctx, "app/other", 0)), http.StatusForbidden)
	}
}

// TestTheRootTokensFileGoesWithIt, and its hash stays in the audit log.
func TestTheRootTokensFileGoesWithIt(t *testing.T) {
	t.Parallel()
	s, n := startWithRoles(t)
	hash := must(n.AuditHash(t.Context(), client.SecretText(s.rootToken())))(t).Hash
	if log := s.read("data/audit.jsonl"); hash == "" || !strings.Contains(log, hash) || !strings.Contains(log, `"action":"token.root"`) {
		t.Errorf("the audit log does not tell of the root token by its hash %q", hash)
	}
	must(n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "boss", Role: "admin"}))(t)
	eventually(t, "a root token's file that is gone", func() bool {
		_, err := os.Stat(filepath.Join(s.dir, "data", daemon.RootTokenFile))
		return errors.Is(err, fs.ErrNotExist)
	})
}

// TestWhatATokenEndsWith is told when it is made and when that ends.
func TestWhatATokenEndsWith(t *testing.T) {
	t.Parallel()
	s, n := startWithRoles(t)
	boss := must(n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "boss", Role: "admin"}))(t)
	c := s.client(boss.Token.Reveal(), n.addr)
	for range 2 {
		child := must(c.CreateToken(t.Context(), client.CreateTokenRequest{Name: "child", Policies: []string{"one"}}))(t)
		if child.Parent != boss.ID || child.ParentName != "boss" || child.MaxIdle == "" {
			t.Errorf("it ends with %q (%q), or unused for %q", child.Parent, child.ParentName, child.MaxIdle)
		}
	}
	if boss.Parent != "" || boss.ParentName != "" {
		t.Errorf("what root makes for others ends with %q (%q)", boss.Parent, boss.ParentName)
	}
	if ended := must(c.RevokeOwnToken(t.Context()))(t).EndedTokens; ended != 2 {
		t.Errorf("%d tokens ended with it", ended)
	}
}
