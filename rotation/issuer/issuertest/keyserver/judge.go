package keyserver

import (
	"net/http"
	"slices"
	"time"
)

// Standing is how one of the servers behind the API judges keys.
type Standing int

const (
	// Judging accepts live keys and, within the revocation latency, revoked ones.
	Judging Standing = iota
	// RejectingAll answers 401 to every key, as a server without its database.
	RejectingAll
	// AcceptingAll accepts every key ever made, as a server that no revocation
	// reaches any more.
	AcceptingAll
)

// SetStanding sets how the server at one of Addresses judges keys, or, with an
// empty address, all those that were not set by themselves.
func (s *Server) SetStanding(address string, standing Standing) {
	s.set(func() { s.standings[address] = standing })
}

func (s *Server) standing(address string) Standing {
	if standing, ok := s.standings[address]; ok {
		return standing
	}
	return s.standings[""]
}

// Lockout is how the API defends an account against guessing: after so many
// rejected attempts it refuses every key of the account for a while, live ones
// too. Attempts with a key that it never made count for no account; those while
// an account is locked do not count.
type Lockout struct {
	After  int           // rejected attempts; 0 = accounts are never locked
	Within time.Duration // the time in which they count; 0 = ever
	For    time.Duration // how long an account stays locked; 0 = for good
	InARow bool          // an accepted attempt makes the rejected ones before it forgotten
	Status int           // what is answered meanwhile; 0 = 429
}

// account is what lockout must remember of one account.
type account struct {
	rejected []time.Time // the attempts that count
	lockedAt time.Time   // zero: never locked
}

// SetLockout sets the defence for all accounts and forgets what was counted.
func (s *Server) SetLockout(l Lockout) {
	s.set(func() { s.lockout, s.accounts = l, map[string]*account{} })
}

// Lockouts counts how often an account was locked so far.
func (s *Server) Lockouts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lockouts
}

// Locked tells whether an account is locked now.
func (s *Server) Locked(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locked(s.account(name))
}

func (s *Server) account(name string) *account {
	if s.accounts[name] == nil {
		s.accounts[name] = &account{}
	}
	return s.accounts[name]
}

func (s *Server) locked(a *account) bool {
	return !a.lockedAt.IsZero() && (s.lockout.For == 0 || s.now().Sub(a.lockedAt) < s.lockout.For)
}

// attempted counts an attempt and locks the account if it was one too many.
func (s *Server) attempted(a *account, accepted bool) {
	switch {
	case s.lockout.After == 0:
		return
	case accepted:
		if s.lockout.InARow {
			a.rejected = nil
		}
		return
	}
	now := s.now()
	if s.lockout.Within > 0 {
		a.rejected = slices.DeleteFunc(a.rejected, func(at time.Time) bool { return now.Sub(at) >= s.lockout.Within })
	}
	if a.rejected = append(a.rejected, now); len(a.rejected) >= s.lockout.After {
		a.rejected, a.lockedAt = nil, now
		s.lockouts++
	}
}

// Canary returns the secret of a key of a test account of its own, which works
// whenever the API does: it is not among Live, counts for no limit and cannot be
// revoked.
func (s *Server) Canary() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.canary == nil {
		s.canary = newKey("canary", "canary")
	}
	return s.canary.secret
}

// Works tells whether a key would be accepted now by a server in working order,
// were its account not locked; it does not count as its use.
func (s *Server) Works(secret string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.find(secret)
	return k != nil && (k.revokedAt.IsZero() || s.lingers(k))
}

// judge returns the key with this secret if the server at address accepts it,
// else the status of the refusal. The lock is held.
func (s *Server) judge(secret, address string) (*key, int) {
	k := s.find(secret)
	if k == nil {
		return nil, http.StatusUnauthorized
	}
	a := s.account(k.Account)
	if s.locked(a) {
		if s.lockout.Status != 0 {
			return nil, s.lockout.Status
		}
		return nil, http.StatusTooManyRequests
	}
	accepted := s.accepts(k, s.standing(address))
	s.attempted(a, accepted)
	if !accepted {
		return nil, http.StatusUnauthorized
	}
	return k, 0
}

func (s *Server) accepts(k *key, standing Standing) bool {
	switch {
	case standing == RejectingAll:
		return false
	case standing == AcceptingAll || k.revokedAt.IsZero():
		return true
	case !s.lingers(k):
		return false
	}
	k.uses++
	return s.flapping == 0 || k.uses%s.flapping != 0
}

// lingers tells whether a revoked key still works.
func (s *Server) lingers(k *key) bool { return s.now().Sub(k.revokedAt) < s.latency }

func (s *Server) find(secret string) *key {
	for _, k := range s.everyKey() {
		if k.secret == secret {
			return k
		}
	}
	return nil
}

// everyKey returns all keys ever made and the canary. The lock is held.
func (s *Server) everyKey() []*key {
	if s.canary == nil {
		return s.keys
	}
	return append(slices.Clip(s.keys), s.canary)
}
