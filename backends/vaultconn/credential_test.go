package vaultconn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/hashicorp/vault/api"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

// credentialFile returns a path and what puts a text there, as a file of its own
// each time, the way a careful writer does it.
func credentialFile(t *testing.T) (path string, write func(text string)) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "credential")
	return path, func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
}

// newToken makes a token that may do all, and names it.
func newToken(t *testing.T, s *vaultserver.Server) (token, accessor string) {
	t.Helper()
	made, err := s.Client(t).Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{TTL: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	return made.Auth.ClientToken, made.Auth.Accessor
}

func wantAccessor(t *testing.T, c *vaultconn.Conn, want string) {
	t.Helper()
	if got := accessor(t, c); got != want {
		t.Errorf("logged in as %s, want %s", got, want)
	}
}

func TestTokenFileIsFollowed(t *testing.T) {
	s := vaultserver.Shared(t)
	file, write := credentialFile(t)
	c, log := dial(t, vaultconn.Config{Address: s.Addr, Auth: []vaultconn.Auth{{Method: "token", TokenFile: file}}})
	wantClass(t, c.Check(t.Context()), backends.ErrUnavailable) // there may be one later

	first, firstAccessor := newToken(t, s)
	write(first)
	wantAccessor(t, c, firstAccessor)
	second, secondAccessor := newToken(t, s)
	write(second)
	wantAccessor(t, c, secondAccessor) // though the first is good still

	for _, useless := range []string{"", "two\nlines", "hvs." + canary} {
		write(useless)
		wantAccessor(t, c, secondAccessor)
	}
	if !strings.Contains(log.String(), "the login from before is used on") {
		t.Error("a useless token was passed over in silence")
	}
	revoke(t, s, secondAccessor)
	wantClass(t, c.Check(t.Context()), backends.ErrDenied)

	third, thirdAccessor := newToken(t, s)
	write(third)
	wantAccessor(t, c, thirdAccessor) // at once, whatever was refused before
}

func TestRevokedTokenIsNamed(t *testing.T) {
	s := vaultserver.Shared(t)
	token, accessor := newToken(t, s)
	c, _ := dial(t, tokenConfig(s.Addr, token))
	wantAccessor(t, c, accessor)
	revoke(t, s, accessor)
	err := c.Check(t.Context())
	wantClass(t, err, backends.ErrDenied)
	if !strings.Contains(fmt.Sprint(err), "expired or was revoked") {
		t.Errorf("a revoked token: %v", err)
	}
}

// A token without Vault's "default" policy cannot even ask what it is.
func TestTokenThatCannotLookItselfUp(t *testing.T) {
	s := vaultserver.Shared(t)
	client := s.Client(t)
	if err := client.Sys().PutPolicyWithContext(t.Context(), "reader", `path "secret/*" { capabilities = ["read"] }`); err != nil {
		t.Fatal(err)
	}
	made, err := client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"reader"}, NoDefaultPolicy: true})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := dial(t, tokenConfig(s.Addr, made.Auth.ClientToken))
	if _, err := c.Read(t.Context(), "secret/config", nil); err != nil {
		t.Errorf("reading what it may read: %v", err)
	}
	_, err = c.Write(t.Context(), "secret/data/x", map[string]any{"data": map[string]string{"a": canary}})
	wantClass(t, err, backends.ErrDenied)
}

