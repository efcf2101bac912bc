package broker

import (
	"cmp"
	"context"
	"errors"
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
)

const (
	// maxIdentified is how many versions are told of one text, and maxReaders how many of
	// those who had each.
	maxIdentified = 50
	maxReaders    = 20
	// maxConsidered is how many of those that have it the caller's sight is asked for.
	maxConsidered = 2000
	// identifyTakes is how long it takes at least to say whether a text is known, so that
	// what the caller may not know of does not tell by how long it took.
	identifyTakes = 100 * time.Millisecond
	// maxTried is how many versions are tried for one question, and triedAtOnce of those at
	// a time.
	maxTried    = 10
	triedAtOnce = 5
)

// identified is a version that has a text, and that the caller may know of.
type identified struct {
	hit
	secret rotation.Secret
	rotation.Version
	retirement *rotation.Retirement // nil: nothing turns it off
	view       client.IdentifiedVersion
}

// Identify tells what a text is that somebody found: which versions have it in a field, of
// the secrets that p sees, and whether it is a token of the broker. Asked to, it tries
// those that p may turn off or rotate, by their own probes, once. It changes nothing but
// the counts that keep accounts from being locked.
func (b *Broker) Identify(ctx context.Context, p authn.Principal, r client.IdentifyRequest) (out client.Identified, err error) {
	out.Matches = []client.IdentifiedVersion{}
	req := request{action: "secret.identify", path: "sys/identify", detail: map[string]string{}}
	d := itemwise
	d.changes = r.Probe
	err = b.serve(ctx, p, req, d, func() (map[string]string, error) {
		text := strings.TrimSpace(r.Value.Reveal())
		texts := candidates(text)
		sensitive := map[string]string{"value": text}
		if len(texts) == 0 {
			return sensitive, fmt.Errorf("%w: what is to be identified is shorter than %d bytes: anything might be that", backends.ErrInvalid, minCandidate)
		}
		out.Looked = len(texts)
		found, cut, err := b.known(ctx, p, texts, &out)
		if err != nil {
			return sensitive, err
		}
		out.Cut = cut
		b.askAbout(ctx, p, found, r.Probe)
		for i, f := range found {
			out.Matches = append(out.Matches, f.view)
			for _, t := range f.texts {
				sensitive[fmt.Sprintf("found.%d", i+1)] = t
			}
		}
		req.detail["found"] = auditedMatches(out)
		return sensitive, nil
	})
	if err != nil {
		return client.Identified{}, err
	}
	return out, nil
}

// auditedMatches says for the audit log what somebody was told.
func auditedMatches(out client.Identified) string {
	var all []string
	if out.Token != nil {
		all = append(all, "token "+out.Token.ID)
	}
	for _, m := range out.Matches {
		text := fmt.Sprintf("%s version %d", backends.Ref{Tenant: m.Tenant, Name: m.Secret}, m.Version)
		if m.TriedAt.IsZero() {
			all = append(all, text)
			continue
		}
		all = append(all, text+" (tried: "+m.Alive+")")
	}
	return cmp.Or(cut(strings.Join(all, ", ")), "nothing")
}

// known looks the texts up, and tells of what p may know, the likeliest first; more: there
// is more of that. It takes as long for a text that others have as for one that nobody has.
func (b *Broker) known(ctx context.Context, p authn.Principal, texts []string, out *client.Identified) (found []*identified, more bool, err error) {
	began := time.Now()
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		hits, err := b.lookUp(ctx, tx, p.Tenant, texts)
		if err == nil {
			found, more, err = b.seen(ctx, tx, p, hits)
		}
		if err == nil {
			err = b.identifyToken(ctx, tx, p, texts, out)
		}
		return err
	})
	select {
	case <-time.After(identifyTakes - time.Since(began)):
	case <-ctx.Done():
	}
	if err != nil {
		return nil, false, err
	}
	err = b.Store.View(ctx, func(tx *store.Tx) error {
		for _, f := range found {
			if err := b.describe(ctx, tx, p, f); err != nil {
				return err
			}
		}
		return nil
	})
	return found, more, err
}

