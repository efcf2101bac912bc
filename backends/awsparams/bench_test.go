package awsparams_test

import (
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/backends/awsparams"
	"github.com/keybroker/keybroker/backends/backendtest"
	"github.com/keybroker/keybroker/backends/backendtest/motoserver"
)

// BenchmarkBackendsAWSParameterStore measures moto rather than AWS: what the driver
// itself costs shows in comparison with the other backends' figures.
func BenchmarkBackendsAWSParameterStore(b *testing.B) {
	s := motoserver.Shared(b)
	d, err := awsparams.Open(b.Context(), config(s.URL, s.Region()), hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(d.Close)
	backendtest.Bench(b, backendtest.Harness{Driver: d, Writable: 100}, "aws_parameter_store")
}
