package issuertest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// system mints credentials and sets those of accounts, in memory, with one mistake
// if it is told to.
type system struct {
	wrong string // the mistake
	limit int

	mu     sync.Mutex
	serial int
	creds  []*cred
	slots  map[string]*slot // by subject and name
	down   bool
	lose   bool
	login  int           // logins with another number have ended
	hung   chan struct{} // nil: it answers
}

type cred struct {
	id, tag  string
	ref      backends.Ref
	key      string
	off      bool
	gone     bool
	used     time.Time
	sessions []*bool
}

// slot holds a version and knows the highest it ever held or was put back from.
type slot struct {
	ref              backends.Ref
	tag, key         string
	version, highest int
	sessions         []*bool
}

// link is one issuer's conversation with the system, step by step.
type link struct {
	*system
	password string
	nowhere  bool
	stale    bool // its login has ended and cannot be made anew

	mu     sync.Mutex
	login  int
	points int // that pass still; negative: all
	dead   bool
}

const password = "canary-admin-77aa"

func unavailable(why string) error {
	return fmt.Errorf("asking memory: %w: %s", backends.ErrUnavailable, why)
}

// passes counts a point of the conversation.
func (l *link) passes() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = l.dead || l.points == 0
	l.points--
	return !l.dead
}

func (l *link) reached() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// step is one request: the system acts if it arrives and is allowed.
func (l *link) step(ctx context.Context, act func() error) error {
	switch err := ctx.Err(); {
	case err != nil && l.wrong == "a cancelled context is overlooked":
	case err != nil:
		return unavailable(err.Error())
	case l.nowhere && l.wrong == "nobody listens, but it may have been sent":
		return unavailable("nobody listens")
	case l.nowhere:
		return fmt.Errorf("%w (%w)", unavailable("nobody listens"), issuer.ErrNotSent)
	}
	if !l.passes() {
		return unavailable("cut off")
	}
	if err := l.waits(ctx); err != nil {
		return err
	}
	l.system.mu.Lock()
	err := l.admit()
	if err == nil {
		err = act()
	}
	lost := err == nil && l.lose
	l.lose = l.lose && err != nil
	l.system.mu.Unlock()
	if lost || !l.passes() {
		switch l.wrong {
		case "a lost answer is final":
			return fmt.Errorf("%w: no answer", backends.ErrInvalid)
		case "a lost answer was not sent":
			return fmt.Errorf("%w (%w)", unavailable("no answer"), issuer.ErrNotSent)
		}
		return unavailable("no answer")
	}
	return err
}

func (l *link) waits(ctx context.Context) error {
	l.system.mu.Lock()
	hung := l.hung
	l.system.mu.Unlock()
	if hung == nil {
		return nil
	}
	select {
	case <-hung:
		return nil
	case <-ctx.Done():
		if l.wrong == "who waited for nothing is told of a refusal" {
			return fmt.Errorf("%w: no answer", backends.ErrDenied)
		}
		return unavailable("it hangs")
	}
}

// admit judges who asks. The system's lock is held.
func (l *link) admit() error {
	denied := backends.ErrDenied
	switch {
	case l.down && l.wrong == "an outage is not found":
		return backends.ErrNotFound
	case l.down:
		return unavailable("out of order")
	case l.wrong == "a refusal is taken for an outage":
		denied = backends.ErrUnavailable
	}
	switch {
	case l.password != password && l.wrong == "an error quotes the password":
		return fmt.Errorf("%w: the password is not %s", denied, password)
	case l.password != password:
		return fmt.Errorf("%w: wrong password", denied)
	case l.stale && l.wrong == "expired credentials are an outage":
		return unavailable("expired")
	case l.stale || l.login != l.system.login && l.wrong == "a login is for ever":
		return fmt.Errorf("%w: expired", denied)
	}
	l.login = l.system.login
	return nil
}

// at is the slot of that name, which the subject has for itself.
func (s *system) at(sub issuer.Subject, name string) *slot {
	at := sub.Ref.String() + " " + name
	if s.wrong == "tenants share their slots" {
		at = name
	}
	if s.slots[at] == nil {
		s.slots[at] = &slot{ref: sub.Ref}
	}
	return s.slots[at]
}

func (s *system) held(sub issuer.Subject) []*cred {
	return slices.DeleteFunc(slices.Clone(s.creds), func(c *cred) bool { return c.gone || c.ref != sub.Ref })
}

// live are the tags of what is live or can be made live again.
func (s *system) live() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var tags []string
	for _, c := range s.creds {
		if !c.gone {
			tags = append(tags, c.tag)
		}
	}
	for _, at := range s.slots {
		if at.version > 0 {
			tags = append(tags, at.tag)
		}
	}
	return tags
}

// find is the credential or slot with that key, live.
func (s *system) find(key string) (*cred, *slot) {
	for _, c := range s.creds {
		if c.key == key && !c.off && !c.gone {
			return c, nil
		}
	}
	for _, at := range s.slots {
		if at.version > 0 && at.key == key {
			return nil, at
		}
	}
	return nil, nil
}

func (s *system) works(v backends.Value) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, at := s.find(v.Reveal()["key"])
	return c != nil || at != nil
}

func (s *system) use(v backends.Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, _ := s.find(v.Reveal()["key"]); c != nil {
		c.used = time.Now()
	}
}

func (s *system) session(v backends.Value) func() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	alive := new(bool)
	c, at := s.find(v.Reveal()["key"])
	switch {
	case c != nil:
		*alive, c.sessions = true, append(c.sessions, alive)
	case at != nil:
		*alive, at.sessions = true, append(at.sessions, alive)
	}
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return *alive
	}
}

func (s *system) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// base is what all issuers in memory have in common.
type base struct {
	*link
	traits  issuer.Traits
	lacking string
}

func (b *base) Traits() issuer.Traits {
	if b.wrong == "the traits change" {
		b.traits.RevocationBudget++
	}
	return b.traits
}

func (b *base) CheckSettings(settings []byte) []string {
	if strings.HasPrefix(string(settings), `"`) && b.wrong != "any settings will do" {
		return []string{"the settings must be an object"}
	}
	return nil
}

func value(key string) backends.Value { return backends.NewValue(map[string]string{"key": key}) }

var errGone = errors.New("gone")
