package seal_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/seal"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

func openKMS(t *testing.T, cfg seal.KMSConfig) *seal.KMS {
	t.Helper()
	s, err := seal.OpenKMS(t.Context(), cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func kmsConfig(endpoint, region, key string) seal.KMSConfig {
	return seal.KMSConfig{KeyID: key, Conn: awsconn.Config{Region: region, Endpoint: endpoint,
		AccessKeyID: "AKIATESTTESTTESTTEST", SecretAccessKey: canary}}
}

func TestKMS(t *testing.T) {
	aws := motoserver.Shared(t)
	const here, there = "eu-central-1", "eu-west-1"
	s := openKMS(t, kmsConfig(aws.URL, here, aws.KMSKey(t, here)))
	testSeal(t, s, openKMS(t, kmsConfig(aws.URL, here, aws.KMSKey(t, here))))
	testSeal(t, s, openKMS(t, kmsConfig(aws.URL, there, aws.KMSKey(t, there))))
	if _, err := seal.NewKEK().WrapBy(t.Context(), openKMS(t, kmsConfig(aws.URL, here, "alias/nosuch"))); !errors.Is(err, backends.ErrNotFound) {
		t.Errorf("wrapped by no key: %v", err)
	}
}

const transitPolicy = `
path "MOUNT/encrypt/*" { capabilities = ["update"] }
path "MOUNT/decrypt/*" { capabilities = ["update"] }`

// newTransit makes a transit engine with keys of a type, and gives who may use them.
func newTransit(t *testing.T, v *vaultserver.Server, keys map[string]string) func(key string) seal.TransitConfig {
	t.Helper()
	mount, logical := v.Transit(t), v.Client(t).Logical()
	for name, kind := range keys {
		if _, err := logical.WriteWithContext(t.Context(), mount+"/keys/"+name, map[string]any{"type": kind}); err != nil {
			t.Fatal(err)
		}
	}
	role, id := v.AppRole(t, vaultserver.AppRole{Policy: strings.ReplaceAll(transitPolicy, "MOUNT", mount)})
	return func(key string) seal.TransitConfig {
		return seal.TransitConfig{Key: key, Mount: mount, Conn: vaultconn.Config{Address: v.Addr,
			Auth: []vaultconn.Auth{{Method: "approle", RoleID: backends.SecretString(role), SecretID: backends.SecretString(id)}}}}
	}
}

func openTransit(t *testing.T, cfg seal.TransitConfig) *seal.Transit {
	t.Helper()
	s, err := seal.OpenTransit(t.Context(), cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestTransit(t *testing.T) {
	v := vaultserver.Shared(t)
	cfg := newTransit(t, v, map[string]string{"broker": "aes256-gcm96", "other": "chacha20-poly1305", "rsa": "rsa-2048"})
	s := openTransit(t, cfg("broker"))
	testSeal(t, s, openTransit(t, cfg("other")))
	testSeal(t, openTransit(t, cfg("other")), s)

	kek := seal.NewKEK()
	before, err := kek.WrapBy(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Client(t).Logical().WriteWithContext(t.Context(), cfg("").Mount+"/keys/broker/rotate", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.UnwrapKEK(t.Context(), s, kek.ID(), before); err != nil {
		t.Errorf("after Vault rotated its key: %v", err)
	}
	if _, err := kek.WrapBy(t.Context(), openTransit(t, cfg("rsa"))); !errors.Is(err, backends.ErrInvalid) {
		t.Errorf("wrapped by a key that binds nothing: %v", err)
	}
	if _, err := kek.WrapBy(t.Context(), openTransit(t, cfg("nosuch"))); err == nil {
		t.Error("wrapped by no key")
	}
	elsewhere := cfg("broker")
	elsewhere.Mount = "nosuch"
	if _, err := kek.WrapBy(t.Context(), openTransit(t, elsewhere)); !errors.Is(err, backends.ErrDenied) {
		t.Errorf("wrapped where the login may not: %v", err)
	}
}

// TestTransitThatMayOnlyEncrypt wraps nothing: what nobody can open keeps no key.
func TestTransitThatMayOnlyEncrypt(t *testing.T) {
	v := vaultserver.Shared(t)
	cfg := newTransit(t, v, map[string]string{"broker": "aes256-gcm96"})("broker")
	role, id := v.AppRole(t, vaultserver.AppRole{Policy: fmt.Sprintf("path %q { capabilities = [\"update\"] }", cfg.Mount+"/encrypt/*")})
	cfg.Conn.Auth = []vaultconn.Auth{{Method: "approle", RoleID: backends.SecretString(role), SecretID: backends.SecretString(id)}}
	if _, err := seal.NewKEK().WrapBy(t.Context(), openTransit(t, cfg)); !errors.Is(err, backends.ErrDenied) || !strings.Contains(err.Error(), "does not open it") {
		t.Errorf("it wrapped what it cannot open: %v", err)
	}
}

// TestSealsThatAreAway do not keep anybody waiting, and say no secret.
func TestSealsThatAreAway(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	at := "http://" + silent.Addr().String()
	for name, s := range map[string]seal.Seal{
		"kms": openKMS(t, kmsConfig(at, "eu-central-1", "alias/keybroker")),
		"transit": openTransit(t, seal.TransitConfig{Key: "k", Conn: vaultconn.Config{Address: at,
			Auth: []vaultconn.Auth{{Method: "token", Token: canary}}}}),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := seal.NewKEK().WrapBy(ctx, s)
		if !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %v", err, s, s.ID()), canary) {
			t.Errorf("%s: the login is shown", name)
		}
	}
}

func TestMistakesInConfigurationsAreNamed(t *testing.T) {
	for want, err := range map[string]error{
		"kms_key_id": kmsConfig("", "eu-central-1", "").Validate(),
		"region":     kmsConfig("", "", "k").Validate(),
		"key":        seal.TransitConfig{Key: "a/b"}.Validate(),
		"mount":      seal.TransitConfig{Key: "a", Mount: "/"}.Validate(),
		"address":    seal.TransitConfig{Key: "a"}.Validate(),
	} {
		if !errors.Is(err, backends.ErrInvalid) || !strings.HasPrefix(err.Error(), "invalid: "+want+" ") {
			t.Errorf("%s: %v", want, err)
		}
	}
}