// wrappedRole is an AppRole whose secret ids are given away wrapped.
func wrappedRole(t *testing.T, s *vaultserver.Server) (roleID string, secretID func() (wrapping string)) {
	t.Helper()
	client := s.Client(t)
	path := "auth/approle/role/" + strings.ToLower(t.Name())
	_, err := client.Logical().WriteWithContext(t.Context(), path, map[string]any{"token_policies": "default"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := client.Logical().ReadWithContext(t.Context(), path+"/role-id")
	if err != nil {
		t.Fatal(err)
	}
	return id.Data["role_id"].(string), func() string {
		t.Helper()
		return wrapped(t, s, path+"/secret-id", nil)
	}
}

// wrapped writes to a path and has the answer wrapped.
func wrapped(t *testing.T, s *vaultserver.Server, path string, body map[string]any) (wrapping string) {
	t.Helper()
	client := s.Client(t)
	client.SetWrappingLookupFunc(func(string, string) string { return "5m" })
	answer, err := client.Logical().WriteWithContext(t.Context(), path, body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.WrapInfo.Token
}

func wrappedConfig(address, roleID, file string) vaultconn.Config {
	return vaultconn.Config{Address: address, Auth: []vaultconn.Auth{{
		Method: "approle", RoleID: backends.SecretString(roleID), SecretIDFile: file, SecretIDWrapped: true,
	}}}
}

func TestWrappedSecretIDIsUnwrappedOnceAndHeld(t *testing.T) {
	s := vaultserver.Shared(t)
	roleID, secretID := wrappedRole(t, s)
	file, write := credentialFile(t)
	write(secretID())
	c, _ := dial(t, wrappedConfig(s.Addr, roleID, file))
	first := accessor(t, c)
	revoke(t, s, first)
	second := accessor(t, c) // logged in again, with what is in memory
	if second == first {
		t.Error("used a revoked login")
	}

	// A new one is unwrapped with the next call: it would soon be too old.
	next := secretID()
	write(next)
	if accessor(t, c) == second {
		t.Error("a new wrapping token was left where it is")
	}
	if _, err := s.Client(t).Logical().WriteWithContext(t.Context(), "sys/wrapping/lookup", map[string]any{"token": next}); err == nil {
		t.Error("the new wrapping token can still be unwrapped")
	}

	// Whoever finds it used must hear of it: it may have been caught.
	late, _ := dial(t, wrappedConfig(s.Addr, roleID, file))
	err := late.Check(t.Context())
	wantClass(t, err, backends.ErrDenied)
	if !strings.Contains(fmt.Sprint(err), "was unwrapped before") || strings.Contains(fmt.Sprint(err), next) {
		t.Errorf("with a wrapping token that was used: %v", err)
	}
	write(secretID())
	if err := late.Check(t.Context()); err != nil {
		t.Errorf("with a new wrapping token: %v", err)
	}
}

func TestSecretIDWrappedElsewhereIsRefused(t *testing.T) {
	s := vaultserver.Shared(t)
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	file, write := credentialFile(t)
	rewrapped := wrapped(t, s, "sys/wrapping/wrap", map[string]any{"secret_id": cfg.Auth[0].SecretID.Reveal()})
	write(rewrapped)
	c, _ := dial(t, wrappedConfig(s.Addr, cfg.Auth[0].RoleID.Reveal(), file))
	err := c.Check(t.Context())
	wantClass(t, err, backends.ErrDenied)
	if !strings.Contains(fmt.Sprint(err), "somebody may have come between") {
		t.Errorf("refused with %v", err)
	}
	if _, err := s.Client(t).Logical().WriteWithContext(t.Context(), "sys/wrapping/lookup", map[string]any{"token": rewrapped}); err != nil {
		t.Errorf("it was unwrapped all the same: %v", err)
	}
}

// Every token may write to its own cubbyhole, to any path there.
func TestSecretIDWrappedAgainByAThiefIsRefused(t *testing.T) {
	s := vaultserver.Shared(t)
	roleID, secretID := wrappedRole(t, s)
	file, write := credentialFile(t)
	thief := s.Client(t)
	token, err := thief.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{Policies: []string{"default"}})
	if err != nil {
		t.Fatal(err)
	}
	thief.SetToken(token.Auth.ClientToken)
	caught, err := thief.Logical().UnwrapWithContext(t.Context(), secretID())
	if err != nil {
		t.Fatal(err)
	}
	const lookalike = "cubbyhole/auth/approle/role/x/secret-id"
	if _, err := thief.Logical().WriteWithContext(t.Context(), lookalike, caught.Data); err != nil {
		t.Fatal(err)
	}
	thief.SetWrappingLookupFunc(func(string, string) string { return "5m" })
	rewrapped, err := thief.Logical().ReadWithContext(t.Context(), lookalike)
	if err != nil {
		t.Fatal(err)
	}
	write(rewrapped.WrapInfo.Token)
	c, _ := dial(t, wrappedConfig(s.Addr, roleID, file))
	err = c.Check(t.Context())
	wantClass(t, err, backends.ErrDenied)
	if !strings.Contains(fmt.Sprint(err), "somebody may have come between") {
		t.Errorf("refused with %v", err)
	}
}

// Where a secret id was wrapped, as a Vault with namespaces may tell it: the core
// has none, so the answer to that one question is not its own.
func TestPathThatWrapsASecretID(t *testing.T) {
	s := vaultserver.Shared(t)
	roleID, secretID := wrappedRole(t, s)
	file, write := credentialFile(t)
	for path, good := range map[string]bool{
		"auth/approle/role/r/secret-id":                  true,
		"auth/approle/role/r/custom-secret-id":           true,
		"team/payments/auth/approle/role/r/secret-id":    true,
		"payments/auth/approle/role/r/secret-id":         false,
		"team/auth/approle/role/r/secret-id":             false,
		"cubbyhole/auth/approle/role/r/secret-id":        false,
		"team/payments/kv/auth/approle/role/r/secret-id": false,
		"auth/x/auth/approle/role/r/secret-id":           false,
		"auth/other/role/r/secret-id":                    false,
		"auth/approle/role/r/x/secret-id":                false,
		"auth/approle/role/r/secret-id/lookup":           false,
		"auth/approle/login":                             false,
	} {
		address := before(t, s, func(w http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("X-Vault-Namespace")
			if r.URL.Path != "/v1/sys/wrapping/lookup" {
				return true
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"creation_path": path}})
			return false
		})
		write(secretID())
		cfg := wrappedConfig(address, roleID, file)
		cfg.Namespace = "team/payments/"
		c, _ := dial(t, cfg)
		err := c.Check(t.Context())
		if good && err != nil {
			t.Errorf("wrapped at %s: %v", path, err)
		} else if !good {
			wantClass(t, err, backends.ErrDenied)
		}
	}
}

