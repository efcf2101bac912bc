package vault_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

// keeps is KV v2's max_versions where nobody set one.
const keeps = 10

func TestDriver(t *testing.T) {
	s := vaultserver.Shared(t)
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		mount, p := s.KV(t), faultproxy.New(t, s.Addr)
		h := harness(t, s, p, mount)
		h.Driver = open(t, config(p.URL, s.RootToken, mount))
		return h
	})
}

// The same by logins that last two seconds and cannot be renewed beyond.
func TestDriverWithShortLogins(t *testing.T) {
	s := vaultserver.Shared(t)
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		seen := newTokens(t, s)
		mount, p := s.KV(t), faultproxy.New(t, seen.URL)
		h := harness(t, s, p, mount)
		roleID, secretID := s.AppRole(t, vaultserver.AppRole{
			Policy: vaultserver.Everything, TokenTTL: 2 * time.Second, TokenMaxTTL: 2 * time.Second,
		})
		cfg := config(p.URL, "", mount)
		cfg.Conn.Auth = []vaultconn.Auth{{
			Method: "approle", RoleID: backends.SecretString(roleID), SecretID: backends.SecretString(secretID),
		}}
		h.Driver = open(t, cfg)
		h.Revoke = func() { seen.revoke(t, s) }
		h.Expire = func() { seen.awaitEnd(t, s) }
		return h
	})
}

func TestVersion1(t *testing.T) {
	s := vaultserver.Shared(t)
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		mount, p := s.KVv1(t), faultproxy.New(t, s.Addr)
		cfg := config(p.URL, s.RootToken, mount)
		cfg.KVVersion = 1
		return backendtest.Harness{
			Driver: open(t, cfg),
			Proxy:  p,
			Seed: func(ref backends.Ref, v backends.Value) {
				if err := s.Client(t).KVv1(mount).Put(t.Context(), "keybroker/"+ref.Name, data(v)); err != nil {
					t.Fatal(err)
				}
			},
			Stranger: func() backends.Driver {
				cfg := cfg
				cfg.Conn.Auth = []vaultconn.Auth{{Method: "token", Token: "hvs.unknown"}}
				return open(t, cfg)
			},
		}
	})
}

// harness lacks a driver.
func harness(t *testing.T, s *vaultserver.Server, p *faultproxy.Proxy, mount string) backendtest.Harness {
	t.Helper()
	kv := s.Client(t).KVv2(mount)
	return backendtest.Harness{
		Proxy: p,
		Seed: func(ref backends.Ref, v backends.Value) {
			if _, err := kv.Put(t.Context(), "keybroker/"+ref.Name, data(v)); err != nil {
				t.Fatal(err)
			}
		},
		Fill: func(names []string) { fill(t, kv, names) },
		Delete: func(ref backends.Ref) {
			if err := kv.DeleteMetadata(t.Context(), "keybroker/"+ref.Name); err != nil {
				t.Fatal(err)
			}
		},
		Stranger: func() backends.Driver { return open(t, config(p.URL, "hvs.unknown", mount)) },
		Sized: func(n int) backends.Value {
			text := backendtest.Canary
			text += strings.Repeat("x", n-len(`{"large":""}`)-len(text))
			return backends.NewValue(map[string]string{"large": text})
		},
		Keeps: keeps,
		Notes: true,
	}
}

func data(v backends.Value) map[string]any {
	fields := map[string]any{}
	for name, text := range v.Reveal() {
		fields[name] = text
	}
	return fields
}

// fill writes past the driver, eight at a time.
func fill(t *testing.T, kv *api.KVv2, names []string) {
	t.Helper()
	var wg sync.WaitGroup
	var taken atomic.Int64
	for range 8 {
		wg.Go(func() {
			for i := taken.Add(1) - 1; int(i) < len(names); i = taken.Add(1) - 1 {
				if _, err := kv.Put(t.Context(), "keybroker/"+names[i], map[string]any{"a": "b"}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// tokens stands before a server and notes what its clients are logged in with.
type tokens struct {
	*httptest.Server
	last atomic.Value
}

func newTokens(t *testing.T, s *vaultserver.Server) *tokens {
	t.Helper()
	target, err := url.Parse(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = transport
	proxy.ErrorLog = hclog.NewNullLogger().StandardLogger(nil)
	seen := &tokens{}
	seen.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token := r.Header.Get(api.AuthHeaderName); token != "" {
			seen.last.Store(token)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		seen.Close()
		transport.CloseIdleConnections()
	})
	return seen
}

func (seen *tokens) revoke(t *testing.T, s *vaultserver.Server) {
	t.Helper()
	if err := s.Client(t).Auth().Token().RevokeTreeWithContext(t.Context(), seen.last.Load().(string)); err != nil {
		t.Fatal(err)
	}
}

// awaitEnd waits until the server knows the last token no more.
func (seen *tokens) awaitEnd(t *testing.T, s *vaultserver.Server) {
	t.Helper()
	auth, token := s.Client(t).Auth().Token(), seen.last.Load().(string)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := auth.LookupWithContext(t.Context(), token); err != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the login does not expire")
		}
	}
}
