package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// How the steps of a rotation read once they are over. Steps that are missing
// here are shown by their own names; the empty ones are told otherwise.
var stepLabels = map[string]string{
	"queue":       "started",
	"approve":     "approved",
	"rollback":    "restored",
	"mint":        "minted",
	"stage":       "staged",
	"verify":      "verified",
	"publish":     "published",
	"push":        "pushed",
	"acknowledge": "acknowledged",
	"overlap":     "overlap over",
	"revoke":      "revoked",
	"contain":     "contained",
	"prove":       "proven dead",
	"retire":      "",
	"done":        "",
}

func rotationTitle(r client.Rotation) string {
	text := fmt.Sprintf("rotation %s of %s (%s", r.ID, r.Secret, r.Trigger)
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	return text + ")"
}

func retirementTitle(r client.Retirement) string {
	text := fmt.Sprintf("retirement %s of %s version %d (%s", r.ID, r.Secret, r.Version, r.Cause)
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	return text + ")"
}

// rotationFacts are the facts that a rotation's own record tells.
func rotationFacts(r client.Rotation, now time.Time) []fact {
	var facts []fact
	for i, s := range r.Steps {
		key := fmt.Sprintf("step %d %s", i, s.Step)
		if s.Step == "overlap" && !r.OverlapUntil.IsZero() {
			facts = append(facts, fact{
				key: key + " begins", at: s.StartedAt, label: "overlap", tone: warning,
				detail: fmt.Sprintf("version %d stays valid until %s, for %s", r.FromVersion,
					r.OverlapUntil.Local().Format(time.TimeOnly), short(r.OverlapUntil.Sub(s.StartedAt).Round(time.Second))),
			})
		}
		if s.Step == "rollback" {
			facts = append(facts, fact{key: key + " begins", at: s.StartedAt, label: "rolling back", detail: "asked for by " + r.RollBackBy, tone: warning})
		}
		if f, ok := stepFact(s); ok {
			f.key = key
			facts = append(facts, f)
		}
	}
	if f, ok := waitingFact(r, now); ok {
		facts = append(facts, f)
	}
	if r.Ended() {
		tone := bad
		if r.State == client.RotationDone {
			tone = good
		}
		facts = append(facts, fact{key: "end", at: cmp.Or(r.EndedAt, now), label: strings.ReplaceAll(r.State, "_", " "), detail: r.Error, tone: tone})
	}
	return facts
}

// stepFact is the line of a step that is over.
func stepFact(s client.Step) (fact, bool) {
	label, known := stepLabels[s.Step]
	switch {
	case s.EndedAt.IsZero():
		return fact{}, false
	case !known:
		label = s.Step
	case label == "" && s.Outcome == "ok":
		return fact{}, false
	}
	f := fact{at: s.EndedAt, label: label, detail: s.Detail, tone: good}
	switch s.Outcome {
	case "ok", "":
	case "retry":
		f.label, f.tone = s.Step+" failed", warning
		f.detail += "; will be tried again"
	case "failed":
		f.label, f.tone = s.Step+" failed", bad
		if s.Step == "prove" {
			f.label = "NOT PROVEN"
		}
	default: // superseded, …
		f.label, f.tone = s.Step+" "+s.Outcome, warning
	}
	return f, true
}

// waitingFact is a line for what keeps a rotation waiting that is neither its
// overlap nor its proof, which have lines of their own.
func waitingFact(r client.Rotation, now time.Time) (fact, bool) {
	switch {
	case r.Ended() || r.WaitingFor == "" || r.WaitingFor == "overlap" || r.WaitingFor == "proof":
		return fact{}, false
	case r.State == "verifying" && r.Error == "": // between two tries of a key that works
		return fact{}, false
	}
	f := fact{key: "waiting " + r.State + r.WaitingFor + r.Error, at: now, label: "waiting", detail: "for " + r.WaitingFor, tone: warning}
	if r.Error != "" {
		f.detail += ": " + r.Error
	}
	if by := resolves(r); by != "" && r.Error == "" {
		f.detail += "; resolved by: " + by
	}
	return f, true
}