// A wrapping token is good once, so what it held must not go with the call that
// happened to be the first.
func TestCallerWhoLeavesTakesNoLoginAlong(t *testing.T) {
	s := vaultserver.Shared(t)
	roleID, secretID := wrappedRole(t, s)
	file, write := credentialFile(t)
	write(secretID())
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	vault := reverseProxy(t, s, func(http.ResponseWriter, *http.Request) bool { return true })
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/sys/wrapping/unwrap" {
			vault.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		vault.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context())))
		leave() // Vault has unwrapped it
		<-left
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}))
	t.Cleanup(srv.Close)
	c, _ := dial(t, wrappedConfig(srv.URL, roleID, file))
	err := c.Check(ctx)
	close(left)
	wantClass(t, err, backends.ErrUnavailable)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the caller who left got %v", err)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("the next caller: %v", err)
	}
}

func TestRefusedLoginsAreNotRepeatedByEveryCall(t *testing.T) {
	s := vaultserver.Shared(t)
	var logins atomic.Int32
	address := before(t, s, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/login") {
			logins.Add(1)
		}
		return true
	})
	cfg := appRoleConfig(t, s, vaultserver.AppRole{Policy: vaultserver.Everything})
	secretID := cfg.Auth[0].SecretID.Reveal()
	file, write := credentialFile(t)
	cfg.Address, cfg.Auth[0].SecretID, cfg.Auth[0].SecretIDFile = address, "", file
	write(canary)
	c, _ := dial(t, cfg)
	for start := time.Now(); time.Since(start) < 500*time.Millisecond; {
		wantClass(t, c.Check(t.Context()), backends.ErrDenied)
	}
	if n := logins.Load(); n != 1 {
		t.Errorf("asked Vault %d times within half a second", n)
	}
	write(secretID)
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("with another credential: %v", err)
	}
}

// identity issues JWTs as an identity provider or a Kubernetes cluster does.
type identity struct {
	signer    jose.Signer
	publicKey string // PEM
}

