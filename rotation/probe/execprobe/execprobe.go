// Package execprobe is the probe that lets a program of the operator's try a
// credential; package program says how it is spoken to.
package execprobe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/probe"
	"github.com/keybroker/keybroker/rotation/program"
)

// Here is the one address of a probe that names no endpoint: wherever the program
// looks.
const Here = "program"

// Config is the block `probe "exec" NAME`.
type Config struct {
	Program program.Config `hcl:",remain"`

	// Endpoint is the host and port that the program tries the credential at. It is told
	// each of the host's addresses in turn, and must say which one it tried.
	Endpoint     string `hcl:"endpoint,optional"`
	LockoutAfter int    `hcl:"lockout_after,optional"` // rejected tries in a row, 0: no limit known
}

// Validate returns every mistake in c, joined, each an ErrInvalid in one line that
// begins with the attribute's name. It looks at no file.
func (c Config) Validate() error {
	mistakes := []error{c.Program.Validate()}
	if _, _, ok := split(c.Endpoint); c.Endpoint != "" && !ok {
		mistakes = append(mistakes, fmt.Errorf("%w: endpoint %q is no host with a port: write one, such as mail.example.com:587, or leave it out", backends.ErrInvalid, c.Endpoint))
	}
	if c.LockoutAfter < 0 {
		mistakes = append(mistakes, fmt.Errorf("%w: lockout_after is negative: leave it out if there is no limit", backends.ErrInvalid))
	}
	return errors.Join(mistakes...)
}

func split(endpoint string) (host, port string, ok bool) {
	host, port, err := net.SplitHostPort(endpoint)
	number, bad := strconv.ParseUint(port, 10, 16)
	return host, port, err == nil && bad == nil && host != "" && number > 0
}

// Probe runs the program once per try.
type Probe struct {
	runner *program.Runner
	cfg    Config
}

var _ probe.Probe = (*Probe)(nil)

// New makes the probe of a valid configuration. It starts nothing.
func New(cfg Config) *Probe { return &Probe{program.New(cfg.Program), cfg} }

// Try implements probe.Probe. What the program does not say in so many words is
// inconclusive: an error, another verdict, a try at another address than asked for.
func (p *Probe) Try(ctx context.Context, t probe.Try) probe.Result {
	start := time.Now()
	result := p.try(ctx, t)
	result.Latency = time.Since(start)
	return result
}

func (p *Probe) try(ctx context.Context, t probe.Try) probe.Result {
	undecided := func(address, format string, args ...any) probe.Result {
		return probe.Result{Verdict: probe.Inconclusive, Detail: fmt.Sprintf(format, args...), Address: address}
	}
	ask := program.Request{Operation: program.Probe, Value: t.Value.Reveal(), Address: t.Address, Secret: program.Secret{
		Tenant: t.Subject.Ref.Tenant, Name: t.Subject.Ref.Name, Labels: t.Subject.Labels,
	}}
	switch {
	case t.Value.IsZero():
		return undecided("", "the value has no fields")
	case p.cfg.Endpoint != "":
	case t.Address == "" || t.Address == Here:
		ask.Address = ""
	default:
		return undecided("", "the probe has no endpoint, and so no address but %q", Here)
	}
	answer, err := p.runner.Run(ctx, ask)
	if err != nil {
		return undecided("", "%s", err)
	}
	address, ok := p.tried(ask.Address, answer.Address)
	if !ok {
		return undecided("", "the program does not say that it tried the address that it was given")
	}
	detail := answer.Detail
	if detail == "" {
		detail = "no detail given"
	}
	switch v := probe.Verdict(answer.Verdict); v {
	case probe.Accepted, probe.Rejected, probe.Inconclusive:
		return probe.Result{Verdict: v, Detail: detail, Address: address}
	}
	return undecided(address, "the program's verdict is none of accepted, rejected, inconclusive")
}

// tried is the address that was tried, asked for or as the program chose it; false
// if it is no address of the endpoint's port.
func (p *Probe) tried(asked, said string) (address string, ok bool) {
	if p.cfg.Endpoint == "" {
		return Here, true
	}
	_, want, _ := split(p.cfg.Endpoint)
	host, port, ok := split(said)
	return said, ok && port == want && net.ParseIP(host) != nil && (asked == "" || said == asked)
}

// Addresses implements probe.Probe.
func (p *Probe) Addresses(ctx context.Context) ([]string, error) {
	if p.cfg.Endpoint == "" {
		return []string{Here}, nil
	}
	host, port, _ := split(p.cfg.Endpoint)
	return outbound.Resolve(ctx, host, port)
}

// Scope implements probe.Probe.
func (p *Probe) Scope() string {
	if p.cfg.Endpoint == "" {
		return "what " + p.runner.Command() + " tries"
	}
	return p.cfg.Endpoint + " by " + p.runner.Command()
}

// LockoutAfter implements probe.Probe.
func (p *Probe) LockoutAfter() int { return p.cfg.LockoutAfter }
