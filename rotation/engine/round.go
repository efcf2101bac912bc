package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/probe"
)

// purposeOf says what a round is made for.
var purposeOf = map[rotation.Effect]rotation.Purpose{
	rotation.ProbeBefore:  rotation.PurposeBefore,
	rotation.DeathRound:   rotation.PurposeDeath,
	rotation.RecheckRound: rotation.PurposeRecheck,
}

// quietAfter is how many failed rounds in a row are recorded try by try; of
// those that follow, only what is no longer inconclusive.
const quietAfter = 20

// round makes one round of tries and commits it: at every address of the
// endpoint first the control, then the retiring credential, each on a fresh
// connection. Tries change nothing there and may be repeated after a crash: they
// take no intent, but where the account is locked after a number of them. Those
// are counted before they are made.
func (e *Engine) round(ctx context.Context, x *retiring, effect rotation.Effect) error {
	rctx, cancel := context.WithTimeout(ctx, effectTimeout)
	defer cancel()
	lines, seen, err := e.tryRound(rctx, x, effect)
	if isConflict(err) {
		return err // the row has moved: nothing was tried
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if locked := (*lockedError)(nil); errors.As(err, &locked) {
		return e.saveRetirement(ctx, x, func(context.Context, Tx) error {
			x.t.PutOff(locked.until)
			return nil
		})
	}
	sessions := e.sessionsAgain(rctx, x, effect)
	by := e.scope(x, nil).Endpoint + " " + e.scope(x, nil).Config
	verdict, control := rotation.Judge(seen, x.t.Before == rotation.Accepted && x.t.BeforeBy == by)
	detail := roundDetail(lines, verdict, control, err)
	for i := range lines {
		lines[i].RetirementID, lines[i].Round = x.t.ID, x.t.Round+1
	}
	return e.saveRetirement(ctx, x, func(ctx context.Context, tx Tx) error {
		quiet := x.t.Failures > quietAfter && verdict == rotation.Inconclusive
		now := e.Now()
		e.noteSessions(&x.t, sessions)
		if verdict == rotation.Accepted {
			x.t.Forgiven()
		}
		switch effect {
		case rotation.ProbeBefore:
			x.t.ProbedBefore(verdict, control, detail, now)
			x.t.BeforeBy = by
		case rotation.RecheckRound: // the scope stays that of the proof
			x.t.Rechecked(verdict, control, detail, now)
		default:
			e.cover(x, seen)
			x.t.RoundMade(verdict, control, detail, now)
		}
		if quiet {
			return nil
		}
		for _, l := range lines {
			if err := e.addTry(ctx, tx, x.t.SecretID, x.secret.Ref, l); err != nil {
				return err
			}
		}
		return nil
	})
}

// roundDetail says in a few words why a round counts for nothing.
func roundDetail(lines []rotation.Try, v rotation.Verdict, c rotation.Control, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case v == rotation.Rejected && c == rotation.ControlNone:
		return "it is refused, but there is no credential that must work to try beside it"
	case v != rotation.Inconclusive:
		return ""
	}
	for _, l := range lines {
		if l.Purpose == rotation.PurposeControl && l.Verdict != rotation.Accepted {
			return "the control, which must work, was " + string(l.Verdict) + ": " + l.Detail
		}
	}
	for _, l := range lines {
		if l.Verdict == rotation.Inconclusive {
			return "inconclusive: " + l.Detail
		}
	}
	return ""
}

// subjects are the values that a round tries.
type subjects struct {
	probe   probe.Probe
	retired backends.Value
	control *backends.Value  // nil: there is none to try
	by      rotation.Control // which one that is
	version rotation.Version // of the control; none for a canary
}

// lockedError: more rejected tries before until would lock the account, and what
// a locked account answers proves nothing.
type lockedError struct{ until time.Time }

// Error implements error.
func (e *lockedError) Error() string {
	return "more rejected tries would lock the account before " + e.until.UTC().Format(time.RFC3339)
}

func (e *Engine) subjects(ctx context.Context, x *retiring) (s subjects, err error) {
	if s.probe, err = lookUp(x.catalog, x.catalog.Probes, "probe", x.version.Probe); err != nil {
		return s, err
	}
	if s.retired, err = e.Open(ctx, x.version); err != nil {
		return s, err
	}
	if x.current != nil && x.current.Probe == x.version.Probe {
		value, err := e.Open(ctx, *x.current) // a control that is there and cannot be tried is none
		s.control, s.by, s.version = &value, rotation.ControlCurrent, *x.current
		return s, err
	}
	if c, ok := s.probe.(probe.Canarier); ok {
		if value, ok := c.Canary(); ok {
			s.control, s.by, s.version = &value, rotation.ControlCanary, rotation.Version{Probe: x.version.Probe}
		}
	}
	return s, nil
}

