package oidcserver_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/broker/authn/oidcserver"
)

// The provider comes back where it was, and a person can log in to it.
func TestServer(t *testing.T) {
	s := oidcserver.New(t, map[string]map[string]any{"alice": {"groups": []string{"on-call"}}})
	before := s.Issuer
	if token := s.Workload(t, ""); strings.Count(token, ".") != 2 {
		t.Errorf("no JWT")
	}
	s.Stop()
	if resp, err := http.Get(s.Issuer + "/jwks"); err == nil {
		_ = resp.Body.Close()
		t.Error("it still answers")
	}
	s.RotateKey(t)
	if s.Issuer != before {
		t.Errorf("it came back as %s, not %s", s.Issuer, before)
	}
	resp, err := http.PostForm(s.Issuer+"/device/auth", map[string][]string{"client_id": {oidcserver.ClientID}, "scope": {"openid"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the device flow: %s", resp.Status)
	}
}
