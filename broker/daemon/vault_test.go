package daemon_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// inVault keeps a secret in a real Vault; a third party's API, described in HCL,
// mints and revokes it.
const inVault = `
listener "tcp" {
  address = "ADDR"
}
backend "vault" "prod" {
  address     = "VAULT_ADDR"
  mount       = "secret"
  path_prefix = "keybroker/"
  auth "approle" {
    role_id   = env("VAULT_ROLE_ID")
    secret_id = env("VAULT_SECRET_ID")
  }
}
issuer "http" "mailer" {
  base_url              = "API_URL"
  allow_private_network = true
  auth "bearer" {
    token = env("MAILER_ADMIN")
  }
  create {
    method = "POST"
    path   = "/v1/keys"
    body   = jsonencode({ name = rotation.tag, scopes = secret.issuer.scopes })
    handle = { id = "$.id" }
    fields = { key = "$.secret" }
  }
  find {
    method = "GET"
    path   = "/v1/keys?name=${rotation.tag}"
    items  = "$.data"
    tag    = "$.name"
    handle = { id = "$.id" }
  }
  revoke {
    method = "DELETE"
    path   = "/v1/keys/${handle.id}"
  }
  max_live          = 5
  show_once         = true
  revocation_budget = "3s"
}
probe "http" "mailer" {
  method                = "GET"
  url                   = "API_URL/v1/me"
  headers               = { Authorization = "Bearer ${field.key}" }
  allow_private_network = true
  accepted {
    status = [200]
  }
  rejected {
    status = [401]
  }
}
rotation_policy "quick" {
  match {
    paths = ["mail/*"]
  }
  overlap = "2s"
  verify {
    successes = 2
    interval  = "50ms"
  }
}
rotation_policy "told-plainly" { # beside those that say how secrets rotate
  limits {
    plain_payload = true
  }
}
secret "mail/sender" {
  backend = "prod"
  probe   = "mailer"
  issuer "mailer" {
    scopes = ["send"]
  }
CONSUMERS}
`

type vaultSite struct {
	*site
	vault *vaultserver.Server
	api   *keyserver.Server
	app   *consumer
}

func newVaultSite(t *testing.T) *vaultSite {
	t.Helper()
	vault, api := vaultserver.Start(t), keyserver.Start(t)
	roleID, secretID := vault.AppRole(t, vaultserver.AppRole{Policy: `
path "secret/data/keybroker/*" { capabilities = ["create", "read", "update"] }
path "secret/metadata/keybroker/*" { capabilities = ["read", "list", "create", "update"] }
path "secret/destroy/keybroker/*" { capabilities = ["update"] }`})
	signing := newSigningSecret()
	app := newConsumer(t, signing)
	hcl := strings.NewReplacer("VAULT_ADDR", vault.Addr, "API_URL", api.URL).Replace(withConsumer(inVault, app))
	s := newSite(t, strings.Replace(hcl, "VAULT_ADDR", vault.Addr, 1))
	s.env = map[string]string{"VAULT_ROLE_ID": roleID, "VAULT_SECRET_ID": secretID, "MAILER_ADMIN": api.AdminToken, "SIGNING_SECRET": signing.Reveal()}
	return &vaultSite{s, vault, api, app}
}

// direct reads the secret with Vault's own client.
func (s *vaultSite) direct(t *testing.T) string {
	t.Helper()
	kv, err := s.vault.Client(t).KVv2("secret").Get(context.Background(), "keybroker/mail/sender")
	if err != nil {
		t.Fatal(err)
	}
	return kv.Data["key"].(string)
}

func TestRotationInVaultByAThirdPartysAPI(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.api.SetRevocationLatency(500 * time.Millisecond)
	n := s.start()
	if rot, _ := n.rotate(t, "mail/sender"); rot.State != client.RotationDone {
		t.Fatalf("first rotation: %s: %s", rot.State, rot.Error)
	}
	old := s.direct(t)
	if !s.api.Works(old) {
		t.Fatal("the first key does not work")
	}
	rot, retirements := n.rotate(t, "mail/sender")
	if rot.State != client.RotationDone {
		t.Fatalf("second rotation: %s: %s", rot.State, rot.Error)
	}
	now := s.direct(t)
	if now == old || !s.api.Works(now) || s.api.Works(old) {
		t.Errorf("new value %v, new key works %v, old key works %v", now != old, s.api.Works(now), s.api.Works(old))
	}
	if key, generation := s.app.key("mail/sender"); key != now || generation != 2 {
		t.Errorf("the consumer holds generation %d; the current key: %v", generation, key == now)
	}
	if v := n.value(t, "mail/sender"); v.Fields["key"] != now {
		t.Error("the broker gives another value than the vault")
	}
	proof := retirements[1]
	if proof.State != client.ProvenDead || proof.Control != "current_version" || proof.Scope == nil || proof.Scope.SelfAttested || proof.ContainedAt.Before(proof.AcknowledgedAt) {
		t.Errorf("proof: %+v", proof)
	}
	if got := proof.ProvenAt.Sub(proof.ContainedAt); got < 3*time.Second {
		t.Errorf("proven %s after it was contained: less than the issuer's revocation budget", got)
	}
	if live := s.api.Live(); len(live) != 1 {
		t.Errorf("the API holds %d live keys, want 1", len(live))
	}
}

