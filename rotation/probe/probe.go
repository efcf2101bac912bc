// Package probe is the contract of trying a credential where it is used.
package probe

import (
	"context"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation"
)

// Verdict is what one try showed; the engine records it in the proof.
type Verdict = rotation.Verdict

const (
	// Accepted: the credential works, exactly as the probe declares acceptance.
	Accepted = rotation.Accepted
	// Rejected: the credential is refused, exactly as the probe declares refusal.
	Rejected = rotation.Rejected
	// Inconclusive: anything else (timeout, connection or TLS failure, 429, 5xx,
	// an undeclared status): it counts for nothing.
	Inconclusive = rotation.Inconclusive
)

// Result is one try.
type Result struct {
	Verdict Verdict
	Detail  string        // for people, never a secret: "status 401", "connection refused"
	Address string        // the address tried, e.g. "10.0.0.7:443"; empty if none was reached
	Latency time.Duration // of the whole try
}

// Subject names whose credential is tried; probes may use it in templates.
type Subject struct {
	Ref    backends.Ref
	Labels map[string]string
}

// Try is one credential to be tried.
type Try struct {
	Subject Subject
	Value   backends.Value
	Address string // one of Addresses, or empty: let the resolver choose
}

// Probe tries credentials. Implementations are safe for concurrent use, use a
// fresh connection for every Try, follow no redirect, mark their traffic as
// probing and pass probetest.Run.
type Probe interface {
	// Try never fails: what went wrong is an Inconclusive result.
	Try(ctx context.Context, t Try) Result

	// Addresses returns every address that the probed endpoint resolves to now
	// ("ip:port"), at least one, or ErrUnavailable.
	Addresses(ctx context.Context) ([]string, error)

	// Scope names what is probed, for the proof record: "GET https://api.example/v1/me".
	Scope() string

	// LockoutAfter is how many rejected tries in a row an account bears; 0 = no limit
	// known. It is constant. One Try is one attempt at the endpoint, never more.
	LockoutAfter() int
}

// Canarier is implemented by probes that can be given a canary: a credential
// that must always work at the probed endpoint, e.g. of a test account. A round
// uses it as its control where there is no current version to try.
type Canarier interface {
	// Canary returns the credential, to be tried like any other, with the subject of
	// the secret that is probed; false if the configuration names none. It is constant.
	Canary() (backends.Value, bool)
}
