package daemon_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/rotation/issuer/issuertest/keyserver"
)

// newMailer is the example of the issuer http before a real API, whose keys go on for a
// moment after they were revoked.
func newMailer(t *testing.T) (*site, *keyserver.Server) {
	t.Helper()
	api := keyserver.Start(t)
	api.SetPageSize(1)
	api.SetRevocationLatency(500 * time.Millisecond)
	s := newSite(t, replaced(t, example(t, "http", "https://api.mailer.example", api.URL, "https://login.mailer.example", api.URL),
		`issuer "http" "mailer" {`, "issuer \"http\" \"mailer\" {\n  allow_private_network = true",
		`probe "http" "mailer" {`, "probe \"http\" \"mailer\" {\n  allow_private_network = true",
		`schedule = "0 3 1 * *"`, "", `overlap  = "24h"`, `overlap = "0s"`, `window     = "30m"`, `window = "1s"`))
	s.env = map[string]string{"MAILER_CLIENT_SECRET": api.ClientSecret}
	return s, api
}

// The example rotates to a proof, through OAuth tokens that end and a create whose answer
// is lost, with other people's keys on many pages.
func TestKeysOfAnHTTPAPIAreRotatedAndProvenDead(t *testing.T) {
	t.Parallel()
	s, api := newMailer(t)
	api.MakeMany("somebody-elses-", 5)
	n := s.start()
	const secret = "mail/sender"
	n.done(t, secret)
	first := n.value(t, secret).Fields["key"]
	api.ForgetTokens()
	api.DropCreates(1)
	rot, retired := n.rotate(t, secret)
	if old := retired[rot.FromVersion]; rot.State != client.RotationDone || old.State != client.ProvenDead || old.Control != "current_version" {
		t.Fatalf("%+v\n%+v", rot, old)
	}
	current := n.value(t, secret).Fields["key"]
	if current == first || !api.Works(current) || api.Works(first) {
		t.Errorf("the current key works: %t, the first: %t", api.Works(current), api.Works(first))
	}
	eventually(t, "the key whose answer was lost is turned off", func() bool { return len(api.Live()) == 6 })
	log := s.log.String()
	for _, secret := range append(append(api.AccessTokens(), api.Secrets()...), api.ClientSecret) {
		if strings.Contains(log, secret) {
			t.Fatal("the log gives a secret away")
		}
	}
	if api.Requests("POST /oauth/token") == 0 {
		t.Error("no token was asked for")
	}
}

// A token endpoint that refuses us is the end of a rotation before anything is made.
func TestAnHTTPAPIThatKnowsUsNoMore(t *testing.T) {
	t.Parallel()
	s, api := newMailer(t)
	api.Override("POST /oauth/token", http.StatusUnauthorized, -1)
	n := s.start()
	rot, _ := n.rotate(t, "mail/sender")
	if rot.State != client.RotationFailed || !strings.Contains(rot.Error, "getting a token") || len(api.Live()) != 0 {
		t.Errorf("%s: %s, live is %v", rot.State, rot.Error, api.Live())
	}
}
