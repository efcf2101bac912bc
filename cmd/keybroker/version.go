package main

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build is what the binary knows of itself.
type build struct {
	Version   string `json:"version"`
	GoVersion string `json:"go_version"`
	Platform  string `json:"platform"`
	Revision  string `json:"revision,omitempty"` // of version control
	Time      string `json:"time,omitempty"`     // of that revision
	Modified  bool   `json:"modified,omitempty"` // built from a changed tree
}

func readBuild() build {
	b := build{Version: "(devel)", GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version = cmp.Or(info.Main.Version, b.Version)
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  takes(),
		RunE: a.does(func(context.Context, []string) error {
			b := readBuild()
			if a.json() {
				return a.showJSON(b)
			}
			_, err := fmt.Fprintf(a.out, "keybroker %s (%s, %s)\n", b.Version, b.GoVersion, b.Platform)
			return err
		}),
	}
}
