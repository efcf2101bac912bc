package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/backends/privatefile"
	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

// onThisHost are the flags of commands that work on the data of a configuration,
// without a server.
type onThisHost struct {
	config string
}

func (o *onThisHost) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.config, "config", defaultConfig, "configuration: a file, or a directory of *.hcl files")
	_ = cmd.MarkFlagFilename("config", "hcl")
}

func (o *onThisHost) load(a *app) (*config.Config, hclog.Logger, error) {
	cfg, diags := config.Load(o.config, daemon.Registry(), config.Options{})
	if err := a.report(diags); err != nil {
		return nil, nil, err
	}
	return cfg, hclog.New(&hclog.LoggerOptions{Name: "keybroker", Level: hclog.Warn, Output: a.err}), nil
}

func (a *app) sealEscrowCommand() *cobra.Command {
	var where onThisHost
	var recipients []string
	var out string
	cmd := &cobra.Command{
		Use:   "escrow --recipient age1… --out FILE",
		Short: "Copy the keys, encrypted, for the day when every seal is lost",
		Long: "Write the key-encryption keys of this host's data to a file, encrypted to one or more\n" +
			"public keys of age (https://age-encryption.org), any one of whose owners can open it.\n" +
			"Keep it away from the data: whoever has both, and the secret key, has every secret.\n\n" +
			"Make a copy after the first start and after each `keybroker seal rotate`. It is\n" +
			"needed only when no seal opens the data any more: a key file without a backup, a\n" +
			"deleted KMS key, a lost account. With SQLite the server must be stopped meanwhile.",
		Example: "  age-keygen -o escrow-identity.txt     # on another machine; it prints the public key\n" +
			"  keybroker seal escrow --config /etc/keybroker.d --recipient age1… --out escrow.age",
		Args: takes(),
		RunE: a.does(func(ctx context.Context, _ []string) error {
			switch {
			case len(recipients) == 0:
				return usagef("--recipient is missing: the public key of age of whoever keeps the copy")
			case out == "":
				return usagef("--out is missing: the file to write")
			}
			cfg, logger, err := where.load(a)
			if err != nil {
				return err
			}
			var keys []string
			err = privatefile.Create(out, func(w io.Writer) error {
				keys, err = daemon.Escrow(ctx, cfg, recipients, w, logger)
				return err
			})
			if err != nil {
				return there(err, out, "name another file: an older copy is not replaced")
			}
			a.note("%s was written; keep it away from the data", out)
			return a.show(map[string]any{"file": out, "keys": keys}, func(t *table) {
				t.row("KEY")
				for _, k := range keys {
					t.row(k)
				}
			})
		}),
	}
	where.flags(cmd)
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil, "public key of age that can open the copy (may be repeated)")
	cmd.Flags().StringVar(&out, "out", "", "file to write; it must not exist")
	return cmd
}

func (a *app) sealRecoverCommand() *cobra.Command {
	var where onThisHost
	var from, identity string
	cmd := &cobra.Command{
		Use:   "recover --identity FILE --from FILE",
		Short: "Open the data again by an escrow copy, when every seal is lost",
		Long: "Take the key-encryption keys out of a copy that `keybroker seal escrow` made, and have\n" +
			"the seals of the configuration wrap them, so that the server starts again. A key\n" +
			"file that is missing is made, if the copy is one of this data. Run it on the host of\n" +
			"the data, with the server stopped, only when `keybroker server` says that no seal\n" +
			"opens the data. Afterwards start the server, then `keybroker seal verify`, then\n" +
			"`keybroker seal rotate`, since the keys have been outside of the seals.\n\n" +
			"Exit code 1 if the copy lacks a key without which the server does not start. What\n" +
			"it has is recovered all the same.",
		Example: "  keybroker seal recover --config /etc/keybroker.d --identity escrow-identity.txt --from escrow.age",
		Args:    takes(),
		RunE: a.does(func(ctx context.Context, _ []string) error {
			switch {
			case identity == "":
				return usagef("--identity is missing: the file with the secret key of age that the copy was made for")
			case from == "":
				return usagef("--from is missing: the escrow copy")
			}
			cfg, logger, err := where.load(a)
			if err != nil {
				return err
			}
			r, err := recoverFrom(ctx, cfg, from, identity, logger)
			if err != nil && len(r.Recovered) == 0 {
				return err
			}
			for _, key := range r.Missing {
				a.note("the copy has no key %s: what it seals stays closed; a newer copy may have it", key)
			}
			for _, seal := range r.Away {
				a.note("seal %s could not be used; it follows once the server runs", printable(seal))
			}
			if err == nil {
				a.note("start the server, then: keybroker seal verify, keybroker seal rotate")
			}
			return errors.Join(err, a.show(map[string]any{"recovered": r.Recovered, "missing": r.Missing, "away": r.Away}, func(t *table) {
				t.row("RECOVERED KEY")
				for _, key := range r.Recovered {
					t.row(key)
				}
			}))
		}),
	}
	where.flags(cmd)
	cmd.Flags().StringVar(&identity, "identity", "", "file with the secret key of age (AGE-SECRET-KEY-1…)")
	cmd.Flags().StringVar(&from, "from", "", "the escrow copy")
	return cmd
}

func recoverFrom(ctx context.Context, cfg *config.Config, from, identity string, logger hclog.Logger) (daemon.Recovery, error) {
	copied, err := os.Open(from)
	if err != nil {
		return daemon.Recovery{}, fmt.Errorf("opening the escrow copy: %w", err)
	}
	defer func() { _ = copied.Close() }()
	secret, err := os.Open(identity)
	if err != nil {
		return daemon.Recovery{}, fmt.Errorf("opening the identity: %w", err)
	}
	defer func() { _ = secret.Close() }()
	return daemon.Recover(ctx, cfg, copied, secret, logger)
}
