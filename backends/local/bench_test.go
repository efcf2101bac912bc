package local_test

import (
	"testing"

	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/local"
)

// BenchmarkBackendsLocal measures sealing and local's own work, on a map. On the
// broker's storage it is backends.local_sqlite, of package broker/store.
func BenchmarkBackendsLocal(b *testing.B) {
	backendtest.Bench(b, backendtest.Harness{Driver: local.New(newSealer(b), newMemory()), Writable: 100}, "local")
}
