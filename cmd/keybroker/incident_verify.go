package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/audit"
	"github.com/keybroker/keybroker/broker/report"
)

// verifiedReport is what verifying a report has shown.
type verifiedReport struct {
	Valid    bool   `json:"valid"`
	Incident string `json:"incident,omitempty"`
	MadeAt   string `json:"made_at,omitempty"`
	Key      string `json:"key"`    // id of the key that it is signed with
	Digest   string `json:"digest"` // of the JSON report
	Claims   int    `json:"claims"` // that follow from the records in it
	Open     int    `json:"open"`   // of those, what is not done
	Lines    int    `json:"lines"`  // of the audit log, which its checkpoints prove
	Journal  string `json:"journal,omitempty"`
}

func (a *app) incidentVerifyCommand() *cobra.Command {
	var v reportCheck
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify the report of an incident, without the broker",
		Long: "Verify that a report is as it was signed, that each of its claims follows from the\n" +
			"records in it, and that the lines of the audit log in it are what that log was signed\n" +
			"with. The first claim that does not hold is named. Of a Markdown report the signature is\n" +
			"verified; with --json also that it says what that JSON report does.\n\n" +
			"It needs the public key alone, as a text or a file: what\n" +
			"/.well-known/keybroker/report-key of the broker gives, kept from before. Without --key\n" +
			"the server is asked. With --journal, the data_dir of the node or a copy of it, its lines\n" +
			"are looked for in that log, too, which is verified as `keybroker audit verify` does.\n\n" +
			"Exit code 0: it is valid; 1: it is not, or is no whole report; 2: it could not be verified,\n" +
			"since the file cannot be read, or there is no key.",
		Example: "  keybroker incident verify report.json --key report.key\n" +
			"  keybroker incident verify report.md --json report.json --journal /mnt/evidence/data",
		Args: takes("FILE"),
		RunE: a.does(func(ctx context.Context, args []string) error {
			done, err := v.verify(ctx, a, args[0])
			if invalid := (*invalidReport)(nil); err != nil && !errors.As(err, &invalid) {
				return usagef("%v", err)
			}
			done.Valid = err == nil
			if showErr := a.show(done, func(t *table) { drawVerified(t, done) }); showErr != nil {
				return showErr
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.StringVar(&v.key, "key", "", "public `KEY` of reports, or the file that has it")
	f.StringVar(&v.auditKey, "audit-key", "", "public `KEY` of the audit log, or the file that has it, if the one in the report is not to be believed")
	f.StringArrayVar(&v.journal, "journal", nil, "`PATH` of the node's audit log; may be given more than once")
	f.StringVar(&v.records, "json", "", "`FILE` with the JSON report that a Markdown report was made of")
	return cmd
}

// reportCheck is what a report is verified with.
type reportCheck struct {
	key, auditKey, records string
	journal                []string
}

// invalidReport is why a report is not valid.
type invalidReport struct{ error }

func (v reportCheck) verify(ctx context.Context, a *app, file string) (out verifiedReport, err error) {
	key, err := v.reportKey(ctx, a)
	if err != nil {
		return out, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return out, err
	}
	found, err := report.Verify(text, key)
	out.Digest = found.Digest
	if found.Key != nil {
		out.Key = report.KeyOf(found.Key).ID
	}
	if err != nil {
		return out, &invalidReport{fmt.Errorf("the report is not valid: %w", err)}
	}
	if found.Report == nil && v.records != "" {
		if found, err = v.twin(text, key, found.Digest); err != nil {
			return out, err
		}
	}
	if found.Report == nil {
		if len(v.journal) > 0 || v.auditKey != "" {
			return out, errors.New("a Markdown report has no lines of an audit log: give the JSON report, or --json")
		}
		return out, nil
	}
	out.tell(*found.Report)
	return out, v.log(*found.Report)
}

// twin verifies the JSON report that a Markdown report was made of.
func (v reportCheck) twin(markdown []byte, key ed25519.PublicKey, digest string) (report.Verified, error) {
	text, err := os.ReadFile(v.records)
	if err != nil {
		return report.Verified{}, err
	}
	found, err := report.Verify(text, key)
	if err != nil {
		return found, &invalidReport{fmt.Errorf("%s is not valid: %w", v.records, err)}
	}
	if found.Digest != digest || !found.Matches(markdown) {
		return found, &invalidReport{fmt.Errorf("the report was not made of %s", v.records)}
	}
	return found, nil
}

func (o *verifiedReport) tell(r report.Report) {
	o.Incident, o.MadeAt, o.Claims, o.Journal = r.Incident.ID, stamp(r.MadeAt), len(r.Claims), r.Journal.Origin
	for _, c := range r.Claims {
		if c.Kind == report.KindOpen {
			o.Open++
		}
	}
	for _, b := range r.Journal.Blocks {
		o.Lines += len(b.Lines)
	}
}

// log verifies the lines of the audit log against that log, and its key.
func (v reportCheck) log(r report.Report) error {
	if v.auditKey != "" {
		want, err := textOrFile(v.auditKey)
		if err != nil {
			return err
		}
		if _, err := audit.NewVerifier(want); err != nil {
			return err
		}
		if strings.TrimSpace(want) != r.Journal.Key {
			return &invalidReport{fmt.Errorf("the lines of the audit log are signed with another key: %s", r.Journal.Key)}
		}
	}
	if len(v.journal) == 0 {
		return nil
	}
	verdict, err := audit.Verify(audit.Verification{Paths: v.journal, Key: r.Journal.Key, Partial: true})
	if err != nil {
		return err
	}
	if verdict.Fault != nil {
		return &invalidReport{fmt.Errorf("the audit log is not as it was written: %s", verdict.Fault)}
	}
	missing, err := r.Journal.Lacks(v.journal)
	if err != nil {
		return err
	}
	if missing != nil {
		return &invalidReport{fmt.Errorf("record %d of the report is not in the audit log just so", missing.Index)}
	}
	return nil
}

func (v reportCheck) reportKey(ctx context.Context, a *app) (ed25519.PublicKey, error) {
	if v.key != "" {
		text, err := textOrFile(v.key)
		if err != nil {
			return nil, err
		}
		return report.ParseKey(text)
	}
	c, err := a.clientWith("")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	k, err := c.ReportKey(ctx)
	if err != nil {
		return nil, fmt.Errorf("there is no --key, and the server cannot be asked for it: %w", err)
	}
	text, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	return report.ParseKey(string(text))
}

// textOrFile is what a file has, or a text where there is no such file.
func textOrFile(given string) (string, error) {
	text, err := os.ReadFile(given)
	switch {
	case err == nil:
		return string(text), nil
	case errors.Is(err, os.ErrNotExist):
		return given, nil
	}
	return "", fmt.Errorf("reading the key: %w", err)
}

func drawVerified(t *table, v verifiedReport) {
	valid := "yes"
	if !v.Valid {
		valid = "no"
	}
	t.pair("Valid", valid)
	t.pair("Incident", v.Incident)
	t.pair("Made", v.MadeAt)
	t.pair("Signed with", v.Key)
	t.pair("Report", v.Digest)
	if v.Claims == 0 {
		if v.Valid {
			t.pair("Claims", "not verified: a Markdown report has none of the records; give the JSON report, or --json")
		}
		return
	}
	t.pair("Claims", fmt.Sprintf("%d, which follow from their records; %d say what is still open", v.Claims, v.Open))
	t.pair("Audit log", fmt.Sprintf("%d lines of %s, which its checkpoints prove", v.Lines, v.Journal))
}
