package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) sealCommand() *cobra.Command {
	g := group("seal", "The keys that everything keybroker keeps is encrypted by",
		a.sealStatusCommand(), a.sealVerifyCommand(), a.sealRotateCommand(), a.sealEscrowCommand(), a.sealRecoverCommand())
	g.Long = "Each value that keybroker keeps is encrypted under a key of its own, these under one\n" +
		"key-encryption key, and that by every seal of the configuration: a key file, AWS KMS,\n" +
		"Vault's transit engine. Any one seal is enough to start; a running node needs none.\n\n" +
		"  status   are the seals there? is anything still being re-wrapped?\n" +
		"  verify   would a restart work? does everything open? (before maintenance of a seal,\n" +
		"           before one is taken out of the configuration, after a restored backup)\n" +
		"  rotate   a new key-encryption key (regularly; when somebody leaves who had access;\n" +
		"           when a seal was taken out of the configuration and must open nothing any more)\n" +
		"  escrow   a copy of the keys for the day when every seal is lost (after each rotate)\n" +
		"  recover  that day"
	return g
}

func (a *app) sealStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the seals, their keys and what is still being re-wrapped",
		Long: "Show each seal as it was when it was last asked (at least every ten minutes), and\n" +
			"each key-encryption key with the number of values that it seals.\n\n" +
			"A seal that is \"away\" stops nothing while a node runs, but could be missed at the\n" +
			"next start: one that cannot be reached, or whose key file is lost, replaced or open\n" +
			"to others. One that is \"pending\" wraps the keys as soon as it can be reached.",
		Args: takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			s, err := c.SealStatus(ctx)
			if err != nil {
				return err
			}
			return a.show(s, func(t *table) { drawSeal(t, s) })
		}),
	}
}

func drawSeal(t *table, s client.SealStatus) {
	drawSeals(t, s.Seals)
	t.section("KEY", "SEALS", "VALUES", "MADE", "WRAPPED BY")
	for _, k := range s.Keys {
		role := "no more"
		if k.Current {
			role = "now"
		}
		t.row(k.ID, role, fmt.Sprint(k.Values), k.CreatedAt, k.WrappedBy)
	}
}

func drawSeals(t *table, seals []client.Seal) {
	t.row("SEAL", "STATE", "CHECKED", "ERROR")
	for _, s := range seals {
		t.row(s.ID, s.State, s.CheckedAt, s.Error)
	}
}

func (a *app) sealVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Have every seal open every key now, and every value opened",
		Long: "Ask every seal to open every key now, as the next start would (a key file is read\n" +
			"again), and open every sealed value, without showing any. Run it before a seal is maintained or taken out of the configuration,\n" +
			"and after a restored backup. Exit code 1 if a seal or a value does not open.",
		Args: takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			v, err := c.VerifyWholeSeal(ctx, func(so client.SealVerification) {
				if so.Next != "" {
					a.note("%d values opened so far", so.Opened)
				}
			})
			if err != nil {
				return err
			}
			if err := a.show(v, func(t *table) { drawVerification(t, v) }); err != nil {
				return err
			}
			return verdict(v)
		}),
	}
}

func drawVerification(t *table, v client.SealVerification) {
	drawSeals(t, v.Seals)
	t.section("OPENED", "FAILED")
	t.row(fmt.Sprint(v.Opened), fmt.Sprint(len(v.Failed)))
	if len(v.Failed) == 0 {
		return
	}
	t.section("TABLE", "NAME", "VERSION", "KEY", "ERROR")
	for _, f := range v.Failed {
		name := f.Name
		if f.Tenant != "" {
			name = qualified(f.Tenant, f.Name)
		}
		t.row(f.Table, name, f.Version, f.Key, f.Error)
	}
}

// verdict is an error if something does not open.
func verdict(v client.SealVerification) error {
	var wrong []string
	for _, s := range v.Seals {
		if s.State != client.SealReady {
			wrong = append(wrong, fmt.Sprintf("seal %s is %s", s.ID, s.State))
		}
	}
	if n := len(v.Failed); n > 0 {
		wrong = append(wrong, fmt.Sprintf("%d of %d values do not open", n, n+v.Opened))
	}
	if len(wrong) == 0 {
		return nil
	}
	return errors.New(strings.Join(wrong, "; "))
}

