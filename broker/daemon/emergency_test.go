package daemon_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// works tells whether a key is accepted.
func (n *node) works(t *testing.T, key string) bool {
	t.Helper()
	c, err := n.CheckKey(t.Context(), client.SecretText(key))
	if err != nil {
		t.Fatal(err)
	}
	return c.Active
}

// emergency declares one for app/key.
func (n *node) emergency(t *testing.T, r client.EmergencyRequest) client.Rotation {
	t.Helper()
	r.Reason = "leaked"
	e, err := n.Emergency(t.Context(), "app/key", r)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// inState waits until a rotation is in a state.
func (n *node) inState(t *testing.T, id, state string) {
	t.Helper()
	eventually(t, state, func() bool {
		now, err := n.Rotation(t.Context(), id)
		return err == nil && now.State == state
	})
}

// The replacement that an emergency is making is compromised too: there must be
// another one.
func TestNamingAnEmergencysReplacementMakesAnother(t *testing.T) {
	t.Parallel()
	_, n, unsure := startGated(t)
	n.rotate(t, "app/key")
	unsure.Store(1_000_000)
	first := n.emergency(t, client.EmergencyRequest{Contain: client.RevokeFirst})
	n.inState(t, first.ID, "verifying")
	another := n.emergency(t, client.EmergencyRequest{Versions: []int{2}})
	if another.ID == first.ID {
		t.Error("the replacement was named, and is taken for clean")
	}
	unsure.Store(0)
	eventually(t, "a value that works", func() bool {
		v, err := n.Value(t.Context(), "app/key", 0)
		return err == nil && v.Version == 3 && n.works(t, v.Fields["key"])
	})
}

// An emergency for more versions than the one under way does not cut the current
// version off before the replacement is there.
func TestAWiderEmergencyKeepsTheTimeForAReplacement(t *testing.T) {
	t.Parallel()
	_, n, unsure := startGated(t)
	n.rotate(t, "app/key")
	n.begin(t, "app/key", "overlap")
	current := n.value(t, "app/key").Fields["key"]
	unsure.Store(1_000_000)
	narrow := n.emergency(t, client.EmergencyRequest{Versions: []int{2}}) // replace first, within 60 s
	n.inState(t, narrow.ID, "verifying")
	wide := n.emergency(t, client.EmergencyRequest{})
	if wide.ID != narrow.ID || len(wide.Compromised) != 2 {
		t.Errorf("the wider one is %s with %v, not %s widened", wide.ID, wide.Compromised, narrow.ID)
	}
	for _, r := range n.retirementsOf(t, "app/key") {
		if r.Version == 2 && r.NextAt.Before(time.Now().Add(30*time.Second)) {
			t.Errorf("version 2 is to be revoked at %s, before there can be a replacement", r.NextAt)
		}
	}
	if !n.works(t, current) {
		t.Error("the current key was revoked at once")
	}
	unsure.Store(0)
	if rot, _ := n.follow(t, wide.ID); rot.State != client.RotationDone || rot.ToVersion != 3 {
		t.Errorf("%s with version %d", rot.State, rot.ToVersion)
	}
}

// A scanner repeats itself: that does not kill the fresh replacement.
func TestDeclaringAgainAfterTheEndIsTheSameEmergency(t *testing.T) {
	t.Parallel()
	n := newSite(t, withConsumer(embedded, nil)).start()
	n.rotate(t, "app/key")
	first := n.emergency(t, client.EmergencyRequest{})
	n.follow(t, first.ID)
	if again := n.emergency(t, client.EmergencyRequest{}); again.ID != first.ID {
		t.Errorf("the replacement, some seconds old, is taken for compromised by %s", again.ID)
	}
}

// Revoking a version whose retirement waits for the end of an overlap revokes it now.
func TestRevokingWhatIsToBeRevokedLater(t *testing.T) {
	t.Parallel()
	s := newSite(t, strings.Replace(withConsumer(embedded, nil), `overlap = "2s"`, `overlap = "10m"`, 1))
	n := s.start()
	n.rotate(t, "app/key")
	key := n.value(t, "app/key").Fields["key"]
	n.begin(t, "app/key", "overlap")
	n.emergency(t, client.EmergencyRequest{Versions: []int{2}, Contain: client.RevokeFirst})
	if _, err := n.Revoke(t.Context(), "app/key", client.RevokeRequest{Version: 1, Reason: "now"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the key's end", func() bool { return !n.works(t, key) })
}

// Who declares again with revoke_first does not want to wait.
func TestRevokeFirstHastensAnEmergencyUnderWay(t *testing.T) {
	t.Parallel()
	_, n, unsure := startGated(t)
	n.rotate(t, "app/key")
	unsure.Store(1_000_000)
	e := n.emergency(t, client.EmergencyRequest{})
	n.inState(t, e.ID, "verifying")
	n.emergency(t, client.EmergencyRequest{Contain: client.RevokeFirst})
	for _, r := range n.retirementsOf(t, "app/key") {
		if r.Version == 1 && r.NextAt.After(time.Now().Add(10*time.Second)) {
			t.Errorf("version 1 is to be revoked at %s", r.NextAt)
		}
	}
	unsure.Store(0)
}

func (n *node) retirementsOf(t *testing.T, secret string) []client.Retirement {
	t.Helper()
	list, err := n.Retirements(t.Context(), client.RetirementQuery{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// A write whose answer was lost brought a version into the vault that an emergency
// has had revoked since: it is still ours, and is replaced.
func TestAVaultThatHoldsADeadVersionOfOurs(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	to, err := url.Parse(s.vault.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var lose, down atomic.Bool
	lossy := httputil.NewSingleHostReverseProxy(to)
	lossy.ModifyResponse = func(resp *http.Response) error {
		if isWrite(resp.Request) && lose.Load() {
			down.Store(true)
			return io.ErrUnexpectedEOF
		}
		return nil
	}
	lossy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		lossy.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	s.hcl = strings.ReplaceAll(s.hcl, s.vault.Addr, proxy.URL)
	n := s.start()
	n.rotate(t, "mail/sender")
	lose.Store(true)
	r, err := n.Rotate(t.Context(), "mail/sender", client.RotateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lost write", func() bool {
		now, err := n.Rotation(t.Context(), r.ID)
		return err == nil && now.State == "publishing" && down.Load()
	})
	e, err := n.Emergency(t.Context(), "mail/sender", client.EmergencyRequest{Reason: "leaked", Versions: []int{1}, Contain: client.RevokeFirst})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "death of version 2", func() bool {
		list, err := n.Retirements(t.Context(), client.RetirementQuery{Secret: "mail/sender"})
		for _, x := range list.Items {
			if x.Version == 2 && x.State == client.ProvenDead {
				return err == nil
			}
		}
		return false
	})
	lose.Store(false)
	down.Store(false)
	rot, _ := n.follow(t, e.ID)
	if rot.State != client.RotationDone {
		t.Errorf("the emergency: %s: %s", rot.State, rot.Error)
		again, _ := n.rotate(t, "mail/sender")
		t.Errorf("the next rotation: %s: %s", again.State, again.Error)
	}
}

// The block of a secret lost its issuer: what that issuer made is contained all the same.
func TestContainmentOutlivesTheIssuersName(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.rotate(t, "app/key")
	key := n.value(t, "app/key").Fields["key"]
	n.stop()
	s.hcl = strings.Replace(s.hcl, "  issuer \"internal\" {}\n", "", 1)
	n = s.start()
	n.emergency(t, client.EmergencyRequest{})
	eventually(t, "containment", func() bool {
		of := n.retirementsOf(t, "app/key")
		return len(of) == 1 && !of[0].ContainedAt.IsZero()
	})
	if n.works(t, key) {
		t.Error("contained, and the key works")
	}
}
