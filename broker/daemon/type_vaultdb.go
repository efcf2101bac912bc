package daemon

import (
	"context"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/vaultdb"
)

var leased = issuerType{
	IssuerType: config.IssuerType{
		Type: config.Type{New: func() any { return new(vaultdb.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			checked := cfg.(*vaultdb.Config)
			return append(c.Mistakes(cfg, checked.Validate()), oneToken(checked, c)...)
		}},
		Describe: func(cfg any) config.Described { return *cfg.(*vaultdb.Config) },
	},
	make: func(p *parts, cfg any) (issuer.Issuer, error) {
		return vaultdb.Open(context.Background(), *cfg.(*vaultdb.Config), p.logger.Named("vault_database")) // asks nobody
	},
}

// oneToken refuses a managed token: Vault revokes leases with the token that they were
// given to, and each rotation of the token ends in its revocation. Of any other fixed one
// it warns.
func oneToken(cfg *vaultdb.Config, c config.CheckContext) hcl.Diagnostics {
	const mend = `Log in by an AppRole with batch tokens, whose secret_id may be a managed secret: see "The login decides" in docs/issuers/vault_database.md.`
	switch {
	case len(cfg.Conn.Auth) != 1 || cfg.Conn.Auth[0].Method != "token":
		return nil
	case c.Managed("auth.token"):
		return hcl.Diagnostics{c.Mistake("auth.token", "The token of this issuer cannot be a managed secret: each rotation of it would end with its revocation, and Vault would drop every credential that was made with it, also those in use", mend)}
	}
	warning := c.Mistake("auth", "Every credential of this issuer ends with this one token: when it expires, is not renewed, or somebody revokes it, Vault drops them all at once", mend)
	warning.Severity = hcl.DiagWarning
	return hcl.Diagnostics{warning}
}