// seen are those of the hits that p may know of: credentials before mere names, then what
// is current, then the newest.
func (b *Broker) seen(ctx context.Context, tx *store.Tx, p authn.Principal, hits []hit) (found []*identified, more bool, err error) {
	slices.SortStableFunc(hits, func(x, y hit) int {
		return cmp.Or(ordered(x.nameOnly, y.nameOnly), ordered(y.whole, x.whole), cmp.Compare(y.version, x.version))
	})
	if len(hits) > maxConsidered {
		hits, more = hits[:maxConsidered], true
	}
	secrets := map[string]*rotation.Secret{} // nil: p does not see it
	for _, h := range hits {
		s, asked := secrets[h.secretID]
		if !asked {
			one, err := tx.Secret(ctx, h.secretID)
			if err != nil {
				return nil, false, err
			}
			may, err := b.sight(ctx, tx, p, one)
			if err != nil {
				return nil, false, err
			}
			if may.sees {
				s = &one
			}
			secrets[h.secretID] = s
		}
		switch {
		case s == nil:
		case len(found) == maxIdentified:
			return found, true, nil
		default:
			found = append(found, &identified{hit: h, secret: *s})
		}
	}
	slices.SortStableFunc(found, func(x, y *identified) int {
		return cmp.Or(ordered(x.nameOnly, y.nameOnly), ordered(y.version == y.secret.Current, x.version == x.secret.Current))
	})
	return found, more && len(found) > 0, nil // nobody is told that others have it
}

// ordered puts false before true.
func ordered(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return 1
	}
	return -1
}

// identifyToken finds the token of the broker that is among the texts, within p's walls.
// Whoever has a token may ask what it is (tokens/self), so that it takes no permission.
func (b *Broker) identifyToken(ctx context.Context, tx *store.Tx, p authn.Principal, texts []string, out *client.Identified) error {
	for _, text := range texts {
		if !authn.WellFormed(text) {
			continue
		}
		rec, err := b.Authn.Find(ctx, tx, text)
		hidden := p.Tenant != "" && rec.Tenant != p.Tenant || p.Environment != "" && rec.Environment != p.Environment
		switch {
		case errors.Is(err, backends.ErrNotFound) || err == nil && hidden:
			continue
		case err != nil:
			return err
		}
		state, err := b.Authn.State(ctx, tx, rec)
		if err != nil {
			return err
		}
		shown := b.viewToken(rec, state)
		out.Token = &shown
		if rec.RevokedAt.IsZero() {
			out.Next = "keybroker token revoke " + rec.ID
		}
		return nil
	}
	return nil
}

// describe fills in what the store knows of a version that p may know of.
func (b *Broker) describe(ctx context.Context, tx *store.Tx, p authn.Principal, f *identified) (err error) {
	s := f.secret
	if f.Version, err = tx.Version(ctx, s.ID, f.hit.version); err != nil {
		return err
	}
	t, err := tx.RetirementOf(ctx, s.ID, f.Number)
	switch {
	case err == nil:
		f.retirement = &t
	case !errors.Is(err, backends.ErrNotFound):
		return err
	}
	f.view = client.IdentifiedVersion{Secret: s.Ref.Name, Tenant: s.Ref.Tenant, Version: f.Number, Stage: string(f.Stage), Whole: f.whole, NameOnly: f.nameOnly,
		Issuer: f.Issuer, Labels: s.Definition.Labels, CreatedAt: utc(f.CreatedAt), Consumers: s.Definition.Consumers}
	if t := f.retirement; t != nil {
		f.view.RetiredAs, f.view.Retirement, f.view.ProvenAt = string(t.State), t.ID, utc(t.ProvenAt)
		f.view.LastUsedAt, f.view.LastUse = utc(t.LastUsedAt), t.LastUse
	}
	if f.view.Readers, err = b.accesses(ctx, tx, s, f.Number, maxReaders); err != nil {
		return err
	}
	f.view.Next, f.view.Needs = b.nextFor(p, f)
	ids, err := tx.IncidentsOfVersion(ctx, s.ID, f.Number)
	for _, id := range ids {
		i, err := tx.Incident(ctx, id)
		if err != nil {
			return err
		}
		if b.incidentSight(p, i).sees {
			f.view.Incidents = append(f.view.Incidents, id)
		}
	}
	return err
}

