package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/policy"
)

func (a *app) policyCheckCommand() *cobra.Command {
	var path, capability, address, at string
	var q question
	cmd := &cobra.Command{
		Use:   "check --role ROLE --path PATH --capability CAPABILITY",
		Short: "Say whether a role may do something, and which rule decides",
		Long: "Say whether a role may do something by a configuration, which rule of which policy\n" +
			"decides, what conditions it does not meet, and what else stands in the way: the\n" +
			"tenant, the environment and the addresses of the role. No server is asked, and no\n" +
			"secret is read. Exits 0 if it is allowed, 1 if it is not, 2 if that cannot be told.",
		Example: "  keybroker policy check --role newsletter-app --path mail/sender --capability read\n" +
			"  keybroker policy check --role deployer --path payments/stripe --capability rotate \\\n" +
			"    --address 10.20.3.4 --at 2026-03-02T22:30:00+01:00",
		Args: takes(),
		RunE: a.does(func(context.Context, []string) error {
			err := q.read(capability, address, at, a.now())
			if err != nil {
				return err
			}
			x, err := a.readAccess(path)
			if err != nil {
				return usagef("%s", err)
			}
			found, err := x.ask(q)
			if err != nil {
				return usagef("%s", err)
			}
			return a.showAnswer(found)
		}),
	}
	f := cmd.Flags()
	configFlag(cmd, &path)
	f.StringVar(&q.role, "role", "", "role that asks")
	f.StringVar(&q.path, "path", "", "name of a secret, or a path below sys/")
	f.StringVar(&capability, "capability", "", "what is asked for, such as read or rotate")
	f.StringVar(&q.environment, "environment", "", "environment of the secret; what its label says if not given")
	f.StringVar(&q.name, "name", "", "name of who has the role, for {{identity.name}}")
	f.StringVar(&address, "address", "", "where the call comes from; in no range of addresses if not given")
	f.StringVar(&at, "at", "", "when, such as 2026-03-02T22:30:00+01:00; now if not given")
	_ = cmd.RegisterFlagCompletionFunc("capability", cobra.FixedCompletions(grantable(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// pathOf refuses what is no path that somebody can ask for.
func pathOf(path string) error {
	_, name := named(path)
	for _, p := range policy.Validate(policy.Policy{Name: "any", Rules: []policy.Rule{{Path: name, Capabilities: []policy.Capability{policy.Read}}}}) {
		return usagef("--path: %s; %s", p.Text, p.Suggestion)
	}
	if strings.ContainsAny(name, "*+{") {
		return usagef("--path %q is a pattern: say one secret, or one path below sys/", path)
	}
	return nil
}

// grantable are the capabilities that can be asked for.
func grantable() []string {
	var all []string
	for _, c := range policy.Capabilities() {
		if c != policy.Deny {
			all = append(all, string(c))
		}
	}
	return all
}

// read takes over what was given as text.
func (q *question) read(capability, address, at string, now time.Time) error {
	for _, flag := range []struct{ name, given string }{{"role", q.role}, {"path", q.path}, {"capability", capability}} {
		if flag.given == "" {
			return usagef("--%s is missing", flag.name)
		}
	}
	if err := oneOf("capability", capability, grantable()...); err != nil {
		return err
	}
	if err := pathOf(q.path); err != nil {
		return err
	}
	q.capability, q.at = policy.Capability(capability), now
	var err error
	if address != "" {
		if q.address, err = netip.ParseAddr(address); err != nil {
			return usagef("--address %q is no IP address", address)
		}
	}
	if at != "" {
		if q.at, err = time.Parse(time.RFC3339, at); err != nil {
			return usagef("--at is %q; write a time with its zone, such as 2026-03-02T22:30:00+01:00", at)
		}
	}
	return nil
}

func (a *app) showAnswer(found answer) error {
	verdict := "allowed"
	switch {
	case !found.Allowed:
		verdict = "denied"
	case len(found.Needs) > 0:
		verdict = "allowed, if what it needs is so"
	}
	err := a.show(found, func(t *table) {
		t.pair("Result", verdict)
		t.pair("Why", found.Why)
		t.pair("Policy", found.Policy)
		t.pair("Path", found.Rule)
		t.pair("At", found.where())
		t.pair("Unmet", found.Unmet)
		for _, wall := range found.Walls {
			t.pair("Wall", wall)
		}
		for _, need := range found.Needs {
			t.pair("Needs", need)
		}
	})
	switch {
	case err != nil:
		return err
	case found.Unknown:
		a.note("the configuration has no secret %s: see that it is spelt right", found.Path)
	}
	switch {
	case found.Allowed && len(found.Needs) > 0:
		return usagef("whether it is allowed cannot be told: it is if %s", strings.Join(found.Needs, ", and if "))
	case found.Allowed:
		return nil
	}
	return fmt.Errorf("role %q may not %s %s", found.Role, found.Capability, found.Path)
}

// reasons say why something is not as it should be, for a list of failures.
func (w answer) reasons() []string {
	why := w.Why
	if at := w.where(); at != "" {
		why += " (" + at + ")"
	}
	return slices.Concat([]string{why}, w.Walls)
}
