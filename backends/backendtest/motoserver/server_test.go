package motoserver_test

import (
	"context"
	"errors"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

func create(ctx context.Context, cfg aws.Config, name string) error {
	_, err := secretsmanager.NewFromConfig(cfg).CreateSecret(ctx, &secretsmanager.CreateSecretInput{
		Name: aws.String(name), SecretString: aws.String("v"),
	})
	return err
}

func read(t *testing.T, cfg aws.Config, name string) (*secretsmanager.GetSecretValueOutput, error) {
	t.Helper()
	return secretsmanager.NewFromConfig(cfg).GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: aws.String(name)})
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != code {
		t.Errorf("got %v, want the code %s", err, code)
	}
}

func as(cfg aws.Config, key motoserver.Key) aws.Config {
	cfg.Credentials = credentials.NewStaticCredentialsProvider(key.ID, key.Secret, "")
	return cfg
}

func TestRegionsAreApart(t *testing.T) {
	s := motoserver.Shared(t)
	here, there := s.AWS(s.Region()), s.AWS(s.Region())
	if err := create(t.Context(), here, "a/b"); err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, here, "a/b"); err != nil || *got.SecretString != "v" {
		t.Errorf("read %v, %v", got, err)
	}
	_, err := read(t, there, "a/b")
	wantCode(t, err, "ResourceNotFoundException")
}

func TestKilledServerComesBackWithWhatItHeld(t *testing.T) {
	s := motoserver.Start(t)
	cfg := s.AWS(motoserver.HomeRegion)
	if err := create(t.Context(), cfg, "a/b"); err != nil {
		t.Fatal(err)
	}
	before, err := read(t, cfg, "a/b")
	if err != nil {
		t.Fatal(err)
	}
	keys, id := kms.NewFromConfig(cfg), s.KMSKey(t, motoserver.HomeRegion)
	sealed, err := keys.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &id, Plaintext: []byte("dek")})
	if err != nil {
		t.Fatal(err)
	}
	url := s.URL
	s.Kill()
	if resp, err := http.Get(s.URL); err == nil {
		_ = resp.Body.Close()
		t.Error("a killed server answered")
	}
	s.Restart(t)
	if s.URL != url {
		t.Errorf("was at %s, is at %s", url, s.URL)
	}
	after, err := read(t, cfg, "a/b")
	if err != nil || *after.VersionId != *before.VersionId || *after.ARN != *before.ARN || *after.SecretString != "v" {
		t.Errorf("after a restart there is %+v, %v; before there was %+v", after, err, before)
	}
	opened, err := keys.Decrypt(t.Context(), &kms.DecryptInput{KeyId: &id, CiphertextBlob: sealed.CiphertextBlob})
	if err != nil || string(opened.Plaintext) != "dek" {
		t.Errorf("after a restart a ciphertext was opened with %v", err)
	}
	if err := create(t.Context(), cfg, "a/b"); err == nil {
		t.Error("the same secret was created twice")
	}
}

func TestGuardedServerKnowsKeysPoliciesAndSessions(t *testing.T) {
	s := motoserver.StartGuarded(t)
	cfg := s.AWS(motoserver.HomeRegion)
	if err := create(t.Context(), cfg, "a/b"); err != nil {
		t.Fatal(err)
	}
	reader := s.User(t, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"secretsmanager:Get*","Resource":"*"}]}`)
	if _, err := read(t, as(cfg, reader), "a/b"); err != nil {
		t.Error(err)
	}
	wantCode(t, create(t.Context(), as(cfg, reader), "c"), "AccessDeniedException")
	wrong := reader
	wrong.Secret += "x"
	_, err := read(t, as(cfg, wrong), "a/b")
	wantCode(t, err, "InvalidSignatureException")

	role := cfg
	role.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), s.Role(t, motoserver.Everything)))
	if _, err := read(t, role, "a/b"); err != nil {
		t.Error(err)
	}
	s.EndSessions(t)
	_, err = read(t, role, "a/b")
	wantCode(t, err, "UnrecognizedClientException")

	next := s.NextKey(t, reader)
	s.DeleteKey(t, reader)
	_, err = read(t, as(cfg, reader), "a/b")
	wantCode(t, err, "UnrecognizedClientException")
	s.Kill()
	s.Restart(t)
	_, err = read(t, as(cfg, reader), "a/b")
	wantCode(t, err, "UnrecognizedClientException")
	if _, err := read(t, as(cfg, next), "a/b"); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// A test process that is killed closes its end of the pipe and nothing else.
func TestServerProcessEndsWithItsStandardInput(t *testing.T) {
	python, err := motoserver.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "server.py")
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
