package engine_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
	"github.com/keybroker/keybroker/rotation/engine"
)

var someone = engine.Asked{By: "ops", Reason: "simulated"}

// request lets somebody ask something of one of the nodes, which may be held or
// die over it.
func (w *world) request(what string) {
	n := w.nodes[w.intn(len(w.nodes))]
	choice := w.intn(1 << 30)
	w.counts[what]++
	do := map[string]func(context.Context, engine.Tx) (string, error){
		"rotate": func(ctx context.Context, tx engine.Tx) (string, error) {
			r, err := n.engine.Rotate(ctx, tx, secretID, rotation.TriggerManual, someone)
			return "rotation " + w.short("r", r.ID), err
		},
		"revoke": func(ctx context.Context, tx engine.Tx) (string, error) {
			number := 1 + choice%max(w.secret().LastVersion, 1)
			_, err := n.engine.Revoke(ctx, tx, secretID, number, someone)
			return fmt.Sprintf("version %d", number), err
		},
		"emergency": func(ctx context.Context, tx engine.Tx) (string, error) {
			em := engine.Emergency{Asked: someone, Contain: []string{"", "revoke_first", "replace_first"}[choice%3]}
			for range choice / 3 % 3 {
				em.Versions = append(em.Versions, 1+choice/9%max(w.secret().LastVersion, 1))
			}
			w.declared = true
			if choice/27%2 == 1 {
				i := rotation.Incident{State: rotation.IncidentOpen, Cause: rotation.IncidentDeclared, Actor: someone.By, Reason: someone.Reason, Contain: em.Contain}
				reused, err := n.engine.OpenIncident(ctx, tx, &i, []rotation.Target{{SecretID: secretID, Versions: em.Versions}}, nil)
				return fmt.Sprintf("incident %s, reused: %v", w.short("i", i.ID), reused), err
			}
			r, err := n.engine.Declare(ctx, tx, secretID, em)
			return fmt.Sprintf("rotation %s, asked for %v %s, pinned %v", w.short("r", r.ID), em.Versions, em.Contain, r.Compromised), err
		},
		"freeze": func(ctx context.Context, tx engine.Tx) (string, error) {
			_, _, err := n.engine.Freeze(ctx, tx, someone)
			return "", err
		},
		"unfreeze": func(ctx context.Context, tx engine.Tx) (string, error) {
			_, err := n.engine.Unfreeze(ctx, tx, someone)
			return "", err
		},
		"approve": w.ofRotation(choice, func(ctx context.Context, tx engine.Tx, id string) error {
			_, _, err := n.engine.Approve(ctx, tx, id, engine.Asked{By: "another"})
			return err
		}),
		"cancel": w.ofRotation(choice, func(ctx context.Context, tx engine.Tx, id string) error {
			_, _, err := n.engine.Cancel(ctx, tx, id, someone)
			return err
		}),
		"retry": w.ofRotation(choice, func(ctx context.Context, tx engine.Tx, id string) error {
			_, _, err := n.engine.Retry(ctx, tx, id, someone)
			return err
		}),
		"roll back": w.ofRotation(choice, func(ctx context.Context, tx engine.Tx, id string) error {
			_, _, err := n.engine.RollBack(ctx, tx, id, someone)
			return err
		}),
		"probe": func(ctx context.Context, tx engine.Tx) (string, error) {
			order := w.store.state.retirements.order
			if len(order) == 0 {
				return "", nil
			}
			id := order[choice%len(order)]
			_, _, err := n.engine.ProbeNow(ctx, tx, id, someone)
			return w.short("t", id), err
		},
		"redeliver": func(ctx context.Context, tx engine.Tx) (string, error) {
			order := w.store.state.deliveries.order
			if len(order) == 0 {
				return "", nil
			}
			_, _, err := n.engine.Redeliver(ctx, tx, order[choice%len(order)], someone)
			return "", err
		},
		"check": func(ctx context.Context, tx engine.Tx) (string, error) {
			_, err := n.engine.CheckDrift(ctx, tx, secretID)
			return "", err
		},
		"pause": func(ctx context.Context, tx engine.Tx) (string, error) {
			_, err := n.engine.SetPaused(ctx, tx, secretID, true, someone)
			return "", err
		},
		"resume": func(ctx context.Context, tx engine.Tx) (string, error) {
			_, err := n.engine.SetPaused(ctx, tx, secretID, false, someone)
			return "", err
		},
		"reconfigure": func(ctx context.Context, tx engine.Tx) (string, error) {
			s, err := tx.Secret(ctx, secretID)
			if err != nil {
				return "", err
			}
			window := s.Definition.Plan.Confirm.Window
			s.Definition, s.UpdatedAt = w.definition(window), time.Now()
			return s.Definition.Issuer, tx.SaveSecret(ctx, &s)
		},
	}[what]
	w.start(n, what, fmt.Sprintf("request %d", w.workers), func(ctx context.Context) error {
		switch what { // that begin transactions of their own
		case "repair":
			found, err := n.engine.Repair(ctx, secretID, engine.RepairRequest{Asked: someone})
			w.logf(ctx, "repaired: %+v %v", found, err)
			return nil
		case "acknowledge":
			w.acknowledge(ctx, n, choice)
			return nil
		case "collect":
			w.inboxes["two"].collect(ctx, n.engine)
			return nil
		}
		said := ""
		err := w.store.latest(ctx, func(tx engine.Tx) (err error) {
			said, err = do(ctx, tx)
			return err
		})
		w.logf(ctx, "asked for: %s %v", said, err)
		if err != nil && !errors.Is(err, backends.ErrConflict) && !errors.Is(err, backends.ErrUnavailable) && !errors.Is(err, backends.ErrDenied) && !errors.Is(err, backends.ErrNotFound) {
			w.violated("asking to %s: %v", what, err)
		}
		return nil
	})
}

