package config

import (
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	defaultApprovalAbove   = 100
	defaultApprovalTimeout = day
	soonApprovalTimeout    = time.Minute
	maxApprovalTimeout     = 30 * day
)

// emergency decodes what is asked of whoever declares one.
func (l *loader) emergency(b *hclsyntax.Block) {
	l.cfg.Emergency = Emergency{ApprovalAbove: defaultApprovalAbove, ApprovalTimeout: defaultApprovalTimeout}
	if b == nil {
		return
	}
	spec := struct {
		ApprovalAbove   int           `hcl:"approval_above,optional"`
		ApprovalTimeout time.Duration `hcl:"approval_timeout,optional"`
	}{defaultApprovalAbove, defaultApprovalTimeout}
	if !l.block(b, &spec) {
		return
	}
	if spec.ApprovalAbove < 0 {
		l.mistake(at(b, "approval_above"), "approval_above cannot be negative", "Write how many secrets one person may turn off alone, or 0 for any number.")
	}
	if spec.ApprovalTimeout <= 0 || spec.ApprovalTimeout > maxApprovalTimeout {
		l.mistake(at(b, "approval_timeout"), "An emergency waits between a moment and 30 days for its approval", `Write for instance approval_timeout = "24h".`)
	} else if spec.ApprovalTimeout < soonApprovalTimeout {
		l.warn(at(b, "approval_timeout"), fmt.Sprintf("An emergency is refused after %s without approval, before anybody has read of it", spec.ApprovalTimeout), `Write for instance approval_timeout = "24h".`)
	}
	l.cfg.Emergency = Emergency{ApprovalAbove: spec.ApprovalAbove, ApprovalTimeout: spec.ApprovalTimeout}
}
