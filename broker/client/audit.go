package client

import (
	"context"
	"net/url"
	"time"
)

// AuditRecord is a record of the audit log.
type AuditRecord struct {
	Index      int64             `json:"index"` // its place in the log of the node
	Time       time.Time         `json:"time"`
	Kind       string            `json:"kind"`              // "request", "response" or "event"
	Request    string            `json:"request,omitempty"` // that the two records of a request share
	Tenant     string            `json:"tenant,omitempty"`
	Actor      string            `json:"actor"`
	Role       string            `json:"role,omitempty"`
	Method     string            `json:"method,omitempty"`
	Identity   string            `json:"identity,omitempty"` // who logged in for it: METHOD/SUBJECT
	Address    string            `json:"address,omitempty"`
	Action     string            `json:"action"`
	Path       string            `json:"path"`
	Capability string            `json:"capability,omitempty"`
	Policy     string            `json:"policy,omitempty"` // whose rule decided
	Rule       string            `json:"rule,omitempty"`
	Secret     string            `json:"secret,omitempty"` // NAME, or TENANT:NAME in another than the default tenant
	Version    int               `json:"version,omitempty"`
	Outcome    string            `json:"outcome"` // "ok", "denied" or "failed"
	Detail     map[string]string `json:"detail,omitempty"`
	Hashes     map[string]string `json:"hashes,omitempty"` // "hmac-sha256:<hex>" of what is sensitive
}

// AuditQuery selects records; what is empty selects nothing out.
type AuditQuery struct {
	Actor   string // its id, or the identity that logged in: METHOD/SUBJECT
	Action  string // "secret.read", or "secret." for all that begin so
	Secret  string // NAME or TENANT:NAME
	Path    string
	Outcome string
	Request string
	Hash    string
	Tenant  string
	Since   time.Time
	Until   time.Time
	Page
}

func (q AuditQuery) values() url.Values {
	v := q.Page.values()
	for name, text := range map[string]string{"actor": q.Actor, "action": q.Action, "secret": q.Secret, "path": q.Path, "outcome": q.Outcome,
		"request": q.Request, "hash": q.Hash, "tenant": q.Tenant} {
		set(v, name, text)
	}
	for name, at := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !at.IsZero() {
			v.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	return v
}

// AuditHashRequest asks what the log has in the place of a text.
type AuditHashRequest struct {
	Text SecretText `json:"text"`
}

// AuditHash is what the log has in the place of a text.
type AuditHash struct {
	Hash string `json:"hash"`
}

// AuditCheckpoint is the newest signed checkpoint of a node's log.
type AuditCheckpoint struct {
	Key        string    `json:"key"` // public; verifies it
	Origin     string    `json:"origin"`
	Size       int64     `json:"size"` // records that it covers
	Time       time.Time `json:"time,omitzero"`
	Checkpoint string    `json:"checkpoint"` // the signed note; empty: nothing is signed yet
}

// Audit looks through the audit log of the node that is asked, the newest records
// first. There may be a next page also where one is empty: the node looks at a bounded
// part of the log for each.
func (c *Client) Audit(ctx context.Context, q AuditQuery) (List[AuditRecord], error) {
	return do[List[AuditRecord]](ctx, c, api("GET", "audit").with(q.values()))
}

// AuditHash returns what the log has in the place of a text, to look for it.
func (c *Client) AuditHash(ctx context.Context, text SecretText) (AuditHash, error) {
	return do[AuditHash](ctx, c, api("POST", "audit", "hash").send(map[string]string{"text": text.Reveal()}))
}

// AuditCheckpoint returns the newest checkpoint of the log and its public key.
func (c *Client) AuditCheckpoint(ctx context.Context) (AuditCheckpoint, error) {
	return do[AuditCheckpoint](ctx, c, api("GET", "audit", "checkpoint"))
}
