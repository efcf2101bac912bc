package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keybroker/keybroker/broker/client"
)

// emergency are the flags of `keybroker emergency`.
type emergency struct {
	request     client.IncidentRequest
	selection   selection
	leakedAt    string
	detectedAt  string
	revokeFirst bool
	wait        bool
	timeout     time.Duration
}

// emergencyCommand asks nothing: whoever types it at night has one chance.
func (a *app) emergencyCommand() *cobra.Command {
	var e emergency
	cmd := &cobra.Command{
		Use:   "emergency [NAME…] --reason TEXT",
		Short: "Contain and replace compromised secrets at once",
		Long: "Declare every live version of a secret compromised, or of all secrets that are selected:\n" +
			"they are revoked and proven dead, while replacements are minted, published and pushed\n" +
			"beside it. It does not ask, and repeating it does no harm: while the emergency lasts, it\n" +
			"is the same one. --dry-run only says what would be hit, and who would feel it.\n\n" +
			"Selectors of several kinds must all hold; of names and patterns one must. --leaked-value\n" +
			"takes the versions that have the value, --read-by and --address those that were read by\n" +
			"somebody or from somewhere, since --since; the others every version that may be alive.\n" +
			"The leaked value comes from a file or stdin, never from the command line.\n\n" +
			"With --version only those versions are compromised; naming the replacement of an\n" +
			"emergency that is under way begins another. Of more secrets than the server allows\n" +
			"(emergency.approval_above) somebody else has to approve before anything is done.\n\n" +
			"Times are as in 2026-01-31T12:00:00Z, or how long ago: 90m, 2h, 7d.\n\n" + exitCodes,
		Example: "  keybroker emergency payments/stripe --reason 'key found in a public repository' --wait\n" +
			"  keybroker emergency --leaked-value leaked.txt --reason 'key found in a public repository' --wait\n" +
			"  pbpaste | keybroker emergency --leaked-value - --reason 'pasted into a chat' --wait\n" +
			"  keybroker emergency --read-by shop --since 36h --reason 'the shop was broken into' --quarantine-role shop --dry-run\n" +
			"  keybroker emergency --match 'payments/*' --label risk=high --reason 'a laptop was stolen' --leaked-at 5h",
		ValidArgsFunction: a.completeSeveralSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if err := e.read(a, args); err != nil {
				return err
			}
			err := e.declare(ctx, a, c)
			if client.Status(err) == http.StatusBadRequest { // an address that is none, a time that is yet to come, …
				return &usageError{err}
			}
			return err
		}),
	}
	e.flags(cmd.Flags())
	e.selection.flags(cmd, a)
	return cmd
}

func (e *emergency) flags(f *pflag.FlagSet) {
	r := &e.request
	f.StringVar(&r.Reason, "reason", "", "what happened, for the record")
	f.BoolVar(&e.revokeFirst, "revoke-first", false, "do not wait for the replacement, whatever the policy says")
	f.BoolVar(&r.Overwrite, "overwrite", false, "write the replacement also over a value in the vault that somebody else put there")
	f.StringVar(&e.leakedAt, "leaked-at", "", "`TIME` when it leaked, if anybody knows")
	f.StringVar(&e.detectedAt, "detected-at", "", "`TIME` when somebody noticed; default: now")
	f.StringArrayVar(&r.Quarantine.Consumers, "quarantine-consumer", nil, "keep this consumer out until somebody lifts it; can be repeated")
	f.StringArrayVar(&r.Quarantine.Roles, "quarantine-role", nil, "keep this role out until somebody lifts it; can be repeated")
	f.BoolVar(&r.Quarantine.Force, "force", false, "quarantine also the role that you act in")
	f.BoolVar(&r.DryRun, "dry-run", false, "only say what would be hit, who would feel it, and whether somebody has to approve")
	f.BoolVar(&r.Override, "override", false, "do not wait for a second person; that raises an alert")
	f.BoolVar(&e.wait, "wait", false, "follow it to the proof; see the exit codes above")
	f.DurationVar(&e.timeout, "timeout", 0, "with --wait: leave it after this long; it goes on")
}

// read takes the command line apart, and reads what leaked.
func (e *emergency) read(a *app, names []string) (err error) {
	r := &e.request
	if strings.TrimSpace(r.Reason) == "" {
		return usagef("--reason is missing: it goes into the record and to the consumers")
	}
	if e.timeout < 0 || e.timeout > 0 && !e.wait {
		return usagef("--timeout is how long to --wait")
	}
	if r.DryRun && e.wait {
		return usagef("--dry-run begins nothing to --wait for")
	}
	if e.revokeFirst {
		r.Contain = client.RevokeFirst
	}
	if r.LeakedAt, err = a.moment("leaked-at", e.leakedAt); err != nil {
		return err
	}
	if r.DetectedAt, err = a.moment("detected-at", e.detectedAt); err != nil {
		return err
	}
	r.Selector, err = e.selection.read(a, names)
	return err
}

func (e *emergency) declare(ctx context.Context, a *app, c *client.Client) error {
	if e.plain() {
		return e.ofOne(ctx, a, c, e.selection.Names[0])
	}
	return e.ofMany(ctx, a, c)
}

// plain tells whether it is about one secret, by its name, and about nothing that only an
// incident has.
func (e *emergency) plain() bool {
	r := e.request
	return e.selection.oneName() && !r.DryRun && !r.Override && r.LeakedAt.IsZero() && r.DetectedAt.IsZero() &&
		len(r.Quarantine.Consumers)+len(r.Quarantine.Roles) == 0
}

// patience bounds how long it is followed.
func (e *emergency) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return patience(ctx, e.timeout)
}

// patience bounds how long something is followed; 0: as long as it takes.
func patience(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, timeout)
}

// ofMany declares an incident, or says what would follow.
func (e *emergency) ofMany(ctx context.Context, a *app, c *client.Client) error {
	e.request.ID = uuid.NewString()
	i, err := declare(ctx, c, e.request)
	switch {
	case err != nil:
		return err
	case e.request.DryRun:
		return a.show(i, func(t *table) { drawForecast(t, i) })
	}
	a.announceIncident(i)
	if e.wait {
		ctx, stop := e.patience(ctx)
		defer stop()
		return a.watchIncident(ctx, c, i.ID, untilProven)
	}
	if a.json() {
		if err := a.showJSON(i); err != nil {
			return err
		}
	}
	if i.State == client.IncidentProposed {
		return standing(exitOpen)
	}
	a.note("follow it with: keybroker incident watch %s", i.ID)
	return nil
}

// declare asks again where no answer came: it is the same incident, by its id.
func declare(ctx context.Context, c *client.Client, r client.IncidentRequest) (i client.Incident, err error) {
	const tries, pause = 3, time.Second
	for n := 1; ; n++ {
		if i, err = c.DeclareIncident(ctx, r); err == nil || !unanswered(err) {
			return i, err
		}
		if n == tries {
			return i, &hintError{err, "nobody knows whether it was declared: keybroker incident list; declaring it again does no harm"}
		}
		select {
		case <-ctx.Done():
			return i, err
		case <-time.After(pause):
		}
	}
}

// unanswered tells whether a request may have arrived although its answer did not.
func unanswered(err error) bool {
	switch s := client.Status(err); {
	case errors.Is(err, context.Canceled) || errors.Is(err, syscall.ECONNREFUSED):
		return false
	case s == http.StatusBadGateway || s == http.StatusGatewayTimeout:
		return true
	default:
		return s == 0
	}
}
