package broker

import (
	"context"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/policy"
)

// ReadMetrics tells whether p may read the metrics of the node. They are about all
// tenants and environments: who is bound to one may not.
func (b *Broker) ReadMetrics(ctx context.Context, p authn.Principal) error {
	return b.do(ctx, p, policy.Read, request{action: "metrics.read", path: "sys/metrics"}, func() error { return nil })
}