// bearable picks the addresses that a round may try without locking the account:
// where it is locked after a number of rejected tries, they are spared.
func bearable(t rotation.Retirement, addresses []string, limit int, now time.Time) (try, spared []string, err error) {
	try = addresses
	if limit > 0 && len(addresses) >= limit {
		try, spared = addresses[:max(limit-1, 1)], addresses[max(limit-1, 1):]
	}
	if until, ok := t.Bears(len(try), limit, now); !ok {
		return nil, nil, &lockedError{until}
	}
	return try, spared, nil
}

// beginTries commits that n tries are going to be made.
func (e *Engine) beginTries(ctx context.Context, x *retiring, effect rotation.Effect, n int) error {
	return e.saveRetirement(ctx, x, func(context.Context, Tx) error {
		x.t.Begin(effect, e.owner, lease, e.Now())
		x.t.Tried(n, e.Now())
		return nil
	})
}

func (e *Engine) tryRound(ctx context.Context, x *retiring, effect rotation.Effect) ([]rotation.Try, []rotation.Sighting, error) {
	s, err := e.subjects(ctx, x)
	if err != nil {
		return nil, nil, err
	}
	addresses, err := s.probe.Addresses(ctx)
	if err != nil {
		return nil, nil, err
	}
	limit := s.probe.LockoutAfter()
	addresses, spared, err := bearable(x.t, addresses, limit, e.Now())
	if err != nil {
		return nil, nil, err
	}
	x.spared = spared
	if limit > 0 {
		if err := e.beginTries(ctx, x, effect, len(addresses)); err != nil {
			return nil, nil, err
		}
	}
	seen := make([]rotation.Sighting, len(addresses))
	tries := make([][]rotation.Try, len(addresses))
	var wg sync.WaitGroup
	for i, address := range addresses {
		wg.Go(func() { tries[i], seen[i] = e.tryAt(ctx, x, s, purposeOf[effect], address) })
	}
	wg.Wait()
	var lines []rotation.Try
	for _, t := range tries {
		lines = append(lines, t...)
	}
	return lines, seen, nil
}

// tryAt tries control and subject at one address.
func (e *Engine) tryAt(ctx context.Context, x *retiring, s subjects, purpose rotation.Purpose, address string) ([]rotation.Try, rotation.Sighting) {
	seen := rotation.Sighting{Address: address, Unreached: true, By: s.by}
	var lines []rotation.Try
	add := func(l rotation.Try, purpose rotation.Purpose) rotation.Verdict {
		l.Purpose = purpose
		seen.Unreached = seen.Unreached && l.Verdict == rotation.Inconclusive && l.Address == ""
		if l.Address == "" {
			l.Address = address
		}
		lines = append(lines, l)
		return l.Verdict
	}
	if s.control != nil {
		seen.Control = add(e.try(ctx, s.probe, x.secret, s.version, *s.control, address), rotation.PurposeControl)
	}
	seen.Subject = add(e.try(ctx, s.probe, x.secret, x.version, s.retired, address), purpose)
	return lines, seen
}

// cover works out what the series of rounds covers with this one: an address
// that was out of reach in one of them is not covered; one that was and has now
// been reached begins the series anew, so that each has seen all rounds.
func (e *Engine) cover(x *retiring, seen []rotation.Sighting) {
	out, now := unreached(seen), e.scope(x, nil)
	if x.t.Rejections > 0 && (x.t.Scope.Endpoint != now.Endpoint || x.t.Scope.Config != now.Config) {
		x.t.Restart() // the probe was configured anew: rounds of two probes make no series
	}
	if x.t.Rejections > 0 {
		for _, a := range strings.Fields(x.t.Scope.Unreached) {
			if !slices.Contains(out, a) {
				x.t.Restart()
				break
			}
		}
	}
	x.t.Scope = e.scope(x, out)
}

func unreached(seen []rotation.Sighting) []string {
	var out []string
	for _, a := range seen {
		if a.Unreached {
			out = append(out, a.Address)
		}
	}
	return out
}

// scope says what a round covers.
func (e *Engine) scope(x *retiring, unreached []string) rotation.Scope {
	s := rotation.Scope{Node: e.Node, DerivedSessions: "none"}
	if p, ok := x.catalog.Probes[x.version.Probe]; ok {
		s.Endpoint, s.Config = p.Scope(), x.catalog.ProbeDigests[x.version.Probe]
	}
	if is, ok := x.catalog.Issuers[x.version.Issuer]; ok {
		s.SelfAttested = is.Traits().SelfAttested
		switch {
		case x.t.Sessions == rotation.SessionsEnded:
			s.DerivedSessions = "ended"
		case is.Traits().DerivedSessions:
			s.DerivedSessions = "not ended"
		}
	}
	s.Unreached = strings.Join(unreached, " ")
	s.Spared = strings.Join(x.spared, " ")
	return s
}
