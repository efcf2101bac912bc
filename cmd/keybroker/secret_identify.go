package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) secretIdentifyCommand() *cobra.Command {
	var probe bool
	cmd := &cobra.Command{
		Use:   "identify [FILE|-]",
		Short: "Tell what a text is that was found somewhere, whose it is and whether it works",
		Long: "Tell which secret a text is of, or which token of keybroker it is: whose it is, where it\n" +
			"is used, who has had it, whether something turns it off, and what to do next. Nothing is\n" +
			"changed. It may be the bare value, or what it stands in: a line of a file with settings,\n" +
			"a URL, JSON, a log, or one of these in base64.\n\n" +
			"It is read from a file, or from stdin: never write it into the command line, which other\n" +
			"programs see. On a terminal it is typed or pasted unseen. You are told of what you may\n" +
			"list or read; that somebody has asked is in the audit log, and what for as a hash.\n\n" +
			"--probe sends what it is of to where that is used, once, to see whether it is alive.\n\n" +
			"Exit codes: 0 it is known; 1 nothing is known of it, or it could not be asked; 2 usage.",
		Example: "  keybroker secret identify leaked.env\n" +
			"  keybroker secret identify --probe   # asks for it, and does not show it\n" +
			"  pbpaste | keybroker secret identify --probe --format json",
		Args: cobra.MaximumNArgs(1),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			path := "-"
			if len(args) > 0 {
				path = args[0]
			}
			value, err := a.leakedValue("identify", path)
			if err != nil {
				return err
			}
			found, err := c.Identify(ctx, client.IdentifyRequest{Value: value, Probe: probe})
			if err != nil {
				return err
			}
			nothing := len(found.Matches) == 0 && found.Token == nil
			if !nothing || a.json() {
				err = a.show(found, func(t *table) { drawIdentified(t, found) })
			}
			if err == nil && nothing {
				err = &hintError{fmt.Errorf("nothing that you may see has it (%s looked up)", forms(found.Looked)),
					"somebody who sees more may know it; what keybroker does not manage is turned off where it was made"}
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&probe, "probe", false, "try it once: is it alive now?")
	return cmd
}

func forms(n int) string {
	if n == 1 {
		return "1 form of it was"
	}
	return fmt.Sprintf("%d forms of it were", n)
}

// shownWhole is how many matches are described; more of them are a table.
const shownWhole = 3

func drawIdentified(t *table, found client.Identified) {
	if k := found.Token; k != nil {
		drawIdentifiedToken(t, *k, found.Next)
	}
	if len(found.Matches) > shownWhole {
		drawMatches(t, found)
		return
	}
	for i, m := range found.Matches {
		if i > 0 || found.Token != nil {
			t.row()
		}
		drawMatch(t, m)
	}
}

func drawIdentifiedToken(t *table, k client.Token, next string) {
	t.pair("Token", "of keybroker itself: "+k.ID+" ("+k.Name+")")
	t.pair("Tenant", k.Tenant)
	t.pair("Alive", map[bool]string{true: "YES", false: "no: " + k.State}[k.State == client.TokenActive])
	t.pair("Role", k.Role)
	t.pair("Policies", k.Policies)
	t.pair("Of", strings.Trim(k.Method+"/"+k.Identity, "/"))
	t.pair("Made", k.CreatedAt)
	t.pair("Last used", k.LastUsedAt)
	t.pair("Expires", k.ExpiresAt)
	t.pair("Next", next)
}

func drawMatch(t *table, m client.IdentifiedVersion) {
	t.pair("Secret", qualified(m.Tenant, m.Secret))
	t.pair("Version", fmt.Sprintf("%d (%s), made %s", m.Version, m.Stage, relative(m.CreatedAt, t.now)))
	t.pair("It has", has(m))
	t.pair("Alive", alive(t, m))
	if m.Retirement != "" {
		t.pair("Retirement", m.Retirement+" ("+m.RetiredAs+")")
	}
	t.pair("Incidents", m.Incidents)
	t.pair("Issuer", m.Issuer)
	t.pair("Last used", lastUsed(t, client.OldVersion{LastUsedAt: m.LastUsedAt, LastUse: m.LastUse, Retirement: m.RetiredAs}))
	t.pair("Labels", labels(m.Labels))
	t.pair("Consumers", m.Consumers)
	if m.Next != "" {
		t.pair("Next", m.Next)
	}
	if m.Needs != "" {
		t.pair("Needs", m.Needs+" on it, which you have not: ask somebody who has")
	}
	if len(m.Readers) == 0 {
		t.pair("Had by", "nobody, as far as keybroker knows")
		return
	}
	t.section("HAD BY", "ROLE", "FROM", "FIRST", "LAST")
	for _, r := range m.Readers {
		t.row(holder(r), r.Role, r.Address, r.FirstAt, r.LastAt)
	}
	_ = t.tabs.Flush() // the last Flush reports what went wrong
}

// holder is who has had a version.
func holder(r client.Access) string {
	switch {
	case r.Consumer != "" && r.Unanswered:
		return "consumer " + r.Consumer + " (sent, not answered)"
	case r.Consumer != "":
		return "consumer " + r.Consumer
	case r.Identity != "":
		return r.Identity
	}
	return r.Actor
}

// has says how much of a version the text has.
func has(m client.IdentifiedVersion) string {
	switch {
	case m.NameOnly:
		return "only a name in it, such as a user's or a host's: that opens nothing"
	case m.Whole:
		return "the whole value"
	}
	return "a part of the value"
}

// alive answers whether a version works, as far as is known.
func alive(t *table, m client.IdentifiedVersion) string {
	because := ""
	if m.Detail != "" {
		because = " (" + m.Detail + ")"
	}
	switch m.Alive {
	case client.Accepted:
		return "YES: accepted " + relative(m.TriedAt, t.now) + because
	case client.Rejected:
		return "no: rejected " + relative(m.TriedAt, t.now) + because
	case client.Inconclusive:
		return "nobody knows: the try told nothing" + because
	case "not tried":
		because = "; not tried, which --probe does"
	default:
		because = "; " + m.Alive
	}
	switch {
	case !m.ProvenAt.IsZero() && m.RetiredAs == client.ProvenDead:
		return "no: proven dead " + relative(m.ProvenAt, t.now) + because
	case m.RetiredAs != "":
		return "it is being turned off: " + m.RetiredAs + because
	case m.Stage == client.StageRetired:
		return "nobody knows: nothing has turned it off" + because
	}
	return "most likely: it is " + m.Stage + ", and nothing turns it off" + because
}

// drawMatches is a table of many.
func drawMatches(t *table, found client.Identified) {
	t.row("SECRET", "VERSION", "STAGE", "HAS", "ALIVE", "RETIREMENT", "ISSUER", "CONSUMERS", "LAST READ", "NEXT")
	for _, m := range found.Matches {
		part := map[bool]string{true: "all", false: "part"}[m.Whole]
		if m.NameOnly {
			part = "name"
		}
		last := ""
		if len(m.Readers) > 0 {
			last = relative(m.Readers[0].LastAt, t.now)
		}
		t.row(qualified(m.Tenant, m.Secret), m.Version, m.Stage, part, m.Alive, m.RetiredAs, m.Issuer, m.Consumers, last, m.Next)
	}
	if found.Cut {
		t.row("… and more")
	}
}
