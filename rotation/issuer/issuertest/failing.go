package issuertest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
)

// fails demands an error of one class that holds no secret.
func (s *suite) fails(what string, err, class error) {
	s.Helper()
	if !errors.Is(err, class) {
		s.Errorf("%s: got %v, want the class %q", what, s.safe(err), class)
	}
	_ = s.safe(err)
}

// safe fails the test if err holds a secret, and hides it then.
func (s *suite) safe(err error) error {
	s.Helper()
	if err == nil || s.noSecret("an error", err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)) {
		return err
	}
	return errors.New("(hidden: it holds a secret)")
}

// end is Revoke, or what stands for it at a Person.
func (s *suite) end(is issuer.Issuer, c credential) error {
	err := is.Revoke(s.ctx, c.req.Subject, c.Handle)
	if _, ok := s.Issuer.(issuer.Person); !ok {
		return err
	}
	if !errors.Is(err, issuer.ErrByHand) {
		return fmt.Errorf("a Person's Revoke gave %w, want ErrByHand", s.safe(err))
	}
	s.ByHand(c.Handle)
	return nil
}

// call is one call of an issuer.
type call struct {
	what string
	make func(context.Context) error
}

// calls are all that an issuer has, about a credential of ours; the first issues.
func calls(is issuer.Issuer, mine credential, req issuer.Request) []call {
	sub := mine.req.Subject
	list := []call{{"issuing", func(ctx context.Context) error {
		_, err := is.Issue(ctx, req)
		return err
	}}}
	if _, ok := is.(issuer.Person); !ok {
		list = append(list, call{"revoking", func(ctx context.Context) error { return is.Revoke(ctx, sub, mine.Handle) }})
	}
	if f, ok := is.(issuer.Finder); ok {
		list = append(list, call{"finding", func(ctx context.Context) error {
			_, err := f.Find(ctx, sub, mine.req.Tag)
			return err
		}})
	}
	if l, ok := is.(issuer.Lister); ok {
		list = append(list, call{"listing", func(ctx context.Context) error {
			_, err := l.List(ctx, sub)
			return err
		}})
	}
	if r, ok := is.(issuer.Remover); ok {
		list = append(list, call{"removing", func(ctx context.Context) error { return r.Remove(ctx, sub, mine.Handle) }})
	}
	if p, ok := is.(issuer.Setter); ok {
		list = append(list, call{"putting back", func(ctx context.Context) error { return p.PutBack(ctx, mine.req, mine.Handle, req.Version) }})
	}
	if e, ok := is.(issuer.SessionEnder); ok {
		list = append(list, call{endingSessions, func(ctx context.Context) error { return e.EndSessions(ctx, sub, mine.Handle) }})
	}
	if u, ok := is.(issuer.UseReporter); ok {
		list = append(list, call{"asking for the last use", func(ctx context.Context) error {
			_, err := u.LastUsed(ctx, sub, mine.Handle)
			return err
		}})
	}
	return list
}

const endingSessions = "ending sessions"

// everyCall makes each call, waits for none longer than patience, and demands
// errors of one class; that of issuing is of the other classes, too.
func (s *suite) everyCall(ctx context.Context, patience time.Duration, is issuer.Issuer, mine credential, tag string, class error, issuing ...error) {
	s.Helper()
	for i, c := range calls(is, mine, s.prepared(s.unprepared(s.Subject, tag))) {
		within, cancel := context.WithTimeout(ctx, patience)
		err := c.make(within)
		cancel()
		if c.what == endingSessions && errors.Is(err, backends.ErrUnsupported) {
			continue // by its configuration
		}
		s.fails(c.what, err, class)
		for _, other := range issuing {
			if i == 0 {
				s.fails(c.what, err, other)
			}
		}
	}
}

func (s *suite) wrongCredentials() {
	if s.Denied == nil {
		s.cannot("the harness has no issuer with wrong credentials")
	}
	mine := s.new("rot-mine-1")
	s.everyCall(s.ctx, timeout, s.Denied, mine, "rot-denied-1", backends.ErrDenied)
	s.works("after others were denied", mine, true)
}

func (s *suite) expiredCredentials() {
	if s.Expired == nil {
		s.cannot("the harness has no issuer with expired credentials")
	}
	mine := s.new("rot-mine-1")
	s.everyCall(s.ctx, timeout, s.Expired, mine, "rot-expired-1", backends.ErrDenied)
	s.works("after the credentials had expired", mine, true)
}

// A login that has ended is made anew by the call that notices.
func (s *suite) expiredLogin() {
	if s.Expire == nil {
		s.cannot("the issuer makes no login that expires")
	}
	s.new("rot-login-1")
	s.Expire()
	s.works("issued by another login", s.new("rot-login-2"), true)
	s.Expire()
	s.revoke(s.of(s.Subject)[0])
}

func (s *suite) outage() {
	if s.Outage == nil {
		s.cannot("the harness makes no outage")
	}
	mine := s.new("rot-before-1")
	s.Outage(true)
	s.everyCall(s.ctx, timeout, s.Issuer, mine, "rot-during-1", backends.ErrUnavailable)
	s.Outage(false)
	s.works("after the outage", mine, true)
	s.works("issued after the outage", s.new("rot-after-1"), true)
}

// A system that answers nothing is given up at the context's deadline.
func (s *suite) hanging() {
	if s.Hang == nil {
		s.cannot("the harness cannot make the system hang")
	}
	mine := s.new("rot-before-1")
	s.Hang(true)
	s.everyCall(s.ctx, 200*time.Millisecond, s.Issuer, mine, "rot-hanging-1", backends.ErrUnavailable)
	s.Hang(false)
	s.works("after the system hung", mine, true)
	s.works("issued after the system hung", s.new("rot-after-1"), true)
}

func (s *suite) unreachable() {
	if s.Harness.Unreachable == nil {
		s.cannot("the issuer is reached over no network")
	}
	mine := s.new("rot-there-1")
	s.everyCall(s.ctx, timeout, s.Harness.Unreachable, mine, "rot-nowhere-1", backends.ErrUnavailable, issuer.ErrNotSent)
}

func (s *suite) cancelled() {
	mine := s.new("rot-done-1")
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	s.everyCall(ctx, timeout, s.Issuer, mine, "rot-cancelled-1", backends.ErrUnavailable)
	s.works("after calls that were cancelled", mine, true)
}
