package daemon_test

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/authn/certtest"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/broker/daemon"
)

// TestASealThatIsAwayIsTold: the node goes on by the other one, and somebody must know.
func TestASealThatIsAwayIsTold(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	s := alerted(t, withConsumer(embedded, nil)+"seal \"file\" {\n  path = \"one.key\"\n}\nseal \"file\" {\n  path = \"two.key\"\n}\n", p)
	s.adjust = func(o *daemon.Options) {
		o.QuickSeal(0, nil)
		o.LookForAlerts(50 * time.Millisecond)
	}
	n := s.start()
	two := filepath.Join(s.dir, "two.key")
	eventually(t, "both seals in use", func() bool { _, err := os.Stat(two); return err == nil && len(n.verified(t)) == 0 })
	noError(t, os.Rename(two, two+".away"))
	eventually(t, "it is told", p.was("raised seal_down"))
	open := n.alerts(t, client.AlertQuery{Kind: "seal_down"})
	if len(open) != 1 || !strings.HasPrefix(open[0].Subject, "file:") || !strings.HasSuffix(open[0].Subject, " on "+open[0].Node) || open[0].Severity != client.Failing || open[0].Tenant != "" ||
		open[0].Next != "keybroker seal status" || !strings.Contains(open[0].Text, two+": no such file") {
		t.Errorf("open %+v", open)
	}
	noError(t, os.Rename(two+".away", two))
	eventually(t, "its end is told", p.was("resolved seal_down"))
}

// TestAnAuditSinkThatIsDownIsTold, once it has failed for ten seconds.
func TestAnAuditSinkThatIsDownIsTold(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	var up atomic.Bool
	siem := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(siem.Close)
	s := alerted(t, withConsumer(embedded, nil)+`
audit "http" "siem" {
  url                   = "`+siem.URL+`"
  allow_private_network = true
}
`, p)
	n := s.start()
	eventually(t, "it is told", func() bool {
		_, _ = n.Secret(t.Context(), "app/key") // something is to be sent
		return p.was("raised audit_sink_down")()
	})
	open := n.alerts(t, client.AlertQuery{Kind: "audit_sink_down"})
	if len(open) != 1 || open[0].Subject != "siem on "+open[0].Node || open[0].Severity != client.Critical || open[0].Tenant != "" || !strings.Contains(open[0].Text, "siem: ") {
		t.Errorf("open %+v", open)
	}
	n.stop()
	n = s.start() // which is not the end of it
	before := len(n.alerts(t, client.AlertQuery{Kind: "audit_sink_down"}))
	p.forget()
	eventually(t, "a heartbeat of the new run", p.was("heartbeat"))
	if before != 1 || p.was("resolved audit_sink_down")() {
		t.Errorf("after a restart %d alerts are open, and its end is told: %t", before, p.was("resolved audit_sink_down")())
	}
	up.Store(true)
	eventually(t, "its end is told", p.was("resolved audit_sink_down"))
}

// TestAJournalThatCannotBeWrittenIsTold: nobody is served then, and people hear of it
// all the same.
func TestAJournalThatCannotBeWrittenIsTold(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	s := alerted(t, withConsumer(embedded, nil), p)
	n := s.start()
	path := filepath.Join(s.dir, "data", "audit.jsonl")
	noError(t, os.Rename(path, path+".away"), os.Symlink("/dev/full", path))
	eventually(t, "it is told", func() bool {
		_, _ = n.Secret(t.Context(), "app/key") // something is to be written
		return p.was("raised audit_sink_down")()
	})
	noError(t, os.Remove(path), os.Rename(path+".away", path))
	eventually(t, "its end is told", p.was("resolved audit_sink_down"))
}

