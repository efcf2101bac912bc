package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/probe"
)

// Components are the issuers and probes of the configuration in force, as this node
// has them.
type Components interface {
	// Issuers and Probes are in the order of their names.
	Issuers() []Component[issuer.Issuer]
	Probes() []Component[probe.Probe]
}

// Component is what became of one block.
type Component[T any] struct {
	Name, Type string
	Tenant     string // whose secrets it is for; empty: those of all
	Works      T      // meaningless where State is client.ComponentMissing
	State      string // client.ComponentReady, …
	Why        string // it is not ready
}

const (
	issuersPath = "sys/issuers"
	probesPath  = "sys/probes"
)

// serves tells whether the component is for secrets of a tenant; all are for who is
// bound to none.
func (c Component[T]) serves(tenant string) bool {
	return tenant == "" || c.Tenant == "" || c.Tenant == tenant
}

// why is told of what is for all tenants only to who is bound to none: it may be about
// others.
func (c Component[T]) why(p authn.Principal) string {
	if p.Tenant != "" && c.Tenant != p.Tenant {
		return ""
	}
	return c.Why
}

// component finds one that is for what p may reach. ErrNotFound if there is none.
func component[T any](all []Component[T], p authn.Principal, kind, name string) (Component[T], error) {
	for _, c := range all {
		if c.Name != name || !c.serves(p.Tenant) {
			continue
		}
		if c.State == client.ComponentMissing {
			return c, fmt.Errorf("%w: %s", backends.ErrUnavailable, strings.TrimSuffix(fmt.Sprintf("%s %q cannot be used now: %s", kind, name, c.why(p)), ": "))
		}
		return c, nil
	}
	return Component[T]{}, fmt.Errorf("%w: there is no %s %q in the configuration", backends.ErrNotFound, kind, name)
}

// Issuers lists the issuers: those for p's tenant, if it is bound to one.
func (b *Broker) Issuers(ctx context.Context, p authn.Principal) (client.List[client.Issuer], error) {
	out := client.List[client.Issuer]{Items: []client.Issuer{}}
	err := b.do(ctx, p, policy.Read, request{action: "issuer.list", path: issuersPath}, func() error {
		for _, c := range b.Components.Issuers() {
			if !c.serves(p.Tenant) {
				continue
			}
			v := client.Issuer{Name: c.Name, Type: c.Type, Tenant: c.Tenant, State: c.State, Detail: c.why(p)}
			if c.State != client.ComponentMissing {
				_, v.Checkable = c.Works.(issuer.Checker)
				v.Kind = string(c.Works.Traits().Kind)
			}
			out.Items = append(out.Items, v)
		}
		return nil
	})
	return out, err
}

// Probes lists the probes: those for p's tenant, if it is bound to one.
func (b *Broker) Probes(ctx context.Context, p authn.Principal) (client.List[client.Probe], error) {
	out := client.List[client.Probe]{Items: []client.Probe{}}
	err := b.do(ctx, p, policy.Read, request{action: "probe.list", path: probesPath}, func() error {
		for _, c := range b.Components.Probes() {
			if !c.serves(p.Tenant) {
				continue
			}
			v := client.Probe{Name: c.Name, Type: c.Type, Tenant: c.Tenant, State: c.State, Detail: c.why(p)}
			if c.State != client.ComponentMissing {
				v.Endpoint, v.LockoutAfter = c.Works.Scope(), c.Works.LockoutAfter()
			}
			out.Items = append(out.Items, v)
		}
		return nil
	})
	return out, err
}

// maxChecked is for how many secrets an issuer is checked at once: each takes some
// calls of whoever issues.
const maxChecked = 20

