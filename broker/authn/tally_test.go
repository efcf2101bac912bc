package authn_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/store"
)

// refuse has somebody refused times times, who waits for no answer.
func (o *office) refuse(times int, shown authn.Credentials) {
	o.t.Helper()
	gone, cancel := context.WithCancel(o.t.Context())
	cancel()
	for range times {
		if _, err := o.Authenticate(gone, shown); err == nil {
			o.t.Fatal("somebody is accepted")
		}
	}
}

// sumUp does what a minute's end does, and returns what was audited since the last time.
func (o *office) sumUp() (apart, sums []audit.Record) {
	o.t.Helper()
	over, cancel := context.WithCancel(o.t.Context())
	cancel()
	o.SumRefusals(over)
	o.log.mu.Lock()
	defer o.log.mu.Unlock()
	for _, rec := range o.log.all {
		if rec.Action == "auth.refused" {
			sums = append(sums, rec)
		} else {
			apart = append(apart, rec)
		}
	}
	o.log.all = nil
	return apart, sums
}

func attempts(t *testing.T, sums []audit.Record) (all int) {
	t.Helper()
	for _, s := range sums {
		n, err := strconv.Atoi(s.Detail["attempts"])
		if err != nil || n < 1 || s.Outcome != "denied" {
			t.Errorf("%+v", s)
		}
		all += n
	}
	return all
}

// TestRefusalsAreSummedUp: whoever has no credentials writes some lines a minute, and
// not one for each attempt.
func TestRefusalsAreSummedUp(t *testing.T) {
	o := newOffice(t)
	for _, shown := range []authn.Credentials{{Address: there}, {Address: there, Token: "kbt_wrong"}} {
		o.refuse(1000, shown)
		apart, sums := o.sumUp()
		if len(apart) != 15 || len(sums) != 1 || attempts(t, sums) != 985 {
			t.Fatalf("%d records and %d sums of %d attempts", len(apart), len(sums), attempts(t, sums))
		}
		if s := sums[0]; s.Address != there.String() || s.Actor != "anonymous" || s.Detail["network"] != there.String()+"/32" || s.Detail["since"] != began.Format(time.RFC3339) {
			t.Errorf("%+v", s)
		}
		o.refuse(3, shown)
		if apart, sums = o.sumUp(); len(apart) != 3 || len(sums) != 0 {
			t.Errorf("in the next minute: %d records and %d sums", len(apart), len(sums))
		}
	}
}

// TestWhatBecomesOfATokenIsNotHidden among attempts that anybody can make.
func TestWhatBecomesOfATokenIsNotHidden(t *testing.T) {
	o := newOffice(t)
	rec, text := o.make(o.root(), authn.Wanted{Policies: []string{"reader"}})
	o.update(func(tx *store.Tx) error { return tx.RevokeToken(t.Context(), rec.ID, o.clock) })
	for i := range 5000 {
		a := netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})
		o.refuse(1, authn.Credentials{Address: a, Token: "kbt_wrong"})
	}
	o.refuse(40, authn.Credentials{Address: there, Token: "kbt_wrong"})
	for range 40 { // they are told to stay away by now, so nobody waits
		if _, err := o.show(text, there); !errors.Is(err, backends.ErrDenied) {
			t.Fatal(err)
		}
	}
	apart, sums := o.sumUp()
	named := func(of []audit.Record) (n int) {
		for _, r := range of {
			if r.Actor == rec.ID && r.Address == there.String() {
				n++
			}
		}
		return n
	}
	if named(apart) != 15 || named(sums) != 1 {
		t.Errorf("%d records and %d sums of the revoked token", named(apart), named(sums))
	}
	if len(apart) > 1100 || len(sums) > 1100 {
		t.Errorf("%d records and %d sums in a minute", len(apart), len(sums))
	}
	if all := len(apart) + attempts(t, sums); all != 5080 {
		t.Errorf("%d attempts are accounted for", all)
	}
	if text := fmt.Sprintf("%+v %+v %s", apart, sums, o.said.String()); strings.Contains(text, "kbt_wrong") {
		t.Error("a token is in the audit log")
	}
}

// TestSumsOutliveALogThatIsDown: nothing is lost that was counted.
func TestSumsOutliveALogThatIsDown(t *testing.T) {
	o := newOffice(t)
	o.refuse(20, authn.Credentials{Address: there})
	o.refuse(30, authn.Credentials{Address: here})
	for range 2 {
		o.log.fail = backends.ErrUnavailable
		o.sumUp()
		o.log.fail = nil
		o.refuse(1, authn.Credentials{Address: here})
	}
	if _, sums := o.sumUp(); len(sums) != 2 || attempts(t, sums) != 5+15 {
		t.Errorf("%d sums of %d attempts: %+v", len(sums), attempts(t, sums), sums)
	}
	if !strings.Contains(o.said.String(), "counted on") {
		t.Error("nobody is told")
	}
}