// TestACertificateThatEndsIsTold, until it was replaced.
func TestACertificateThatEndsIsTold(t *testing.T) {
	t.Parallel()
	p := newPager(t)
	tls := strings.Replace(withConsumer(embedded, nil), `address = "ADDR"`, "address = \"ADDR\"\n  tls_cert_file = \"cert.pem\"\n  tls_key_file = \"key.pem\"", 1)
	s := alerted(t, tls, p)
	s.adjust = func(o *daemon.Options) {
		o.LookForCertificates(20 * time.Millisecond)
		o.LookForAlerts(50 * time.Millisecond)
	}
	authority := certtest.New(t, "authority", nil)
	valid := func(until time.Duration) {
		cert, key := certtest.Files(t, authority.Client(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-90*24*time.Hour), time.Now().Add(until)
		}))
		for to, from := range map[string]string{"cert.pem": cert, "key.pem": key} {
			content, err := os.ReadFile(from)
			noError(t, err, os.WriteFile(filepath.Join(s.dir, to), content, 0o600))
		}
	}
	valid(13 * 24 * time.Hour)
	s.start()
	eventually(t, "it is told", p.was("raised certificate_expiring"))
	valid(30 * 24 * time.Hour)
	eventually(t, "its end is told", p.was("resolved certificate_expiring"))
}

// TestATenantIsToldOfItsVault, and no other tenant.
func TestATenantIsToldOfItsVault(t *testing.T) {
	t.Parallel()
	ours, theirs := newPager(t), newPager(t)
	nobody := httptest.NewServer(http.NotFoundHandler())
	nobody.Close()
	s := newSite(t, withConsumer(embedded, nil)+`
backend "vault" "prod" {
  tenant  = "acme"
  address = "`+nobody.URL+`"
  mount   = "secret"
  auth "token" {
    token = env("VAULT_TOKEN")
  }
}
notifier "webhook" "ours" {
  tenant                = "acme"
  url                   = "`+ours.URL+`"
  signing_secret        = env("OURS")
  allow_private_network = true
}
notifier "webhook" "theirs" {
  tenant                = "umbrella"
  url                   = "`+theirs.URL+`"
  signing_secret        = env("THEIRS")
  allow_private_network = true
}
alert "acme" {
  tenant   = "acme"
  notifier = "ours"
}
alert "umbrella" {
  tenant    = "umbrella"
  notifier  = "theirs"
  heartbeat = "1s"
}
`)
	s.env = map[string]string{"VAULT_TOKEN": "t", "OURS": ours.secret.Reveal(), "THEIRS": theirs.secret.Reveal()}
	s.adjust = func(o *daemon.Options) { o.LookForAlerts(50 * time.Millisecond) }
	n := s.start()
	eventually(t, "it is told", ours.was("raised backend_down"))
	if open := n.alerts(t, client.AlertQuery{Kind: "backend_down"}); len(open) != 1 || open[0].Tenant != "acme" {
		t.Errorf("open %+v", open)
	}
	eventually(t, "the other tenant's notifier works", theirs.was("heartbeat"))
	if theirs.was("raised backend_down")() {
		t.Error("another tenant was told")
	}
}

// TestWhatTheEngineFindsIsToldWithIt: in the transaction that finds it, so that nothing
// it is one of can hide it from a sweep, and none is needed.
func TestWhatTheEngineFindsIsToldWithIt(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.adjust = func(o *daemon.Options) { o.LookForAlerts(time.Hour) }
	n := s.start()
	ctx := t.Context()
	_, key := byHand(t, s.api)
	s.writeDirectly(t, map[string]any{"key": key})
	must(n.Import(ctx, mailer, client.ImportRequest{}))(t)
	must(n.Rotate(ctx, mailer, client.RotateRequest{}))(t)
	told := func(kind string) func() bool {
		return func() bool {
			open := n.alerts(t, client.AlertQuery{Kind: kind})
			return len(open) == 1 && open[0].Next == "keybroker retirement show "+open[0].Subject &&
				must(n.Retirement(ctx, open[0].Subject))(t).State == kind
		}
	}
	eventually(t, "an alert with what is not proven", told(client.Unconfirmed))
	s.api.DropCreates(1) // the answer is lost: nobody knows a value that could be tried
	n.rotate(t, mailer)
	eventually(t, "an alert with what cannot be proven", told(client.Unprovable))
}
