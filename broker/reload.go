package broker

import (
	"context"
	"fmt"
	"strconv"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
	"github.com/keybroker/keybroker/policy"
)

// Node is the process that the Broker is part of.
type Node interface {
	// Reload takes the configuration's files into use for by, wholly or not at all,
	// or says what that would change. A refusal is a *RefusedConfig.
	Reload(ctx context.Context, by string, dryRun bool) (client.Reload, error)
	// Configuration tells what the node works by.
	Configuration(ctx context.Context) (client.Configuration, error)
	// PlanConfig tells what another configuration would do, and changes nothing. ErrInvalid
	// if what it says of secrets cannot be read.
	PlanConfig(ctx context.Context, r client.ConfigPlanRequest) (client.ConfigPlan, error)
	// Origins tells where the configuration in force says how a secret rotates; false if
	// it has no block of it.
	Origins(ref backends.Ref) (Origins, bool)
}

// RefusedConfig is why a configuration is not taken into use: all that is wrong
// with it. The one in force stays.
type RefusedConfig struct {
	class    error
	problems []client.ConfigFinding
}

// RefuseConfig makes the error, of a class of package backends. There is at least
// one problem.
func RefuseConfig(class error, problems ...client.ConfigFinding) *RefusedConfig {
	return &RefusedConfig{class, problems}
}

// Error gives the first problem and how many more there are.
func (e *RefusedConfig) Error() string {
	text := fmt.Sprintf("%s: the configuration was not taken into use: %s", e.class, e.problems[0].What)
	if more := len(e.problems) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// Unwrap gives the class.
func (e *RefusedConfig) Unwrap() error { return e.class }

// Problems gives all that is wrong.
func (e *RefusedConfig) Problems() []client.ConfigFinding { return e.problems }

// Hint says what is in force.
func (e *RefusedConfig) Hint() string {
	return "nothing was changed: the configuration of before stays in force"
}

const configPath = "sys/config"

// Reload takes the configuration's files into use, or says what that would change.
// The configuration is everybody's: who is bound to a tenant cannot reload it.
func (b *Broker) Reload(ctx context.Context, p authn.Principal, r client.ReloadRequest) (out client.Reload, err error) {
	req := request{action: "config.reload", path: configPath, detail: map[string]string{"dry_run": strconv.FormatBool(r.DryRun)}}
	err = b.do(ctx, p, policy.Update, req, func() (err error) {
		out, err = b.Node.Reload(ctx, p.ID, r.DryRun)
		return err
	})
	return out, err
}

// Configuration tells what the node works by.
func (b *Broker) Configuration(ctx context.Context, p authn.Principal) (out client.Configuration, err error) {
	err = b.do(ctx, p, policy.Read, request{action: "config.show", path: configPath}, func() (err error) {
		out, err = b.Node.Configuration(ctx)
		return err
	})
	return out, err
}
