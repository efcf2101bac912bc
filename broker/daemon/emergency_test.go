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
	e1 := n.emergency(t, client.EmergencyRequest{Contain: client.RevokeFirst})
	n.inState(t, e1.ID, "verifying")
	e2 := n.emergency(t, client.EmergencyRequest{Versions: []int{2}})
	unsure.Store(0)
	t.Logf("e2: %s from %d", e2.State, e2.FromVersion)
	for range 100 {
		if v, err := n.Value(t.Context(), "app/key", 0); err == nil && n.works(t, v.Fields["key"]) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	rs, _ := n.Rotations(t.Context(), client.RotationQuery{Secret: "app/key", Live: true})
	t.Fatalf("no working value after 10 s; live rotations: %+v", rs.Items)
}

// An emergency for more versions than the one under way does not cut the current
// version off before the replacement is there.
func TestAWiderEmergencyKeepsTheTimeForAReplacement(t *testing.T) {
	t.Parallel()
	_, n, unsure := startGated(t)
	n.rotate(t, "app/key")
	key := n.value(t, "app/key").Fields["key"]
	n.begin(t, "app/key", "overlap")
	key2 := n.value(t, "app/key").Fields["key"]
	_ = key
	unsure.Store(1_000_000)
	e1 := n.emergency(t, client.EmergencyRequest{Versions: []int{2}}) // replace first, 60 s
	n.inState(t, e1.ID, "verifying")
	e2 := n.emergency(t, client.EmergencyRequest{})
	if e2.ID == e1.ID {
		t.Log("same")
	}
	time.Sleep(3 * time.Second)
	if !n.works(t, key2) {
		t.Error("the current key was revoked at once, though replace_within is 60 s and there is no replacement")
	}
	unsure.Store(0)
	rot, _ := n.follow(t, e2.ID)
	t.Logf("%s: the replacement is version %d (3 was almost there)", rot.State, rot.ToVersion)
}

// A scanner repeats itself: that does not kill the fresh replacement.
func TestDeclaringAgainAfterTheEndIsTheSameEmergency(t *testing.T) {
	t.Parallel()
	n := newSite(t, withConsumer(embedded, nil)).start()
	n.rotate(t, "app/key")
	e1 := n.emergency(t, client.EmergencyRequest{})
	n.follow(t, e1.ID)
	e2, err := n.Emergency(t.Context(), "app/key", client.EmergencyRequest{Reason: "leaked"})
	t.Logf("%v %v", e2.ID, err)
	if err == nil && e2.ID != e1.ID {
		rot, _ := n.follow(t, e2.ID)
		t.Errorf("the replacement, some seconds old, was taken for compromised: %s, version %d", rot.State, rot.ToVersion)
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
	time.Sleep(5 * time.Second)
	if n.works(t, key) {
		t.Error("revoked by its owner, with success; the key works on, until the overlap of a rotation that is over")
	}
}

// Who declares again with revoke_first does not want to wait.
func TestRevokeFirstHastensAnEmergencyUnderWay(t *testing.T) {
	t.Parallel()
	_, n, unsure := startGated(t)
	n.rotate(t, "app/key")
	key := n.value(t, "app/key").Fields["key"]
	unsure.Store(1_000_000)
	e1 := n.emergency(t, client.EmergencyRequest{})
	n.inState(t, e1.ID, "verifying")
	n.emergency(t, client.EmergencyRequest{Contain: client.RevokeFirst})
	time.Sleep(4 * time.Second)
	if n.works(t, key) {
		t.Error("revoke_first was answered with success and ignored")
	}
	unsure.Store(0)
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
