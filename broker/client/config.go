package client

import (
	"context"
	"time"
)

// ConfigFinding is one thing that is wrong with a configuration or worth knowing of
// it. It holds no secret.
type ConfigFinding struct {
	What   string `json:"what"`             // "rotation 0193… of mail/sender needs issuer \"mailer\", …"
	Remedy string `json:"remedy,omitempty"` // what to do about it, with the command
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
}

// What a reload does to a secret or to a block of the configuration.
const (
	Added     = "added"
	Changed   = "changed"
	Removed   = "removed"
	Unmanaged = "unmanaged" // a secret whose block is gone: it stays as it is and is rotated no more
)

// KindSecret is the Kind of a ConfigChange that is about a secret.
const KindSecret = "secret"

// ConfigChange is what a reload does to one secret or block.
type ConfigChange struct {
	Change string `json:"change"`
	Kind   string `json:"kind"` // "secret", "issuer", "probe", …
	Name   string `json:"name"` // of a secret "tenant:name", save in the default tenant
}

// ReloadRequest asks for the configuration's files to be taken into use.
type ReloadRequest struct {
	DryRun bool `json:"dry_run,omitempty"` // only say what would change, or why it would be refused
}

// Reload is what came of taking the configuration's files into use.
type Reload struct {
	DryRun   bool            `json:"dry_run"`
	At       time.Time       `json:"at"`
	Changes  []ConfigChange  `json:"changes"`
	Warnings []ConfigFinding `json:"warnings"`
}

// ReloadOutcome is how a reload ended.
type ReloadOutcome struct {
	At       time.Time       `json:"at"`
	By       string          `json:"by"` // the principal, or "keybroker" for a signal
	OK       bool            `json:"ok"`
	Error    string          `json:"error,omitempty"`
	Problems []ConfigFinding `json:"problems,omitempty"`
}

// Configuration is what the node works by.
type Configuration struct {
	LoadedAt   time.Time      `json:"loaded_at"`
	LastReload *ReloadOutcome `json:"last_reload,omitempty"` // since the start, whether it succeeded or not
	// Conflicts are what is under way and waits for something that the configuration
	// does not have: only one that was changed while the node was down has any.
	Conflicts []ConfigFinding `json:"conflicts"`
}

// Reload takes the configuration's files into use, wholly or not at all. A refusal
// is a *Problem with all Problems.
func (c *Client) Reload(ctx context.Context, r ReloadRequest) (Reload, error) {
	return do[Reload](ctx, c, api("POST", "sys", "reload").send(r))
}

// Configuration tells what the node works by.
func (c *Client) Configuration(ctx context.Context) (Configuration, error) {
	return do[Configuration](ctx, c, api("GET", "sys", "config"))
}
