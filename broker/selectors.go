package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// maxSelected is how many names, and how many patterns, one selector has at most.
const maxSelected = 10_000

// selector is what an incident is to be about, checked.
type selector struct {
	client.Selector
	patterns *policy.ACL // nil: there are none
}

// newSelector checks what was asked for; ErrInvalid.
func newSelector(s client.Selector) (selector, error) {
	refuse := func(format string, args ...any) (selector, error) {
		return selector{}, fmt.Errorf("%w: "+format, append([]any{backends.ErrInvalid}, args...)...)
	}
	out := selector{Selector: s}
	given := len(s.Names)+len(s.Patterns)+len(s.Labels) > 0 || s.Tenant+s.Backend+s.Issuer+s.Consumer+s.ReadBy+s.Address != "" || s.Value != ""
	switch {
	case !given && !s.All:
		return refuse("it is not said which secrets are meant: name some, or say `--all` (\"all\": true)")
	case given && s.All:
		return refuse("it is either all secrets or those that are selected: leave one of both out")
	case len(s.Names) > maxSelected || len(s.Patterns) > maxSelected:
		return refuse("at most %d names and as many patterns can be given", maxSelected)
	case len(s.Versions) > 0 && (len(s.Names) != 1 || s.Value != "" || s.ReadBy != "" || s.Address != ""):
		return refuse("versions can be said of one secret only, which is named, and not beside a value or who has read it")
	case slices.Min(append(s.Versions, 1)) < 1:
		return refuse("versions are numbered from 1")
	case !s.Since.IsZero() && s.ReadBy == "" && s.Address == "":
		return refuse("since says since when somebody has read: say who, by read_by or address")
	}
	if _, err := network(s.Address); s.Address != "" && err != nil {
		return selector{}, err
	}
	if len(s.Patterns) == 0 {
		return out, nil
	}
	meant := policy.Policy{Name: "selector"}
	for _, path := range s.Patterns {
		meant.Rules = append(meant.Rules, policy.Rule{Path: path, Capabilities: []policy.Capability{policy.Emergency}})
	}
	if problems := policy.Validate(meant); len(problems) > 0 {
		return refuse("%s", problems[0])
	}
	if meant.Templated() {
		return refuse("a pattern is the same for everybody: write the paths themselves")
	}
	out.patterns = policy.Compile([]policy.Policy{meant}, policy.Identity{})
	return out, nil
}

// network reads an address, or a network in the form 192.0.2.0/24.
func network(text string) (netip.Prefix, error) {
	if one, err := netip.ParseAddr(text); err == nil {
		one = one.Unmap()
		return netip.PrefixFrom(one, one.BitLen()), nil
	}
	several, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%w: %q is neither an address nor a network such as 192.0.2.0/24", backends.ErrInvalid, text)
	}
	return several.Masked(), nil
}

// shown is what is kept of a selector, and shown: not the value.
func (s selector) shown() client.Selector {
	out := s.Selector
	out.Leaked = out.Leaked || out.Value != ""
	out.Value = ""
	return out
}

// matched is a secret that a selector means.
type matched struct {
	secret rotation.Secret
	pinned []int // empty: every version that may be alive
	alive  []store.Alive
	// undead: of what is pinned nothing may be alive, and not all of it is proven dead.
	undead bool
	named  bool // by its own name
	may    bool // the caller may turn it off
}

// selection is what a selector means to a caller.
type selection struct {
	hits []matched
	// missing are names that mean nothing.
	missing []string
}

// picked are secrets by their ids, with the versions that are meant.
type picked map[string][]int

// and leaves in p what is in both: of versions that one of them pins, those.
func (p picked) and(other picked) picked {
	out := picked{}
	for id, versions := range p {
		others, ok := other[id]
		switch {
		case !ok:
		case len(versions) == 0:
			out[id] = others
		case len(others) == 0:
			out[id] = versions
		default:
			if both := slices.DeleteFunc(slices.Clone(versions), func(n int) bool { return !slices.Contains(others, n) }); len(both) > 0 {
				out[id] = both
			}
		}
	}
	return out
}

// selected looks up which secrets a selector means to p: those that p reaches, and may
// list, read or turn off. Others do not exist.
func (b *Broker) selected(ctx context.Context, tx *store.Tx, p authn.Principal, s selector) (selection, error) {
	var out selection
	pins, pinning, err := b.pins(ctx, tx, p, s)
	if err != nil {
		return out, err
	}
	seen := map[string]bool{}
	visit := func(found rotation.Secret, as string) error {
		versions, pinned := pins[found.ID]
		if seen[found.ID] || pinning && !pinned || !s.means(found, as != "") {
			return nil
		}
		seen[found.ID] = true
		may, sees, err := b.mayTurnOff(ctx, tx, p, found)
		switch {
		case err != nil:
			return err
		case !may && !sees && as != "":
			out.missing = append(out.missing, as)
		case may || sees:
			if len(versions) == 0 {
				versions = s.Versions
			}
			out.hits = append(out.hits, matched{secret: found, pinned: versions, named: as != "", may: may})
		}
		return nil
	}
	for _, name := range s.Names {
		if !strings.Contains(name, ":") && s.Tenant != "" {
			name = s.Tenant + ":" + name
		}
		found, err := b.find(ctx, tx, p, name)
		if errors.Is(err, backends.ErrNotFound) {
			out.missing = append(out.missing, name)
			continue
		}
		if err == nil {
			err = visit(found, name)
		}
		if err != nil {
			return out, err
		}
	}
	switch {
	case len(s.Names) > 0 && s.patterns == nil: // that is all
	case pinning:
		err = visitPicked(ctx, tx, pins, visit)
	default:
		err = visitAll(ctx, tx, store.SecretFilter{Tenant: cmp.Or(p.Tenant, s.Tenant), Prefix: s.prefix()}, visit)
	}
	if err != nil {
		return out, err
	}
	return out, living(ctx, tx, s, &out)
}

