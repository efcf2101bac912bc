package vault_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vault"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

func remount(t *testing.T, s *vaultserver.Server, from, to string) {
	t.Helper()
	if err := s.Client(t).Sys().RemountWithContext(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
}

// everything does to ref what a driver can do, all of it about a version that is
// not current.
func everything(t *testing.T, d *vault.Driver, first, second backends.VersionID) map[string]error {
	t.Helper()
	_, _, readErr := d.Read(t.Context(), ref, first)
	_, describeErr := d.Describe(t.Context(), ref)
	_, publishErr := d.Publish(t.Context(), ref, write(3, second))
	_, _, listErr := d.List(t.Context(), ref.Tenant, "", 10)
	return map[string]error{
		"reading": readErr, "describing": describeErr, "publishing": publishErr, "listing": listErr,
		"retiring": d.Retire(t.Context(), ref, first), "destroying": d.Destroy(t.Context(), ref, first),
	}
}

func wantClasses(t *testing.T, got map[string]error, class error) {
	t.Helper()
	for what, err := range got {
		if !errors.Is(backends.Class(err), class) {
			t.Errorf("%s: %v, want %v", what, err, class)
		}
		if strings.Contains(fmt.Sprint(err), backendtest.Canary) {
			t.Errorf("%s: the error gives a value away", what)
		}
	}
}

// A mount that was moved looks from outside as if it had never held anything. Who
// believed it would call a version destroyed that is served again later.
func TestMountThatIsAway(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	away := mount + "-away"
	roleID, secretID := s.AppRole(t, vaultserver.AppRole{Policy: fmt.Sprintf(`path "%s/*" { capabilities = ["create", "read", "update", "list"] }`, mount)})
	cfg := config(s.Addr, "", mount)
	cfg.Conn.Auth = []vaultconn.Auth{{Method: "approle", RoleID: backends.SecretString(roleID), SecretID: backends.SecretString(secretID)}}
	for name, d := range map[string]*vault.Driver{
		"all rights":  open(t, config(s.Addr, s.RootToken, mount)),
		"some rights": open(t, cfg),
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.Client(t).KVv2(mount).DeleteMetadata(t.Context(), path); err != nil {
				t.Fatal(err)
			}
			first := publish(t, d, 1, "")
			second := publish(t, d, 2, first)
			remount(t, s, mount, away)
			wantClasses(t, everything(t, d, first, second), backends.ErrUnavailable)
			fresh := open(t, cfg) // has never seen the mount
			wantClasses(t, everything(t, fresh, first, second), backends.ErrUnavailable)
			remount(t, s, away, mount)
			if _, _, err := d.Read(t.Context(), ref, first); err != nil {
				t.Errorf("reading it back: %v", err)
			}
			if err := d.Destroy(t.Context(), ref, first); err != nil {
				t.Fatal(err)
			}
			if _, _, err := d.Read(t.Context(), ref, first); !errors.Is(err, backends.ErrNotFound) {
				t.Errorf("reading what was destroyed: %v", err)
			}
		})
	}
}

// What else may stand where the mount was has not got the secret either.
func TestAnotherEngineAtTheMount(t *testing.T) {
	s := vaultserver.Shared(t)
	for _, engine := range []string{"kv", "transit"} {
		mount := s.KV(t)
		d := open(t, config(s.Addr, s.RootToken, mount))
		first := publish(t, d, 1, "")
		second := publish(t, d, 2, first)
		remount(t, s, mount, mount+"-away")
		if err := s.Client(t).Sys().MountWithContext(t.Context(), mount, &api.MountInput{Type: engine}); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"retiring": d.Retire(t.Context(), ref, first), "destroying": d.Destroy(t.Context(), ref, first),
		} {
			if err == nil || errors.Is(err, backends.ErrNotFound) {
				t.Errorf("%s in an engine of type %s: %v", what, engine, err)
			}
		}
		fresh := open(t, config(s.Addr, s.RootToken, mount))
		for what, err := range everything(t, fresh, first, second) {
			if err == nil || errors.Is(err, backends.ErrNotFound) {
				t.Errorf("%s for the first time in an engine of type %s: %v", what, engine, err)
			}
		}
	}
}

func TestVersion1ThatIsAway(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KVv1(t)
	cfg := config(s.Addr, s.RootToken, mount)
	cfg.KVVersion = 1
	d := open(t, cfg)
	if _, _, err := d.Read(t.Context(), ref, ""); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("reading nothing: %v", err)
	}
	remount(t, s, mount, mount+"-away")
	_, _, readErr := d.Read(t.Context(), ref, "")
	_, describeErr := d.Describe(t.Context(), ref)
	_, _, listErr := d.List(t.Context(), ref.Tenant, "", 10)
	wantClasses(t, map[string]error{"reading": readErr, "describing": describeErr, "listing": listErr}, backends.ErrUnavailable)
}

// What this vault never gave is gone already.
func TestEndOfAVersionThatIsNone(t *testing.T) {
	s := vaultserver.Shared(t)
	d := open(t, config(s.Addr, s.RootToken, s.KV(t)))
	publish(t, d, 1, "")
	for _, id := range []backends.VersionID{"", "0", "-1", "01", "one", "a3f1c9d2-0000-4000-8000-1b2c3d4e5f60", "7"} {
		if err := errors.Join(d.Retire(t.Context(), ref, id), d.Destroy(t.Context(), ref, id)); err != nil {
			t.Errorf("version %q: %v", id, err)
		}
	}
	if _, id, err := d.Read(t.Context(), ref, ""); err != nil || id != "1" {
		t.Errorf("current is %q, %v", id, err)
	}
}

// The server could not be asked whether the conflict is one, so it may be none.
func TestConflictThatCannotBeLookedInto(t *testing.T) {
	s := vaultserver.Shared(t)
	mount, p := s.KV(t), faultproxy.New(t, s.Addr)
	d := open(t, config(p.URL, s.RootToken, mount))
	publish(t, d, 1, "")
	if err := s.Client(t).KVv2(mount).Delete(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	p.Set(faultproxy.Rule{Fault: faultproxy.Status(http.StatusServiceUnavailable), Times: 1, Match: func(r *http.Request) bool {
		return strings.Contains(r.URL.Path, "/metadata/")
	}})
	if _, err := d.Publish(t.Context(), ref, write(2, "")); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("published with %v", err)
	}
	if _, err := d.Publish(t.Context(), ref, write(2, "")); err != nil {
		t.Errorf("published again with %v", err)
	}
}
