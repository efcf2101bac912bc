package config

import (
	"fmt"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// audit decodes a place that the audit log is sent to. It is called by its type
// unless it has a name.
func (l *loader) audit(b *hclsyntax.Block) {
	const journal = "journal" // the node's own file, of which there is one
	switch {
	case len(b.Labels) == 2 && b.Labels[0] == journal:
		l.hide(b.Body)
		l.mistake(b.LabelRanges[1], "The audit journal has no name", `There is one on each node: audit "journal" { … }.`)
		return
	case len(b.Labels) == 2 && b.Labels[1] == journal:
		l.hide(b.Body)
		l.mistake(b.LabelRanges[1], `An audit sink cannot be called "journal"`, "The node's own file is called so: choose another name.")
		return
	case firstLabel(b) == journal && l.declared["audit"][journal] != nil:
		l.mistake(b.LabelRanges[0], `There is a second audit "journal"`, "Write all that is to be said of the node's own file in one block.")
		return
	}
	if len(b.Labels) == 1 && l.declared["audit"][b.Labels[0]] != nil {
		l.hide(b.Body)
		l.mistake(b.LabelRanges[0], fmt.Sprintf("There is a second audit %q", b.Labels[0]), fmt.Sprintf("Give each a name of its own: audit %q \"NAME\" { … }.", b.Labels[0]))
		return
	}
	if n, _, ok := typed(l, "audit", l.reg.Audits, itself, b, &struct{}{}); ok {
		l.cfg.AuditSinks = append(l.cfg.AuditSinks, &AuditSink{Named: n})
	}
}
