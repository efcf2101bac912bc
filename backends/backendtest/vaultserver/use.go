package vaultserver

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/vault/api"
)

type counter struct{ n atomic.Int64 }

// name returns a name that this server has not used for anything.
func (c *counter) name(kind string) string { return fmt.Sprintf("%s-%d", kind, c.n.Add(1)) }

// Client returns Vault's own client with the root token. Nothing in it comes
// from the environment.
func (s *Server) Client(t testing.TB) *api.Client {
	t.Helper()
	client, err := newClient(s.Addr)
	if err != nil {
		t.Fatalf("making a Vault client: %v", err)
	}
	client.SetToken(s.RootToken)
	return client
}

func newClient(address string) (*api.Client, error) {
	client, err := api.NewClient(&api.Config{
		Address:    address,
		HttpClient: &http.Client{Transport: cleanhttp.DefaultTransport()}, // no idle connections left to a leak test
		Timeout:    time.Minute,
	})
	if err != nil {
		return nil, err
	}
	// What NewClient took from the VAULT_* variables after all.
	client.ClearToken()
	client.ClearNamespace()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	return client, nil
}

// KV mounts a fresh KV v2 engine and returns its path, such as "kv-1". It is
// unmounted when the test ends.
func (s *Server) KV(t testing.TB) string {
	t.Helper()
	client, path := s.Client(t), s.names.name("kv")
	if err := mountKV(t.Context(), client, path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Fails if the test has sealed or stopped the server, which is fine.
		_ = client.Sys().UnmountWithContext(context.Background(), path)
	})
	return path
}

// KVv1 is KV for version 1 of the engine.
func (s *Server) KVv1(t testing.TB) string {
	t.Helper()
	return s.mount(t, "kv", "kv1")
}

// Transit mounts a fresh transit engine and returns its path, such as
// "transit-1". It holds no key yet, and is unmounted when the test ends.
func (s *Server) Transit(t testing.TB) (mount string) {
	t.Helper()
	return s.mount(t, "transit", "transit")
}

// mount mounts an engine that needs no settings and no waiting.
func (s *Server) mount(t testing.TB, engine, kind string) string {
	t.Helper()
	client, path := s.Client(t), s.names.name(kind)
	if err := client.Sys().MountWithContext(t.Context(), path, &api.MountInput{Type: engine}); err != nil {
		t.Fatalf("mounting %s: %v", engine, err)
	}
	t.Cleanup(func() { _ = client.Sys().UnmountWithContext(context.Background(), path) }) // as with KV
	return path
}

// Database mounts a fresh database engine, such as "database-1", for a PostgreSQL at
// address ("127.0.0.1:5432") where Vault logs in with username and password. Its
// connection is named "db". It is unmounted when the test ends, and what it leased
// revoked by that.
func (s *Server) Database(t testing.TB, address, database, username, password string) (mount string) {
	t.Helper()
	mount = s.mount(t, "database", "database")
	s.Write(t, mount+"/config/db", map[string]any{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "*",
		"connection_url": "postgresql://{{username}}:{{password}}@" + address + "/" + database + "?sslmode=disable",
		"username":       username, "password": password,
	})
	return mount
}

// Write writes to any path as root.
func (s *Server) Write(t testing.TB, path string, body map[string]any) *api.Secret {
	t.Helper()
	answer, err := s.Client(t).Logical().WriteWithContext(context.Background(), path, body)
	if err != nil {
		t.Fatalf("writing to %s: %v", path, err)
	}
	return answer
}

// AppRole describes a role that may log in.
type AppRole struct {
	Policy      string        // rules in HCL; the role also has Vault's "default" policy
	TokenTTL    time.Duration // 0: the server's default, weeks
	TokenMaxTTL time.Duration // 0: likewise; otherwise renewals end there
	TokenType   string        // "service", or "batch"; "": service
}

// Everything is a Policy for an AppRole that may do all.
const Everything = `path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }`

// AppRole creates a role with a policy of its own and returns what logs in at
// auth/approle/login.
func (s *Server) AppRole(t testing.TB, role AppRole) (roleID, secretID string) {
	t.Helper()
	ctx, client, name := t.Context(), s.Client(t), s.names.name("role")
	if err := client.Sys().PutPolicyWithContext(ctx, name, role.Policy); err != nil {
		t.Fatalf("writing the policy of an AppRole: %v", err)
	}
	path := "auth/approle/role/" + name
	_, err := client.Logical().WriteWithContext(ctx, path, map[string]any{
		"token_policies": []string{name},
		"token_ttl":      role.TokenTTL.String(),
		"token_max_ttl":  role.TokenMaxTTL.String(),
		"token_type":     cmp.Or(role.TokenType, "service"),
	})
	if err != nil {
		t.Fatalf("creating an AppRole: %v", err)
	}
	id, err := client.Logical().ReadWithContext(ctx, path+"/role-id")
	if err != nil {
		t.Fatalf("reading a role id: %v", err)
	}
	secret, err := client.Logical().WriteWithContext(ctx, path+"/secret-id", nil)
	if err != nil {
		t.Fatalf("creating a secret id: %v", err)
	}
	return id.Data["role_id"].(string), secret.Data["secret_id"].(string)
}

// Seal seals the server: until Unseal every call is answered 503.
func (s *Server) Seal(t testing.TB) {
	t.Helper()
	if err := s.Client(t).Sys().SealWithContext(t.Context()); err != nil {
		t.Fatalf("sealing: %v", err)
	}
}

// Unseal ends what Seal began.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	if err := s.unseal(t.Context()); err != nil {
		t.Fatal(err)
	}
}
