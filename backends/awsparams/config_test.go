package awsparams_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awsconn"
	"github.com/keybroker/keybroker/backends/awsparams"
)

func TestConfigIsDecodedFromABlock(t *testing.T) {
	body := `
region      = "us-east-1"
kms_key_id  = "alias/secrets"
tier        = "Intelligent-Tiering"
layout      = "string"
field       = "password"
path_prefix = "keybroker/"
tags        = { team = "growth" }
assume_role {
  role_arn = "arn:aws:iam::123456789012:role/keybroker"
}`
	file, diags := hclparse.NewParser().ParseHCL([]byte(body), "config.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var got awsparams.Config
	if diags := gohcl.DecodeBody(file.Body, nil, &got); diags.HasErrors() {
		t.Fatal(diags)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if got.KMSKeyID != "alias/secrets" || got.Tier != "Intelligent-Tiering" || got.Layout != "string" || got.Field != "password" ||
		got.PathPrefix != "keybroker/" || got.Tags["team"] != "growth" || got.Conn.Region != "us-east-1" || got.Conn.AssumeRole.RoleARN == "" {
		t.Errorf("decoded as %+v", got)
	}
	file, _ = hclparse.NewParser().ParseHCL([]byte(body+"\nlay_out = 1\n"), "config.hcl")
	if diags := gohcl.DecodeBody(file.Body, nil, &got); !diags.HasErrors() {
		t.Error("an unknown attribute was accepted")
	}
}

func TestValidate(t *testing.T) {
	good := config("https://vpce.example.com", "eu-central-1")
	for _, prefix := range []string{"", "keybroker", "keybroker/", "/keybroker/prod/"} {
		good.PathPrefix = prefix
		if err := good.Validate(); err != nil {
			t.Errorf("path_prefix %q: %v", prefix, err)
		}
	}
	for says, spoil := range map[string]func(*awsparams.Config){
		`path_prefix "../other/"`:  func(c *awsparams.Config) { c.PathPrefix = "../other/" },
		`path_prefix "a@b"`:        func(c *awsparams.Config) { c.PathPrefix = "a@b" },
		`path_prefix "AWS/x"`:      func(c *awsparams.Config) { c.PathPrefix = "AWS/x" },
		`path_prefix "x/`:          func(c *awsparams.Config) { c.PathPrefix = strings.Repeat("x/", 15) },
		`layout "binary" is none`:  func(c *awsparams.Config) { c.Layout = "binary" },
		"field is not for layout":  func(c *awsparams.Config) { c.Field = "password" },
		`tier "advanced" is none`:  func(c *awsparams.Config) { c.Tier = "advanced" },
		`tags: "aws:x" is no tag`:  func(c *awsparams.Config) { c.Tags = map[string]string{"aws:x": "1"} },
		`region "" is no AWS regi`: func(c *awsparams.Config) { c.Conn.Region = "" },
	} {
		cfg := good
		spoil(&cfg)
		err := cfg.Validate()
		wantClass(t, says, err, backends.ErrInvalid)
		if !strings.HasPrefix(fmt.Sprint(err), "invalid: "+says) {
			t.Errorf("got %v, want it to say %q", err, says)
		}
		if _, err := awsparams.Open(t.Context(), cfg, hclog.NewNullLogger()); !errors.Is(err, backends.ErrInvalid) {
			t.Errorf("opened with a mistake: %v", err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct {
		cfg  awsparams.Config
		want backends.Capabilities
	}{
		{awsparams.Config{}, backends.Capabilities{Versions: true, MaxValueSize: 4096}},
		{awsparams.Config{Tier: "Standard", Layout: "string"}, backends.Capabilities{Versions: true, MaxValueSize: 4096, Field: "value"}},
		{awsparams.Config{Tier: "Advanced", Layout: "json"}, backends.Capabilities{Versions: true, MaxValueSize: 8192}},
		{awsparams.Config{Tier: "Intelligent-Tiering", Layout: "string", Field: "x"}, backends.Capabilities{Versions: true, MaxValueSize: 8192, Field: "x"}},
	} {
		if got := tt.cfg.Capabilities(); got != tt.want {
			t.Errorf("%+v gives %+v, want %+v", tt.cfg, got, tt.want)
		}
	}
}

func TestPlace(t *testing.T) {
	place := func(change func(*awsparams.Config)) string {
		cfg := awsparams.Config{PathPrefix: "keybroker/", Conn: awsconn.Config{
			Region: "eu-central-1", AssumeRole: &awsconn.AssumeRole{RoleARN: "arn:aws:iam::123456789012:role/keybroker"},
		}}
		change(&cfg)
		return cfg.Place()
	}
	first := place(func(*awsparams.Config) {})
	if first == "" {
		t.Fatal("the place of a role's account is not told")
	}
	for _, same := range []string{"keybroker", "/keybroker", "/keybroker/"} {
		if got := place(func(c *awsparams.Config) { c.PathPrefix = same }); got != first {
			t.Errorf("path_prefix %q is at %q, want %q", same, got, first)
		}
	}
	for name, change := range map[string]func(*awsparams.Config){
		"folder": func(c *awsparams.Config) { c.PathPrefix = "other/" },
		"root":   func(c *awsparams.Config) { c.PathPrefix = "" },
		"region": func(c *awsparams.Config) { c.Conn.Region = "us-east-1" },
	} {
		if place(change) == first {
			t.Errorf("another %s is the same place", name)
		}
	}
}
