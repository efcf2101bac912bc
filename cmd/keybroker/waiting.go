package main

import (
	"fmt"
	"strings"

	"github.com/keybroker/keybroker/broker/client"
)

// What rotations and retirements wait for that somebody may have to do something
// about; any other text of the server is shown as it is.
const (
	waitWindow         = "window"
	waitPair           = "pair"
	waitConcurrency    = "concurrency"
	waitValue          = "value"
	waitSoak           = "soak"
	waitApproval       = "approval"
	waitPause          = "pause"
	waitFreeze         = "freeze"
	waitRepair         = "repair"
	waitLockout        = "lockout"
	waitBackend        = "backend"
	waitIssuer         = "issuer"
	waitProbe          = "probe"
	waitSeal           = "seal"
	waitOverlap        = "overlap"
	waitAcknowledgment = "acknowledgment"
	waitProof          = "proof"
	waitReplacement    = "replacement"
	waitMirror         = "mirror"
	waitHandle         = "handle"
	waitByHand         = "by_hand"
)

// waitingWords say in words what something waits for.
var waitingWords = map[string]string{
	waitWindow:         "its maintenance window is closed",
	waitPair:           "another secret of its pair rotates, or is in its overlap",
	waitConcurrency:    "as many secrets of its policy rotate as may at once",
	waitValue:          "a person makes the credential, and hands it in",
	waitSoak:           "its issuer deletes for good what is disabled",
	waitApproval:       "somebody else has to approve it",
	waitPause:          "the secret is paused",
	waitFreeze:         "everything is frozen",
	waitRepair:         "the vault holds what the broker does not know",
	waitLockout:        "one more rejected try now would lock the account",
	waitBackend:        "the vault cannot be used now",
	waitIssuer:         "it does not answer, or holds as many credentials as it can",
	waitProbe:          "its verdict is not clear yet",
	waitSeal:           "the key that seals values cannot be used now",
	waitOverlap:        "both versions are valid until it ends",
	waitAcknowledgment: "consumers have not acknowledged the new version",
	waitProof:          "the old version has to be proven dead",
	waitReplacement:    "an emergency's new version, at most replace_within",
	waitMirror:         "a mirror does not hold the new version yet",
	waitHandle:         "nobody has said what its issuer calls it: it can only be turned off there by hand",
	waitByHand:         "a person has to turn it off",
}

func inWords(waitingFor string) string {
	if words := waitingWords[waitingFor]; words != "" {
		return waitingFor + " (" + words + ")"
	}
	return waitingFor
}

// resolves tells which command ends what a rotation waits for.
func resolves(r client.Rotation) string {
	name := qualified(r.Tenant, r.Secret)
	switch r.WaitingFor {
	case waitWindow:
		return windowOpens(r) + "; at once: keybroker secret rotate " + name + " --ignore-window"
	case waitPair:
		return "the end of the other one's overlap; which: keybroker rotation list --live"
	case waitConcurrency:
		return "the next that publishes; which are under way: keybroker rotation list --live"
	case waitValue:
		return "keybroker rotation supply " + r.ID + " --field NAME"
	case waitApproval:
		return "keybroker rotation approve " + r.ID + ", by somebody else than " + r.Actor
	case waitPause:
		return "keybroker secret resume " + name
	case waitFreeze:
		return "keybroker unfreeze"
	case waitRepair:
		return "keybroker secret repair " + name
	case waitBackend, waitIssuer, waitProbe, waitSeal:
		return "it tries again by itself; now: keybroker rotation retry " + r.ID
	case waitOverlap:
		return fmt.Sprintf("it ends by itself; at once: keybroker secret revoke %s --version %d; back: keybroker rotation rollback %s", name, r.FromVersion, r.ID)
	case waitAcknowledgment:
		return "keybroker secret consumers " + name
	case waitProof:
		return "keybroker retirement list --secret " + name
	case waitMirror:
		return "it goes on when the mirrors hold it, or at the policy's max_overlap; which: keybroker drift list --secret " + name
	}
	return ""
}

