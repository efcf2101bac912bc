package daemon_test

import (
	"net/http"
	"testing"

	"github.com/keybroker/keybroker/broker/client"
)

// TestNobodyApprovesWithATokenOfTheirOwn: whoever asks could have made it. Tokens
// that an administrator handed out are different people's, but the administrator's
// own is everybody's.
func TestNobodyApprovesWithATokenOfTheirOwn(t *testing.T) {
	t.Parallel()
	o := startOperated(t, brief, `
policy "maker" {
  path "sys/tokens" {
    capabilities = ["create"]
  }
}
`)
	ctx, none := t.Context(), client.InterventionRequest{}
	person := client.CreateTokenRequest{Policies: []string{"approver", "maker"}}
	approver := client.CreateTokenRequest{Name: "second", Policies: []string{"approver"}}
	made := func(by *client.Client) *client.Client {
		t.Helper()
		return o.client(must(by.CreateToken(ctx, approver))(t).Token.Reveal(), o.node.addr)
	}
	alice, _ := o.as(o.node, person)
	bob, _ := o.as(o.node, person)
	admin, _ := o.as(o.node, client.CreateTokenRequest{Policies: []string{"root"}})
	for what, c := range map[string]struct {
		asks, approves *client.Client
		allowed        bool
	}{
		"with a token that the asker made":        {alice, made(alice), false},
		"of what one's own token asked":           {made(alice), alice, false},
		"with another of one's own":               {made(alice), made(alice), false},
		"with a token that the root token made":   {o.Client, bob, false},
		"of what its own token asked, root":       {bob, o.Client, false},
		"with what an administrator's token made": {admin, made(admin), false},
		"of somebody else":                        {alice, made(bob), true},
		"of an administrator's somebody else":     {made(admin), made(admin), true},
	} {
		id := must(c.asks.Rotate(ctx, "mail/approved", client.RotateRequest{}))(t).ID
		_, err := c.approves.Approve(ctx, id, client.InterventionRequest{DryRun: true})
		if c.allowed && err != nil {
			t.Errorf("%s: %v", what, err)
		} else if !c.allowed {
			refused(t, what, err, http.StatusForbidden, "somebody else has to approve it")
		}
		must(o.Cancel(ctx, id, none))(t)
		// A retry is asked for by whoever retries.
		if !c.allowed {
			id = must(c.asks.Retry(ctx, id, none))(t).Rotation.ID
			_, err = c.approves.Approve(ctx, id, none)
			refused(t, what+", retried", err, http.StatusForbidden, "somebody else has to approve it")
			must(o.Cancel(ctx, id, none))(t)
		}
	}
}
