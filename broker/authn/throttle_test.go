package authn_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
)

// guard counts failures by the clock of the bubble.
func guard() *authn.Callers {
	return authn.NewCallers(authn.NewTokens(nil, nil, time.Now), &records{}, hclog.NewNullLogger())
}

// fail fails once and tells how long the answer took, and how long to stay away.
func fail(c *authn.Callers, from netip.Addr) (took, away time.Duration) {
	began := time.Now()
	err := c.Failed(context.Background(), from)
	if slowed, ok := errors.AsType[*authn.Slowed](err); ok {
		away = slowed.RetryAfter()
	}
	return time.Since(began), away
}

func TestFailuresAreAnsweredLaterAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := guard()
		var last time.Duration
		for i := range 15 {
			took, away := fail(c, there)
			switch {
			case away != 0:
				t.Fatalf("failure %d: told to stay away", i+1)
			case i < 5 && took != 0, i >= 5 && took < last, i == 5 && took == 0, took > 5*time.Second:
				t.Errorf("failure %d was answered after %s, the one before after %s", i+1, took, last)
			}
			last = took
		}
		if last < 3*time.Second {
			t.Errorf("the last one took %s", last)
		}
		for range 100 {
			fail(c, there)
		}
		took, away := fail(c, there)
		if took != 0 || away < time.Minute || away > 5*time.Minute {
			t.Errorf("after 100 failures: answered after %s, away for %s", took, away)
		}
		if err := c.Failed(t.Context(), there); !errors.Is(err, backends.ErrDenied) {
			t.Errorf("its class: %v", err)
		}
		if took, away := fail(c, here); took != 0 || away != 0 {
			t.Errorf("another address: %s, %s", took, away)
		}
		time.Sleep(away)
		if _, away := fail(c, there); away != 0 {
			t.Errorf("after it stayed away as told it is to stay away for %s more", away)
		}
		time.Sleep(10 * time.Minute)
		if took, away := fail(c, there); took != 0 || away != 0 {
			t.Errorf("after a while: %s, %s", took, away)
		}
	})
}

func TestOneHostIsOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := guard()
		for i := range 40 {
			fail(c, netip.MustParseAddr(fmt.Sprintf("2001:db8:0:1::%d", i+1)))
		}
		for from, slow := range map[string]bool{"2001:db8:0:1:ffff::1": true, "2001:db8:0:2::1": false, "::ffff:192.0.2.1": false} {
			if _, away := fail(c, netip.MustParseAddr(from)); (away > 0) != slow {
				t.Errorf("%s: away for %s", from, away)
			}
		}
		for range 40 {
			fail(c, netip.MustParseAddr("192.0.2.1"))
		}
		for from, slow := range map[string]bool{"::ffff:192.0.2.1": true, "192.0.2.2": false} {
			if _, away := fail(c, netip.MustParseAddr(from)); (away > 0) != slow {
				t.Errorf("%s: away for %s", from, away)
			}
		}
		for range 40 { // no IP connection
			fail(c, netip.Addr{})
		}
	})
}

// TestFewWaitAtOnce: connections that wait are not free.
func TestFewWaitAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := guard()
		for range 5 {
			fail(c, there)
		}
		var mu sync.Mutex
		waited, refused := 0, 0
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				took, away := fail(c, there)
				mu.Lock()
				defer mu.Unlock()
				if took > 0 {
					waited++
				}
				if away > 0 {
					refused++
				}
			})
		}
		all.Wait()
		if waited != 4 || refused != 6 {
			t.Errorf("%d waited, %d were told to stay away", waited, refused)
		}
	})
}

func TestWhoLeavesWaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := guard()
		for range 12 {
			fail(c, there)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := c.Failed(ctx, there); err != nil || time.Since(began) != time.Millisecond {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// TestRightCredentialsAreNotSlowed by others behind their address.
func TestRightCredentialsAreNotSlowed(t *testing.T) {
	o := newOffice(t)
	_, text := o.make(o.root(), authn.Wanted{Policies: []string{"reader"}})
	gone, cancel := context.WithCancel(t.Context())
	cancel() // who waits for no answer
	for range 40 {
		_, err := o.Authenticate(gone, authn.Credentials{Token: "kbt_wrong", Address: here})
		if err == nil {
			t.Fatal("a wrong token is accepted")
		}
	}
	_, err := o.Authenticate(t.Context(), authn.Credentials{Token: "kbt_wrong", Address: here})
	if _, slowed := errors.AsType[*authn.Slowed](err); !slowed {
		t.Errorf("the 41st failure: %v", err)
	}
	o.holder(text)
	for range 40 { // nothing is tried
		if _, err := o.Authenticate(t.Context(), authn.Credentials{Address: there}); err == nil {
			t.Fatal("nothing is accepted")
		}
	}
	_, err = o.Authenticate(t.Context(), authn.Credentials{Token: "kbt_wrong", Address: there})
	if _, slowed := errors.AsType[*authn.Slowed](err); slowed {
		t.Error("who showed nothing is slowed")
	}
}

// TestManyNetworksOfOneSiteAreOne: going through all networks of a site has no failure
// forgotten.
func TestManyNetworksOfOneSiteAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := guard()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		last := func(i int) (slowed bool) {
			err := c.Failed(gone, netip.MustParseAddr(fmt.Sprintf("2001:db8:7:%x::1", i%(1<<16))))
			return err != nil
		}
		free := 0
		for i := range 30_000 {
			if !last(i) {
				free++
			}
		}
		if free < 40 || free > 80 {
			t.Errorf("%d failures of one site were not refused", free)
		}
		if !last(1 << 15) {
			t.Error("a network of the site that is new is not told to stay away")
		}
		if err := c.Failed(gone, netip.MustParseAddr("2001:db8:8::1")); err != nil {
			t.Errorf("another site: %v", err)
		}
	})
}
