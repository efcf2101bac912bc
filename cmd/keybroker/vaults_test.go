package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// theVault is where scripts keep their *mailerSite.
type theVault struct{}

// mailerSite is a real Vault, and a server that mints keys for whoever is its admin.
type mailerSite struct {
	vault *vaultserver.Server
	api   *keyserver.Server
}

// startVault is the command `vault` of the scripts: it starts both, and writes
// testdata/mailer.hcl to the configuration of the server that `serve` starts.
func startVault(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: vault")
	}
	tb := ts.Value(theTest{}).(testing.TB)
	site := &mailerSite{vaultserver.Start(tb), keyserver.Start(tb)}
	*ts.Value(theVault{}).(**mailerSite) = site
	dir := ts.MkAbs("config")
	ts.Check(os.MkdirAll(dir, 0o700))
	roleID, secretID := site.vault.AppRole(tb, vaultserver.AppRole{Policy: vaultserver.Everything})
	hcl, err := os.ReadFile("testdata/mailer.hcl")
	ts.Check(err)
	filled := strings.NewReplacer("DIR", dir, "VAULT_ADDR", site.vault.Addr, "API_URL", site.api.URL).Replace(string(hcl))
	for name, text := range map[string]string{"mailer.hcl": filled, "role-id": roleID, "secret-id": secretID, "mailer-admin": site.api.AdminToken} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
}

// somebody is the command of what happens behind the broker's back:
//
//	somebody mints VAR         sets VAR to a new key, VAR_ID to what its issuer calls it
//	somebody revokes ID
//	somebody writes NAME F=V   into the vault
//	somebody seals|unseals     the vault
func somebody(ts *testscript.TestScript, neg bool, args []string) {
	site := *ts.Value(theVault{}).(**mailerSite)
	if neg || site == nil || len(args) == 0 {
		ts.Fatalf("usage: somebody mints|revokes|writes|seals|unseals …, after vault")
	}
	tb := ts.Value(theTest{}).(testing.TB)
	switch does, args := args[0], args[1:]; does {
	case "mints":
		var made struct{ ID, Secret string }
		ts.Check(json.Unmarshal(site.admin(ts, http.MethodPost, "/v1/keys", `{"name":"by-hand"}`), &made))
		ts.Setenv(args[0], made.Secret)
		ts.Setenv(args[0]+"_ID", made.ID)
	case "revokes":
		site.admin(ts, http.MethodDelete, "/v1/keys/"+args[0], "")
	case "writes":
		fields := map[string]any{}
		for _, f := range args[1:] {
			name, text, _ := strings.Cut(f, "=")
			fields[name] = text
		}
		_, err := site.vault.Client(tb).KVv2("secret").Put(tb.Context(), "keybroker/"+args[0], fields)
		ts.Check(err)
	case "seals":
		site.vault.Seal(tb)
	case "unseals":
		site.vault.Unseal(tb)
	default:
		ts.Fatalf("nobody %s", does)
	}
}

func (s *mailerSite) admin(ts *testscript.TestScript, method, path, body string) []byte {
	req, err := http.NewRequest(method, s.api.URL+path, strings.NewReader(body))
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer "+s.api.AdminToken)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	var answer bytes.Buffer
	_, err = answer.ReadFrom(resp.Body)
	ts.Check(err)
	if resp.StatusCode/100 != 2 {
		ts.Fatalf("%s %s: %s", method, path, resp.Status)
	}
	return answer.Bytes()
}
