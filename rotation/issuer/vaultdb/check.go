package vaultdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vaultconn"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// Check implements issuer.Checker. It logs in once, and makes nothing.
func (i *Issuer) Check(ctx context.Context, sub issuer.Subject) []issuer.Finding {
	if sub.Ref == (backends.Ref{}) && len(sub.Settings) == 0 { // no secret uses the issuer yet
		return i.checkLogin(ctx)
	}
	role, err := roleIn(sub.Settings)
	if err != nil {
		return []issuer.Finding{{What: "the secret names a role", Problem: err.Error(), Mend: `write role = "NAME" into the secret's issuer block`}}
	}
	login, findings, ok := i.logIn(ctx)
	if !ok {
		return findings
	}
	findings = append(findings, i.rights(ctx, role)...)
	return append(findings, i.role(ctx, role, login)...)
}

func (i *Issuer) logIn(ctx context.Context) (vaultconn.Token, []issuer.Finding, bool) {
	login, err := i.conn.LogIn(ctx)
	if err != nil {
		return vaultconn.Token{}, []issuer.Finding{{What: "can log in to Vault", Problem: err.Error(), Mend: "see to the issuer's auth block, and to what it names in Vault"}}, false
	}
	return login.Token, []issuer.Finding{{What: "can log in to Vault"}, outlives(login.Token)}, true
}

// checkLogin is all that can be looked at without a role.
func (i *Issuer) checkLogin(ctx context.Context) []issuer.Finding {
	_, findings, ok := i.logIn(ctx)
	if ok {
		findings = append(findings, issuer.Finding{What: "may do with a role what a rotation needs", Unknown: true,
			Problem: "which role it is about is said by a secret, and none was asked about", Mend: "check the issuer for a secret that names its role"})
	}
	return findings
}

// batch is how a login becomes one whose end takes no credential along.
const batch = `log in by an AppRole (or jwt, kubernetes) with token_type=batch, and a token_ttl not below the role's default_ttl`

// outlives tells whether something may end a credential before its time.
func outlives(t vaultconn.Token) issuer.Finding {
	f := issuer.Finding{What: "no end of a token takes a credential along", Mend: batch}
	switch {
	case t.Batch && t.Orphan:
		return issuer.Finding{What: f.What}
	case t.Batch:
		f.Problem = "the login's batch token has a parent, and Vault revokes the leases of both when that one ends"
	case t.TTL == 0:
		f.Problem = "the token never expires, but whoever revokes it revokes every credential made with it"
	case t.Period > 0:
		f.Problem = fmt.Sprintf("the periodic token ends when it is not renewed for %s, as while the broker is down, and every credential made with it ends then", t.Period)
	default:
		f.Problem = fmt.Sprintf("a credential ends with the service token that it was given to, after %s or when somebody revokes that one", t.TTL)
	}
	if !t.Batch && !t.Orphan {
		f.Problem += "; it ends with its parent, too"
	}
	return f
}

// rights asks Vault what its policies let us do (sys/capabilities-self).
func (i *Issuer) rights(ctx context.Context, role string) []issuer.Finding {
	creds := i.mount() + "/creds/" + role
	needed := []struct {
		path         string
		capabilities []string
	}{
		{creds, []string{"read"}},
		{revoking + creds + "/LEASE", []string{"update"}},
		{listing + creds + "/", []string{"list", "sudo"}},
	}
	if !i.ListLeases {
		needed = needed[:2]
	}
	var paths []string
	for _, n := range needed {
		paths = append(paths, n.path)
	}
	answer, err := i.conn.Write(ctx, "sys/capabilities-self", map[string]any{"paths": paths})
	var findings []issuer.Finding
	for _, n := range needed {
		for _, capability := range n.capabilities {
			f := issuer.Finding{What: fmt.Sprintf("may %s %s", capability, n.path)}
			switch {
			case err != nil:
				f.Problem, f.Unknown = err.Error(), true
				f.Mend = `let the policies update sys/capabilities-self, as the policy "default" does`
			case !has(answer, n.path, capability):
				f.Problem = "the policies of the login do not allow it"
				f.Mend = fmt.Sprintf("path %q { capabilities = [%s] }", strings.Replace(n.path, "LEASE", "*", 1), `"`+strings.Join(n.capabilities, `", "`)+`"`)
			}
			findings = append(findings, f)
		}
	}
	return findings
}

func has(answer *api.Secret, path, capability string) bool {
	if answer == nil {
		return false
	}
	granted, _ := answer.Data[path].([]any)
	return slices.Contains(granted, any(capability)) || slices.Contains(granted, any("root"))
}

// role looks at the role's definition, which an issuer need not be allowed to read.
func (i *Issuer) role(ctx context.Context, role string, token vaultconn.Token) []issuer.Finding {
	path := i.mount() + "/roles/" + role
	f := issuer.Finding{What: "the role is there: " + path}
	answer, err := i.conn.Read(ctx, path, nil)
	switch {
	case errors.Is(err, backends.ErrNotFound):
		f.Problem, f.Mend = "Vault has no such role", "create it, or correct the secret's role"
	case err != nil:
		f.Problem, f.Mend, f.Unknown = err.Error(), fmt.Sprintf(`path %q { capabilities = ["read"] }`, path), true
	}
	if err != nil {
		return []issuer.Finding{f}
	}
	findings := []issuer.Finding{f}
	if wanted := defaultTTL(answer); token.TTL > 0 && wanted > token.TTL+time.Minute {
		findings = append(findings, issuer.Finding{
			What:    "credentials live as long as the role says",
			Problem: fmt.Sprintf("they end after %s with the login's token, not after %s", token.TTL, wanted),
			Mend:    "raise token_ttl and token_max_ttl of what the login is of",
		})
	}
	if statements, _ := answer.Data["revocation_statements"].([]any); i.Config.EndsSessions && len(statements) == 0 {
		findings = append(findings, issuer.Finding{
			What:    "revocation ends open sessions",
			Problem: "ends_sessions is set, but the role has no revocation_statements, and Vault's own leave sessions open",
			Mend:    "give the role statements that end them, or leave ends_sessions out",
		})
	}
	return findings
}

// defaultTTL is zero where the mount's own counts.
func defaultTTL(role *api.Secret) time.Duration {
	n, _ := role.Data["default_ttl"].(json.Number)
	s, _ := n.Int64()
	return time.Duration(s) * time.Second
}
