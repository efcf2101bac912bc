package crashtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	if v.Previous == nil {
		return nil
	}
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
	s.inbox.restless(0)
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
	if len(at.secret.Consumers) > 0 && at.secret.Generation > 0 {
		if _, generation := s.inbox.receiver.Current(sub.name); generation != at.secret.Generation {
			return at, fmt.Sprintf("the consumer has generation %d of %d", generation, at.secret.Generation)
		}
	}
	return at, ""
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
	if len(at.secret.Consumers) > 0 {
		if held, _ := s.inbox.receiver.Current(sub.name); held.Reveal()["key"] != key {
			s.violation("%s: the consumer holds another key than the current one", sub.name)
		}
	}
	if sub.name == internalSecret {
		s.checkInternal(sub, at, key)
	} else {
		s.checkIssuer(sub, key)
		s.checkVault(sub, key)
	}
	s.checkDone(sub, at)
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
	for _, k := range made {
		if k.secret != key && s.keys.Works(k.secret) {
			s.violation("%s: the key %s (%s) works although it is not the current one", sub.name, k.id, k.tag)
		}
	}
	sub.checked = max(0, n-20) // the latest are looked at again
}

func (s *site) checkVault(sub *subject, key string) {
	if s.vault == nil {
		return
	}
	kv, err := s.vault.Client(s.t).KVv2(s.mount).Get(s.t.Context(), "keybroker/"+sub.name)
	if err != nil || kv.Data["key"] != key {
		s.violation("%s: the vault holds another key than the current one (%v)", sub.name, err)
	}
}

// checkInternal asks for each key that was ever seen whether it works.
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
		var got client.KeyCheck
		err := s.ask(func(ctx context.Context) (err error) {
			got, err = s.client.CheckKey(ctx, client.SecretText(one.key))
			return err
		})
		if want := one.key == current; err != nil || got.Active != want {
			s.violation("%s: the key of version %d works: %v (%v), want %v", sub.name, one.version, got.Active, err, want)
		}
		if generation+3 < at.secret.Generation {
			sub.sure[one.key] = true
		}
	}
}

// checkDone looks at every rotation that ended since the last check: none is
// done without the proof.
func (s *site) checkDone(sub *subject, at settled) {
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
			t, known := at.retirements[r.FromVersion]
			if r.State == client.RotationDone && r.FromVersion > 0 && known && t.State != client.ProvenDead {
				s.violation("%s: rotation %s is done, but version %d is %s", sub.name, r.ID, r.FromVersion, t.State)
			}
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

// line is what is looked at of the audit log.
type line struct {
	Action string            `json:"action"`
	Path   string            `json:"path"`
	Seq    int64             `json:"seq"`
	Detail map[string]string `json:"detail"`
}

// checkAudit looks for exactly one publication of each generation. What the
// engine did reaches the log a little later.
func (s *site) checkAudit() {
	var missing string
	for range 60 {
		s.readAudit()
		if missing = s.missingPublications(); missing == "" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.violation("the audit log lacks %s", missing)
}

func (s *site) missingPublications() string {
	for name, sub := range s.subject {
		sub.mu.Lock()
		newest := sub.newest
		for generation := range sub.seen {
			newest = max(newest, generation)
		}
		sub.mu.Unlock()
		for generation := int64(1); generation <= newest; generation++ {
			if _, ok := s.published[name][generation]; !ok {
				return fmt.Sprintf("the publication of generation %d of %s", generation, name)
			}
		}
	}
	return ""
}

func (s *site) readAudit() {
	f, err := os.Open(filepath.Join(s.dir, "data", "audit.jsonl"))
	if err != nil {
		s.violation("reading the audit log: %v", err)
		return
	}
	defer f.Close()
	if _, err := f.Seek(s.auditRead, io.SeekStart); err != nil {
		s.violation("reading the audit log: %v", err)
		return
	}
	text, err := io.ReadAll(f)
	if err != nil {
		s.violation("reading the audit log: %v", err)
		return
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	s.auditRead += int64(len(text))
	for raw := range bytes.Lines(text) {
		var l line
		if json.Unmarshal(raw, &l) != nil {
			s.sum.torn.Add(1)
			s.t.Logf("%s: a line of the audit log is no JSON: %q", s.name, raw)
			continue
		}
		if l.Action != "rotation.publish" {
			continue
		}
		generation, _ := strconv.ParseInt(l.Detail["generation"], 10, 64)
		if before, ok := s.published[l.Path][generation]; ok && before != l.Seq {
			s.violation("the audit log has two publications of generation %d of %s: seq %d and %d", generation, l.Path, before, l.Seq)
		}
		s.published[l.Path][generation] = l.Seq
	}
}
