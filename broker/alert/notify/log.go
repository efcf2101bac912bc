package notify

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/keybroker/keybroker/broker/alert"
)

// Log is a notifier that writes to the node's own log.
type Log struct{}

// Check finds nothing wrong.
func (Log) Check(bool) error { return nil }

type logNotifier struct{ logger hclog.Logger }

// NewLog returns the notifier.
func NewLog(logger hclog.Logger) alert.Notifier { return logNotifier{logger} }

// Notify implements alert.Notifier.
func (l logNotifier) Notify(_ context.Context, n alert.Notification) error {
	level := hclog.Info
	if n.Alert.ID != "" && n.Event != alert.Resolved {
		level = hclog.Error
	}
	args := []any{"event", n.Event}
	if n.Rule != "" {
		args = append(args, "rule", n.Rule)
	}
	if n.By != "" {
		args = append(args, "requested_by", n.By)
	}
	if a := n.Alert; a.ID != "" {
		args = append(args, "alert", a.ID, "kind", a.Kind, "tenant", a.Tenant, "subject", a.Subject, "since", a.OpenedAt.UTC(), "next", a.Next)
	}
	l.logger.Log(level, n.Title(), args...)
	return nil
}
