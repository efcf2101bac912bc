package eventbridge

import "github.com/keybroker/keybroker/rotation/trigger/inbound"

// Parse reads the body of a message, for tests that need no queue.
func Parse(cfg Config, names func(Secret) []string, body string) (inbound.Event, error) {
	return (&Queue{cfg: cfg, names: names}).parse(body)
}