// windowOpens tells when a rotation may begin that waits for its window.
func windowOpens(r client.Rotation) string {
	if r.NextAt.IsZero() {
		return "it begins when the window opens"
	}
	return "it begins when the window opens, at " + stamp(r.NextAt)
}

// resolvesRetirement tells which command ends what a retirement waits for.
func resolvesRetirement(r client.Retirement) string {
	switch r.WaitingFor {
	case waitFreeze:
		return "keybroker unfreeze"
	case waitOverlap, waitReplacement:
		return fmt.Sprintf("it begins by itself; at once: keybroker secret revoke %s --version %d", qualified(r.Tenant, r.Secret), r.Version)
	case waitIssuer:
		if r.State == client.Unconfirmed {
			return "its issuer is asked again and again; turn it off there by hand, then: keybroker retirement done " + r.ID
		}
	case waitProbe, waitProof:
		return "it is tried again by itself; now: keybroker retirement probe " + r.ID
	case waitSoak:
		return "it is deleted by itself when its soak ends"
	case waitByHand:
		return "turn it off at its issuer by hand, then: keybroker retirement done " + r.ID
	case waitHandle:
		return givesHandle(qualified(r.Tenant, r.Secret), r.Version) + "; or turn it off at its issuer by hand, which is then proven"
	}
	return ""
}

// resolvesProof tells how the proof comes about that a rotation waits for: by a person,
// where one of its retirements waits for that.
func resolvesProof(r client.Rotation, of []client.Retirement) string {
	var by []string
	for _, t := range of {
		if t.RotationID == r.ID && t.WaitingFor == waitByHand {
			by = append(by, fmt.Sprintf("version %d: %s", t.Version, resolvesRetirement(t)))
		}
	}
	if len(by) == 0 {
		return resolves(r)
	}
	return strings.Join(by, "; ")
}

// givesHandle is the command that tells the broker what an issuer calls a version.
func givesHandle(name string, version int) string {
	return fmt.Sprintf("keybroker secret import %s --version %d --handle NAME=VALUE", name, version)
}

// resolvesDrift tells which command puts right what has drifted.
func resolvesDrift(s client.Secret, d client.Drift) string {
	name := qualified(s.Tenant, s.Name)
	restore := fmt.Sprintf("keybroker drift restore %s --backend %s", name, d.Backend)
	switch {
	case d.Kind == client.DriftDestroyed:
		return "nothing has to be done: reads are served from the broker's sealed copy until its overlap is over"
	case d.RotationID != "":
		return fmt.Sprintf("keybroker rotation show %s, which is to adopt it; or %s", d.RotationID, restore)
	case d.Kind == client.DriftChanged:
		return fmt.Sprintf("%s; or keybroker drift adopt %s --backend %s", restore, name, d.Backend)
	}
	return restore
}

// controlWords say what showed that the probe itself works.
var controlWords = map[string]string{
	"current_version": "the current version was accepted by the same probe, in each round that counts",
	"canary":          "the probe's canary was accepted, in each round that counts",
	"accepted_before": "it was itself accepted before it was revoked; nothing else could be tried beside it",
}

func control(name string) string {
	if words := controlWords[name]; words != "" {
		return name + " (" + words + ")"
	}
	return name
}

// scope says in words what a proof covers, and so what it does not.
func scope(s client.Scope) []string {
	var lines []string
	if s.Endpoint != "" {
		at := "tried at " + s.Endpoint
		if s.Node != "" {
			at += ", from node " + s.Node
		}
		lines = append(lines, at)
	}
	if s.Config != "" {
		lines = append(lines, "by the probe as it was configured then: "+s.Config)
	}
	if s.Unreached != "" {
		lines = append(lines, "not tried, since nothing could reach it: "+s.Unreached)
	}
	if s.SelfAttested {
		lines = append(lines, "self-attested: keybroker itself decides whether the key works")
	}
	switch s.DerivedSessions {
	case "":
	case "none":
		lines = append(lines, "no sessions are made from it that could outlive it")
	default:
		lines = append(lines, "sessions made from it: "+s.DerivedSessions)
	}
	return lines
}
