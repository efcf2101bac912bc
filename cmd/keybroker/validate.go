package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

const defaultConfig = "config.hcl"

func (a *app) validateCommand() *cobra.Command {
	var path string
	var offline bool
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check a configuration, and report every mistake in it",
		Long: "Check a configuration file, or all *.hcl files of a directory, and report every\n" +
			"mistake with its line and how to mend it. Nothing is started or called.",
		Args: takes(),
		RunE: a.does(func(context.Context, []string) error {
			cfg, found := config.Load(path, daemon.Registry(), config.Options{Offline: offline})
			return a.showDiagnostics(path, cfg, found)
		}),
	}
	cmd.Flags().StringVar(&path, "config", defaultConfig, "file, or directory of *.hcl files")
	cmd.Flags().BoolVar(&offline, "offline", false, "do not read env() and file()")
	_ = cmd.MarkFlagFilename("config", "hcl")
	return cmd
}

// showDiagnostics prints what was found: for programs on stdout, for people on
// stderr.
func (a *app) showDiagnostics(path string, cfg *config.Config, found *config.Diagnostics) error {
	if !a.json() {
		if err := a.report(found); err != nil {
			return err
		}
		return write(a.out, fmt.Sprintf("%s is valid: %s\n", path, inventory(cfg)))
	}
	if err := a.showJSON(struct {
		Valid       bool                `json:"valid"`
		Diagnostics *config.Diagnostics `json:"diagnostics"`
	}{!found.HasErrors(), found}); err != nil {
		return err
	}
	return found.Err()
}

// inventory counts what a configuration declares.
func inventory(cfg *config.Config) string {
	count := func(n int, one, many string) string {
		if n == 1 {
			return "1 " + one
		}
		return fmt.Sprintf("%d %s", n, many)
	}
	counts := []string{
		count(len(cfg.Secrets), "secret", "secrets"),
		count(len(cfg.Backends), "backend", "backends"),
		count(len(cfg.Issuers), "issuer", "issuers"),
		count(len(cfg.Probes), "probe", "probes"),
		count(len(cfg.Consumers), "consumer", "consumers"),
		count(len(cfg.RotationPolicies), "rotation policy", "rotation policies"),
		count(len(cfg.Policies), "access policy", "access policies"),
		count(len(cfg.Triggers), "trigger", "triggers"),
	}
	for _, more := range []struct {
		n         int
		one, many string
	}{
		{len(cfg.Tenants), "tenant", "tenants"}, {len(cfg.Auths), "auth", "auths"}, {len(cfg.Roles), "role", "roles"},
		{len(cfg.AuditSinks), "audit sink", "audit sinks"}, {len(cfg.Notifiers), "notifier", "notifiers"}, {len(cfg.Alerts), "alert", "alerts"},
	} {
		if more.n > 0 {
			counts = append(counts, count(more.n, more.one, more.many))
		}
	}
	return strings.Join(counts, ", ")
}
