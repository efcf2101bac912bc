package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

// logFlags say how the daemon logs.
type logFlags struct {
	level string
	json  bool
}

func (f *logFlags) declare(cmd *cobra.Command, level string) {
	cmd.Flags().StringVar(&f.level, "log-level", level, "least level to log: trace, debug, info, warn, error or off")
	cmd.Flags().BoolVar(&f.json, "log-json", false, "log JSON lines")
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions(logLevels, cobra.ShellCompDirectiveNoFileComp))
}

var logLevels = []string{"trace", "debug", "info", "warn", "error", "off"}

func (f *logFlags) logger(a *app) (hclog.Logger, error) {
	if err := oneOf("log-level", f.level, logLevels...); err != nil {
		return nil, err
	}
	return hclog.New(&hclog.LoggerOptions{Name: "keybroker", Level: hclog.LevelFromString(f.level), JSONFormat: f.json, Output: a.err}), nil
}

func (a *app) serverCommand() *cobra.Command {
	var path string
	var newRoot bool
	var logs logFlags
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the daemon",
		Long: "Run the daemon until it is interrupted (SIGINT or SIGTERM).\n\n" +
			"The first start makes data_dir, the seal key and the root token, which is written\n" +
			"to <data_dir>/root-token. That one is good for an hour, or until the first token or\n" +
			"login of an admin role; another takes a start with --new-root-token, which raises an\n" +
			"alert. Whatever was under way when the daemon last stopped, however it stopped, is\n" +
			"continued.\n\n" +
			"SIGHUP takes changed configuration files into use, as `keybroker reload` does.",
		Example: "  keybroker server --config config.hcl\n  keybroker server --config /etc/keybroker.d",
		Args:    cobra.NoArgs,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			logger, err := logs.logger(a)
			if err != nil {
				return err
			}
			serveHangups, stopHangups := reloadOnHangup(ctx) // from now on: one during the start must not end it
			defer stopHangups()
			load := func() (*config.Config, *config.Diagnostics) {
				return config.Load(path, daemon.Registry(), config.Options{})
			}
			cfg, diags := load()
			if err := a.report(diags); err != nil {
				return err
			}
			d, err := daemon.Open(ctx, daemon.Options{Config: cfg, Load: load, Logger: logger, NewRootToken: newRoot})
			if err != nil {
				return fmt.Errorf("starting: %w", err)
			}
			serveHangups(d)
			return d.Run(ctx)
		}),
	}
	cmd.Flags().StringVar(&path, "config", "config.hcl", "configuration: a file, or a directory of *.hcl files")
	cmd.Flags().BoolVar(&newRoot, "new-root-token", false, "write another root token, good for an hour, to data_dir, if nobody can make tokens any more; raises an alert")
	logs.declare(cmd, "info")
	return cmd
}

// report prints what is wrong with a configuration, and warnings; it is an error
// if the configuration cannot be used.
func (a *app) report(diags *config.Diagnostics) error {
	_, color := terminal(a.err)
	if err := diags.WriteText(a.err, color); err != nil {
		return err
	}
	if diags.HasErrors() {
		return errors.New("the configuration cannot be used")
	}
	return nil
}

// reloadOnHangup reloads at every SIGHUP until the returned function is called,
// which waits for a reload under way. The server logs what came of each.
func reloadOnHangup(ctx context.Context) (serve func(*daemon.Daemon), stop func()) {
	hangups := make(chan os.Signal, 1) // more of them in a row are one
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	var loop sync.WaitGroup
	serve = func(d *daemon.Daemon) {
		loop.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-hangups:
					_, _ = d.Reload(ctx) // logged, audited and counted there
				}
			}
		})
	}
	return serve, func() {
		signal.Stop(hangups)
		cancel()
		loop.Wait()
	}
}
