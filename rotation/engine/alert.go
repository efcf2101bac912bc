package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/issuer"
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
	AlertDeadCurrent            = "dead_current"   // no version of a secret may work
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

// Unacknowledged says which consumers an overlap waits for, or was ended without.
func Unacknowledged(consumers []string) string { return listed(consumers) + " not acknowledged" }

// Unreceived says which consumers have not got a version.
func Unreceived(consumers []string) string { return listed(consumers) + " not received" }

// listed is "a, b and 4 others have".
func listed(consumers []string) string {
	const most = 5
	verb, all := "have", consumers
	if n := len(all) - most; n > 1 { // one more is as long as saying so
		all = append(slices.Clone(all[:most]), fmt.Sprintf("%d others", n))
	}
	if len(all) == 1 {
		verb = "has"
	}
	last := len(all) - 1
	return strings.TrimPrefix(strings.Join(all[:last], ", ")+" and "+all[last], " and ") + " " + verb
}

// DeadCurrent says what people must be told of a rotation whose mint has ended the
// current version, and could not set it again; empty if that is not so (any more).
func DeadCurrent(r rotation.Rotation, ref backends.Ref) string {
	switch {
	case r.PuttingBack():
		return fmt.Sprintf("no version of %s may work: rotation %s has ended version %d, and its value could not be set again yet: %s", ref, r.ID, r.From, r.Error)
	case r.InPlace != nil && r.InPlace.Lost:
		return fmt.Sprintf("no version of %s may work: %s; rotate it again, or set the value of version %d by hand", ref, r.Error, r.From)
	}
	return ""
}

// AlertOf says what people must be told of a retirement that is in the state it is in;
// kind is empty if nothing: where nobody is to prove it, that nobody can is no news.
func AlertOf(t rotation.Retirement, ref backends.Ref) (kind, text, next string) {
	next = "keybroker retirement show " + t.ID
	switch {
	case t.State == rotation.Unconfirmed && t.ByHand && t.AcknowledgedAt.IsZero():
		how := strings.TrimPrefix(t.Why(), issuer.ErrByHand.Error()+": ")
		return AlertRevokeByHand, fmt.Sprintf("version %d of %s is to be turned off by hand: %s", t.Version, ref, how), "keybroker retirement done " + t.ID
	case t.State == rotation.Unconfirmed && t.AcknowledgedAt.IsZero() && t.RevokeFailures > 0:
		return AlertUnconfirmed, fmt.Sprintf("version %d of %s could not be revoked since %s, and may be alive: %s; turn it off at its issuer by hand, and then `keybroker retirement done %s`",
			t.Version, ref, stamp(t.RevokeBegunAt), t.Why(), t.ID), next
	case t.State == rotation.Unconfirmed:
		return AlertUnconfirmed, fmt.Sprintf("version %d of %s was revoked and is not proven dead: %s", t.Version, ref, t.Why()), next
	case t.State == rotation.Resurrected:
		return AlertResurrected, fmt.Sprintf("version %d of %s was proven dead and is accepted again; it is being revoked once more", t.Version, ref), next
	case t.State == rotation.Unprovable && !t.Confirm.None:
		return AlertUnprovable, fmt.Sprintf("nobody can prove that version %d of %s is dead: %s", t.Version, ref, t.Why()), next
	}
	return "", "", ""
}

// StuckRemoval says what people must be told of a credential that its issuer was to
// delete and does not; empty if that is not so.
func StuckRemoval(t rotation.Retirement, ref backends.Ref) (text, next string) {
	if !t.StuckRemoval() {
		return "", ""
	}
	return fmt.Sprintf("version %d of %s is disabled and cannot be deleted at its issuer, where it takes a place: delete it there by hand, or give the broker the right to: %s", t.Version, ref, t.Error), "keybroker retirement show " + t.ID
}