func TestLostAnswerOfAMintLeavesNoOrphan(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	n := s.start()
	s.api.DropCreates(1)
	rot, _ := n.rotate(t, "mail/sender")
	if rot.State != client.RotationDone {
		t.Fatalf("%s: %s", rot.State, rot.Error)
	}
	eventually(t, "the orphan's end", func() bool { return len(s.api.Live()) == 1 })
	if !s.api.Works(s.direct(t)) {
		t.Error("the key in the vault does not work")
	}
}

func TestEmergencyDuringAMintDoesNotWaitForItsOrphan(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	n := s.start()
	n.rotate(t, "mail/sender")
	s.api.DropCreates(1)
	r, err := n.Rotate(t.Context(), "mail/sender", client.RotateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a mint whose answer is lost", func() bool {
		now, err := n.Rotation(t.Context(), r.ID)
		return err == nil && now.ToVersion == 2
	})
	e, err := n.Emergency(t.Context(), "mail/sender", client.EmergencyRequest{Reason: "leaked", Contain: client.RevokeFirst})
	if err != nil {
		t.Fatal(err)
	}
	rot, retirements := n.follow(t, e.ID)
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead {
		t.Fatalf("%s: %s; version 1 %s", rot.State, rot.Error, retirements[1].State)
	}
	eventually(t, "the orphan's end", func() bool { return len(s.api.Live()) == 1 })
	if !s.api.Works(s.direct(t)) {
		t.Error("the key in the vault does not work")
	}
}

func TestEmergencyWithoutAReplacementContainsAndGoesOn(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	n := s.start()
	n.rotate(t, "mail/sender")
	leaked := s.direct(t)
	s.api.Override("POST /v1/keys", 500, -1)
	e, err := n.Emergency(t.Context(), "mail/sender", client.EmergencyRequest{Reason: "leaked", Contain: client.RevokeFirst})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "containment", func() bool {
		list, err := n.Retirements(t.Context(), client.RetirementQuery{Secret: "mail/sender"})
		return err == nil && len(list.Items) > 0 && !list.Items[len(list.Items)-1].ContainedAt.IsZero()
	})
	if s.api.Works(leaked) {
		t.Error("contained, and the leaked key works")
	}
	if _, err := n.Value(t.Context(), "mail/sender", 0); client.Status(err) != 503 {
		t.Errorf("reading a revoked key: %v, want 503", err)
	}
	s.api.Override("POST /v1/keys", 500, 0)
	rot, retirements := n.follow(t, e.ID)
	if rot.State != client.RotationDone || retirements[1].State != client.ProvenDead || retirements[1].Control != "current_version" {
		t.Fatalf("%s: %s; version 1 %s by %s", rot.State, rot.Error, retirements[1].State, retirements[1].Control)
	}
	if !s.api.Works(n.value(t, "mail/sender").Fields["key"]) {
		t.Error("the replacement does not work")
	}
}

// More rotations than there are workers wait for one vault; nobody else does.
func TestADeadVaultHoldsNobodyElseUp(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	const many = 160
	var hcl strings.Builder
	hcl.WriteString("backend \"local\" \"embedded\" {}\nissuer \"api_key\" \"internal\" {}\n" +
		"secret \"app/key\" {\n  backend = \"embedded\"\n  proof = \"none\"\n  issuer \"internal\" {}\n}\n")
	for i := range many {
		fmt.Fprintf(&hcl, "secret \"mail/s%d\" {\n  backend = \"prod\"\n  probe = \"mailer\"\n  issuer \"mailer\" {\n    scopes = [\"send\"]\n  }\n}\n", i)
	}
	s.hcl += hcl.String()
	s.vault.Seal(t)
	n := s.start()
	var last client.Rotation
	for i := range many {
		r, err := n.Rotate(t.Context(), fmt.Sprintf("mail/s%d", i), client.RotateRequest{})
		if err != nil {
			t.Fatal(err)
		}
		last = r
	}
	eventually(t, "all of them to wait", func() bool {
		now, err := n.Rotation(t.Context(), last.ID)
		return err == nil && now.WaitingFor == "backend"
	})
	if rot, _ := n.rotate(t, "app/key"); rot.State != client.RotationDone {
		t.Errorf("a rotation that has nothing to do with that vault: %s, waiting for %q", rot.State, rot.WaitingFor)
	}
}
