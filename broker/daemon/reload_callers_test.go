package daemon_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/client"
)

// TestAStreamIsOfWhoItsReaderIsNow: it does not go on with what the role of its reader
// was when it began.
func TestAStreamIsOfWhoItsReaderIsNow(t *testing.T) {
	t.Parallel()
	const wide = `role "watcher" { policies = ["reader"] }`
	o := startOperated(t, endless, wide, capabilitiesOf("none", "update"))
	ctx := t.Context()
	o.done(t, mailer)
	id := o.begin(t, mailer, client.RotationOverlap)
	for what, narrow := range map[string]string{
		"the role has other policies":   `role "watcher" { policies = ["none"] }`,
		"the role is of another tenant": "tenant \"acme\" {}\ntenant \"default\" {}\n" + "role \"watcher\" {\n  policies = [\"reader\"]\n  tenant = \"acme\"\n}",
	} {
		c, _ := o.as(o.node, client.CreateTokenRequest{Role: "watcher"})
		var last client.Event
		var broken error
		events := 0
		within, cancel := context.WithTimeout(ctx, 30*time.Second) // else one that goes on does so for an hour
		defer cancel()
		for ev, err := range c.WatchRotation(within, id) {
			if err != nil {
				broken = err
				break
			}
			if last = ev; events == 0 {
				o.hcl = replaced(t, o.hcl, wide, narrow)
				o.reload(t)
			}
			events++
		}
		if s := client.Status(broken); last.Type != client.EventInterrupted || s != http.StatusUnauthorized && s != http.StatusNotFound {
			t.Errorf("%s: the last event is %q, then: %v", what, last.Type, broken)
		}
		o.hcl = replaced(t, o.hcl, narrow, wide)
		o.reload(t)
	}
}

// TestWhoSendsSlowlyIsWhoTheyAreInTheEnd: a request counts when all of it is there,
// however long before its sender began.
func TestWhoSendsSlowlyIsWhoTheyAreInTheEnd(t *testing.T) {
	t.Parallel()
	const before = `
policy "deploy" {
  path "build/*" {
    capabilities = ["rotate"]
  }
}
role "ci" {
  policies = ["deploy"]
}
`
	const after = `
policy "deploy" {
  path "app/*" {
    capabilities = ["rotate"]
  }
}
role "ci" {
  policies = ["reader"]
}
`
	s := newSite(t, withConsumer(embedded+before, nil))
	n := s.start()
	slow := func() (tok client.Token, end func() int) {
		tok = must(n.CreateToken(t.Context(), client.CreateTokenRequest{Name: "slow", Role: "ci"}))(t)
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /api/v1/secrets/app/key/rotate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"rea", tok.Token.Reveal())
		eventually(t, "a request that has begun", func() bool {
			for _, listed := range must(n.Tokens(t.Context(), client.Page{}))(t).Items {
				if listed.ID == tok.ID {
					return !listed.LastUsedAt.IsZero()
				}
			}
			return false
		})
		return tok, func() int {
			if _, err := io.WriteString(conn, `son":"x"}`); err != nil {
				t.Fatal(err)
			}
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			return answer.StatusCode
		}
	}
	_, reloaded := slow()
	revoked, ended := slow()
	s.hcl = replaced(t, s.hcl, before, after)
	n.reload(t)
	if got := reloaded(); got != http.StatusForbidden {
		t.Errorf("who never had the permission is answered %d", got)
	}
	must(n.RevokeToken(t.Context(), revoked.ID))(t)
	if got := ended(); got != http.StatusUnauthorized {
		t.Errorf("who was revoked meanwhile is answered %d", got)
	}
	if got := must(n.Rotations(t.Context(), client.RotationQuery{Secret: "app/key"}))(t).Items; len(got) > 1 {
		t.Errorf("%d rotations were begun", len(got))
	}
}

// TestStreamsHaveABound for each identity, which is not that of others.
func TestStreamsHaveABound(t *testing.T) {
	t.Parallel()
	o := startOperated(t, endless)
	o.done(t, mailer)
	id := o.begin(t, mailer, client.RotationOverlap)
	_, one := o.as(o.node, client.CreateTokenRequest{Policies: []string{"reader"}})
	_, other := o.as(o.node, client.CreateTokenRequest{Policies: []string{"reader"}})
	watch := func(ctx context.Context, tok client.Token) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.site.addr+"/api/v1/rotations/"+id+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tok.Token.Reveal())
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = answer.Body.Close() })
		return answer
	}
	first, leave := context.WithCancel(t.Context())
	defer leave()
	for i := range 100 {
		ctx := t.Context()
		if i == 0 {
			ctx = first
		}
		if got := watch(ctx, one); got.StatusCode != http.StatusOK {
			t.Fatalf("stream %d is answered %d", i, got.StatusCode)
		}
	}
	if got := watch(t.Context(), one); got.StatusCode != http.StatusTooManyRequests || got.Header.Get("Retry-After") == "" {
		t.Errorf("one more is answered %d, Retry-After %q", got.StatusCode, got.Header.Get("Retry-After"))
	}
	if got := watch(t.Context(), other); got.StatusCode != http.StatusOK {
		t.Errorf("somebody else's is answered %d", got.StatusCode)
	}
	leave()
	eventually(t, "a stream in place of one that ended", func() bool { return watch(t.Context(), one).StatusCode == http.StatusOK })
}
