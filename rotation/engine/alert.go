package engine

import (
	"context"

	"github.com/keybroker/keybroker/backends"
)

// Kinds of alerts that a Tx is told of: what may be over before anybody looks.
const (
	AlertResurrected            = "resurrected"
	AlertMissingAcknowledgement = "missing_acknowledgement"
)

// Alerter is a Tx that also keeps what people must be told, with what happened. A
// store whose Tx is none tells nobody.
type Alerter interface {
	// AddAlert opens the alert of that kind and subject (an id), or counts it once more if
	// it is open. The text is for people; next is the command to run.
	AddAlert(ctx context.Context, kind, tenant, subject, text, next string) error
}

func alert(ctx context.Context, tx Tx, kind string, ref backends.Ref, subject, text, next string) error {
	if a, ok := tx.(Alerter); ok {
		return a.AddAlert(ctx, kind, ref.Tenant, subject, text, next)
	}
	return nil
}
