// Package awssts is the probe that tries an AWS access key by asking STS whose it is.
//
// GetCallerIdentity needs no permission and cannot be denied by a policy of IAM's, so
// that it tells about the key alone. Its answers, and what they are taken for:
//
//   - 200: accepted, if the account and the user are those expected.
//   - InvalidClientTokenId: rejected. AWS has no active key of this id: it was deleted
//     or made inactive, or is too new to be known everywhere (STS API reference, "Common
//     errors").
//   - SignatureDoesNotMatch: inconclusive. AWS compares signatures only with the secret
//     of a key that it has, so the id is alive; it is also what a wrong clock gives.
//   - All else: inconclusive.
package awssts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/rotation/outbound"
	"github.com/keybroker/keybroker/rotation/probe"
)

// codeNoKey is what STS answers where it has no active key of that id.
const codeNoKey = "InvalidClientTokenId"

// maxSkew is from when on AWS refuses what was signed by a wrong clock (IAM user
// guide, "Troubleshoot AWS signature version 4": 5 minutes).
const maxSkew = 5 * time.Minute

// Probe asks STS once per try, on a connection of its own, with the user agent
// "keybroker-probe/1".
type Probe struct {
	region  string
	account string // expected; empty: any
	arn     string // expected; empty: any
	at      *url.URL
	client  *outbound.Client
	canary  backends.Value
	timeout time.Duration
	now     func() time.Time
}

var (
	_ probe.Probe    = (*Probe)(nil)
	_ probe.Canarier = (*Probe)(nil)
)

// New makes a probe; ErrInvalid, with every mistake, if the configuration has any.
func New(cfg Config) (*Probe, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Probe{region: cfg.Region, account: cfg.Account, arn: cfg.ARN, timeout: defaultTimeout, now: time.Now}
	if cfg.Timeout != nil {
		p.timeout = *cfg.Timeout
	}
	fields := map[string]string{}
	for name, text := range cfg.Canary {
		fields[name] = text.Reveal()
	}
	p.canary = backends.NewValue(fields)
	var err error
	if p.at, err = endpointOf(cfg); err != nil {
		return nil, err
	}
	p.client, err = outbound.New(outbound.Options{AllowPrivate: cfg.AllowPrivateNetwork, CAFile: cfg.CAFile, Timeout: p.timeout, FreshConnections: true})
	if err != nil {
		return nil, fmt.Errorf("%w: ca_file cannot be used: %w", backends.ErrInvalid, err)
	}
	return p, nil
}

// endpointOf is the configured endpoint, or STS's own in the region: not the global
// one, which is another service than the region's applications use.
func endpointOf(cfg Config) (*url.URL, error) {
	if cfg.Endpoint != "" {
		return url.Parse(cfg.Endpoint)
	}
	params := sts.EndpointParameters{Region: &cfg.Region}.WithDefaults()
	found, err := sts.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), params) // by a table
	if err != nil {
		return nil, fmt.Errorf("%w: region %s has no STS: %w", backends.ErrInvalid, cfg.Region, err)
	}
	return &found.URI, nil
}

// Close closes the connections kept.
func (p *Probe) Close() { p.client.Close() }

// Try implements probe.Probe.
func (p *Probe) Try(ctx context.Context, t probe.Try) probe.Result {
	start := time.Now()
	result := p.try(ctx, t)
	result.Latency = time.Since(start)
	return result
}

func (p *Probe) try(ctx context.Context, t probe.Try) probe.Result {
	fields := t.Value.Reveal()
	for _, name := range []string{fieldID, fieldSecret} {
		if fields[name] == "" {
			return probe.Result{Verdict: probe.Inconclusive, Detail: "the value lacks the field " + name}
		}
	}
	once := &exchange{client: p.client}
	if t.Address != "" {
		once.client = p.client.At(t.Address)
	}
	who, err := sts.New(sts.Options{
		Region: p.region, BaseEndpoint: aws.String(p.at.String()), HTTPClient: once, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(fields[fieldID], fields[fieldSecret], ""),
	}).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	verdict, detail := p.judge(once, who, err, t.Value)
	return probe.Result{Verdict: verdict, Detail: detail, Address: once.answer.Address}
}

// judge tells what came of a try.
func (p *Probe) judge(x *exchange, who *sts.GetCallerIdentityOutput, err error, tried backends.Value) (probe.Verdict, string) {
	switch {
	case x.failure != nil:
		return probe.Inconclusive, x.failure.Error()
	case x.answer.Status == 0: // it could not be signed, or there was no time
		return probe.Inconclusive, "no request was sent"
	}
	detail := fmt.Sprintf("status %d", x.answer.Status)
	if err == nil {
		return p.identified(detail, aws.ToString(who.Account), aws.ToString(who.Arn))
	}
	var answer smithy.APIError
	if !errors.As(err, &answer) {
		return probe.Inconclusive, detail + ", which is no answer of STS"
	}
	code := answer.ErrorCode()
	if code == codeNoKey && x.answer.Status == http.StatusForbidden {
		return probe.Rejected, detail + " " + code
	}
	return probe.Inconclusive, detail + " " + told(code, tried) + p.skew(x.answer.Header)
}

// identified accepts keys of whom the configuration names.
func (p *Probe) identified(detail, account, user string) (probe.Verdict, string) {
	switch {
	case user == "":
		return probe.Inconclusive, detail + ", but STS does not say whose key it is"
	case p.account != "" && account != p.account, p.arn != "" && user != p.arn:
		return probe.Inconclusive, detail + ", but the key is another's: " + user
	}
	return probe.Accepted, detail + ", " + user
}

var plainCode = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9.]{0,63}$`)

// told is what may be said of a code that came from outside.
func told(code string, tried backends.Value) string {
	for _, text := range tried.Reveal() {
		if !plainCode.MatchString(code) || backends.Quotes(code, text) {
			return "with an unknown code"
		}
	}
	return code
}

// skew says so if this node's clock is too wrong for AWS.
func (p *Probe) skew(header http.Header) string {
	at, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return ""
	}
	if d := p.now().Sub(at).Round(time.Minute); d.Abs() >= maxSkew {
		return fmt.Sprintf("; this node's clock differs from AWS's by %s", d.Abs())
	}
	return ""
}

// exchange is the HTTP client of one try.
type exchange struct {
	client  *outbound.Client
	answer  outbound.Response
	failure error
}

// Do implements the SDK's HTTPClient.
func (x *exchange) Do(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", outbound.ProbeUserAgent) // which is not signed
	if req.Body != nil {                                  // see awsconn.InMemory
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		_ = req.Body.Close()
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	x.answer, x.failure = x.client.Do(req)
	if x.failure != nil {
		return nil, x.failure
	}
	return &http.Response{
		StatusCode: x.answer.Status, Header: x.answer.Header, Request: req,
		Body: io.NopCloser(bytes.NewReader(x.answer.Body)), ContentLength: int64(len(x.answer.Body)),
	}, nil
}

// Addresses implements probe.Probe.
func (p *Probe) Addresses(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	host, port := hostPort(p.at)
	return outbound.Resolve(ctx, host, port)
}

// Scope implements probe.Probe.
func (p *Probe) Scope() string { return "sts:GetCallerIdentity at " + address(p.at) }

// LockoutAfter implements probe.Probe: AWS locks no keys.
func (p *Probe) LockoutAfter() int { return 0 }

// Canary implements probe.Canarier.
func (p *Probe) Canary() (backends.Value, bool) { return p.canary, !p.canary.IsZero() }