// nextFor is the command that turns a version off, or shows that it is, and the capability
// for it that p lacks.
func (b *Broker) nextFor(p authn.Principal, f *identified) (next, needs string) {
	s, t := f.secret, f.retirement
	switch {
	case f.nameOnly:
		return "", ""
	case t != nil && t.State == rotation.Resurrected, t == nil && f.Stage != rotation.StageRetired:
		if !b.allows(p, s.Ref.Name, s, policy.Emergency) {
			needs = string(policy.Emergency)
		}
		return fmt.Sprintf("keybroker emergency %s --version %d --reason TEXT --wait", s.Ref, f.Number), needs
	case t == nil: // somebody else's value that was found, or imported as no longer current
		if !b.allows(p, s.Ref.Name, s, policy.Revoke) {
			needs = string(policy.Revoke)
		}
		return fmt.Sprintf("keybroker secret revoke %s --version %d --reason TEXT", s.Ref, f.Number), needs
	case t.Settled():
		return "keybroker retirement show " + t.ID, ""
	}
	return "keybroker retirement watch " + t.ID, ""
}

// askAbout asks the issuers when what may be alive was last used and, if that is wanted,
// the probes whether it is.
func (b *Broker) askAbout(ctx context.Context, p authn.Principal, found []*identified, probe bool) {
	within, cancel := context.WithTimeout(ctx, usePatience)
	defer cancel() // after all have answered
	var asked sync.WaitGroup
	defer asked.Wait()
	room, tried := make(chan struct{}, triedAtOnce), 0
	for _, f := range found {
		if f.Handle != nil && !f.nameOnly && (f.retirement == nil || !f.retirement.Settled()) {
			asked.Go(func() {
				if at, where := b.lastUse(within, f.secret, f.Version); !at.IsZero() || where != "" {
					f.view.LastUsedAt, f.view.LastUse = at, where
				}
			})
		}
		why := b.untried(p, f, probe)
		if why == "" {
			if tried++; tried > maxTried {
				why = fmt.Sprintf("not tried: at most %d are at a time", maxTried)
			}
		}
		if f.view.Alive = why; why == "" {
			asked.Go(func() {
				room <- struct{}{}
				defer func() { <-room }()
				b.tryIdentified(ctx, p, f)
			})
		}
	}
}

// untried is why a version is not tried; empty: it is to be.
func (b *Broker) untried(p authn.Principal, f *identified, wanted bool) string {
	mayTry := func(c policy.Capability) bool { return b.allows(p, f.secret.Ref.Name, f.secret, c) }
	switch {
	case f.nameOnly:
		return "not tried: only a name of it was given"
	case f.Probe == "":
		return "not tried: it has no probe"
	case !wanted:
		return "not tried"
	case !slices.ContainsFunc([]policy.Capability{policy.Rotate, policy.Revoke, policy.Emergency}, mayTry):
		return "not tried: that takes rotate, revoke or emergency on it"
	}
	return ""
}

// tryIdentified tries a version by its probe.
func (b *Broker) tryIdentified(ctx context.Context, p authn.Principal, f *identified) {
	run, err := b.tryOnce(ctx, p, f.secret, f.Number, f.Probe)
	if err != nil {
		f.view.Alive = "not tried: " + err.Error()
		return
	}
	f.view.Alive, f.view.Detail, f.view.TriedAt = run.Verdict, run.Detail, utc(b.Now())
}
