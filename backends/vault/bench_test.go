package vault_test

import (
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/vaultserver"
	"github.com/keybroker/keybroker/backends/vault"
	"github.com/keybroker/keybroker/backends/vaultconn"
)

// BenchmarkBackendsVault measures a real core on loopback with the driver.
func BenchmarkBackendsVault(b *testing.B) {
	s := vaultserver.Shared(b)
	d, err := vault.Open(b.Context(), vault.Config{Mount: s.KV(b), Conn: vaultconn.Config{Address: s.Addr,
		Auth: []vaultconn.Auth{{Method: "token", Token: backends.SecretString(s.RootToken)}}}}, hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.Close)
	backendtest.Bench(b, backendtest.Harness{Driver: d}, "vault")
}
