package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) secretConsumersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "consumers NAME",
		Short: "Tell who was told of a secret, who uses which version, and who still uses an old one",
		Long: "Tell which consumer of a secret was told of which version, got it, fetched it and uses\n" +
			"it, and which may still use one that is not current.\n\n" +
			"SENT is how often it was told; INSTANCES how many of its instances say that they use\n" +
			"what they were told of. USES is the version that all of them said to use last, or that\n" +
			"its role has fetched; LAST READ what its role read last. An old version works until its\n" +
			"overlap ends and it was revoked: keybroker secret revoke turns it off before.",
		Example:           "  keybroker secret consumers payments/stripe",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			s, err := c.SecretConsumers(ctx, args[0])
			if err != nil {
				return err
			}
			return a.show(s, func(t *table) { drawSecretConsumers(t, s) })
		}),
	}
}

func drawSecretConsumers(t *table, s client.SecretConsumers) {
	t.pair("Secret", qualified(s.Tenant, s.Secret))
	t.pair("Version", s.Version)
	t.pair("Generation", s.Generation)
	t.pair("Waited for", heldBy[s.Require])
	if len(s.Consumers) == 0 {
		t.pair("Consumers", "none: nobody is told of it")
	} else {
		t.section("CONSUMER", "TOLD", "STATE", "SENT", "RECEIVED", "FETCHED", "APPLIED", "INSTANCES", "USES", "LAST READ", "NEXT ATTEMPT", "ERROR")
	}
	for _, c := range s.Consumers {
		t.row(c.Consumer, c.Version, c.State, c.Sent, c.ReceivedAt, c.FetchedAt, c.AppliedAt, instances(c), usedBy(c, s.Version), lastRead(t, c, s.Version), c.NextAttemptAt, c.Error)
	}
	if len(s.Old) == 0 {
		return
	}
	t.section("OLD VERSION", "STAGE", "WORKS UNTIL", "RETIREMENT", "LAST USED", "USED BY")
	for _, v := range s.Old {
		t.row(v.Version, v.Stage, v.Until, v.Retirement, lastUsed(t, v), v.UsedBy)
	}
}

// heldBy says what keeps a version from being revoked after its overlap.
var heldBy = map[string]string{
	"none":     "nobody: the old version is revoked when its overlap ends",
	"received": "every consumer to have received the new version",
	"fetched":  "every consumer to have fetched the new version",
	"applied":  "every consumer to use the new version",
}

// instances is "2/3": that use what they were told of, and of how many.
func instances(c client.SecretConsumer) string {
	if c.Wanted == 0 {
		return ""
	}
	text := fmt.Sprintf("%d/%d", len(c.Instances), c.Wanted)
	var names []string
	for _, i := range c.Instances {
		if i.Name != "" {
			names = append(names, i.Name)
		}
	}
	if len(names) > 0 && len(names) < c.Wanted { // then it counts who is missing
		text += " (" + strings.Join(names, ", ") + ")"
	}
	return text
}

func usedBy(c client.SecretConsumer, current int) string {
	if c.Uses == 0 {
		return "unknown"
	}
	return numbered(c.Uses, current)
}

func lastRead(t *table, c client.SecretConsumer, current int) string {
	if c.LastRead == nil {
		return ""
	}
	return numbered(c.LastRead.Version, current) + ", " + relative(c.LastRead.At, t.now)
}

// numbered is a version's number, and whether it is not the current one.
func numbered(version, current int) string {
	if version == current {
		return fmt.Sprint(version)
	}
	return fmt.Sprintf("%d (old)", version)
}

func lastUsed(t *table, v client.OldVersion) string {
	switch {
	case v.LastUsedAt.IsZero():
		return v.LastUse
	case v.LastUse == "" || v.Retirement != "": // the words have the time, too
		return relative(v.LastUsedAt, t.now)
	}
	return relative(v.LastUsedAt, t.now) + " (" + v.LastUse + ")"
}
