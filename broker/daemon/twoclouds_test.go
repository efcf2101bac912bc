package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

const mirrorBlock = `
backend "aws_secrets_manager" "us" {
  region            = "us-east-1"
  endpoint          = "AWS_URL"
  path_prefix       = "keybroker/"
  versions_per_day  = 95
  access_key_id     = env("AWS_ID")
  secret_access_key = env("AWS_SECRET")
  drift_check       = "1s"
}
issuer "http" "mailer" {`

// twoClouds keeps a secret in a real Vault, and a mirror of it in Secrets
// Manager; both can be killed and come back with what they held.
type twoClouds struct {
	*site
	vault *vaultserver.Server
	aws   *motoserver.Server
	api   *keyserver.Server
}

func newTwoClouds(t *testing.T, onDrift string) *twoClouds {
	t.Helper()
	vault, cloud, api := vaultserver.StartDurable(t), motoserver.Start(t), keyserver.Start(t)
	roleID, secretID := vault.AppRole(t, vaultserver.AppRole{Policy: vaultserver.Everything})
	hcl := replaced(t, inVault, `issuer "http" "mailer" {`, mirrorBlock,
		"  backend = \"prod\"\n", fmt.Sprintf("  backend  = \"prod\"\n  mirrors  = [\"us\"]\n  on_drift = %q\n", onDrift), "CONSUMERS", "",
		`path_prefix = "keybroker/"`, `path_prefix = "keybroker/"`+"\n  drift_check = \"1s\"", `overlap = "2s"`, `overlap = "300ms"`)
	s := newSite(t, strings.NewReplacer("VAULT_ADDR", vault.Addr, "API_URL", api.URL, "AWS_URL", cloud.URL).Replace(hcl))
	s.env = map[string]string{"VAULT_ROLE_ID": roleID, "VAULT_SECRET_ID": secretID, "MAILER_ADMIN": api.AdminToken,
		"AWS_ID": "AKIAKEYBROKERTESTING", "AWS_SECRET": "unchecked"}
	return &twoClouds{s, vault, cloud, api}
}

// inPrimary reads the secret with Vault's own client, inMirror with AWS's.
func (s *twoClouds) inPrimary(ctx context.Context) (string, error) {
	kv, err := s.vault.Client(s.t).KVv2("secret").Get(ctx, "keybroker/mail/sender")
	if err != nil {
		return "", err
	}
	return kv.Data["key"].(string), nil
}

func (s *twoClouds) inMirror(ctx context.Context) (string, error) {
	out, err := secretsmanager.NewFromConfig(s.aws.AWS("us-east-1")).GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{
		SecretId: aws.String("keybroker/mail/sender"), VersionStage: aws.String("AWSCURRENT")}) // moto needs to be told
	if err != nil {
		return "", err
	}
	var fields map[string]string
	err = json.Unmarshal([]byte(aws.ToString(out.SecretString)), &fields)
	return fields["key"], err
}

// equal waits until both vaults hold what the broker gives, and that it works.
func (s *twoClouds) equal(t *testing.T, n *node) {
	t.Helper()
	want := n.value(t, mailer).Fields["key"]
	var primary, mirror string
	eventually(t, "both vaults holding the current version", func() bool {
		var err1, err2 error
		primary, err1 = s.inPrimary(t.Context())
		mirror, err2 = s.inMirror(t.Context())
		return err1 == nil && err2 == nil && primary == want && mirror == want
	})
	if !s.api.Works(want) {
		t.Error("what both vaults hold does not work")
	}
}

// A secret whose primary is Vault and whose mirror is Secrets Manager is rotated
// while both servers are killed and restarted under it. In the end both hold the
// same value, which works, and what was replaced is dead.
func TestMirrorSurvivesTheDeathOfBothServers(t *testing.T) {
	t.Parallel()
	s := newTwoClouds(t, "restore")
	n := s.start()
	n.done(t, mailer)
	s.equal(t, n)
	for round := range 3 {
		r, err := n.Rotate(t.Context(), mailer, client.RotateRequest{Reason: "servers die"})
		if err != nil {
			t.Fatal(err)
		}
		switch round { // at different moments of the rotation
		case 0:
			s.aws.Kill()
			s.vault.Kill(t)
		case 1:
			eventually(t, "a new version at the issuer", func() bool { return len(s.api.Live()) > 1 })
			s.vault.Kill(t)
			s.aws.Kill()
		case 2:
			s.vault.Kill(t)
			eventually(t, "the rotation waiting for its vault", func() bool {
				now, err := n.Rotation(t.Context(), r.ID)
				return err == nil && (now.WaitingFor == "backend" || now.State == client.RotationOverlap)
			})
			s.aws.Kill()
		}
		if held := n.value(t, mailer); held.Fields["key"] == "" { // the sealed copy serves reads meanwhile
			t.Error("while both vaults are down the broker gives nothing")
		}
		s.vault.Restart(t)
		s.aws.Restart(t)
		if rot, _ := n.follow(t, r.ID); rot.State != client.RotationDone {
			t.Fatalf("round %d: %s: %s", round, rot.State, rot.Error)
		}
	}
	s.equal(t, n)
	if live := s.api.Live(); len(live) != 1 {
		t.Errorf("the API holds %d live keys, want 1", len(live))
	}
	sec, err := n.Secret(t.Context(), mailer)
	if err != nil || len(sec.Mirrors) != 1 || sec.Mirrors[0].State != client.InStep || sec.Mirrors[0].Version != sec.Versions[len(sec.Versions)-1].Number {
		t.Errorf("the secret is shown as %+v, %v", sec.Mirrors, err)
	}
}

// A mirror that is down through several rotations gets the newest version only.
func TestMirrorIsBroughtStraightToTheNewestVersion(t *testing.T) {
	t.Parallel()
	s := newTwoClouds(t, "report")
	s.hcl = replaced(t, s.hcl, `overlap = "300ms"`, "overlap = \"300ms\"\n  wait_for_mirrors = false")
	n := s.start()
	n.done(t, mailer)
	s.equal(t, n)
	s.aws.Kill()
	n.done(t, mailer)
	n.done(t, mailer)
	sec, err := n.Secret(t.Context(), mailer)
	if err != nil || len(sec.Mirrors) != 1 || sec.Mirrors[0].State != client.Behind {
		t.Errorf("while the mirror is down it is shown as %+v, %v", sec.Mirrors, err)
	}
	s.aws.Restart(t)
	s.equal(t, n)
	ids, err := secretsmanager.NewFromConfig(s.aws.AWS("us-east-1")).ListSecretVersionIds(t.Context(), &secretsmanager.ListSecretVersionIdsInput{
		SecretId: aws.String("keybroker/mail/sender"), IncludeDeprecated: aws.Bool(true)})
	if err != nil || len(ids.Versions) != 2 {
		t.Errorf("the mirror has seen %d versions (%v), want the first and the newest", len(ids.Versions), err)
	}
}

// Somebody changes the mirror behind the broker's back: it is put right again.
func TestMirrorThatSomebodyChangedIsRestored(t *testing.T) {
	t.Parallel()
	s := newTwoClouds(t, "restore")
	n := s.start()
	n.done(t, mailer)
	s.equal(t, n)
	_, err := secretsmanager.NewFromConfig(s.aws.AWS("us-east-1")).PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{
		SecretId: aws.String("keybroker/mail/sender"), SecretString: aws.String(`{"key":"a stranger's"}`)})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the restored mirror", func() bool {
		now, err := s.inMirror(t.Context())
		return err == nil && now == n.value(t, mailer).Fields["key"]
	})
}
