package main

import (
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/config"
	"github.com/keybroker/keybroker/broker/daemon"
)

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Ask what the access policies of a configuration come to", a.policyCheckCommand(), a.policyTestCommand())
}

// configFlag is --config of a command that reads a configuration by itself.
func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "config", defaultConfig, "file, or directory of *.hcl files")
	_ = cmd.MarkFlagFilename("config", "hcl")
}

// readAccess reads a configuration for what it says of access. What is secret in it
// is not read. Of a configuration with mistakes all are reported.
func (a *app) readAccess(path string) (*access, error) {
	cfg, found := config.Load(path, daemon.Registry(), config.Options{Offline: true})
	if found.HasErrors() {
		return nil, a.report(found)
	}
	return &access{cfg}, nil
}
