package crashtest_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// observe compares what was seen of a generation with what was seen before: a
// generation is one version and one key, for ever.
func (sub *subject) observe(s *site, generation int64, version int, key, where string) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	now := sighting{version, key}
	if before, ok := sub.seen[generation]; ok && before != now {
		s.violation("%s: generation %d was version %d and is version %d (by %s); the same key: %v", sub.name, generation, before.version, version, where, before.key == key)
	}
	sub.seen[generation] = now
	sub.keyOf[version] = key
}

// read reads the secret once and checks what came.
func (s *site) read(sub *subject) error {
	began := time.Now()
	var v client.Value
	err := s.ask(func(ctx context.Context) (err error) {
		v, err = s.client.Value(ctx, sub.name, 0)
		return err
	})
	if err != nil {
		return err
	}
	s.sum.reads.Add(1)
	key := v.Fields["key"]
	sub.observe(s, v.Generation, v.Version, key, "read")
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if v.Generation < sub.newest {
		s.violation("%s: generation %d was read after %d", sub.name, v.Generation, sub.newest)
	}
	sub.newest = max(sub.newest, v.Generation)
	if at := s.keys.revoked(key); !at.IsZero() && at.Before(began) { // not even in an emergency
		s.violation("%s: a read gave version %d as current %s after its key was revoked", sub.name, v.Version, began.Sub(at))
	}
	s.given(sub, v.Version, key, began)
	if v.Previous == nil {
		return nil
	}
	s.given(sub, v.Previous.Version, v.Previous.Fields["key"], began)
	if at := s.keys.revoked(v.Previous.Fields["key"]); !at.IsZero() && at.Before(began) {
		s.violation("%s: a read gave version %d as previous %s after its key was revoked", sub.name, v.Previous.Version, began.Sub(at))
	}
	return nil
}

// settled is the state of a secret in which nothing is under way.
type settled struct {
	secret      client.Secret
	retirements map[int]client.Retirement
	value       client.Value
}

// settleWithin is the longest that a secret may need to come to rest: longer
// than the longest wait between two tries of what is done here.
const settleWithin = 100 * time.Second

// slowRest is after how long a site says what it waits for.
const slowRest = 20 * time.Second

// settle waits until nothing is under way and checks everything.
func (s *site) settle() {
	s.keys.calm()
	s.hook.restless(0)
	if err := s.release(); err != nil {
		s.violation("ending a freeze and pauses: %v", err)
	}
	began := time.Now()
	for _, sub := range s.subject {
		s.settleOne(sub, began.Add(settleWithin))
	}
	s.checkAudit()
	s.sum.settled(time.Since(began))
}

