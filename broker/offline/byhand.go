package offline

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The types of issuers of which more is to be said than how to reach them.
const (
	apiKey     = "api_key"
	human      = "human"
	atRandom   = "random"
	exec       = "exec"
	awsIAM     = "aws_iam"
	postgresql = "postgresql"
	vaultDB    = "vault_database"
)

// ByHand says how a person turns a version off at an issuer of that type: a command where
// there is one, with the handle filled in.
func ByHand(issuer, issuerType string, v Version) string {
	h := v.Handle
	switch {
	case issuerType == apiKey:
		return "the broker itself issued this key and answers for it: while it is down nobody is told that the key works; `keybroker offline return` turns it off"
	case issuerType == atRandom:
		return "nobody turns a plain value off: have everything that compares it take another one"
	case len(h) == 0:
		return fmt.Sprintf("nobody knows what issuer %s calls it: look there for what was made as %q", issuer, v.Tag)
	case issuerType == awsIAM:
		return fmt.Sprintf("aws iam update-access-key --user-name %s --access-key-id %s --status Inactive", shell(h["user"]), shell(h["access_key_id"]))
	case issuerType == postgresql:
		return fmt.Sprintf(`ALTER ROLE %s NOLOGIN PASSWORD NULL; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s;`,
			`"`+strings.ReplaceAll(h["role"], `"`, `""`)+`"`, `'`+strings.ReplaceAll(h["role"], `'`, `''`)+`'`)
	case issuerType == vaultDB:
		return "vault lease revoke " + shell(h["lease_id"])
	case issuerType == human:
		return fmt.Sprintf("turn off %s as the block of issuer %s says", handle(h), issuer)
	case issuerType == exec:
		return fmt.Sprintf("run the program of issuer %s with the operation revoke, or do what it does, for %s", issuer, handle(h))
	}
	return fmt.Sprintf("do what `revoke` of issuer %s says, or use the console of that service, for %s", issuer, handle(h))
}

// handle writes a handle for people.
func handle(h map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		parts = append(parts, fmt.Sprintf("%s %q", name, h[name]))
	}
	return strings.Join(parts, ", ")
}

// shell quotes a text for a POSIX shell.
func shell(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
