package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/client"
)

// auditQuery is the command line of audit query.
type auditQuery struct {
	client.AuditQuery
	since, until string
	limit        int
	file         string // offline
	flags        *pflag.FlagSet
}

const auditLimit = 50

func (a *app) auditQueryCommand() *cobra.Command {
	q := &auditQuery{}
	cmd := &cobra.Command{
		Use:   "query",
		Short: "Show records, the newest first",
		Long: "Show the records of the node that is asked, the newest first. All that is given has to\n" +
			"be so; without anything, the last 50 records are shown, and with --hash all there are.\n" +
			"A time is one as in 2026-01-31T12:00:00Z, or how long ago, as in 90m or 7d.\n\n" +
			"With --file no server is asked: PATH is the data_dir of a node, a copy of it, or its\n" +
			"newest file. Whether that is as it was written tells keybroker audit verify.",
		Example: "  keybroker audit query --secret payments/stripe --since 1h\n" +
			"  keybroker audit query --outcome denied --since 7d\n" +
			"  keybroker audit query --hash \"$(keybroker audit hash < suspect)\"\n" +
			"  keybroker audit query --file /mnt/evidence/data --actor corp/bob",
		Args: takes(),
		RunE: a.does(func(ctx context.Context, _ []string) error {
			if err := a.checkAuditQuery(q); err != nil {
				return err
			}
			found, more, err := a.findAudit(ctx, q)
			if err != nil {
				return err
			}
			if err := a.show(found, func(t *table) { drawAudit(t, found) }); err != nil {
				return err
			}
			if more {
				a.note("there are more records than these %d: --limit 0 shows all", len(found))
			}
			return nil
		}),
	}
	f := cmd.Flags()
	q.flags = f
	f.StringVar(&q.Actor, "actor", "", "who did it: an id as in the column ACTOR, or an identity, METHOD/SUBJECT")
	f.StringVar(&q.Action, "action", "", "such as secret.read; secret. is all that begin so")
	f.StringVar(&q.Secret, "secret", "", "what it was about: NAME or TENANT:NAME")
	f.StringVar(&q.Path, "path", "", "policy path, such as sys/tokens")
	f.StringVar(&q.Outcome, "outcome", "", "ok, denied or failed")
	f.StringVar(&q.Request, "request", "", "id of the request, as in X-Request-Id")
	f.StringVar(&q.Hash, "hash", "", "of a text that was given or answered; see keybroker audit hash")
	f.StringVar(&q.Tenant, "tenant", "", "only of this tenant")
	f.StringVar(&q.since, "since", "", "`TIME` from which on")
	f.StringVar(&q.until, "until", "", "`TIME` up to which")
	f.StringVar(&q.file, "file", "", "`PATH` of a log to look through without a server")
	f.IntVar(&q.limit, "limit", auditLimit, "how many at most; 0: all")
	_ = cmd.RegisterFlagCompletionFunc("outcome", cobra.FixedCompletions(auditOutcomes, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("secret", a.completeSecretFlag)
	return cmd
}

var (
	auditOutcomes = []string{"ok", "denied", "failed"}
	auditHashForm = regexp.MustCompile(`^hmac-sha256:[0-9a-f]{64}$`)
)

// checkAuditQuery refuses what would select everything, or nothing, for another reason
// than that there is nothing: such as a text that another command has not given.
func (a *app) checkAuditQuery(q *auditQuery) (err error) {
	q.flags.Visit(func(f *pflag.Flag) {
		if err == nil && f.Value.Type() == "string" && strings.TrimSpace(f.Value.String()) == "" {
			err = usagef("--%s is empty: leave it out, or say what it is", f.Name)
		}
	})
	switch {
	case err != nil:
		return err
	case q.limit < 0:
		return usagef("--limit is %d: it is how many at most, 0 for all", q.limit)
	case q.Hash != "" && !auditHashForm.MatchString(q.Hash):
		return usagef("--hash is no hash of the log, which is hmac-sha256: and 64 digits: keybroker audit hash < FILE tells it")
	case q.Outcome != "":
		if err := oneOf("outcome", q.Outcome, auditOutcomes...); err != nil {
			return err
		}
	}
	if q.Hash != "" && !q.flags.Changed("limit") {
		q.limit = 0 // who had a value is asked: a part of them would be a wrong answer
	}
	if q.Since, err = a.moment("since", q.since); err != nil {
		return err
	}
	q.Until, err = a.moment("until", q.until)
	return err
}

// findAudit returns what was asked for, and whether there is more of it.
func (a *app) findAudit(ctx context.Context, q *auditQuery) (found []client.AuditRecord, more bool, err error) {
	fetch := q.limit
	if fetch > 0 {
		fetch++
	}
	page := q.offline
	if q.file == "" {
		c, err := a.client()
		if err != nil {
			return nil, false, err
		}
		defer c.Close()
		page = c.Audit
	}
	found, err = collect(client.All(func(after string) (client.List[client.AuditRecord], error) {
		q.Page = pageFor(fetch, after)
		return page(ctx, q.AuditQuery)
	}), fetch)
	if q.limit > 0 && len(found) > q.limit {
		return found[:q.limit], true, err
	}
	return found, false, err
}

// offline reads a page from files.
func (q *auditQuery) offline(ctx context.Context, asked client.AuditQuery) (out client.List[client.AuditRecord], err error) {
	path := q.file
	info, err := os.Stat(path)
	if err != nil {
		return out, usagef("--file: %v", err)
	}
	if info.IsDir() {
		path = filepath.Join(path, "audit.jsonl")
	}
	if there, err := audit.Exists(path); err != nil || !there {
		return out, usagef("--file: there is no audit log in %s", q.file)
	}
	found, err := broker.SearchAudit(ctx, path, asked)
	if err != nil {
		return out, fmt.Errorf("looking through %s: %w", q.file, err)
	}
	return found, nil
}

// moment reads a time: one for the record, or how long ago.
func (a *app) moment(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	ago := text
	var days int
	if n, err := fmt.Sscanf(text, "%dd", &days); err == nil && n == 1 && fmt.Sprintf("%dd", days) == text {
		ago = fmt.Sprintf("%dh", 24*days)
	}
	d, err := time.ParseDuration(ago)
	if err != nil || d < 0 {
		return time.Time{}, usagef("--%s is %q; write a time as in 2026-01-31T12:00:00Z, or how long ago, as in 90m or 7d", flag, text)
	}
	return a.now().Add(-d), nil
}

func drawAudit(t *table, records []client.AuditRecord) {
	if len(records) == 0 {
		t.row("no records")
		return
	}
	t.row("INDEX", "TIME", "KIND", "ACTOR", "WHO", "ACTION", "ABOUT", "OUTCOME", "ADDRESS", "RULE")
	for _, r := range records {
		about := r.Path
		if r.Secret != "" {
			about = r.Secret
		}
		if r.Version > 0 {
			about += fmt.Sprintf(" version %d", r.Version)
		}
		rule := r.Rule
		if r.Policy != "" {
			rule = r.Policy + ": " + r.Rule
		}
		who := r.Detail["name"]
		if r.Identity != "" {
			who = r.Identity
		}
		action := r.Action
		if v := r.Detail["verdict"]; v != "" {
			action += " " + v
		}
		t.row(fmt.Sprint(r.Index), stamp(r.Time), r.Kind, r.Actor, who, action, about, r.Outcome, r.Address, rule)
	}
}