func newIdentity(t *testing.T) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return identity{signer, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

func (i identity) token(t *testing.T, expires time.Time, more map[string]any) string {
	t.Helper()
	claims := jwt.Claims{
		ID: fmt.Sprint(time.Now().UnixNano()), Subject: "broker", Audience: jwt.Audience{"vault", "cluster"},
		IssuedAt: jwt.NewNumericDate(expires.Add(-time.Hour)), NotBefore: jwt.NewNumericDate(expires.Add(-time.Hour)), Expiry: jwt.NewNumericDate(expires),
	}
	token, err := jwt.Signed(i.signer).Claims(claims).Claims(more).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// mountAuth mounts an auth method and configures it and its role "broker".
func mountAuth(t *testing.T, s *vaultserver.Server, method string, config, role map[string]any) (mount string) {
	t.Helper()
	client, mount := s.Client(t), method+"-"+strings.ToLower(t.Name())
	if err := client.Sys().EnableAuthWithOptionsWithContext(t.Context(), mount, &api.EnableAuthOptions{Type: method}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Sys().DisableAuthWithContext(context.Background(), mount) })
	for path, body := range map[string]map[string]any{"config": config, "role/broker": role} {
		if _, err := client.Logical().WriteWithContext(t.Context(), "auth/"+mount+"/"+path, body); err != nil {
			t.Fatal(err)
		}
	}
	return mount
}

// testJWTs takes a connection that logs in with the JWTs in a file through what
// becomes of them.
func testJWTs(t *testing.T, s *vaultserver.Server, cfg vaultconn.Config, issue func(expires time.Time) string) {
	t.Helper()
	file, write := credentialFile(t)
	cfg.Auth[0].JWTFile = file
	c, _ := dial(t, cfg)
	wantClass(t, c.Check(t.Context()), backends.ErrUnavailable)

	write(issue(time.Now().Add(time.Hour)))
	first := accessor(t, c)
	revoke(t, s, first)
	second := accessor(t, c)
	if second == first {
		t.Error("used a revoked login")
	}
	expired := issue(time.Now().Add(-time.Hour))
	write(expired)
	wantAccessor(t, c, second)
	revoke(t, s, second)
	err := c.Check(t.Context())
	wantClass(t, err, backends.ErrDenied)
	if strings.Contains(fmt.Sprint(err), expired) {
		t.Error("the error quotes the JWT")
	}
	write(issue(time.Now().Add(time.Hour)))
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("with a new JWT: %v", err)
	}
}

func TestJWT(t *testing.T) {
	s, provider := vaultserver.Shared(t), newIdentity(t)
	mount := mountAuth(t, s, "jwt",
		map[string]any{"jwt_validation_pubkeys": provider.publicKey},
		map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "token_policies": "default"})
	issue := func(expires time.Time) string { return provider.token(t, expires, nil) }
	auth := vaultconn.Auth{Method: "jwt", Role: "broker", Mount: mount}
	testJWTs(t, s, vaultconn.Config{Address: s.Addr, Auth: []vaultconn.Auth{auth}}, issue)

	auth.JWT = backends.SecretString(issue(time.Now().Add(time.Hour)))
	fixed, _ := dial(t, vaultconn.Config{Address: s.Addr, Auth: []vaultconn.Auth{auth}})
	if err := fixed.Check(t.Context()); err != nil {
		t.Errorf("with a JWT that is no file: %v", err)
	}
	auth.Role = "another"
	other, _ := dial(t, vaultconn.Config{Address: s.Addr, Auth: []vaultconn.Auth{auth}})
	wantClass(t, other.Check(t.Context()), backends.ErrDenied)
}

// Vault asks the cluster whether a service account's token still counts. There is
// no cluster here: this is its one endpoint that Vault calls, TokenReview, which
// accepts what the cluster's key has signed; Vault checks signature and time too.
func TestKubernetes(t *testing.T) {
	s, cluster := vaultserver.Shared(t), newIdentity(t)
	var reviews atomic.Int32
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reviews.Add(1)
		if r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
			"status": map[string]any{
				"authenticated": true, "audiences": []string{"vault"},
				"user": map[string]any{"username": "system:serviceaccount:infra:keybroker", "uid": "u-1"},
			},
		})
	}))
	t.Cleanup(api.Close)
	mount := mountAuth(t, s, "kubernetes",
		map[string]any{"kubernetes_host": api.URL, "pem_keys": cluster.publicKey, "disable_local_ca_jwt": true},
		map[string]any{"bound_service_account_names": "keybroker", "bound_service_account_namespaces": "infra", "token_policies": "default"})
	cfg := vaultconn.Config{Address: s.Addr, Auth: []vaultconn.Auth{{Method: "kubernetes", Role: "broker", Mount: mount}}}
	testJWTs(t, s, cfg, func(expires time.Time) string {
		return cluster.token(t, expires, map[string]any{
			"sub": "system:serviceaccount:infra:keybroker",
			"kubernetes.io": map[string]any{
				"namespace": "infra", "serviceaccount": map[string]any{"name": "keybroker", "uid": "u-1"},
			},
		})
	})
	if reviews.Load() == 0 {
		t.Error("Vault never asked the cluster")
	}

	cfg.Auth = []vaultconn.Auth{{Method: "kubernetes", Role: "broker", Mount: mount}}
	outside, _ := dial(t, cfg)
	err := outside.Check(t.Context())
	wantClass(t, err, backends.ErrUnavailable) // a pod's token is not here
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(fmt.Sprint(err), "/var/run/secrets/kubernetes.io/serviceaccount/token") {
		t.Errorf("without a pod: %v", err)
	}
}
