// Package httpprobe is the probe that tries a credential with one HTTP request.
package httpprobe

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/httpcall"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/probe"
)

// Probe sends one request per try, on a connection of its own, following no
// redirect, with the user agent "keybroker-probe/1".
type Probe struct {
	request            *httpcall.Request
	client             *outbound.Client
	accepted, rejected answer
	canary             backends.Value // zero: none
	lockoutAfter       int
	timeout            time.Duration
}

var (
	_ probe.Probe    = (*Probe)(nil)
	_ probe.Canarier = (*Probe)(nil)
)

// Close closes the connections kept.
func (p *Probe) Close() { p.client.Close() }

// Try implements probe.Probe. An answer that meets both declarations, or
// neither, is inconclusive.
func (p *Probe) Try(ctx context.Context, t probe.Try) probe.Result {
	start := time.Now()
	result := p.try(ctx, t)
	result.Latency = time.Since(start)
	return result
}

func (p *Probe) try(ctx context.Context, t probe.Try) probe.Result {
	req, err := p.request.Build(ctx, httpcall.Values{Field: t.Value, Ref: t.Subject.Ref, Labels: t.Subject.Labels})
	if err != nil {
		return probe.Result{Verdict: probe.Inconclusive, Detail: err.Error()}
	}
	client := p.client
	if t.Address != "" {
		client = client.At(t.Address)
	}
	resp, err := client.Do(req)
	if err != nil {
		return probe.Result{Verdict: probe.Inconclusive, Detail: err.Error(), Address: resp.Address}
	}
	verdict, detail := p.judge(resp)
	return probe.Result{Verdict: verdict, Detail: detail, Address: resp.Address}
}

func (p *Probe) judge(resp outbound.Response) (probe.Verdict, string) {
	detail := fmt.Sprintf("status %d", resp.Status)
	accepted, rejected := p.accepted.matches(resp), p.rejected.matches(resp)
	switch {
	case accepted && rejected:
		return probe.Inconclusive, detail + ", declared as accepted and as rejected by its body"
	case accepted:
		return probe.Accepted, detail
	case rejected:
		return probe.Rejected, detail
	case slices.Contains(p.accepted.status, resp.Status) || slices.Contains(p.rejected.status, resp.Status):
		return probe.Inconclusive, detail + ", but the body is not the one declared"
	}
	return probe.Inconclusive, detail + ", which is not declared"
}

func (a answer) matches(resp outbound.Response) bool {
	if !slices.Contains(a.status, resp.Status) {
		return false
	}
	if a.path == nil {
		return true
	}
	doc, err := httpcall.Decode(resp.Body)
	if err != nil {
		return false
	}
	found, ok := a.path.One(doc)
	return ok && equal(found, a.equals)
}

// equal compares a value of a JSON document with a declared one, kind by kind:
// the text "1" is not the number 1.
func equal(found any, want cty.Value) bool {
	switch found := found.(type) {
	case string:
		return want.Type() == cty.String && found == want.AsString()
	case bool:
		return want.Type() == cty.Bool && found == want.True()
	case json.Number:
		// An exponent could ask for a number of any size.
		if want.Type() != cty.Number || len(found) > 64 || strings.ContainsAny(found.String(), "eE") {
			return false
		}
		n, err := cty.ParseNumberVal(found.String())
		return err == nil && n.AsBigFloat().Cmp(want.AsBigFloat()) == 0
	}
	return false
}

// Addresses implements probe.Probe.
func (p *Probe) Addresses(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	host, port := p.request.Endpoint()
	return outbound.Resolve(ctx, host, port)
}

// Scope implements probe.Probe.
func (p *Probe) Scope() string { return p.request.String() }

// LockoutAfter implements probe.Probe.
func (p *Probe) LockoutAfter() int { return p.lockoutAfter }

// Canary implements probe.Canarier.
func (p *Probe) Canary() (backends.Value, bool) { return p.canary, !p.canary.IsZero() }
