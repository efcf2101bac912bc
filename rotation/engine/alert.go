package engine

import (
	"context"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Kinds of alerts that a Tx is told of: what may be over before anybody looks.
const (
	AlertUnconfirmed            = "unconfirmed"
	AlertResurrected            = "resurrected"
	AlertUnprovable             = "unprovable"
	AlertMissingAcknowledgement = "missing_acknowledgement"
	AlertIssuerDown             = "issuer_down"
	AlertValueWanted            = "value_wanted"   // a person is to make a credential
	AlertRevokeByHand           = "revoke_by_hand" // a person is to turn one off
	AlertReissued               = "reissued"       // an issuer gave a value that it had given before
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

// AlertOf says what people must be told of a retirement that is in the state it is in;
// kind is empty if nothing: where nobody is to prove it, that nobody can is no news.
func AlertOf(t rotation.Retirement, ref backends.Ref) (kind, text, next string) {
	next = "keybroker retirement show " + t.ID
	switch {
	case t.State == rotation.Unconfirmed && t.ByHand && t.AcknowledgedAt.IsZero():
		return AlertRevokeByHand, fmt.Sprintf("version %d of %s is to be turned off by hand: %s", t.Version, ref, t.Why()), "keybroker retirement done " + t.ID
	case t.State == rotation.Unconfirmed:
		return AlertUnconfirmed, fmt.Sprintf("version %d of %s was revoked and is not proven dead: %s", t.Version, ref, t.Why()), next
	case t.State == rotation.Resurrected:
		return AlertResurrected, fmt.Sprintf("version %d of %s was proven dead and is accepted again; it is being revoked once more", t.Version, ref), next
	case t.State == rotation.Unprovable && !t.Confirm.None:
		return AlertUnprovable, fmt.Sprintf("nobody can prove that version %d of %s is dead: %s", t.Version, ref, t.Why()), next
	}
	return "", "", ""
}
