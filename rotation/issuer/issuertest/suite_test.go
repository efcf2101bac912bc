package issuertest_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/issuer"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest"
)

// kinds are the issuers in memory.
var kinds = map[string]struct {
	traits issuer.Traits
	of     func(*base) issuer.Issuer
}{
	"prepared": {issuer.Traits{Kind: issuer.Mint, Fields: []string{"key"}, Handle: []string{"id"}},
		func(b *base) issuer.Issuer { return prepared{&minting{b}} }},
	"found": {issuer.Traits{Kind: issuer.Mint, MaxLive: 3, ShowOnce: true, Fields: []string{"key"}},
		func(b *base) issuer.Issuer { return found{&minting{b}} }},
	"listed": {issuer.Traits{Kind: issuer.Mint, MaxLive: 2, ShowOnce: true, Soak: time.Hour, Exclusive: true},
		func(b *base) issuer.Issuer { return listed{&minting{b}} }},
	"pair": {issuer.Traits{Kind: issuer.Set, Slots: []string{"a", "b"}, Handle: []string{"slot", "tag"}},
		func(b *base) issuer.Issuer { return setting{b} }},
	"single": {issuer.Traits{Kind: issuer.Set, Slots: []string{"a"}},
		func(b *base) issuer.Issuer { return setting{b} }},
}

func subject(tenant string) issuer.Subject {
	return issuer.Subject{Ref: backends.Ref{Tenant: tenant, Name: "app/key"}, Settings: json.RawMessage(`{"scope":"all"}`)}
}

func harness(kind, wrong string) issuertest.Harness {
	k := kinds[kind]
	s := &system{wrong: wrong, limit: k.traits.MaxLive, slots: map[string]*slot{}}
	of := func(l *link, lacking string) issuer.Issuer {
		l.system = s
		return k.of(&base{link: l, traits: k.traits, lacking: lacking})
	}
	right := func() *link { return &link{password: password, points: -1} }
	stale := right()
	stale.stale = true
	return issuertest.Harness{
		Issuer: of(right(), ""), Subject: subject("acme"), Others: []issuer.Subject{subject("globex"), subject("initech")},
		Live: s.live, Works: s.works,
		Cut: func(n int) (issuer.Issuer, func() bool) {
			l := right()
			l.points = n
			return of(l, ""), l.reached
		},
		LoseAnswer: func() { s.set(func() { s.lose = true }) },
		Outage:     func(on bool) { s.set(func() { s.down = on }) },
		Hang: func(on bool) {
			s.set(func() {
				if on {
					s.hung = make(chan struct{})
					return
				}
				close(s.hung)
				s.hung = nil
			})
		},
		Refused: func(req issuer.Request) issuer.Request {
			req.Key.Prefix = "canary-31"
			req.Subject.Labels = map[string]string{"refused": "yes"}
			return req
		},
		Limited:     k.traits.MaxLive > 0,
		Denied:      of(&link{password: "canary-wrong", points: -1}, ""),
		Expired:     of(stale, ""),
		Expire:      func() { s.set(func() { s.login++ }) },
		Lacking:     map[string]issuer.Issuer{"delete": of(right(), "delete")},
		Unreachable: of(&link{nowhere: true, points: -1}, ""),
		Session:     s.session,
		Use:         s.use,
		Secrets:     []string{password, "canary-wrong"},
	}
}

func TestMemory(t *testing.T) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			issuertest.Run(t, func(*testing.T) issuertest.Harness { return harness(kind, "") })
		})
	}
}

const mistake = "ISSUERTEST_MISTAKE"

// TestMistaken is run by TestSuiteNotices, and fails.
func TestMistaken(t *testing.T) {
	wrong := os.Getenv(mistake)
	m, ok := mistakes[wrong]
	if !ok {
		t.Skip("is run by TestSuiteNotices")
	}
	issuertest.Run(t, func(*testing.T) issuertest.Harness { return harness(m.kind, wrong) })
}

// A suite that notices nothing is worth nothing: each mistake fails the test that is
// there for it.
func TestSuiteNotices(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for wrong, m := range mistakes {
		t.Run(wrong, func(t *testing.T) {
			t.Parallel()
			run := exec.CommandContext(t.Context(), self, "-test.run", "^TestMistaken$/^"+m.test+"$")
			run.Env = append(os.Environ(), mistake+"="+wrong)
			out, err := run.CombinedOutput()
			var failed *exec.ExitError
			if !errors.As(err, &failed) || !strings.Contains(string(out), "--- FAIL: TestMistaken/"+m.test) {
				t.Errorf("the test %q does not notice: %v\n%s", m.test, err, out)
			}
			if strings.Contains(string(out), "canary-") {
				t.Errorf("the suite shows a secret:\n%s", out)
			}
		})
	}
}
