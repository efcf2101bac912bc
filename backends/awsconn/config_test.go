package awsconn_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
)

const role = "arn:aws:iam::123456789012:role/keybroker"

func TestConfigIsDecodedFromABlock(t *testing.T) {
	t.Parallel()
	body := `
region           = "us-east-1"
endpoint         = "https://vpce-1.secretsmanager.us-east-1.vpce.amazonaws.com"
ca_cert_file     = "/etc/ca.pem"
credentials_file = "/run/secrets/aws"
assume_role {
  role_arn     = "` + role + `"
  session_name = "kb"
  external_id  = "x"
  endpoint     = "https://sts.us-east-1.amazonaws.com"
}`
	file, diags := hclparse.NewParser().ParseHCL([]byte(body), "config.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var got awsconn.Config
	if diags := gohcl.DecodeBody(file.Body, nil, &got); diags.HasErrors() {
		t.Fatal(diags)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	want := awsconn.AssumeRole{RoleARN: role, SessionName: "kb", ExternalID: "x", Endpoint: "https://sts.us-east-1.amazonaws.com"}
	if got.Region != "us-east-1" || !strings.HasPrefix(got.Endpoint, "https://vpce-1.") || got.CACertFile != "/etc/ca.pem" ||
		got.CredentialsFile != "/run/secrets/aws" || got.AssumeRole == nil || *got.AssumeRole != want {
		t.Errorf("decoded as %+v", got)
	}
}

func TestValidateReportsEveryMistake(t *testing.T) {
	t.Parallel()
	in := func(c awsconn.Config) awsconn.Config {
		if c.Region == "" {
			c.Region = "eu-central-1"
		}
		return c
	}
	assume := func(a awsconn.AssumeRole) awsconn.Config {
		if a.RoleARN == "" {
			a.RoleARN = role
		}
		return in(awsconn.Config{AssumeRole: &a})
	}
	tests := map[string]struct {
		cfg  awsconn.Config
		says []string
	}{
		"nothing":              {awsconn.Config{}, []string{`region "" is no AWS region`}},
		"region in capitals":   {in(awsconn.Config{Region: "EU"}), []string{`region "EU" is no AWS region`}},
		"no scheme":            {in(awsconn.Config{Endpoint: "localhost:4566"}), []string{"endpoint must be a URL"}},
		"credentials in URL":   {in(awsconn.Config{Endpoint: "https://u:" + canary + "@aws"}), []string{"endpoint must not hold credentials"}},
		"path in URL":          {in(awsconn.Config{Endpoint: "https://aws/v1"}), []string{"endpoint must end after the host"}},
		"plain http":           {in(awsconn.Config{Endpoint: "http://10.0.0.1:4566"}), []string{"over plain HTTP", "Write https://10.0.0.1:4566"}},
		"key without secret":   {in(awsconn.Config{AccessKeyID: canary}), []string{"need each other"}},
		"token without key":    {in(awsconn.Config{SessionToken: canary}), []string{"need each other"}},
		"secret with a break":  {in(awsconn.Config{AccessKeyID: canary, SecretAccessKey: canary + "\n"}), []string{"one printable line"}},
		"key and file":         {in(awsconn.Config{AccessKeyID: canary, SecretAccessKey: canary, CredentialsFile: "f"}), []string{"exclude each other"}},
		"file and profile":     {in(awsconn.Config{CredentialsFile: "f", Profile: "p"}), []string{"exclude each other"}},
		"role that is none":    {assume(awsconn.AssumeRole{RoleARN: "keybroker"}), []string{`assume_role.role_arn "keybroker" is no role`}},
		"role of a user":       {assume(awsconn.AssumeRole{RoleARN: "arn:aws:iam::123456789012:user/x"}), []string{"is no role's ARN"}},
		"session name":         {assume(awsconn.AssumeRole{SessionName: "a b"}), []string{`assume_role.session_name "a b"`}},
		"too short a session":  {assume(awsconn.AssumeRole{Duration: time.Minute}), []string{"duration is 1m0s"}},
		"too long a session":   {assume(awsconn.AssumeRole{Duration: 13 * time.Hour}), []string{"duration is 13h0m0s"}},
		"plain http to STS":    {assume(awsconn.AssumeRole{Endpoint: "http://sts.example.com"}), []string{"assume_role.endpoint must begin with https"}},
		"two mistakes in one":  {awsconn.Config{Endpoint: "x", AccessKeyID: canary}, []string{"no AWS region", "endpoint must be a URL", "need each other"}},
		"http by another name": {in(awsconn.Config{Endpoint: "http://localhost.example.com"}), []string{"over plain HTTP"}},
	}
	for name, tt := range tests {
		err := tt.cfg.Validate()
		wantClass(t, name, err, backends.ErrInvalid)
		for _, says := range tt.says {
			if !strings.Contains(fmt.Sprint(err), says) {
				t.Errorf("%s: %v, want it to say %q", name, err, says)
			}
		}
		_, err = awsconn.Load(t.Context(), tt.cfg, hclog.NewNullLogger())
		wantClass(t, name+", loaded", err, backends.ErrInvalid)
	}
}

func TestUnreadableFilesAreMistakes(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	for name, cfg := range map[string]awsconn.Config{
		"ca_cert_file": {Region: "eu-central-1", AccessKeyID: "a", SecretAccessKey: canary, CACertFile: none},
		"profile":      {Region: "eu-central-1", Profile: "nobody"},
	} {
		_, err := awsconn.Load(t.Context(), cfg, hclog.NewNullLogger())
		wantClass(t, name, err, backends.ErrInvalid)
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	base := awsconn.Config{Region: "eu-central-1", AccessKeyID: canary, SecretAccessKey: canary}
	if place := base.Place(); place == "" || strings.Contains(place, canary) {
		t.Errorf("the place is %q", place)
	}
	if (awsconn.Config{}).Place() != "" {
		t.Error("there is a place without a region")
	}
	same := base
	same.SecretAccessKey = "another"
	if same.Place() != base.Place() {
		t.Error("another secret of the same key leads elsewhere")
	}
	seen := map[string]string{}
	for name, c := range map[string]awsconn.Config{
		"base":     base,
		"region":   {Region: "eu-west-1", AccessKeyID: canary},
		"endpoint": {Region: "eu-central-1", AccessKeyID: canary, Endpoint: "http://127.0.0.1:1"},
		"key":      {Region: "eu-central-1", AccessKeyID: "another"},
		"chain":    {Region: "eu-central-1"},
		"profile":  {Region: "eu-central-1", Profile: "p"},
		"file":     {Region: "eu-central-1", CredentialsFile: "p"},
		"role":     {Region: "eu-central-1", AssumeRole: &awsconn.AssumeRole{RoleARN: role}},
	} {
		if other, ok := seen[c.Place()]; ok {
			t.Errorf("%s leads where %s does", name, other)
		}
		seen[c.Place()] = name
	}
	account := awsconn.Config{Region: "eu-central-1", AssumeRole: &awsconn.AssumeRole{RoleARN: role + "-of-others"}}
	if seen[account.Place()] != "role" {
		t.Error("two roles of one account lead to two places")
	}
}
