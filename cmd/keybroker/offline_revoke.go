package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/daemon"
	"github.com/keybroker/keybroker/broker/offline"
)

// offlineRevoke are the flags of `keybroker offline revoke`.
type offlineRevoke struct {
	file        kitFile
	choice      offline.Choice
	single      singly
	labels      []string
	credentials []string
	journal     string
	reason      string
	dryRun, yes bool
}

func (a *app) offlineRevokeCommand() *cobra.Command {
	var r offlineRevoke
	cmd := &cobra.Command{
		Use:   "revoke --kit FILE --key KEYFILE [NAME…] --reason TEXT",
		Short: "Turn credentials off at their issuers, without the server",
		Long: "Turn every version that may be alive of the selected secrets off at its issuer, with\n" +
			"nothing but the kit, the key and a way to the issuers. Use it only while the server is\n" +
			"down: there are no replacements and no proof before it is back. Nothing is probed here,\n" +
			"since that takes the values, which the kit does not have.\n\n" +
			"What is done stands in a journal beside the kit before and after. The same command once\n" +
			"more goes on where it was, and repeats nothing that succeeded. When the server is back:\n" +
			"`keybroker offline return JOURNAL`.\n\n" +
			"An issuer that logs in with a secret of keybroker needs --credential ISSUER=FILE: a file\n" +
			"with its block of the configuration that has another credential.\n\n" +
			"Exit codes: 0 all were revoked; 4 something is open; 1 failed; 2 usage.",
		Example: "  keybroker offline revoke --kit keybroker.kit --key responder.key payments/stripe --reason 'key leaked'\n" +
			"  keybroker offline revoke --kit keybroker.kit --key responder.key --match 'payments/*' --reason 'key leaked' --dry-run\n" +
			"  keybroker offline revoke --kit keybroker.kit --key responder.key --all --reason 'the server was broken into' --yes",
		RunE: a.does(func(ctx context.Context, names []string) error {
			if err := r.read(names); err != nil {
				return err
			}
			return a.revokeOffline(ctx, &r)
		}),
	}
	f, c := cmd.Flags(), &r.choice
	r.file.flags(cmd)
	f.StringArrayVar(&c.Patterns, "match", nil, "secrets whose names match this `PATTERN` (payments/*); can be repeated: one must match")
	f.StringArrayVar(&r.labels, "label", nil, "secrets with this label, `NAME=VALUE`; can be repeated: all must be there")
	r.single.add(f, &c.Tenant, "tenant", "secrets of this tenant")
	r.single.add(f, &c.Backend, "backend", "secrets that this backend holds, also as a mirror")
	r.single.add(f, &c.Issuer, "issuer", "secrets of which this issuer made a version that may be alive")
	r.single.add(f, &c.Consumer, "consumer", "secrets that this consumer is told of")
	f.BoolVar(&c.All, "all", false, "every secret")
	f.IntSliceVar(&c.Versions, "version", nil, "version of the one secret that is named; can be repeated; default: every one that may be alive")
	f.StringArrayVar(&r.credentials, "credential", nil, "`ISSUER=FILE` with a block of the configuration to be used for that issuer; can be repeated")
	f.StringVar(&r.journal, "journal", "", "`FILE` of what is done; default: the name of the kit with .journal behind it")
	f.StringVar(&r.reason, "reason", "", "what happened, for the record")
	f.BoolVar(&r.dryRun, "dry-run", false, "only say what would be revoked")
	f.BoolVar(&r.yes, "yes", false, "do not ask")
	return cmd
}

func (r *offlineRevoke) read(names []string) (err error) {
	c := &r.choice
	if err := r.single.check(); err != nil {
		return err
	}
	if c.Labels, err = labelsOf(r.labels); err != nil {
		return err
	}
	c.Names = names
	selects := len(c.Patterns)+len(c.Labels) > 0 || c.Tenant+c.Backend+c.Issuer+c.Consumer != "" || c.All
	switch {
	case r.reason == "" && !r.dryRun:
		return usagef("--reason is missing: it goes into the record")
	case len(names) == 0 && !selects:
		return usagef("which secrets? give a NAME, or select with --match, --label, …; every secret: --all")
	case c.All && (len(names)+len(c.Patterns)+len(c.Labels) > 0 || c.Tenant+c.Backend+c.Issuer+c.Consumer != ""):
		return usagef("it is either --all or what is selected")
	case len(c.Versions) > 0 && (len(names) != 1 || selects):
		return usagef("--version is of one secret, by its name alone")
	}
	if r.journal == "" {
		r.journal = r.file.kit + offline.JournalSuffix
	}
	return nil
}

