package httpapi

import (
	"context"
	"fmt"
	"time"

	"github.com/keybroker/keybroker/broker/authn"
	"github.com/keybroker/keybroker/broker/client"
)

// Audits are what of a Broker serves the audit log of the node that is asked.
type Audits interface {
	AuditRecords(ctx context.Context, p authn.Principal, q client.AuditQuery) (client.List[client.AuditRecord], error)
	AuditHash(ctx context.Context, p authn.Principal, r client.AuditHashRequest) (client.AuditHash, error)
	AuditCheckpoint(ctx context.Context, p authn.Principal) (client.AuditCheckpoint, error)
}

func auditQuery(p *params) client.AuditQuery {
	return client.AuditQuery{Actor: p.filter("actor"), Action: p.filter("action"), Secret: p.filter("secret"), Path: p.filter("path"), Outcome: p.filter("outcome"),
		Request: p.filter("request"), Hash: p.filter("hash"), Tenant: p.filter("tenant"), Since: p.moment("since"), Until: p.moment("until"), Page: page(p)}
}

// filter is text for what selects: given and empty it would select everything.
func (p *params) filter(key string) string {
	given, is := p.values[key]
	text := p.text(key)
	if is && len(given) > 0 && text == "" {
		p.problems = append(p.problems, fmt.Sprintf("the parameter %s is empty: leave it out, or say what it is", key))
	}
	return text
}

// moment returns a parameter that is a time, or the zero one if it is not given.
func (p *params) moment(key string) time.Time {
	text := p.take(Parameter{Name: key, Type: "string"})
	if text == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		p.problems = append(p.problems, fmt.Sprintf("the parameter %s is no time as in 2026-01-31T12:00:00Z", key))
	}
	return at
}