// retirementFacts are the milestones of a retirement; those of a rotation are
// among its steps already.
func retirementFacts(r client.Retirement) []fact {
	var facts []fact
	version := fmt.Sprintf("version %d", r.Version)
	milestone := func(at time.Time, label, detail string, c tone) {
		if !at.IsZero() {
			facts = append(facts, fact{key: r.ID + label + at.String(), at: at, label: label, detail: strings.TrimSpace(version + " " + detail), tone: c})
		}
	}
	milestone(r.RequestedAt, "requested", "", plain)
	milestone(r.AcknowledgedAt, "revoked", "(the issuer acknowledged it)", good)
	milestone(r.ContainedAt, "contained", "is rejected", good)
	milestone(r.ProvenAt, "proven dead", "with control "+r.Control, good)
	milestone(r.ResurrectedAt, "RESURRECTED", "is accepted again", bad)
	return facts
}

// handleFact is the line of a retirement that its issuer cannot be asked for.
func handleFact(r client.Retirement, now time.Time) []fact {
	if r.WaitingFor != waitHandle && r.WaitingFor != waitByHand {
		return nil
	}
	return []fact{{key: r.ID + " handle", at: now, label: "NOT REVOKED", tone: bad,
		detail: fmt.Sprintf("version %d: %s; resolved by: %s", r.Version, waitingWords[r.WaitingFor], resolvesRetirement(r))}}
}

// proofFacts are the rounds of a proof, and the try before it.
func proofFacts(r client.Retirement) []fact {
	rounds := map[int][]client.Try{}
	var facts []fact
	for i, y := range r.Tries {
		switch {
		case y.Purpose == client.PurposeBefore:
			facts = append(facts, fact{
				key: r.ID + "before" + y.At.String(), at: y.At, label: "tried before",
				detail: fmt.Sprintf("version %d is %s%s", y.Version, y.Verdict, because(y.Detail)),
			})
		case slices.ContainsFunc(r.Tries[i:], triedBefore): // the control beside it: no round yet
		default:
			rounds[y.Round] = append(rounds[y.Round], y)
		}
	}
	for number, tries := range rounds {
		facts = append(facts, roundFact(r, number, tries))
	}
	return facts
}

func triedBefore(y client.Try) bool { return y.Purpose == client.PurposeBefore }

// roundFact sums up one round: what every address said, and whether the control
// worked.
func roundFact(r client.Retirement, number int, tries []client.Try) fact {
	counts := map[string]int{}
	last, control, label := client.Try{}, "", fmt.Sprintf("round %d", number)
	for _, y := range tries {
		switch y.Purpose {
		case client.PurposeControl:
			control = fmt.Sprintf("; control version %d %s", y.Version, y.Verdict)
			continue
		case client.PurposeRecheck:
			label = "re-check"
		}
		counts[y.Verdict]++
		last = y
	}
	f := fact{key: fmt.Sprintf("%s round %d", r.ID, number), at: tries[len(tries)-1].At, label: label, tone: faint}
	var verdicts []string
	for _, v := range []string{client.Rejected, client.Inconclusive, client.Accepted} {
		switch n := counts[v]; {
		case n == 1 && len(counts) == 1:
			verdicts = append(verdicts, v)
		case n > 0:
			verdicts = append(verdicts, fmt.Sprintf("%s at %d", v, n))
		}
	}
	if counts[client.Accepted] > 0 {
		f.tone = warning
	}
	if len(verdicts) == 0 {
		verdicts = []string{"not tried"}
	}
	f.detail = fmt.Sprintf("version %d %s%s%s", r.Version, strings.Join(slices.Compact(verdicts), ", "), because(last.Detail), control)
	return f
}

func because(detail string) string {
	if detail == "" {
		return ""
	}
	return " (" + detail + ")"
}
