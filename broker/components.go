package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

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
// update; no policy on the secrets is asked. What is told of them, within p's walls, is
// what the issuer is asked for: their names and the settings in their issuer blocks.
// ErrUnsupported if that issuer cannot tell.
func (b *Broker) CheckIssuer(ctx context.Context, p authn.Principal, name string, r client.CheckIssuerRequest) (out client.IssuerCheck, err error) {
	req := request{action: "issuer.check", path: issuersPath, detail: map[string]string{"issuer": name}}
	var found rotation.Secret
	var missing error
	if r.Secret != "" {
		if found, req, missing = b.resolve(ctx, p, r.Secret, req); missing == nil && !b.seesSecret(ctx, p, found) {
			missing = notThere("secret", r.Secret)
		}
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
			err = fmt.Errorf("%w: %s is not minted by issuer %q", backends.ErrInvalid, r.Secret, name)
		}
		if err == nil {
			checker, err = b.alsoHolding(ctx, c.Works, checker, secrets)
		}
		if err == nil {
			out = check(ctx, checker, secrets)
			out.Issuer, out.Type = name, c.Type
		}
		return err
	})
	return out, err
}

// seesSecret tells whether p sees a secret; who cannot be told sees it not.
func (b *Broker) seesSecret(ctx context.Context, p authn.Principal, s rotation.Secret) bool {
	var may sight
	err := b.Store.View(ctx, func(tx *store.Tx) (err error) {
		may, err = b.sight(ctx, tx, p, s)
		return err
	})
	return err == nil && may.sees
}

// mintedBy are the first secrets that an issuer mints for, of those that p sees.
func (b *Broker) mintedBy(ctx context.Context, p authn.Principal, name string) (found []rotation.Secret, err error) {
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		found = nil
		for at := (store.Page{Limit: 1000}); ; {
			some, next, err := tx.Secrets(ctx, store.SecretFilter{Tenant: p.Tenant}, at)
			if err != nil {
				return err
			}
			for _, s := range some {
				if s.Definition.Issuer != name || s.State == rotation.SecretUnmanaged {
					continue
				}
				may, err := b.sight(ctx, tx, p, s)
				if err != nil {
					return err
				}
				if may.sees {
					found = append(found, s)
				}
				if len(found) == maxChecked {
					return nil
				}
			}
			if at.After = next; next == "" {
				return nil
			}
		}
	})
	return found, err
}

// A check ends before a client leaves (client.DefaultTimeout): what keeps an issuer from
// answering is just what is to be found out.
const (
	checkTimeout = 25 * time.Second
	checksAtOnce = 4
)

// checkEach asks for every secret, several at once, until the time is over. What was
// not begun by then is nil.
func checkEach(ctx context.Context, checker issuer.Checker, secrets []rotation.Secret) [][]issuer.Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	found := make([][]issuer.Finding, len(secrets))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(checksAtOnce, len(secrets)) {
		workers.Go(func() {
			for i := range next {
				s := secrets[i]
				if ctx.Err() == nil {
					found[i] = append([]issuer.Finding{}, checker.Check(ctx, issuer.Subject{Ref: s.Ref, Labels: s.Definition.Labels, Settings: s.Definition.Settings})...)
				}
			}
		})
	}
	for i := range secrets {
		next <- i
	}
	close(next)
	workers.Wait()
	return found
}

// check asks for every secret; where there is none, as for one that says nothing.
// What is found of all of them is there once.
func check(ctx context.Context, checker issuer.Checker, secrets []rotation.Secret) client.IssuerCheck {
	out := client.IssuerCheck{OK: true, Checked: []string{}, Findings: []client.IssuerFinding{}}
	if len(secrets) == 0 {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		addFindings(&out, "", checker.Check(ctx, issuer.Subject{}))
	}
	var late []string
	for i, found := range checkEach(ctx, checker, secrets) {
		of := secrets[i].Ref.String()
		if found == nil {
			late = append(late, of)
			continue
		}
		out.Checked = append(out.Checked, of)
		addFindings(&out, of, found)
	}
	for i, f := range out.Findings {
		if len(f.Secrets) == len(out.Checked) {
			out.Findings[i].Secrets = nil
		}
	}
	for _, of := range late {
		addFindings(&out, of, []issuer.Finding{{What: "may do what a rotation needs", Unknown: true,
			Problem: fmt.Sprintf("no time was left to ask for it: a check ends after %s", checkTimeout), Mend: "check again once the other findings are mended, or for one secret at a time"}})
	}
	slices.SortStableFunc(out.Findings, func(a, b client.IssuerFinding) int {
		return strings.Compare(severity(a), severity(b))
	})
	return out
}

// addFindings adds what was found of a secret to what was found of others.
func addFindings(out *client.IssuerCheck, of string, all []issuer.Finding) {
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
