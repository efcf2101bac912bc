package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/offline"
)

// oldKit is how old a kit may be before it is said.
const oldKit = 24 * time.Hour

func (a *app) offlineCommand() *cobra.Command {
	return group("offline", "Contain while the server itself is down",
		a.offlineKitCommand(), a.offlineShowCommand(), a.offlineRevokeCommand(), a.offlineReturnCommand())
}

func (a *app) offlineKitCommand() *cobra.Command {
	var out string
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "kit --out FILE",
		Short: "Keep a copy of the encrypted file that contains when the server is down",
		Long: "Write the offline kit of the server to a file: which credentials there are and what their\n" +
			"issuers call them, who uses them, how to turn them off by hand, and what the issuers log\n" +
			"in with. It has no value of a secret that keybroker manages, and is encrypted to those\n" +
			"whom the block offline_kit of the configuration names. Keep it where it is still reached\n" +
			"when the server is not, and the key elsewhere: with both one can revoke everything.\n\n" +
			"With --every it is written again and again until it is interrupted; what cannot be read\n" +
			"whole leaves the last good one in place.",
		Example: "  keybroker offline kit --out keybroker.kit\n  keybroker offline kit --out /mnt/breakglass/keybroker.kit --every 5m",
		Args:    takes(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			if out == "" {
				return usagef("--out is missing: the file to write the kit to")
			}
			if every < 0 {
				return usagef("--every is how often to write it: 5m")
			}
			for {
				err := privatefile.Replace(out, func(w io.Writer) error { return c.OfflineKit(ctx, w) })
				switch {
				case every == 0:
					if err == nil {
						a.note("the kit is in %s", out)
					}
					return err
				case err != nil && ctx.Err() == nil:
					a.complain(err)
					a.note("%s is left as it was; it is tried again in %s", out, every)
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(every):
				}
			}
		}),
	}
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write, with mode 0600; it is replaced")
	cmd.Flags().DurationVar(&every, "every", 0, "write it again each time this long has passed")
	return cmd
}

// kitFile are the flags of what opens a kit.
type kitFile struct{ kit, key string }

func (k *kitFile) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.kit, "kit", "", "`FILE` that is the offline kit")
	cmd.Flags().StringVar(&k.key, "key", "", "`FILE` with the secret key of age that the kit was made for (AGE-SECRET-KEY-1…)")
}

// open decrypts the kit.
func (k *kitFile) open() (*offline.Kit, error) {
	switch {
	case k.kit == "":
		return nil, usagef("--kit is missing: the file that `keybroker offline kit` wrote")
	case k.key == "":
		return nil, usagef("--key is missing: the file with the secret key of age that opens the kit")
	}
	kit, err := os.Open(k.kit)
	if err != nil {
		return nil, fmt.Errorf("opening the kit: %w", err)
	}
	defer func() { _ = kit.Close() }() // it is only read
	key, err := os.Open(k.key)
	if err != nil {
		return nil, fmt.Errorf("opening the key: %w", err)
	}
	defer func() { _ = key.Close() }()
	return offline.Read(kit, key)
}

func (a *app) offlineShowCommand() *cobra.Command {
	var file kitFile
	cmd := &cobra.Command{
		Use:   "show --kit FILE --key KEYFILE",
		Short: "Show what an offline kit knows, how old it is, and how to revoke by hand",
		Long: "Show an offline kit, without the server: how old it is, which issuers it can ask, and each\n" +
			"version that may be alive with the command that a person turns it off with. What the\n" +
			"issuers log in with is never shown.",
		Example: "  keybroker offline show --kit keybroker.kit --key responder.key",
		Args:    takes(),
		RunE: a.does(func(_ context.Context, _ []string) error {
			kit, err := file.open()
			if err != nil {
				return err
			}
			for i := range kit.Issuers { // names alone
				m := &kit.Issuers[i].Material
				for name := range m.Env {
					m.Env[name] = "…"
				}
				for path := range m.Files {
					m.Files[path] = nil
				}
			}
			return a.show(kit, func(t *table) { drawKit(t, kit) })
		}),
	}
	file.flags(cmd)
	return cmd
}

func drawKit(t *table, k *offline.Kit) {
	t.moment("Made", k.MadeAt)
	t.pair("By node", k.Node)
	t.pair("Of installation", k.Installation)
	t.pair("Secrets", len(k.Secrets))
	t.section("ISSUER", "TYPE", "TENANT", "CAN BE ASKED")
	for _, i := range k.Issuers {
		t.row(i.Name, i.Type, i.Tenant, asked(k, i))
	}
	t.section("CONSUMER", "TENANT", "KIND", "WHERE", "ROLE")
	for _, c := range k.Consumers {
		t.row(c.Name, c.Tenant, c.Kind, c.Where, c.Role)
	}
	t.section("SECRET", "VERSION", "STAGE", "ISSUER", "BY HAND")
	for _, s := range k.Secrets {
		for _, v := range s.Versions {
			t.row(s.Ref().String(), v.Number, v.Stage, v.Issuer, v.ByHand)
		}
	}
}

// asked tells whether an issuer can be asked with what the kit has.
func asked(k *offline.Kit, i offline.Issuer) string {
	switch {
	case i.Type == "api_key":
		return "no: it is the broker itself, which revokes on return"
	case i.Type == "human" || i.Type == "random":
		return "no: by hand"
	case i.Type == "exec":
		return fmt.Sprintf("with --credential %s=FILE: it runs a program", i.Name)
	case len(i.Managed) > 0:
		return fmt.Sprintf("with --credential %s=FILE: it logs in with %s, which is not in the kit", i.Name, strings.Join(i.Managed, ", "))
	case !k.Credentials:
		return "with the credentials of the host, or --credential"
	case i.Problem != "":
		return "no: when the kit was made it lacked what it logs in with"
	}
	return "yes"
}

// warnOld says what to know of a kit before it is used.
func (a *app) warnOld(k *offline.Kit) {
	if age := a.now().Sub(k.MadeAt); age > oldKit {
		a.note("the kit is %s old (%s): it knows nothing of versions that were made since; `keybroker offline return` tells which", short(age), stamp(k.MadeAt))
	}
}
