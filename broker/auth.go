package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

const (
	authPath    = "sys/auth"
	loginAction = "auth.login"
	maxRoleName = 256 // that the audit log is given by who is nobody yet
)

// AuthMethods lists the ways to log in, for who is nobody yet.
func (b *Broker) AuthMethods(context.Context) (client.List[client.AuthMethod], error) {
	rules := b.Authn.Rules()
	list := client.List[client.AuthMethod]{Items: []client.AuthMethod{}}
	for _, name := range slices.Sorted(maps.Keys(rules.Certificates)) {
		list.Items = append(list.Items, client.AuthMethod{Name: name, Type: client.AuthCertificate})
	}
	for _, name := range slices.Sorted(maps.Keys(rules.Logins)) {
		d := rules.Logins[name].Describe()
		m := client.AuthMethod{Name: name, Type: client.AuthPrograms}
		if d.Issuer != "" {
			m = client.AuthMethod{Name: name, Type: client.AuthPeople, Issuer: d.Issuer, ClientID: d.ClientID, Scopes: d.Scopes}
		}
		list.Items = append(list.Items, m)
	}
	return list, nil
}

// LogIn makes the token of a role for whom a JWT, or the certificate of the
// connection, proves to the method of that name. ErrDenied, which says why, if nobody
// is proven, or no role is bound to them: it comes the later the more often that
// happens to an address. ErrUnavailable if it cannot be told now. Who is proven is
// counted by admit, whose error is returned.
func (b *Broker) LogIn(ctx context.Context, shown authn.Credentials, method string, in client.LoginRequest, admit func(authn.Principal) error) (out client.Token, err error) {
	if len(in.Role) > maxRoleName {
		return client.Token{}, fmt.Errorf("%w: the role is longer than %d bytes", backends.ErrInvalid, maxRoleName)
	}
	r := request{action: loginAction, path: authPath, detail: map[string]string{"role": in.Role}}
	p := authn.Principal{ID: authn.Anonymous, Address: shown.Address, Request: shown.Request}
	if b.hasMethod(method) { // else it is any text
		r.path, p.Method = authPath+"/"+method, method
	}
	id, role, err := b.proven(ctx, shown, method, in)
	if id.Subject != "" {
		p.ID, p.Name = id.Method+"/"+id.Subject, id.Name
	}
	sensitive := map[string]string{}
	if in.JWT != "" {
		sensitive["jwt"] = in.JWT.Reveal()
	}
	if err != nil {
		return client.Token{}, b.refuseLogin(ctx, p, r, err, sensitive)
	}
	p.Tenant, p.Role = role.Tenant, role.Name
	rec, text := b.Authn.MakeFor(id, b.forLogin(p, *role), b.Now())
	p.Lineage, p.Limit = rec.Lineage, role.Limit
	if err := admit(p); err != nil {
		return client.Token{}, err
	}
	r.detail["token"] = rec.ID
	allowed := decided{changes: true, Decision: policy.Decision{Allowed: true}}
	err = b.serve(ctx, p, r, allowed, func() (map[string]string, error) {
		var ended []string
		err := b.Store.Update(ctx, func(tx *store.Tx) (err error) {
			ended, err = b.keepToken(ctx, tx, p, rec)
			return err
		})
		if err != nil {
			return sensitive, err
		}
		out = b.viewToken(rec, authn.StateActive)
		out.EndedRoots = ended
		out.Token = client.SecretText(text.Reveal())
		sensitive["token"] = text.Reveal()
		return sensitive, nil
	})
	if err != nil {
		return client.Token{}, err
	}
	return out, nil
}

func (b *Broker) hasMethod(name string) bool {
	rules := b.Authn.Rules()
	return rules.Logins[name] != nil || rules.Certificates[name] != nil
}

// proven tells who logs in, as far as that is known also with an error, and in which
// role. It takes as long as an identity provider does, so the role is that of the rules
// in force afterwards.
func (b *Broker) proven(ctx context.Context, shown authn.Credentials, method string, in client.LoginRequest) (id authn.Identity, role *policy.Role, err error) {
	rules := b.Authn.Rules()
	login, certificates := rules.Logins[method], rules.Certificates[method]
	switch {
	case login == nil && certificates == nil:
		return id, nil, fmt.Errorf("%w: there is no auth method of that name", backends.ErrDenied)
	case certificates != nil && in.JWT != "":
		return id, nil, fmt.Errorf("%w: the auth method %q takes the certificate of the connection, and no JWT", backends.ErrInvalid, method)
	case certificates != nil:
		id, err = rules.IdentifyBy(method, shown.Certificates, b.Now())
	case in.JWT == "":
		return id, nil, fmt.Errorf("%w: the auth method %q takes a JWT", backends.ErrInvalid, method)
	default:
		id, err = login.Verify(ctx, in.JWT.Reveal())
	}
	if err != nil {
		return authn.Identity{}, nil, err
	}
	named := in.Role
	if named == "" {
		named = shown.Role
	}
	after := b.Authn.Rules()
	if after.Logins[method] != login || after.Certificates[method] != certificates {
		return id, nil, fmt.Errorf("%w: the auth method was changed meanwhile: log in again", backends.ErrUnavailable)
	}
	if role, err = after.RoleFor(id, named); err != nil {
		return id, nil, err
	}
	if !authn.Admits(role, shown.Address) {
		return id, nil, fmt.Errorf("%w: the role %q is bound to other addresses than %s", backends.ErrDenied, role.Name, shown.Address)
	}
	if q, is := b.Authn.Quarantined(rotation.KeptRole, role.Name); is {
		return id, nil, &authn.KeptOut{Quarantine: q}
	}
	return id, role, nil
}

// refuseLogin writes that a login came to nothing, and returns why: in time, where it
// may be an attempt to guess. What is not written is summed up by the Authn.
func (b *Broker) refuseLogin(ctx context.Context, p authn.Principal, r request, why error, sensitive map[string]string) error {
	d := decided{Decision: policy.Decision{Allowed: !errors.Is(why, backends.ErrDenied)}}
	outcome := outcomeDenied
	if d.Allowed {
		outcome = outcomeFailed
	} else {
		r.detail["why"] = why.Error()
	}
	if b.Authn.Apart(p) {
		if err := b.record(ctx, p, r, d, outcome); err != nil {
			return err
		}
		if err := b.respond(ctx, p, r, d, why, sensitive); err != nil {
			return err
		}
	}
	if !d.Allowed && p.ID == authn.Anonymous { // who is proven, and has no role, guesses nothing
		if slowed := b.Authn.Failed(ctx, p.Address); slowed != nil {
			return slowed
		}
	}
	return why
}