func (s *site) settleOne(sub *subject, deadline time.Time) {
	began, last := time.Now(), ""
	for {
		at, why := s.resting(sub)
		if why != last && time.Since(began) > slowRest {
			s.t.Logf("%s: after %s %s waits: %s", s.name, time.Since(began).Round(time.Millisecond), sub.name, why)
			last = why
		}
		if why == "" {
			s.check(sub, at)
			return
		}
		if time.Now().After(deadline) {
			s.violation("%s did not come to rest: %s", sub.name, why)
			return
		}
		if !s.proc.alive() {
			s.violation("%s: the daemon has ended by itself", sub.name)
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// resting tells what is still under way; empty: nothing.
func (s *site) resting(sub *subject) (at settled, why string) {
	var live client.List[client.Rotation]
	err := s.ask(func(ctx context.Context) (err error) {
		if live, err = s.client.Rotations(ctx, client.RotationQuery{Secret: sub.name, Live: true}); err != nil {
			return err
		}
		at.secret, err = s.client.Secret(ctx, sub.name)
		return err
	})
	if err != nil {
		return at, "the daemon answers " + err.Error()
	}
	at.retirements = map[int]client.Retirement{}
	for _, v := range at.secret.Versions {
		if v.Retirement == nil {
			continue
		}
		at.retirements[v.Number] = *v.Retirement
		if !over(v) {
			return at, fmt.Sprintf("the retirement of version %d is %s, waiting for %q until %s: %s", v.Number, v.Retirement.State, v.Retirement.WaitingFor, v.Retirement.NextAt, v.Retirement.Error)
		}
	}
	for _, r := range live.Items {
		if !stuckByDesign(r, at.secret) {
			return at, fmt.Sprintf("rotation %s is %s, waiting for %q until %s: %s", r.ID, r.State, r.WaitingFor, r.NextAt, r.Error)
		}
	}
	for _, v := range at.secret.Versions {
		if v.Stage == client.StagePending || v.Stage == client.StagePrevious {
			return at, fmt.Sprintf("version %d is %s", v.Number, v.Stage)
		}
	}
	if n := len(s.keys.alive(sub.name)); n > 1 {
		return at, fmt.Sprintf("%d keys are alive at the issuer", n)
	}
	return at, s.untold(sub, at.secret)
}

// over tells whether a retirement is proven; or, for what was never published
// and may never have been made, that nothing more can be done about it.
func over(v client.Version) bool {
	t := v.Retirement
	if t.State == client.ProvenDead {
		return true
	}
	return v.PublishedAt.IsZero() && (t.State == client.Unprovable || t.State == client.Acknowledged && (t.NextAt.IsZero() || t.NeverMade) ||
		t.State == client.Requested && t.WaitingFor == "issuer") // its mint may still arrive; see also resting
}

// stuckByDesign: an emergency waits for the proof of all that it pinned, also of
// what may never have been made and so can have none (yet).
func stuckByDesign(r client.Rotation, s client.Secret) bool {
	if r.State != "retiring" || r.Trigger != "emergency" {
		return false
	}
	for _, v := range s.Versions {
		if slices.Contains(r.Compromised, v.Number) && (v.Retirement == nil || !over(v)) {
			return false
		}
	}
	return true
}

// check looks whether everything is as it must be when nothing is under way.
func (s *site) check(sub *subject, at settled) {
	s.sum.checks.Add(1)
	if at.secret.Generation == 0 {
		return // its first rotation has not come that far
	}
	if at.secret.State != client.SecretActive {
		s.violation("%s is %s", sub.name, at.secret.State)
	}
	current := 0
	for _, v := range at.secret.Versions {
		if v.Stage == client.StageCurrent {
			current++
		}
	}
	if current != 1 {
		s.violation("%s has %d current versions", sub.name, current)
		return
	}
	err := s.ask(func(ctx context.Context) (err error) {
		at.value, err = s.client.Value(ctx, sub.name, 0)
		return err
	})
	if err != nil {
		s.violation("%s cannot be read: %v", sub.name, err)
		return
	}
	key := at.value.Fields["key"]
	if at.value.Version != at.secret.Current() || at.value.Generation != at.secret.Generation {
		s.violation("%s: a read gives version %d, generation %d; current is %d, %d", sub.name, at.value.Version, at.value.Generation, at.secret.Current(), at.secret.Generation)
	}
	sub.observe(s, at.value.Generation, at.value.Version, key, "check")
	for _, name := range at.secret.Consumers {
		if s.application(name).holds(sub.name).key != key {
			s.violation("%s: %s uses another key than the current one", sub.name, name)
		}
	}
	s.checkTold(sub, at)
	if sub.internal {
		s.checkInternal(sub, at, key)
	} else {
		s.checkIssuer(sub, key)
		s.checkVault(sub, key)
		s.checkOrphans(sub)
	}
	s.judge(sub, at.secret)
	s.checkEnded(sub, at)
}

// checkIssuer asks the issuer: one key is alive, the current one; every other
// that was ever made is dead, whether we heard of it or not.
func (s *site) checkIssuer(sub *subject, key string) {
	alive := s.keys.alive(sub.name)
	if !s.keys.Works(key) {
		s.violation("%s: the current key does not work", sub.name)
	}
	if len(alive) != 1 {
		s.violation("%s: %d keys are alive at the issuer: %+v", sub.name, len(alive), alive)
	}
	made, n := s.keys.made(sub.name, sub.checked)
	again := max(0, n-20) // the latest are looked at again, and what may still be revoked
	for i, k := range made {
		works := s.keys.Works(k.secret)
		if k.secret != key && works {
			s.violation("%s: the key %s (%s) works although it is not the current one", sub.name, k.id, k.tag)
		}
		if works {
			again = min(again, sub.checked+i)
		}
	}
	sub.checked = again
}

func (s *site) checkVault(sub *subject, key string) {
	if s.kv == nil {
		return
	}
	kv, err := s.kv.Get(s.t.Context(), "keybroker/"+sub.name)
	if err != nil || kv.Data["key"] != key {
		s.violation("%s: the vault holds another key than the current one (%v)", sub.name, err)
	}
}

// checkInternal asks for each key that was ever seen whether it works: only the
// current one does.
func (s *site) checkInternal(sub *subject, at settled, current string) {
	sub.mu.Lock()
	seen := map[int64]sighting{}
	for generation, one := range sub.seen {
		if !sub.sure[one.key] {
			seen[generation] = one
		}
	}
	sub.mu.Unlock()
	for generation, one := range seen {
		works, err := s.checkKey(sub, one.key)
		want := one.key == current
		if err != nil || works != want {
			s.violation("%s: the key of version %d works: %v (%v), want %v", sub.name, one.version, works, err, want)
		}
		if !want && generation+3 < at.secret.Generation {
			sub.mu.Lock()
			sub.sure[one.key] = true
			sub.mu.Unlock()
		}
	}
}

// checkEnded looks at every rotation since the last check: none is done without
// the proof, none was rolled back without turning off what it had published.
func (s *site) checkEnded(sub *subject, at settled) {
	last := ""
	err := s.ask(func(ctx context.Context) error {
		for r, err := range client.All(func(after string) (client.List[client.Rotation], error) {
			return s.client.Rotations(ctx, client.RotationQuery{Secret: sub.name, Page: client.Page{Limit: 50, After: after}})
		}) {
			if err != nil || r.ID == sub.lastDone {
				return err
			}
			if last == "" {
				last = r.ID
			}
			s.sum.ended(r)
			s.checkEnd(sub, at.secret, r)
		}
		return nil
	})
	if err != nil {
		s.violation("%s: listing rotations: %v", sub.name, err)
	}
	if last != "" {
		sub.lastDone = last
	}
}

func (s *site) checkEnd(sub *subject, secret client.Secret, r client.Rotation) {
	switch r.State {
	case client.RotationDone:
		s.checkTurnedOff(sub, secret, r, r.FromVersion, func(v client.Version) bool { return v.Retirement.State == client.ProvenDead })
		for _, number := range r.Compromised {
			s.checkTurnedOff(sub, secret, r, number, over)
		}
	case client.RotationRolledBack:
		s.checkTurnedOff(sub, secret, r, r.ToVersion, func(v client.Version) bool { return v.Retirement.State == client.ProvenDead })
		s.checkRolledBack(sub, secret, r)
		sub.undone = append(sub.undone, r)
	}
}

// shownVersions is how many of the newest versions the API shows, whatever became
// of them; an older one is missing only if it is dead for certain.
const shownVersions = 50

// checkTurnedOff looks at the retirement of a version that a rotation which has
// ended so had to turn off.
func (s *site) checkTurnedOff(sub *subject, secret client.Secret, r client.Rotation, number int, off func(client.Version) bool) {
	if number == 0 {
		return
	}
	newest := secret.Versions[len(secret.Versions)-1].Number
	i := slices.IndexFunc(secret.Versions, func(v client.Version) bool { return v.Number == number })
	switch {
	case i < 0 && number <= newest-shownVersions:
	case i < 0:
		s.violation("%s: rotation %s is %s, but version %d is unknown", sub.name, r.ID, r.State, number)
	case secret.Versions[i].Retirement == nil:
		s.violation("%s: rotation %s is %s, but version %d has no retirement", sub.name, r.ID, r.State, number)
	case !off(secret.Versions[i]):
		s.violation("%s: rotation %s is %s, but version %d is %s", sub.name, r.ID, r.State, number, secret.Versions[i].Retirement.State)
	}
}

// checkRolledBack looks whether the version that was taken back stayed valid for
// an overlap, unless somebody wanted it off before.
func (s *site) checkRolledBack(sub *subject, secret client.Secret, r client.Rotation) {
	for _, v := range secret.Versions {
		if t := v.Retirement; v.Number == r.ToVersion && t != nil && t.Cause == "rolled_back" && t.Reason != interfering {
			if until := r.EndedAt.Add(overlaps[sub.name]); t.AcknowledgedAt.Before(until) {
				s.violation("%s: rotation %s was rolled back at %s, and version %d was revoked at %s, before %s", sub.name, r.ID, r.EndedAt, r.ToVersion, t.AcknowledgedAt, until)
			}
		}
	}
}
