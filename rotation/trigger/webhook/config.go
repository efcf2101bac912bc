package webhook

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/trigger/inbound"
	standard "github.com/keybroker/keybroker/rotation/webhook"
)

// Config is what a block trigger "webhook" says of its messages. The sender proves itself
// in one of three ways: by Standard Webhooks (SigningSecret, PublicKeys, or both), by
// HubSecret or by BearerToken. Of each secret there may be several, one a line.
type Config struct {
	SigningSecret backends.SecretString `hcl:"signing_secret,optional"` // "whsec_…", as a sender of Standard Webhooks has it
	PublicKeys    []string              `hcl:"public_keys,optional"`    // "whpk_…", of senders that sign with ed25519
	HubSecret     backends.SecretString `hcl:"hub_secret,optional"`     // of X-Hub-Signature-256
	BearerToken   backends.SecretString `hcl:"bearer_token,optional"`
	// Paths say where in a message what stands: { secrets = "$.alert.secret" }.
	Paths *hcl.Attribute `hcl:"paths,optional"`
}

// What paths can lead to.
const (
	pathSecrets = "secrets"
	pathValues  = "values"
	pathLabels  = "labels"
	pathReason  = "reason"
	pathID      = "id"
	pathSource  = "source"
	pathURL     = "url"
	pathTest    = "test"
)

var pathNames = []string{pathID, pathLabels, pathReason, pathSecrets, pathSource, pathTest, pathURL, pathValues}

const oneWay = "signing_secret (or public_keys), hub_secret and bearer_token"

// Validate returns what is wrong with c, one error a line, each beginning with what it is
// about. Offline says that secrets were not read: only that they are there is checked.
func (c *Config) Validate(offline bool) error {
	ways := 0
	for _, given := range []bool{c.SigningSecret != "" || len(c.PublicKeys) > 0, c.HubSecret != "", c.BearerToken != ""} {
		if given {
			ways++
		}
	}
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...))
	}
	switch {
	case ways == 0:
		wrong("anybody could send what a trigger without a secret acts on: write one of %s", oneWay)
	case ways > 1:
		wrong("a sender proves itself in one way: write one of %s", oneWay)
	}
	for i, key := range c.PublicKeys {
		if !strings.HasPrefix(key, "whpk_") || verifiable(backends.SecretString(key)) != nil {
			wrong("public_keys.%d is no public key of Standard Webhooks: it begins with whpk_, followed by 32 bytes in standard base64", i)
		}
	}
	if !offline {
		errs = append(errs, c.checkSecrets()...)
	}
	return errors.Join(errs...)
}

func (c *Config) checkSecrets() []error {
	var errs []error
	if c.SigningSecret != "" && len(inbound.Lines(c.SigningSecret)) == 0 {
		errs = append(errs, fmt.Errorf("%w: signing_secret is empty", backends.ErrInvalid))
	}
	for i, secret := range inbound.Lines(c.SigningSecret) {
		if !strings.HasPrefix(secret.Reveal(), "whsec_") || verifiable(secret) != nil {
			errs = append(errs, fmt.Errorf("%w: signing_secret is none of Standard Webhooks in line %d: it begins with whsec_, followed by 24 to 64 random bytes in standard base64; other senders may mean hub_secret", backends.ErrInvalid, i+1))
		}
	}
	return append(errs, inbound.CheckSecrets("hub_secret", c.HubSecret), inbound.CheckSecrets("bearer_token", c.BearerToken))
}

// verifiable tells whether signatures can be checked with a key.
func verifiable(key backends.SecretString) error {
	err := standard.Verify([]backends.SecretString{key}, nil, nil, epoch, 0)
	if errors.Is(err, backends.ErrInvalid) {
		return err
	}
	return nil // what was not signed is denied
}

// compile reads the paths, with the defaults for those that are not given.
func (c *Config) compile() (map[string][]httpcall.Path, hcl.Diagnostics) {
	given := map[string]httpcall.Path{}
	var diags hcl.Diagnostics
	if c.Paths != nil {
		given, diags = httpcall.CompilePaths(c.Paths)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(pathNames, name) {
			diags = append(diags, &hcl.Diagnostic{Severity: hcl.DiagError, Summary: fmt.Sprintf("There is nothing called %q in an event", name),
				Detail: fmt.Sprintf("Known are %s.", strings.Join(pathNames, ", ")), Subject: c.Paths.Expr.Range().Ptr()})
		}
	}
	paths := map[string][]httpcall.Path{}
	for name, texts := range defaults {
		if path, ok := given[name]; ok {
			paths[name] = []httpcall.Path{path}
			continue
		}
		for _, text := range texts {
			path, more := httpcall.CompilePath(text, hcl.Range{})
			paths[name], diags = append(paths[name], path), append(diags, more...)
		}
	}
	return paths, diags
}

// defaults are where things stand unless the configuration says otherwise: what the event
// is about beside each other in its data, the rest where CloudEvents 1.0 has it.
var defaults = map[string][]string{
	pathSecrets: {"$.data.secret", "$.data.secrets"},
	pathValues:  {"$.data.value", "$.data.values"},
	pathLabels:  {"$.data.labels"},
	pathReason:  {"$.data.reason"},
	pathURL:     {"$.data.url"},
	pathTest:    {"$.data.test", "$.test"},
	pathID:      {"$.id"},
	pathSource:  {"$.source"},
}
