package daemon_test

import (
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// TestNothingIsPrunedWhileEvidenceIsHeld has what is older than is kept.
func TestNothingIsPrunedWhileEvidenceIsHeld(t *testing.T) {
	t.Parallel()
	s := newSite(t, withConsumer(embedded, nil))
	var d *daemon.Daemon
	s.opened = func(opened *daemon.Daemon) { d = opened }
	n := s.start()
	n.done(t, "app/key")
	old := time.Now().Add(-365 * 24 * time.Hour).UnixMicro()
	s.inDatabase("UPDATE changes SET at = $1 WHERE seq = (SELECT MIN(seq) FROM changes)", old)
	left := func() (count int) {
		t.Helper()
		if err := s.database(t).QueryRowContext(t.Context(), "SELECT COUNT(*) FROM changes WHERE at = ?", old).Scan(&count); err != nil {
			t.Fatal(err)
		}
		return count
	}
	inc := must(n.DeclareIncident(t.Context(), client.IncidentRequest{Reason: "it leaked", Selector: client.Selector{Names: []string{"app/key"}}}))(t)
	prune := func(held bool) {
		t.Helper()
		if is := must(n.Storage(t.Context()))(t).EvidenceHeld; is != held {
			t.Errorf("evidence held: %v, want %v", is, held)
		}
		if err := d.PruneNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := left() > 0; got != held {
			t.Errorf("evidence held %v: the old change is left: %v", held, got)
		}
	}
	prune(true)
	keep, release := true, false
	must(n.CloseIncident(t.Context(), inc.ID, client.IncidentActRequest{Reason: "done", Hold: &keep}))(t)
	prune(true)
	must(n.HoldIncident(t.Context(), inc.ID, client.IncidentActRequest{Reason: "nobody needs it any more", Hold: &release}))(t)
	prune(false)
}
