package awsparams_test

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

// The rights that docs/backends.md names are enough for every operation.
func TestDocumentedRightsSuffice(t *testing.T) {
	s := motoserver.SharedGuarded(t)
	p := regexp.MustCompile(`(?s)"Resource": \[[^\]]*\]`).ReplaceAllString(documented(t, "json", "ssm:PutParameter"), `"Resource": "*"`) // moto knows actions only
	key := s.User(t, p)
	cfg := config(s.URL, s.Region())
	cfg.Tags = map[string]string{"team": "x"}
	cfg.Conn.AccessKeyID, cfg.Conn.SecretAccessKey = backends.SecretString(key.ID), backends.SecretString(key.Secret)
	d := open(t, cfg)
	first := publish(t, d, 1, "")
	second := publish(t, d, 2, first)
	label(t, ssm.NewFromConfig(s.AWS(cfg.Conn.Region)), 1, "old")
	if err := errors.Join(d.Retire(t.Context(), ref, first), d.Check(t.Context())); err != nil {
		t.Error(err)
	}
	if _, _, err := d.Read(t.Context(), ref, second); err != nil {
		t.Error(err)
	}
	if _, err := d.Describe(t.Context(), ref); err != nil {
		t.Error(err)
	}
	if _, _, err := d.List(t.Context(), ref.Tenant, "", 10); err != nil {
		t.Error(err)
	}
}

// documented returns the policy of docs/backends.md that mentions what, in the block of
// a language.
func documented(t *testing.T, language, what string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/backends.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(text), "```") { // every second one stands between two marks
		if body, ok := strings.CutPrefix(block, language+"\n"); ok && i%2 == 1 && strings.Contains(body, what) {
			return body
		}
	}
	t.Fatalf("docs/backends.md shows no %s block with %s", language, what)
	return ""
}
