package daemon_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

// said loads a configuration with the secret "infra/own", and gives the mistakes and
// warnings in one text each.
func said(t *testing.T, block string, offline bool) (mistakes, warnings string) {
	t.Helper()
	const managed = "backend \"local\" \"here\" {}\nissuer \"random\" \"own\" {\n  field = \"key\"\n}\nsecret \"infra/own\" {\n  backend = \"here\"\n  proof = \"none\"\n  issuer \"own\" {}\n}\n"
	_, diags := config.Parse(map[string][]byte{"a.hcl": []byte(managed + block)}, daemon.Registry(), config.Options{Offline: offline, LookupEnv: func(name string) (string, bool) {
		text, ok := map[string]string{"TEXT": "no key!!", "BASE64": base64.StdEncoding.EncodeToString([]byte("a key")), "HEX": "0aff"}[name]
		return text, ok
	}})
	for _, d := range diags.All() {
		if d.Severity == hcl.DiagWarning {
			warnings += d.Summary + ": " + d.Detail + "\n"
		} else {
			mistakes += d.Summary + ": " + d.Detail + "\n"
		}
	}
	return mistakes, warnings
}

// Vault revokes what it leased to a token with the token: the login of vault_database
// is not one that is rotated, and of any fixed one people are told.
func TestTokenOfLeases(t *testing.T) {
	t.Parallel()
	const issuer = "issuer \"vault_database\" \"db\" {\n  address = \"https://vault.example.com:8200\"\n  auth \"METHOD\" {\n    LOGIN\n  }\n}\n"
	for login, want := range map[string]struct{ mistake, warning string }{
		`token|token = secret("infra/own").key`:                                 {"cannot be a managed secret", ""},
		`token|token = "x${secret("infra/own").key}"`:                           {"cannot be a managed secret", ""},
		`token|token = env("TEXT")`:                                             {"", "ends with this one token"},
		`token|token_file = "/run/token"`:                                       {"", "ends with this one token"},
		"approle|role_id = env(\"HEX\")\nsecret_id = secret(\"infra/own\").key": {"", ""},
	} {
		method, login, _ := strings.Cut(login, "|")
		mistakes, warnings := said(t, strings.NewReplacer("METHOD", method, "LOGIN", login).Replace(issuer), false)
		if (mistakes == "") != (want.mistake == "") || !strings.Contains(mistakes, want.mistake) || !strings.Contains(warnings, want.warning) || want.warning == "" && strings.Contains(warnings, "ends with this one token") {
			t.Errorf("%s: mistakes %q, warnings %q", login, mistakes, warnings)
		}
	}
	// Of a backend it is nobody's death.
	backend := "backend \"vault\" \"v\" {\n  address = \"https://vault.example.com:8200\"\n  auth \"token\" {\n    token = secret(\"infra/own\").key\n  }\n}\n"
	if mistakes, _ := said(t, backend, false); mistakes != "" {
		t.Errorf("a backend's token: %s", mistakes)
	}
}

// A key that is not written as key_encoding says is found when it is loaded, and what is
// not known yet passes.
func TestKeysOfSignaturesAreDecodedAtOnce(t *testing.T) {
	t.Parallel()
	const issuer = `issuer "http" "api" {
  base_url = "https://api.example"
  auth "hmac" {
    key          = KEY
    key_encoding = "ENCODING"
    sign         = "${request.body}"
    header       = "X-Signature"
  }
  create {
    path   = "/keys"
    handle = { id = "$.id" }
    fields = { key = "$.key" }
  }
  revoke {
    path = "/keys/${handle.id}"
  }
}
`
	for _, tt := range []struct {
		key, encoding string
		offline, bad  bool
	}{
		{`env("TEXT")`, "base64", false, true},
		{`env("TEXT")`, "hex", false, true},
		{`env("TEXT")`, "text", false, false},
		{`env("BASE64")`, "base64", false, false},
		{`env("HEX")`, "hex", false, false},
		{`env("TEXT")`, "base64", true, false},
		{`env("TEXT")`, "hex", true, false},
		{`secret("infra/own").key`, "base64", false, false},
		{`secret("infra/own").key`, "hex", false, false},
	} {
		mistakes, _ := said(t, strings.NewReplacer("KEY", tt.key, "ENCODING", tt.encoding).Replace(issuer), tt.offline)
		if (mistakes != "") != tt.bad || tt.bad && !strings.Contains(mistakes, "is not written in "+tt.encoding) || strings.Contains(mistakes, "no key!!") {
			t.Errorf("%s as %s, offline %t: %q", tt.key, tt.encoding, tt.offline, mistakes)
		}
	}
}