// blocks are the files that replace the kit's blocks, by issuer.
func (r *offlineRevoke) blocks() (map[string]string, error) {
	out := map[string]string{}
	for _, text := range r.credentials {
		name, file, ok := strings.Cut(text, "=")
		if !ok || name == "" || file == "" {
			return nil, usagef("--credential is %q; write ISSUER=FILE", text)
		}
		out[name] = file
	}
	return out, nil
}

func (a *app) revokeOffline(ctx context.Context, r *offlineRevoke) (err error) {
	blocks, err := r.blocks()
	if err != nil {
		return err
	}
	kit, err := r.file.open()
	if err != nil {
		return err
	}
	a.warnOld(kit)
	items, err := kit.Choose(r.choice)
	if err != nil {
		return err
	}
	if r.dryRun {
		return a.showItems(kit, items)
	}
	if !r.yes {
		if err := a.confirm(fmt.Sprintf("revoke %d versions at their issuers? Nothing replaces them before the server is back.", len(items))); err != nil {
			return err
		}
	}
	shop, err := daemon.NewWorkshop(kit, blocks, hclog.New(&hclog.LoggerOptions{Name: "keybroker", Level: hclog.Error, Output: a.err}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shop.Close()) }()
	journal, err := offline.OpenJournal(r.journal, a.beginning(kit, r.reason))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	done := 0
	revoker := offline.Revoker{Kit: kit, Journal: journal, Open: shop.Issuer, Now: a.now, Told: func(o offline.Outcome) {
		done++
		a.note("%d/%d  %s", done, len(items), printable(line(o)))
	}}
	outcomes, err := revoker.Revoke(ctx, items)
	return errors.Join(err, a.account(r.journal, outcomes, ctx.Err()))
}

// beginning is who revokes, where and why.
func (a *app) beginning(kit *offline.Kit, reason string) offline.Record {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	by := "unknown"
	if u, err := user.Current(); err == nil {
		by = u.Username
	}
	return offline.Record{At: a.now().UTC(), Installation: kit.Installation, KitMadeAt: kit.MadeAt, Reason: reason, By: by, Host: host}
}

// line is one outcome for people.
func line(o offline.Outcome) string {
	text := fmt.Sprintf("%s version %d: ", refText(o.Tenant, o.Secret), o.Version)
	switch {
	case o.Before:
		return text + "was revoked before"
	case o.Result == offline.Revoked:
		return text + "revoked"
	case o.Result == offline.OnReturn:
		return text + "when the server is back: " + o.ByHand
	case o.Result == offline.Manual:
		return text + "BY HAND: " + o.ByHand
	}
	return text + "OPEN: " + o.Error
}

// refText names a secret so that only one can be meant.
func refText(tenant, name string) string { return tenant + ":" + name }

func (a *app) showItems(kit *offline.Kit, items []offline.Item) error {
	type planned struct {
		Secret  string `json:"secret"`
		Version int    `json:"version"`
		Issuer  string `json:"issuer"`
		Asked   string `json:"asked"`
		ByHand  string `json:"by_hand"`
	}
	out := []planned{}
	for _, it := range items {
		p := planned{Secret: refText(it.Secret.Tenant, it.Secret.Name), Version: it.Version.Number, Issuer: it.Version.Issuer, Asked: "no: the configuration had no such issuer", ByHand: it.Version.ByHand}
		if i, ok := kit.Issuer(it.Version.Issuer); ok {
			p.Asked = asked(kit, i)
		}
		out = append(out, p)
	}
	return a.show(out, func(t *table) {
		t.row("SECRET", "VERSION", "ISSUER", "CAN BE ASKED", "BY HAND")
		for _, p := range out {
			t.row(p.Secret, p.Version, p.Issuer, p.Asked, p.ByHand)
		}
	})
}

// account says what is contained and what is not, and ends with the code for that.
func (a *app) account(journal string, all []offline.Outcome, interrupted error) error {
	left := offline.Left(all)
	if a.json() {
		if err := a.showJSON(map[string]any{"journal": journal, "outcomes": all, "revoked": len(all) - len(left), "open": len(left)}); err != nil {
			return err
		}
	} else if err := write(a.out, fmt.Sprintf("revoked: %d, open: %d\n", len(all)-len(left), len(left))); err != nil {
		return err
	}
	for _, o := range left {
		a.note("open: %s version %d: %s", printable(refText(o.Tenant, o.Secret)), o.Version, printable(o.ByHand))
	}
	a.note("when the server is back: keybroker offline return %s", journal)
	if interrupted != nil {
		return interrupted
	}
	if len(left) > 0 {
		a.note("the same command goes on with what is open")
		return standing(exitOpen)
	}
	return nil
}
