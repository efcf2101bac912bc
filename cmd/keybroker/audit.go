package main

import (
	"context"
	"fmt"
	"io"
	"strings"

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

func (a *app) auditHashCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hash",
		Short: "Tell what the log has in the place of a text from stdin",
		Long: "Read a text from stdin and tell what the audit log has in its place: where a value was\n" +
			"made, handed out or sent, where a token was made, and where a JWT was shown. A token's\n" +
			"uses are found by its id, which the record of its making has. A newline at the end is\n" +
			"not of the text. The hash is keyed: nobody can make it without the node, and the log\n" +
			"keeps who asked for which.",
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
