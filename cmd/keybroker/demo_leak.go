package main

import (
	"context"
	_ "embed" // for the demo's configuration
	"fmt"
	"os"
	"path/filepath"

	"github.com/keybroker/keybroker/broker/client"
)

// leakedSecret of demo.hcl has leaked.
const leakedSecret = "shop/payment-key"

//go:embed demo.hcl
var leakConfig []byte

// The files that the demo leaves for who plays the responder.
func (d *demo) leakedFile() string { return filepath.Join(d.dir, "leaked.env") }
func (d *demo) envFile() string    { return filepath.Join(d.dir, "env") }

// leak writes down a key as it is found where it does not belong, and what a shell needs
// to do something about it.
func (d *demo) leak(ctx context.Context, c *client.Client) error {
	v, err := c.Value(ctx, leakedSecret, 0)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("# as it was found in a public repository\nSHOP_URL=%s\nPAYMENT_KEY=%s\n", d.where, v.Fields["key"])
	if err := os.WriteFile(d.leakedFile(), []byte(text), 0o600); err != nil {
		return err
	}
	token, err := filepath.Abs(d.tokenFile())
	if err != nil {
		return err
	}
	env := fmt.Sprintf("export KEYBROKER_ADDR='%s' KEYBROKER_TOKEN_FILE='%s'\n", d.node.Addr(), token)
	return os.WriteFile(d.envFile(), []byte(env), 0o600)
}
