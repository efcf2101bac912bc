package awssecrets_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awssecrets"
)

func TestConfigIsDecodedFromABlock(t *testing.T) {
	body := `
region           = "us-east-1"
kms_key_id       = "alias/secrets"
replicas         = ["eu-west-1"]
layout           = "string"
field            = "password"
path_prefix      = "keybroker/"
tags             = { team = "growth" }
versions_per_day = 50
assume_role {
  role_arn = "arn:aws:iam::123456789012:role/keybroker"
}`
	file, diags := hclparse.NewParser().ParseHCL([]byte(body), "config.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var got awssecrets.Config
	if diags := gohcl.DecodeBody(file.Body, nil, &got); diags.HasErrors() {
		t.Fatal(diags)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if got.KMSKeyID != "alias/secrets" || got.Replicas[0] != "eu-west-1" || got.Layout != "string" || got.Field != "password" ||
		got.PathPrefix != "keybroker/" || got.Tags["team"] != "growth" || got.VersionsPerDay != 50 ||
		got.Conn.Region != "us-east-1" || got.Conn.AssumeRole.RoleARN == "" {
		t.Errorf("decoded as %+v", got)
	}
	file, _ = hclparse.NewParser().ParseHCL([]byte(body+"\nlay_out = 1\n"), "config.hcl")
	if diags := gohcl.DecodeBody(file.Body, nil, &got); !diags.HasErrors() {
		t.Error("an unknown attribute was accepted")
	}
}

func TestValidate(t *testing.T) {
	good := config("https://vpce.example.com", "eu-central-1")
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for says, spoil := range map[string]func(*awssecrets.Config){
		"path_prefix":           func(c *awssecrets.Config) { c.PathPrefix = "../other/" },
		`layout "yaml" is none`: func(c *awssecrets.Config) { c.Layout = "yaml" },
		"field is not for":      func(c *awssecrets.Config) { c.Field = "password" },
		`"keybroker-version"`:   func(c *awssecrets.Config) { c.Tags = map[string]string{"keybroker-version": "1"} },
		`"eu-central-1", which is not another`: func(c *awssecrets.Config) {
			c.Replicas = []string{"eu-west-1", "eu-central-1"}
		},
		`"eu-west-1", which is not another`: func(c *awssecrets.Config) { c.Replicas = []string{"eu-west-1", "eu-west-1"} },
		"versions_per_day is -1":            func(c *awssecrets.Config) { c.VersionsPerDay = -1 },
		"versions_per_day is 96":            func(c *awssecrets.Config) { c.VersionsPerDay = 96 },
		"no AWS region":                     func(c *awssecrets.Config) { c.Conn.Region = "" },
	} {
		cfg := good
		spoil(&cfg)
		err := cfg.Validate()
		wantClass(t, says, err, backends.ErrInvalid)
		if !strings.Contains(fmt.Sprint(err), says) {
			t.Errorf("got %v, want it to say %q", err, says)
		}
		if _, err := awssecrets.Open(t.Context(), cfg, hclog.NewNullLogger()); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("opened with a mistake: %v", err)
		}
	}
}

func TestNameOf(t *testing.T) {
	for _, c := range []struct{ prefix, id, want string }{
		{"", "mail/sendgrid", "mail/sendgrid"},
		{"kb/", "kb/mail/sendgrid", "mail/sendgrid"},
		{"kb", "kb/mail/sendgrid", "mail/sendgrid"},
		{"kb/", "kbx/mail", ""},
		{"kb/", "mail", ""},
		{"kb/", "kb", ""},
	} {
		if got := (awssecrets.Config{PathPrefix: c.prefix}).NameOf(c.id); got != c.want {
			t.Errorf("%q below %q: %q", c.id, c.prefix, got)
		}
	}
}
