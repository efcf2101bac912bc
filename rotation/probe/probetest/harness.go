package probetest

import (
	"net/http"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/backendtest/faultproxy"
	"github.com/keybroker/keybroker/rotation/probe"
)

// Harness is one probe with a real endpoint behind it. Whatever is nil, zero or empty
// switches its tests off.
type Harness struct {
	Probe   probe.Probe
	Subject probe.Subject

	Good backends.Value // accepted by the endpoint
	Bad  backends.Value // rejected by it

	// Public are the names of the fields that are no secret: user names, ids.
	Public []string

	// Rejected are more credentials that the endpoint rejects, by what is wrong with
	// them: of nobody, of another account, empty.
	Rejected map[string]backends.Value
	// Undecided are credentials of which an answer tells nothing, or that cannot be
	// tried, by why.
	Undecided map[string]backends.Value

	Canary       backends.Value // as configured; zero: none
	LockoutAfter int            // as configured

	// Revoke makes Good be rejected.
	Revoke func()
	// Faults are ways in which the endpoint can be out of order, a locked account among
	// them; each function switches its fault on or off. HTTPFaults has some.
	Faults map[string]func(on bool)
	// Hang makes the endpoint take connections and answer nothing, or work again.
	Hang func(on bool)
	// Broken are probes that get no answer from the same endpoint, by why: its
	// certificate is not trusted or is another's, it speaks no TLS, nobody listens.
	Broken map[string]probe.Probe

	Addresses   []string   // that the endpoint has, sorted
	Connections func() int // accepted by the endpoint so far
	Attempts    func() int // credentials tried at the endpoint so far, whatever came of it
	Marked      func() int // requests so far that said they were probing

	// Secrets must be in no result, besides the credentials: the probe's own.
	Secrets []string
}

// Factory makes a harness.
type Factory func(t *testing.T) Harness

// HTTPFaults are faults of an endpoint that is reached through the proxy.
func HTTPFaults(p *faultproxy.Proxy) map[string]func(on bool) {
	faults := map[string]func(bool){}
	for name, fault := range map[string]faultproxy.Fault{
		"reset":       faultproxy.Reset(),
		"lost answer": faultproxy.LostAnswer(),
		"half answer": faultproxy.HalfAnswer(),
		"slow down":   faultproxy.Status(http.StatusTooManyRequests),
		"error":       faultproxy.Status(http.StatusInternalServerError),
		"bad gateway": faultproxy.Status(http.StatusBadGateway),
		"unavailable": faultproxy.Status(http.StatusServiceUnavailable),
	} {
		faults[name] = func(on bool) {
			if p.Set(); on {
				p.Set(faultproxy.Rule{Fault: fault})
			}
		}
	}
	return faults
}
