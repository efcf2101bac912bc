package vaultdb

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vaultconn"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// DefaultMount is where Vault's documentation mounts the database engine.
const DefaultMount = "database"

// defaultBudget covers the replicas of a database: Vault answers a revocation when the
// primary has dropped the user.
const defaultBudget = time.Minute

// Config is the body of an `issuer "vault_database"` block.
type Config struct {
	Mount            string           `hcl:"mount,optional"`             // of the database engine; default "database"
	ListLeases       bool             `hcl:"list_leases,optional"`       // the token may list leases, which needs sudo
	Exclusive        bool             `hcl:"exclusive,optional"`         // nobody else makes credentials of the roles, nor two secrets of one
	EndsSessions     bool             `hcl:"ends_sessions,optional"`     // the roles' revocation_statements end open sessions
	RevocationBudget *time.Duration   `hcl:"revocation_budget,optional"` // default 1m
	Conn             vaultconn.Config `hcl:",remain"`
}

// Validate reports every mistake in c, joined, each an ErrInvalid. It reads no file
// and asks no server.
func (c Config) Validate() error {
	var mistakes []error
	wrong := func(format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	if c.Mount != "" && backends.ParseName(c.mount()) != nil {
		wrong("mount %q is no path like database or team/postgres", c.Mount)
	}
	if c.Exclusive && !c.ListLeases {
		wrong("exclusive is of no use without list_leases: a lost answer is looked for among the leases, so set list_leases = true, or leave exclusive out")
	}
	if c.RevocationBudget != nil && *c.RevocationBudget <= 0 {
		wrong(`revocation_budget %s is not above zero: write "1m"`, *c.RevocationBudget)
	}
	return errors.Join(append(mistakes, c.Conn.Validate())...)
}

func (c Config) mount() string {
	return cmp.Or(strings.TrimSuffix(c.Mount, "/"), DefaultMount)
}

// Place names the database engine that c leads to; empty where it cannot be told.
func (c Config) Place() string {
	server := c.Conn.Place()
	if server == "" {
		return ""
	}
	return path.Join(server, c.mount())
}

// Traits says what an issuer of this configuration can do.
func (c Config) Traits() issuer.Traits {
	budget := defaultBudget
	if c.RevocationBudget != nil {
		budget = *c.RevocationBudget
	}
	return issuer.Traits{
		Kind:             issuer.Mint,
		Fields:           []string{"password", "username"},
		Handle:           []string{leaseID},
		ShowOnce:         true,
		RevocationBudget: budget,
		DerivedSessions:  true,
		Exclusive:        c.Exclusive,
	}
}

// CheckSettings implements issuer.SettingsChecker.
func (c Config) CheckSettings(raw json.RawMessage) []string {
	if _, err := roleIn(raw); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// roleName is what Vault takes for a role's name (framework.GenericNameRegex).
var roleName = regexp.MustCompile(`^\w(([\w-.]+)?\w)?$`)

// roleIn reads a secret's settings; the error is for the operator.
func roleIn(raw json.RawMessage) (string, error) {
	var settings struct {
		Role string `json:"role"`
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if len(raw) > 0 && dec.Decode(&settings) != nil {
		return "", errors.New(`the settings are role = "NAME" and nothing else`)
	}
	switch {
	case settings.Role == "":
		return "", errors.New(`role is missing: name the role of Vault's database engine, as in role = "orders-ro"`)
	case !roleName.MatchString(settings.Role):
		return "", fmt.Errorf("role %q is no name of a role in Vault: letters, digits, _, - and . only", settings.Role)
	}
	return settings.Role, nil
}
