package daemon

import (
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/policy"
)

// callers are the rules by which callers are known while s is in force.
func (s *setup) callers() authn.Rules {
	r := authn.Rules{Roles: map[string]*policy.Role{}, Certificates: s.certificates, Logins: s.logins}
	for _, role := range s.cfg.Roles {
		r.Roles[role.Name] = &role.Role
	}
	return r
}
