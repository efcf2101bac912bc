package vaultconn_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

func TestConfigIsDecodedFromABlock(t *testing.T) {
	t.Parallel()
	body := `
address         = "https://vault.example.com:8200"
namespace       = "team"
ca_cert_file    = "/etc/ca.pem"
tls_server_name = "vault"
auth "approle" {
  role_id        = "r"
  secret_id_file = "/run/secret-id"
  mount          = "ci"
}`
	file, diags := hclparse.NewParser().ParseHCL([]byte(body), "config.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var got vaultconn.Config
	if diags := gohcl.DecodeBody(file.Body, nil, &got); diags.HasErrors() {
		t.Fatal(diags)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if got.Address != "https://vault.example.com:8200" || got.Namespace != "team" || got.CACertFile != "/etc/ca.pem" ||
		got.TLSServerName != "vault" || got.Auth[0].Method != "approle" || got.Auth[0].RoleID.Reveal() != "r" ||
		got.Auth[0].SecretIDFile != "/run/secret-id" || got.Auth[0].Mount != "ci" {
		t.Errorf("decoded as %+v", got)
	}
}

func as(auth vaultconn.Auth) vaultconn.Config {
	return vaultconn.Config{Address: "https://vault", Auth: []vaultconn.Auth{auth}}
}

func TestEveryMethodIsDecodedFromABlock(t *testing.T) {
	t.Parallel()
	for _, auth := range []string{
		`auth "token" { token = "t" }`,
		`auth "token" { token_file = "/run/token" }`,
		`auth "approle" {
  role_id           = "r"
  secret_id_file    = "/run/secret-id"
  secret_id_wrapped = true
}`,
		`auth "kubernetes" { role = "broker" }`,
		`auth "kubernetes" {
  role     = "broker"
  jwt_file = "/run/jwt"
  mount    = "clusters/a"
}`,
		`auth "jwt" {
  role     = "broker"
  jwt_file = "/run/jwt"
}`,
		`auth "jwt" {
  role  = "broker"
  jwt   = "j"
  mount = "ci"
}`,
	} {
		file, diags := hclparse.NewParser().ParseHCL([]byte("address = \"https://vault\"\n"+auth), "config.hcl")
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		var got vaultconn.Config
		if diags := gohcl.DecodeBody(file.Body, nil, &got); diags.HasErrors() {
			t.Fatal(diags)
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%s: %v", auth, err)
		}
	}
}

func TestValidateReportsEveryMistake(t *testing.T) {
	t.Parallel()
	token := vaultconn.Auth{Method: "token", Token: canary}
	tests := map[string]struct {
		cfg  vaultconn.Config
		says []string
	}{
		"nothing":            {vaultconn.Config{}, []string{"address must be a URL", "exactly one auth block"}},
		"no scheme":          {vaultconn.Config{Address: "vault:8200", Auth: []vaultconn.Auth{token}}, []string{"address must be a URL"}},
		"credentials in URL": {vaultconn.Config{Address: "https://u:" + canary + "@vault", Auth: []vaultconn.Auth{token}}, []string{"must not hold credentials"}},
		"path in URL":        {vaultconn.Config{Address: "https://vault/v1", Auth: []vaultconn.Auth{token}}, []string{"end after the host"}},
		"plain http":         {tokenConfig("http://vault.example.com:8200", canary), []string{"over plain HTTP", "Write https://vault.example.com:8200"}},
		"plain http to IP":   {tokenConfig("http://10.0.0.1:8200", canary), []string{"over plain HTTP"}},
		"plain http by name": {tokenConfig("http://localhost.example.com", canary), []string{"over plain HTTP"}},
		"two logins":         {vaultconn.Config{Address: "https://vault", Auth: []vaultconn.Auth{token, token}}, []string{"exactly one auth block"}},
		"token with a break": {tokenConfig("https://vault", canary+"\n"), []string{"one printable line"}},
		"unknown method":     {vaultconn.Config{Address: "https://vault", Auth: []vaultconn.Auth{{Method: "ldap"}}}, []string{`auth "ldap" is no method: use one of approle, jwt, kubernetes, token`}},
		"mixed": {as(vaultconn.Auth{Method: "approle", Token: canary, SecretID: canary, SecretIDFile: "f"}),
			[]string{"needs role_id", "either secret_id or secret_id_file", "takes no token but only role_id"}},
		"token with more":      {as(vaultconn.Auth{Method: "token", Token: canary, Mount: "m"}), []string{"takes no mount"}},
		"token and file":       {as(vaultconn.Auth{Method: "token", Token: canary, TokenFile: "f"}), []string{"either token = env(...) or token_file"}},
		"wrapped without file": {as(vaultconn.Auth{Method: "approle", RoleID: canary, SecretID: canary, SecretIDWrapped: true}), []string{"good once"}},
		"kubernetes":           {as(vaultconn.Auth{Method: "kubernetes", JWT: canary}), []string{"needs role", "takes no jwt"}},
		"jwt":                  {as(vaultconn.Auth{Method: "jwt"}), []string{"needs role", "either jwt = env(...) or jwt_file"}},
		"mount":                {as(vaultconn.Auth{Method: "jwt", Role: "r", JWTFile: "f", Mount: "../sys"}), []string{"no path like jwt"}},
		"half a certificate": {vaultconn.Config{Address: "https://vault", ClientCertFile: "f", Auth: []vaultconn.Auth{token}},
			[]string{"client_cert_file and client_key_file need each other"}},
		"namespace": {vaultconn.Config{Address: "https://vault", Namespace: "a\r\nb", Auth: []vaultconn.Auth{token}}, []string{"namespace"}},
	}
	for name, tt := range tests {
		err := tt.cfg.Validate()
		wantClass(t, err, backends.ErrInvalid)
		for _, says := range tt.says {
			if !strings.Contains(fmt.Sprint(err), says) {
				t.Errorf("%s: %v, want it to say %q", name, err, says)
			}
		}
		if _, dialErr := vaultconn.Dial(t.Context(), tt.cfg, hclog.NewNullLogger()); !errors.Is(dialErr, backends.ErrInvalid) {
			t.Errorf("%s: dialled with %v", name, dialErr)
		}
	}
}

func TestPlainHTTPIsForLoopback(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"http://127.0.0.1:8200", "http://[::1]:8200", "http://localhost:8200", "http://127.9.9.9"} {
		if err := tokenConfig(address, canary).Validate(); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}
