package main

import (
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// registry is the core's catalogue of built-in plugins; Vault's own one links
// every plugin there is and does not build from the module proxy.
type registry struct{}

func (registry) plugins(of consts.PluginType) map[string]func() (interface{}, error) {
	factory := func(f logical.Factory) func() (interface{}, error) {
		return func() (interface{}, error) { return f, nil }
	}
	switch of {
	case consts.PluginTypeSecrets:
		return map[string]func() (interface{}, error){
			"kv":       factory(kv.Factory),
			"database": factory(database.Factory),
			"transit":  factory(transit.Factory),
		}
	case consts.PluginTypeCredential:
		return map[string]func() (interface{}, error){
			"approle":    factory(approle.Factory),
			"jwt":        factory(jwt.Factory),
			"kubernetes": factory(kubernetes.Factory),
		}
	case consts.PluginTypeDatabase:
		return map[string]func() (interface{}, error){"postgresql-database-plugin": postgresql.New}
	}
	return nil
}

// Get returns what makes the plugin.
func (r registry) Get(name string, of consts.PluginType) (func() (interface{}, error), bool) {
	f, ok := r.plugins(of)[name]
	return f, ok
}

// Contains tells whether the plugin is built in.
func (r registry) Contains(name string, of consts.PluginType) bool {
	_, ok := r.plugins(of)[name]
	return ok
}

// Keys returns the names of the built-in plugins of one type.
func (r registry) Keys(of consts.PluginType) []string {
	var names []string
	for name := range r.plugins(of) {
		names = append(names, name)
	}
	return names
}

// DeprecationStatus says that nothing here is deprecated.
func (r registry) DeprecationStatus(name string, of consts.PluginType) (consts.DeprecationStatus, bool) {
	if r.Contains(name, of) {
		return consts.Supported, true
	}
	return consts.Unknown, false
}

// IsBuiltinEntPlugin says that nothing here is from the enterprise edition.
func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