// CheckIssuer has an issuer try its permissions, without any effect: for one secret,
// or for those that it mints for. It uses the issuer's own credential, so it takes
// update; no policy on the secrets is asked, since nothing of them is told but names
// within p's walls. ErrUnsupported if that issuer cannot tell.
func (b *Broker) CheckIssuer(ctx context.Context, p authn.Principal, name string, r client.CheckIssuerRequest) (out client.IssuerCheck, err error) {
	req := request{action: "issuer.check", path: issuersPath, detail: map[string]string{"issuer": name}}
	var found rotation.Secret
	var missing error
	if r.Secret != "" {
		found, req, missing = b.resolve(ctx, p, r.Secret, req)
	}
	err = b.do(ctx, p, policy.Update, req, func() error {
		c, err := component(b.Components.Issuers(), p, "issuer", name)
		if err == nil {
			err = missing
		}
		if err != nil {
			return err
		}
		checker, ok := c.Works.(issuer.Checker)
		if !ok {
			return fmt.Errorf("%w: issuer %q of the type %q cannot try its permissions without an effect: a rotation will tell", backends.ErrUnsupported, name, c.Type)
		}
		secrets := []rotation.Secret{found}
		if r.Secret == "" {
			secrets, err = b.mintedBy(ctx, p, name)
		} else if found.Definition.Issuer != name {
			err = fmt.Errorf("%w: %s is not minted by issuer %q, but by %q", backends.ErrInvalid, r.Secret, name, found.Definition.Issuer)
		}
		if err == nil {
			out = check(ctx, checker, secrets)
			out.Issuer, out.Type = name, c.Type
		}
		return err
	})
	return out, err
}

// mintedBy are the first secrets that an issuer mints for, of those that p reaches.
func (b *Broker) mintedBy(ctx context.Context, p authn.Principal, name string) (found []rotation.Secret, err error) {
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		found = nil
		for at := (store.Page{Limit: 1000}); ; {
			some, next, err := tx.Secrets(ctx, store.SecretFilter{Tenant: p.Tenant}, at)
			if err != nil {
				return err
			}
			some = slices.DeleteFunc(some, func(s rotation.Secret) bool {
				return s.Definition.Issuer != name || s.State == rotation.SecretUnmanaged
			})
			if some, err = b.within(ctx, tx, p, some); err != nil {
				return err
			}
			if found = append(found, some...); next == "" || len(found) >= maxChecked {
				found = found[:min(len(found), maxChecked)]
				return nil
			}
			at.After = next
		}
	})
	return found, err
}

// check asks for every secret; where there is none, as for one that says nothing.
// What is found of all of them is there once.
func check(ctx context.Context, checker issuer.Checker, secrets []rotation.Secret) client.IssuerCheck {
	out := client.IssuerCheck{OK: true, Checked: []string{}, Findings: []client.IssuerFinding{}}
	add := func(of string, all []issuer.Finding) {
		for _, f := range all {
			v := client.IssuerFinding{What: f.What, Problem: f.Problem, Mend: f.Mend, Unknown: f.Unknown}
			same := func(w client.IssuerFinding) bool {
				return w.What == v.What && w.Problem == v.Problem && w.Mend == v.Mend && w.Unknown == v.Unknown
			}
			i := slices.IndexFunc(out.Findings, same)
			if i < 0 {
				i, out.Findings = len(out.Findings), append(out.Findings, v)
			}
			if at := &out.Findings[i]; of != "" && !slices.Contains(at.Secrets, of) {
				at.Secrets = append(at.Secrets, of)
			}
			out.OK = out.OK && !v.Bad()
		}
	}
	if len(secrets) == 0 {
		add("", checker.Check(ctx, issuer.Subject{}))
	}
	for _, s := range secrets {
		of := s.Ref.String()
		out.Checked = append(out.Checked, of)
		add(of, checker.Check(ctx, issuer.Subject{Ref: s.Ref, Labels: s.Definition.Labels, Settings: s.Definition.Settings}))
	}
	for i, f := range out.Findings {
		if len(f.Secrets) == len(out.Checked) {
			out.Findings[i].Secrets = nil
		}
	}
	slices.SortStableFunc(out.Findings, func(a, b client.IssuerFinding) int {
		return strings.Compare(severity(a), severity(b))
	})
	return out
}

// severity puts problems first.
func severity(f client.IssuerFinding) string {
	switch {
	case f.Bad():
		return "1"
	case f.Unknown:
		return "2"
	}
	return "3"
}
