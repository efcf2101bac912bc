package vaultserver_test

import (
	"net/http"
	"os/exec"
	"testing"

	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
)

func TestServerKeepsKeyValuesAndLogsRolesIn(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	client := s.Client(t)
	if _, err := client.KVv2(mount).Put(t.Context(), "a/b", map[string]any{"key": "v"}); err != nil {
		t.Fatal(err)
	}

	roleID, secretID := s.AppRole(t, vaultserver.AppRole{
		Policy: `path "` + mount + `/data/a/*" { capabilities = ["read"] }`,
	})
	login, err := client.Logical().WriteWithContext(t.Context(), "auth/approle/login",
		map[string]any{"role_id": roleID, "secret_id": secretID})
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(login.Auth.ClientToken)
	got, err := client.KVv2(mount).Get(t.Context(), "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if got.Data["key"] != "v" {
		t.Errorf("read another value than was written")
	}
	if _, err := client.KVv2(mount).Put(t.Context(), "a/b", map[string]any{"key": "w"}); err == nil {
		t.Error("the role wrote where its policy only reads")
	}
}

func TestServerSealsUnsealsAndStops(t *testing.T) {
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1") // the test's client must not care
	t.Setenv("VAULT_NAMESPACE", "elsewhere")
	s := vaultserver.Start(t)
	client := s.Client(t)
	read := func() error {
		_, err := client.Logical().ReadWithContext(t.Context(), "secret/config")
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	s.Seal(t)
	if err := read(); err == nil {
		t.Error("a sealed server answered")
	}
	s.Unseal(t)
	if err := read(); err != nil {
		t.Errorf("after unsealing: %v", err)
	}
	s.Stop()
	s.Stop()
	if resp, err := http.Get(s.Addr + "/v1/sys/health"); err == nil {
		_ = resp.Body.Close()
		t.Error("a stopped server answered")
	}
}

func TestDurableServerIsKilledAndKeepsItsData(t *testing.T) {
	s := vaultserver.StartDurable(t)
	client, address := s.Client(t), s.Addr
	for n := range 3 {
		if _, err := client.KVv2("secret").Put(t.Context(), "a", map[string]any{"n": n}); err != nil {
			t.Fatal(err)
		}
		s.Kill(t)
		if _, err := client.KVv2("secret").Get(t.Context(), "a"); err == nil {
			t.Error("a killed server answered")
		}
		s.Restart(t)
		got, err := client.KVv2("secret").Get(t.Context(), "a")
		if err != nil {
			t.Fatalf("after restart %d: %v", n, err)
		}
		if got.VersionMetadata.Version != n+1 || s.Addr != address {
			t.Errorf("after restart %d there is version %d at %s", n, got.VersionMetadata.Version, s.Addr)
		}
	}
}

func TestStandbyRedirectsToTheActiveNode(t *testing.T) {
	s, standby := vaultserver.StartPair(t)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(standby + "/v1/secret/data/a")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if at := resp.Header.Get("Location"); resp.StatusCode != http.StatusTemporaryRedirect || at != s.Addr+"/v1/secret/data/a" {
		t.Errorf("the standby answered %d, %q", resp.StatusCode, at)
	}
}

func TestTransitEncrypts(t *testing.T) {
	s := vaultserver.Shared(t)
	mount, logical := s.Transit(t), s.Client(t).Logical()
	if _, err := logical.WriteWithContext(t.Context(), mount+"/keys/k", nil); err != nil {
		t.Fatal(err)
	}
	sealed, err := logical.WriteWithContext(t.Context(), mount+"/encrypt/k", map[string]any{"plaintext": "YQ=="})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := logical.WriteWithContext(t.Context(), mount+"/decrypt/k", map[string]any{"ciphertext": sealed.Data["ciphertext"]})
	if err != nil || opened.Data["plaintext"] != "YQ==" {
		t.Errorf("decrypted as %v, %v", opened, err)
	}
}

// A test process that is killed closes its end of the pipe and nothing else.
func TestServerProcessEndsWithItsStandardInput(t *testing.T) {
	binary, err := vaultserver.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v, want a clean exit", err)
	}
}
