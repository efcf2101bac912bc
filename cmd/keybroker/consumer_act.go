package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

// testPatience is how long a test is waited for: the broker waits 15 s for an answer, and
// leaves a consumer that keeps failing alone for some time.
const testPatience = time.Minute

// receiversKeep is for how long receivers keep the keys that they have fetched.
const receiversKeep = 5 * time.Minute

func (a *app) consumerTestCommand() *cobra.Command {
	var r client.ConsumerRequest
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "test NAME",
		Short: "Tell a consumer that somebody tries the way to it, and wait for its answer",
		Long: "Tell a consumer that somebody tries the way to it (the event consumer.test, which is of\n" +
			"no secret), and wait for its answer. Exits 1 if the first attempt fails; the broker\n" +
			"repeats it all the same, unless it answered 410: that disables it, as with any other\n" +
			"delivery. Into an inbox the message is only laid.",
		Example:           "  keybroker consumer test newsletter",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeConsumers,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if patience < 0 {
				return usagef("--timeout is %s; it is 0s or longer", patience)
			}
			d, err := c.TestConsumer(ctx, args[0], r)
			if err != nil {
				return err
			}
			if d.NextAttemptAt.IsZero() { // it is collected
				return a.tested(d, "a message lies in the inbox of %s: delivery %s", d.Consumer, d.ID)
			}
			d, err = attempted(ctx, c, d, patience)
			if err != nil {
				return err
			}
			if d.ReceivedAt.IsZero() {
				if a.json() {
					_ = a.showJSON(d) // what went wrong counts
				}
				return failedTest(ctx, c, d)
			}
			return a.tested(d, "%s has received the test: delivery %s, %s", d.Consumer, d.ID, d.State)
		}),
	}
	cmd.Flags().StringVar(&r.Reason, "reason", "", "why, for the record and the consumer")
	cmd.Flags().DurationVar(&patience, "timeout", testPatience, "how long to wait for the answer")
	return cmd
}

func (a *app) tested(d client.Delivery, format string, args ...any) error {
	if a.json() {
		return a.showJSON(d)
	}
	a.note(format, args...)
	return nil
}

func failedTest(ctx context.Context, c *client.Client, d client.Delivery) error {
	if d.Error == "" {
		return &hintError{fmt.Errorf("%s was not called yet", d.Consumer), "it may have failed before and be left alone for a while: keybroker consumer show " + d.Consumer}
	}
	failed := fmt.Errorf("%s did not receive the test: %s", d.Consumer, d.Error)
	if d.State == client.DeliveryDead {
		hint := "it is given up: keybroker delivery show " + d.ID
		if now, err := c.Consumer(ctx, d.Consumer); err == nil && now.State == client.ConsumerDisabled {
			hint = "it wants no more deliveries, and this has disabled it; when it is back: keybroker consumer enable " + d.Consumer
		}
		return &hintError{failed, hint}
	}
	return &hintError{failed, "it is tried again by itself: keybroker delivery show " + d.ID}
}

// attempted waits until a delivery has arrived or an attempt at it has failed, at most for
// a time.
func attempted(ctx context.Context, c *client.Client, d client.Delivery, patience time.Duration) (client.Delivery, error) {
	const shortest, longest = 50 * time.Millisecond, time.Second
	deadline := time.Now().Add(patience)
	for wait := shortest; ; wait = min(2*wait, longest) {
		now, err := c.Delivery(ctx, d.ID)
		if err != nil {
			return d, err
		}
		if d = now; !d.ReceivedAt.IsZero() || d.Error != "" || d.State != client.DeliveryPending || time.Now().After(deadline) {
			return d, nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return d, ctx.Err()
		}
	}
}

