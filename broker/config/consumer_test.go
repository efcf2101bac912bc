package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/config"
)

// Signing secrets that an operator may give.
const (
	ownSecret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	nextOwn   = "whsec_AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
)

// TestDigestOfAConsumer: it is about all that the block says and names, save the files
// that others read anew.
func TestDigestOfAConsumer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, err := os.ReadFile("testdata/recipient.jwk")
	if err != nil {
		t.Fatal(err)
	}
	secret := ownSecret
	digest := func(hcl string) (digest, written, printed string) {
		t.Helper()
		cfg, diags := config.Parse(map[string][]byte{"x.hcl": []byte(hcl)}, registry(), config.Options{Dir: dir,
			LookupEnv: func(string) (string, bool) { return secret, true }})
		if err := diags.Err(); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		cfg.Consumers[0].Digest(&out)
		return out.String(), cfg.Consumers[0].Written(), fmt.Sprintf("%+v %#v", *cfg.Consumers[0], *cfg.Consumers[0])
	}
	const sealed = `consumer "c" {
  webhook {
    url             = "https://a.example"
    payload         = "sealed"
    public_key_file = "c.jwk"
    signing_secret  = env("SECRET")
  }
}`
	write("c.jwk", string(key))
	first, written, printed := digest(sealed)
	if strings.Contains(printed, ownSecret) || strings.Contains(written, ownSecret) {
		t.Error("the signing secret is shown")
	}
	if got, same, _ := digest(strings.ReplaceAll(sealed, "  ", "") + "\n# more"); got != first || same != written {
		t.Error("layout and comments change it")
	}
	if got, other, _ := digest(strings.Replace(sealed, "a.example", "b.example", 1)); got == first || other == written {
		t.Error("another url does not change it")
	}
	secret = nextOwn
	second, same, _ := digest(sealed)
	if second == first || same != written {
		t.Error("another signing secret does not change it, or what is written")
	}
	write("c.jwk", strings.Replace(string(key), "2026-11", "2026-12", 1))
	if got, _, _ := digest(sealed); got == second {
		t.Error("another public key does not change it")
	}

	inFile := strings.Replace(sealed, `signing_secret  = env("SECRET")`, `signing_secret_file = "c.whsec"`, 1)
	write("c.whsec", ownSecret+"\n")
	third, _, _ := digest(inFile)
	write("c.whsec", ownSecret+"\n"+nextOwn+"\n")
	if got, _, _ := digest(inFile); got != third {
		t.Error("a signing secret that is read by who signs changes it")
	}
}

// TestConsumerCanary: whatever is wrong with a consumer's keys, none of them is shown.
func TestConsumerCanary(t *testing.T) {
	t.Parallel()
	const canary = "Q0FOQVJZ3b1f"
	dir := t.TempDir()
	for name, content := range map[string]string{
		"torn.whsec":  ownSecret + "\nwhsec_" + canary + "\n",
		"public":      "whpk_" + canary,
		"private.jwk": `{"kty":"EC","crv":"P-256","x":"` + canary + `","y":"x","d":"` + canary + `"}`,
		"oct.jwk":     `{"keys":[{"kty":"oct","k":"` + canary + `"}]}`,
		"torn.jwk":    `{"kty":"EC","crv":"P-256","x":"` + canary,
		"private.pem": "-----BEGIN PRIVATE KEY-----\n" + canary + "\n-----END PRIVATE KEY-----\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opts := config.Options{Dir: dir, LookupEnv: func(string) (string, bool) { return "whsec_" + canary, true }}
	for _, attributes := range []string{
		`signing_secret_file = "torn.whsec"`,
		`signing_secret_file = "public"`,
		`signing_secret = env("X")`,
		`signing_secret = "whsec_` + canary + `"`,
		`signing_secret = env("X")` + "\n" + `signing_secret_file = "torn.whsec"`,
		`public_key_file = "private.jwk"` + "\n" + `payload = "sealed"`,
		`public_key_file = "oct.jwk"` + "\n" + `payload = "sealed"`,
		`public_key_file = "torn.jwk"` + "\n" + `payload = "sealed"`,
		`public_key_file = "private.pem"` + "\n" + `payload = "sealed"`,
		`client_cert_file = "private.pem"` + "\n" + `client_key_file = "private.pem"`,
	} {
		cfg, diags := config.Parse(map[string][]byte{"a.hcl": []byte("consumer \"c\" {\nwebhook {\nurl = \"https://x.example\"\n" + attributes + "\n}\n}")}, registry(), opts)
		var b strings.Builder
		if err := diags.WriteText(&b, false); err != nil {
			t.Fatal(err)
		}
		if cfg != nil || !diags.HasErrors() {
			t.Errorf("it is taken: %s", strings.ReplaceAll(attributes, canary, "…"))
		}
		if strings.Contains(b.String()+diags.Err().Error(), canary) {
			t.Errorf("a key is shown: %s", strings.ReplaceAll(b.String(), canary, "CANARY"))
		}
	}
}
