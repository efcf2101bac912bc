package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/alert"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
	"github.com/keybroker/keybroker/policy"
	"github.com/keybroker/keybroker/rotation"
)

// Notifiers are the ways to tell people.
type Notifiers interface {
	// TestNotifier has one tell that it works, and waits for its answer. ErrNotFound,
	// as the second result, if there is none of that name for the tenant ("": the
	// operators, who have all).
	TestNotifier(ctx context.Context, tenant, name, by string) (told error, missing error)
}

const alertsPath = "sys/alerts"

// Alerts lists alerts: of p's tenant, if it is bound to one.
func (b *Broker) Alerts(ctx context.Context, p authn.Principal, q client.AlertQuery) (client.List[client.Alert], error) {
	list := client.List[client.Alert]{Items: []client.Alert{}}
	err := b.onAlerts(ctx, p, policy.Read, "alert.list", nil, func() error {
		return b.Store.View(ctx, func(tx *store.Tx) error {
			found, next, err := tx.AlertsPage(ctx, store.AlertFilter{Tenant: p.Tenant, Kind: q.Kind, Open: !q.All}, page(q.Page))
			if err != nil {
				return err
			}
			list.Next = next
			list.Items, err = viewAlerts(ctx, tx, p, found)
			return err
		})
	})
	return list, err
}

// Alert shows one alert.
func (b *Broker) Alert(ctx context.Context, p authn.Principal, id string) (out client.Alert, err error) {
	err = b.onAlerts(ctx, p, policy.Read, "alert.show", map[string]string{"alert": id}, func() error {
		return b.Store.View(ctx, func(tx *store.Tx) error {
			a, err := alertOf(ctx, tx, p, id)
			if err != nil {
				return err
			}
			out, err = viewAlert(ctx, tx, p, a)
			return err
		})
	})
	return out, err
}

// AcknowledgeAlert keeps that p looks after an alert, so that nobody is reminded of
// it. What is about something that happened, and cannot be over by itself, is over
// with that. Doing so again changes nothing.
func (b *Broker) AcknowledgeAlert(ctx context.Context, p authn.Principal, id string, r client.AcknowledgeAlertRequest) (out client.Alert, err error) {
	err = b.onAlerts(ctx, p, policy.Update, "alert.ack", map[string]string{"alert": id, "reason": r.Reason}, func() error {
		return b.Store.UpdateLatest(ctx, func(tx *store.Tx) error {
			a, err := alertOf(ctx, tx, p, id)
			if err != nil {
				return err
			}
			if a.AckedAt.IsZero() {
				if err := b.acknowledge(ctx, tx, p, &a, r.Reason); err != nil {
					return err
				}
			}
			out, err = viewAlert(ctx, tx, p, a)
			return err
		})
	})
	return out, err
}

func (b *Broker) acknowledge(ctx context.Context, tx *store.Tx, p authn.Principal, a *store.Alert, reason string) error {
	if !a.Open() {
		return fmt.Errorf("%w: the alert %s is over: there is nothing to acknowledge", backends.ErrConflict, a.ID)
	}
	a.AckedAt, a.AckedBy, a.AckReason = b.Now(), p.ID, reason
	if alert.Passing(a.Kind) {
		a.ResolvedAt = a.AckedAt
	}
	if err := tx.SaveAlert(ctx, a); err != nil {
		return err
	}
	return tx.AddAudit(ctx, rotation.AuditEvent{At: a.AckedAt, Request: p.Request, Tenant: a.Tenant, Actor: p.ID, Role: p.Role, Method: p.Method,
		Address: p.Address.String(), Action: "alert.acknowledged", Path: alertsPath, Outcome: outcomeOK, Detail: map[string]string{"alert": a.ID, "kind": a.Kind, "subject": a.Subject}})
}

// TestNotifier has a notifier tell now that it works.
func (b *Broker) TestNotifier(ctx context.Context, p authn.Principal, name string) (client.NotifierTest, error) {
	out := client.NotifierTest{Notifier: name}
	err := b.onAlerts(ctx, p, policy.Update, "alert.test", map[string]string{"notifier": name}, func() error {
		told, missing := b.Notifiers.TestNotifier(ctx, p.Tenant, name, p.ID)
		if out.OK = told == nil; told != nil {
			out.Error = told.Error()
		}
		return missing
	})
	return out, err
}

// onAlerts authorises p for the alerts and runs act. They are of all environments.
func (b *Broker) onAlerts(ctx context.Context, p authn.Principal, c policy.Capability, action string, detail map[string]string, act func() error) error {
	return b.do(ctx, p, c, request{action: action, path: alertsPath, detail: detail}, act)
}

// alertOf returns an alert that p may see; to others it is not there.
func alertOf(ctx context.Context, tx *store.Tx, p authn.Principal, id string) (store.Alert, error) {
	a, err := tx.Alert(ctx, id)
	if errors.Is(err, backends.ErrNotFound) || err == nil && p.Tenant != "" && a.Tenant != p.Tenant {
		return store.Alert{}, notThere("alert", id)
	}
	return a, err
}

func viewAlert(ctx context.Context, tx *store.Tx, p authn.Principal, a store.Alert) (client.Alert, error) {
	all, err := viewAlerts(ctx, tx, p, []store.Alert{a})
	if err != nil {
		return client.Alert{}, err
	}
	return all[0], nil
}

// viewAlerts shows alerts with what was told of them: how the operators are told is
// not for who is bound to a tenant.
func viewAlerts(ctx context.Context, tx *store.Tx, p authn.Principal, found []store.Alert) ([]client.Alert, error) {
	notices := map[string][]client.Notice{}
	if p.Tenant == "" {
		var ids []string
		for _, a := range found {
			ids = append(ids, a.ID)
		}
		all, err := tx.NoticesOf(ctx, ids)
		if err != nil {
			return nil, err
		}
		for _, n := range all {
			notices[n.AlertID] = append(notices[n.AlertID], client.Notice{Rule: n.Rule, Notifier: n.Notifier, Event: n.Event, State: string(n.State),
				Told: n.Told, Attempts: n.Attempts, Error: n.Error, SentAt: utc(n.SentAt), NextAt: utc(n.NextAt)})
		}
	}
	out := []client.Alert{}
	for _, a := range found {
		v := client.Alert{ID: a.ID, Kind: a.Kind, Severity: string(alert.SeverityOf(a.Kind)), Tenant: a.Tenant, Subject: a.Subject, Node: a.Node,
			Text: a.Text, Next: a.Next, Count: a.Count, OpenedAt: utc(a.OpenedAt), LastAt: utc(a.LastAt), AcknowledgedAt: utc(a.AckedAt),
			AcknowledgedBy: a.AckedBy, Reason: a.AckReason, ResolvedAt: utc(a.ResolvedAt), Notices: notices[a.ID]}
		if v.Notices == nil {
			v.Notices = []client.Notice{}
		}
		out = append(out, v)
	}
	return out, nil
}