func (a *app) consumerEnableCommand() *cobra.Command {
	var r client.ConsumerRequest
	cmd := &cobra.Command{
		Use:   "enable NAME",
		Short: "Have a consumer told again that wanted no more deliveries",
		Long: "Have a consumer told again that answered 410 (it wants no more deliveries). What waits\n" +
			"is tried at once, also where the broker leaves it alone since it kept failing.",
		Example:           "  keybroker consumer enable newsletter --reason 'it answers again'",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeConsumers,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			one, err := c.EnableConsumer(ctx, args[0], r)
			switch {
			case err != nil:
				return err
			case a.json():
				return a.showJSON(one)
			case one.Waiting == 0:
				a.note("%s is told again; nothing waits for it", one.Name)
			default:
				a.note("%s is told again; %s tried at once: keybroker delivery list --consumer %s", one.Name, waits(one.Waiting), one.Name)
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&r.Reason, "reason", "", "why, for the record")
	return cmd
}

func waits(n int) string {
	if n == 1 {
		return "1 delivery that waits is"
	}
	return fmt.Sprintf("%d deliveries that wait are", n)
}

func (a *app) consumerRotateSigningCommand() *cobra.Command {
	var r client.RotateSigningRequest
	var yes bool
	cmd := &cobra.Command{
		Use:   "rotate-signing NAME",
		Short: "Make a new key that a consumer's messages are signed with",
		Long: "Make a new key that a consumer's messages are signed with. The key of before signs\n" +
			"beside it until the overlap ends, so that a consumer accepts them by either one.\n\n" +
			"Of ed25519 a consumer finds the new key by itself where it fetches them from the\n" +
			"broker (/.well-known/keybroker/webhook-keys/NAME). Of hmac the new secret (whsec_…) is\n" +
			"printed alone on stdout, and never shown again: give it to the consumer before the\n" +
			"overlap ends. A secret that the configuration names is changed there.",
		Example: "  keybroker consumer rotate-signing newsletter\n" +
			"  keybroker consumer rotate-signing billing --overlap 7d > billing.whsec",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeConsumers,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if tooShort(r.Overlap) && !yes {
				question := fmt.Sprintf("%s may refuse every message until it knows the new key. Go on?", args[0])
				if err := a.confirm(question); err != nil {
					return err
				}
			}
			out, err := c.RotateSigning(ctx, args[0], r)
			switch {
			case err != nil:
				return err
			case a.json():
				return a.showJSON(out)
			case out.Secret != "":
				a.note("%s", afterRotation(out, "give it this secret, which is never shown again"))
				return write(a.out, out.Secret.Reveal()+"\n")
			}
			a.note("%s", afterRotation(out, "where it keeps a public key of its own, give it the new one; where it fetches them from the broker, nothing is to be done"))
			return a.show(out, func(t *table) {
				t.row(signingColumns...)
				drawSigningKeys(t, out.Keys)
			})
		}),
	}
	f := cmd.Flags()
	f.StringVar(&r.Overlap, "overlap", "24h", "how long the key of before signs as well, e.g. 7d, at most 30d; 0s: no longer")
	f.StringVar(&r.Reason, "reason", "", "why, for the record")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// tooShort tells whether an overlap ends before receivers look for the new key. What is no
// duration, which may begin with days, the server refuses.
func tooShort(overlap string) bool {
	days, rest, ok := strings.Cut(overlap, "d")
	if !ok {
		days, rest = "0", overlap
	}
	n, err := strconv.ParseFloat(days, 64)
	d, err2 := time.ParseDuration(cmp.Or(rest, "0"))
	return err == nil && err2 == nil && n*24*float64(time.Hour)+float64(d) < float64(receiversKeep)
}

// afterRotation says what a consumer has to do, and by when.
func afterRotation(out client.SigningRotation, todo string) string {
	var until time.Time
	for _, k := range out.Keys {
		if k.Until.After(until) {
			until = k.Until
		}
	}
	if until.IsZero() {
		return fmt.Sprintf("messages to %s are signed by a new key alone from now on: %s", out.Consumer, todo)
	}
	return fmt.Sprintf("messages to %s are signed by a new key, and by that of before until %s: %s", out.Consumer, stamp(until), todo)
}

var signingColumns = []any{"SIGNING KEY", "ALGORITHM", "PUBLIC", "MADE", "SIGNS UNTIL"}

func drawSigningKeys(t *table, keys []client.SigningKey) {
	for _, k := range keys {
		t.row(k.ID, k.Algorithm, k.Public, k.CreatedAt, k.Until)
	}
}
