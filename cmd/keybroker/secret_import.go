package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

// importing are the flags of `secret import`.
type importing struct {
	intervention
	version  int
	handle   []string
	versions []string
}

func (a *app) secretImportCommand() *cobra.Command {
	var i importing
	cmd := &cobra.Command{
		Use:   "import NAME",
		Short: "Take over a secret that is in its vault already",
		Long: "Take over a secret that is in its vault already, with the versions that the vault\n" +
			"still holds: the names of their fields are shown, never a value. Nothing is written to\n" +
			"the vault before the first rotation.\n\n" +
			"The handle is what the issuer calls the credential. Without it the broker cannot have\n" +
			"the credential revoked once it is replaced. It can be given later: with --version, that\n" +
			"is all that is taken over.",
		Example: "  keybroker secret import payments/stripe --dry-run\n" +
			"  keybroker secret import payments/stripe --handle id=key_123 --reason 'moving to keybroker'\n" +
			"  keybroker secret import payments/stripe --version 1 --handle id=key_123",
		Args:              takes("NAME"),
		ValidArgsFunction: a.completeSecrets,
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			request, err := i.request()
			if err != nil {
				return err
			}
			return a.importSecret(ctx, c, args[0], i.intervention, request)
		}),
	}
	i.intervention.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&i.handle, "handle", nil, "one part of the handle of the current version, as `NAME=VALUE`; may be repeated")
	f.StringArrayVar(&i.versions, "version-handle", nil, "the same of an older version, as `ID:NAME=VALUE` by the vault's own id; may be repeated")
	f.IntVar(&i.version, "version", 0, "take over the handle of this version alone, which was taken over without it")
	return cmd
}

// request is what the flags ask for.
func (i *importing) request() (client.ImportRequest, error) {
	r := client.ImportRequest{Version: i.version}
	switch {
	case i.version < 0:
		return r, usagef("--version is %d; versions are numbered from 1", i.version)
	case i.version > 0 && len(i.handle) == 0:
		return r, usagef("--handle is missing: what does its issuer call version %d?", i.version)
	case i.version > 0 && len(i.versions) > 0:
		return r, usagef("--version and --version-handle are both given")
	}
	var err error
	if r.Handle, err = handleOf(i.handle); err != nil {
		return r, err
	}
	for _, text := range i.versions {
		id, part, ok := strings.Cut(text, ":")
		if r.VersionHandles == nil {
			r.VersionHandles = map[string]map[string]string{}
		}
		if r.VersionHandles[id] == nil {
			r.VersionHandles[id] = map[string]string{}
		}
		if !ok || id == "" {
			return r, usagef("--version-handle %q is no ID:NAME=VALUE", text)
		}
		if err := addPart(r.VersionHandles[id], part); err != nil {
			return r, usagef("--version-handle %q %v", text, err)
		}
	}
	return r, nil
}

// handleOf reads the parts of a handle, as NAME=VALUE; nil of none.
func handleOf(parts []string) (map[string]string, error) {
	if len(parts) == 0 {
		return nil, nil
	}
	h := map[string]string{}
	for _, part := range parts {
		if err := addPart(h, part); err != nil {
			return nil, usagef("--handle %q %v", part, err)
		}
	}
	return h, nil
}

// addPart adds one NAME=VALUE, whose VALUE may be empty: which parts may be is known
// to the issuer.
func addPart(h map[string]string, part string) error {
	name, value, ok := strings.Cut(part, "=")
	if !ok || name == "" {
		return errors.New("is no NAME=VALUE")
	}
	if _, twice := h[name]; twice {
		return fmt.Errorf("gives the part %s once more", name)
	}
	h[name] = value
	return nil
}

// importSecret shows what the vault holds, asks whether to take it over, and does
// just that.
func (a *app) importSecret(ctx context.Context, c *client.Client, name string, i intervention, request client.ImportRequest) error {
	ask := func(dryRun bool, expect []string) (client.Import, error) {
		r := request
		r.InterventionRequest = client.InterventionRequest{Reason: i.reason, DryRun: dryRun, Expect: expect}
		return c.Import(ctx, name, r)
	}
	look := func() (client.Import, error) { return ask(true, nil) }
	found, err := look()
	if err != nil {
		return err
	}
	if i.dryRun {
		return a.showImport(found)
	}
	a.announce(found.Sentences())
	var done client.Import
	if i.yes {
		done, err = ask(false, nil)
	} else {
		done, err = agreedTo(a, found, "Take it over?", look, func(would []string) (client.Import, error) { return ask(false, would) })
	}
	if err != nil {
		return err
	}
	if request.Version > 0 && !a.json() {
		a.note("version %d of %s can be revoked by its handle", request.Version, name)
		return nil
	}
	if err := a.showImport(done); err != nil {
		return err
	}
	if n := len(done.Versions); n > 0 && done.Versions[n-1].HandleMissing {
		a.note("its handle can be given later: keybroker secret import %s --version %d --handle NAME=VALUE", name, done.Versions[n-1].Number)
	}
	return nil
}

func (a *app) showImport(i client.Import) error {
	return a.show(i, func(t *table) {
		for _, will := range i.Sentences() {
			if i.DryRun {
				t.row(will)
			}
		}
		if len(i.Versions) == 0 {
			return
		}
		if i.DryRun {
			t.section("VERSION", "STAGE", "IN "+strings.ToUpper(i.Backend), "CREATED", "FIELDS", "HANDLE")
		} else {
			t.row("VERSION", "STAGE", "IN "+strings.ToUpper(i.Backend), "CREATED", "FIELDS", "HANDLE")
		}
		for _, v := range i.Versions {
			handle := "known"
			if v.HandleMissing {
				handle = "missing"
			}
			t.row(v.Number, v.Stage, v.BackendVersion, v.CreatedAt, v.FieldNames, handle)
		}
	})
}