// requests are what somebody asks for at random, the frequent ones several times.
var requests = []string{"check", "check", "rotate", "rotate", "rotate", "rotate", "rotate", "rotate", "rotate", "rotate", "rotate", "rotate",
	"revoke", "revoke", "emergency", "emergency", "emergency", "pause", "resume", "resume", "resume", "reconfigure", "acknowledge", "acknowledge", "collect", "collect", "collect",
	"freeze", "unfreeze", "unfreeze", "unfreeze", "approve", "approve", "cancel", "retry", "roll back", "roll back", "roll back", "roll back",
	"probe", "redeliver", "repair"}

// acknowledge says of a delivery, at random, what its consumer would: it uses the version,
// or says so without having it, which is to count for nothing.
func (w *world) acknowledge(ctx context.Context, n *node, choice int) {
	order := w.store.state.deliveries.order
	if len(order) == 0 {
		return
	}
	d := w.store.state.deliveries.rows[order[choice%len(order)]]
	claim := engine.Claim{Applied: true, Generation: d.Generation, Instance: fmt.Sprint(choice % 2), Fingerprint: "guessed"}
	v, _ := w.version(d.Version)
	if c := w.credentialOf(v.Tag); c != nil && choice%3 > 0 {
		claim.Fingerprint = rotation.Fingerprint(d.ID, backends.NewValue(map[string]string{valueField: c.value}))
	}
	got, err := n.engine.Acknowledge(ctx, d.ID, claim, someone)
	w.logf(ctx, "acknowledged generation %d by %s: %v", d.Generation, d.Consumer, err)
	if err == nil && claim.Fingerprint == "guessed" && d.AppliedAt.IsZero() && !got.AppliedAt.IsZero() {
		w.violated("%s is taken to use version %d, which it has not", d.Consumer, d.Version)
	}
}

// ofRotation does something to one of the newest rotations.
func (w *world) ofRotation(choice int, do func(context.Context, engine.Tx, string) error) func(context.Context, engine.Tx) (string, error) {
	return func(ctx context.Context, tx engine.Tx) (string, error) {
		order := w.store.state.rotations.order
		if len(order) == 0 {
			return "", nil
		}
		id := order[len(order)-1-choice%min(len(order), 2)]
		for _, live := range order {
			if !w.faulty && w.store.state.rotations.rows[live].State == rotation.Queued {
				id = live // the operator who tidies up knows which one waits
			}
		}
		return w.short("r", id), do(ctx, tx, id)
	}
}
