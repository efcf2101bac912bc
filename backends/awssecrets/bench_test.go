package awssecrets_test

import (
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends/awssecrets"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

// BenchmarkBackendsAWSSecretsManager measures moto rather than AWS: what the driver
// itself costs shows in comparison with the other backends' figures.
func BenchmarkBackendsAWSSecretsManager(b *testing.B) {
	s := motoserver.Shared(b)
	d, err := awssecrets.Open(b.Context(), config(s.URL, s.Region()), hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.Close)
	backendtest.Bench(b, backendtest.Harness{Driver: d, Writable: awssecrets.MaxVersionsPerDay}, "aws_secrets_manager")
}
