package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vault"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

var ref = backends.Ref{Tenant: backends.DefaultTenant, Name: "payments/stripe"}

func config(address, token, mount string) vault.Config {
	return vault.Config{
		Mount:      mount,
		PathPrefix: "keybroker/",
		Conn: vaultconn.Config{
			Address: address,
			Auth:    []vaultconn.Auth{{Method: "token", Token: backends.SecretString(token)}},
		},
	}
}

func open(t *testing.T, cfg vault.Config) *vault.Driver {
	t.Helper()
	var log bytes.Buffer
	d, err := vault.Open(t.Context(), cfg, hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Trace}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		if strings.Contains(log.String(), backendtest.Canary) {
			t.Error("the log gives a value away")
		}
	})
	return d
}

func write(n int, expect backends.VersionID) backends.Write {
	return backends.Write{
		Value:      backends.NewValue(map[string]string{"key": fmt.Sprintf("%s-%d", backendtest.Canary, n)}),
		Expect:     expect,
		Version:    n,
		Generation: int64(10 * n),
	}
}

func publish(t *testing.T, d backends.Driver, n int, expect backends.VersionID) backends.VersionID {
	t.Helper()
	id, err := d.Publish(t.Context(), ref, write(n, expect))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Applications that talk to Vault directly see what the broker publishes.
func TestVaultsOwnClientReadsWhatWasPublished(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	publish(t, open(t, config(s.Addr, s.RootToken, mount)), 3, "")
	got, err := s.Client(t).KVv2(mount).Get(t.Context(), "keybroker/payments/stripe")
	if err != nil {
		t.Fatal(err)
	}
	if got.Data["key"] != backendtest.Canary+"-3" {
		t.Error("another value than was published")
	}
	for key, want := range map[string]string{
		"keybroker_vault_version": "1", "keybroker_version": "3", "keybroker_generation": "30",
	} {
		if got.CustomMetadata[key] != want {
			t.Errorf("custom metadata %s is %q, want %q", key, got.CustomMetadata[key], want)
		}
	}
}

func TestCustomMetadataOfOthersIsKept(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	d := open(t, config(s.Addr, s.RootToken, mount))
	first := publish(t, d, 1, "")
	kv := s.Client(t).KVv2(mount)
	err := kv.PatchMetadata(t.Context(), "keybroker/payments/stripe", api.KVMetadataPatchInput{
		CustomMetadata: map[string]any{"owner": "growth"},
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, d, 2, first)
	meta, err := kv.GetMetadata(t.Context(), "keybroker/payments/stripe")
	if err != nil {
		t.Fatal(err)
	}
	if meta.CustomMetadata["owner"] != "growth" || meta.CustomMetadata["keybroker_version"] != "2" {
		t.Errorf("custom metadata is %v", meta.CustomMetadata)
	}
}

func TestPublishingNeedsNoRightToCustomMetadata(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	roleID, secretID := s.AppRole(t, vaultserver.AppRole{Policy: fmt.Sprintf(`
path "%[1]s/data/keybroker/*"     { capabilities = ["create", "update", "read"] }
path "%[1]s/metadata/keybroker/*" { capabilities = ["read", "list"] }
path "%[1]s/destroy/keybroker/*"  { capabilities = ["update"] }`, mount)})
	cfg := config(s.Addr, "", mount)
	cfg.Conn.Auth = []vaultconn.Auth{{
		Method: "approle", RoleID: backends.SecretString(roleID), SecretID: backends.SecretString(secretID),
	}}
	d := open(t, cfg)
	if err := d.Check(t.Context()); err != nil {
		t.Errorf("checking with the rights that are needed: %v", err)
	}
	first := publish(t, d, 1, "")
	publish(t, d, 2, first)
	if err := d.Destroy(t.Context(), ref, first); err != nil {
		t.Error(err)
	}
	if names, _, err := d.List(t.Context(), ref.Tenant, "", 10); err != nil || len(names) != 1 {
		t.Errorf("listed %q, %v", names, err)
	}
	_, err := d.Publish(t.Context(), backends.Ref{Tenant: ref.Tenant, Name: ref.Name}, write(3, first))
	if !errors.Is(err, backends.ErrConflict) {
		t.Errorf("publishing over an old version: %v", err)
	}
}

func TestDeletedElsewhere(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	d := open(t, config(s.Addr, s.RootToken, mount))
	first := publish(t, d, 1, "")
	second := publish(t, d, 2, first)
	kv := s.Client(t).KVv2(mount)
	if err := kv.Delete(t.Context(), "keybroker/payments/stripe"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Read(t.Context(), ref, ""); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("reading what was deleted: %v", err)
	}
	desc, err := d.Describe(t.Context(), ref)
	if err != nil || desc.Current != "" || !desc.Versions[1].Gone || desc.Versions[0].Gone {
		t.Errorf("described as %+v, %v", desc, err)
	}
	// Deleted can be undone; destroyed cannot.
	if err := d.Destroy(t.Context(), ref, second); err != nil {
		t.Fatal(err)
	}
	if err := kv.Undelete(t.Context(), "keybroker/payments/stripe", []int{2}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Read(t.Context(), ref, second); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("reading what was deleted, destroyed and undeleted: %v", err)
	}
	// Nothing is current, so that is what a publisher expects.
	third := publish(t, d, 3, "")
	if _, id, err := d.Read(t.Context(), ref, ""); err != nil || id != third {
		t.Errorf("read %s, %v, want %s", id, err, third)
	}
	if _, err := d.Publish(t.Context(), ref, write(4, "")); !errors.Is(err, backends.ErrConflict) {
		t.Errorf("publishing where something is current again: %v", err)
	}
}

func TestFieldsThatAreNoStringsAreGivenAsJSON(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	_, err := s.Client(t).KVv2(mount).Put(t.Context(), "keybroker/payments/stripe", map[string]any{
		"port": 5432, "big": 123456789012345, "on": true, "none": nil, "list": []string{"a"}, "text": "5432",
	})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := open(t, config(s.Addr, s.RootToken, mount)).Read(t.Context(), ref, "")
	if err != nil {
		t.Fatal(err)
	}
	want := backends.NewValue(map[string]string{
		"port": "5432", "big": "123456789012345", "on": "true", "none": "null", "list": `["a"]`, "text": "5432",
	})
	if !got.Equal(want) {
		t.Errorf("read %v", got.Reveal()) // made up above
	}
}

func TestListLeavesForeignNamesOut(t *testing.T) {
	s := vaultserver.Shared(t)
	mount := s.KV(t)
	kv := s.Client(t).KVv2(mount)
	for _, path := range []string{"outside", "keybroker/with space", "keybroker/ok", "keybroker/-dash", "keybroker/sys/x"} {
		if _, err := kv.Put(t.Context(), path, map[string]any{"a": "b"}); err != nil {
			t.Fatal(err)
		}
	}
	names, next, err := open(t, config(s.Addr, s.RootToken, mount)).List(t.Context(), ref.Tenant, "", 10)
	if err != nil || next != "" || len(names) != 1 || names[0] != "ok" {
		t.Errorf("listed %q, %q, %v", names, next, err)
	}
}

func TestCheckTellsWhatIsWrong(t *testing.T) {
	s := vaultserver.Start(t)
	old, transit := s.KVv1(t), s.Transit(t)
	check := func(token, mount string, version int) error {
		cfg := config(s.Addr, token, mount)
		cfg.KVVersion = version
		return open(t, cfg).Check(t.Context())
	}
	for name, tt := range map[string]struct {
		err, class error
		says       string
	}{
		"version 1":     {check(s.RootToken, old, 0), backends.ErrInvalid, "of version 1, not 2 (see kv_version)"},
		"not version 1": {check(s.RootToken, "secret", 1), backends.ErrInvalid, "of version 2, not 1"},
		"no KV":         {check(s.RootToken, transit, 2), backends.ErrInvalid, `of type "transit", not kv`},
		"no mount":      {check(s.RootToken, "none", 0), backends.ErrDenied, ""}, // Vault does not say which of the two
		"wrong token":   {check("hvs."+backendtest.Canary, "secret", 0), backends.ErrDenied, ""},
	} {
		if !errors.Is(tt.err, tt.class) || !strings.Contains(fmt.Sprint(tt.err), tt.says) || strings.Contains(fmt.Sprint(tt.err), backendtest.Canary) {
			t.Errorf("%s: %v, want %v", name, tt.err, tt.class)
		}
	}
	if err := errors.Join(check(s.RootToken, "", 0), check(s.RootToken, old, 1)); err != nil {
		t.Errorf("the right versions: %v", err)
	}
	s.Seal(t)
	if err := check(s.RootToken, "", 0); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("sealed: %v", err)
	}
}

// A write whose answer was lost is found again by the Mount: one version, no
// error, whoever asks again.
func TestLostAnswerToAPublish(t *testing.T) {
	s := vaultserver.Shared(t)
	p, mountPath := faultproxy.New(t, s.Addr), s.KV(t)
	driver := open(t, config(p.URL, s.RootToken, mountPath))
	first := publish(t, driver, 1, "")

	loseOne := faultproxy.Rule{Fault: faultproxy.LostAnswer(), Times: 1, Match: func(r *http.Request) bool {
		return strings.Contains(r.URL.Path, "/data/") && r.Method == http.MethodPut
	}}
	p.Set(loseOne)
	if _, err := driver.Publish(t.Context(), ref, write(2, first)); !errors.Is(err, backends.ErrUnavailable) {
		t.Fatalf("the answer was not lost: %v", err)
	}
	p.Set(loseOne)
	mount := backends.NewMount("prod", driver, backends.Options{})
	second, err := mount.Publish(t.Context(), ref, write(2, first)) // as after a crash
	if err != nil || second != "2" {
		t.Errorf("published as %q, %v, want the version that was there", second, err)
	}
	p.Set(loseOne)
	third, err := mount.Publish(t.Context(), ref, write(3, second)) // loses the answer, retries
	if err != nil || third != "3" {
		t.Errorf("published as %q, %v", third, err)
	}
	desc, err := mount.Describe(t.Context(), ref)
	if err != nil || len(desc.Versions) != 3 {
		t.Errorf("there are %d versions, %v", len(desc.Versions), err)
	}
	_, err = mount.Publish(t.Context(), ref, write(4, second))
	if !errors.Is(err, backends.ErrConflict) || strings.Contains(fmt.Sprint(err), backendtest.Canary) {
		t.Errorf("publishing another value over an old version: %v", err)
	}
}

func TestConfigIsDecodedFromABlock(t *testing.T) {
	body := `
address     = "https://vault.example.com:8200"
mount       = "kv"
path_prefix = "keybroker/"
kv_version     = 2
max_value_size = 1000000
auth "approle" {
  role_id        = "r"
  secret_id_file = "/run/secrets/vault-secret-id"
}`
	file, diags := hclparse.NewParser().ParseHCL([]byte(body), "config.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var got vault.Config
	if diags := gohcl.DecodeBody(file.Body, nil, &got); diags.HasErrors() {
		t.Fatal(diags)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if got.KVVersion != 2 || got.Capabilities().MaxValueSize != 1000000 {
		t.Errorf("decoded as %+v", got)
	}
	if got.Mount != "kv" || got.PathPrefix != "keybroker/" || got.Conn.Address != "https://vault.example.com:8200" ||
		len(got.Conn.Auth) != 1 || got.Conn.Auth[0].SecretIDFile == "" {
		t.Errorf("decoded as %+v", got)
	}
	file, _ = hclparse.NewParser().ParseHCL([]byte(body+"\nadress = 1\n"), "config.hcl")
	if diags := gohcl.DecodeBody(file.Body, nil, &got); !diags.HasErrors() {
		t.Error("an unknown attribute was accepted")
	}
}

func TestValidate(t *testing.T) {
	good := config("https://vault:8200", "x", "")
	for name, spoil := range map[string]func(*vault.Config){
		"mount":       func(c *vault.Config) { c.Mount = "/kv" },
		"path_prefix": func(c *vault.Config) { c.PathPrefix = "../other/" },
		"address":     func(c *vault.Config) { c.Conn.Address = "" },

		"kv_version":     func(c *vault.Config) { c.KVVersion = 3 },
		"max_value_size": func(c *vault.Config) { c.MaxValueSize = -1 },
	} {
		cfg := good
		spoil(&cfg)
		if err := cfg.Validate(); !errors.Is(err, backends.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("a bad %s: %v", name, err)
		}
		if _, err := vault.Open(context.Background(), cfg, hclog.NewNullLogger()); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("opened with a bad %s: %v", name, err)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}

func TestPlace(t *testing.T) {
	at := func(address, namespace, mount, prefix string) string {
		return vault.Config{Mount: mount, PathPrefix: prefix, Conn: vaultconn.Config{Address: address, Namespace: namespace}}.Place()
	}
	base := at("https://vault.example.com", "", "", "team")
	for name, same := range map[string]string{
		"case":          at("HTTPS://Vault.Example.COM", "", "", "team"),
		"port":          at("https://vault.example.com:443", "", "", "team"),
		"slashes":       at("https://vault.example.com/", "/", "secret/", "team/"),
		"dot":           at("https://vault.example.com.", "", "", "team"),
		"default mount": at("https://vault.example.com", "", "secret", "team"),
	} {
		if same != base {
			t.Errorf("%s makes another place: %q, not %q", name, same, base)
		}
	}
	for name, other := range map[string]string{
		"host":      at("https://vault.example.org", "", "", "team"),
		"port":      at("https://vault.example.com:8200", "", "", "team"),
		"namespace": at("https://vault.example.com", "a", "", "team"),
		"mount":     at("https://vault.example.com", "", "kv", "team"),
		"prefix":    at("https://vault.example.com", "", "", "teams"),
		"no prefix": at("https://vault.example.com", "", "", ""),
	} {
		if other == base {
			t.Errorf("another %s makes the same place, %q", name, other)
		}
	}
	if at("https://vault", "", "", "")+"/team/app" != at("https://vault", "", "", "team/")+"/app" {
		t.Error("a folder is no part of its mount")
	}
	if at("https://vault", "a/", "kv", "") != at("https://vault:443", "", "a/kv", "") {
		t.Error("a namespace in a path is another than in a header")
	}
	if at("http://[::1]:8200", "", "", "") != at("http://[0:0:0:0:0:0:0:1]:8200", "", "", "") {
		t.Error("one IP address makes two places")
	}
	if place := (vault.Config{}).Place(); place != "" {
		t.Errorf("no address makes the place %q", place)
	}
}
