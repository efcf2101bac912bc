package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) auditCommand() *cobra.Command {
	g := group("audit", "Look through the audit log, and verify it",
		a.auditQueryCommand(), a.auditVerifyCommand(), a.auditHashCommand(), a.auditKeyCommand())
	g.Long = "Every request, answer and step is in the audit log of the node that it happened on:\n" +
		"DATA_DIR/audit.jsonl and the segments before it. Each record has the hash of the one\n" +
		"before, and within a second the node signs what it has written, so that whatever is\n" +
		"changed, removed or cut off later is found.\n\n" +
		"  query    who did what? who got this value?\n" +
		"  verify   is the log as it was written? also elsewhere, with the public key alone\n" +
		"  hash     what the log has in the place of a secret text, to look for it\n" +
		"  key      the public key, and the newest checkpoint: keep both where nobody who has\n" +
		"           the host can change them"
	return g
}

func (a *app) auditQueryCommand() *cobra.Command {
	var q client.AuditQuery
	var since, until string
	var limit int
	cmd := &cobra.Command{
		Use:   "query",
		Short: "Show records, the newest first",
		Long: "Show the records of the node that is asked, the newest first. All that is given has to\n" +
			"be so; without anything, the last 50 records are shown. A time is one as in\n" +
			"2026-01-31T12:00:00Z, or how long ago, as in 90m or 7d.",
		Example: "  keybroker audit query --secret payments/stripe --since 1h\n" +
			"  keybroker audit query --outcome denied --since 7d\n" +
			"  keybroker audit query --hash \"$(keybroker audit hash < suspect)\"",
		Args: takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) (err error) {
			if q.Since, err = a.moment("since", since); err != nil {
				return err
			}
			if q.Until, err = a.moment("until", until); err != nil {
				return err
			}
			found, err := collect(client.All(func(after string) (client.List[client.AuditRecord], error) {
				q.Page = pageFor(limit, after)
				return c.Audit(ctx, q)
			}), limit)
			if err != nil {
				return err
			}
			return a.show(found, func(t *table) { drawAudit(t, found) })
		}),
	}
	f := cmd.Flags()
	f.StringVar(&q.Actor, "actor", "", "id of who did it, as in the column ACTOR")
	f.StringVar(&q.Action, "action", "", "such as secret.read; secret. is all that begin so")
	f.StringVar(&q.Secret, "secret", "", "what it was about: NAME or TENANT:NAME")
	f.StringVar(&q.Path, "path", "", "policy path, such as sys/tokens")
	f.StringVar(&q.Outcome, "outcome", "", "ok, denied or failed")
	f.StringVar(&q.Request, "request", "", "id of the request, as in X-Request-Id")
	f.StringVar(&q.Hash, "hash", "", "of a text that was given or answered; see keybroker audit hash")
	f.StringVar(&q.Tenant, "tenant", "", "only of this tenant")
	f.StringVar(&since, "since", "", "`TIME` from which on")
	f.StringVar(&until, "until", "", "`TIME` up to which")
	f.IntVar(&limit, "limit", 50, "how many at most; 0: all")
	_ = cmd.RegisterFlagCompletionFunc("outcome", cobra.FixedCompletions([]string{"ok", "denied", "failed"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	return cmd
}

// moment reads a time: one for the record, or how long ago.
func (a *app) moment(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	ago := text
	var days int
	if n, err := fmt.Sscanf(text, "%dd", &days); err == nil && n == 1 && fmt.Sprintf("%dd", days) == text {
		ago = fmt.Sprintf("%dh", 24*days)
	}
	d, err := time.ParseDuration(ago)
	if err != nil || d < 0 {
		return time.Time{}, usagef("--%s is %q; write a time as in 2026-01-31T12:00:00Z, or how long ago, as in 90m or 7d", flag, text)
	}
	return a.now().Add(-d), nil
}

func drawAudit(t *table, records []client.AuditRecord) {
	if len(records) == 0 {
		t.row("no records")
		return
	}
	t.row("INDEX", "TIME", "KIND", "ACTOR", "ACTION", "ABOUT", "OUTCOME", "ADDRESS", "RULE")
	for _, r := range records {
		about := r.Path
		if r.Secret != "" {
			about = r.Secret
		}
		if r.Version > 0 {
			about += fmt.Sprintf(" version %d", r.Version)
		}
		rule := r.Rule
		if r.Policy != "" {
			rule = r.Policy + ": " + r.Rule
		}
		t.row(fmt.Sprint(r.Index), stamp(r.Time), r.Kind, r.Actor, r.Action, about, r.Outcome, r.Address, rule)
	}
}

func (a *app) auditHashCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hash",
		Short: "Tell what the log has in the place of a text from stdin",
		Long: "Read a text from stdin and tell what the audit log has in its place, wherever a value,\n" +
			"a token or another sensitive text was given or answered. A newline at its end is not\n" +
			"of it. The hash is keyed: nobody can make it without the node.",
		Example: "  keybroker audit hash < suspect | xargs keybroker audit query --hash",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			const most = 1 << 20
			text, err := io.ReadAll(io.LimitReader(a.in, most))
			if err != nil {
				return fmt.Errorf("reading stdin: %w", err)
			}
			plain := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
			if plain == "" {
				return usagef("there is nothing on stdin: give the text to hash there")
			}
			h, err := c.AuditHash(ctx, client.SecretText(plain))
			if err != nil {
				return err
			}
			if a.json() {
				return a.showJSON(h)
			}
			return write(a.out, h.Hash+"\n")
		}),
	}
}

func (a *app) auditKeyCommand() *cobra.Command {
	var checkpoint bool
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print the public key that verifies the log, or its newest checkpoint",
		Long: "Print the public key that verifies the log of the node that is asked, or, with\n" +
			"--checkpoint, the newest checkpoint. Keep both where nobody who has the host can\n" +
			"change them: a log that is cut off at its end shows by a checkpoint alone.",
		Example: "  keybroker audit key > audit.pub\n  keybroker audit key --checkpoint > today.checkpoint",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			k, err := c.AuditCheckpoint(ctx)
			if err != nil {
				return err
			}
			switch {
			case a.json():
				return a.showJSON(k)
			case checkpoint:
				return write(a.out, k.Checkpoint)
			}
			return write(a.out, k.Key+"\n")
		}),
	}
	cmd.Flags().BoolVar(&checkpoint, "checkpoint", false, "print the newest checkpoint")
	return cmd
}
