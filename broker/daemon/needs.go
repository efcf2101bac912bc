package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/rotation"
)

// need is a block of the configuration that something under way cannot go on without.
type need struct {
	block
	who    string // "rotation 0193… of mail/sender is in its overlap"
	remedy string // other than putting the block back
}

// needs collects what is under way, each block once.
type needs []need

func (n *needs) add(who, remedy string, blocks ...block) {
	for _, b := range blocks {
		one := need{b, who, remedy}
		if b.name != "" && !slices.Contains(*n, one) {
			*n = append(*n, one)
		}
	}
}

// underWay reads what is under way, and what each needs:
//
//   - a rotation that has not ended: its secret, and, until its retirement goes on
//     by itself, the backend, issuer and probe of the version that it brings, which
//     may have to be retired, and of the one that it replaces, which will be (or is
//     made current again);
//   - a retirement without proof: its secret, issuer (to revoke, and to revoke
//     again) and probe, and until it revokes, except in an emergency, the backend,
//     which is asked first whether it still serves the version.
//
// A consumer is needed by nothing: one that is gone, or broken into, can be cut off at
// any time. It is told nothing more, and no overlap waits for it; untold warns of what it
// misses.
//
// A mirror is needed by nothing: what waits for it goes on without it once the
// configuration names it no more; forsaken warns of what stays in it.
//
// Re-checks of a version that is proven dead need nothing in this sense: they go
// on for a week after every rotation, and a configuration that could never be
// changed would be worse than a re-check that is not made; slighted warns of them, too.
func underWay(ctx context.Context, tx *store.Tx) (needs, error) {
	var n needs
	err := eachPage(func(p store.Page) (string, error) {
		found, next, err := tx.Rotations(ctx, store.RotationFilter{Live: true}, p)
		for i := range found {
			if err == nil {
				err = n.rotation(ctx, tx, &found[i])
			}
		}
		return next, err
	})
	if err != nil {
		return nil, err
	}
	unproven, err := tx.UnprovenRetirements(ctx)
	for _, t := range unproven {
		n.retirement(t)
	}
	return n, err
}

func eachPage(read func(store.Page) (next string, err error)) error {
	for p := (store.Page{Limit: 1000}); ; {
		next, err := read(p)
		if err != nil || next == "" {
			return err
		}
		p.After = next
	}
}

