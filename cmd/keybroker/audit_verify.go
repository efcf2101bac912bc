package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/client"
)

func (a *app) auditVerifyCommand() *cobra.Command {
	var key string
	var checkpoints []string
	var partial bool
	var accept []int64
	cmd := &cobra.Command{
		Use:   "verify [PATH...]",
		Short: "Verify that the log is as it was written",
		Long: "Verify the whole chain and every signed checkpoint of a log: PATH is the data_dir of a\n" +
			"node (\"data\", if none is given), a copy of it, or its files. What was edited, removed,\n" +
			"put in, moved or doubled is found, and the first bad record is named; what was cut off\n" +
			"at the end is found by a checkpoint that was kept elsewhere (--checkpoint; the file\n" +
			"audit.checkpoint beside the log is used, too).\n\n" +
			"It needs the public key alone (`keybroker audit key`), as a text or a file. Keep it\n" +
			"where nobody who can write the log can change it. Without --key the server is asked.\n\n" +
			"What the node itself has found wrong, and signed that it did, such as lines that were\n" +
			"lost, can be accepted by its index once a person has looked into it (--accept); what is\n" +
			"behind it is verified in any case.\n\n" +
			"Exit code 0: nothing is wrong; 1: something is; 2: it could not be verified.",
		Example: "  keybroker audit verify /var/lib/keybroker --key audit.pub --checkpoint monday.checkpoint",
		RunE: a.does(func(ctx context.Context, paths []string) error {
			v, err := a.verification(ctx, paths, key, checkpoints)
			if err != nil {
				return usagef("%v", err)
			}
			v.Partial, v.Accept = partial, accept
			verdict, err := audit.Verify(v)
			if err != nil {
				return usagef("%v", err)
			}
			if err := a.show(verdict, func(t *table) { drawVerdict(t, verdict) }); err != nil {
				return err
			}
			if verdict.Records == 0 && verdict.Fault == nil {
				return usagef("there is no record in the log: nothing is verified")
			}
			if verdict.Fault != nil {
				return errors.New("the audit log is not as it was written: " + verdict.Fault.String())
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "public `KEY` of the log, or the file that has it")
	f.StringArrayVar(&checkpoints, "checkpoint", nil, "`FILE` with a checkpoint that was kept elsewhere; may be given more than once")
	f.Int64SliceVar(&accept, "accept", nil, "`INDEX` of a fault that the node itself has recorded; may be given more than once")
	f.BoolVar(&partial, "partial", false, "the oldest segments are kept elsewhere")
	return cmd
}

// verification gathers what to verify, and with what.
func (a *app) verification(ctx context.Context, paths []string, key string, checkpoints []string) (audit.Verification, error) {
	if len(paths) == 0 {
		paths = []string{"data"}
	}
	v := audit.Verification{Paths: paths}
	switch text, err := os.ReadFile(key); {
	case key == "":
		k, err := a.askKey(ctx)
		if err != nil {
			return v, fmt.Errorf("there is no --key, and the server cannot be asked for it: %w", err)
		}
		v.Key = k.Key
		v.Checkpoints = append(v.Checkpoints, k.Checkpoint)
	case err == nil:
		v.Key = string(text)
	case strings.Contains(key, "+"):
		v.Key = key
	default:
		return v, fmt.Errorf("reading the key: %w", err)
	}
	for _, file := range checkpoints {
		text, err := os.ReadFile(file)
		if err != nil {
			return v, fmt.Errorf("reading a checkpoint: %w", err)
		}
		v.Checkpoints = append(v.Checkpoints, string(text))
	}
	for _, p := range paths {
		if text, err := os.ReadFile(filepath.Join(p, "audit.checkpoint")); err == nil {
			v.Checkpoints = append(v.Checkpoints, string(text))
		}
	}
	return v, nil
}

// askKey asks the server for the key of its log. What it says is as true as the server is.
func (a *app) askKey(ctx context.Context) (k client.AuditCheckpoint, err error) {
	c, err := a.client()
	if err != nil {
		return k, err
	}
	defer c.Close()
	return c.AuditCheckpoint(ctx)
}

func drawVerdict(t *table, v audit.Verdict) {
	t.pair("log", v.Origin)
	t.pair("files", v.Files)
	t.row("records:", fmt.Sprintf("%d, from %d on", v.Records, v.From))
	proven := "nothing"
	if v.Proven > v.From {
		proven = fmt.Sprintf("up to record %d, as it was signed", v.Proven-1)
	}
	t.row("proven:", proven)
	for _, n := range v.Notes {
		t.row("note:", n)
	}
	if f := v.Fault; f != nil {
		t.row("first bad:", f.String())
	}
	for _, f := range v.Faults {
		switch {
		case f.Accepted:
			t.row("accepted:", f.String())
		case v.Fault != nil && f != *v.Fault:
			t.row("bad, too:", f.String())
		}
		if f.Recorded && !f.Accepted {
			t.row("", fmt.Sprintf("the node has recorded it; --accept %d if that is explained", f.Index))
		}
	}
}
