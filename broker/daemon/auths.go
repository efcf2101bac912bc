package daemon

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/authn/mtls"
	"github.com/keybroker/keybroker/broker/authn/oidc"
	"github.com/keybroker/keybroker/broker/config"
)

// certificateTypes and loginTypes are the types of auth blocks, by their first label.
var (
	certificateTypes = map[string]certificateType{
		"mtls": byCertificate,
	}
	loginTypes = map[string]loginType{
		"jwt":  byJWT(oidc.Config.ValidateForPrograms),
		"oidc": byJWT(oidc.Config.ValidateForPeople),
	}
)

// authTypes are what the registry has of both.
func authTypes() map[string]config.Type {
	types := map[string]config.Type{}
	for name, t := range certificateTypes {
		types[name] = t.Type
	}
	for name, t := range loginTypes {
		types[name] = t.Type
	}
	return types
}

// certificateType is how an auth block is read by which callers show a certificate,
// and how its method is made.
type certificateType struct {
	config.Type
	make func(p *parts, name string, cfg any, logger hclog.Logger) (authn.CertificateMethod, error)
}

var byCertificate = certificateType{
	Type: config.Type{New: func() any { return new(mtls.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
		return c.Mistakes(cfg, cfg.(*mtls.Config).Validate())
	}},
	make: func(_ *parts, name string, cfg any, logger hclog.Logger) (authn.CertificateMethod, error) {
		m, err := mtls.New(name, *cfg.(*mtls.Config), logger)
		if err != nil {
			return nil, err // and no method that holds a nil
		}
		return m, nil
	},
}

// loginType is how an auth block is read by which callers log in, and how its method
// is made. What has a Close is closed in the end.
type loginType struct {
	config.Type
	make func(p *parts, name string, cfg any, logger hclog.Logger) (authn.LoginMethod, error)
}

func byJWT(validate func(oidc.Config) error) loginType {
	return loginType{
		Type: config.Type{New: func() any { return new(oidc.Config) }, Check: func(cfg any, c config.CheckContext) hcl.Diagnostics {
			return c.Mistakes(cfg, validate(*cfg.(*oidc.Config)))
		}},
		make: func(p *parts, name string, cfg any, logger hclog.Logger) (authn.LoginMethod, error) {
			m, err := oidc.New(name, *cfg.(*oidc.Config), p.now, logger)
			if err != nil {
				return nil, err
			}
			return m, nil
		},
	}
}

// auths makes the methods of all auth blocks. None of them needs its provider to be up.
func (p *parts) auths(s, before *setup) error {
	s.certificates, s.logins = map[string]authn.CertificateMethod{}, map[string]authn.LoginMethod{}
	for _, a := range s.cfg.Auths {
		at, logger := block{"auth", a.Name}, p.logger.Named("auth."+a.Name)
		var err error
		if t, ok := certificateTypes[a.Type]; ok {
			err = component(s, before, at, s.certificates, before.certificates, func() (authn.CertificateMethod, func(), error) {
				m, err := t.make(p, a.Name, a.Config, logger)
				return m, closing(m), err
			})
		} else if t, ok := loginTypes[a.Type]; ok {
			err = component(s, before, at, s.logins, before.logins, func() (authn.LoginMethod, func(), error) {
				m, err := t.make(p, a.Name, a.Config, logger)
				return m, closing(m), err
			})
		} else {
			err = fmt.Errorf("%s: %w", at, unknownType("auth", a.Type))
		}
		if err != nil {
			return err
		}
	}
	if len(s.certificates) > 0 && !s.cfg.Listener.TLS() {
		p.logger.Warn("nobody can show a certificate, since the listener speaks plain HTTP: set tls_cert_file and tls_key_file",
			"auths", slices.Sorted(maps.Keys(s.certificates)))
	}
	return nil
}
