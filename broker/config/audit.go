package config

import (
	"fmt"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// audit decodes a place that the audit log is sent to. It is called by its type
// unless it has a name.
func (l *loader) audit(b *hclsyntax.Block) {
	if len(b.Labels) == 1 && l.declared["audit"][b.Labels[0]] != nil {
		l.hide(b.Body)
		l.mistake(b.LabelRanges[0], fmt.Sprintf("There is a second audit %q", b.Labels[0]), fmt.Sprintf("Give each a name of its own: audit %q \"NAME\" { … }.", b.Labels[0]))
		return
	}
	if n, _, ok := typed(l, "audit", l.reg.Audits, itself, b, &struct{}{}); ok {
		l.cfg.AuditSinks = append(l.cfg.AuditSinks, &AuditSink{Named: n})
	}
}
