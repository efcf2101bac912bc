package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/store"
)

// TestACutLogIsTold takes lines off the journal of a node that does not run: people are
// told when it does again, until one of them has looked.
func TestACutLogIsTold(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.done(t, "app/key")
	n.stop()
	path := filepath.Join(s.config().DataDir, "audit.jsonl")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	if err := os.WriteFile(path, []byte(strings.Join(lines[:4], "")), 0o600); err != nil {
		t.Fatal(err)
	}
	n = s.start()
	found := n.alerts(t, client.AlertQuery{Kind: "audit_log_damaged"})
	if len(found) != 1 || found[0].Severity != client.Critical || !strings.Contains(found[0].Text, "are gone") {
		t.Fatalf("%+v", found)
	}
}

// TestLossesThatAnotherNodeFound has the store know that events were lost which the log
// of this node tells of: it deals with its own.
func TestLossesThatAnotherNodeFound(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.done(t, "app/key")
	n.stop()
	ctx := t.Context()
	db, err := store.Open(ctx, store.Config{SQLitePath: s.config().Storage.Path})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(ctx, func(tx *store.Tx) error {
		return tx.AddAuditLoss(ctx, store.Loss{After: 1, UpTo: 1000, At: time.Now(), Told: []string{"another"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(ctx); err != nil {
		t.Fatal(err)
	}
	n = s.start()
	if f := must(n.Frozen(ctx))(t); !f.Frozen || !strings.Contains(f.Reason, "has lost") {
		t.Errorf("%+v", f)
	}
	n.unfreeze(t)
	n.stop()
	n = s.start() // it is dealt with once
	if f := must(n.Frozen(ctx))(t); f.Frozen {
		t.Errorf("again: %+v", f)
	}
	n.done(t, "app/key")
}

// TestTheJournalBlock says what is wrong with it, and takes what is right.
func TestTheJournalBlock(t *testing.T) {
	t.Parallel()
	for block, want := range map[string]string{
		`audit "journal" { keep = "1h" }`:                                      "keep is less than 24h",
		`audit "journal" { max_size = "1KiB" }`:                                "max_size is less than 1MiB",
		`audit "journal" { max_size = "much" }`:                                "is no size",
		`audit "journal" "mine" { keep = "8760h" }`:                            "has no name",
		"audit \"journal\" { keep = \"48h\" }\naudit \"journal\" { }":          `There is a second audit "journal"`,
		`audit "file" "journal" { path = "/tmp/x" }`:                           `cannot be called "journal"`,
		`audit "journal" {` + "\n max_size = \"128MiB\"\n keep = \"8760h\"\n}": "",
	} {
		s := newSite(t, withConsumer(embedded, nil)+"\n"+block+"\n")
		_, diags := s.load()
		var text strings.Builder
		if err := diags.WriteText(&text, false); err != nil {
			t.Fatal(err)
		}
		if want == "" && diags.HasErrors() || !strings.Contains(text.String(), want) {
			t.Errorf("%s: %q", block, text.String())
		}
	}
}

// TestWhatCameOfATry: a verdict is a success where it shows what it was made for.
func TestWhatCameOfATry(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	n := s.start()
	n.done(t, "app/key")
	n.done(t, "app/key")
	eventually(t, "the old one to be tried", func() bool {
		dead := 0
		for _, r := range must(n.Audit(t.Context(), client.AuditQuery{Action: "probe.verdict"}))(t).Items {
			revoked := r.Detail["purpose"] == "death" || r.Detail["purpose"] == "recheck"
			if want := (r.Detail["verdict"] == "rejected") == revoked && r.Detail["verdict"] != "inconclusive"; want != (r.Outcome == "ok") {
				t.Fatalf("%s of %s is %s", r.Detail["verdict"], r.Detail["purpose"], r.Outcome)
			}
			if revoked && r.Outcome == "ok" {
				dead++
			}
		}
		return dead > 0
	})
}