func visitPicked(ctx context.Context, tx *store.Tx, pins picked, visit func(rotation.Secret, string) error) error {
	for _, id := range slices.Sorted(maps.Keys(pins)) {
		found, err := tx.Secret(ctx, id)
		if err == nil {
			err = visit(found, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func visitAll(ctx context.Context, tx *store.Tx, of store.SecretFilter, visit func(rotation.Secret, string) error) error {
	at := store.Page{Limit: 1000}
	for {
		all, next, err := tx.Secrets(ctx, of, at)
		for _, found := range all {
			if err == nil {
				err = visit(found, "")
			}
		}
		if err != nil || next == "" {
			return err
		}
		at.After = next
	}
}

// prefix is what the names of all secrets begin with that a single pattern is about.
func (s selector) prefix() string {
	if len(s.Patterns) != 1 || len(s.Names) > 0 {
		return ""
	}
	return s.Patterns[0][:strings.IndexAny(s.Patterns[0]+"*", "*+")]
}

// pins are the versions that a value, or who has read them, singles out; pinning tells
// whether anything does.
func (b *Broker) pins(ctx context.Context, tx *store.Tx, p authn.Principal, s selector) (found picked, pinning bool, err error) {
	if s.Value != "" {
		if found, err = b.leaked(ctx, tx, p, s.Value); err != nil {
			return nil, false, err
		}
		pinning = true
	}
	if s.ReadBy == "" && s.Address == "" {
		return found, pinning, nil
	}
	read, err := b.readBy(ctx, tx, p, s.ReadBy, s.Address, s.Since)
	if err != nil || !pinning {
		return read, true, err
	}
	return found.and(read), true, nil
}

// means tells whether the selector is about a secret, but for what is said of its versions.
func (s selector) means(of rotation.Secret, named bool) bool {
	d := of.Definition
	covered := s.patterns != nil && s.patterns.Decide(of.Ref.Name, policy.Emergency, policy.Facts{}).Allowed
	if len(s.Names)+len(s.Patterns) > 0 && !named && !covered {
		return false
	}
	for label, value := range s.Labels {
		if have, ok := d.Labels[label]; !ok || have != value {
			return false
		}
	}
	return (s.Tenant == "" || s.Tenant == of.Ref.Tenant) &&
		(s.Backend == "" || s.Backend == d.Backend || slices.Contains(d.Mirrors, s.Backend)) &&
		(s.Consumer == "" || slices.Contains(d.Consumers, s.Consumer))
}

// mayTurnOff tells whether p may declare an emergency of a secret, and whether it sees it
// otherwise.
func (b *Broker) mayTurnOff(ctx context.Context, tx *store.Tx, p authn.Principal, s rotation.Secret) (may, sees bool, err error) {
	known, err := b.sight(ctx, tx, p, s)
	if err != nil || !known.reaches {
		return false, false, err
	}
	return b.allows(p, s.Ref.Name, s, policy.Emergency), known.sees, nil
}

// judge looks up how what is pinned died, where none of it is alive. ErrNotFound if
// somebody said a version that there is not.
func (m *matched) judge(ctx context.Context, tx *store.Tx, said bool) error {
	if !said && len(m.meant()) > 0 {
		return nil
	}
	for _, n := range m.pinned {
		if slices.ContainsFunc(m.alive, func(a store.Alive) bool { return a.Number == n }) {
			continue
		}
		if said {
			if _, err := tx.Version(ctx, m.secret.ID, n); errors.Is(err, backends.ErrNotFound) {
				return fmt.Errorf("%w: there is no version %d of %s", backends.ErrNotFound, n, m.secret.Ref)
			} else if err != nil {
				return err
			}
		}
		t, err := tx.RetirementOf(ctx, m.secret.ID, n)
		if err != nil && !errors.Is(err, backends.ErrNotFound) {
			return err
		}
		m.undead = m.undead || err != nil || t.State != rotation.ProvenDead && !t.NeverMade
	}
	return nil
}

// living looks up what of the matched secrets may be alive, and leaves out where nothing
// is that was not named or singled out.
func living(ctx context.Context, tx *store.Tx, s selector, out *selection) error {
	ids := make([]string, len(out.hits))
	for i, m := range out.hits {
		ids[i] = m.secret.ID
	}
	alive, err := tx.AliveVersions(ctx, ids)
	if err != nil {
		return err
	}
	of := map[string][]store.Alive{}
	for _, a := range alive {
		of[a.SecretID] = append(of[a.SecretID], a)
	}
	left := out.hits[:0]
	for _, m := range out.hits {
		m.alive = of[m.secret.ID]
		from := func(a store.Alive) bool { return a.Issuer == s.Issuer }
		if s.Issuer != "" && !slices.ContainsFunc(m.alive, from) || len(m.alive) == 0 && !m.named && len(m.pinned) == 0 {
			continue
		}
		if err := m.judge(ctx, tx, len(s.Versions) > 0); err != nil {
			return err
		}
		left = append(left, m)
	}
	out.hits = left
	return nil
}