func (n *needs) rotation(ctx context.Context, tx *store.Tx, r *store.RotationOf) error {
	who := fmt.Sprintf("rotation %s of %s %s", r.ID, r.Ref, stateText(&r.Rotation))
	remedy := fmt.Sprintf("wait for its end (`keybroker rotation watch %s`), or `keybroker rotation cancel %s`", r.ID, r.ID)
	if r.State == rotation.Overlap {
		remedy = fmt.Sprintf("wait for its end (`keybroker rotation watch %s`), or `keybroker rotation rollback %s`", r.ID, r.ID)
	}
	n.add(who, remedy, block{client.KindSecret, r.Ref.String()})
	if !r.State.Occupies() {
		return nil // its retirements have rows of their own
	}
	if d := r.Under; d != nil && (r.State == rotation.Queued || r.State == rotation.Minting) {
		n.add(who, remedy, componentsOf(d.Backend, d.Issuer, d.Probe)...)
	}
	for _, number := range []int{r.To, r.From} {
		if number == 0 {
			continue
		}
		v, err := tx.Version(ctx, r.SecretID, number)
		if errors.Is(err, backends.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		n.add(who, remedy, componentsOf(v.Backend, v.Issuer, v.Probe)...)
	}
	return nil
}

func componentsOf(backend, issuer, probe string) []block {
	return []block{{"backend", backend}, {"issuer", issuer}, {"probe", probe}}
}

func stateText(r *rotation.Rotation) string {
	switch r.State {
	case rotation.Overlap:
		return "is in its overlap until " + r.OverlapUntil.UTC().Format(time.RFC3339)
	case rotation.Retiring:
		return "waits for the proof that what it replaced is dead"
	}
	return "is " + string(r.State)
}

func (n *needs) retirement(t store.UnprovenRetirement) {
	if t.NeverMade || t.State == rotation.Unprovable && (!t.HasProbe || !t.ContainedAt.IsZero()) {
		return // there is nothing left to do but to forget the copy
	}
	who := fmt.Sprintf("retirement %s of %s version %d is %s", t.ID, t.Ref, t.Version, t.State)
	remedy := fmt.Sprintf("wait for its proof (`keybroker retirement show %s`)", t.ID)
	n.add(who, remedy, block{client.KindSecret, t.Ref.String()}, block{"issuer", t.MadeBy.Issuer})
	if t.State == rotation.Requested && !t.Emergency() && t.RevokeBegunAt.IsZero() && t.InVault {
		n.add(who, remedy, block{"backend", t.MadeBy.Backend})
	}
	if t.HasProbe {
		n.add(who, remedy, block{"probe", t.MadeBy.Probe})
	}
}

// judge tells which needs a configuration does not meet. A reload is refused for
// those that it takes away: not there any more, or of another type than in the
// configuration of before. What that one lacked already keeps nobody from mending
// something else.
func (n needs) judge(before, next *config.Config) (refused, lacking []client.ConfigFinding) {
	return n.judgeShapes(shapeOf(before), shapeOf(next))
}

// shape is what of a configuration decides whether what is under way can go on.
type shape struct {
	types     map[block]string
	consumers []string
	secrets   []holding
	claims    map[config.Claim]string // whose they are, by Ref.String
}

// holding is a secret, by Ref.String, and the backends that hold it: its primary first.
type holding struct {
	secret   string
	backends []string
}

// claim notes what a secret has of its issuer's for itself, as far as cfg knows the issuer.
func (s *shape) claim(cfg *config.Config, secret, issuer string, settings json.RawMessage) {
	for _, c := range cfg.Claims(issuer, settings) {
		s.claims[c] = secret
	}
}

// shapeOf returns that of a configuration; of nil the empty one.
func shapeOf(cfg *config.Config) shape {
	s := shape{types: types(cfg), claims: map[config.Claim]string{}}
	if cfg == nil {
		return s
	}
	for _, k := range cfg.Consumers {
		s.consumers = append(s.consumers, k.Name)
	}
	for _, one := range cfg.Secrets {
		s.secrets = append(s.secrets, holding{one.Ref.String(), append([]string{one.Backend}, one.Mirrors...)})
		s.claim(cfg, one.Ref.String(), one.Issuer, one.Settings)
	}
	return s
}

func (n needs) judgeShapes(before, next shape) (refused, lacking []client.ConfigFinding) {
	was, has := before.types, next.types
	for _, need := range n {
		t, ok := has[need.block]
		old, had := was[need.block]
		missing := client.ConfigFinding{What: fmt.Sprintf("%s and needs %s, which is not in the configuration", need.who, need.block),
			Remedy: "put the block back; or " + need.remedy}
		switch {
		case !ok && had:
			refused = append(refused, missing)
		case !ok && need.kind != client.KindSecret: // the rows of one without a block are enough to go on
			lacking = append(lacking, missing)
		case ok && had && t != old:
			refused = append(refused, client.ConfigFinding{What: fmt.Sprintf("%s and needs %s of the type %q, which now is of the type %q", need.who, need.block, old, t),
				Remedy: fmt.Sprintf("give the new %s another name and keep the old one; or %s", need.kind, need.remedy)})
		}
	}
	return refused, lacking
}

// slighted warns of what a configuration does without being refused: what is not
// under way now and still will miss what was taken away.
func (n needs) slighted(ctx context.Context, tx *store.Tx, before, next *config.Config) ([]client.ConfigFinding, error) {
	return n.slightedBy(ctx, tx, next, shapeOf(before), shapeOf(next))
}

// slightedBy is slighted by the shapes; by cfg it is told what issuers are.
func (n needs) slightedBy(ctx context.Context, tx *store.Tx, cfg *config.Config, before, next shape) ([]client.ConfigFinding, error) {
	var out []client.ConfigFinding
	was, has := before.types, next.types
	warn := func(b block, m store.Made, consequence, remedy string) {
		t, ok := has[b]
		old, had := was[b]
		how := "is not in the configuration"
		if ok {
			how = "is of another type"
		}
		if b.name != "" && (!ok || had && old != t) {
			out = append(out, client.ConfigFinding{What: fmt.Sprintf("%s %s, and %s %s", b, how, versions(m), consequence), Remedy: remedy})
		}
	}
	live, err := tx.UnretiredVersions(ctx)
	if err != nil {
		return nil, err
	}
	const rotate = "keep the block, rotate these secrets, and remove it once their old versions are proven dead"
	for _, m := range live {
		warn(block{"issuer", m.Issuer}, m, "in use that it minted: nothing can revoke them", rotate)
		warn(block{"backend", m.Backend}, m, "in use that it holds: reads are served from sealed copies", rotate)
		warn(block{"probe", m.Probe}, m, "in use that it tries: their death could not be proven", rotate)
	}
	dead, err := tx.AwaitedRechecks(ctx)
	if err != nil {
		return nil, err
	}
	const later = "keep the block until the last re-check of these versions"
	for _, m := range dead {
		warn(block{"probe", m.Probe}, m, "proven dead and to be tried with it once more: a resurrection would not be seen", later)
		warn(block{"issuer", m.Issuer}, m, "proven dead and to be tried once more: a resurrection could not be ended", later)
	}
	unheard, err := untold(ctx, tx, before, next)
	if err != nil {
		return nil, err
	}
	taken, err := taken(ctx, tx, cfg, next)
	return slices.Concat(out, unheard, forsaken(before, next), taken), err
}

// taken warns of what secrets outside the configuration still have of an issuer's for
// themselves and one in it claims: a secret that was renamed, for instance, whose old row
// has the account. What is set for the new one ends what the old one holds.
func taken(ctx context.Context, tx *store.Tx, cfg *config.Config, next shape) ([]client.ConfigFinding, error) {
	if len(next.claims) == 0 {
		return nil, nil
	}
	var out []client.ConfigFinding
	err := eachPage(func(p store.Page) (string, error) {
		found, after, err := tx.Secrets(ctx, store.SecretFilter{}, p)
		for _, s := range found {
			if _, managed := next.types[block{client.KindSecret, s.Ref.String()}]; managed || s.Current == 0 {
				continue
			}
			for _, c := range cfg.Claims(s.Definition.Issuer, s.Definition.Settings) {
				if by, ok := next.claims[c]; ok {
					out = append(out, client.ConfigFinding{What: fmt.Sprintf("the secret %s, which is not in the configuration, has %s at the issuer %q for its version %d, and %s takes it from it", s.Ref, c, s.Definition.Issuer, s.Current, by),
						Remedy: fmt.Sprintf("keep the name %s, or give %s something else; or revoke the old one first: `keybroker secret revoke %s`", s.Ref, by, qualified(s.Ref))})
				}
			}
		}
		return after, err
	})
	return out, err
}

// forsaken warns of the vaults in which secrets are kept no longer: what the broker
// wrote there stays, and grows old.
func forsaken(before, next shape) []client.ConfigFinding {
	was, has := before.types, next.types
	still := map[string]bool{} // secret and backend
	for _, s := range next.secrets {
		for _, name := range s.backends {
			still[s.secret+" "+name] = true
		}
	}
	left := map[string][]string{} // backend → secrets
	for _, s := range before.secrets {
		_, managed := has[block{client.KindSecret, s.secret}]
		for i, name := range s.backends {
			b := block{"backend", name}
			moved := managed && !still[s.secret+" "+name]
			if moved || i > 0 && has[b] != was[b] { // of the versions of a primary is warned above
				left[name] = append(left[name], s.secret)
			}
		}
	}
	var out []client.ConfigFinding
	for _, name := range slices.Sorted(maps.Keys(left)) {
		b, secrets := block{"backend", name}, left[name][0]
		if n := len(left[name]); n > 1 {
			secrets = fmt.Sprintf("%d secrets (%s and others)", n, secrets)
		}
		finding := client.ConfigFinding{What: fmt.Sprintf("%s is given no new versions of %s any more: what it holds stays there", b, secrets),
			Remedy: "let nobody read it there; keep the block until its versions are dead"}
		if has[b] != was[b] {
			finding.What = fmt.Sprintf("%s leads elsewhere or nowhere now, and it held %s: what it held stays there, also when it is revoked", b, secrets)
			finding.Remedy = "take it out of mirrors first and keep the block until its versions are dead; or delete them there by hand"
		}
		out = append(out, finding)
	}
	return out
}

// untold warns of the pending deliveries to consumers that go away.
func untold(ctx context.Context, tx *store.Tx, before, next shape) ([]client.ConfigFinding, error) {
	var out []client.ConfigFinding
	for _, name := range before.consumers {
		b := block{"consumer", name}
		if _, ok := next.types[b]; ok {
			continue
		}
		found, _, err := tx.DeliveriesPage(ctx, store.DeliveryFilter{Consumer: name, State: rotation.DeliveryPending}, store.Page{Limit: 1})
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			out = append(out, client.ConfigFinding{What: fmt.Sprintf("%s is not in the configuration, and deliveries to it are pending (the newest tells of %s version %d): they are not made, and no overlap waits for them", b, found[0].Ref, found[0].Version),
				Remedy: fmt.Sprintf("if it still uses what they tell of, keep the block until they succeed or are given up: `keybroker delivery list --consumer %s`", name)})
		}
	}
	return out, nil
}

func versions(m store.Made) string {
	if m.Versions == 1 {
		return fmt.Sprintf("there is a version of %s", m.Example)
	}
	return fmt.Sprintf("there are %d versions (of %s and others)", m.Versions, m.Example)
}
