package oidc_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn/oidc"
	"github.com/keybroker/keybroker/broker/authn/oidcserver"
)

// A key that the provider has withdrawn counts for five minutes at most, though nobody
// has logged in meanwhile: whoever comes first does not get by with the keys of before.
func TestWithdrawnKey(t *testing.T) {
	s := oidcserver.New(t, nil)
	p := newHanging(t, s.Keys)
	var at clock
	m, _ := open(t, oidc.Config{JWKSURL: p.url, Issuer: s.Issuer, AllowPrivateNetwork: true}, at.now)
	old := s.Sign(t, map[string]any{"exp": time.Now().Add(time.Hour).Unix()})
	if _, err := m.Verify(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	s.RotateKey(t)
	at.pass(4 * time.Minute)
	if _, err := m.Verify(t.Context(), old); err != nil {
		t.Errorf("after four minutes: %v", err)
	}
	at.pass(2 * time.Minute)
	refused(t, m, old, "signed by a key that the provider")
}

// A provider that fails is left alone for longer and longer, counted from the end of
// each try, and half a minute at most.
func TestBackOff(t *testing.T) {
	s := oidcserver.New(t, nil)
	p := newHanging(t, func() []byte { return []byte("no keys") })
	var at clock
	m, log := open(t, oidc.Config{JWKSURL: p.url, Issuer: s.Issuer, AllowPrivateNetwork: true}, at.now)
	jwt := s.Sign(t, nil)
	asks := func(want int32) {
		t.Helper()
		if _, err := m.Verify(t.Context(), jwt); !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrDenied) {
			t.Errorf("%v", err)
		}
		if p.asked.Load() != want {
			t.Errorf("the provider was asked %d times, and not %d", p.asked.Load(), want)
		}
	}
	asks(1)
	for i, pause := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
		at.pass(pause - time.Second)
		asks(int32(i) + 1) // too early
		at.pass(time.Second)
		asks(int32(i) + 2)
	}
	if n := strings.Count(log.String(), "cannot be got"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, log.String())
	}
}

// Who is nobody yet is told neither where keys lie nor what is wrong with them.
func TestUnreadableKeyFile(t *testing.T) {
	s := oidcserver.New(t, nil)
	path := filepath.Join(t.TempDir(), "secret-place.json")
	m, log := open(t, oidc.Config{JWKSFile: path, Issuer: s.Issuer}, time.Now)
	for range 3 {
		_, err := m.Verify(t.Context(), s.Sign(t, nil))
		if !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrDenied) || strings.Contains(err.Error(), "secret-place") || !strings.Contains(err.Error(), `auth "corp" cannot check JWTs now`) {
			t.Errorf("%v", err)
		}
	}
	if n := strings.Count(log.String(), path); n == 0 || strings.Count(log.String(), "cannot be got") != 1 {
		t.Errorf("the log: %s", log.String())
	}
	if err := os.WriteFile(path, s.Keys(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Verify(t.Context(), s.Sign(t, nil)); err != nil || !strings.Contains(log.String(), "can be got again") {
		t.Errorf("%v\n%s", err, log.String())
	}
}
