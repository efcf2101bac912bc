package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// run is the whole program: it carries out one command line and returns its exit
// code.
func run(ctx context.Context, args []string, s streams) int {
	a := newApp(s)
	root := a.root()
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	cmd, err := root.ExecuteContextC(ctx)
	var stands standing
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, changesFound{}):
		return exitChanges
	case errors.As(err, &stands):
		return int(stands)
	case !a.started:
		a.complain(&hintError{err, fmt.Sprintf("run '%s --help'", cmd.CommandPath())})
		return exitUsage
	}
	a.complain(err)
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "keybroker",
		Short: "Rotate credentials, and prove that the old ones are dead",
		Long: "keybroker stands between applications and vaults. It rotates credentials on a\n" +
			"schedule, on events and in emergencies, tells their consumers, revokes what was\n" +
			"replaced, and proves that the revoked credential no longer works.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          needsCommand,
		RunE:          help,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.check(cmd)
		},
	}
	// Commands that only hold others can be run, but only to say so.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	a.flags(root)
	root.AddCommand(
		a.serverCommand(),
		a.demoCommand(),
		a.validateCommand(),
		a.configCommand(),
		a.reloadCommand(),
		a.secretCommand(),
		a.rotationCommand(),
		a.retirementCommand(),
		a.consumerCommand(),
		a.deliveryCommand(),
		a.issuerCommand(),
		a.probeCommand(),
		a.driftCommand(),
		a.alertCommand(),
		a.emergencyCommand(),
		a.incidentCommand(),
		a.quarantineCommand(),
		a.offlineCommand(),
		a.eventCommand(),
		a.triggerCommand(),
		a.freezeCommand(),
		a.unfreezeCommand(),
		a.sealCommand(),
		a.loginCommand(),
		a.logoutCommand(),
		a.tokenCommand(),
		a.auditCommand(),
		a.policyCommand(),
		a.storageCommand(),
		a.versionCommand(),
	)
	return root
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: needsCommand, RunE: help}
	g.AddCommand(commands...)
	return g
}

// needsCommand is the Args of commands that only hold others.
func needsCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	near := ""
	if found := cmd.SuggestionsFor(args[0]); len(found) > 0 {
		near = fmt.Sprintf("; did you mean %s?", strings.Join(found, " or "))
	}
	return fmt.Errorf("there is no command %q in %s%s", args[0], cmd.CommandPath(), near)
}

// takes is the Args of a command with exactly these arguments.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// help answers a command line that stops before a command.
func help(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(cmd.ErrOrStderr())
	if err := cmd.Help(); err != nil {
		return err
	}
	return errors.New("a command is missing")
}

// does makes the RunE of a command. Errors before it are about usage.
func (a *app) does(act func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		return act(cmd.Context(), args)
	}
}

// usageError is a mistake in the command line that only the command itself sees.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// oneOf checks a flag with few values.
func oneOf(flag, given string, known ...string) error {
	if slices.Contains(known, given) {
		return nil
	}
	return usagef("--%s is %q; it is one of %s", flag, given, strings.Join(known, ", "))
}
