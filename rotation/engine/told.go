package engine

import (
	"context"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// endStep ends a step of a rotation, and lets the audit log tell of it. Steps that
// have an event of their own, such as a mint, do without.
func (e *Engine) endStep(ctx context.Context, tx Tx, ref backends.Ref, rotationID, step, outcome, detail string, at time.Time) error {
	if err := tx.EndStep(ctx, rotationID, step, outcome, detail, at); err != nil {
		return err
	}
	came := "ok"
	if outcome != "ok" { // it is tried again, or was given up
		came = "failed"
	}
	return e.audit(ctx, tx, ref, "rotation.step", came, map[string]string{"rotation": rotationID, "step": step, "ended": outcome, "detail": detail})
}

// addTry records a verdict, and lets the audit log tell of it.
func (e *Engine) addTry(ctx context.Context, tx Tx, secretID string, ref backends.Ref, t rotation.Try) error {
	if err := tx.AddTry(ctx, secretID, t); err != nil {
		return err
	}
	detail := map[string]string{"verdict": string(t.Verdict), "probe": t.Probe, "node": t.Node, "purpose": string(t.Purpose)}
	for name, text := range map[string]string{"address": t.Address, "detail": t.Detail, "rotation": t.RotationID, "retirement": t.RetirementID} {
		if text != "" {
			detail[name] = text
		}
	}
	if t.Round > 0 {
		detail["round"] = strconv.Itoa(t.Round)
	}
	return tx.AddAudit(ctx, rotation.AuditEvent{At: t.At, Tenant: ref.Tenant, Actor: "keybroker", Action: "probe.verdict", Path: ref.Name,
		Secret: ref.String(), Version: t.Version, Outcome: cameOut(t), Detail: detail})
}

// cameOut is the outcome of a try: ok where it showed what it was made for. That a
// revoked credential is still accepted is no success, nor is it where nobody can tell.
func cameOut(t rotation.Try) string {
	wanted := rotation.Accepted
	if t.Purpose == rotation.PurposeDeath || t.Purpose == rotation.PurposeRecheck {
		wanted = rotation.Rejected
	}
	if t.Verdict == wanted {
		return "ok"
	}
	return "failed"
}