func (a *app) sealRotateCommand() *cobra.Command {
	var reason string
	var yes, noWait, force bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new key-encryption key, and re-wrap everything by it",
		Long: "Make a new key-encryption key, have every seal wrap it, and re-wrap the keys of all\n" +
			"values by it, while the nodes work. The values themselves are not touched. The old\n" +
			"key is removed when nothing is sealed by it any more, five minutes later at the\n" +
			"earliest. A crash at any moment loses nothing, and the next start goes on.\n\n" +
			"Each seal has to open again what it wrapped. If one that opens the present key cannot\n" +
			"open the new one, nothing is done, except with --force: it wraps the new key as soon\n" +
			"as it can. While no seal opens the new key, nothing is re-wrapped and nothing removed.\n" +
			"A seal that was taken out of the configuration opens the old key only. Copies made\n" +
			"by `keybroker seal escrow` hold the old key only: make a new one afterwards.",
		Example: "  keybroker seal rotate --reason 'yearly' --yes",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if !yes {
				if err := a.confirm("Make a new key and re-wrap everything by it?"); err != nil {
					return err
				}
			}
			r, err := c.RotateSeal(ctx, client.SealRotateRequest{Reason: reason, Force: force})
			if err != nil {
				return err
			}
			a.note("key %s seals from now on", r.Key)
			for _, away := range r.Away {
				a.note("not wrapped yet by %s: %s", away.Seal, printable(away.Error))
			}
			if !noWait {
				if r.Status, err = a.followSeal(ctx, c, r.Status); err != nil {
					return err
				}
				a.note("everything is sealed by key %s; make a new escrow copy, if you keep one", r.Key)
			}
			return a.show(r, func(t *table) { drawSeal(t, r.Status) })
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&force, "force", false, "also where a seal that opens the present key does not open the new one")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for everything to be re-wrapped")
	return cmd
}

// followSeal says what is left until nothing is, except what cannot be re-wrapped. It
// ends with an error where it does not go on.
func (a *app) followSeal(ctx context.Context, c *client.Client, s client.SealStatus) (client.SealStatus, error) {
	const every = 200 * time.Millisecond
	p := rewrapping{left: -1}
	for s.Left > s.Stuck {
		if text := p.next(s, time.Now()); text != "" {
			a.note("%s", text)
		}
		if err := p.stalled(time.Now()); err != nil {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(every):
		}
		var err error
		if s, err = c.SealStatus(ctx); err != nil {
			return s, err
		}
	}
	if s.Stuck > 0 {
		return s, &hintError{fmt.Errorf("%d values cannot be re-wrapped; the old key is kept", s.Stuck), "keybroker seal verify names them"}
	}
	return s, nil
}

// How long is waited for re-wrapping that does not go on: with a reason, which may
// pass, and without one.
const (
	stalledFor = 30 * time.Second
	silentFor  = 2 * time.Minute
)

// rewrapping is how far it is.
type rewrapping struct {
	left  int
	why   string
	since time.Time // that many are left
}

// next takes the status of now in, and gives what is new about it.
func (p *rewrapping) next(s client.SealStatus, now time.Time) string {
	why := ""
	if s.Waiting != p.why && s.Waiting != "" {
		why = "it does not go on yet: " + printable(s.Waiting)
	}
	p.why = s.Waiting
	if s.Left == p.left {
		return why
	}
	p.left, p.since = s.Left, now
	return strings.TrimSuffix(fmt.Sprintf("%d values to re-wrap; %s", s.Left, why), "; ")
}

// stalled is an error once it has not gone on for too long.
func (p *rewrapping) stalled(now time.Time) error {
	err := fmt.Errorf("%d values are still sealed by older keys: %s", p.left, cmp.Or(printable(p.why), "no node re-wraps them"))
	if idle := now.Sub(p.since); idle >= silentFor || p.why != "" && idle >= stalledFor {
		return &hintError{err, "it goes on by itself once it can: see keybroker seal status and the server's log"}
	}
	return nil
}
